//! [`ChunkSet`]: the chunks of a pool, the choice of the one that serves a request, and of those that go back.
//!
//! [`Pool`](super::Pool) has a set of chunks with memory, and [`Replay`](super::replay::Replay) one of arenas alone. So
//! a replay follows the pool's policy because it is the same code.
//!
//! No request, free or refusal walks the chunks: a pool may have tens of thousands. [`ChunkOrder`] finds one with room,
//! and lists name those that became empty.
#![forbid(unsafe_code)]

mod leftover;

use super::chunk_order::ChunkOrder;
use super::visits;
use crate::handle::{Handle, Table};
use crate::suballoc::{Region, RegionId, SubAllocator};
pub(super) use leftover::Leftover;

/// The length from which on a list drops the names of chunks that ended, if they are the majority.
const MIN_LISTED: usize = 32;

/// A chunk: at least an arena.
pub(super) trait HasArena {
    fn arena(&self) -> &dyn SubAllocator;
    fn arena_mut(&mut self) -> &mut dyn SubAllocator;

    fn is_empty(&self) -> bool {
        self.arena().used_regions() == 0
    }

    /// Reports whether no slice is live. Freed ones may wait: an operation in flight then reads zeros.
    fn is_idle(&self) -> bool {
        self.is_empty()
    }
}

impl HasArena for Box<dyn SubAllocator> {
    fn arena(&self) -> &dyn SubAllocator {
        &**self
    }

    fn arena_mut(&mut self) -> &mut dyn SubAllocator {
        &mut **self
    }
}

/// A chunk with its entries in the lists.
#[derive(Debug)]
struct Member<C> {
    chunk: C,
    /// The place in the order.
    at: usize,
    /// Whether `empty` has the chunk, and whether `idle` has it.
    in_empty: bool,
    in_idle: bool,
}

impl<C: HasArena> Member<C> {
    /// Lists the chunk, which is idle.
    #[cold]
    fn list(&mut self, handle: Handle, empty: &mut Vec<Handle>, idle: &mut Vec<Handle>) {
        let (list, listed) = match self.chunk.is_empty() {
            true => (empty, &mut self.in_empty),
            false => (idle, &mut self.in_idle),
        };
        if !std::mem::replace(listed, true) {
            list.push(handle);
        }
    }
}

/// The chunks of one pool and their counts. Sizes are in bytes.
#[derive(Debug)]
pub(super) struct ChunkSet<C> {
    chunks: Table<Member<C>>,
    order: ChunkOrder,
    /// The chunk of the last allocation, which the next request tries first.
    front: Option<Handle>,
    /// Chunks that have become empty, and that have become idle with slices that wait. Some may be in use again, or
    /// have ended.
    empty: Vec<Handle>,
    idle: Vec<Handle>,
    /// The initial chunk, which stays.
    pub(super) first: Option<Handle>,
    /// Bytes of chunks, growth in progress included.
    pub(super) reserved: u64,
    /// Bytes of chunks.
    pub(super) capacity: u64,
    pub(super) requested: u64,
    pub(super) allocated: u64,
    pub(super) peak_allocated: u64,
    /// The number of live slices.
    pub(super) live: u64,
    /// The number of slices ever allocated.
    pub(super) allocations: u64,
    /// The chunks that requests have tried.
    #[cfg(test)]
    pub(super) tries: usize,
}

impl<C> Default for ChunkSet<C> {
    fn default() -> Self {
        Self {
            chunks: Table::new(),
            order: ChunkOrder::default(),
            front: None,
            empty: Vec::new(),
            idle: Vec::new(),
            first: None,
            reserved: 0,
            capacity: 0,
            requested: 0,
            allocated: 0,
            peak_allocated: 0,
            live: 0,
            allocations: 0,
            #[cfg(test)]
            tries: 0,
        }
    }
}

impl<C: HasArena> ChunkSet<C> {
    /// Makes an empty set of chunks whose regions all have the alignment `granule`.
    pub(super) fn new(granule: u64) -> Self {
        let mut set = Self::default();
        set.order.set_granule(granule);
        set
    }

    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    #[inline]
    pub(super) fn get(&self, handle: Handle) -> Option<&C> {
        self.chunks.get(handle).map(|member| &member.chunk)
    }

    /// A chunk to change. A caller that frees regions in it calls [`changed`](Self::changed) afterwards.
    #[inline]
    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut C> {
        self.chunks.get_mut(handle).map(|member| &mut member.chunk)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &C)> {
        self.chunks.iter().map(|(handle, member)| (handle, &member.chunk))
    }

    /// The chunks of `most` slots from slot `from` on, so that a walk over all of them can pause.
    pub(super) fn iter_from(&self, from: usize, most: usize) -> impl Iterator<Item = (Handle, &C)> {
        self.chunks.iter_from(from, most).map(|(handle, member)| (handle, &member.chunk))
    }

    /// The number of slots of chunks, vacant ones included.
    pub(super) fn slots(&self) -> usize {
        self.chunks.slots()
    }

    /// The chunks in the order of trying.
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.order.handles()
    }

    /// Adds a chunk whose bytes `reserved` counts already. Requests try it last.
    pub(super) fn add(&mut self, chunk: C) -> Handle {
        if self.order.len() == 1 {
            // The bounds of a set of one chunk are not kept.
            let only = self.order.handles().next();
            only.into_iter().for_each(|only| self.refresh(only));
        }
        let room = chunk.arena().capacity();
        self.capacity += room;
        let handle = self.chunks.insert(Member { chunk, at: 0, in_empty: false, in_idle: false });
        let at = self.order.push(handle, room);
        if let Some(member) = self.chunks.get_mut(handle) {
            member.at = at;
        }
        self.list(handle);
        handle
    }

    /// Removes a chunk. `reserved` counts its bytes until the caller subtracts them.
    fn remove(&mut self, handle: Handle) -> Option<C> {
        let Member { chunk, at, .. } = self.chunks.remove(handle)?;
        self.capacity -= chunk.arena().capacity();
        self.front = self.front.filter(|front| *front != handle);
        if self.order.remove(at) {
            let chunks = &mut self.chunks;
            self.order.pack(|handle, at| {
                if let Some(member) = chunks.get_mut(handle) {
                    member.at = at;
                }
            });
        }
        for list in [&mut self.empty, &mut self.idle] {
            if list.len() > MIN_LISTED + 2 * self.chunks.len() {
                list.retain(|handle| self.chunks.get(*handle).is_some());
            }
        }
        Some(chunk)
    }

    /// Allocates from the chunk of the last allocation. Returns the result of `found`.
    #[inline(always)]
    pub(super) fn take_front<T>(
        &mut self,
        size: u64,
        alignment: u64,
        found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        self.allocate_in(self.front?, size, alignment, found)
    }

    /// Allocates from the chunk of the last allocation, or else from the first one that has room. Returns the result of
    /// `found`.
    #[inline]
    pub(super) fn take<T>(
        &mut self,
        size: u64,
        alignment: u64,
        mut found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        match self.take_front(size, alignment, &mut found) {
            None => self.take_in_order(size, alignment, found),
            taken => taken,
        }
    }

    fn take_in_order<T>(
        &mut self,
        size: u64,
        alignment: u64,
        mut found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        if self.order.len() < 2 {
            let only = self.order.handles().next().filter(|only| Some(*only) != self.front)?;
            self.front = Some(only);
            return self.take_from(only, size, alignment, found);
        }
        let class = self.order.class_of(alignment);
        if let Some(front) = self.front {
            self.refused(front, class, size);
        }
        while let Some((_, handle)) = self.order.first_with(class, size) {
            if let Some(taken) = self.take_from(handle, size, alignment, &mut found) {
                self.front = Some(handle);
                return Some(taken);
            }
            self.refused(handle, class, size);
        }
        None
    }

    /// Lowers the bounds of a chunk that refused a request of `size` bytes. Those of other alignments too: they would
    /// stay too high for as long as no request has theirs, and [`largest_free`](Self::largest_free) looks at each
    /// chunk whose bound is too high.
    fn refused(&mut self, handle: Handle, class: usize, size: u64) {
        let Some(Member { chunk, at, .. }) = self.chunks.get(handle) else { return };
        if self.order.bound(class, *at) >= size {
            let room = chunk.arena().largest_free();
            self.order.lower_all(*at, room);
            self.order.lower(class, *at, room.min(size - 1));
        }
    }

    /// Like [`take`](Self::take), from one chunk.
    pub(super) fn take_from<T>(
        &mut self,
        handle: Handle,
        size: u64,
        alignment: u64,
        found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        let taken = self.allocate_in(handle, size, alignment, found)?;
        // A chunk that was just added is the last in the list.
        if self.empty.last() == Some(&handle) {
            self.empty.pop();
            self.chunks.get_mut(handle).into_iter().for_each(|member| member.in_empty = false);
        }
        Some(taken)
    }

    #[inline(always)]
    fn allocate_in<T>(
        &mut self,
        handle: Handle,
        size: u64,
        alignment: u64,
        mut found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        #[cfg(test)]
        (self.tries += 1);
        let chunk = &mut self.chunks.get_mut(handle)?.chunk;
        let region = chunk.arena_mut().allocate(size, alignment, size)?;
        self.live += 1;
        self.allocations += 1;
        self.requested += size;
        self.allocated += region.size;
        self.peak_allocated = self.peak_allocated.max(self.allocated);
        Some(found(handle, chunk, region))
    }

    /// Frees a region. Returns its chunk, the region as it was, and whether the chunk has become idle; `None` for a
    /// stale name.
    #[inline(always)]
    pub(super) fn free(&mut self, handle: Handle, id: RegionId) -> Option<(&mut C, Region, bool)> {
        let member = self.chunks.get_mut(handle)?;
        let region = member.chunk.arena_mut().free(id).ok()?;
        self.live -= 1;
        self.requested -= region.user_data;
        self.allocated -= region.size;
        if self.order.len() > 1 {
            self.order.raise(member.at, member.chunk.arena().last_freed());
        }
        let idle = member.chunk.is_idle();
        if idle {
            member.list(handle, &mut self.empty, &mut self.idle);
        }
        Some((&mut member.chunk, region, idle))
    }

    /// Updates the index for a chunk in which regions were freed.
    pub(super) fn changed(&mut self, handle: Handle) {
        if self.order.len() > 1 {
            self.refresh(handle);
        }
        self.list(handle);
    }

    /// Updates the index for a chunk in which a region was allocated without a request.
    pub(super) fn lower(&mut self, handle: Handle) {
        if self.order.len() > 1 {
            self.refresh(handle);
        }
    }

    fn refresh(&mut self, handle: Handle) {
        if let Some(Member { chunk, at, .. }) = self.chunks.get(handle) {
            self.order.set(*at, chunk.arena().largest_free());
        }
    }

    /// Lists a chunk if it is idle, because its last slice may have started to wait.
    #[cold]
    pub(super) fn list(&mut self, handle: Handle) {
        if let Some(member) = self.chunks.get_mut(handle).filter(|member| member.chunk.is_idle()) {
            member.list(handle, &mut self.empty, &mut self.idle);
        }
    }

    /// Removes the chunks that `keep` does not keep, which it may change.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&mut C) -> bool) -> Vec<C> {
        let handles: Vec<_> = self.handles().collect();
        let mut gone = Vec::new();
        for handle in handles {
            match self.get_mut(handle).is_some_and(&mut keep) {
                true => self.changed(handle),
                false => gone.extend(self.remove(handle)),
            }
        }
        self.reserved -= gone.iter().map(|chunk| chunk.arena().capacity()).sum::<u64>();
        gone
    }

    /// The largest free region of any chunk.
    pub(super) fn largest_free(&self) -> u64 {
        let largest = |handle| {
            visits::add(1);
            self.get(handle).map_or(0, |chunk| chunk.arena().largest_free())
        };
        match self.order.len() > 1 {
            true => self.order.largest(largest),
            false => self.order.handles().next().map_or(0, largest),
        }
    }

    /// Checks the index against the chunks.
    pub(super) fn check(&self) -> Result<(), String> {
        let capacity: u64 = self.iter().map(|(_, chunk)| chunk.arena().capacity()).sum();
        if (capacity, self.chunks.len()) != (self.capacity, self.order.handles().count()) {
            return Err(format!("the chunks have {capacity} bytes, and {} are counted", self.capacity));
        }
        for (handle, member) in self.chunks.iter() {
            let Member { chunk, at, in_empty, in_idle } = member;
            if self.order.at(*at) != Some(handle) {
                return Err(format!("{handle:?} is not at its place in the order"));
            }
            let listed = if chunk.is_empty() { *in_empty } else { *in_idle };
            if chunk.is_idle() && Some(handle) != self.first && !listed {
                return Err(format!("{handle:?} is idle and not listed"));
            }
            if (*in_empty, *in_idle) != (self.empty.contains(&handle), self.idle.contains(&handle)) {
                return Err(format!("the lists of empty chunks disagree about {handle:?}"));
            }
            let (room, bound) = (chunk.arena().largest_free(), self.order.bound(0, *at));
            if self.order.len() > 1 && bound < room {
                return Err(format!("{handle:?} has room for {room}, more than its bound, {bound}"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
