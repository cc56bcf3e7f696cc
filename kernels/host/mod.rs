//! What devices whose memory is the host's share: buffers, the cutting of tensors, a staged step, the K/V cache
//! and when its memory is asked for, the tokens that ranks tell each other.
//!
//! Knows layouts and bounds; does not compute.
mod buffer;
mod kv;
mod parts;
mod prefault;
mod ranks;
mod shared;
mod step;

pub(crate) use buffer::{Buffer, Pool};
pub(crate) use kv::{GROUP, KvCache, KvLayout, KvWriter, Place, page_bytes};
pub(crate) use parts::{PartView, stack, stack_vectors, views};
pub(crate) use prefault::Prefault;
pub(crate) use ranks::{follow, lead};
pub(crate) use shared::Shared;
pub(crate) use step::{Source, Staged};
