//! The page size of the running kernel.
#![allow(unsafe_code)]

use std::sync::OnceLock;

/// The page size of this kernel in bytes: 4096 on most, 16 KiB or 64 KiB on some arm64 ones.
pub fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: sysconf only reads and has no preconditions.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(4096)
    })
}
