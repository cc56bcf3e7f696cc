//! minisgl-tokenizer
