//! Admission of memory: how much RAM this process may still take before the kernel kills a process for it.
//!
//! Linux grants almost any size and kills a process when the pages are touched. The vendor's driver on an IOMMU board
//! does the same (`docs/design/drivers.md` §1.2: SIGKILL, no errno). So [`admit`] checks beforehand the machine's
//! available memory, the rest below the cgroup's limit, and the memory that this process was promised but has not
//! touched yet.

use std::sync::Arc;
use std::time::{Duration, Instant};

use once_cell::sync::Lazy;

use super::cgroup::{Cgroup, Groups};
use super::proc::{MemInfo, Proc};
use crate::accounting::{Budget, Charge};
use crate::error::{Error, ErrorCode, Result};
use crate::sync::Mutex;
use crate::units::{format_bytes, MIB};

/// RAM that an allocation can take, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ram {
    /// RAM of the machine, or the smallest limit of a cgroup where that is less.
    pub total: u64,
    /// RAM that could be taken now without swapping, the system's reserve included.
    pub available: u64,
    /// The limit of the scope that binds: RAM of the machine, or the limit of the cgroup with the fewest bytes left.
    pub limit: u64,
    /// The figure that binds: "ram" or "cgroup".
    pub scope: &'static str,
}

/// The cgroups of this process, found again after [`MAX_GROUPS_AGE`].
static GROUPS: Mutex<Option<(Instant, Arc<Groups>)>> = Mutex::new(None);

/// How long the folders of the cgroups serve. A process is rarely moved to another group; its limits are read each
/// time.
const MAX_GROUPS_AGE: Duration = Duration::from_secs(1);

/// Returns the cgroups of this process.
pub(super) fn groups() -> Arc<Groups> {
    let known = GROUPS.lock().clone();
    match known.filter(|(at, _)| at.elapsed() < MAX_GROUPS_AGE) {
        Some((_, groups)) => groups,
        None => find_groups(),
    }
}

fn find_groups() -> Arc<Groups> {
    let groups = Arc::new(Proc::default().groups());
    *GROUPS.lock() = Some((Instant::now(), Arc::clone(&groups)));
    groups
}

/// Reads the figures of this process's cgroup ([`Groups::figures`]). Finds the groups again if they cannot be read.
pub fn cgroup() -> Option<Cgroup> {
    let groups = groups();
    match groups.figures() {
        None if groups.is_controlled() => find_groups().figures(),
        figures => figures,
    }
}

impl Ram {
    /// Reads the current figures; `None` without a readable `/proc`.
    pub fn read() -> Option<Self> {
        Proc::default().meminfo().map(|memory| Self::of(&memory))
    }

    /// Reads the cgroups beside the machine's `memory`, which was just read.
    pub fn of(memory: &MemInfo) -> Self {
        Self::within(memory, &groups())
    }

    /// Reads the figures of `groups` beside the machine's `memory`.
    pub(super) fn within(memory: &MemInfo, groups: &Groups) -> Self {
        let binding = groups.read(memory.available);
        let smallest = binding.smallest_limit.unwrap_or(u64::MAX);
        let group = binding.group.and_then(|group| Some((group.left()?, group.limit?)));
        // A group whose usage cannot be read leaves at most its limit.
        let (left, limit) = group.unwrap_or((u64::MAX, u64::MAX)).min((smallest, smallest));
        let (available, limit, scope) = match left < memory.available {
            true => (left, limit, "cgroup"),
            false => (memory.available, memory.total, "ram"),
        };
        Self { total: memory.total.min(smallest), available, limit, scope }
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
/// All memory that this process holds through this library, touched or not. It never exceeds the RAM. Each reading
/// sets the limit, because a cgroup's limit changes while the process runs.
static RAM_BUDGET: Lazy<Arc<Budget>> = Lazy::new(|| {
    let budget = Budget::new(u64::MAX);
    read_into(&budget);
    budget
});

/// Reads the RAM and sets the limit of `budget` to it.
fn read_into(budget: &Budget) -> Option<Ram> {
    let ram = Ram::read()?;
    budget.set_limit(ram.total.saturating_sub(ram.reserve()));
    Some(ram)
}

/// Charges `bytes` of RAM. Dropping the charge returns them.
///
/// Errors: `ERR_OUT_OF_MEMORY` with the bytes that are available.
pub fn admit(bytes: u64) -> Result<Charge> {
    let reserved = RAM_BUDGET.reserve(bytes).or_else(|_| {
        read_into(&RAM_BUDGET);
        RAM_BUDGET.reserve(bytes)
    });
    let charge = reserved.map_err(|refused| {
        let message = format!(
            "{} more would promise more memory than this process may have: {} of {} are held already",
            format_bytes(bytes),
            format_bytes(RAM_BUDGET.used()),
            format_bytes(refused.limit)
        );
        out_of_memory(message, bytes, refused.available, "ram", refused.limit)
    })?;
    if bytes <= left_of_last_reading(bytes) {
        return Ok(charge);
    }
    let Some(ram) = read_into(&RAM_BUDGET) else { return Ok(charge) };
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
    Err(out_of_memory(message, bytes, left, ram.scope, ram.limit))
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
