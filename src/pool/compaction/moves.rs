//! [`Move`]: one slice on its way to a reserved target.

use std::sync::Arc;

use crate::device::memory::Memory;
use crate::error::Result;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::pool::chunk::{Chunk, ChunkMemory};
use crate::pool::movable_table::SlicePlace;
use crate::pool::state::PoolState;
use crate::pool::Pool;
use crate::suballoc::Region;

/// A slice's place, as reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The chunk's number, counted from 0 as the pool grew.
    pub chunk: u64,
    /// The offset in bytes from the chunk's start.
    pub offset: u64,
}

/// The report of a move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The slice's handle in its pool.
    pub handle: Handle,
    /// The slice's id.
    pub id: AllocationId,
    /// The old place.
    pub from: Location,
    /// The new place.
    pub to: Location,
    /// The requested bytes.
    pub size: u64,
}

/// An in-progress move. Dropping it cancels the move.
#[derive(Debug)]
#[must_use]
pub struct Move<'a> {
    pool: &'a Pool,
    id: Handle,
    view: Option<Handle>,
    from: MoveEndpoint,
    to: MoveEndpoint,
    /// The bytes to copy.
    size: u64,
    /// Whether the target is the hole right below the source. The slice then moves over its own bytes if it is larger.
    slide: bool,
    done: bool,
}

#[derive(Debug)]
struct MoveEndpoint {
    place: SlicePlace,
    location: Location,
    chunk_memory: Arc<ChunkMemory>,
}

impl Pool {
    /// Starts a move of `id` to the reserved region `target`.
    pub(super) fn begin_move<'a>(
        &'a self,
        state: &mut PoolState,
        id: Handle,
        (chunk, target): (Handle, Region),
        slide: bool,
    ) -> Option<Move<'a>> {
        let endpoints = state.movables.get(id).ok().and_then(|movable| {
            let source = state.chunks.get(movable.place.0)?;
            let region = source.arena.get(movable.place.1).ok()?;
            let end = |of: &Chunk, place: SlicePlace, offset: u64| MoveEndpoint {
                place,
                location: Location { chunk: of.number, offset },
                chunk_memory: Arc::clone(&of.chunk_memory),
            };
            let to = end(state.chunks.get(chunk)?, (chunk, target.id), target.offset);
            Some((end(source, movable.place, region.offset), to, region.user_data, movable.view))
        });
        // A reset ends the target's chunk meanwhile, so that the copy meets no new owner.
        let retained = endpoints.filter(|(_, to, ..)| to.chunk_memory.retain());
        let Some((from, to, size, view)) = retained else {
            state.cancel_target((chunk, target.id));
            return None;
        };
        state.movables.set_moving(id, true);
        Some(Move { pool: self, id, view, from, to, size, slide, done: false })
    }
}

impl Move<'_> {
    /// The slice's id. Its owner detaches the views before [`commit`](Self::commit), because no write may reach the old
    /// place any more.
    pub fn id(&self) -> Handle {
        self.id
    }

    /// The id of JavaScript's ArrayBuffer over the slice; `None` without one.
    pub fn view(&self) -> Option<Handle> {
        self.view
    }

    /// The bytes to copy.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The CPU address of the old place.
    pub fn address(&self) -> usize {
        self.from.chunk_memory.base() + self.from.location.offset as usize
    }

    /// Copies the bytes and gives the slice its new place. Returns `None` if the pool was reset or destroyed meanwhile.
    ///
    /// Errors: those of [`Memory::copy`]; the slice then stays in its place.
    pub fn commit(self) -> Result<Option<Moved>> {
        match self.copy_job() {
            Some(job) => job.copy().map(|()| self.complete()),
            None => Ok(None),
        }
    }

    /// The copy to make, on any thread. Returns `None` if the pool was reset or destroyed meanwhile.
    pub(in crate::pool) fn copy_job(&self) -> Option<CopyJob> {
        let (source, target) = (self.from.chunk_memory.memory()?, self.to.chunk_memory.memory()?);
        Some(CopyJob { source, from: self.from.location.offset, target, to: self.to.location.offset, size: self.size })
    }

    /// Gives the slice its new place once the bytes are copied. Returns `None` like [`copy_job`](Self::copy_job).
    pub(in crate::pool) fn complete(mut self) -> Option<Moved> {
        let reuse = &self.pool.reuse;
        let since = reuse.waits().then(|| reuse.now());
        let mut state = self.pool.state();
        let (of, region) = self.from.place;
        let id = state.chunks.get(of)?.id_of(region);
        let movable = state.movables.get(self.id).ok().filter(|movable| movable.place == self.from.place)?;
        let since = since.filter(|_| movable.seen);
        let place = match self.slide {
            false => state.swap(self.from.place, self.to.place, since),
            true => state.swap_down(self.from.place, self.to.place),
        }?;
        state.end_target(self.to.place);
        state.movables.moved(self.id, place);
        state.movables.set_moving(self.id, false);
        if let Some(chunk) = state.chunks.get_mut(place.0) {
            chunk.set_id(place.1, id);
        }
        state.record_move(self.id, id, self.from.place, place, self.size);
        state.chunks.changed(of);
        drop(state);
        self.done = true;
        self.to.chunk_memory.release();
        Some(Moved { handle: self.id, id, from: self.from.location, to: self.to.location, size: self.size })
    }
}

/// The copy of a [`Move`]. It keeps both memories alive, whatever happens to the pool.
#[derive(Debug)]
pub(in crate::pool) struct CopyJob {
    source: Arc<Memory>,
    from: u64,
    target: Arc<Memory>,
    to: u64,
    size: u64,
}

impl CopyJob {
    pub(in crate::pool) fn copy(&self) -> Result<()> {
        self.target.copy(self.to, &self.source, self.from, self.size)
    }
}

impl Drop for Move<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut state = self.pool.state();
            state.movables.set_moving(self.id, false);
            state.cancel_target(self.to.place);
            drop(state);
            self.to.chunk_memory.release();
        }
    }
}
