//! Which profiler of a manager records, and which leaks were reported.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::Instant;

use crate::error::Result;
use crate::handle::Handle;
use crate::profile::Profiler;
use crate::sync::{Mutex, MutexGuard};

/// The profiler that records, or that did last.
#[derive(Debug, Default)]
pub(super) struct Profiling {
    /// One records.
    pub(super) on: AtomicBool,
    profiler: Mutex<Option<Arc<Profiler>>>,
    /// Leaks that were told of.
    reported: Mutex<ReportedLeaks>,
}

#[derive(Debug, Default)]
pub(super) struct ReportedLeaks {
    pub(super) buffers: HashSet<Handle>,
    /// By sample.
    pub(super) blocks: HashSet<Handle>,
}

impl Profiling {
    /// Measures how long `allocate` takes, if anybody wants to know.
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

    /// The profiler that records.
    pub(super) fn recording(&self) -> Option<Arc<Profiler>> {
        self.on.load(Ordering::Relaxed).then(|| self.profiler().clone()).flatten()
    }

    pub(super) fn profiler(&self) -> MutexGuard<'_, Option<Arc<Profiler>>> {
        self.profiler.lock()
    }

    pub(super) fn reported(&self) -> MutexGuard<'_, ReportedLeaks> {
        self.reported.lock()
    }
}
