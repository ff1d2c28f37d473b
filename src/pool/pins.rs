//! Pins: slices whose address native code or the NPU holds.
//!
//! A pin belongs to the slice, not to an object of JavaScript. While a slice is pinned, only a reset or a destroy of
//! its pool ends it. The collector may take the slice's block and its ArrayBuffer meanwhile: the slice stays, and the
//! last [`unpin`](Pool::unpin) frees it once both are gone.

use std::sync::Arc;
use std::time::SystemTime;

use super::movable_table::SlicePlace;
use super::pin_table::{Pin, PinStats};
use super::slice::{freed, Slice};
use super::state::PoolState;
use super::Pool;
use crate::error::Result;
use crate::handle::Handle;
use crate::profile::Action;
use crate::suballoc::{Region, RegionId};

/// A pinned slice of a pool.
#[derive(Clone, Debug)]
pub struct PinnedSlice {
    /// The place.
    pub slice: Slice,
    /// The slice's own tag; `None` without one.
    pub tag: Option<Arc<str>>,
    /// The requested bytes.
    pub size: u64,
    /// The number of pins.
    pub pins: u32,
    /// The time of the first of them.
    pub since: SystemTime,
    /// Whether the slice's block was collected.
    pub dropped: bool,
}

impl Pool {
    /// Pins a slice until as many calls of [`unpin_slice`](Self::unpin_slice): only a reset or a destroy ends it.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` for a movable slice that another thread moves.
    pub fn pin_slice(&self, chunk: Handle, region: RegionId) -> Result<()> {
        let mut state = self.state();
        if let Some(id) = state.movables.at((chunk, region)) {
            state.movables.unmoving(id)?;
        }
        let bytes = state.live_region((chunk, region)).ok_or_else(freed)?.size;
        state.pins.pin((chunk, region), bytes)
    }

    /// Removes one pin, or all pins; returns whether there are others. The last one frees a slice whose block and
    /// ArrayBuffer were collected.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_OUT_OF_RANGE` for a slice that is not pinned.
    pub fn unpin_slice(&self, chunk: Handle, region: RegionId, all: bool) -> Result<bool> {
        self.unpin_where(all, |_| Ok((chunk, region)))
    }

    /// Like [`unpin_slice`](Self::unpin_slice), for the slice that `find` finds in the same critical section.
    pub(super) fn unpin_where(&self, all: bool, find: impl Fn(&mut PoolState) -> Result<SlicePlace>) -> Result<bool> {
        loop {
            let (mut others, mut written) = (None, None);
            // One critical section: a compaction could move a slice that was unpinned and not freed yet.
            let freed = self.free_where(Action::Collect, true, |state| {
                let place = find(state)?;
                state.live_region(place).ok_or_else(freed)?;
                if state.pins.is_written(place) && state.pins.is_last(place, all) {
                    written = Some(place);
                    return Err(freed());
                }
                let last = state.pins.unpin(place, all)?;
                if let Some(Pin { dropped: true, unseen: true, .. }) = last {
                    return Ok(place);
                }
                others = Some(last.is_none());
                Err(freed())
            });
            match (written, others) {
                (Some(place), _) => {
                    let written = |state: &mut PoolState| state.pins.is_written(place);
                    drop(self.written.wait_while(self.state(), written));
                }
                (None, Some(others)) => return Ok(others),
                (None, None) => return freed.map(|()| false),
            }
        }
    }

    /// Frees a slice whose last ArrayBuffer is gone. A pinned slice stays.
    ///
    /// Errors: `ERR_BUFFER_BUSY` for a pinned slice, `ERR_BUFFER_FREED`.
    pub fn free_unseen(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        self.free_where(how, true, |state| {
            let place = (chunk, region);
            if let Err(refused) = state.pins.check(place) {
                state.pins.set_unseen(place);
                if let Some(id) = state.movables.at(place) {
                    state.movables.set_view(id, None);
                }
                return Err(refused);
            }
            Ok(place)
        })
    }

    /// Records that the block of a slice was collected. `unseen`: no ArrayBuffer shows the slice. Frees an unseen slice
    /// that is not pinned.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn block_dropped(&self, chunk: Handle, region: RegionId, unseen: bool) -> Result<()> {
        let pinned = self.state().pins.set_dropped((chunk, region), unseen);
        match pinned || !unseen {
            true => Ok(()),
            false => self.free_as(chunk, region, Action::Collect),
        }
    }

    /// Records that JavaScript gets an ArrayBuffer over the slice.
    pub fn set_seen(&self, slice: &Slice) {
        self.state().pins.set_seen((slice.chunk, slice.region));
    }

    /// Checks whether the slice at that place could be freed now.
    ///
    /// Errors: `ERR_BUFFER_BUSY` for a pinned slice, and for a movable one in a move.
    pub fn check_unpinned(&self, slice: &Slice) -> Result<()> {
        let mut state = self.state();
        match state.movables.at((slice.chunk, slice.region)) {
            Some(id) => state.freeable(id).map(drop),
            None => state.pins.check((slice.chunk, slice.region)),
        }
    }

    /// Reports whether a slice is pinned; and if so, whether its block was collected.
    pub fn pin_of(&self, slice: &Slice) -> Option<bool> {
        self.state().pins.get((slice.chunk, slice.region)).map(|pin| pin.dropped)
    }

    /// Counts the pinned slices.
    pub fn pin_stats(&self) -> PinStats {
        self.state().pins.stats()
    }

    /// Lists the pinned slices, by address.
    pub fn pinned(&self) -> Vec<PinnedSlice> {
        let state = self.state();
        let pinned = |(place, pin): (SlicePlace, &Pin)| {
            let of = state.chunks.get(place.0)?;
            let region = of.arena.get(place.1).ok()?;
            Some(PinnedSlice {
                slice: of.slice(place.0, &region, region.size),
                tag: state.tag_at(place),
                size: region.user_data,
                pins: pin.count,
                since: pin.since,
                dropped: pin.dropped,
            })
        };
        let mut pinned: Vec<_> = state.pins.places().filter_map(pinned).collect();
        pinned.sort_unstable_by_key(|pinned| pinned.slice.address);
        pinned
    }
}

impl PoolState {
    /// The region of a live slice.
    pub(super) fn live_region(&self, place: SlicePlace) -> Option<Region> {
        let region = self.chunks.get(place.0)?.arena.get(place.1).ok()?;
        (region.used && !self.is_waiting(place)).then_some(region)
    }

    /// Pins a movable slice.
    pub(super) fn pin_movable(&mut self, id: Handle) -> Result<()> {
        let (chunk, region) = self.movables.unmoving(id)?;
        let bytes = self.chunks.get(chunk).and_then(|chunk| chunk.arena.get(region).ok()).ok_or_else(freed)?.size;
        self.pins.pin((chunk, region), bytes)
    }

    /// The place of a movable slice that may be freed.
    pub(super) fn freeable(&mut self, id: Handle) -> Result<SlicePlace> {
        let place = self.movables.unmoving(id)?;
        self.pins.check(place).map(|()| place)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::pool::testing::{pool_of, ONE_MIB};
    use crate::pool::{Layout, SliceRequest};

    fn pool(delay: usize) -> Pool {
        pool_of(Layout { delay, ..ONE_MIB })
    }

    /// A pinned slice, movable or not.
    fn pinned(pool: &Pool, movable: bool) -> (Handle, RegionId) {
        let slice = match movable {
            true => pool.allocate_movable(100, 64, None).unwrap().1,
            false => pool.allocate(100, 64).unwrap(),
        };
        pool.pin_slice(slice.chunk, slice.region).unwrap();
        (slice.chunk, slice.region)
    }

    fn code<T>(result: Result<T>) -> Option<ErrorCode> {
        result.err().map(|error| error.code())
    }

    #[test]
    fn a_pinned_slice_is_freed_by_a_reset_and_a_destroy_alone() {
        for (movable, delay) in [(false, 0), (true, 0), (false, 2), (true, 2)] {
            let pool = pool(delay);
            let (chunk, region) = pinned(&pool, movable);
            assert_eq!(code(pool.free(chunk, region)), Some(ErrorCode::BufferBusy));
            assert_eq!(code(pool.free_unseen(chunk, region, Action::Collect)), Some(ErrorCode::BufferBusy));
            pool.block_dropped(chunk, region, true).unwrap();
            assert_eq!(code(pool.destroy(false)), Some(ErrorCode::PoolBusy));
            assert_eq!((pool.stats().live, pool.trim(), pool.validate()), (1, 0, Ok(())));
            pool.reset(|_| true).unwrap();
            assert_eq!((pool.stats().live, pool.pin_stats(), pool.validate()), (0, PinStats::default(), Ok(())));
            assert_eq!(code(pool.unpin_slice(chunk, region, true)), Some(ErrorCode::BufferFreed));
            pinned(&pool, movable);
            pool.destroy(true).unwrap();
            assert_eq!(pool.pin_stats(), PinStats::default());
        }
    }

    #[test]
    fn a_slice_in_a_move_is_not_pinned_by_its_place() {
        let pool = pool(0);
        let below = pool.allocate(256, 64).unwrap();
        let (id, slice) = pool.allocate_movable(100, 64, None).unwrap();
        pool.free(below.chunk, below.region).unwrap();
        let mut pass = pool.start_pass().unwrap();
        let step = pool.next_move(&mut pass).unwrap();
        assert_eq!(code(pool.pin_slice(slice.chunk, slice.region)), Some(ErrorCode::BufferBusy));
        assert_eq!(code(pool.pin(id)), Some(ErrorCode::BufferBusy));
        step.commit().unwrap().unwrap();
        let moved = pool.movable(id).unwrap().0;
        pool.pin_slice(moved.chunk, moved.region).unwrap();
        assert!(moved.offset < slice.offset && pool.next_move(&mut pool.start_pass().unwrap()).is_none());
        assert_eq!(pool.validate(), Ok(()));
    }

    /// The block and its ArrayBuffer may go in either order, and the pin before, between or after them.
    #[test]
    fn a_slice_goes_with_the_last_of_its_block_its_buffer_and_its_pin() {
        let unseen = |pool: &Pool, (chunk, region)| drop(pool.free_unseen(chunk, region, Action::Collect));
        let dropped_with_buffer = |pool: &Pool, (chunk, region)| pool.block_dropped(chunk, region, false).unwrap();
        let dropped_without = |pool: &Pool, (chunk, region)| pool.block_dropped(chunk, region, true).unwrap();
        let unpin = |pool: &Pool, (chunk, region)| assert!(!pool.unpin_slice(chunk, region, false).unwrap());
        type Step = fn(&Pool, (Handle, RegionId));
        let orders: [&[Step]; 5] = [
            &[dropped_with_buffer, unseen, unpin],
            &[unseen, dropped_without, unpin],
            &[unseen, unpin, dropped_without],
            &[dropped_with_buffer, unpin, unseen],
            &[dropped_without, unpin],
        ];
        for movable in [false, true] {
            for steps in orders {
                let pool = pool(0);
                let name = pinned(&pool, movable);
                let (last, first) = steps.split_last().unwrap();
                first.iter().for_each(|step| step(&pool, name));
                assert_eq!(pool.stats().live, 1);
                last(&pool, name);
                assert_eq!((pool.stats().live, pool.movables(), pool.validate()), (0, 0, Ok(())));
            }
        }
    }

    #[test]
    fn pins_nest_and_are_counted_once() {
        let pool = pool(0);
        let (chunk, region) = pinned(&pool, false);
        pool.pin_slice(chunk, region).unwrap();
        let stats =
            |dropped: u64| PinStats { blocks: 1, bytes: 128, dropped_blocks: dropped, dropped_bytes: dropped * 128 };
        assert_eq!(pool.pin_stats(), stats(0));
        pool.block_dropped(chunk, region, false).unwrap();
        pool.block_dropped(chunk, region, false).unwrap();
        assert_eq!((pool.pin_stats(), pool.pinned()[0].pins, pool.pinned()[0].dropped), (stats(1), 2, true));
        assert!(pool.unpin_slice(chunk, region, false).unwrap());
        assert!(!pool.unpin_slice(chunk, region, false).unwrap());
        assert_eq!((pool.pin_stats(), pool.stats().live), (PinStats::default(), 1), "its buffer shows it");
        assert_eq!(code(pool.unpin_slice(chunk, region, false)), Some(ErrorCode::OutOfRange));
        pool.pin_slice(chunk, region).unwrap();
        pool.pin_slice(chunk, region).unwrap();
        assert!(!pool.unpin_slice(chunk, region, true).unwrap(), "all pins at once");
    }

    /// A buffer that was made anew after the first one was collected keeps the slice.
    #[test]
    fn a_buffer_that_is_made_anew_counts() {
        let pool = pool(0);
        let (chunk, region) = pinned(&pool, false);
        assert!(pool.free_unseen(chunk, region, Action::Collect).is_err());
        pool.set_seen(&pool.slice(chunk, region).unwrap().0);
        pool.block_dropped(chunk, region, false).unwrap();
        pool.unpin_slice(chunk, region, false).unwrap();
        assert_eq!(pool.stats().live, 1);
        pool.free_unseen(chunk, region, Action::Collect).unwrap();
        assert_eq!(pool.stats().live, 0);
    }

    #[test]
    fn a_number_that_names_no_tag_counts_nothing() {
        let pool = pool(0);
        let mut request = SliceRequest::new(100, 64);
        request.tag = Some(crate::pool::TagId::from_raw(7));
        let slice = pool.request(request).unwrap();
        assert_eq!(pool.tag_of(slice.chunk, slice.region).unwrap(), None);
        pool.free(slice.chunk, slice.region).unwrap();
        assert_eq!(pool.validate(), Ok(()));
    }

    #[test]
    fn a_tag_with_live_slices_stays_when_the_numbers_are_taken_back() {
        let pool = pool(0);
        let take = |name: &str| {
            let mut request = SliceRequest::new(100, 64);
            request.tag = Some(pool.tag_id(&name.into()).unwrap());
            pool.request(request).unwrap()
        };
        let tag = |slice: &Slice| pool.tag_of(slice.chunk, slice.region).unwrap();
        let (a, b) = (take("a"), take("b"));
        pool.free(b.chunk, b.region).unwrap();
        pool.forget_tags();
        let c = take("c");
        assert_eq!([tag(&a).as_deref(), tag(&c).as_deref()], [Some("a"), Some("c")]);
        pool.free(a.chunk, a.region).unwrap();
        pool.reset(|_| true).unwrap();
        let again = take("c");
        assert_eq!(tag(&again).as_deref(), Some("c"));
        assert_eq!(pool.map()[0].blocks.iter().filter(|block| block.tag.is_some()).count(), 1);
    }
}
