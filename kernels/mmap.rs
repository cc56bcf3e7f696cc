//! Read-only file mappings: where checkpoints' bytes come from without a copy.
use std::fs::File;
use std::io;
use std::ops::Deref;
use std::path::Path;

/// A whole file, mapped read-only.
#[derive(Debug)]
pub struct MappedFile(memmap2::Mmap);

impl MappedFile {
    /// Maps the file at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only and private to us as bytes; a checkpoint that another process truncates while it
        // is mapped ends this process by SIGBUS, as it would for every reader that maps model files. Documented in the README.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Self(map))
    }
}

impl Deref for MappedFile {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_bytes_and_a_missing_one_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weights");
        assert!(MappedFile::open(&path).is_err());
        std::fs::write(&path, b"sixteen bytes...").unwrap();
        assert_eq!(&MappedFile::open(&path).unwrap()[..], b"sixteen bytes...");
        std::fs::write(&path, b"").unwrap();
        assert!(MappedFile::open(&path).unwrap().is_empty());
    }
}
