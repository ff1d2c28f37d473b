//! The reaper: kernel objects are destroyed on threads of its own, since a driver may make each caller wait for
//! seconds.

use std::time::Duration;

use crate::backend::Object;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::thread_pool::ThreadPool;

/// Runs [`PendingFrees::drain`].
pub(super) static REAPERS: ThreadPool = ThreadPool::new("rkllm-reaper", 2);

/// Objects that wait to be destroyed, each with what is released after it.
#[derive(Debug)]
pub(super) struct PendingFrees<T> {
    queue: Mutex<Queue<T>>,
    /// Notified when a drain ends.
    drained: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    objects: Vec<(Object, T)>,
    /// Bytes of the objects in the queue, and of those that the driver is destroying.
    bytes: u64,
    reaper_running: bool,
}

impl<T> Default for PendingFrees<T> {
    fn default() -> Self {
        let queue = Queue { objects: Vec::new(), bytes: 0, reaper_running: false };
        Self { queue: Mutex::new(queue), drained: Condvar::new() }
    }
}

impl<T> PendingFrees<T> {
    /// Adds an object. True when no reaper runs: the caller has to start one, which calls [`drain`](Self::drain).
    pub(super) fn push(&self, object: Object, rest: T) -> bool {
        let mut queue = self.queue();
        queue.bytes += object.size;
        queue.objects.push((object, rest));
        !std::mem::replace(&mut queue.reaper_running, true)
    }

    /// Destroys objects until none is left. Those that arrive meanwhile make one batch, and objects of one IOMMU domain
    /// go one after the other: changing the domain costs a driver tens of milliseconds. `destroy` must not panic.
    pub(super) fn drain(&self, destroy: impl Fn(&Object, T)) {
        loop {
            let mut batch = {
                let mut queue = self.queue();
                if queue.objects.is_empty() {
                    queue.reaper_running = false;
                    break;
                }
                std::mem::take(&mut queue.objects)
            };
            batch.sort_by_key(|(object, _)| object.domain);
            for (object, rest) in batch {
                destroy(&object, rest);
                self.queue().bytes -= object.size;
            }
        }
        self.drained.notify_all();
    }

    /// Waits until no object is left, at most `timeout`. Returns whether none is.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let queue = self.drained.wait_timeout_while(self.queue(), timeout, |queue| queue.reaper_running);
        !queue.reaper_running
    }

    /// Whether a reaper is at work.
    pub(super) fn in_progress(&self) -> bool {
        self.queue().reaper_running
    }

    /// Bytes that the driver has not given back yet.
    pub(super) fn bytes(&self) -> u64 {
        self.queue().bytes
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock()
    }
}
