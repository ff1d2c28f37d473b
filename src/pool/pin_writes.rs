//! Writes to pinned slices by native threads, as of the RKLLM runtime's logits.

use super::movable_table::SlicePlace;
use super::slice::Slice;
use super::state::PoolState;
use super::Pool;
use crate::sync::MutexGuard;

impl Pool {
    /// Runs `write` while a slice is pinned, without the pool's lock: requests go on meanwhile. What would end the pin
    /// waits for the write: the last unpin of that slice, a reset, a destroy. Returns false, and does not run it, if
    /// the slice is pinned no longer.
    pub fn while_pinned(&self, slice: &Slice, write: impl FnOnce()) -> bool {
        let place = (slice.chunk, slice.region);
        if !self.state().pins.begin_write(place) {
            return false;
        }
        // Ends the write if `write` panics, too.
        let _writing = Writing { pool: self, place };
        write();
        true
    }

    /// Takes the lock once no pinned slice is being written.
    pub(super) fn state_without_writes(&self) -> MutexGuard<'_, PoolState> {
        self.written.wait_while(self.state(), |state| state.pins.is_any_written())
    }
}

/// A write to a pinned slice. Dropping it lets its pin end.
struct Writing<'a> {
    pool: &'a Pool,
    place: SlicePlace,
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.pool.state().pins.end_write(self.place);
        self.pool.written.notify_all();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;
    use crate::pool::testing::pool_of_1_mib;

    /// Whatever would end the pin waits; what has nothing to do with it does not.
    #[test]
    fn a_write_to_a_pinned_slice_blocks_no_request_and_what_ends_the_pin_waits_for_it() {
        let ends: [fn(&Pool, &Slice); 4] = [
            |pool, _| pool.reset(|_| true).unwrap(),
            |pool, _| pool.destroy(true).unwrap(),
            |pool, slice| assert!(!pool.unpin_slice(slice.chunk, slice.region, false).unwrap()),
            |pool, slice| assert!(!pool.unpin_slice(slice.chunk, slice.region, true).unwrap()),
        ];
        for end in ends {
            let pool = pool_of_1_mib();
            let [slice, other] = [(); 2].map(|()| pool.allocate(100, 64).unwrap());
            for slice in [&slice, &other] {
                pool.pin_slice(slice.chunk, slice.region).unwrap();
            }
            let written = AtomicBool::new(false);
            let (begin, begun) = channel();
            thread::scope(|scope| {
                let (pool, written, slice) = (&pool, &written, &slice);
                scope.spawn(move || {
                    begun.recv().unwrap();
                    end(pool, slice);
                    assert!(written.load(Ordering::SeqCst), "the pin ended under the write");
                });
                let write = || {
                    // A lock that the write held would never come free here.
                    pool.pin_slice(slice.chunk, slice.region).unwrap();
                    assert!(pool.unpin_slice(slice.chunk, slice.region, false).unwrap(), "another pin is left");
                    pool.unpin_slice(other.chunk, other.region, false).unwrap();
                    let free = pool.allocate(100, 64).unwrap();
                    pool.free(free.chunk, free.region).unwrap();
                    begin.send(()).unwrap();
                    (0..1000).for_each(|_| thread::yield_now());
                    written.store(true, Ordering::SeqCst);
                };
                assert!(pool.while_pinned(slice, write));
            });
            assert!(!pool.while_pinned(&slice, || written.store(false, Ordering::SeqCst)));
            assert!(written.load(Ordering::SeqCst), "nothing is written to a slice that is pinned no longer");
        }
    }

    #[test]
    fn a_write_that_panics_has_ended() {
        let pool = pool_of_1_mib();
        let slice = pool.allocate(100, 64).unwrap();
        pool.pin_slice(slice.chunk, slice.region).unwrap();
        let write = || pool.while_pinned(&slice, || panic!("in the write"));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(write)).is_err());
        assert!(!pool.unpin_slice(slice.chunk, slice.region, false).unwrap());
    }
}
