//! The target of a move in the pool's state: reserved, then given up or put in the place of the source.

use crate::handle::Handle;
use crate::id::AllocationId;
use crate::pool::movable_table::SlicePlace;
use crate::pool::state::PoolState;
use crate::pool::waiting::{Moment, WaitingSlice};
use crate::suballoc::{Region, RegionId};

impl PoolState {
    /// The region and alignment of a slice that may move now.
    pub(super) fn unpinned(&self, id: Handle) -> Option<(Region, u64)> {
        let movable = self.movables.get(id).ok().filter(|movable| movable.may_move())?;
        if self.pins.get(movable.place).is_some() {
            return None;
        }
        let region = self.chunks.get(movable.place.0)?.arena.get(movable.place.1).ok()?;
        Some((region, movable.alignment))
    }

    /// Reserves `size` bytes of a hole for the slice `id`. Counts no slice, because the moving one is counted already.
    pub(super) fn reserve_target(
        &mut self,
        id: Handle,
        (handle, hole): (Handle, RegionId),
        size: u64,
        alignment: u64,
    ) -> Option<Region> {
        let owner = self.movables.get(id).ok()?.owner;
        let chunk = self.chunks.get_mut(handle)?;
        let target = chunk.arena.allocate_at(hole, size, alignment, size)?;
        // The slice keeps its id at the old place until the move is complete.
        let slice = chunk.touch(handle, &target, AllocationId::default());
        chunk.flags.targets.put(target.id.slot());
        self.chunks.lower(handle);
        self.run_taken(slice);
        // The copy does not reach the padding.
        if !self.owners.are_only(owner) {
            self.give(owner, &slice, false);
        }
        Some(target)
    }

    pub(super) fn cancel_target(&mut self, (handle, region): SlicePlace) {
        let below = self.below((handle, region));
        // A reset or destroy of the pool has freed the target already.
        if let Some(chunk) = self.chunks.get_mut(handle).filter(|chunk| chunk.arena.get(region).is_ok()) {
            chunk.flags.targets.take(region.slot());
            let target = chunk.arena.free(region);
            self.chunks.changed(handle);
            if let (Ok(target), Some(below)) = (target, below) {
                self.run_freed(handle, target.offset..target.end(), below);
            }
        }
    }

    /// Ends the time in which no slice counts a target.
    pub(super) fn end_target(&mut self, (chunk, region): SlicePlace) {
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.flags.targets.take(region.slot());
        }
    }

    /// Frees the source of a move and keeps its target. `seen`: the source waits before its bytes are used again.
    pub(super) fn swap(&mut self, from: SlicePlace, to: SlicePlace, seen: Option<Moment>) -> Option<SlicePlace> {
        let below = self.below(from);
        let chunk = self.chunks.get_mut(from.0)?;
        let source = chunk.arena.get(from.1).ok()?;
        match seen {
            None => {
                chunk.arena.free(from.1).ok()?;
                if let Some(below) = below {
                    self.run_freed(from.0, source.offset..source.end(), below);
                }
            }
            Some(since) => {
                self.keep_waiting(from, source.size)?;
                self.waiting.push(WaitingSlice { place: from, since, poisoned: false });
            }
        }
        Some(to)
    }

    /// Exchanges the hole below a slice and the slice. Their neighbours may have changed since the move started.
    pub(super) fn swap_down(&mut self, from: SlicePlace, hole: SlicePlace) -> Option<SlicePlace> {
        self.drop_runs();
        let arena = &mut self.chunks.get_mut(from.0)?.arena;
        // Both regions are checked before either is freed: the bytes have moved already.
        let (source, gap) = (arena.get(from.1).ok()?, arena.get(hole.1).ok()?);
        if gap.size == source.size {
            arena.set_user_data(hole.1, source.user_data).ok()?;
            arena.free(from.1).ok()?;
            return Some(hole);
        }
        // The two merge into one free region, together with free neighbours. The region below those stays.
        let below = match arena.previous(hole.1).ok()? {
            Some(free) if !free.used => arena.previous(free.id).ok()?,
            below => below,
        };
        arena.free(hole.1).ok()?;
        arena.free(from.1).ok()?;
        let mut merged = match below {
            None => arena.first(),
            Some(below) => arena.next(below.id).ok()??,
        };
        // These calls need no memory for the suballocator: three regions have become one.
        let lower = match gap.offset - merged.offset {
            0 => None,
            bytes => Some(arena.allocate_at(merged.id, bytes, 1, 0)?.id),
        };
        if let Some(lower) = lower {
            merged = arena.next(lower).ok()??;
        }
        let target = arena.allocate_at(merged.id, source.user_data, 1, source.user_data)?;
        if let Some(lower) = lower {
            arena.free(lower).ok()?;
        }
        Some((from.0, target.id))
    }
}
