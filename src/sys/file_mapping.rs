//! Read-only mappings of files, whose pages all processes share.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Weak};

use memmap2::{Advice, MmapOptions, MmapRaw};

use crate::sync::Mutex;

/// A file by its device, its inode and its length.
type FileId = (u64, u64, u64);

/// The mappings of the process. Weak: the last user unmaps the file.
static MAPPINGS: Mutex<Vec<(FileId, Weak<FileMapping>)>> = Mutex::new(Vec::new());

/// A regular file, mapped whole, shared and read-only.
///
/// A file that shrinks leaves pages whose access ends the process (SIGBUS): see [`is_whole`](Self::is_whole).
#[derive(Debug)]
pub struct FileMapping {
    file: File,
    map: MmapRaw,
}

impl FileMapping {
    /// Maps the file at `path`. A file that this process has mapped already is not mapped again.
    ///
    /// Errors: those of open, fstat and mmap; `InvalidInput` for an empty file, and for what is no regular file.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        // Non-blocking: a FIFO without a writer would hang the process.
        let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
        let status = file.metadata()?;
        if !status.is_file() || status.len() == 0 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let id = (status.dev(), status.ino(), status.len());
        let mut mappings = MAPPINGS.lock();
        mappings.retain(|(_, mapping)| mapping.strong_count() > 0);
        if let Some(known) = mappings.iter().find_map(|(known, mapping)| (*known == id).then(|| mapping.upgrade())?) {
            return Ok(known);
        }
        let len = usize::try_from(status.len()).map_err(|_| io::ErrorKind::OutOfMemory)?;
        let map = MmapOptions::new().len(len).map_raw_read_only(&file)?;
        // Rows are read here and there: without the advice each first access reads 128 KiB around it. It may fail.
        let _ = map.advise(Advice::Random);
        let made = Arc::new(Self { file, map });
        mappings.push((id, Arc::downgrade(&made)));
        Ok(made)
    }

    /// The bytes of the file when it was mapped.
    pub fn len(&self) -> u64 {
        self.map.len() as u64
    }

    /// Whether there is no byte. Never, as `open` refuses an empty file.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Returns whether the file still has all bytes that are mapped. Ask before each access.
    pub fn is_whole(&self) -> bool {
        self.file.metadata().is_ok_and(|status| status.len() >= self.len())
    }

    /// The address of `len` bytes from `offset` on, readable while `self` lives; `None` beyond the end.
    pub fn at(&self, offset: u64, len: usize) -> Option<*const u8> {
        let end = offset.checked_add(len as u64)?;
        // SAFETY: the offset is within the mapping, or one past its end, so that the address is of the same object.
        (end <= self.len()).then(|| unsafe { self.map.as_ptr().add(offset as usize) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn file(name: &str, bytes: &[u8]) -> std::path::PathBuf {
        let path = std::env::temp_dir().join(format!("rkllm-file-mapping-{}-{name}", std::process::id()));
        fs::write(&path, bytes).unwrap();
        path
    }

    #[test]
    fn a_file_is_mapped_once_while_it_is_in_use_and_read_within_its_bounds() {
        let path = file("once", b"0123456789");
        let first = FileMapping::open(&path).unwrap();
        assert!(Arc::ptr_eq(&first, &FileMapping::open(&path).unwrap()));
        assert_eq!((first.len(), first.is_empty(), first.is_whole()), (10, false, true));
        let at = first.at(7, 3).unwrap();
        // SAFETY: three bytes are there while `first` lives.
        assert_eq!(unsafe { std::slice::from_raw_parts(at, 3) }, b"789");
        assert!(first.at(10, 0).is_some());
        for (offset, len) in [(8, 3), (11, 0), (u64::MAX, 2), (0, usize::MAX)] {
            assert!(first.at(offset, len).is_none(), "{len} bytes at {offset}");
        }
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_shrinks_is_noticed_and_another_length_is_another_mapping() {
        let path = file("shrinks", &[1; 10]);
        let first = FileMapping::open(&path).unwrap();
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(5).unwrap();
        assert!(!first.is_whole());
        let second = FileMapping::open(&path).unwrap();
        assert!(!Arc::ptr_eq(&first, &second) && second.is_whole());
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_no_file_with_bytes_is_refused() {
        let empty = file("empty", &[]);
        for path in [empty.as_path(), Path::new("/"), Path::new("/dev/null")] {
            assert_eq!(FileMapping::open(path).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
        let absent = FileMapping::open(Path::new("/nonexistent/table")).unwrap_err();
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        fs::remove_file(&empty).unwrap();
    }
}
