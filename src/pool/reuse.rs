//! Frees of slices, and the waits before their bytes are used again.

use super::chunk::Chunk;
use super::chunk_set::HasArena;
use super::movable_table::SlicePlace;
use super::slice::{freed, Slice};
use super::state::PoolState;
use super::waiting::{is_poison, poison, Moment, ReuseDelay, WaitingSlice};
use super::Pool;
use crate::error::Result;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::profile::Action;
use crate::suballoc::RegionId;
use crate::sync::MutexGuard;

/// The slabs' worth of slices that may wait before slabs grow for others. The maximum of a named pool is its own bound.
const MAX_WAITING_SLABS: u64 = 16;

/// The waits that one call ends at most: tens of thousands may be over at the same time.
pub(super) const WAITS_AT_ONCE: usize = 1024;

/// The waits that a request ends at most before it looks for room.
const WAITS_OF_A_REQUEST: usize = 64;

impl Pool {
    /// Lets freed slices wait whose ArrayBuffer JavaScript has seen.
    #[must_use]
    pub fn with_reuse(self, reuse: ReuseDelay) -> Self {
        Self { reuse, ..self }
    }

    /// Frees a slice, and the chunks that the pool no longer needs.
    ///
    /// Errors: `ERR_BUFFER_FREED` for a stale name, `ERR_BUFFER_BUSY` for a pinned slice.
    #[inline]
    pub fn free(&self, chunk: Handle, region: RegionId) -> Result<()> {
        self.free_where(Action::Free, false, |state| state.pins.check((chunk, region)).map(|()| (chunk, region)))
    }

    /// Like [`free`](Self::free), with the action to record.
    ///
    /// Errors: those of [`free`](Self::free).
    pub fn free_as(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        self.free_where(how, false, |state| state.pins.check((chunk, region)).map(|()| (chunk, region)))
    }

    /// Like [`free_as`](Self::free_as), for a slice whose ArrayBuffer JavaScript has seen: it waits before its bytes
    /// are used again.
    ///
    /// Errors: those of [`free`](Self::free).
    pub fn free_seen(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        self.free_where(how, true, |state| state.pins.check((chunk, region)).map(|()| (chunk, region)))
    }

    /// Frees the slice that `find` finds. Both are one critical section: a compaction may move the slice at any other
    /// time.
    #[inline(always)]
    pub(super) fn free_where(
        &self,
        how: Action,
        seen: bool,
        find: impl FnOnce(&mut PoolState) -> Result<SlicePlace>,
    ) -> Result<()> {
        if self.layout.delay > 0 || seen && self.reuse.waits() {
            return self.free_later(how, seen, find);
        }
        let mut state = self.state.lock();
        let place = find(&mut state)?;
        state.check_owned(place)?;
        if state.free_region(place, Some(how))? {
            self.end_leftover(state);
        }
        Ok(())
    }

    /// Ends the empty chunks that the pool no longer needs, outside the lock.
    #[cold]
    fn end_leftover(&self, mut state: MutexGuard<'_, PoolState>) {
        let empty = state.take_leftover(&self.layout);
        drop(state);
        self.end(empty);
    }

    /// Does the work of [`free_where`](Self::free_where) for a slice that waits.
    #[inline(never)]
    fn free_later(
        &self,
        how: Action,
        seen: bool,
        find: impl FnOnce(&mut PoolState) -> Result<SlicePlace>,
    ) -> Result<()> {
        let now = self.reuse.now();
        // A finalizer runs in a turn of its own.
        let since = if how == Action::Collect || !seen { now.without_turns() } else { now };
        let slice = {
            let mut state = self.state();
            let place = find(&mut state)?;
            let slice = state.start_wait(place, how)?;
            if self.layout.delay == 0 {
                state.waiting.push(WaitingSlice { place, since, poisoned: false });
                return Ok(());
            }
            slice
        };
        // No other thread frees the slice meanwhile, and a reset leaves it: it waits, and is not in the queue yet.
        let memory = self.memory_of(&slice);
        memory.iter().for_each(|memory| poison(memory, &slice));
        let place = (slice.chunk, slice.region);
        self.state().waiting.push(WaitingSlice { place, since, poisoned: memory.is_some() });
        self.end_waits();
        Ok(())
    }

    /// Ends waits that are over, `WAITS_AT_ONCE` at most, so that no caller pays for all. Returns whether there were
    /// any.
    pub fn end_waits(&self) -> bool {
        self.end_some_waits().0 > 0
    }

    /// Like [`end_waits`](Self::end_waits); returns how many there were, and the bytes of chunks that went back to the
    /// device.
    pub(super) fn end_some_waits(&self) -> (usize, u64) {
        let next = || {
            let mut state = self.state();
            match state.waiting.is_empty() {
                true => None,
                false => state.waiting.pop_over(&self.reuse, self.reuse.now(), self.layout.delay),
            }
        };
        let (mut ended, mut freed) = (0, 0);
        for slice in std::iter::from_fn(next).take(WAITS_AT_ONCE) {
            freed += self.end_wait(slice).unwrap_or(0);
            ended += 1;
        }
        (ended, freed)
    }

    /// Ends waits as [`end_waits`](Self::end_waits) does. Returns the bytes that still wait, and whether others may be
    /// over.
    pub fn sweep_waits(&self) -> (u64, bool) {
        let more = self.end_some_waits().0 == WAITS_AT_ONCE;
        (self.waiting(), more)
    }

    /// Ends the wait of the oldest slice, because the pool needs it; returns whether there was one.
    pub(super) fn end_oldest_wait(&self) -> bool {
        self.end_one_wait().is_some()
    }

    /// Ends the oldest wait of a pool at its maximum; returns whether there was one. One critical section: while all
    /// free bytes of a pool wait, each request comes here.
    pub(super) fn end_wait_when_full(&self, size: u64) -> bool {
        // Poison is checked outside the lock.
        if self.layout.delay > 0 {
            return false;
        }
        let empty = {
            let mut state = self.state();
            match state.cannot_grow(&self.layout, size) {
                true => state.finish_oldest_wait(&self.layout),
                false => None,
            }
        };
        let Some(empty) = empty else { return false };
        if !empty.is_empty() {
            self.end(empty);
        }
        true
    }

    /// Like [`end_oldest_wait`](Self::end_oldest_wait); returns the bytes of chunks that went back to the device.
    fn end_one_wait(&self) -> Option<u64> {
        loop {
            let oldest = self.state().waiting.pop()?;
            if let Some(bytes) = self.end_wait(oldest) {
                return Some(bytes);
            }
        }
    }

    /// Debugging: ends the waits in chunks that are about to go, so that writes to poison are counted.
    pub(super) fn end_idle_waits(&self) -> u64 {
        if self.layout.delay == 0 {
            return 0;
        }
        let idle = self.state().take_idle_waits();
        idle.into_iter().filter_map(|slice| self.end_wait(slice)).sum()
    }

    /// Ends the oldest waits until at most `bytes` wait.
    pub fn end_waits_beyond(&self, bytes: u64) {
        while self.waiting() > bytes && self.end_oldest_wait() {}
    }

    /// Ends all waits, because the caller needs the bytes in one piece. Returns the bytes of chunks that went back to
    /// the device.
    pub fn end_all_waits(&self) -> u64 {
        std::iter::from_fn(|| self.end_one_wait()).sum()
    }

    /// Bytes of slices that wait.
    pub fn waiting(&self) -> u64 {
        self.state().waiting.bytes
    }

    /// The fragmentation of what is free now, without the slices that wait. Unlike the exact figure, it costs the same
    /// however many wait.
    pub(super) fn fragmentation_now(&self) -> f64 {
        let state = self.state();
        let free = state.chunks.capacity - state.chunks.allocated - state.waiting.bytes;
        match self.layout.block.is_some() || free == 0 {
            true => 0.0,
            false => 1.0 - state.chunks.largest_free() as f64 / free as f64,
        }
    }

    /// Reports whether so many slices wait that the pool takes those before it grows.
    pub(super) fn has_waiting_enough(&self) -> bool {
        self.name.is_none() && self.waiting() >= self.layout.chunk.saturating_mul(MAX_WAITING_SLABS)
    }

    /// Frees a slice that was taken out of the queue. Returns the bytes of chunks that went back to the device; `None`
    /// for a stale name.
    fn end_wait(&self, WaitingSlice { place, poisoned, .. }: WaitingSlice) -> Option<u64> {
        let late_write = poisoned && {
            let slice = self.state().waiting_slice(place);
            slice.is_some_and(|slice| self.memory_of(&slice).is_some_and(|memory| !is_poison(&memory, &slice)))
        };
        let empty = {
            let mut state = self.state();
            state.waiting.late_writes += u64::from(late_write);
            state.finish_wait(place, &self.layout)
        };
        empty.map(|empty| self.end(empty))
    }
}

impl PoolState {
    /// Ends waits that are over, within a request. Slices with poison are left to [`Pool::end_waits`].
    #[cold]
    pub(super) fn end_waits(&mut self, reuse: &ReuseDelay, now: Moment, layout: &super::Layout) -> Vec<Chunk> {
        let mut empty = Vec::new();
        for _ in 0..WAITS_OF_A_REQUEST {
            let Some(slice) = self.waiting.pop_over(reuse, now, 0) else { break };
            empty.extend(self.finish_wait(slice.place, layout).into_iter().flatten());
        }
        empty
    }

    /// Reports whether slices wait, and the pool's maximum leaves no room for a chunk that serves a request of `size`.
    pub(super) fn cannot_grow(&self, layout: &super::Layout, size: u64) -> bool {
        let Some(least) = layout.least_chunk(size) else { return false };
        self.waiting.bytes > 0 && layout.growth(self.chunks.reserved, least, least).is_none()
    }

    /// Ends the oldest wait; returns the chunks that are no longer needed. `None` if no slice waits.
    fn finish_oldest_wait(&mut self, layout: &super::Layout) -> Option<Vec<Chunk>> {
        loop {
            let oldest = self.waiting.pop()?;
            // A chunk that ended may have left stale names.
            if let Some(empty) = self.finish_wait(oldest.place, layout) {
                return Some(empty);
            }
        }
    }

    fn take_idle_waits(&mut self) -> Vec<WaitingSlice> {
        let chunks = &self.chunks;
        self.waiting.take_where(|slice| chunks.get(slice.place.0).is_none_or(HasArena::is_idle))
    }

    /// Refuses the name of a slice that was freed.
    #[inline]
    pub(super) fn check_owned(&self, (chunk, region): SlicePlace) -> Result<()> {
        match self.waiting.bytes > 0 && self.is_waiting((chunk, region)) {
            true => Err(freed()),
            false => Ok(()),
        }
    }

    /// Reports whether a live region is a slice that waits.
    pub(super) fn is_waiting(&self, (chunk, region): SlicePlace) -> bool {
        self.chunks.get(chunk).is_some_and(|chunk| chunk.flags.waiting.has(region.slot()))
    }

    fn waiting_slice(&self, (handle, region): SlicePlace) -> Option<Slice> {
        let chunk = self.chunks.get(handle)?;
        let region = chunk.arena.get(region).ok().filter(|region| chunk.flags.waiting.has(region.id.slot()))?;
        Some(chunk.slice(handle, &region, region.size))
    }

    /// Ends a slice for its owner. Its region stays used.
    pub(super) fn start_wait(&mut self, place: SlicePlace, how: Action) -> Result<Slice> {
        let chunk = self.chunks.get(place.0).ok_or_else(freed)?;
        let region = chunk.arena.get(place.1).ok().filter(|region| region.used).ok_or_else(freed)?;
        if chunk.flags.waiting.has(region.id.slot()) {
            return Err(freed());
        }
        self.end_names(place.0, &region, how);
        self.chunks.live -= 1;
        self.chunks.requested -= region.user_data;
        self.chunks.allocated -= region.size;
        self.keep_waiting(place, region.size).ok_or_else(freed)
    }

    /// Marks a used region that no slice counts as waiting.
    pub(super) fn keep_waiting(&mut self, (handle, id): SlicePlace, bytes: u64) -> Option<Slice> {
        let chunk = self.chunks.get_mut(handle)?;
        chunk.arena.set_user_data(id, 0).ok()?;
        chunk.flags.waiting.put(id.slot());
        chunk.set_id(id, AllocationId::default());
        (chunk.waiting.0, chunk.waiting.1) = (chunk.waiting.0 + 1, chunk.waiting.1 + bytes);
        self.waiting.bytes += bytes;
        self.chunks.list(handle);
        self.run_waits((handle, id), bytes);
        self.waiting_slice((handle, id))
    }

    /// Frees the region of a slice that waits; `None` for a stale name. Returns the chunks that are no longer needed.
    fn finish_wait(&mut self, (handle, id): SlicePlace, layout: &super::Layout) -> Option<Vec<Chunk>> {
        let chunk = self.chunks.get_mut(handle)?;
        let region = chunk.arena.get(id).ok().filter(|region| region.used)?;
        if !chunk.flags.waiting.take(id.slot()) {
            return None;
        }
        (chunk.waiting.0, chunk.waiting.1) = (chunk.waiting.0 - 1, chunk.waiting.1 - region.size);
        self.waiting.bytes -= region.size;
        // `start_wait` has subtracted it.
        self.chunks.live += 1;
        self.chunks.allocated += region.size;
        match self.free_region((handle, id), None).ok()? {
            true => Some(self.take_leftover(layout)),
            false => Some(Vec::new()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::testing::pool_of_1_mib;

    fn pool(after: Duration) -> Pool {
        pool_of_1_mib().with_reuse(ReuseDelay { after, turns: None })
    }

    /// Counts waits, not time.
    #[test]
    fn a_burst_of_waits_that_end_together_is_not_paid_by_one_request() {
        let pool = pool(Duration::from_nanos(1));
        let slices: Vec<_> = (0..2_000).map(|_| pool.allocate(64, 64).unwrap()).collect();
        let free = |slice: &Slice| pool.free_seen(slice.chunk, slice.region, Action::Free).unwrap();
        slices.iter().for_each(free);
        assert_eq!(pool.waiting(), 2_000 * 64);
        // Longer than a tick of the coarse clock.
        std::thread::sleep(Duration::from_millis(30));
        pool.allocate(64, 64).unwrap();
        assert_eq!(pool.waiting(), (2_000 - WAITS_OF_A_REQUEST as u64) * 64);
        assert_eq!(pool.sweep_waits(), ((2_000 - WAITS_OF_A_REQUEST - WAITS_AT_ONCE) as u64 * 64, true));
        assert_eq!((pool.sweep_waits(), pool.validate()), ((0, false), Ok(())));
    }
}
