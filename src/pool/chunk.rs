//! A chunk: one piece of memory with a suballocator, and the lifetime of its addresses.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;

use super::chunk_set::HasArena;
use super::movable_table::SlicePlace;
use super::owners::LastOwners;
use super::slice::Slice;
use super::slice_tags::TagId;
use super::slot_map::SlotMap;
use crate::device::memory::Memory;
use crate::device::unretired;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::profile::{Action, Key, Recorder};
use crate::suballoc::{regions, Region, RegionId, SubAllocator};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::held_addresses::HeldAddresses;

/// The memory of a chunk, kept alive by the pool and by every ArrayBuffer over a slice of it.
///
/// The pool ends the memory ([`end`](Self::end)). The addresses end with the last owner of this struct, and only if
/// every finalizer reported that no ArrayBuffer reaches them any more.
#[derive(Debug)]
pub struct ChunkMemory {
    base: usize,
    state: Mutex<ChunkMemoryState>,
    addresses: Arc<HeldAddresses>,
    /// The lost slices of the pool.
    lost_of_pool: Arc<LostSlices>,
}

#[derive(Debug)]
struct ChunkMemoryState {
    /// `None` once ended.
    memory: Option<Arc<Memory>>,
    /// The number of holds by sharers of a slice. The memory stays for them.
    holds: usize,
    /// Set once the pool has ended the memory.
    ending: bool,
    /// The number and the bytes of this chunk's lost slices.
    lost: (u64, u64),
}

/// The slices of a pool's chunks that are never used again.
#[derive(Debug, Default)]
pub(super) struct LostSlices {
    slices: AtomicU64,
    bytes: AtomicU64,
}

impl LostSlices {
    fn add(&self, slices: u64, bytes: u64) {
        self.slices.fetch_add(slices, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    fn subtract(&self, (slices, bytes): (u64, u64)) {
        self.slices.fetch_sub(slices, Relaxed);
        self.bytes.fetch_sub(bytes, Relaxed);
    }

    /// Their number and their bytes.
    pub(super) fn get(&self) -> (u64, u64) {
        (self.slices.load(Relaxed), self.bytes.load(Relaxed))
    }
}

impl ChunkMemory {
    fn new(memory: &Arc<Memory>, lost_of_pool: &Arc<LostSlices>) -> Arc<Self> {
        let state = ChunkMemoryState { memory: Some(Arc::clone(memory)), holds: 0, ending: false, lost: (0, 0) };
        Arc::new(Self {
            base: memory.mapping().address() as usize,
            state: Mutex::new(state),
            addresses: Arc::default(),
            lost_of_pool: Arc::clone(lost_of_pool),
        })
    }

    /// The CPU address of the first byte.
    pub fn base(&self) -> usize {
        self.base
    }

    /// The memory; `None` once ended.
    pub fn memory(&self) -> Option<Arc<Memory>> {
        self.state().memory.clone()
    }

    /// Frees the memory, once the last [`retain`](Self::retain) is undone, and leaves zeros at its addresses. If the
    /// kernel accepts no zeros, the memory is lost for now ([`unretired`]).
    pub fn end(&self) {
        let memory = {
            let mut state = self.state();
            state.ending = true;
            self.lost_of_pool.subtract(std::mem::take(&mut state.lost));
            match state.holds {
                0 => state.memory.take(),
                _ => None,
            }
        };
        if let Some(memory) = memory {
            unretired::retire_or_keep(memory, &self.addresses);
        }
    }

    /// Keeps the memory for a sharer of a slice, whatever happens to the pool. Returns false if the memory is ending
    /// already.
    pub fn retain(&self) -> bool {
        let mut state = self.state();
        let there = !state.ending;
        state.holds += usize::from(there);
        there
    }

    /// Undoes one [`retain`](Self::retain).
    pub fn release(&self) {
        let over = {
            let mut state = self.state();
            state.holds = state.holds.saturating_sub(1);
            state.ending && state.holds == 0
        };
        if over {
            self.end();
        }
    }

    /// Reports whether a sharer holds the memory, or a move has its target there. A reset of the pool then ends the
    /// memory, so that no next owner meets them.
    pub fn is_retained(&self) -> bool {
        self.state().holds > 0
    }

    /// Keeps the addresses out of use until the process ends, because an ArrayBuffer may reach a slice.
    pub fn quarantine_forever(&self) {
        self.addresses.quarantine_forever();
    }

    /// Like [`quarantine_forever`](Self::quarantine_forever), for a slice of `bytes` that its pool never gets back. The
    /// pool counts it until the chunk ends.
    pub fn lose_slice(&self, bytes: u64) {
        {
            let mut state = self.state();
            if !state.ending {
                state.lost = (state.lost.0 + 1, state.lost.1 + bytes);
                self.lost_of_pool.add(1, bytes);
            }
        }
        self.quarantine_forever();
    }

    fn state(&self) -> MutexGuard<'_, ChunkMemoryState> {
        self.state.lock()
    }
}

impl Drop for ChunkMemory {
    fn drop(&mut self) {
        self.end();
        self.addresses.end();
    }
}

/// A piece of a pool's memory with its suballocator.
#[derive(Debug)]
pub(super) struct Chunk {
    /// The number of the chunk, counted from 0 as the pool grew.
    pub(super) number: u64,
    pub(super) chunk_memory: Arc<ChunkMemory>,
    pub(super) arena: Box<dyn SubAllocator>,
    /// The end of the bytes that were ever allocated. The bytes behind it are as the source gave them.
    pub(super) touched: u64,
    /// The NPU's address of the start.
    pub(super) device_address: Option<u64>,
    pub(super) flags: RegionFlags,
    /// The ids of the slices, by the slots of their regions.
    ids: Vec<AllocationId>,
    /// The number and the bytes of freed slices that wait.
    pub(super) waiting: (u64, u64),
    pub(super) owners: LastOwners,
    /// The tags of the slices, by the slots of their regions.
    pub(super) tags: SlotMap<TagId>,
    pub(super) cleared: Arc<ClearedMemory>,
}

/// The memory of a chunk, for a thread that clears a new slice. One count of references keeps both alive. The chunk's
/// end drops it.
#[derive(Debug)]
pub(super) struct ClearedMemory {
    /// The memory, so that clearing needs no lock.
    pub(super) memory: Arc<Memory>,
    /// The owner of the addresses.
    _addresses: Arc<ChunkMemory>,
}

impl Chunk {
    pub(super) fn new(memory: Memory, arena: Box<dyn SubAllocator>, lost: &Arc<LostSlices>) -> Self {
        let device_address = memory.object().and_then(|object| object.device_address);
        let memory = Arc::new(memory);
        let chunk_memory = ChunkMemory::new(&memory, lost);
        Self {
            number: 0,
            cleared: Arc::new(ClearedMemory { memory, _addresses: Arc::clone(&chunk_memory) }),
            chunk_memory,
            tags: SlotMap::default(),
            arena,
            touched: 0,
            device_address,
            flags: RegionFlags::default(),
            ids: Vec::new(),
            waiting: (0, 0),
            owners: LastOwners::default(),
        }
    }

    /// The slice of a live region.
    pub(super) fn slice(&self, chunk: Handle, region: &Region, used_before: u64) -> Slice {
        self.slice_of(self.id_of(region.id), chunk, region, used_before)
    }

    /// The slice of a new region, which has the id `id` from now on.
    #[inline(always)]
    pub(super) fn touch(&mut self, chunk: Handle, region: &Region, id: AllocationId) -> Slice {
        self.set_id(region.id, id);
        let used_before = self.touched.saturating_sub(region.offset).min(region.size);
        self.touched = self.touched.max(region.end());
        self.slice_of(id, chunk, region, used_before)
    }

    #[inline(always)]
    fn slice_of(&self, id: AllocationId, chunk: Handle, region: &Region, used_before: u64) -> Slice {
        Slice {
            id,
            chunk,
            region: region.id,
            offset: region.offset,
            padded: region.size,
            address: self.chunk_memory.base() + region.offset as usize,
            device_address: self.device_address.map(|address| address + region.offset),
            used_before,
        }
    }

    /// The id of the slice that has this region.
    #[inline]
    pub(super) fn id_of(&self, region: RegionId) -> AllocationId {
        self.ids.get(region.slot() as usize).copied().unwrap_or_default()
    }

    /// Sets the id of the slice that has this region.
    #[inline(always)]
    pub(super) fn set_id(&mut self, region: RegionId, id: AllocationId) {
        match self.ids.get_mut(region.slot() as usize) {
            Some(place) => *place = id,
            None => self.add_id(region, id),
        }
    }

    #[cold]
    fn add_id(&mut self, region: RegionId, id: AllocationId) {
        self.ids.resize(region.slot() as usize + 1, AllocationId::default());
        self.ids[region.slot() as usize] = id;
    }

    /// Reports whether a thread is clearing a new slice. A reset of the pool then ends the chunk, so that no next owner
    /// meets the zeros.
    pub(super) fn is_being_cleared(&mut self) -> bool {
        Arc::get_mut(&mut self.cleared).is_none()
    }

    /// Frees all slices. Those that wait go on waiting.
    pub(super) fn reset(&mut self) {
        self.tags.clear();
        if self.waiting.0 == 0 {
            self.arena.reset();
            self.flags = RegionFlags::default();
            return;
        }
        let waiting = std::mem::take(&mut self.flags.waiting);
        let freed = regions(&*self.arena).filter(|region| region.used && !waiting.has(region.id.slot()));
        let freed: Vec<_> = freed.map(|region| region.id).collect();
        for id in freed {
            // Found in the same critical section.
            let _ = self.arena.free(id);
        }
        self.flags = RegionFlags { waiting, ..RegionFlags::default() };
    }

    /// Records that the slice at `place` has ended.
    #[inline(always)]
    pub(super) fn record_ended(
        &mut self,
        recorder: &mut Recorder,
        place: SlicePlace,
        size: u64,
        tag: Option<Arc<str>>,
        how: Action,
    ) {
        let slot = place.1.slot();
        if self.flags.sampled.take(slot) {
            recorder.sample_ended(key(place));
        }
        if self.flags.silent.take(slot) {
            return;
        }
        let label = tag.map(|tag| recorder.label_of(Some(&tag)));
        recorder.ended(how, self.id_of(place.1).get(), size, label);
    }
}

impl HasArena for Chunk {
    fn arena(&self) -> &dyn SubAllocator {
        &*self.arena
    }

    fn arena_mut(&mut self) -> &mut dyn SubAllocator {
        &mut *self.arena
    }

    fn is_idle(&self) -> bool {
        self.arena.used_regions() == self.waiting.0
    }
}

/// Flags of regions, by their slots. Most stay empty: something records, waits or moves rarely.
#[derive(Debug, Default)]
pub(super) struct RegionFlags {
    /// Slices that are sampled.
    pub(super) sampled: BitSet,
    /// Slices whose holders record their events.
    pub(super) silent: BitSet,
    /// Freed slices that wait.
    pub(super) waiting: BitSet,
    /// Targets of moves in flight, which no slice counts.
    pub(super) targets: BitSet,
}

/// A set of small numbers.
#[derive(Debug, Default)]
pub(super) struct BitSet(Vec<u64>);

impl BitSet {
    pub(super) fn put(&mut self, slot: u32) {
        let at = slot as usize / 64;
        if at >= self.0.len() {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= 1 << (slot % 64);
    }

    #[inline]
    pub(super) fn has(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Removes a number. Returns whether it was in the set.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> bool {
        let Some(word) = self.0.get_mut(slot as usize / 64) else { return false };
        let was = *word >> (slot % 64) & 1 == 1;
        *word &= !(1 << (slot % 64));
        was
    }
}

/// A recorder's key of the slice at that place.
pub(super) fn key((chunk, region): SlicePlace) -> Key {
    (chunk.get(), region.to_raw())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::memory::{PageOptions, Source};
    use crate::sys::address_space::{fate, Fate};
    use crate::sys::page::page_size;

    fn chunk_memory() -> Arc<ChunkMemory> {
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        ChunkMemory::new(&Arc::new(source.allocate(1 << 16).unwrap()), &Arc::default())
    }

    #[test]
    fn addresses_are_free_when_the_last_owner_is_gone() {
        for ended in [false, true] {
            let chunk = chunk_memory();
            let (base, slice_holder) = (chunk.base(), Arc::clone(&chunk));
            if ended {
                chunk.end();
            }
            drop(chunk);
            assert_eq!(fate(base), Fate::Owned, "ended: {ended}");
            drop(slice_holder);
            assert_eq!(fate(base), Fate::Free, "ended: {ended}");
        }
    }

    #[test]
    fn addresses_that_an_array_buffer_may_reach_are_withheld() {
        for ended in [false, true] {
            let chunk = chunk_memory();
            let base = chunk.base();
            chunk.quarantine_forever();
            if ended {
                chunk.end();
            }
            drop(chunk);
            assert_eq!(fate(base), Fate::Withheld, "ended: {ended}");
        }
    }
}
