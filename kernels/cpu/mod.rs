//! The CPU device: the operations of [`crate::Device`], threaded and vectorised.
