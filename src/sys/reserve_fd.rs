//! A file descriptor in reserve: a process that has used up its descriptors can still count them and read how much RAM
//! is available.

use std::fs::File;
use std::io;

use nix::errno::Errno;

use crate::sync::{Mutex, MutexGuard};

struct ReserveFd {
    held: bool,
    /// `None` while it is lent, or after another thread took the free descriptor.
    file: Option<File>,
}

static RESERVE: Mutex<ReserveFd> = Mutex::new(ReserveFd { held: false, file: None });

fn reserve() -> MutexGuard<'static, ReserveFd> {
    RESERVE.lock()
}

impl ReserveFd {
    fn refill(&mut self) {
        if self.held && self.file.is_none() {
            self.file = File::open("/dev/null").ok();
        }
    }
}

/// Starts to hold a descriptor in reserve.
pub fn open() {
    let mut reserve = reserve();
    reserve.held = true;
    reserve.refill();
}

/// Closes the reserve for the caller's own use. Returns whether a descriptor became free; pair with [`refill`].
pub fn lend() -> bool {
    reserve().file.take().is_some()
}

/// Opens the reserve again after [`lend`].
pub fn refill() {
    reserve().refill();
}

/// Runs `read`. If it fails for want of a descriptor, closes the reserve and runs it again with `true`.
pub fn with_reserve<T>(read: impl Fn(bool) -> io::Result<T>) -> Option<T> {
    match read(false) {
        Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => {
            let mut reserve = reserve();
            drop(reserve.file.take()?);
            let result = read(true).ok();
            reserve.refill();
            result
        }
        result => {
            // A reserve that was lost is refilled as soon as a descriptor is free.
            reserve().refill();
            result.ok()
        }
    }
}
