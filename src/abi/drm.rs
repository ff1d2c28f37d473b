//! `drm.h`: the ioctls of every DRM driver. A render node allows all of them (`docs/design/rknpu.md` §1.3, §2.1).
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::mem::offset_of;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

use super::ioctl::{adopt, Request};

/// `struct drm_version`: lengths are capacities on the way in and true lengths on the way out. The kernel adds no NUL.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawVersion {
    major: c_int,
    minor: c_int,
    patch: c_int,
    name_len: usize,
    name: *mut u8,
    date_len: usize,
    date: *mut u8,
    desc_len: usize,
    desc: *mut u8,
}

#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<RawVersion>() == 64);
    assert!(offset_of!(RawVersion, major) == 0);
    assert!(offset_of!(RawVersion, minor) == 4);
    assert!(offset_of!(RawVersion, patch) == 8);
    assert!(offset_of!(RawVersion, name_len) == 16);
    assert!(offset_of!(RawVersion, name) == 24);
    assert!(offset_of!(RawVersion, date_len) == 32);
    assert!(offset_of!(RawVersion, date) == 40);
    assert!(offset_of!(RawVersion, desc_len) == 48);
    assert!(offset_of!(RawVersion, desc) == 56);
};

/// `struct drm_gem_close`.
#[repr(C)]
#[derive(Clone, Copy)]
struct GemClose {
    handle: u32,
    pad: u32,
}

const _: () = assert!(size_of::<GemClose>() == 8 && offset_of!(GemClose, handle) == 0);
const _: () = assert!(offset_of!(GemClose, pad) == 4);

/// `struct drm_prime_handle`.
#[repr(C)]
#[derive(Clone, Copy)]
struct PrimeHandle {
    handle: u32,
    flags: u32,
    fd: i32,
}

const _: () = assert!(size_of::<PrimeHandle>() == 12 && offset_of!(PrimeHandle, handle) == 0);
const _: () = assert!(offset_of!(PrimeHandle, flags) == 4 && offset_of!(PrimeHandle, fd) == 8);

// SAFETY: type 'd' with these numbers belongs to the DRM core on every DRM node and takes these structs (drm.h). One
// node of another kind knows 'd': /dev/rknpu, which must not get these calls (`docs/design/drivers.md` §2). probe.rs
// keeps them to /dev/dri and /dev/accel.
const VERSION: Request<RawVersion> = unsafe { Request::read_write(b'd', 0x00) };
// SAFETY: see above.
const GEM_CLOSE: Request<GemClose> = unsafe { Request::write(b'd', 0x09) };
// SAFETY: see above.
const PRIME_HANDLE_TO_FD: Request<PrimeHandle> = unsafe { Request::read_write(b'd', 0x2d) };
// SAFETY: see above.
const PRIME_FD_TO_HANDLE: Request<PrimeHandle> = unsafe { Request::read_write(b'd', 0x2e) };

const DRM_CLOEXEC: u32 = 0x8_0000;
const DRM_RDWR: u32 = 0x2;

/// The driver behind a DRM node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Major, minor, patch level. rknpu gives its own version, e.g. 0, 9, 8.
    pub number: (i32, i32, i32),
    /// The driver's name, which alone identifies the private ioctls of the node.
    pub name: String,
}

/// `DRM_IOCTL_VERSION`. The DRM core answers it, so it wakes no hardware (`docs/design/rknpu.md` §1.2).
pub fn version(fd: BorrowedFd<'_>) -> Result<Version, Errno> {
    let mut name = [0_u8; 64];
    // Date and description get no room: kernels since 6.12 answer "0" for the date, and the library uses neither.
    let mut raw = RawVersion {
        major: 0,
        minor: 0,
        patch: 0,
        name_len: name.len(),
        name: name.as_mut_ptr(),
        date_len: 0,
        date: ptr::null_mut(),
        desc_len: 0,
        desc: ptr::null_mut(),
    };
    VERSION.call(fd, &mut raw)?;
    let length = raw.name_len.min(name.len());
    let text = &name[..length];
    let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(Version { number: (raw.major, raw.minor, raw.patch), name: String::from_utf8_lossy(text).into_owned() })
}

/// `DRM_IOCTL_GEM_CLOSE`.
pub fn gem_close(fd: BorrowedFd<'_>, handle: u32) -> Result<(), Errno> {
    GEM_CLOSE.call(fd, &mut GemClose { handle, pad: 0 }).map(drop)
}

/// `DRM_IOCTL_PRIME_HANDLE_TO_FD` with CLOEXEC and RDWR. Without RDWR, a writable shared mmap of the fd fails.
pub fn prime_handle_to_fd(fd: BorrowedFd<'_>, handle: u32) -> Result<OwnedFd, Errno> {
    let mut prime = PrimeHandle { handle, flags: DRM_CLOEXEC | DRM_RDWR, fd: -1 };
    PRIME_HANDLE_TO_FD.call(fd, &mut prime)?;
    // SAFETY: the call succeeded, so the kernel stored a new fd of this process there, which no other code knows.
    unsafe { adopt(prime.fd) }
}

/// `DRM_IOCTL_PRIME_FD_TO_HANDLE`. The same dma-buf gives the same handle, and the kernel counts it once. A caller that
/// imports a dma-buf twice has to count its handles itself (`docs/design/rknpu.md` §2.5).
pub fn prime_fd_to_handle(fd: BorrowedFd<'_>, dma_buf: BorrowedFd<'_>) -> Result<u32, Errno> {
    let mut prime = PrimeHandle { handle: 0, flags: 0, fd: dma_buf.as_raw_fd() };
    PRIME_FD_TO_HANDLE.call(fd, &mut prime)?;
    Ok(prime.handle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn numbers_are_those_of_rknpu_md_2_1() {
        #[cfg(target_pointer_width = "64")]
        assert_eq!(VERSION.number(), 0xC040_6400);
        assert_eq!(GEM_CLOSE.number(), 0x4008_6409);
        assert_eq!(PRIME_HANDLE_TO_FD.number(), 0xC00C_642D);
        assert_eq!(PRIME_FD_TO_HANDLE.number(), 0xC00C_642E);
    }

    #[test]
    fn a_file_that_is_no_drm_node_answers_enotty() {
        let null = File::open("/dev/null").map_err(|error| error.to_string());
        assert_eq!(null.map(|null| version(null.as_fd())), Ok(Err(Errno::ENOTTY)));
    }
}
