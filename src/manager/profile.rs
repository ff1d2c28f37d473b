//! A manager's profile, and snapshots of what lives.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::profiling::ReportedLeaks;
use super::Manager;
use crate::allocation::Allocation;
use crate::handle::Handle;
use crate::pool::{ChunkMap, Pool, PoolStats, SampledBlock};
use crate::profile::{Options, Profile, Profiler};
use crate::units::MemoryKind;

/// What lives, all at (nearly) one time.
#[derive(Debug)]
pub struct Snapshot {
    /// Every buffer, with the stack it was made at where it is sampled.
    pub buffers: Vec<(Arc<Allocation>, Option<Arc<str>>)>,
    /// Every named pool.
    pub pools: Vec<SnapshotPool>,
}

/// A pool in a [`Snapshot`].
#[derive(Debug)]
pub struct SnapshotPool {
    /// Its name.
    pub name: Arc<str>,
    /// Of which memory.
    pub kind: MemoryKind,
    /// Its figures.
    pub stats: PoolStats,
    /// Its chunks and their blocks.
    pub chunks: Vec<ChunkMap>,
    /// Stacks of blocks, by their sample.
    pub stacks: HashMap<Handle, Arc<str>>,
}

/// A block of a pool that lives, and where it was made.
#[derive(Debug)]
pub struct Sampled {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// What and where it is.
    pub block: SampledBlock,
    /// When it was made.
    pub at: SystemTime,
    /// Where in the program.
    pub stack: Option<Arc<str>>,
}

impl Manager {
    /// Begins to record; what was recorded before is forgotten.
    pub fn start_profiling(&self, options: Options) {
        let profiler = Profiler::new(options);
        *self.profiling.profiler() = Some(Arc::clone(&profiler));
        *self.profiling.reported() = ReportedLeaks::default();
        self.profiling.on.store(true, Ordering::Relaxed);
        self.accounting.record(Some(&profiler));
        self.pools().iter().for_each(|pool| pool.record(Some(&profiler)));
    }

    /// Records nothing any more; the profile stays.
    pub fn stop_profiling(&self) {
        self.profiling.on.store(false, Ordering::Relaxed);
        self.accounting.record(None);
        self.pools().iter().for_each(|pool| pool.record(None));
        if let Some(profiler) = &*self.profiling.profiler() {
            profiler.end();
        }
    }

    /// Whether it records.
    pub fn is_profiling(&self) -> bool {
        self.profiling.on.load(Ordering::Relaxed)
    }

    /// What was recorded, now or last, with the events if they are wanted; `None` before the first time.
    pub fn profile(&self, with_events: bool) -> Option<Profile> {
        let profiler = self.profiling.profiler().clone()?;
        let pools = self.pools();
        let recordings = pools.iter().filter_map(|pool| pool.recording(with_events));
        let recordings = recordings.chain(self.accounting.recording(with_events)).collect();
        Some(profiler.profile(recordings, with_events))
    }

    /// Where in the program that allocation was made, if it is sampled.
    pub fn stack_of(&self, allocation: &Allocation) -> Option<Arc<str>> {
        let profiler = self.profiling.recording()?;
        let sample = self.accounting.sample(allocation.id).or_else(|| block_sample(allocation))?;
        let stack = profiler.sites().stack(sample);
        stack
    }

    /// What lives.
    pub fn snapshot(&self) -> Snapshot {
        let profiler = self.profiling.recording();
        let stack = |sample: Handle| profiler.as_ref()?.sites().stack(sample);
        let samples = self.accounting.samples();
        let live = self.accounting.read(|accounts| accounts.live.iter().copied().collect::<Vec<_>>());
        let mut buffers: Vec<_> = Allocation::by_ids(&live)
            .into_iter()
            .map(|allocation| {
                let sample = samples.get(&allocation.id).copied();
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
            Some(SnapshotPool { name, kind: pool.kind(), stats: pool.stats(), chunks, stacks })
        });
        Snapshot { buffers, pools: pools.collect() }
    }

    /// Buffers, and sampled blocks, that are older than `age` and that nobody has been told of: each of them once.
    pub fn leaks(&self, age: Duration) -> (Vec<Arc<Allocation>>, Vec<Sampled>) {
        let Some(profiler) = self.profiling.recording() else { return Default::default() };
        let Some(latest) = SystemTime::now().checked_sub(age) else { return Default::default() };
        let live = self.accounting.read(|accounts| accounts.live.clone());
        let mut reported = self.profiling.reported();
        reported.buffers.retain(|id| live.contains(id));
        let news: Vec<_> = live.into_iter().filter(|id| !reported.buffers.contains(id)).collect();
        let mut buffers = Allocation::by_ids(&news);
        buffers.retain(|allocation| allocation.allocated_at <= latest);
        reported.buffers.extend(buffers.iter().map(|allocation| allocation.id));

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
        // A block whose ArrayBuffer was made is a buffer too, and told of as that.
        let blocks = blocks.into_iter().filter(|sampled| Allocation::at(sampled.block.slice.address).next().is_none());
        (buffers, blocks.collect())
    }

    /// How many samples this thread took for this manager, of which it has to tell the stack.
    pub fn pending_samples(&self) -> usize {
        self.profiling.recording().map_or(0, |profiler| profiler.pending())
    }

    /// Where in the program they were taken.
    pub fn attribute(&self, stack: &str) {
        if let Some(profiler) = self.profiling.recording() {
            let samples = profiler.take_pending();
            let mut sites = profiler.sites();
            samples.into_iter().for_each(|sample| sites.attribute(sample, stack));
        }
    }

    /// A new pool is recorded like the others.
    pub(super) fn record_pool(&self, pool: &Pool) {
        if let Some(profiler) = self.profiling.recording() {
            pool.record(Some(&profiler));
        }
    }
}

/// As what the block is sampled that the allocation is the ArrayBuffer of.
fn block_sample(allocation: &Allocation) -> Option<Handle> {
    allocation.pool.as_ref()?;
    let (pool, slice) = allocation.place()?;
    pool.sample_of(&slice)
}
