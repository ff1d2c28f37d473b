//! A manager's profile, its snapshots and its suspected leaks.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::profiling::ReportedLeaks;
use super::Manager;
use crate::allocation::Allocation;
use crate::handle::Handle;
use crate::pool::{ChunkMap, PinnedSlice, Pool, PoolStats, SampledBlock};
use crate::profile::{Options, Profile, Profiler};
use crate::units::MemoryKind;

/// All live memory at (nearly) one time.
#[derive(Debug)]
pub struct Snapshot {
    /// All buffers, each with the stack of the call that allocated it, if sampled.
    pub buffers: Vec<(Arc<Allocation>, Option<Arc<str>>)>,
    /// All named pools.
    pub pools: Vec<SnapshotPool>,
}

/// A pool in a [`Snapshot`].
#[derive(Debug)]
pub struct SnapshotPool {
    /// The pool's name.
    pub name: Arc<str>,
    /// The pool's kind of memory.
    pub kind: MemoryKind,
    /// The pool's tag.
    pub tag: Option<Arc<str>>,
    /// The pool's statistics.
    pub stats: PoolStats,
    /// The pool's chunks, with their blocks.
    pub chunks: Vec<ChunkMap>,
    /// The stacks of sampled blocks, by sample.
    pub stacks: HashMap<Handle, Arc<str>>,
}

/// A live, sampled block of a pool.
#[derive(Debug)]
pub struct Sampled {
    /// The block's pool.
    pub pool: Arc<Pool>,
    /// The block's address and sizes.
    pub block: SampledBlock,
    /// The time of the allocation.
    pub at: SystemTime,
    /// The stack of the call that allocated the block.
    pub stack: Option<Arc<str>>,
}

/// Memory that a program may have forgotten.
#[derive(Debug, Default)]
pub struct Leaks {
    /// Buffers.
    pub buffers: Vec<Arc<Allocation>>,
    /// Sampled blocks without an ArrayBuffer.
    pub blocks: Vec<Sampled>,
    /// Blocks that were dropped while pinned, with their pools. They may be among the others too.
    pub pinned: Vec<(Arc<Pool>, PinnedSlice)>,
}

impl Manager {
    /// Starts a profile, and discards the previous one.
    pub fn start_profiling(&self, options: Options) {
        let profiler = Profiler::new(options);
        *self.profiling.profiler() = Some(Arc::clone(&profiler));
        *self.profiling.reported() = ReportedLeaks::default();
        self.profiling.on.store(true, Ordering::Relaxed);
        self.accounting.record(Some(&profiler));
        self.pools().iter().for_each(|pool| pool.record(Some(&profiler)));
    }

    /// Ends the profile, which can still be read.
    pub fn stop_profiling(&self) {
        self.profiling.on.store(false, Ordering::Relaxed);
        self.accounting.record(None);
        self.pools().iter().for_each(|pool| pool.record(None));
        if let Some(profiler) = &*self.profiling.profiler() {
            profiler.end();
        }
    }

    /// Returns the running or the last profile, with events on request, or `None` before the first.
    pub fn profile(&self, with_events: bool) -> Option<Profile> {
        let profiler = self.profiling.profiler().clone()?;
        let pools = self.pools();
        let recordings = pools.iter().filter_map(|pool| pool.recording(with_events));
        let recordings = recordings.chain(self.accounting.recording(with_events)).collect();
        Some(profiler.profile(recordings, with_events))
    }

    /// Returns the stack of the call that made the allocation, if sampled.
    pub fn stack_of(&self, allocation: &Allocation) -> Option<Arc<str>> {
        let profiler = self.profiling.recording()?;
        let sample = self.accounting.sample(allocation.handle).or_else(|| block_sample(allocation))?;
        let stack = profiler.sites().stack(sample);
        stack
    }

    /// Lists all live buffers and pools.
    pub fn snapshot(&self) -> Snapshot {
        let profiler = self.profiling.recording();
        let stack = |sample: Handle| profiler.as_ref()?.sites().stack(sample);
        let samples = self.accounting.samples();
        let live = self.accounting.read(|accounts| accounts.live.iter().copied().collect::<Vec<_>>());
        let mut buffers: Vec<_> = Allocation::by_handles(&live)
            .into_iter()
            .map(|allocation| {
                let sample = samples.get(&allocation.handle).copied();
                let sample = sample.or_else(|| profiler.as_ref().and_then(|_| block_sample(&allocation)));
                let stack = sample.and_then(stack);
                (allocation, stack)
            })
            .collect();
        buffers.sort_by_key(|(allocation, _)| (allocation.allocated_at, allocation.id));
        let pools = self.pools().into_iter().filter_map(|pool| {
            let chunks = pool.map();
            let sampled = chunks.iter().flat_map(|chunk| chunk.blocks.iter().filter_map(|block| block.sample));
            let stacks = sampled.filter_map(|sample| Some((sample, stack(sample)?))).collect();
            let name = Arc::clone(pool.public_name()?);
            Some(SnapshotPool {
                name,
                kind: pool.kind(),
                tag: pool.tag().cloned(),
                stats: pool.stats(),
                chunks,
                stacks,
            })
        });
        Snapshot { buffers, pools: pools.collect() }
    }

    /// Returns the ids of all live buffers and blocks.
    pub fn live_ids(&self) -> HashSet<u64> {
        let live = self.accounting.read(|accounts| accounts.live.iter().copied().collect::<Vec<_>>());
        let buffers = Allocation::by_handles(&live).into_iter().map(|allocation| allocation.id.get());
        let blocks = self.pools().into_iter().flat_map(|pool| pool.live_ids());
        buffers.chain(blocks).collect()
    }

    /// Returns the buffers, the sampled blocks, and the blocks dropped while pinned, that are older than `age`. Reports
    /// each of them once in a profile.
    pub fn leaks(&self, age: Duration) -> Leaks {
        let Some(profiler) = self.profiling.recording() else { return Default::default() };
        let Some(latest) = SystemTime::now().checked_sub(age) else { return Default::default() };
        let live = self.accounting.read(|accounts| accounts.live.clone());
        let mut reported = self.profiling.reported();
        reported.buffers.retain(|handle| live.contains(handle));
        let news: Vec<_> = live.into_iter().filter(|handle| !reported.buffers.contains(handle)).collect();
        let mut buffers = Allocation::by_handles(&news);
        buffers.retain(|allocation| allocation.allocated_at <= latest);
        reported.buffers.extend(buffers.iter().map(|allocation| allocation.handle));

        let sampled = self.pools().into_iter().flat_map(|pool| {
            let blocks = pool.sampled();
            blocks.into_iter().map(move |block| (Arc::clone(&pool), block))
        });
        let sampled: Vec<_> = sampled
            .filter_map(|(pool, block)| {
                let (at, _, stack) = profiler.sites().sample(block.sample)?;
                Some(Sampled { pool, block, at: profiler.calendar(at), stack })
            })
            .collect();
        let alive: HashSet<_> = sampled.iter().map(|sampled| sampled.block.sample).collect();
        reported.blocks.retain(|sample| alive.contains(sample));
        let blocks = sampled.into_iter().filter(|sampled| sampled.at <= latest);
        let blocks: Vec<_> = blocks.filter(|sampled| reported.blocks.insert(sampled.block.sample)).collect();
        // A block with an ArrayBuffer is among the buffers.
        let blocks = blocks.into_iter().filter(|sampled| Allocation::at(sampled.block.slice.address).next().is_none());
        let dropped = self.dropped_pins();
        reported.pinned.retain(|id| dropped.iter().any(|(_, pinned)| pinned.slice.id == *id));
        let due = dropped.into_iter().filter(|(_, pinned)| pinned.since <= latest);
        let pinned = due.filter(|(_, pinned)| reported.pinned.insert(pinned.slice.id)).collect();
        Leaks { buffers, blocks: blocks.collect(), pinned }
    }

    /// Counts the samples of this thread that need a stack.
    pub fn pending_samples(&self) -> usize {
        self.profiling.recording().map_or(0, |profiler| profiler.pending())
    }

    /// Sets the stack of all samples that [`pending_samples`](Self::pending_samples) counts.
    pub fn attribute(&self, stack: &str) {
        if let Some(profiler) = self.profiling.recording() {
            let samples = profiler.take_pending();
            let mut sites = profiler.sites();
            samples.into_iter().for_each(|sample| sites.attribute(sample, stack));
        }
    }

    /// Starts to record a new pool, if a profile is running.
    pub(super) fn record_pool(&self, pool: &Pool) {
        if let Some(profiler) = self.profiling.recording() {
            pool.record(Some(&profiler));
        }
    }
}

/// Returns the sample of a block, by the allocation of its ArrayBuffer.
fn block_sample(allocation: &Allocation) -> Option<Handle> {
    allocation.pool.as_ref()?;
    let (pool, slice) = allocation.place()?;
    pool.sample_of(&slice)
}
