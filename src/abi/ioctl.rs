//! The only caller of ioctl(2): request numbers that cannot disagree with their structs, and the retries.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;

/// An ioctl whose argument points to a `T`. The request number encodes the size of `T`.
pub(super) struct Request<T> {
    number: u32,
    argument: PhantomData<fn(&mut T)>,
}

impl<T: Copy> Request<T> {
    /// `_IOWR(kind, nr, T)`.
    ///
    /// # Safety
    ///
    /// On every device that receives this request, the kernel must take the argument as a pointer to a `T` of plain
    /// integers (any bit pattern valid) and touch no byte beyond it. It must treat pointers inside `T` as the wrapper
    /// that fills them in says.
    pub(super) const unsafe fn read_write(kind: u8, nr: u8) -> Self {
        Self { number: nix::request_code_readwrite!(kind, nr, size_of::<T>()) as u32, argument: PhantomData }
    }

    /// `_IOW(kind, nr, T)`.
    ///
    /// # Safety
    ///
    /// The same as for [`read_write`](Self::read_write).
    pub(super) const unsafe fn write(kind: u8, nr: u8) -> Self {
        Self { number: nix::request_code_write!(kind, nr, size_of::<T>()) as u32, argument: PhantomData }
    }

    /// The request number.
    #[cfg(test)]
    pub(super) const fn number(&self) -> u32 {
        self.number
    }

    /// Calls the kernel. A retry starts from the original argument, because DRM copies the struct back also when a call
    /// fails, with the outputs written so far (`docs/design/rknpu.md` §2.3).
    pub(super) fn call(&self, fd: BorrowedFd<'_>, argument: &mut T) -> Result<c_int, Errno> {
        let original = *argument;
        retry(|| {
            *argument = original;
            // SAFETY: `argument` is a live, exclusive `T` during the call. The code that created this request
            // guarantees that the kernel takes this number with a pointer to a `T`. If the struct were smaller than the
            // kernel's, the kernel would write over the stack behind it; the number's size field is computed from `T`.
            // The cast is to libc's type of a request: c_ulong with glibc, c_int with musl.
            Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), self.number as _, std::ptr::from_mut(argument)) })
        })
    }
}

/// The maximum retries of EAGAIN. The kernel's reasons for it (a pending fence, a signal) pass in microseconds.
const MAX_EAGAIN_RETRIES: u32 = 1000;

/// Repeats the call while the kernel answers EINTR, and for about a second while it answers EAGAIN.
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

/// Takes ownership of an fd that an ioctl has just created. A negative number is EBADF.
///
/// # Safety
///
/// A successful ioctl created `fd` for this process, and no other code owns it.
pub(super) unsafe fn adopt(fd: RawFd) -> Result<OwnedFd, Errno> {
    if fd < 0 {
        return Err(Errno::EBADF);
    }
    // SAFETY: the contract above says that `fd` is open and ours, and it is not -1. If other code owned it, this would
    // close a file under that code.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interrupted_call_is_repeated_and_a_busy_one_not_for_ever() {
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
    fn a_negative_number_is_no_owned_fd() {
        // SAFETY: `adopt` refuses -1 before it owns a descriptor.
        assert_eq!(unsafe { adopt(-1) }.map(drop), Err(Errno::EBADF));
    }
}
