//! How much RAM may still be taken before somebody is killed for it.
//!
//! Linux says yes to almost any size and kills a process when the pages are touched; the vendor's driver on an IOMMU
//! board does the same (`docs/design/drivers.md` §1.2: SIGKILL, no errno). So the question is asked before: what the
//! machine has available, what the cgroup leaves, and what this process was promised but has not touched yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::proc::{Groups, Proc};
use crate::accounting::{Budget, Charge};
use crate::error::{Error, ErrorCode, Result};
use crate::sync::Mutex;
use crate::units::{format_bytes, MIB};

/// What RAM there is to give, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// RAM of the machine, or the cgroup's limit where that is less.
    pub total: u64,
    /// What could be taken now without swapping, reserve for the system included.
    pub available: u64,
    /// Whose figure binds: "ram" or "cgroup".
    pub scope: &'static str,
}

impl Ram {
    /// Read afresh; `None` where `/proc` says nothing.
    pub fn read() -> Option<Self> {
        // A process stays in its cgroup, as good as always: it is looked for once.
        static GROUPS: Lazy<Groups> = Lazy::new(|| Proc::default().groups());
        Self::of(&Proc::default(), &GROUPS)
    }

    /// As `proc` and `groups` tell.
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

    /// Left to the system, so that the last allocation is not the one that wakes the OOM killer.
    fn reserve(&self) -> u64 {
        (self.total / 16).min(128 * MIB)
    }
}

/// A reading serves this long, minus what was admitted since: /proc/meminfo costs some 20 µs, an allocation fewer.
const MAX_READING_AGE: Duration = Duration::from_millis(20);

#[derive(Default)]
struct Reading {
    at: Option<Instant>,
    left: u64,
}

static LAST_READING: Mutex<Reading> = Mutex::new(Reading { at: None, left: 0 });
/// Everything this process holds through this library, touched or not: never more than there is RAM.
static RAM_BUDGET: Lazy<Arc<Budget>> =
    Lazy::new(|| Budget::new(Ram::read().map_or(u64::MAX, |ram| ram.total - ram.reserve())));

/// Takes `bytes` of RAM, or says why there are not so many. The bytes come back when the charge drops.
///
/// Errors: `ERR_OUT_OF_MEMORY` with what is available.
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

/// Takes `bytes` off the last reading while it is fresh and has them; else 0.
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
    fn what_there_is_is_admitted_and_what_there_is_not_is_refused() {
        let before = RAM_BUDGET.used();
        let some = admit(MIB).unwrap();
        assert_eq!(some.bytes(), MIB);
        let error = admit(1 << 46).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory);
        assert!(error.details().available.unwrap() < 1 << 46);
        drop(some);
        // Other tests of this process may hold some; a refused request holds nothing.
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
