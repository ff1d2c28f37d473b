//! `rocket_accel.h`: the memory ioctls of the mainline driver (`docs/design/rknpu.md` §5).
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

use super::ioctl::Request;

/// `struct drm_rocket_create_bo`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct CreateBo {
    /// In: bytes in whole pages, below 2 GiB.
    pub size: u32,
    /// Out: the object's handle.
    pub handle: u32,
    /// Out: the NPU's address, valid only for the open file that created the object.
    pub dma_address: u64,
    /// Out: the offset for `mmap` on the device's fd.
    pub offset: u64,
}

const _: () = {
    assert!(size_of::<CreateBo>() == 24);
    assert!(offset_of!(CreateBo, size) == 0);
    assert!(offset_of!(CreateBo, handle) == 4);
    assert!(offset_of!(CreateBo, dma_address) == 8);
    assert!(offset_of!(CreateBo, offset) == 16);
};

/// `struct drm_rocket_prep_bo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrepBo {
    handle: u32,
    reserved: u32,
    timeout_ns: i64,
}

const _: () = assert!(size_of::<PrepBo>() == 16 && offset_of!(PrepBo, handle) == 0);
const _: () = assert!(offset_of!(PrepBo, reserved) == 4 && offset_of!(PrepBo, timeout_ns) == 8);

/// `struct drm_rocket_fini_bo`.
#[repr(C)]
#[derive(Clone, Copy)]
struct FiniBo {
    handle: u32,
    reserved: u32,
}

const _: () = assert!(size_of::<FiniBo>() == 8 && offset_of!(FiniBo, handle) == 0);
const _: () = assert!(offset_of!(FiniBo, reserved) == 4);

// SAFETY: rocket_accel.h declares these numbers with these structs. rknpu uses 0x40 and 0x42 for other structs, so the
// backend opens a node only after DRM_IOCTL_VERSION answered "rocket" (probe.rs).
const CREATE_BO: Request<CreateBo> = unsafe { Request::read_write(b'd', 0x40) };
// SAFETY: see above.
const PREP_BO: Request<PrepBo> = unsafe { Request::write(b'd', 0x42) };
// SAFETY: see above.
const FINI_BO: Request<FiniBo> = unsafe { Request::write(b'd', 0x43) };

/// CREATE_BO: allocates an object.
pub fn create_bo(fd: BorrowedFd<'_>, create: &mut CreateBo) -> Result<(), Errno> {
    CREATE_BO.call(fd, create).map(drop)
}

/// PREP_BO: waits until the NPU has finished writing, then gives the object to the CPU. `deadline_ns` is an absolute
/// CLOCK_MONOTONIC time, although the header describes a duration (§5).
pub fn prep_bo(fd: BorrowedFd<'_>, handle: u32, deadline_ns: i64) -> Result<(), Errno> {
    PREP_BO.call(fd, &mut PrepBo { handle, reserved: 0, timeout_ns: deadline_ns }).map(drop)
}

/// FINI_BO: gives the object back to the device.
pub fn fini_bo(fd: BorrowedFd<'_>, handle: u32) -> Result<(), Errno> {
    FINI_BO.call(fd, &mut FiniBo { handle, reserved: 0 }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_rknpu_md_5() {
        assert_eq!(CREATE_BO.number(), 0xC018_6440);
        assert_eq!(PREP_BO.number(), 0x4010_6442);
        assert_eq!(FINI_BO.number(), 0x4008_6443);
    }
}
