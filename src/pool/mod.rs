//! Pools: slices of few large kernel objects in place of many small ones.
//!
//! Imports `device`, `suballoc`, `profile` and the rooms below them; it knows no runtime of JavaScript.
//!
//! A [`Pool`] has chunks, each with a suballocator. It adds chunks up to a maximum and frees empty ones. It keeps one
//! of them, so that a varying load does not ask the driver each time. One mutex covers the pool. It is held for
//! arithmetic only, never across a call of a driver, a copy or a runtime.
//!
//! The chunk's handle and the region's id name a slice. Both have generations, so a stale name is an error value, also
//! after a reset and after the chunk was freed.
//!
//! Bytes: *reserved* (chunks) ≥ *allocated* (regions, padded) ≥ *requested*.
//!
//! ```
//! use std::sync::Arc;
//! use rkllmjs_memory::backend::simulated::{Options, Simulated};
//! use rkllmjs_memory::backend::Request;
//! use rkllmjs_memory::device::{memory::Source, Device};
//! use rkllmjs_memory::pool::{Layout, Pool};
//! use rkllmjs_memory::units::{KIB, MIB};
//! # fn main() -> rkllmjs_memory::error::Result<()> {
//! let device = Device::new(Arc::new(Simulated::new(Options::default())?));
//! let source = Source::Npu { device, request: Request::plain(MIB), dirty: false };
//! let layout = Layout { initial: MIB, max: 4 * MIB, chunk: MIB, block: None, alignment: 64, delay: 0 };
//! let pool = Pool::new(Some("tokens".into()), source, layout, None)?;
//! let slice = pool.allocate(4 * KIB, 64)?;
//! assert_eq!(pool.stats().allocated, 4 * KIB);
//! pool.free(slice.chunk, slice.region)?;
//! assert!(pool.free(slice.chunk, slice.region).is_err(), "the name is stale");
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod ahead;
mod allocate;
mod chunk;
mod chunk_order;
mod chunk_set;
mod compaction;
mod compactor;
mod copy_queue;
mod deferred;
mod exposed;
mod growth;
mod largest_free;
mod layout;
mod max_tree;
mod movable;
mod movable_table;
mod owners;
mod pin_table;
mod pin_writes;
mod pins;
mod record;
pub mod replay;
mod reuse;
mod runs;
mod slabs;
mod slice;
mod slice_tags;
mod slot_map;
mod state;
mod stats;
mod tags;
#[cfg(test)]
mod testing;
mod trim;
mod visits;
mod waiting;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, OnceLock, Weak};

use crate::accounting::{Account, Limit, WARN_AT};
use crate::device::memory::{Memory, Source};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::Action;
use crate::suballoc::RegionId;
use crate::sync::{Condvar, Mutex, MutexGuard};
use crate::units::MemoryKind;
pub use chunk::ChunkMemory;
use chunk::{Chunk, LostSlices};
use chunk_set::ChunkSet;
pub use compaction::{Location, Move, Moved, Pass, SearchStep};
pub use compactor::{Compaction, CompactionLimits, CompactionOutcome, Compactor, DetachView, Detachment};
pub use copy_queue::CopyQueue;
pub use deferred::{DeferredRequest, UnclaimedMovable, UnclaimedSlice};
pub use exposed::Exposed;
pub use layout::Layout;
pub use movable::View;
pub use owners::Owner;
pub use pin_table::PinStats;
pub use pins::PinnedSlice;
pub use record::{BlockMap, ChunkMap, SampledBlock};
pub use slabs::{SlabOptions, Slabs};
use slice::freed;
pub use slice::{Clearing, Slice, SliceRequest};
pub use slice_tags::TagId;
use state::PoolState;
pub use stats::{PoolCounts, PoolStats};
pub use waiting::ReuseDelay;

/// A pool of slices. See the [module](self).
#[derive(Debug)]
pub struct Pool {
    /// `None` for the manager's own slabs.
    name: Option<Arc<str>>,
    source: Source,
    layout: Layout,
    reuse: ReuseDelay,
    /// The account that counts the chunks; `None` for the manager's own slabs, whose slices are counted instead.
    account: Option<Account>,
    /// The size of the next slab to ask for: see [`grow_for`](Self::grow_for).
    next_slab: AtomicU64,
    /// The number of allocations until the next timed one; 0 times none.
    timer: AtomicU32,
    ahead: GrowthAhead,
    exposed: Arc<Exposed>,
    lost: Arc<LostSlices>,
    state: Mutex<PoolState>,
    /// Signalled when a write to a pinned slice has ended.
    written: Condvar,
}

/// The growth ahead of one pool.
#[derive(Debug, Default)]
struct GrowthAhead {
    /// Set at most once: the share, and the pool itself for the thread.
    on: OnceLock<(f64, Weak<Pool>)>,
    /// Whether a thread lets the pool grow, or is about to.
    growing: AtomicBool,
}

impl Pool {
    /// Creates a pool with its initial bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for an impossible layout, and those of [`Source::allocate`].
    pub fn new(name: Option<Arc<str>>, source: Source, layout: Layout, account: Option<Account>) -> Result<Self> {
        let layout = layout.checked()?;
        let near = Limit::new(Some(layout.max), &WARN_AT);
        let state = Mutex::new(PoolState { near, chunks: ChunkSet::new(layout.alignment), ..PoolState::default() });
        let (reuse, next_slab) = (ReuseDelay::default(), AtomicU64::new(layout.chunk));
        let (timer, ahead, exposed, lost) = (AtomicU32::new(0), GrowthAhead::default(), Arc::default(), Arc::default());
        let written = Condvar::new();
        let pool =
            Self { name, source, layout, reuse, account, next_slab, timer, ahead, exposed, lost, state, written };
        if layout.initial > 0 {
            let first = pool.grow_first()?;
            pool.state().chunks.first = Some(first);
        }
        Ok(pool)
    }

    /// The name; `None` for the manager's own slabs.
    pub fn public_name(&self) -> Option<&Arc<str>> {
        self.name.as_ref()
    }

    fn name(&self) -> &str {
        self.name.as_deref().unwrap_or("slabs")
    }

    /// The tag under which the chunks are counted.
    pub fn tag(&self) -> Option<&Arc<str>> {
        self.account.as_ref()?.tag.as_ref()
    }

    /// The kind of memory.
    pub fn kind(&self) -> MemoryKind {
        self.source.kind()
    }

    /// The allocations over slices of a named pool; `None` for the manager's own slabs.
    pub fn exposed(&self) -> Option<&Arc<Exposed>> {
        self.name.as_ref().map(|_| &self.exposed)
    }

    /// Stops the warnings that little of the maximum is left, for a pool that is made to be full.
    pub fn expect_full(&self) {
        self.state().near = Limit::default();
    }

    /// The layout.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    fn memory_of(&self, slice: &Slice) -> Option<Arc<Memory>> {
        self.chunk_memory(slice.chunk).ok().and_then(|chunk_memory| chunk_memory.memory())
    }

    /// Finds a slice by its name, with its requested bytes.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn slice(&self, chunk: Handle, region: RegionId) -> Result<(Slice, u64)> {
        self.state().slice((chunk, region))
    }

    /// The memory of a slice's chunk.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn chunk_memory(&self, chunk: Handle) -> Result<Arc<ChunkMemory>> {
        self.state().chunks.get(chunk).map(|chunk| Arc::clone(&chunk.chunk_memory)).ok_or_else(freed)
    }

    /// Frees every slice and keeps the memory. Slices that wait go on waiting. Ends the chunks for which `keep` returns
    /// false, because an ArrayBuffer over one of their slices could not be detached. Ends chunks with a shared slice
    /// too.
    ///
    /// Errors: `ERR_POOL_DESTROYED`.
    pub fn reset(&self, keep: impl Fn(&Arc<ChunkMemory>) -> bool) -> Result<()> {
        let gone;
        {
            let mut state = self.state_without_writes();
            state.alive(self.name())?;
            state.record_all_freed();
            gone = state.chunks.retain(|chunk| {
                let held = chunk.chunk_memory.is_retained() || chunk.is_being_cleared();
                let kept = keep(&chunk.chunk_memory) && !held;
                if kept {
                    chunk.reset();
                }
                kept
            });
            gone.iter().for_each(|chunk| state.chunk_gone(chunk));
            (state.chunks.live, state.chunks.requested, state.chunks.allocated) = (0, 0, 0);
            state.drop_runs();
            state.movables.clear();
            state.pins.clear();
            state.tags.all_freed();
        }
        self.end(gone);
        Ok(())
    }

    /// Frees all memory, that of live slices included, whose ArrayBuffers then read zeros.
    ///
    /// Errors: `ERR_POOL_BUSY` while slices are live, unless `force`; `ERR_POOL_DESTROYED` for a destroyed pool.
    pub fn destroy(&self, force: bool) -> Result<()> {
        let (gone, recorder): (Vec<Chunk>, _) = {
            let mut state = self.state_without_writes();
            state.alive(self.name())?;
            if state.chunks.live > 0 && !force {
                let message = format!("{} allocations of pool \"{}\" are live", state.chunks.live, self.name());
                return Err(Error::new(ErrorCode::PoolBusy, message)
                    .hint("free them, or pass { force: true }, which frees and detaches them"));
            }
            state.destroyed = true;
            state.record_all_freed();
            let gone = state.chunks.retain(|_| false);
            (state.chunks.live, state.chunks.requested, state.chunks.allocated, state.chunks.reserved) = (0, 0, 0, 0);
            state.waiting.clear();
            state.drop_runs();
            state.movables.clear();
            state.pins.clear();
            state.tags.clear();
            gone.iter().for_each(|chunk| state.note(Action::Trim, chunk.number, chunk.arena.capacity()));
            (gone, state.recorder.take())
        };
        if let Some(recorder) = recorder {
            recorder.profiler().absorb(recorder.copy(true));
        }
        self.end(gone);
        Ok(())
    }

    /// Returns the counts.
    pub fn counts(&self) -> PoolCounts {
        let state = self.state();
        PoolCounts {
            chunks: state.chunks.len() as u64,
            reserved: state.chunks.capacity,
            allocated: state.chunks.allocated,
            live: state.chunks.live,
            allocations: state.chunks.allocations,
            failures: state.failures,
            waiting: state.waiting.bytes,
            late_writes: state.waiting.late_writes,
        }
    }

    /// The number and the bytes of slices that are never used again.
    pub fn lost(&self) -> (u64, u64) {
        self.lost.get()
    }

    /// Returns the exact figures. The first call while slices wait looks at each of them, later ones do not.
    pub fn stats(&self) -> PoolStats {
        let mut state = self.state();
        let reserved = state.chunks.capacity;
        PoolStats {
            chunks: state.chunks.len() as u64,
            max: self.layout.max,
            fixed: self.layout.block.is_some(),
            reserved,
            allocated: state.chunks.allocated,
            requested: state.chunks.requested,
            free: reserved - state.chunks.allocated,
            peak_allocated: state.chunks.peak_allocated,
            largest_free: state.largest_free(&self.layout),
            live: state.chunks.live,
            allocations: state.chunks.allocations,
            failures: state.failures,
            waiting: state.waiting.bytes,
            late_writes: state.waiting.late_writes,
            grown_ahead: state.ahead.grown,
            failed_ahead: state.ahead.failed,
            lost: self.lost.get(),
        }
    }

    /// Checks every invariant of the pool and its chunks, for tests and diagnosis.
    pub fn validate(&self) -> Result<(), String> {
        let state = self.state();
        state.chunks.check()?;
        state.movables.check()?;
        state.pins.check_stats()?;
        state.check_runs()?;
        let (mut live, mut allocated, mut requested, mut all_waiting) = (0, 0, 0, 0);
        for (handle, chunk) in state.chunks.iter() {
            chunk.arena.validate()?;
            let mut waiting = (0, 0);
            for region in crate::suballoc::regions(&*chunk.arena).filter(|region| region.used) {
                let slot = region.id.slot();
                if chunk.flags.targets.has(slot) {
                    continue;
                }
                match chunk.flags.waiting.has(slot) {
                    true => waiting = (waiting.0 + 1, waiting.1 + region.size),
                    false => (live, allocated) = (live + 1, allocated + region.size),
                }
                requested += region.user_data;
                if region.end() > chunk.touched || region.user_data > region.size {
                    return Err(format!(
                        "{region:?} ends behind {} or has more requested bytes than its size",
                        chunk.touched
                    ));
                }
            }
            if waiting != chunk.waiting {
                return Err(format!("{:?} wait in {handle:?}, but {waiting:?} are marked", chunk.waiting));
            }
            all_waiting += waiting.1;
        }
        if all_waiting != state.waiting.bytes {
            return Err(format!("{} bytes wait, but the chunks have {all_waiting}", state.waiting.bytes));
        }
        let counted = (state.chunks.live, state.chunks.allocated, state.chunks.requested);
        if counted != (live, allocated, requested) {
            return Err(format!("{counted:?} are counted, but the chunks have ({live}, {allocated}, {requested})"));
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        let state = self.state.lock();
        visits::begin_section();
        state
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn pool() -> Pool {
        let pool = testing::pool_of_1_mib();
        pool.allocate(100, 64).unwrap();
        pool.allocate_movable(200, 64, None).unwrap();
        assert_eq!(pool.validate(), Ok(()));
        pool
    }

    fn first(state: &mut PoolState) -> &mut Chunk {
        let first = state.chunks.handles().next().unwrap();
        state.chunks.get_mut(first).unwrap()
    }

    /// Each line breaks one invariant; a check that cannot fail proves nothing.
    #[test]
    fn validate_finds_damage() {
        let damages: &[fn(&mut PoolState)] = &[
            |state| state.chunks.live += 1,
            |state| state.chunks.allocated += 64,
            |state| state.chunks.requested -= 1,
            |state| state.chunks.capacity += 64,
            // Handed out behind all that was ever handed out.
            |state| first(state).touched -= 64,
            // More bytes than a region has, and counted so.
            |state| {
                let arena = &mut first(state).arena;
                let first = arena.first();
                arena.set_user_data(first.id, first.size + 1).unwrap();
                state.chunks.requested += first.size + 1 - first.user_data;
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            let pool = pool();
            damage(&mut pool.state());
            assert!(pool.validate().is_err(), "damage {number} went unnoticed");
        }
    }
}
