//! Every setting, as typed (flags, TOML, `MINISGL_*`) and as resolved: two types, so that past this crate no `Option`
//! means "not decided yet".
//!
//! Owns names, defaults, precedence (flag > environment > file > default) and the checks that need no model. Knows nothing
//! of what the settings drive.
//!
//! A setting is one entry of `table.rs` and one field of [`settings`]: flag, variable, TOML key, help, `config show` and
//! the example file all follow from these two.
mod args;
mod error;
mod field;
mod length;
pub mod loadgen;
mod resolve;
pub mod settings;
mod show;
pub mod sim;
mod sources;
mod table;

#[cfg(test)]
mod tests;

pub use args::{
    BenchAccuracyArgs, BenchBatchedArgs, BenchOfflineArgs, ChatArgs, DemoArgs, EngineArgs, EngineFlags, FlagGroup,
    Flags, KernelsBenchArgs, LogFlags, Resolved, ServeArgs, ServerFlags, ShellFlags,
};
pub use error::ConfigError;
pub use length::{LONGEST, LengthError, LengthRange};
pub use settings::{
    BenchAccuracySettings, BenchBatchedSettings, BenchDataset, BenchOfflineSettings, CacheType, ChatSettings,
    DTypeChoice, DeviceKind, EngineSettings, GenerationDefaults, HubSource, KvCacheDType, LogLevel, LogSettings,
    MetricsPrefix, Quantize, ServeSettings, ShellSettings, SimSettings,
};
pub use show::{ConfigArgs, Report};
pub use sources::Environment;
pub use table::Group;
