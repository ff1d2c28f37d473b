//! `dma-buf.h`: the ioctls of every dma-buf fd (`docs/design/rknpu.md` §4.3).
#![allow(unsafe_code)]

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;

use super::ioctl::{retry, Request};

/// The CPU will read: with [`SYNC_START`], invalidates the caches.
pub const SYNC_READ: u64 = 1;
/// The CPU wrote: with [`SYNC_END`], cleans the caches.
pub const SYNC_WRITE: u64 = 2;
/// Starts a CPU access.
pub const SYNC_START: u64 = 0;
/// Ends a CPU access.
pub const SYNC_END: u64 = 4;

/// The maximum length of a dma-buf's name, without the NUL.
pub const NAME_MAX: usize = 31;

// SAFETY: dma-buf.h: 'b' 0 takes a `struct dma_buf_sync`, which is one u64. Other files do not know 'b' (ENOTTY).
const SYNC: Request<u64> = unsafe { Request::write(b'b', 0) };

/// `DMA_BUF_SET_NAME_B`: the 8-byte encoding. On 64-bit it equals the only one that old kernels know.
const SET_NAME: u32 = nix::request_code_write!(b'b', 1, size_of::<u64>()) as u32;

/// DMA_BUF_IOCTL_SYNC over the whole buffer.
pub fn sync(dma_buf: BorrowedFd<'_>, flags: u64) -> Result<(), Errno> {
    SYNC.call(dma_buf, &mut { flags }).map(drop)
}

/// DMA_BUF_SET_NAME: sets the name in `/proc/PID/fdinfo` and in the kernel's lists.
pub fn set_name(dma_buf: BorrowedFd<'_>, name: &CStr) -> Result<(), Errno> {
    retry(|| {
        // SAFETY: this number takes the string itself. The kernel copies it up to its NUL, at most 32 bytes
        // (`strndup_user`). `name` ends in a NUL and outlives the call.
        Errno::result(unsafe { libc::ioctl(dma_buf.as_raw_fd(), SET_NAME as _, name.as_ptr()) })
    })
    .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_rknpu_md_4_3() {
        assert_eq!(SYNC.number(), 0x4008_6200);
        assert_eq!(SET_NAME, 0x4008_6201);
    }
}
