//! A trace's bytes: counted into its SHA-256 as they are read.
//!
//! Owns the one pass over the file. Knows nothing of what the bytes mean.
use std::io::{self, Read};

use sha2::{Digest, Sha256};

/// A reader whose every byte is hashed.
pub(super) struct Hashed<R> {
    inner: R,
    hash: Sha256,
}

impl<R: Read> Hashed<R> {
    /// Reads `inner`.
    pub(super) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new() }
    }

    /// The SHA-256 of the whole, once what nobody has read yet is read as well.
    pub(super) fn finish(mut self) -> io::Result<[u8; 32]> {
        let mut rest = vec![0; 1 << 16];
        loop {
            match self.read(&mut rest) {
                Ok(0) => return Ok(self.hash.finalize().into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.hash.update(&buffer[..n]);
        Ok(n)
    }
}
