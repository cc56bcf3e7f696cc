//! minisgl-checkpoint
