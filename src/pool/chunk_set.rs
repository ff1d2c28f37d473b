//! [`ChunkSet`]: the chunks of a pool, the order in which requests try them, and the choice of those that go back.
//!
//! [`Pool`](super::Pool) has a set of chunks with memory, and [`Replay`](super::replay::Replay) one of arenas alone. So
//! a replay follows the pool's policy because it is the same code.
#![forbid(unsafe_code)]

use std::cmp::Reverse;

use crate::handle::{Handle, Table};
use crate::suballoc::{Region, RegionId, SubAllocator};

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

/// The chunks of one pool and their counts. Sizes are in bytes.
#[derive(Debug)]
pub(super) struct ChunkSet<C> {
    chunks: Table<C>,
    /// Handles of `chunks`, in the order of trying.
    pub(super) order: Vec<Handle>,
    /// The initial chunk, which stays.
    pub(super) first: Option<Handle>,
    /// Bytes of chunks, growth in progress included.
    pub(super) reserved: u64,
    pub(super) requested: u64,
    pub(super) allocated: u64,
    pub(super) peak_allocated: u64,
    /// The number of live slices.
    pub(super) live: u64,
    /// The number of slices ever allocated.
    pub(super) allocations: u64,
}

impl<C> Default for ChunkSet<C> {
    fn default() -> Self {
        Self {
            chunks: Table::new(),
            order: Vec::new(),
            first: None,
            reserved: 0,
            requested: 0,
            allocated: 0,
            peak_allocated: 0,
            live: 0,
            allocations: 0,
        }
    }
}

impl<C: HasArena> ChunkSet<C> {
    pub(super) fn len(&self) -> usize {
        self.chunks.len()
    }

    #[inline]
    pub(super) fn get(&self, handle: Handle) -> Option<&C> {
        self.chunks.get(handle)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, handle: Handle) -> Option<&mut C> {
        self.chunks.get_mut(handle)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Handle, &C)> {
        self.chunks.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut C)> {
        self.chunks.iter_mut()
    }

    /// Adds a chunk whose bytes `reserved` counts already. Requests try it last.
    pub(super) fn add(&mut self, chunk: C) -> Handle {
        let handle = self.chunks.insert(chunk);
        self.order.push(handle);
        handle
    }

    /// Removes a chunk that is no longer in `order`.
    pub(super) fn remove(&mut self, handle: Handle) -> Option<C> {
        self.chunks.remove(handle)
    }

    /// Allocates from the first chunk that has room, and returns the result of `found`. The chunk of the last
    /// allocation is tried first.
    #[inline]
    pub(super) fn take<T>(
        &mut self,
        size: u64,
        alignment: u64,
        mut found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        for at in 0..self.order.len() {
            if let Some(taken) = self.take_from(self.order[at], size, alignment, &mut found) {
                self.order.swap(0, at);
                return Some(taken);
            }
        }
        None
    }

    /// Like [`take`](Self::take), from one chunk.
    #[inline]
    pub(super) fn take_from<T>(
        &mut self,
        handle: Handle,
        size: u64,
        alignment: u64,
        mut found: impl FnMut(Handle, &mut C, Region) -> T,
    ) -> Option<T> {
        let chunk = self.chunks.get_mut(handle)?;
        let region = chunk.arena_mut().allocate(size, alignment, size)?;
        self.live += 1;
        self.allocations += 1;
        self.requested += size;
        self.allocated += region.size;
        self.peak_allocated = self.peak_allocated.max(self.allocated);
        Some(found(handle, chunk, region))
    }

    /// Frees a region. Returns its chunk and the region as it was; `None` for a stale name.
    #[inline]
    pub(super) fn free(&mut self, handle: Handle, id: RegionId) -> Option<(&mut C, Region)> {
        let chunk = self.chunks.get_mut(handle)?;
        let region = chunk.arena_mut().free(id).ok()?;
        self.live -= 1;
        self.requested -= region.user_data;
        self.allocated -= region.size;
        Some((chunk, region))
    }

    /// Removes the empty chunks that a free has left over. Keeps one, so that the next request does not ask the driver
    /// again.
    pub(super) fn take_leftover(&mut self, initial: u64) -> Vec<C> {
        match self.order.len() > 1 {
            true => self.take_empty(initial, 1),
            false => Vec::new(),
        }
    }

    /// Removes empty chunks but `keep` of them, down to `initial` bytes. If none is kept, idle ones go too.
    pub(super) fn take_empty(&mut self, initial: u64, keep: usize) -> Vec<C> {
        let mut empty: Vec<Handle> = self
            .order
            .iter()
            .copied()
            .filter(|handle| Some(*handle) != self.first)
            .filter(|handle| self.chunks.get(*handle).is_some_and(if keep == 0 { C::is_idle } else { C::is_empty }))
            .collect();
        let bytes_of = |set: &Self, handle| set.chunks.get(handle).map_or(0, |chunk| chunk.arena().capacity());
        if keep == 0 {
            // Sorts small chunks last, so that one large chunk does not stay for the whole initial size.
            empty.sort_by_key(|handle| Reverse(bytes_of(self, *handle)));
        }
        let mut gone = Vec::new();
        for handle in empty.into_iter().skip(keep) {
            let bytes = bytes_of(self, handle);
            if self.reserved - bytes < initial {
                continue;
            }
            self.order.retain(|kept| *kept != handle);
            self.reserved -= bytes;
            gone.extend(self.chunks.remove(handle));
        }
        gone
    }

    /// The largest slice for which a chunk has room.
    pub(super) fn largest_free(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.arena().largest_free()).max().unwrap_or(0)
    }
}
