//! minisgl
