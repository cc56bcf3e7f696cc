//! Kernels: what a device can compute, and the devices that compute it.
//!
//! Owns [`Device`] (the seam between a model's forward pass and silicon), the number formats a checkpoint stores
//! ([`DType`]), memory mapping, and every `unsafe` block of the project.
//! Knows nothing of models, requests, schedulers or HTTP.
//!
//! ```text
//!   device.rs     the trait, and the plain data that crosses it
//!   collective.rs ranks that compute one model together: exchanges in a fixed order, and failure
//!   dtype.rs      number formats and their block layouts; dequantisation of a row
//!   sampling.rs   logits + parameters -> token, a pure function
//!   mmap.rs       read-only file mappings
//!   reference/    what each operation means: plain loops
//!   cpu/          the same operations, threaded and vectorised
//!   host/         what devices in the host's memory share: buffers, cut tensors, a staged step, the K/V cache
//!   math.rs narrow.rs memory.rs   e^x and gates; half precision; memory that is left
//!   socket.rs thread.rs   a socket option and a wish to the scheduler that no safe crate offers (for the load generator)
//!   perf/        how fast and how exact each operation is, beside the machine's ceilings
//!   golden/       values that gguf and torch computed, for the tests
//! ```
pub mod collective;
pub mod cpu;
pub mod device;
pub mod dtype;
#[cfg(test)]
mod golden;
mod host;
mod math;
mod memory;
pub mod mmap;
mod narrow;
pub mod perf;
pub mod reference;
pub mod sampling;
pub mod socket;
pub mod thread;

pub use collective::{Alarm, Collective, RankLost};
pub use device::{
    Activation, Attend, Device, DeviceError, KvFormat, KvShape, Limits, Moe, MoeShape, Norm, PageId, RopeLayout,
    RopeStore, RowError, SampleRow, Shard, Slot, Step, StepKey, StepRow, TensorView, TokenId, TokenSource, Want,
};
pub use dtype::DType;
pub use sampling::Sampling;
