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
use std::sync::Arc;

use super::chunk::{Chunk, ChunkMemory};
use super::max_tree::MaxTree;
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

/// The slices, holes or regions that one critical section visits at most, however large the pool: other threads wait
/// for its lock meanwhile.
pub(super) const SEARCH_STEP: usize = 256;

/// One compaction of a pool and its progress.
#[derive(Debug)]
pub struct Pass {
    /// The number of the pass in its pool.
    number: u64,
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
}

/// The result of one step of the search for a move.
#[derive(Debug)]
#[must_use]
pub enum SearchStep<'a> {
    /// A move, whose target is reserved.
    Found(Move<'a>),
    /// None so far: the next step continues there.
    Paused,
    /// There is none.
    Exhausted,
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
        let (number, mut chunks): (_, Vec<_>) = {
            let mut state = self.state();
            state.alive(self.name())?;
            state.passes += 1;
            // The initial chunk always stays, so it is filled first; then the fullest chunk, which would cost most to
            // empty.
            let filled = |handle: Handle| state.chunks.get(handle).map_or(0, |chunk| chunk.arena.allocated());
            let key = |handle| (Some(handle) != state.chunks.first, Reverse(filled(handle)), handle);
            (state.passes, state.chunks.handles().map(key).collect())
        };
        chunks.sort_unstable();
        Ok(Pass {
            number,
            chunks: chunks.into_iter().map(|(_, _, handle)| handle).collect(),
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
        let (mut left, mut chunks_left) = (most, SEARCH_STEP.max(most));
        // Outside the lock: the tables of a large pool take long to grow.
        survey.holes.reserve(most.min(SEARCH_STEP) + 1);
        candidates.reserve(most.min(SEARCH_STEP));
        {
            let state = self.state();
            while let Some(&handle) = chunks.get(survey.rank) {
                if chunks_left == 0 {
                    return false;
                }
                chunks_left -= 1;
                let (rank, seen) = (survey.rank, survey.seen);
                let movables = state.movables.of(handle);
                for region in state.chunks.get(handle).into_iter().flat_map(|chunk| unsurveyed(&*chunk.arena, seen)) {
                    if left == 0 {
                        return false;
                    }
                    #[cfg(test)]
                    visits::add();
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
        while !self.survey(pass, SEARCH_STEP) {}
        search(|| self.search_fill(pass))
    }

    /// Finds the next move down, over the slice's own bytes if necessary. Requires that no hole can be filled any more
    /// and that all earlier moves are complete.
    pub fn next_slide<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        search(|| self.search_slide(pass))
    }

    /// Runs one step of [`next_fill`](Self::next_fill), of which the lock is held for a bounded time. Requires a
    /// complete survey.
    pub fn search_fill<'a>(&'a self, pass: &mut Pass) -> SearchStep<'a> {
        let mut state = self.state();
        match state.destroyed {
            true => SearchStep::Exhausted,
            false => self.fill_hole(&mut state, pass),
        }
    }

    /// Runs one step of [`next_slide`](Self::next_slide), of which the lock is held for a bounded time.
    pub fn search_slide<'a>(&'a self, pass: &mut Pass) -> SearchStep<'a> {
        let mut state = self.state();
        match state.destroyed {
            true => SearchStep::Exhausted,
            false => self.slide_down(&mut state, pass),
        }
    }

    fn fill_hole<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> SearchStep<'a> {
        let mut left = SEARCH_STEP;
        while let Some(candidate) = pass.candidates.pop() {
            left = left.saturating_sub(1);
            #[cfg(test)]
            visits::add();
            let slice = state.unpinned(candidate.id).filter(|(source, _)| source.user_data <= pass.largest);
            while let Some((source, alignment)) = slice {
                let Some((at, hole)) = pass.holes.first_of(source.size) else { break };
                if (hole.rank, hole.offset) >= (candidate.rank, candidate.offset) {
                    break;
                }
                if left == 0 {
                    pass.candidates.push(candidate);
                    return SearchStep::Paused;
                }
                left -= 1;
                let chunk = pass.chunks[hole.rank];
                let Some(target) = state.reserve_target(candidate.id, (chunk, hole.id), source.user_data, alignment)
                else {
                    // Another user took the hole, or it is too small once aligned; this pass ignores it from here on.
                    pass.holes.shrink(at, None);
                    continue;
                };
                pass.holes.shrink(at, state.free_after(chunk, target.id));
                match self.begin_move(state, candidate.id, (chunk, target), false) {
                    Some(step) => return SearchStep::Found(step),
                    None => break,
                }
            }
            if left == 0 {
                return SearchStep::Paused;
            }
        }
        SearchStep::Exhausted
    }

    fn slide_down<'a>(&'a self, state: &mut PoolState, pass: &mut Pass) -> SearchStep<'a> {
        let mut left = SEARCH_STEP;
        while let Some(&chunk) = pass.chunks.get(pass.slides.rank) {
            let found = state.next_slide(chunk, pass.number, &mut pass.slides, &mut left);
            if left == 0 && found.is_none() {
                return SearchStep::Paused;
            }
            let Some(Slide { id, gap }) = found else {
                left -= 1;
                pass.slides.rank += 1;
                pass.slides.last_fixed = None;
                continue;
            };
            state.movables.set_tried(id, pass.number);
            if state.unpinned(id).is_none_or(|(source, _)| source.user_data > pass.largest) {
                continue;
            }
            if let Some(target) = state.reserve_target(id, (chunk, gap.id), gap.size, 1) {
                match self.begin_move(state, id, (chunk, target), true) {
                    Some(step) => return SearchStep::Found(step),
                    None => return SearchStep::Exhausted,
                }
            }
        }
        SearchStep::Exhausted
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

/// Runs steps until one has a result.
fn search<'a>(mut step: impl FnMut() -> SearchStep<'a>) -> Option<Move<'a>> {
    loop {
        match step() {
            SearchStep::Found(found) => return Some(found),
            SearchStep::Paused => {}
            SearchStep::Exhausted => return None,
        }
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
        state.chunks.changed(of);
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

    fn cancel_target(&mut self, (handle, region): SlicePlace) {
        // A reset or destroy of the pool has freed the target already.
        if let Some(chunk) = self.chunks.get_mut(handle).filter(|chunk| chunk.arena.get(region).is_ok()) {
            chunk.flags.targets.take(region.slot());
            let _ = chunk.arena.free(region);
            self.chunks.changed(handle);
        }
    }

    /// The free region right after `region`.
    fn free_after(&self, chunk: Handle, region: RegionId) -> Option<Region> {
        let after = self.chunks.get(chunk)?.arena.next(region).ok().flatten();
        after.filter(|region| !region.used)
    }

    /// Finds the next slice above a hole, after the last region that stays in its place. Visits `left` regions at most.
    fn next_slide(&self, handle: Handle, pass: u64, slides: &mut Slides, left: &mut usize) -> Option<Slide> {
        let arena = &self.chunks.get(handle)?.arena;
        if slides.last_fixed.is_none() && arena.fragmentation() <= NEGLIGIBLE_FRAGMENTATION {
            return None;
        }
        loop {
            *left = left.checked_sub(1)?;
            #[cfg(test)]
            visits::add();
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
            if let Some(id) = self.movables.at((handle, above.id)).filter(|id| !self.movables.was_tried(*id, pass)) {
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

/// The holes in the order of filling, with a tree of maxima over their sizes.
#[derive(Debug, Default)]
struct Holes {
    list: Vec<Hole>,
    sizes: MaxTree,
}

#[derive(Clone, Copy, Debug)]
struct Hole {
    rank: usize,
    id: RegionId,
    offset: u64,
}

impl Holes {
    fn new(holes: Vec<(Hole, u64)>) -> Self {
        let sizes = MaxTree::new(holes.iter().map(|(_, size)| *size));
        Self { list: holes.into_iter().map(|(hole, _)| hole).collect(), sizes }
    }

    /// Finds the first hole of at least `size` bytes.
    fn first_of(&self, size: u64) -> Option<(usize, Hole)> {
        let at = self.sizes.first_at_least(size)?;
        Some((at, self.list[at]))
    }

    /// Replaces hole `at` by the rest of it.
    fn shrink(&mut self, at: usize, rest: Option<Region>) {
        if let Some(rest) = rest {
            (self.list[at].id, self.list[at].offset) = (rest.id, rest.offset);
        }
        self.sizes.set(at, rest.map_or(0, |rest| rest.size));
    }
}

/// The slices, holes and regions that searches have visited, for tests that count work.
#[cfg(test)]
mod visits {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add() {
        VISITS.set(VISITS.get() + 1);
    }

    /// Returns the visits since the last call.
    pub(super) fn take() -> usize {
        VISITS.replace(0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::memory::{PageOptions, Source};
    use crate::pool::Layout;
    use crate::sys::page::page_size;

    /// A pool of one chunk with `fixed` slices that cannot move, of which every second one was freed, and movable ones
    /// above them, which fit into no hole.
    fn scattered(fixed: u64, movable: u64) -> Pool {
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        let size = ((fixed + 4 * movable) * 64).next_multiple_of(page_size());
        let layout = Layout { initial: size, max: size, chunk: size, block: None, alignment: 64, delay: 0 };
        let pool = Pool::new(None, source, layout, None).unwrap();
        let slices: Vec<_> = (0..fixed).map(|_| pool.allocate(64, 64).unwrap()).collect();
        for _ in 0..movable {
            pool.allocate_movable(128, 64, None).unwrap();
        }
        slices.iter().step_by(2).for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
        pool
    }

    /// Counts visits, not time: how long the lock is held does not depend on the size of the pool.
    #[test]
    fn no_step_visits_more_than_its_share_of_a_large_pool() {
        let pool = scattered(20_000, 5_000);
        let mut pass = pool.start_pass().unwrap();
        let (mut steps, mut all) = (0, 0);
        let mut visited = |most: usize| {
            let visits = visits::take();
            assert!(visits <= most, "{visits} visits in one step");
            (steps, all) = (steps + 1, all + visits);
        };
        visits::take();
        while !pool.survey(&mut pass, SEARCH_STEP) {
            // The holes between the slices, too.
            visited(2 * SEARCH_STEP + 1);
        }
        visited(2 * SEARCH_STEP + 1);
        while let SearchStep::Paused = pool.search_fill(&mut pass) {
            visited(SEARCH_STEP);
        }
        visited(SEARCH_STEP);
        while let SearchStep::Paused = pool.search_slide(&mut pass) {
            visited(SEARCH_STEP);
        }
        visited(SEARCH_STEP);
        assert!(all > 30_000 && steps > 100, "{all} visits in {steps} steps");
    }
}
