//! The page size and the address space of the running kernel.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use crate::error::Result;
use crate::units::WholePages;

/// The page size of this kernel in bytes: 4096 on most, 16 KiB or 64 KiB on some arm64 ones.
pub fn page_size() -> u64 {
    static SIZE: OnceLock<u64> = OnceLock::new();
    *SIZE.get_or_init(|| {
        // SAFETY: sysconf only reads and has no preconditions.
        let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
        u64::try_from(size).unwrap_or(4096)
    })
}

/// The end of the address space that this kernel gives a process, a power of two: 2^47 on x86-64, 2^39 to 2^48 on
/// arm64.
pub fn top_of_addresses() -> u64 {
    static TOP: OnceLock<u64> = OnceLock::new();
    *TOP.get_or_init(|| {
        // The stack lies near the top.
        let here = 0_u8;
        (&raw const here as u64).next_power_of_two()
    })
}

/// Rounds `size` up to pages of this kernel.
///
/// Errors: those of [`WholePages::round_up`].
pub fn whole_pages(size: u64) -> Result<WholePages> {
    WholePages::round_up(size, page_size())
}
