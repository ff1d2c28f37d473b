//! Compaction: moves slices together, so that free bytes lie in one piece and chunks become empty.
//!
//! A [`Pass`] makes one [`Move`] at a time: it reserves the target, the owner of the slice detaches its view, the bytes
//! are copied, and [`Move::commit`] gives the slice its new place. Dropping a move cancels it, so a pass can stop at
//! any point. Other users may change the pool between two moves: a pass checks everything that it remembers again
//! before use. A slice in a move can be neither pinned nor freed.
//!
//! A pass first surveys every region, some at a time: a time slice of a compaction must be short, however large the
//! pool. Then the movable slices of the last chunks, from the top, go into the first holes that are large enough. If
//! all slices have one size, no order of moves needs fewer bytes. Slices too large for any hole then slide down, over
//! their own bytes if necessary, in those chunks where that helps.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::sync::Arc;

use super::chunk::{Chunk, ChunkMemory};
use super::movable_table::SlicePlace;
use super::state::PoolState;
use super::waiting::{Moment, WaitingSlice};
use super::Pool;
use crate::device::memory::Memory;
use crate::error::Result;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::suballoc::{regions_from, Region, RegionId, SubAllocator};

/// The fragmentation up to which a chunk's slices do not slide.
const NEGLIGIBLE_FRAGMENTATION: f64 = 0.02;

/// One compaction of a pool and its progress.
#[derive(Debug)]
pub struct Pass {
    /// The chunks, from those that fill up to those that empty.
    chunks: Vec<Handle>,
    survey: Survey,
    holes: Holes,
    /// The slices that may still go into a hole; the last one is next.
    candidates: Vec<Candidate>,
    slides: Slides,
    /// The most bytes of a slice that moves.
    largest: u64,
}

impl Pass {
    /// Leaves slices larger than `bytes` where they are. They keep no other slice from moving.
    pub fn skip_larger(&mut self, bytes: u64) {
        self.largest = bytes;
    }
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    id: Handle,
    rank: usize,
    offset: u64,
}

/// The progress of the survey.
#[derive(Debug, Default)]
struct Survey {
    /// The rank of the current chunk.
    rank: usize,
    /// The last surveyed slice of that chunk; `None` at its start.
    seen: Option<RegionId>,
    holes: Vec<(Hole, u64)>,
}

/// The regions of a chunk that were not surveyed yet.
fn unsurveyed(arena: &dyn SubAllocator, seen: Option<RegionId>) -> impl Iterator<Item = Region> + '_ {
    let first = match seen {
        None => Some(arena.first()),
        // The slice was freed meanwhile; a later pass surveys the rest of this chunk.
        Some(seen) => arena.next(seen).ok().flatten(),
    };
    first.into_iter().flat_map(|first| regions_from(arena, first))
}

/// The progress of sliding.
#[derive(Debug, Default)]
struct Slides {
    /// The rank of the current chunk.
    rank: usize,
    /// The last region of that chunk that stays in its place; `None` at the chunk's start.
    last_fixed: Option<RegionId>,
    /// The slices that were tried. Each one is tried once.
    tried: HashSet<Handle>,
}

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

/// A slice above a hole.
struct Slide {
    id: Handle,
    gap: Region,
}

impl Pool {
    /// Starts a compaction. Other users may use the pool throughout.
    ///
    /// Errors: `ERR_POOL_DESTROYED`.
    pub fn start_pass(&self) -> Result<Pass> {
        let state = self.state();
        state.alive(self.name())?;
        let mut chunks = state.chunks.order.clone();
        let filled = |handle: &Handle| state.chunks.get(*handle).map_or(0, |chunk| chunk.arena.allocated());
        // The initial chunk always stays, so it is filled first; then the fullest chunk, which would cost most to
        // empty.
        chunks.sort_by_key(|handle| (Some(*handle) != state.chunks.first, Reverse(filled(handle)), handle.get()));
        Ok(Pass {
            chunks,
            survey: Survey::default(),
            holes: Holes::default(),
            candidates: Vec::new(),
            slides: Slides::default(),
            largest: u64::MAX,
        })
    }

    /// Surveys `most` more slices of the pool and the holes between them; returns true once all are surveyed. The
    /// survey may miss concurrent changes, so every move checks again.
    pub fn survey(&self, pass: &mut Pass, most: usize) -> bool {
        let Pass { chunks, survey, candidates, .. } = pass;
        if survey.rank == chunks.len() {
            return true;
        }
        let state = self.state();
        let mut left = most;
        while let Some(&handle) = chunks.get(survey.rank) {
            let (rank, seen) = (survey.rank, survey.seen);
            let movables = state.movables.of(handle);
            for region in state.chunks.get(handle).into_iter().flat_map(|chunk| unsurveyed(&*chunk.arena, seen)) {
                if left == 0 {
                    return false;
                }
                if !region.used {
                    survey.holes.push((Hole { rank, id: region.id, offset: region.offset }, region.size));
                    continue;
                }
                left -= 1;
                survey.seen = Some(region.id);
                if let Some(id) = movables.and_then(|movables| movables.at(region.id)) {
                    candidates.push(Candidate { id, rank, offset: region.offset });
                }
            }
            (survey.rank, survey.seen) = (rank + 1, None);
        }
        pass.holes = Holes::new(std::mem::take(&mut survey.holes));
        true
    }

    /// Reserves the target of the next move; returns `None` if no move gains anything. Completes the
    /// [survey](Self::survey) if necessary. Moves in flight ([`CopyQueue`](super::CopyQueue)) must complete before
    /// [`next_slide`](Self::next_slide), which works on the pool that they leave.
    pub fn next_move<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        self.next_fill(pass).or_else(|| self.next_slide(pass))
    }

    /// Finds the next move into a hole. Earlier moves may still be in flight.
    pub fn next_fill<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        self.survey(pass, usize::MAX);
        let mut state = self.state();
        match state.destroyed {
            true => None,
            false => self.fill_hole(&mut state, pass),
        }
    }

    /// Finds the next move down, over the slice's own bytes if necessary. Requires that no hole can be filled any more
    /// and that all earlier moves are complete.
    pub fn next_slide<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        let mut state = self.state();
        match state.destroyed {
            true => None,
            false => self.slide_down(&mut state, pass),
        }
    }

    fn fill_hole<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> Option<Move<'a>> {
        while let Some(candidate) = pass.candidates.pop() {
            let Some((source, alignment)) = state.unpinned(candidate.id) else { continue };
            if source.user_data > pass.largest {
                continue;
            }
            while let Some((at, hole)) = pass.holes.first_of(source.size) {
                if (hole.rank, hole.offset) >= (candidate.rank, candidate.offset) {
                    break;
                }
                let chunk = pass.chunks[hole.rank];
                let Some(target) = state.reserve_target(candidate.id, (chunk, hole.id), source.user_data, alignment)
                else {
                    // Another user took the hole, or it is too small once aligned; this pass ignores it from here on.
                    pass.holes.shrink(at, None);
                    continue;
                };
                pass.holes.shrink(at, state.free_after(chunk, target.id));
                return self.begin_move(state, candidate.id, (chunk, target), false);
            }
        }
        None
    }

    fn slide_down<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> Option<Move<'a>> {
        while let Some(&chunk) = pass.chunks.get(pass.slides.rank) {
            let Some(Slide { id, gap }) = state.next_slide(chunk, &mut pass.slides) else {
                pass.slides.rank += 1;
                pass.slides.last_fixed = None;
                continue;
            };
            pass.slides.tried.insert(id);
            if state.unpinned(id).is_none_or(|(source, _)| source.user_data > pass.largest) {
                continue;
            }
            if let Some(target) = state.reserve_target(id, (chunk, gap.id), gap.size, 1) {
                return self.begin_move(state, id, (chunk, target), true);
            }
        }
        None
    }

    /// Starts a move of `id` to the reserved region `target`.
    fn begin_move<'a>(
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
    pub(super) fn copy_job(&self) -> Option<CopyJob> {
        let (source, target) = (self.from.chunk_memory.memory()?, self.to.chunk_memory.memory()?);
        Some(CopyJob { source, from: self.from.location.offset, target, to: self.to.location.offset, size: self.size })
    }

    /// Gives the slice its new place once the bytes are copied. Returns `None` like [`copy_job`](Self::copy_job).
    pub(super) fn complete(mut self) -> Option<Moved> {
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
        drop(state);
        self.done = true;
        self.to.chunk_memory.release();
        Some(Moved { handle: self.id, id, from: self.from.location, to: self.to.location, size: self.size })
    }
}

/// The copy of a [`Move`]. It keeps both memories alive, whatever happens to the pool.
#[derive(Debug)]
pub(super) struct CopyJob {
    source: Arc<Memory>,
    from: u64,
    target: Arc<Memory>,
    to: u64,
    size: u64,
}

impl CopyJob {
    pub(super) fn copy(&self) -> Result<()> {
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

impl PoolState {
    /// The region and alignment of a slice that may move now.
    fn unpinned(&self, id: Handle) -> Option<(Region, u64)> {
        let movable = self.movables.get(id).ok().filter(|movable| movable.may_move())?;
        if self.pins.get(movable.place).is_some() {
            return None;
        }
        let region = self.chunks.get(movable.place.0)?.arena.get(movable.place.1).ok()?;
        Some((region, movable.alignment))
    }

    /// Reserves `size` bytes of a hole for the slice `id`. Counts no slice, because the moving one is counted already.
    fn reserve_target(
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
        // The copy does not reach the padding.
        if !self.owners.are_only(owner) {
            self.give(owner, &slice, false);
        }
        Some(target)
    }

    fn cancel_target(&mut self, (chunk, region): SlicePlace) {
        // A reset or destroy of the pool has freed the target already.
        if let Some(chunk) = self.chunks.get_mut(chunk).filter(|chunk| chunk.arena.get(region).is_ok()) {
            chunk.flags.targets.take(region.slot());
            let _ = chunk.arena.free(region);
        }
    }

    /// The free region right after `region`.
    fn free_after(&self, chunk: Handle, region: RegionId) -> Option<Region> {
        let after = self.chunks.get(chunk)?.arena.next(region).ok().flatten();
        after.filter(|region| !region.used)
    }

    /// Finds the next slice above a hole, after the last region that stays in its place.
    fn next_slide(&self, handle: Handle, slides: &mut Slides) -> Option<Slide> {
        let arena = &self.chunks.get(handle)?.arena;
        if slides.last_fixed.is_none() && arena.fragmentation() <= NEGLIGIBLE_FRAGMENTATION {
            return None;
        }
        loop {
            let next = match slides.last_fixed {
                None => Some(arena.first()),
                // The region was freed meanwhile; a later pass slides the rest of this chunk.
                Some(last_fixed) => arena.next(last_fixed).ok()?,
            }?;
            if next.used {
                slides.last_fixed = Some(next.id);
                continue;
            }
            let above = arena.next(next.id).ok()??;
            if let Some(id) = self.movables.at((handle, above.id)).filter(|id| !slides.tried.contains(id)) {
                let fits = |(_, alignment): &(Region, u64)| next.offset.is_multiple_of(*alignment);
                if self.unpinned(id).is_some_and(|slice| fits(&slice)) {
                    return Some(Slide { id, gap: next });
                }
            }
            slides.last_fixed = Some(above.id);
        }
    }

    /// Ends the time in which no slice counts a target.
    fn end_target(&mut self, (chunk, region): SlicePlace) {
        if let Some(chunk) = self.chunks.get_mut(chunk) {
            chunk.flags.targets.take(region.slot());
        }
    }

    /// Frees the source of a move and keeps its target. `seen`: the source waits before its bytes are used again.
    fn swap(&mut self, from: SlicePlace, to: SlicePlace, seen: Option<Moment>) -> Option<SlicePlace> {
        let chunk = self.chunks.get_mut(from.0)?;
        let source = chunk.arena.get(from.1).ok()?;
        match seen {
            None => drop(chunk.arena.free(from.1).ok()?),
            Some(since) => {
                self.keep_waiting(from, source.size)?;
                self.waiting.push(WaitingSlice { place: from, since, poisoned: false });
            }
        }
        Some(to)
    }

    /// Exchanges the hole below a slice and the slice. Their neighbours may have changed since the move started.
    fn swap_down(&mut self, from: SlicePlace, hole: SlicePlace) -> Option<SlicePlace> {
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

/// The holes in the order of filling, with a tree of maxima over their sizes. It finds the first hole that is large
/// enough in logarithmic time.
#[derive(Debug, Default)]
struct Holes {
    list: Vec<Hole>,
    /// Node 1 is the root, node n has children 2n and 2n + 1, leaves start at `leaves`.
    tree: Vec<u64>,
    leaves: usize,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    rank: usize,
    id: RegionId,
    offset: u64,
}

impl Holes {
    fn new(holes: Vec<(Hole, u64)>) -> Self {
        let leaves = holes.len().next_power_of_two();
        let mut tree = vec![0; 2 * leaves];
        for (at, (_, size)) in holes.iter().enumerate() {
            tree[leaves + at] = *size;
        }
        for node in (1..leaves).rev() {
            tree[node] = tree[2 * node].max(tree[2 * node + 1]);
        }
        Self { list: holes.into_iter().map(|(hole, _)| hole).collect(), tree, leaves }
    }

    /// Finds the first hole of at least `size` bytes.
    fn first_of(&self, size: u64) -> Option<(usize, Hole)> {
        if self.tree.get(1).is_none_or(|largest| *largest < size.max(1)) {
            return None;
        }
        let mut node = 1;
        while node < self.leaves {
            node *= 2;
            if self.tree[node] < size {
                node += 1;
            }
        }
        let at = node - self.leaves;
        Some((at, self.list[at]))
    }

    /// Replaces hole `at` by the rest of it.
    fn shrink(&mut self, at: usize, rest: Option<Region>) {
        if let Some(rest) = rest {
            (self.list[at].id, self.list[at].offset) = (rest.id, rest.offset);
        }
        let mut node = self.leaves + at;
        self.tree[node] = rest.map_or(0, |rest| rest.size);
        while node > 1 {
            node /= 2;
            self.tree[node] = self.tree[2 * node].max(self.tree[2 * node + 1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hole_that_is_large_enough_is_found() {
        for count in 1..20_u64 {
            let size = |at: u64| at * 7919 % 13;
            let hole = |at| Hole { rank: 0, id: RegionId::from_raw(at), offset: at };
            let mut sizes: Vec<u64> = (0..count).map(size).collect();
            let mut holes = Holes::new((0..count).map(|at| (hole(at), size(at))).collect());
            for round in 0..60 {
                let wanted = 1 + round % 13;
                let expected = sizes.iter().position(|size| *size >= wanted);
                assert_eq!(holes.first_of(wanted).map(|(at, _)| at), expected, "{wanted} of {sizes:?}");
                if let Some(at) = expected {
                    sizes[at] -= wanted;
                    let rest =
                        Region { id: RegionId::from_raw(0), offset: 0, size: sizes[at], user_data: 0, used: false };
                    holes.shrink(at, (sizes[at] > 0).then_some(rest));
                }
            }
        }
    }
}
