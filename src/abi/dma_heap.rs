//! `dma-heap.h` and the vendor's `rk-dma-heap.h`, whose requests differ in one letter (`docs/design/rknpu.md` §4.2).
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::ioctl::{adopt, Request};

/// `struct dma_heap_allocation_data`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Allocation {
    len: u64,
    fd: u32,
    fd_flags: u32,
    heap_flags: u64,
}

const _: () = {
    assert!(size_of::<Allocation>() == 24);
    assert!(offset_of!(Allocation, len) == 0);
    assert!(offset_of!(Allocation, fd) == 8);
    assert!(offset_of!(Allocation, fd_flags) == 12);
    assert!(offset_of!(Allocation, heap_flags) == 16);
};

// SAFETY: dma-heap.h and rk-dma-heap.h declare their requests with this struct. A device that is no heap answers ENOTTY
// or EINVAL. The backend opens only nodes in a heap directory.
const ALLOC: Request<Allocation> = unsafe { Request::read_write(b'H', 0) };
// SAFETY: see above.
const RK_ALLOC: Request<Allocation> = unsafe { Request::read_write(b'R', 0) };

/// The kernel interface of a heap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vendor {
    /// A node in /dev/dma_heap.
    Mainline,
    /// A node in /dev/rk_dma_heap.
    Rockchip,
}

/// DMA_HEAP_IOCTL_ALLOC: allocates a dma-buf of `len` bytes, readable and writable, close-on-exec.
pub fn alloc(heap: BorrowedFd<'_>, vendor: Vendor, len: u64) -> Result<OwnedFd, Errno> {
    let fd_flags = (libc::O_RDWR | libc::O_CLOEXEC) as u32;
    let mut allocation = Allocation { len, fd: 0, fd_flags, heap_flags: 0 };
    match vendor {
        Vendor::Mainline => ALLOC.call(heap, &mut allocation)?,
        Vendor::Rockchip => RK_ALLOC.call(heap, &mut allocation)?,
    };
    // SAFETY: the call succeeded, so the kernel stored a new fd of this process there. `adopt` refuses a number beyond
    // an int, which becomes negative.
    unsafe { adopt(allocation.fd as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_rknpu_md_4_2() {
        assert_eq!(ALLOC.number(), 0xC018_4800);
        assert_eq!(RK_ALLOC.number(), 0xC018_5200);
    }
}
