//! Admission of memory: how much RAM this process may still take before the kernel kills a process for it.
//!
//! Linux grants almost any size and kills a process when the pages are touched. The vendor's driver on an IOMMU board
//! does the same (`docs/design/drivers.md` §1.2: SIGKILL, no errno). So [`admit`] checks beforehand the machine's
//! available memory, the rest below the cgroup's limit, and the memory that this process was promised but has not
//! touched yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::proc::{Groups, Proc};
use crate::accounting::{Budget, Charge};
use crate::error::{Error, ErrorCode, Result};
use crate::sync::Mutex;
use crate::units::{format_bytes, MIB};

/// RAM that an allocation can take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// RAM of the machine, or the cgroup's limit where that is less.
    pub total: u64,
    /// RAM that could be taken now without swapping, the system's reserve included.
    pub available: u64,
    /// The figure that binds: "ram" or "cgroup".
    pub scope: &'static str,
}

impl Ram {
    /// Reads the current figures; `None` without a readable `/proc`.
    pub fn read() -> Option<Self> {
        // A process practically never changes its cgroup, so one look-up serves.
        static GROUPS: Lazy<Groups> = Lazy::new(|| Proc::default().groups());
        Self::of(&Proc::default(), &GROUPS)
    }

    /// Reads the figures from `proc` and `groups`.
    pub fn of(proc: &Proc, groups: &Groups) -> Option<Self> {
        let memory = proc.meminfo()?;
        let group = groups.read().and_then(|group| Some((group.limit?, group.left()?)));
        let (limit, left) = group.unwrap_or((u64::MAX, u64::MAX));
        Some(Self {
            total: memory.total.min(limit),
            available: memory.available.min(left),
            scope: if left < memory.available { "cgroup" } else { "ram" },
        })
    }

    /// RAM left to the system, so that the last allocation does not wake the OOM killer.
    fn reserve(&self) -> u64 {
        (self.total / 16).min(128 * MIB)
    }
}

/// How long a reading serves, less the admissions since. Reading /proc/meminfo costs some 20 µs, more than an
/// allocation.
const MAX_READING_AGE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Reading {
    at: Option<Instant>,
    left: u64,
}

static LAST_READING: Mutex<Reading> = Mutex::new(Reading { at: None, left: 0 });
/// All memory that this process holds through this library, touched or not. It never exceeds the RAM.
static RAM_BUDGET: Lazy<Arc<Budget>> =
    Lazy::new(|| Budget::new(Ram::read().map_or(u64::MAX, |ram| ram.total - ram.reserve())));

/// Charges `bytes` of RAM. Dropping the charge returns them.
///
/// Errors: `ERR_OUT_OF_MEMORY` with the bytes that are available.
pub fn admit(bytes: u64) -> Result<Charge> {
    let charge = RAM_BUDGET.reserve(bytes).map_err(|refused| {
        let message = format!(
            "{} more would promise more memory than this machine has: {} of {} are held already",
            format_bytes(bytes),
            format_bytes(RAM_BUDGET.used()),
            format_bytes(refused.limit)
        );
        out_of_memory(message, bytes, refused.available, "ram", refused.limit)
    })?;
    if bytes <= left_of_last_reading(bytes) {
        return Ok(charge);
    }
    let Some(ram) = Ram::read() else { return Ok(charge) };
    let left = ram.available.saturating_sub(ram.reserve());
    let mut reading = LAST_READING.lock();
    reading.at = Some(Instant::now());
    reading.left = left.saturating_sub(bytes);
    if bytes <= left {
        return Ok(charge);
    }
    reading.left = left;
    let message = format!(
        "{} were asked for and only {} of {} are available",
        format_bytes(bytes),
        format_bytes(left),
        ram.scope
    );
    Err(out_of_memory(message, bytes, left, ram.scope, ram.total))
}

/// Takes `bytes` off the last reading if that is fresh and large enough; returns 0 otherwise.
fn left_of_last_reading(bytes: u64) -> u64 {
    let mut reading = LAST_READING.lock();
    let fresh = reading.at.is_some_and(|at| at.elapsed() < MAX_READING_AGE);
    if !fresh || reading.left < bytes {
        return 0;
    }
    reading.left -= bytes;
    bytes
}

fn out_of_memory(message: String, requested: u64, available: u64, scope: &str, limit: u64) -> Error {
    Error::new(ErrorCode::OutOfMemory, message)
        .requested(requested)
        .available(available)
        .limit(scope, limit)
        .hint("deallocate what is no longer used; dropped buffers are only freed when the event loop turns")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn available_ram_is_admitted_and_more_is_refused() {
        let before = RAM_BUDGET.used();
        let some = admit(MIB).unwrap();
        assert_eq!(some.bytes(), MIB);
        let error = admit(1 << 46).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.details().available.unwrap() < 1 << 46);
        drop(some);
        // Other tests of this process may hold charges; a refused request holds none.
        assert!(RAM_BUDGET.used() < before + (1 << 46));
    }

    #[test]
    fn more_than_is_available_now_is_refused_even_if_the_machine_has_it() {
        let ram = Ram::read().unwrap();
        assert!(ram.available <= ram.total && ram.reserve() <= 128 * MIB);
        let error = admit(ram.available).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.details().hint.is_some());
    }
}
