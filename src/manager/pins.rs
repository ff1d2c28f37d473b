//! The pinned slices of a manager, and those of managers that ended without `dispose`.
//!
//! A thread that ends, and a manager that the collector takes, end no pinned memory: native code or the NPU may use it.
//! Their pools stay in [`ORPHANS`] until the last pin is removed or the process ends.

use std::sync::Arc;

use super::Manager;
use crate::error::{Error, ErrorCode, Result};
use crate::pool::{PinStats, PinnedSlice, Pool, Slice};
use crate::sync::Mutex;

/// Pools with pinned slices, of managers of this process that ended without `dispose`.
static ORPHANS: Mutex<Vec<Arc<Pool>>> = Mutex::new(Vec::new());

/// Counts the pinned slices of managers that ended without `dispose`. No object of JavaScript can unpin them.
pub fn orphaned_pins() -> PinStats {
    let mut stats = PinStats::default();
    for pool in ORPHANS.lock().iter() {
        stats.add(pool.pin_stats());
    }
    stats
}

/// Removes all pins of the slice `id` of a manager that ended without `dispose`. Frees its pool with the last pin.
/// Returns false if no such slice is pinned.
///
/// Errors: those of [`Pool::unpin_slice`].
pub fn unpin_orphan(id: u64) -> Result<bool> {
    let orphans = ORPHANS.lock().clone();
    let Some((pool, pinned)) = find(orphans, id) else { return Ok(false) };
    pool.unpin_slice(pinned.slice.chunk, pinned.slice.region, true)?;
    if pool.pin_stats() == PinStats::default() {
        ORPHANS.lock().retain(|other| !Arc::ptr_eq(other, &pool));
    }
    // The last reference to the pool frees its memory, outside the lock.
    Ok(true)
}

/// Removes one pin of a slice, from any thread. Frees the pool with the last pin of a manager that ended without
/// `dispose`.
///
/// Errors: those of [`Pool::unpin_slice`].
pub fn unpin(pool: &Arc<Pool>, slice: &Slice) -> Result<()> {
    pool.unpin_slice(slice.chunk, slice.region, false)?;
    if pool.pin_stats() == PinStats::default() {
        let mut orphans = ORPHANS.lock();
        let freed: Vec<_> = orphans.extract_if(.., |other| Arc::ptr_eq(other, pool)).collect();
        drop(orphans);
        // Outside the lock: the last reference to a pool frees its memory.
        drop(freed);
    }
    Ok(())
}

fn find(pools: Vec<Arc<Pool>>, id: u64) -> Option<(Arc<Pool>, PinnedSlice)> {
    pools.into_iter().find_map(|pool| {
        let pinned = pool.pinned().into_iter().find(|pinned| pinned.slice.id.get() == id)?;
        Some((pool, pinned))
    })
}

impl Manager {
    /// Counts the pinned slices of all pools.
    pub fn pin_stats(&self) -> PinStats {
        let mut stats = PinStats::default();
        self.pools().iter().for_each(|pool| stats.add(pool.pin_stats()));
        stats
    }

    /// Lists the pinned slices whose block was collected, with their pools.
    pub fn dropped_pins(&self) -> Vec<(Arc<Pool>, PinnedSlice)> {
        let of = |pool: Arc<Pool>| pool.pinned().into_iter().map(move |pinned| (Arc::clone(&pool), pinned));
        self.pools().into_iter().flat_map(of).filter(|(_, pinned)| pinned.dropped).collect()
    }

    /// Removes all pins of the slice `id`, whose block was collected. Frees it, unless an ArrayBuffer shows it. Returns
    /// false if no slice of this manager with that id is pinned.
    ///
    /// Errors: `ERR_BUFFER_BUSY` if the block still exists.
    pub fn unpin_dropped(&self, id: u64) -> Result<bool> {
        let Some((pool, pinned)) = find(self.pools(), id) else { return Ok(false) };
        if !pinned.dropped {
            let message = format!("the block {id} still exists: it was not unpinned");
            return Err(Error::new(ErrorCode::BufferBusy, message).hint("unpin it by block.unpin()"));
        }
        pool.unpin_slice(pinned.slice.chunk, pinned.slice.region, true).map(|_| true)
    }

    /// Keeps the pools with pinned slices, because the collector took the manager.
    pub fn abandon(&self) {
        let pinned: Vec<_> = self.pools().into_iter().filter(|pool| pool.pin_stats() != PinStats::default()).collect();
        ORPHANS.lock().extend(pinned);
    }

    /// Frees all memory but pinned slices, because the manager's thread ends.
    pub fn leave(&self) {
        self.abandon();
        self.end(|pool| pool.pin_stats() == PinStats::default());
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::manager::pools::tests::pool;

    /// Each way ends a manager without `dispose`.
    #[test]
    fn pinned_memory_outlives_a_thread_and_a_dropped_manager_until_it_is_unpinned() {
        let ways: [fn(&Manager); 2] = [Manager::leave, Manager::abandon];
        for end in ways {
            let (manager, pool) = pool();
            let slice = pool.allocate(100, 64).unwrap();
            pool.pin_slice(slice.chunk, slice.region).unwrap();
            let chunk_memory = Arc::downgrade(&pool.chunk_memory(slice.chunk).unwrap());
            end(&manager);
            drop((manager, pool));
            assert!(chunk_memory.upgrade().unwrap().memory().is_some());
            assert!(unpin_orphan(slice.id.get()).unwrap());
            assert!(chunk_memory.upgrade().is_none());
            assert!(!unpin_orphan(slice.id.get()).unwrap());
        }
    }

    #[test]
    fn the_last_unpin_of_another_holder_frees_the_pool_of_a_thread_that_ended() {
        let (manager, pool) = pool();
        let slice = pool.allocate(100, 64).unwrap();
        pool.pin_slice(slice.chunk, slice.region).unwrap();
        pool.pin_slice(slice.chunk, slice.region).unwrap();
        let chunk_memory = Arc::downgrade(&pool.chunk_memory(slice.chunk).unwrap());
        manager.leave();
        drop(manager);
        unpin(&pool, &slice).unwrap();
        let of_pool = || ORPHANS.lock().iter().filter(|other| Arc::ptr_eq(other, &pool)).count();
        assert_eq!(of_pool(), 1, "pinned once more");
        unpin(&pool, &slice).unwrap();
        assert_eq!(of_pool(), 0);
        assert!(unpin(&pool, &slice).is_err());
        drop(pool);
        assert!(chunk_memory.upgrade().is_none());
    }

    #[test]
    fn dispose_ends_pinned_memory_and_a_block_that_exists_is_not_unpinned_by_its_id() {
        let (manager, pool) = pool();
        let slice = pool.allocate(100, 64).unwrap();
        pool.pin_slice(slice.chunk, slice.region).unwrap();
        assert_eq!(manager.unpin_dropped(slice.id.get()).unwrap_err().code(), ErrorCode::BufferBusy);
        assert_eq!((manager.pin_stats().blocks, manager.dropped_pins().len()), (1, 0));
        pool.block_dropped(slice.chunk, slice.region, true).unwrap();
        assert_eq!((manager.pin_stats().dropped_blocks, manager.dropped_pins().len()), (1, 1));
        manager.dispose();
        assert!(pool.pinned().is_empty() && pool.chunk_memory(slice.chunk).is_err());
    }
}
