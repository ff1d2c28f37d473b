//! The profiler of a manager, and the leaks that were reported.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::profile::Profiler;
use crate::sync::{Mutex, MutexGuard};

/// The running or the last profiler, and its reported leaks.
#[derive(Debug, Default)]
pub(super) struct Profiling {
    /// Whether a profile is running.
    pub(super) on: AtomicBool,
    profiler: Mutex<Option<Arc<Profiler>>>,
    reported: Mutex<ReportedLeaks>,
}

/// The leaks that were reported in this profile.
#[derive(Debug, Default)]
pub(super) struct ReportedLeaks {
    /// Buffers, by allocation.
    pub(super) buffers: HashSet<Handle>,
    /// Blocks, by sample.
    pub(super) blocks: HashSet<Handle>,
    /// Blocks that were dropped while pinned.
    pub(super) pinned: HashSet<AllocationId>,
}

impl Profiling {
    /// Runs `allocate`, and records its duration if a profile is running.
    pub(super) fn timed<T>(&self, allocate: impl FnOnce() -> Result<T>) -> Result<T> {
        if !self.on.load(Ordering::Relaxed) {
            return allocate();
        }
        let began = Instant::now();
        let allocated = allocate();
        if let (Some(profiler), true) = (self.recording(), allocated.is_ok()) {
            profiler.record_latency(began.elapsed().as_nanos() as u64, 1);
        }
        allocated
    }

    /// Returns the running profiler.
    pub(super) fn recording(&self) -> Option<Arc<Profiler>> {
        self.on.load(Ordering::Relaxed).then(|| self.profiler().clone()).flatten()
    }

    /// Locks the running or the last profiler.
    pub(super) fn profiler(&self) -> MutexGuard<'_, Option<Arc<Profiler>>> {
        self.profiler.lock()
    }

    pub(super) fn reported(&self) -> MutexGuard<'_, ReportedLeaks> {
        self.reported.lock()
    }
}
