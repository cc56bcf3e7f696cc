//! minisgl-loadgen
