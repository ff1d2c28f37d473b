//! The state under a pool's mutex: its chunks, its counts, and its delayed and movable slices.

use std::sync::Arc;

use super::chunk::Chunk;
use super::chunk_set::{ChunkSet, HasArena};
use super::delayed_free::DelayedFrees;
use super::layout::Layout;
use super::movable_table::Movables;
use super::pin_table::Pins;
use super::slice::{freed, Slice};
use super::slice_tags::SliceTags;
use crate::accounting::Limit;
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::id::Ids;
use crate::profile::{Action, Recorder};
use crate::suballoc::{Region, RegionId};

#[derive(Debug, Default)]
pub(super) struct PoolState {
    pub(super) chunks: ChunkSet<Chunk>,
    pub(super) failures: u64,
    pub(super) delayed: DelayedFrees,
    /// Slices that compaction may move.
    pub(super) movables: Movables,
    pub(super) pins: Pins,
    pub(super) tags: SliceTags,
    /// The number of chunks ever added.
    pub(super) grown: u64,
    pub(super) destroyed: bool,
    /// Warns when little of the maximum is left.
    pub(super) near: Limit,
    pub(super) recorder: Option<Box<Recorder>>,
    /// The ids of the next slices.
    pub(super) ids: Ids,
}

impl PoolState {
    #[inline]
    pub(super) fn alive(&self, name: &str) -> Result<()> {
        match self.destroyed {
            false => Ok(()),
            true => Err(Error::new(ErrorCode::PoolDestroyed, format!("pool \"{name}\" was destroyed"))),
        }
    }

    /// Allocates from the first chunk that has room ([`ChunkSet::take`]).
    #[inline]
    pub(super) fn take(&mut self, size: u64, alignment: u64) -> Option<Slice> {
        let Self { chunks, ids, .. } = self;
        chunks.take(size, alignment, |handle, chunk, region| slice_of(ids, handle, chunk, region))
    }

    /// The memory of a live slice.
    pub(super) fn memory_of(&self, slice: &Slice) -> Option<Arc<Memory>> {
        self.chunks.get(slice.chunk).map(|chunk| Arc::clone(&chunk.memory))
    }

    /// Allocates from one chunk.
    pub(super) fn take_from(&mut self, handle: Handle, size: u64, alignment: u64) -> Option<Slice> {
        let Self { chunks, ids, .. } = self;
        chunks.take_from(handle, size, alignment, |handle, chunk, region| slice_of(ids, handle, chunk, region))
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
        // Destructured, because reading whole a struct that was just written in several words makes the processor wait.
        let (chunk, Region { size, user_data: requested, .. }) = self.chunks.free(handle, id).ok_or_else(freed)?;
        let movable = self.movables.forget((handle, id));
        let tag = chunk.tags.take(id.slot());
        let is_empty = chunk.is_empty();
        if let (Some(recorder), Some(how)) = (&mut self.recorder, how) {
            let tag = movable.map_or_else(|| tag.and_then(|tag| self.tags.name(tag).cloned()), |(_, tag)| tag);
            chunk.record_ended(recorder, (handle, id), requested, tag, how);
        }
        if let Some(tag) = tag {
            self.tags.freed(tag, size);
        }
        match is_empty {
            true => {
                let gone = self.chunks.take_leftover(layout.initial);
                Ok(self.record_trimmed(gone))
            }
            false => Ok(Vec::new()),
        }
    }

    /// Removes all empty chunks, down to the initial size.
    pub(super) fn take_empty_chunks(&mut self, layout: &Layout) -> Vec<Chunk> {
        let gone = self.chunks.take_empty(layout.initial, 0);
        self.record_trimmed(gone)
    }

    fn record_trimmed(&mut self, gone: Vec<Chunk>) -> Vec<Chunk> {
        gone.iter().for_each(|chunk| self.note(Action::Trim, chunk.number, chunk.arena.capacity()));
        gone
    }
}

/// The slice of a new region.
#[inline(always)]
fn slice_of(ids: &mut Ids, handle: Handle, chunk: &mut Chunk, region: Region) -> Slice {
    let id = ids.next();
    chunk.set_id(region.id, id);
    let used_before = chunk.touched.saturating_sub(region.offset).min(region.size);
    chunk.touched = chunk.touched.max(region.end());
    Slice { id, ..chunk.slice(handle, &region, used_before) }
}
