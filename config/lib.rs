//! Every setting, as typed (flags, TOML, `MINISGL_*`) and as resolved: two types, so that past this crate no `Option`
//! means "not decided yet".
//!
//! Owns names, defaults, precedence (flag > environment > file > default) and the checks that need no model. Knows nothing
//! of what the settings drive.
mod length;
pub mod loadgen;
pub mod settings;

pub use length::{LONGEST, LengthError, LengthRange};
pub use settings::{
    CacheType, DTypeChoice, DeviceKind, EngineSettings, GenerationDefaults, HubSource, MetricsPrefix, ServeSettings,
};
