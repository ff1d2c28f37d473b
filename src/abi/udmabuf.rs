//! `udmabuf.h`: a dma-buf over a memfd's pages (`docs/design/rknpu.md` §4.5). The conformance suite imports such
//! buffers as foreign ones, on every machine that has the node.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::ioctl::{adopt, Request};

/// `struct udmabuf_create`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Create {
    memfd: u32,
    flags: u32,
    offset: u64,
    size: u64,
}

const _: () = {
    assert!(size_of::<Create>() == 24);
    assert!(offset_of!(Create, memfd) == 0);
    assert!(offset_of!(Create, flags) == 4);
    assert!(offset_of!(Create, offset) == 8);
    assert!(offset_of!(Create, size) == 16);
};

// SAFETY: udmabuf.h declares this request with this struct. Other devices do not know 'u' 0x42 or answer with an error.
const CREATE: Request<Create> = unsafe { Request::write(b'u', 0x42) };
const FLAGS_CLOEXEC: u32 = 1;

/// UDMABUF_CREATE over the first `size` bytes of `memfd`. Requires whole pages and a memfd sealed against shrinking.
pub fn create(udmabuf: BorrowedFd<'_>, memfd: BorrowedFd<'_>, size: u64) -> Result<OwnedFd, Errno> {
    let memfd = u32::try_from(memfd.as_raw_fd()).map_err(|_negative| Errno::EBADF)?;
    let fd = CREATE.call(udmabuf, &mut Create { memfd, flags: FLAGS_CLOEXEC, offset: 0, size })?;
    // SAFETY: this ioctl returns a new fd, which no other code owns yet.
    unsafe { adopt(fd) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_is_that_of_rknpu_md_4_5() {
        assert_eq!(CREATE.number(), 0x4018_7542);
    }
}
