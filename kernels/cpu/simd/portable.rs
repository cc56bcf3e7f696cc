//! Arrays, for a compiler to vectorise with what the target always has.

/// Every machine has it.
#[derive(Clone, Copy, Debug)]
pub(in crate::cpu) struct Portable;
