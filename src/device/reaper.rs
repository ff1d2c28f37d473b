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

/// How long a reaper without objects stays before it ends. To wake it for each object would cost a program that frees
/// one after the other more than the frees, and larger batches switch the IOMMU domain less often.
pub(super) const LINGER: Duration = Duration::from_millis(1);

/// The bytes in the queue that end a reaper's rest.
const MAX_RESTING_BYTES: u64 = 16 << 20;

/// Objects to destroy, each with a value to drop afterwards.
#[derive(Debug)]
pub(super) struct PendingFrees<T> {
    queue: Mutex<Queue<T>>,
    /// Notified when a batch ends, and when a drain does.
    drained: Condvar,
    /// Notified when a resting reaper has to go on.
    urgent: Condvar,
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
    /// The number of threads that wait for `drained`: a notification costs a system call, also if none waits.
    waiters: usize,
    /// Whether the reaper rests: it looks at the queue again soon.
    resting: bool,
}

impl<T> Queue<T> {
    /// Reports whether a reaper may rest.
    fn has_time(&self) -> bool {
        self.waiters == 0 && self.bytes < MAX_RESTING_BYTES
    }
}

impl<T> Default for PendingFrees<T> {
    fn default() -> Self {
        let queue = Queue {
            objects: Vec::new(),
            bytes: 0,
            reaper_running: false,
            added: 0,
            ended: 0,
            waiters: 0,
            resting: false,
        };
        Self { queue: Mutex::new(queue), drained: Condvar::new(), urgent: Condvar::new() }
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
        let starts = !std::mem::replace(&mut queue.reaper_running, true);
        self.wake_if_urgent(queue);
        starts
    }

    /// Records that the reaper found no thread: the next [`push`](Self::push) asks for another.
    pub(super) fn reaper_failed(&self) {
        let mut queue = self.queue();
        queue.reaper_running = false;
        self.notify(queue);
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
    /// Neither may panic. Before it ends, it rests once for `linger`: others may arrive.
    pub(super) fn drain(&self, linger: Duration, destroy: impl Fn(&Object, T), end_of_batch: impl Fn()) {
        let mut rests = false;
        loop {
            let (mut batch, added) = {
                let mut queue = self.queue();
                if rests {
                    queue.resting = true;
                    queue = self.urgent.wait_timeout_while(queue, linger, |queue| queue.has_time());
                    queue.resting = false;
                }
                if queue.objects.is_empty() {
                    queue.reaper_running = false;
                    return self.notify(queue);
                }
                (std::mem::take(&mut queue.objects), queue.added)
            };
            batch.sort_by_key(|(object, _)| object.domain);
            for (object, rest) in batch {
                destroy(&object, rest);
                self.queue().bytes -= object.size;
            }
            end_of_batch();
            let mut queue = self.queue();
            queue.ended = added;
            self.notify(queue);
            rests = !linger.is_zero();
        }
    }

    /// Wakes a resting reaper that has to go on.
    fn wake_if_urgent(&self, mut queue: MutexGuard<'_, Queue<T>>) {
        if queue.resting && !queue.has_time() {
            queue.resting = false;
            drop(queue);
            self.urgent.notify_all();
        }
    }

    /// Notifies the threads that wait, once the queue has changed.
    fn notify(&self, queue: MutexGuard<'_, Queue<T>>) {
        let waiters = queue.waiters;
        drop(queue);
        if waiters > 0 {
            self.drained.notify_all();
        }
    }

    /// Waits, at most `timeout`, while `waits`.
    fn wait_while(&self, timeout: Duration, waits: impl FnMut(&mut Queue<T>) -> bool) -> MutexGuard<'_, Queue<T>> {
        let mut queue = self.queue();
        queue.waiters += 1;
        self.wake_if_urgent(queue);
        let mut queue = self.drained.wait_timeout_while(self.queue(), timeout, waits);
        queue.waiters -= 1;
        queue
    }

    /// The number of objects ever added, for [`wait_until`](Self::wait_until).
    pub(super) fn added(&self) -> u64 {
        self.queue().added
    }

    /// Waits, at most `timeout`, until the first `added` objects are destroyed, or no reaper runs. Returns whether they
    /// are destroyed.
    pub(super) fn wait_until(&self, added: u64, timeout: Duration) -> bool {
        let waits = |queue: &mut Queue<T>| queue.reaper_running && queue.ended < added;
        self.wait_while(timeout, waits).ended >= added
    }

    /// Waits, at most `timeout`, until no object is left. Returns whether none is left.
    pub(super) fn wait(&self, timeout: Duration) -> bool {
        let queue = self.wait_while(timeout, |queue| queue.reaper_running);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{channel, Receiver};
    use std::sync::Arc;
    use std::thread;

    use super::*;
    use crate::handle::Handle;

    /// Longer than any test may take: only an urgent reason ends this rest.
    const FOREVER: Duration = Duration::from_secs(3600);

    fn object(size: u64) -> Object {
        Object {
            handle: Handle::from_raw(1),
            size,
            device_address: None,
            sram: 0,
            domain: None,
            cacheable: true,
            contiguous: false,
            zeroed: true,
            imported: false,
        }
    }

    /// Starts a reaper with one object, which sends the numbers of the objects that it destroys.
    fn reaper() -> (Arc<PendingFrees<u32>>, Receiver<u32>, thread::JoinHandle<()>) {
        let pending = Arc::new(PendingFrees::default());
        let (destroyed, numbers) = channel();
        assert!(pending.push(object(4096), 0));
        let frees = Arc::clone(&pending);
        let reaper = thread::spawn(move || frees.drain(FOREVER, |_, number| destroyed.send(number).unwrap(), || {}));
        (pending, numbers, reaper)
    }

    #[test]
    fn a_thread_that_waits_ends_the_rest() {
        let (pending, numbers, reaper) = reaper();
        assert_eq!(numbers.recv(), Ok(0), "the first object needs no rest");
        assert!(!pending.push(object(4096), 1));
        assert!(pending.wait(FOREVER));
        reaper.join().unwrap();
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [1]);
        assert_eq!((pending.bytes(), pending.in_progress()), (0, false));
        assert!(pending.push(object(4096), 2), "the next object asks for another reaper");
    }

    #[test]
    fn many_bytes_end_the_rest() {
        let (pending, numbers, reaper) = reaper();
        assert_eq!(numbers.recv(), Ok(0));
        pending.push(object(MAX_RESTING_BYTES - 4096), 1);
        pending.push(object(4096), 2);
        assert_eq!((numbers.recv(), numbers.recv()), (Ok(1), Ok(2)));
        assert!(pending.wait(FOREVER));
        reaper.join().unwrap();
    }

    #[test]
    fn a_caller_that_destroys_objects_itself_does_not_rest() {
        let pending = PendingFrees::default();
        pending.push(object(4096), ());
        pending.drain(Duration::ZERO, |_, ()| {}, || {});
        assert_eq!((pending.bytes(), pending.in_progress()), (0, false));
    }
}
