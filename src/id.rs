//! Ids of allocations: one sequence for the whole process.
//!
//! An allocation has one id from its allocation to its free, in every output, and no other allocation of the process
//! ever has the same: buffers, movable blocks, and slices of every pool count in one sequence. An id says nothing about
//! the place, unlike a [`Handle`](crate::handle::Handle) or an address, which are used again.
//!
//! A source that allocates under a lock of its own takes ids by the batch ([`Ids`]), so an id costs it an addition.
//!
//! ```
//! use rkllmjs_memory::id::{AllocationId, Ids};
//!
//! let (mut first, mut second) = (Ids::default(), Ids::default());
//! let ids = [first.next(), second.next(), first.next(), AllocationId::next()];
//! let distinct: std::collections::HashSet<_> = ids.into_iter().collect();
//! assert_eq!(distinct.len(), ids.len());
//! ```

use std::sync::atomic::{AtomicU64, Ordering};

/// The number of ids in a batch. A batch that is not used up is lost: 2^53 ids are enough for 2^43 batches.
const BATCH: u64 = 1024;

/// The next id of the process. 0 is not an id.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// The id of an allocation: an integer from 1 to 2^53, so a JavaScript number holds it exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AllocationId(u64);

impl AllocationId {
    /// Takes the next id of the process.
    #[allow(clippy::should_implement_trait)]
    pub fn next() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns the id as an integer.
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The ids of one source, taken from the process's sequence by the batch.
#[derive(Debug, Default)]
pub struct Ids {
    next: u64,
    end: u64,
}

impl Ids {
    /// Takes the next id.
    #[inline(always)]
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> AllocationId {
        if self.next == self.end {
            self.refill();
        }
        self.next += 1;
        AllocationId(self.next - 1)
    }

    #[cold]
    fn refill(&mut self) {
        self.next = NEXT.fetch_add(BATCH, Ordering::Relaxed);
        self.end = self.next + BATCH;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::thread;

    use super::*;

    #[test]
    fn no_two_sources_and_no_two_threads_get_the_same_id() {
        let take = || {
            let mut own = Ids::default();
            (0..3 * BATCH).flat_map(|_| [own.next(), AllocationId::next()]).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (0..4).map(|_| thread::spawn(take)).collect();
        let all: Vec<_> = threads.into_iter().flat_map(|thread| thread.join().unwrap_or_default()).collect();
        assert_eq!(all.len() as u64, 4 * 6 * BATCH);
        assert!(all.iter().all(|id| id.get() > 0));
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len());
    }
}
