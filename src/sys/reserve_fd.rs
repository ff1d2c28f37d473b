//! A file descriptor held back: a process that has used up all of its own can still read how many those are, and how
//! much RAM there is to give.

use std::fs::File;
use std::io;

use nix::errno::Errno;

use crate::sync::{Mutex, MutexGuard};

struct ReserveFd {
    held: bool,
    /// `None` while it is lent, or when somebody else was quicker to take it.
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

/// Holds a descriptor back from here on.
pub fn open() {
    let mut reserve = reserve();
    reserve.held = true;
    reserve.refill();
}

/// What `read` reads. Where there is no descriptor for it, it is called once more, with `true` and without the reserve.
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
            // One that was lost comes back as soon as there are descriptors again.
            reserve().refill();
            result.ok()
        }
    }
}
