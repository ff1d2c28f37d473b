//! The one place that makes an ioctl: a request number that cannot disagree with its struct, and the retries.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// An ioctl whose argument points to a `T`. The size in the number is the size of `T`.
pub(super) struct Request<T> {
    number: u32,
    argument: PhantomData<fn(&mut T)>,
}

impl<T: Copy> Request<T> {
    /// `_IOWR(kind, nr, T)`.
    ///
    /// # Safety
    ///
    /// On every device that a caller may send it to, the kernel must take this number's argument as a pointer to a `T`
    /// of plain integers (any bit pattern valid), touch nothing beyond it, and treat pointers inside as the wrapper
    /// that fills them in says.
    pub(super) const unsafe fn read_write(kind: u8, nr: u8) -> Self {
        Self { number: nix::request_code_readwrite!(kind, nr, size_of::<T>()) as u32, argument: PhantomData }
    }

    /// `_IOW(kind, nr, T)`.
    ///
    /// # Safety
    ///
    /// As for [`read_write`](Self::read_write).
    pub(super) const unsafe fn write(kind: u8, nr: u8) -> Self {
        Self { number: nix::request_code_write!(kind, nr, size_of::<T>()) as u32, argument: PhantomData }
    }

    /// The request number.
    #[cfg(test)]
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Makes the call. A retry starts from the argument as it was: DRM copies it back also when a call fails, outputs
    /// written so far included (`docs/design/rknpu.md` §2.3).
    pub(super) fn call(&self, fd: BorrowedFd<'_>, argument: &mut T) -> Result<c_int, Errno> {
        let original = *argument;
        retry(|| {
            *argument = original;
            // SAFETY: `argument` is a live, exclusive `T` for the length of the call, and whoever made this request
            // vouched that the kernel takes this number with a pointer to a `T`. Were the struct smaller than the
            // kernel thinks, it would write over the stack behind it; the number's size field is computed from `T`.
            // The cast is to whatever libc calls a request: c_ulong with glibc, c_int with musl.
            Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), self.number as _, std::ptr::from_mut(argument)) })
        })
    }
}

/// How often EAGAIN is believed. The kernel's own reasons for it (a pending fence, a signal) pass in microseconds.
const MAX_EAGAIN_RETRIES: u32 = 1000;

/// Calls again for as long as the kernel says EINTR, and for about a second while it says EAGAIN.
pub(super) fn retry(mut call: impl FnMut() -> Result<c_int, Errno>) -> Result<c_int, Errno> {
    let mut refused = 0;
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            Err(Errno::EAGAIN) if refused < MAX_EAGAIN_RETRIES => {
                refused += 1;
                match refused {
                    0..=16 => thread::yield_now(),
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            }
            result => return result,
        }
    }
}

/// Takes ownership of an fd that an ioctl has just made; a number that cannot be one is EBADF.
///
/// # Safety
///
/// `fd` came out of a successful ioctl that made it for this process, and nobody else owns it.
pub(super) unsafe fn adopt(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: open, not -1 and ours by the contract above. Were it somebody else's, closing it would take a file away
    // under them.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_is_made_again_and_a_busy_one_not_for_ever() {
        let mut answers = vec![Ok(3), Err(Errno::EAGAIN), Err(Errno::EINTR), Err(Errno::EINTR)];
        assert_eq!(retry(|| answers.pop().unwrap_or(Err(Errno::EIO))), Ok(3));
        assert!(answers.is_empty());

        let mut calls = 0;
        let result = retry(|| {
            calls += 1;
            Err(Errno::EAGAIN)
        });
        assert_eq!((result, calls), (Err(Errno::EAGAIN), MAX_EAGAIN_RETRIES + 1));
    }

    #[test]
    fn no_fd_is_no_owned_fd() {
        // SAFETY: -1 is refused before anything is owned.
        assert_eq!(unsafe { adopt(-1) }.map(drop), Err(Errno::EBADF));
    }
}
