//! minisgl-config
