//! The state under a pool's mutex: its chunks, its counts, and its delayed and movable slices.

use super::chunk::Chunk;
use super::delayed_free::DelayedFrees;
use super::layout::Layout;
use super::movable_table::Movables;
use super::slice::{freed, Slice};
use crate::accounting::Limit;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::profile::{Action, Recorder};
use crate::suballoc::{Region, RegionId};

#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub(super) chunks: Table<Chunk>,
    /// Handles of `chunks`, in the order of trying.
    pub(super) order: Vec<Handle>,
    /// The initial chunk, which stays.
    pub(super) first: Option<Handle>,
    /// Bytes of chunks, growth in progress included.
    pub(super) reserved: u64,
    pub(super) requested: u64,
    pub(super) allocated: u64,
    pub(super) peak_allocated: u64,
    pub(super) live: u64,
    pub(super) allocations: u64,
    pub(super) failures: u64,
    pub(super) delayed: DelayedFrees,
    /// Slices that compaction may move.
    pub(super) movables: Movables,
    /// The number of chunks ever added.
    pub(super) grown: u64,
    pub(super) destroyed: bool,
    /// Warns when little of the maximum is left.
    pub(super) near: Limit,
    pub(super) recorder: Option<Box<Recorder>>,
}

/// The recorder of a slice's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventOwner {
    /// The pool, under the slice's address.
    Pool,
    /// The slice's holder, under its own id.
    Holder,
}

impl PoolState {
    #[inline]
    pub(super) fn alive(&self, name: &str) -> Result<()> {
        match self.destroyed {
            false => Ok(()),
            true => Err(Error::new(ErrorCode::PoolDestroyed, format!("pool \"{name}\" was destroyed"))),
        }
    }

    /// Allocates from the first chunk that has room. The chunk of the last allocation is tried first.
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> Option<Slice> {
        for at in 0..self.order.len() {
            if let Some(slice) = self.take_from(self.order[at], size, alignment) {
                self.order.swap(0, at);
                return Some(slice);
            }
        }
        None
    }

    pub(super) fn take_from(&mut self, handle: Handle, size: u64, alignment: u64) -> Option<Slice> {
        let chunk = self.chunks.get_mut(handle)?;
        let region = chunk.arena.allocate(size, alignment, size)?;
        let used_before = chunk.touched.saturating_sub(region.offset).min(region.size);
        chunk.touched = chunk.touched.max(region.end());
        self.live += 1;
        self.allocations += 1;
        self.requested += size;
        self.allocated += region.size;
        self.peak_allocated = self.peak_allocated.max(self.allocated);
        Some(chunk.slice(handle, &region, used_before))
    }

    /// Frees a region; returns the chunks that are no longer needed. `how` is recorded, unless a delayed free has
    /// recorded it.
    pub(super) fn free_region(
        &mut self,
        handle: Handle,
        id: RegionId,
        layout: &Layout,
        how: Option<Action>,
    ) -> Result<Vec<Chunk>> {
        let chunk = self.chunks.get_mut(handle).ok_or_else(freed)?;
        // Destructured, because reading whole a struct that was just written in several words makes the processor wait.
        let Region { offset, size, user_data: requested, .. } = chunk.arena.free(id).map_err(|_stale| freed())?;
        let movable = self.movables.forget((handle, id));
        self.live -= 1;
        self.requested -= requested;
        self.allocated -= size;
        let is_empty = chunk.is_empty();
        if let (Some(recorder), Some(how)) = (&mut self.recorder, how) {
            chunk.record_ended(recorder, (handle, id), offset, requested, movable, how);
        }
        // Keeps one empty chunk, so that the next request does not ask the driver again.
        match is_empty && self.order.len() > 1 {
            true => Ok(self.take_empty_chunks(layout, 1)),
            false => Ok(Vec::new()),
        }
    }

    /// Removes empty chunks but `keep` of them, down to the initial size.
    pub(super) fn take_empty_chunks(&mut self, layout: &Layout, keep: usize) -> Vec<Chunk> {
        let mut empty: Vec<Handle> = self
            .order
            .iter()
            .copied()
            .filter(|handle| Some(*handle) != self.first)
            .filter(|handle| self.chunks.get(*handle).is_some_and(Chunk::is_empty))
            .collect();
        let bytes_of = |state: &Self, handle| state.chunks.get(handle).map_or(0, |chunk| chunk.arena.capacity());
        if keep == 0 {
            // Sorts small chunks last, so that one large chunk does not stay for the whole initial size.
            empty.sort_by_key(|handle| std::cmp::Reverse(bytes_of(self, *handle)));
        }
        let mut gone = Vec::new();
        for handle in empty.into_iter().skip(keep) {
            let bytes = bytes_of(self, handle);
            if self.reserved - bytes < layout.initial {
                continue;
            }
            self.order.retain(|kept| *kept != handle);
            self.reserved -= bytes;
            if let Some(chunk) = self.chunks.remove(handle) {
                self.note(Action::Trim, chunk.number, bytes);
                gone.push(chunk);
            }
        }
        gone
    }

    pub(super) fn largest_free(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.arena.largest_free()).max().unwrap_or(0)
    }
}
