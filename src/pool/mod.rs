//! Pools: slices of few large kernel objects in place of many small ones.
//!
//! A [`Pool`] has chunks, each with a suballocator of its own; it grows by chunks up to a maximum and gives empty ones
//! back, keeping one so that a load that goes up and down does not ask the driver each time. One mutex covers it: it is
//! held for arithmetic only, never across a driver's call, a copy or a runtime.
//!
//! A slice is named by its chunk's handle and its region's id. Both are generation-checked, so that a name that
//! outlived its slice is an error value, also after a reset, and when the chunk is gone.
//!
//! Bytes: *reserved* (chunks) ≥ *allocated* (regions, padded) ≥ *requested* (asked for).
#![forbid(unsafe_code)]

mod chunk;
mod compaction;
mod compactor;
mod copy_queue;
mod delayed_free;
mod growth;
mod layout;
mod movable;
mod movable_table;
mod record;
pub mod replay;
mod slabs;
mod slice;
mod state;

use std::sync::atomic::AtomicU32;
use std::sync::Arc;

use crate::accounting::{notify, Account, Limit, Scope, Warning, WARN_AT};
use crate::device::memory::{Memory, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::Action;
use crate::suballoc::RegionId;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::page::page_size;
use crate::units::{format_bytes, MemoryKind};
use chunk::Chunk;
pub use chunk::ChunkMemory;
pub use compaction::{Location, Move, Moved, Pass};
pub use compactor::{Compaction, CompactionLimits, CompactionOutcome, Compactor, DetachView, Detachment};
pub use copy_queue::CopyQueue;
use delayed_free::{is_poison, poison};
pub use layout::Layout;
pub use record::{BlockMap, ChunkMap, SampledBlock};
pub use slabs::{SlabOptions, Slabs};
use slice::freed;
pub use slice::Slice;
use state::{EventOwner, PoolState};

/// A pool's figures; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolStats {
    /// Pieces of memory it has.
    pub chunks: u64,
    /// Bytes in them.
    pub reserved: u64,
    /// Bytes of regions, padded.
    pub allocated: u64,
    /// Bytes asked for.
    pub requested: u64,
    /// Bytes free in its chunks.
    pub free: u64,
    /// The most that was ever allocated.
    pub peak_allocated: u64,
    /// The largest slice that its chunks have room for now.
    pub largest_free: u64,
    /// Slices that live.
    pub live: u64,
    /// Slices that ever lived.
    pub allocations: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// Slices that were written to after they were freed; only a pool that delays their reuse can tell.
    pub late_writes: u64,
}

impl PoolStats {
    /// 1 - largest free / free; 0 when nothing is free.
    pub fn fragmentation(&self) -> f64 {
        match self.free {
            0 => 0.0,
            free => 1.0 - self.largest_free as f64 / free as f64,
        }
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct Pool {
    /// `None`: the manager's own slabs.
    name: Option<Arc<str>>,
    source: Source,
    layout: Layout,
    /// Where its chunks are counted; `None`: the manager's own slabs, whose slices are.
    account: Option<Account>,
    /// Allocations until one is timed; 0: none is.
    timer: AtomicU32,
    state: Mutex<PoolState>,
}

impl Pool {
    /// A pool with its initial bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for a layout that cannot be, and those of [`Source::allocate`].
    pub fn new(name: Option<Arc<str>>, source: Source, layout: Layout, account: Option<Account>) -> Result<Self> {
        let layout = layout.checked()?;
        let near = Limit::new(Some(layout.max), &WARN_AT);
        let state = Mutex::new(PoolState { near, ..PoolState::default() });
        let pool = Self { name, source, layout, account, timer: AtomicU32::new(0), state };
        if layout.initial > 0 {
            let first = pool.grow_first()?;
            pool.state().first = Some(first);
        }
        Ok(pool)
    }

    /// Its name; `None` for the manager's own slabs.
    pub fn public_name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("slabs")
    }

    /// Which memory.
    pub fn kind(&self) -> MemoryKind {
        self.source.kind()
    }

    /// How it is laid out.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// Takes `size` bytes at a multiple of `alignment`. The bytes are as their last owner left them.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` beyond what the pool can ever hold, `ERR_POOL_EXHAUSTED`, `ERR_POOL_DESTROYED`, and
    /// those of [`Source::allocate`] where it has to grow.
    pub fn allocate(&self, size: u64, alignment: u64) -> Result<Slice> {
        self.timed(|| self.place(size, alignment, EventOwner::Pool))
    }

    /// As [`allocate`](Self::allocate), for a holder who records what happens to the slice.
    ///
    /// Errors: those of [`allocate`](Self::allocate).
    pub fn allocate_held(&self, size: u64, alignment: u64) -> Result<Slice> {
        self.timed(|| self.place(size, alignment, EventOwner::Holder))
    }

    fn place(&self, size: u64, alignment: u64, events: EventOwner) -> Result<Slice> {
        let result = self.aligned(size, alignment).and_then(|alignment| self.try_allocate(size, alignment, events));
        result.map_err(|error| {
            let mut state = self.state();
            state.failures += 1;
            state.note(Action::Fail, 0, size);
            // What the driver refused may have been a whole chunk.
            error.requested(size)
        })
    }

    /// The alignment of a slice, no finer than the pool's and no coarser than its chunks'.
    fn aligned(&self, size: u64, alignment: u64) -> Result<u64> {
        let coarsest = self.layout.alignment.max(page_size());
        if !alignment.is_power_of_two() {
            let message = format!("alignment is {alignment}; it must be a power of two");
            return Err(Error::new(ErrorCode::OutOfRange, message).requested(size));
        }
        if alignment <= coarsest {
            return Ok(alignment.max(self.layout.alignment));
        }
        let message = format!(
            "pool \"{}\" aligns to at most {}, not to {}",
            self.name(),
            format_bytes(coarsest),
            format_bytes(alignment)
        );
        Err(Error::new(ErrorCode::OutOfRange, message).requested(size).hint("give the pool that alignment"))
    }

    fn try_allocate(&self, size: u64, alignment: u64, events: EventOwner) -> Result<Slice> {
        let mut grown = None;
        loop {
            let taken = {
                let mut state = self.state();
                state.alive(self.name())?;
                let slice = grown.and_then(|chunk| state.take_from(chunk, size, alignment));
                let slice = slice.or_else(|| state.take(size, alignment));
                let used = state.allocated;
                slice.map(|slice| {
                    let sampled = state.record_slice(&slice, size, events);
                    (slice, state.near.observe(used).then_some(used), sampled)
                })
            };
            if let Some((slice, near, sampled)) = taken {
                near.into_iter().for_each(|used| self.warn(used));
                if sampled {
                    notify();
                }
                return Ok(slice);
            }
            if self.layout.delay > 0 && self.end_delays(0) {
                continue;
            }
            // Again if other threads used the new chunk up before we had our turn: the maximum ends it.
            grown = Some(self.grow_for(size)?);
        }
    }

    /// Writes zeros where a slice may hold somebody's bytes.
    ///
    /// Errors: `ERR_BUFFER_FREED`, and those of [`Memory::zero`](crate::device::memory::Memory::zero).
    pub fn zero(&self, slice: &Slice) -> Result<()> {
        // A source that leaves its bytes as the driver gave them leaves them everywhere.
        let stale = match self.source {
            Source::Npu { dirty: true, .. } => slice.padded,
            _ => slice.used_before,
        };
        if stale == 0 {
            return Ok(());
        }
        let memory = self.chunk_memory(slice.chunk)?.memory().ok_or_else(freed)?;
        memory.zero(slice.offset..slice.offset + stale)
    }

    /// Gives a slice back; what the pool no longer needs goes back to the device.
    ///
    /// Errors: `ERR_BUFFER_FREED` for a name that outlived its slice.
    pub fn free(&self, chunk: Handle, region: RegionId) -> Result<()> {
        self.free_as(chunk, region, Action::Free)
    }

    /// As [`free`](Self::free), saying how it came to that.
    ///
    /// Errors: those of [`free`](Self::free).
    pub fn free_as(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        if self.layout.delay > 0 {
            return self.free_delayed(chunk, region, how);
        }
        let empty = self.state().free_region(chunk, region, &self.layout, Some(how))?;
        if !empty.is_empty() {
            self.end(empty);
        }
        Ok(())
    }

    /// As `free`, with a delay.
    fn free_delayed(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        let (slice, requested) = self.slice(chunk, region)?;
        // Before it joins the others: whoever takes it out expects the poison.
        if let Some(memory) = self.memory_of(&slice) {
            poison(&memory, &slice);
        }
        {
            let mut state = self.state();
            // Another thread may have freed it in the meantime.
            if state.delayed.has(chunk, region) {
                return Err(freed());
            }
            let region = state.chunks.get(chunk).ok_or_else(freed)?.arena.get(region).map_err(|_stale| freed())?;
            let movable = state.movables.forget((chunk, region.id));
            state.record_ended(chunk, &region, movable, how);
            state.live -= 1;
            state.requested -= requested;
            state.delayed.push(slice, requested);
        }
        self.end_delays(self.layout.delay);
        Ok(())
    }

    /// Lets the oldest go until no more than `keep` wait. Whether any did.
    fn end_delays(&self, keep: usize) -> bool {
        let mut any = false;
        loop {
            let Some((slice, requested)) = ({
                let mut state = self.state();
                state.delayed.pop(keep)
            }) else {
                return any;
            };
            any = true;
            let intact = self.memory_of(&slice).is_none_or(|memory| is_poison(&memory, &slice));
            let empty = {
                let mut state = self.state();
                state.delayed.late_writes += u64::from(!intact);
                // It was counted as gone when it was freed.
                state.live += 1;
                state.requested += requested;
                state.free_region(slice.chunk, slice.region, &self.layout, None).unwrap_or_default()
            };
            self.end(empty);
        }
    }

    fn memory_of(&self, slice: &Slice) -> Option<Arc<Memory>> {
        self.chunk_memory(slice.chunk).ok().and_then(|chunk_memory| chunk_memory.memory())
    }

    /// A slice by its name, and the bytes that were asked for.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn slice(&self, chunk: Handle, region: RegionId) -> Result<(Slice, u64)> {
        let state = self.state();
        let found = state.chunks.get(chunk).ok_or_else(freed)?;
        let region = found.arena.get(region).map_err(|_stale| freed())?;
        if !region.used || state.delayed.has(chunk, region.id) {
            return Err(freed());
        }
        // What was there before is not known any more: all of it may be stale.
        Ok((found.slice(chunk, &region, region.size), region.user_data))
    }

    /// The memory of a slice's chunk.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn chunk_memory(&self, chunk: Handle) -> Result<Arc<ChunkMemory>> {
        self.state().chunks.get(chunk).map(|chunk| Arc::clone(&chunk.chunk_memory)).ok_or_else(freed)
    }

    /// Frees every slice and keeps the memory. Chunks of which `keep` says no end instead: an ArrayBuffer over one of
    /// their slices could not be taken away. So do those of which others share a slice.
    ///
    /// Errors: `ERR_POOL_DESTROYED`.
    pub fn reset(&self, keep: impl Fn(&Arc<ChunkMemory>) -> bool) -> Result<()> {
        let mut gone = Vec::new();
        {
            let mut state = self.state();
            state.alive(self.name())?;
            state.record_all_freed();
            for handle in std::mem::take(&mut state.order) {
                let Some(chunk) = state.chunks.get_mut(handle) else { continue };
                if keep(&chunk.chunk_memory) && !chunk.chunk_memory.is_retained() {
                    chunk.arena.reset();
                    state.order.push(handle);
                } else if let Some(chunk) = state.chunks.remove(handle) {
                    state.reserved -= chunk.arena.capacity();
                    state.note(Action::Trim, chunk.number, chunk.arena.capacity());
                    gone.push(chunk);
                }
            }
            (state.live, state.requested, state.allocated) = (0, 0, 0);
            state.delayed.clear();
            state.movables.clear();
        }
        self.end(gone);
        Ok(())
    }

    /// Gives empty chunks back to the device, down to the initial size; returns the bytes.
    pub fn trim(&self) -> u64 {
        self.end_delays(0);
        let empty = self.state().take_empty_chunks(&self.layout, 0);
        self.end(empty)
    }

    /// Gives everything back, slices that live included; their ArrayBuffers read zeros from here on.
    ///
    /// Errors: `ERR_POOL_BUSY` while slices live, unless `force`; `ERR_POOL_DESTROYED` the second time.
    pub fn destroy(&self, force: bool) -> Result<()> {
        let (gone, recorder): (Vec<Chunk>, _) = {
            let mut state = self.state();
            state.alive(self.name())?;
            if state.live > 0 && !force {
                let message = format!("{} allocations of pool \"{}\" live", state.live, self.name());
                return Err(Error::new(ErrorCode::PoolBusy, message)
                    .hint("free them, or pass { force: true }, which frees and detaches them"));
            }
            state.destroyed = true;
            state.record_all_freed();
            let handles = std::mem::take(&mut state.order);
            (state.live, state.requested, state.allocated, state.reserved) = (0, 0, 0, 0);
            state.delayed.clear();
            state.movables.clear();
            let gone: Vec<_> = handles.into_iter().filter_map(|handle| state.chunks.remove(handle)).collect();
            gone.iter().for_each(|chunk| state.note(Action::Trim, chunk.number, chunk.arena.capacity()));
            (gone, state.recorder.take())
        };
        if let Some(recorder) = recorder {
            recorder.profiler().absorb(recorder.copy(true));
        }
        self.end(gone);
        Ok(())
    }

    /// The driver's turn, outside the lock: the chunks' memory goes back; returns the bytes.
    fn end(&self, chunks: Vec<Chunk>) -> u64 {
        let bytes = chunks.iter().map(|chunk| chunk.arena.capacity()).sum();
        chunks.iter().for_each(|chunk| chunk.chunk_memory.end());
        if let (Some(account), true) = (&self.account, bytes > 0) {
            account.chunk_freed(bytes);
        }
        bytes
    }

    /// Its figures. Exact: the chunks' largest free regions are looked up.
    pub fn stats(&self) -> PoolStats {
        let state = self.state();
        let reserved = state.chunks.iter().map(|(_, chunk)| chunk.arena.capacity()).sum();
        PoolStats {
            chunks: state.chunks.len() as u64,
            reserved,
            allocated: state.allocated,
            requested: state.requested,
            free: reserved - state.allocated,
            peak_allocated: state.peak_allocated,
            largest_free: state.largest_free(),
            live: state.live,
            allocations: state.allocations,
            failures: state.failures,
            late_writes: state.delayed.late_writes,
        }
    }

    /// Checks every invariant of the pool and its chunks. For tests and for diagnosis.
    pub fn validate(&self) -> Result<(), String> {
        let state = self.state();
        state.movables.check()?;
        let (mut live, mut allocated, mut requested) = (0, 0, 0);
        for (handle, chunk) in state.chunks.iter() {
            chunk.arena.validate()?;
            if !state.order.contains(&handle) {
                return Err(format!("{handle:?} is in no order"));
            }
            for region in crate::suballoc::regions(&*chunk.arena).filter(|region| region.used) {
                (live, allocated, requested) = (live + 1, allocated + region.size, requested + region.user_data);
                if region.end() > chunk.touched || region.user_data > region.size {
                    return Err(format!("{region:?} lies behind {} or holds more than it has", chunk.touched));
                }
            }
        }
        let counted = (state.live, state.allocated, state.requested);
        let delayed = state.delayed.figures();
        let (live, requested) = (live - delayed.0, requested - delayed.1);
        if counted != (live, allocated, requested) || state.order.len() != state.chunks.len() {
            return Err(format!("{counted:?} are counted, ({live}, {allocated}, {requested}) are there"));
        }
        Ok(())
    }

    /// `used` of the maximum are allocated, which is nearly all of it.
    #[cold]
    fn warn(&self, used: u64) {
        if let (Some(account), Some(name)) = (&self.account, &self.name) {
            let scope = Scope::Pool(Arc::clone(name));
            account.accounting.warn(Warning { scope, used, max: self.layout.max });
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::memory::PageOptions;
    use crate::units::MIB;

    fn pool() -> Pool {
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        let layout = Layout { initial: MIB, max: MIB, chunk: MIB, block: None, alignment: 64, delay: 0 };
        let pool = Pool::new(None, source, layout, None).unwrap();
        pool.allocate(100, 64).unwrap();
        pool.allocate_movable(200, 64, None).unwrap();
        assert_eq!(pool.validate(), Ok(()));
        pool
    }

    /// Each line breaks one invariant; a check that cannot fail proves nothing.
    #[test]
    fn validate_finds_damage() {
        let damages: &[fn(&mut PoolState)] = &[
            |state| state.live += 1,
            |state| state.allocated += 64,
            |state| state.requested -= 1,
            |state| state.order.clear(),
            |state| state.order.push(state.order[0]),
            // Handed out behind all that was ever handed out.
            |state| state.chunks.get_mut(state.order[0]).unwrap().touched -= 64,
            // More bytes than a region has, and counted so.
            |state| {
                let arena = &mut state.chunks.get_mut(state.order[0]).unwrap().arena;
                let first = arena.first();
                arena.set_user_data(first.id, first.size + 1).unwrap();
                state.requested += first.size + 1 - first.user_data;
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            let pool = pool();
            damage(&mut pool.state());
            assert!(pool.validate().is_err(), "damage {number} went unnoticed");
        }
    }
}
