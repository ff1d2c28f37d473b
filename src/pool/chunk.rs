//! A chunk: one piece of memory with a suballocator over it, and the end of its addresses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use super::movable_table::{MovableName, SlicePlace};
use super::slice::Slice;
use crate::device::memory::Memory;
use crate::handle::Handle;
use crate::profile::{Action, Key, Recorder};
use crate::suballoc::{Region, SubAllocator};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::mapping::Retired;

/// The memory of a chunk, kept by the pool and by every ArrayBuffer over a slice of it.
///
/// Its memory ends when the pool says so ([`end`](Self::end)); its addresses when the last holder lets go, and only if
/// every finalizer said that nobody reaches them any more.
#[derive(Debug)]
pub struct ChunkMemory {
    base: usize,
    state: Mutex<ChunkMemoryState>,
    /// A finalizer could not say whether somebody still reaches a slice.
    reachable: AtomicBool,
}

#[derive(Debug)]
struct ChunkMemoryState {
    /// `None` once ended.
    memory: Option<Arc<Memory>>,
    retired: Option<Retired>,
    /// Slices that others than the pool's owner hold as well: the memory stays for them.
    holds: usize,
    /// The pool has said that the memory is to end.
    ending: bool,
}

impl ChunkMemory {
    fn new(memory: Memory) -> Arc<Self> {
        Arc::new(Self {
            base: memory.mapping().address() as usize,
            state: Mutex::new(ChunkMemoryState {
                memory: Some(Arc::new(memory)),
                retired: None,
                holds: 0,
                ending: false,
            }),
            reachable: AtomicBool::new(false),
        })
    }

    /// CPU address of the first byte.
    pub fn base(&self) -> usize {
        self.base
    }

    /// The memory, while it is there.
    pub fn memory(&self) -> Option<Arc<Memory>> {
        self.state().memory.clone()
    }

    /// Gives the memory back and leaves zeros at its addresses; not before the last [`retain`](Self::retain) is over.
    /// Where the kernel has no mapping left for the zeros, it stays as it is: leaked, and safe.
    pub fn end(&self) {
        let memory = {
            let mut state = self.state();
            state.ending = true;
            match state.holds {
                0 => state.memory.take(),
                _ => None,
            }
        };
        let Some(memory) = memory else { return };
        match memory.mapping().retire() {
            Ok(retired) => self.state().retired = retired,
            Err(_) => std::mem::forget(memory),
        }
    }

    /// Keeps the memory for somebody who shares a slice, whatever becomes of the pool. False when it is too late.
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

    /// Whether somebody holds it.
    pub fn is_retained(&self) -> bool {
        self.state().holds > 0
    }

    /// Somebody may reach a slice of it for as long as the process lives.
    pub fn quarantine_forever(&self) {
        self.reachable.store(true, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, ChunkMemoryState> {
        self.state.lock()
    }
}

impl Drop for ChunkMemory {
    fn drop(&mut self) {
        self.end();
        let retired = self.state().retired.take();
        if let (Some(range), false) = (retired, self.reachable.load(Ordering::Relaxed)) {
            range.give_back();
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub(super) struct Chunk {
    /// CountedBytes from 0 as the pool grew.
    pub(super) number: u64,
    pub(super) chunk_memory: Arc<ChunkMemory>,
    pub(super) arena: Box<dyn SubAllocator>,
    /// Bytes from the start that were ever handed out; what lies behind them is as the source gave it.
    pub(super) touched: u64,
    /// Address that the NPU sees at the start.
    pub(super) device_address: Option<u64>,
    pub(super) flags: RegionFlags,
}

impl Chunk {
    pub(super) fn new(memory: Memory, arena: Box<dyn SubAllocator>) -> Self {
        let device_address = memory.object().and_then(|object| object.device_address);
        Self {
            number: 0,
            chunk_memory: ChunkMemory::new(memory),
            arena,
            touched: 0,
            device_address,
            flags: RegionFlags::default(),
        }
    }

    pub(super) fn slice(&self, chunk: Handle, region: &Region, used_before: u64) -> Slice {
        Slice {
            chunk,
            region: region.id,
            offset: region.offset,
            padded: region.size,
            address: self.chunk_memory.base() + region.offset as usize,
            device_address: self.device_address.map(|address| address + region.offset),
            used_before,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.arena.used_regions() == 0
    }

    /// Records that the slice at `place` ended, `offset` bytes from the chunk's start.
    #[inline(always)]
    pub(super) fn record_ended(
        &mut self,
        recorder: &mut Recorder,
        place: SlicePlace,
        offset: u64,
        size: u64,
        movable: Option<MovableName>,
        how: Action,
    ) {
        let slot = place.1.slot();
        if self.flags.sampled.take(slot) {
            recorder.sample_ended(key(place));
        }
        if self.flags.silent.take(slot) {
            return;
        }
        match movable {
            None => recorder.ended(how, self.chunk_memory.base() as u64 + offset, size, None),
            Some((id, tag)) => {
                let label = recorder.label_of(tag.as_ref());
                recorder.ended(how, id.get(), size, Some(label));
            }
        }
    }
}

/// What profiling has to know of a slice when it ends, by its region's slot. Empty unless something is recorded.
#[derive(Debug, Default)]
pub(super) struct RegionFlags {
    /// It is sampled.
    pub(super) sampled: BitSet,
    /// Its events are somebody else's to record.
    pub(super) silent: BitSet,
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

    pub(super) fn has(&self, slot: u32) -> bool {
        self.0.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Takes it out. Whether it was in.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> bool {
        let Some(word) = self.0.get_mut(slot as usize / 64) else { return false };
        let was = *word >> (slot % 64) & 1 == 1;
        *word &= !(1 << (slot % 64));
        was
    }
}

/// What a recorder calls the slice at that place.
pub(super) fn key((chunk, region): SlicePlace) -> Key {
    (chunk.get(), region.to_raw())
}
