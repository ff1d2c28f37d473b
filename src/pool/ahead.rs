//! Growth ahead: a pool grows on another thread when less than a share of it is free, so that a request seldom waits
//! for the driver.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::state::PoolState;
use super::{GrowthAhead, Layout, Pool};
use crate::error::ErrorCode;
use crate::sys::thread_pool::ThreadPool;

/// Threads that let pools grow. A hung driver holds up those of its own pools, at most one each.
static GROWERS: ThreadPool = ThreadPool::new("rkllm-grow", 64);

/// How long a pool waits after a growth that failed.
const RETRY_AFTER: Duration = Duration::from_secs(1);

impl PoolState {
    /// Whether less than `share` of the pool is free, waiting slices not included, and the pool's maximum has room for
    /// more.
    fn is_short(&self, share: f64, layout: &Layout) -> bool {
        let (reserved, least) = (self.chunks.reserved, layout.granule());
        let free = reserved.saturating_sub(self.chunks.allocated).saturating_sub(self.waiting.bytes);
        reserved > 0 && (free as f64) < share * reserved as f64 && layout.growth(reserved, least, least).is_some()
    }
}

impl GrowthAhead {
    /// Whether a new slice has left the pool short.
    #[inline(always)]
    pub(super) fn is_due(&self, state: &PoolState, layout: &Layout) -> bool {
        self.on.get().is_some_and(|(share, _)| state.is_short(*share, layout))
    }
}

impl Pool {
    /// Grows in the background from now on, when less than `share` of the pool is free.
    pub fn grow_ahead(self: &Arc<Self>, share: f64) {
        if share > 0.0 {
            // A second call changes nothing.
            let _ = self.ahead.on.set((share, Arc::downgrade(self)));
        }
    }

    /// Starts a growth on another thread, unless one is under way or has just failed.
    #[cold]
    pub(super) fn start_growth_ahead(&self) {
        let Some((share, pool)) = self.ahead.on.get() else { return };
        let is_later = |failed: Instant| failed.elapsed() < RETRY_AFTER;
        if self.state().ahead.failed_at.is_some_and(is_later) || self.ahead.growing.swap(true, Ordering::AcqRel) {
            return;
        }
        let (share, growing) = (*share, Growing(Weak::clone(pool)));
        let queued = GROWERS.run(move || {
            if let Some(pool) = growing.0.upgrade() {
                pool.grow_while_short(share);
            }
        });
        if queued.is_err() {
            self.growth_failed();
        }
    }

    /// Adds chunks until enough is free, within the pool's maximum and every limit. Stops at the pool's end.
    fn grow_while_short(&self, share: f64) {
        let least = self.layout.granule();
        loop {
            {
                let state = self.state();
                if state.destroyed || !state.is_short(share, &self.layout) {
                    return;
                }
            }
            match self.grow_for(least) {
                Ok(_) => self.state().ahead.grown += 1,
                Err(error) => {
                    if error.code() != ErrorCode::PoolDestroyed {
                        self.growth_failed();
                    }
                    return;
                }
            }
        }
    }

    fn growth_failed(&self) {
        let mut state = self.state();
        state.ahead.failed += 1;
        state.ahead.failed_at = Some(Instant::now());
    }
}

/// A growth that is under way. Dropped, it lets the next one start: also after a panic, and if no thread runs it.
struct Growing(Weak<Pool>);

impl Drop for Growing {
    fn drop(&mut self) {
        if let Some(pool) = self.0.upgrade() {
            pool.ahead.growing.store(false, Ordering::Release);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::thread;

    use super::*;
    use crate::backend::simulated::{Options, Simulated};
    use crate::backend::Request;
    use crate::device::memory::Source;
    use crate::device::Device;
    use crate::pool::Layout;
    use crate::units::MIB;

    /// A pool of 1 MiB, which grows by chunks of 1 MiB when less than a quarter is free.
    fn pool(options: Options, max: u64) -> Arc<Pool> {
        let device = Device::new(Arc::new(Simulated::new(options).unwrap()));
        let source = Source::Npu { device, request: Request::plain(MIB), dirty: false };
        let layout = Layout { initial: MIB, max, chunk: MIB, block: None, alignment: 64, delay: 0 };
        let pool = Arc::new(Pool::new(Some("ahead".into()), source, layout, None).unwrap());
        pool.grow_ahead(0.25);
        pool
    }

    /// Waits until the thread has ended its work.
    fn settle(pool: &Pool) {
        while pool.ahead.growing.load(Ordering::Acquire) {
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_pool_grows_when_less_than_the_share_is_free_up_to_its_maximum() {
        let pool = pool(Options::default(), 3 * MIB);
        pool.allocate(MIB / 2, 64).unwrap();
        settle(&pool);
        assert_eq!((pool.stats().reserved, pool.stats().grown_ahead), (MIB, 0), "half of it is free");
        pool.allocate(MIB / 2, 64).unwrap();
        settle(&pool);
        assert_eq!((pool.stats().reserved, pool.stats().grown_ahead), (2 * MIB, 1));
        for _ in 0..4 {
            pool.allocate(MIB / 2, 64).unwrap();
            settle(&pool);
        }
        let stats = pool.stats();
        assert_eq!((stats.reserved, stats.grown_ahead, stats.failed_ahead), (3 * MIB, 2, 0));
        assert_eq!(pool.allocate(64, 64).unwrap_err().code(), ErrorCode::PoolExhausted);
        assert_eq!(pool.validate(), Ok(()));
    }

    /// Each slice of a pool that is nearly always full would otherwise wake a thread, which finds nothing to do.
    #[test]
    fn a_pool_that_has_its_maximum_starts_no_growth() {
        let pool = pool(Options::default(), MIB);
        let is_due = |pool: &Pool| pool.ahead.is_due(&pool.state(), &pool.layout);
        pool.allocate(MIB, 64).unwrap();
        assert!(!is_due(&pool));
        assert!(pool.ahead.is_due(&pool.state(), &Layout { max: 2 * MIB, ..pool.layout }), "it is short");
    }

    #[test]
    fn a_failed_growth_is_counted_and_no_request_sees_it() {
        let pool = pool(Options { max_objects: Some(1), ..Options::default() }, 8 * MIB);
        for _ in 0..1000 {
            pool.allocate(1024, 64).unwrap();
        }
        settle(&pool);
        let stats = pool.stats();
        assert_eq!((stats.reserved, stats.grown_ahead, stats.failures), (MIB, 0, 0));
        assert!((1..10).contains(&stats.failed_ahead), "{} attempts", stats.failed_ahead);
    }

    #[test]
    fn a_growth_stops_at_the_end_of_the_pool_and_keeps_no_pool_alive() {
        let pool = pool(Options { latency: Duration::from_millis(20), ..Options::default() }, 64 * MIB);
        pool.allocate(MIB, 64).unwrap();
        pool.destroy(true).unwrap();
        settle(&pool);
        let stats = pool.stats();
        assert_eq!((stats.reserved, stats.grown_ahead, stats.failed_ahead), (0, 0, 0));
        let weak = Arc::downgrade(&pool);
        drop(pool);
        // The thread may still hold it for a moment.
        while weak.upgrade().is_some() {
            thread::yield_now();
        }
    }
}
