//! The state under a pool's mutex: its chunks, its counts, and its waiting and movable slices.

use std::sync::Arc;
use std::time::Instant;

use super::chunk::{Chunk, ClearedMemory};
use super::chunk_set::{ChunkSet, HasArena, Leftover};
use super::layout::Layout;
use super::movable_table::{Movables, SlicePlace};
use super::owners::{Owner, Owners};
use super::pin_table::Pins;
use super::runs::Runs;
use super::slice::{freed, Clearing, Slice, SliceRequest};
use super::slice_tags::{SliceTags, TagId};
use super::visits;
use super::waiting::WaitingSlices;
use crate::accounting::Limit;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::id::Ids;
use crate::profile::{Action, Recorder};
use crate::suballoc::Region;

#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub(super) chunks: ChunkSet<Chunk>,
    pub(super) failures: u64,
    pub(super) ahead: AheadCounts,
    pub(super) waiting: WaitingSlices,
    /// `None` while no slice waits, and until the statistics need them.
    pub(super) runs: Option<Box<Runs>>,
    /// Whether the statistics have needed the runs: the next wait starts to keep them.
    pub(super) keeps_runs: bool,
    pub(super) owners: Owners,
    /// Slices that compaction may move.
    pub(super) movables: Movables,
    pub(super) pins: Pins,
    pub(super) tags: SliceTags,
    /// The number of chunks ever added.
    pub(super) grown: u64,
    pub(super) destroyed: bool,
    /// The number of compactions so far.
    pub(super) passes: u64,
    /// Warns when little of the maximum is left.
    pub(super) near: Limit,
    pub(super) recorder: Option<Box<Recorder>>,
    /// The ids of the next slices.
    pub(super) ids: Ids,
}

/// The counts of a pool's growth ahead.
#[derive(Debug, Default)]
pub(super) struct AheadCounts {
    pub(super) grown: u64,
    pub(super) failed: u64,
    pub(super) failed_at: Option<Instant>,
}

/// The bytes of a new slice that are cleared outside the lock.
#[derive(Debug)]
pub(super) struct ToClear {
    pub(super) bytes: u64,
    /// Also says, while it is there, that the chunk is being cleared ([`Chunk::is_being_cleared`]).
    pub(super) memory: Arc<ClearedMemory>,
}

impl PoolState {
    #[inline(always)]
    pub(super) fn alive(&self, name: &str) -> Result<()> {
        match self.destroyed {
            false => Ok(()),
            true => Err(Error::new(ErrorCode::PoolDestroyed, format!("pool \"{name}\" was destroyed"))),
        }
    }

    /// Allocates from the chunk of the last allocation.
    #[inline(always)]
    pub(super) fn take_front(&mut self, size: u64, alignment: u64) -> Option<Slice> {
        let Self { chunks, ids, .. } = self;
        chunks.take_front(size, alignment, |handle, chunk, region| chunk.touch(handle, &region, ids.next()))
    }

    /// Allocates from the first chunk that has room ([`ChunkSet::take`]).
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> Option<Slice> {
        let Self { chunks, ids, .. } = self;
        chunks.take(size, alignment, |handle, chunk, region| chunk.touch(handle, &region, ids.next()))
    }

    /// Allocates from one chunk.
    pub(super) fn take_from(&mut self, handle: Handle, size: u64, alignment: u64) -> Option<Slice> {
        let Self { chunks, ids, .. } = self;
        chunks.take_from(handle, size, alignment, |handle, chunk, region| chunk.touch(handle, &region, ids.next()))
    }

    /// Finds a slice by its name, with its requested bytes.
    pub(super) fn slice(&self, place: SlicePlace) -> Result<(Slice, u64)> {
        let region = self.live_region(place).ok_or_else(freed)?;
        let chunk = self.chunks.get(place.0).ok_or_else(freed)?;
        // The number of stale bytes is no longer known, so all of them may be.
        Ok((chunk.slice(place.0, &region, region.size), region.user_data))
    }

    /// The memory of a new slice with `bytes` to clear.
    #[inline]
    pub(super) fn begin_clearing(&self, slice: &Slice, bytes: u64) -> Option<ToClear> {
        self.chunks.get(slice.chunk).map(|chunk| ToClear { bytes, memory: Arc::clone(&chunk.cleared) })
    }

    /// Reports whether a new slice has to be cleared, and records its owner.
    #[inline(always)]
    pub(super) fn must_clear(&mut self, slice: Slice, owner: Owner, clearing: Clearing) -> bool {
        let foreign = !self.owners.are_only(owner) && self.give(owner, &{ slice }, clearing != Clearing::None);
        match clearing {
            Clearing::All => true,
            Clearing::OtherTags => foreign,
            Clearing::None => false,
        }
    }

    /// Reports whether a new slice might have to be cleared, wherever it is.
    pub(super) fn may_clear(&self, request: &SliceRequest) -> bool {
        match request.clearing {
            Clearing::All => true,
            Clearing::OtherTags => self.owners.may_have_others(self.owner_of(request)),
            Clearing::None => false,
        }
    }

    #[inline]
    fn owner_of(&self, request: &SliceRequest) -> Owner {
        match request.tag {
            None => request.owner,
            Some(tag) => self.tags.get(tag).map_or(Owner::UNTAGGED, |tag| tag.owner),
        }
    }

    /// Reports whether bytes of another owner are in a new slice, and gives them to `owner`.
    pub(super) fn give(&mut self, owner: Owner, slice: &Slice, cleared: bool) -> bool {
        let first = self.owners.mix();
        let Some(chunk) = self.chunks.get_mut(slice.chunk) else { return true };
        if !chunk.owners.is_started() {
            visits::add(1);
            // All bytes that were allocated before this slice are the first owner's. Each chunk starts with its own
            // next slice, so that the second owner's first request does not pay for all chunks.
            let is_new_end = slice.used_before < slice.padded;
            let touched = if is_new_end { slice.offset + slice.used_before } else { chunk.touched };
            chunk.owners.start(chunk.arena.capacity(), touched, first);
        }
        let end = slice.offset + slice.padded;
        chunk.owners.give(owner, slice.offset, end, chunk.arena.capacity(), cleared) && slice.used_before > 0
    }

    /// Frees a region. Returns whether its chunk is empty now: then the caller [takes](Self::take_leftover) those that
    /// are no longer needed. `how` is recorded, unless the wait's start has recorded it.
    #[inline(always)]
    pub(super) fn free_region(&mut self, place: SlicePlace, how: Option<Action>) -> Result<bool> {
        match self.runs.is_some() {
            true => self.free_in_run(place, how),
            false => self.free_untracked(place, how),
        }
    }

    /// Does the work of [`free_region`](Self::free_region), but for the runs.
    #[inline(always)]
    pub(super) fn free_untracked(&mut self, place: SlicePlace, how: Option<Action>) -> Result<bool> {
        let (handle, id) = place;
        // Destructured, because reading whole a struct that was just written in several words makes the processor wait.
        let (chunk, Region { size, user_data: requested, .. }, idle) =
            self.chunks.free(handle, id).ok_or_else(freed)?;
        let is_empty = idle && chunk.is_empty();
        let tag = chunk.tags.take(id.slot());
        if tag.is_some() || self.recorder.is_some() || self.movables.len() > 0 {
            self.end_names_of_freed(place, (size, requested), tag, how);
        }
        Ok(is_empty)
    }

    /// Ends the names of a region that was freed, and records that.
    fn end_names_of_freed(
        &mut self,
        place: SlicePlace,
        (size, requested): (u64, u64),
        tag: Option<TagId>,
        how: Option<Action>,
    ) {
        let movable = self.movables.forget(place);
        if let (Some(recorder), Some(how), Some(chunk)) = (&mut self.recorder, how, self.chunks.get_mut(place.0)) {
            let tag = movable.map_or_else(|| tag.and_then(|tag| self.tags.name(tag).cloned()), |(_, tag)| tag);
            chunk.record_ended(recorder, place, requested, tag, how);
        }
        if let Some(tag) = tag {
            self.tags.freed(tag, size);
        }
    }

    /// Removes the empty chunks that are no longer needed.
    #[cold]
    pub(super) fn take_leftover(&mut self, layout: &Layout) -> Vec<Chunk> {
        let gone = self.chunks.take_leftover(layout.initial);
        self.record_trimmed(gone)
    }

    /// Removes those chunks that are idle, down to the initial size.
    pub(super) fn remove_idle(&mut self, leftover: &[Leftover], layout: &Layout) -> Vec<Chunk> {
        let gone = self.chunks.remove_idle(leftover, layout.initial);
        self.record_trimmed(gone)
    }

    /// Records the end of a chunk, and that of its slices' waits.
    pub(super) fn chunk_gone(&mut self, chunk: &Chunk) {
        self.waiting.bytes -= chunk.waiting.1;
        if chunk.waiting.0 > 0 {
            self.drop_runs();
        }
        self.note(Action::Trim, chunk.number, chunk.arena.capacity());
    }

    fn record_trimmed(&mut self, gone: Vec<Chunk>) -> Vec<Chunk> {
        gone.iter().for_each(|chunk| self.chunk_gone(chunk));
        gone
    }
}
