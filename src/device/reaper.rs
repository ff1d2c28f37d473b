//! The reaper: destroys kernel objects on threads of its own, since a driver may block each caller for seconds.

use std::time::Duration;

use crate::backend::Object;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::sys::thread_pool::ThreadPool;

/// The threads that run [`PendingFrees::drain`]: at most one a device, so that a hung driver holds up the frees of its
/// own device only.
pub(super) static REAPERS: ThreadPool = ThreadPool::new("rkllm-reaper", MAX_REAPERS);

/// More devices than a process has.
const MAX_REAPERS: usize = 4096;

/// Objects to destroy, each with a value to drop afterwards.
#[derive(Debug)]
pub(super) struct PendingFrees<T> {
    queue: Mutex<Queue<T>>,
    /// Notified when a batch ends, and when a drain does.
    drained: Condvar,
}

#[derive(Debug)]
struct Queue<T> {
    objects: Vec<(Object, T)>,
    /// Bytes of the objects in the queue and of those that the driver is destroying.
    bytes: u64,
    reaper_running: bool,
    /// The number of objects ever added, and of those whose batch has ended.
    added: u64,
    ended: u64,
}

impl<T> Default for PendingFrees<T> {
    fn default() -> Self {
        let queue = Queue { objects: Vec::new(), bytes: 0, reaper_running: false, added: 0, ended: 0 };
        Self { queue: Mutex::new(queue), drained: Condvar::new() }
    }
}

impl<T> PendingFrees<T> {
    /// Adds an object. Returns true if no reaper runs; the caller must then start one that calls
    /// [`drain`](Self::drain).
    pub(super) fn push(&self, object: Object, rest: T) -> bool {
        let mut queue = self.queue();
        queue.bytes += object.size;
        queue.added += 1;
        queue.objects.push((object, rest));
        !std::mem::replace(&mut queue.reaper_running, true)
    }

    /// Records that the reaper found no thread: the next [`push`](Self::push) asks for another.
    pub(super) fn reaper_failed(&self) {
        self.queue().reaper_running = false;
        self.drained.notify_all();
    }

    /// Reports whether objects wait without a reaper. The caller must then call [`drain`](Self::drain).
    pub(super) fn take_over(&self) -> bool {
        let mut queue = self.queue();
        let alone = !queue.reaper_running && !queue.objects.is_empty();
        queue.reaper_running |= alone;
        alone
    }

    /// Destroys objects until none is left. Objects that arrive meanwhile form the next batch. A batch is ordered by
    /// IOMMU domain, because a switch of the domain costs the driver tens of milliseconds; `end_of_batch` follows it.
    /// Neither may panic.
    pub(super) fn drain(&self, destroy: impl Fn(&Object, T), end_of_batch: impl Fn()) {
        loop {
            let (mut batch, added) = {
                let mut queue = self.queue();
                if queue.objects.is_empty() {
                    queue.reaper_running = false;
                    break;
                }
                (std::mem::take(&mut queue.objects), queue.added)
            };
            batch.sort_by_key(|(object, _)| object.domain);
            for (object, rest) in batch {
                destroy(&object, rest);
                self.queue().bytes -= object.size;
            }
            end_of_batch();
            self.queue().ended = added;
            self.drained.notify_all();
        }
        self.drained.notify_all();
    }

    /// The number of objects ever added, for [`wait_until`](Self::wait_until).
    pub(super) fn added(&self) -> u64 {
        self.queue().added
    }

    /// Waits, at most `timeout`, until the first `added` objects are destroyed, or no reaper runs. Returns whether they
    /// are destroyed.
    pub(super) fn wait_until(&self, added: u64, timeout: Duration) -> bool {
        let waits = |queue: &mut Queue<T>| queue.reaper_running && queue.ended < added;
        self.drained.wait_timeout_while(self.queue(), timeout, waits).ended >= added
    }

    /// Waits, at most `timeout`, until no object is left. Returns whether none is left.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let queue = self.drained.wait_timeout_while(self.queue(), timeout, |queue| queue.reaper_running);
        !queue.reaper_running && queue.objects.is_empty()
    }

    /// Reports whether objects are left.
    pub(super) fn in_progress(&self) -> bool {
        let queue = self.queue();
        queue.reaper_running || !queue.objects.is_empty()
    }

    /// Bytes that the driver has not freed yet.
    pub(super) fn bytes(&self) -> u64 {
        self.queue().bytes
    }

    fn queue(&self) -> MutexGuard<'_, Queue<T>> {
        self.queue.lock()
    }
}
