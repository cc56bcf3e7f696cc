//! What each operation of [`crate::Device`] means: plain loops in f32.
