//! Profiles, snapshots and leaks.
//!
//! Profiles and snapshots have many rows. A row crosses the border as numbers, some of which index a table of strings:
//! an object would cost microseconds. `src/js/profiling/columns.js` creates the objects.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::async_task::{spawn, AsyncTask, Outcome};
use super::env::throw;
use super::memory::{unix_ms, Buffer};
use super::pools::PoolStats;
use super::registry::manager;
use crate::allocation::Allocation;
use crate::handle::Handle;
use crate::manager::{Leaks, Manager, Sampled, SnapshotPool};
use crate::pool::{BlockMap, PinnedSlice, SampledBlock};
use crate::profile::{self, Event, HistogramSummary, Options, Profile};
use crate::sys::thread_pool::ThreadPool;
use crate::units::MemoryKind;

/// Threads for reports, which never wait behind a driver.
static REPORT_THREADS: ThreadPool = ThreadPool::new("rkllm-report", 1);

/// Rows of numbers, one after the other. Some index `texts`; -1 is no text.
#[napi(object)]
pub struct Columns {
    pub rows: Float64Array,
    pub texts: Vec<String>,
}

/// Distinct strings, by index.
#[derive(Default)]
struct StringTable {
    list: Vec<String>,
    indices: HashMap<Arc<str>, f64>,
}

impl StringTable {
    fn index_of(&mut self, text: Option<&Arc<str>>) -> f64 {
        let Some(text) = text else { return -1.0 };
        if let Some(at) = self.indices.get(text) {
            return *at;
        }
        self.list.push(text.to_string());
        let at = (self.list.len() - 1) as f64;
        self.indices.insert(Arc::clone(text), at);
        at
    }
}

/// Starts recording.
#[napi(catch_unwind)]
pub fn start_profiling(env: &Env, handle: f64, sample_interval: f64, event_capacity: f64) -> Result<()> {
    let options = Options { sample_interval: sample_interval as u64, event_capacity: event_capacity as usize };
    manager(handle).map(|manager| manager.start_profiling(options)).map_err(throw(env))
}

/// Stops recording. The recording stays.
#[napi(catch_unwind)]
pub fn stop_profiling(env: &Env, handle: f64) -> Result<()> {
    manager(handle).map(|manager| manager.stop_profiling()).map_err(throw(env))
}

/// Returns the number of samples that this thread took and that have no stack yet.
#[napi(catch_unwind)]
pub fn pending_samples(handle: f64) -> u32 {
    manager(handle).map_or(0, |manager| manager.pending_samples() as u32)
}

/// Sets the stack of the pending samples.
#[napi(catch_unwind)]
pub fn attribute_samples(handle: f64, stack: String) {
    if let Ok(manager) = manager(handle) {
        manager.attribute(&stack);
    }
}

/// Distribution of numbers.
#[napi(object)]
pub struct Distribution {
    pub count: f64,
    pub min: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
    pub mean: f64,
    /// Pairs of an upper bound and a count.
    pub buckets: Vec<f64>,
}

impl From<HistogramSummary> for Distribution {
    fn from(summary: HistogramSummary) -> Self {
        Self {
            count: summary.count as f64,
            min: summary.min as f64,
            p50: summary.p50 as f64,
            p90: summary.p90 as f64,
            p99: summary.p99 as f64,
            p999: summary.p999 as f64,
            max: summary.max as f64,
            mean: summary.mean,
            buckets: summary.buckets.into_iter().flat_map(|(upto, count)| [upto as f64, count as f64]).collect(),
        }
    }
}

/// A call site of the program.
#[napi(object, use_nullable = true)]
pub struct CallSite {
    pub stack: String,
    pub tag: Option<String>,
    pub live_bytes: f64,
    pub live_count: f64,
    pub total_bytes: f64,
    pub total_count: f64,
}

impl From<profile::CallSite> for CallSite {
    fn from(site: profile::CallSite) -> Self {
        Self {
            stack: site.stack.to_string(),
            tag: site.tag.map(|tag| tag.to_string()),
            live_bytes: site.live_bytes,
            live_count: site.live_count,
            total_bytes: site.total_bytes,
            total_count: site.total_count,
        }
    }
}

/// A recording.
#[napi(object)]
pub struct Recorded {
    pub started_at: f64,
    pub duration_ms: f64,
    pub allocations: f64,
    pub frees: f64,
    pub bytes_allocated: f64,
    pub bytes_freed: f64,
    pub sizes: Distribution,
    pub lifetimes_us: Distribution,
    pub latency_ns: Distribution,
    pub call_sites: Vec<CallSite>,
    /// Absent if not requested.
    pub events: Option<Columns>,
    pub dropped_events: f64,
}

/// Returns the current recording, or the last one; nothing before the first.
#[napi(catch_unwind)]
pub fn profile(env: &Env, handle: f64, with_events: bool) -> Result<Option<Recorded>> {
    manager(handle).map(|manager| recorded(&manager, with_events)).map_err(throw(env))
}

fn recorded(manager: &Manager, with_events: bool) -> Option<Recorded> {
    let Profile { began, lasted, recording, lifetimes, latencies, sites } = manager.profile(with_events)?;
    Some(Recorded {
        started_at: unix_ms(began),
        duration_ms: lasted as f64 / 1e3,
        allocations: recording.totals.allocations as f64,
        frees: recording.totals.frees as f64,
        bytes_allocated: recording.totals.bytes_allocated as f64,
        bytes_freed: recording.totals.bytes_freed as f64,
        sizes: recording.sizes.summary().into(),
        lifetimes_us: lifetimes.summary().into(),
        latency_ns: latencies.summary().into(),
        call_sites: sites.into_iter().map(Into::into).collect(),
        events: with_events.then(|| events(&recording.events)),
        dropped_events: recording.dropped as f64,
    })
}

/// Makes a row of each event: action, time, id, kind, size, tag, pool.
fn events(events: &[Event]) -> Columns {
    let mut texts = StringTable::default();
    let mut rows = Vec::with_capacity(events.len() * 7);
    for event in events {
        rows.extend([
            f64::from(event.action as u8),
            event.time as f64,
            event.id as f64,
            is_npu(event.kind),
            event.size as f64,
            texts.index_of(event.tag.as_ref()),
            texts.index_of(event.pool.as_ref()),
        ]);
    }
    Columns { rows: rows.into(), texts: texts.list }
}

/// Live buffers and pools.
#[napi(object)]
pub struct Snapshot {
    /// Id, kind, size, reserved, tag, address, device address (-1: none), flags (bits: see `FACTS` in JavaScript),
    /// domain (-1: none), pool, offset, time of allocation, stack.
    pub buffers: Columns,
    pub pools: Vec<PoolSnapshot>,
}

/// A pool and its chunks.
#[napi(object, use_nullable = true)]
pub struct PoolSnapshot {
    pub tag: Option<String>,
    pub stats: PoolStats,
    /// Pairs of a chunk's bytes and the number of its blocks.
    pub chunks: Vec<f64>,
    /// Offset, size, id (-1: free), tag, stack, pin (0: none, 1: pinned, 2: dropped too).
    pub blocks: Columns,
}

/// Takes a snapshot of a manager's live buffers and pools.
#[napi(catch_unwind)]
pub fn snapshot(env: &Env, handle: f64) -> Result<Snapshot> {
    manager(handle).map(|manager| snapshot_of(&manager)).map_err(throw(env))
}

fn snapshot_of(manager: &Manager) -> Snapshot {
    let snapshot = manager.snapshot();
    let mut texts = StringTable::default();
    let mut rows = Vec::with_capacity(snapshot.buffers.len() * 13);
    for (allocation, stack) in &snapshot.buffers {
        rows.extend(buffer(allocation, stack.as_ref(), &mut texts));
    }
    let in_pools = snapshot.buffers.iter().filter(|(allocation, _)| allocation.pool.is_some());
    // Of several holders of a slice, the first one has the slice's id.
    let slices = in_pools.rev().map(|slice| (slice.0.address, slice)).collect();
    let pools = snapshot.pools.iter().map(|pool| pool_snapshot(pool, &slices)).collect();
    Snapshot { buffers: Columns { rows: rows.into(), texts: texts.list }, pools }
}

/// The figures of a report.
#[napi(object, object_from_js = false)]
pub struct ReportData {
    pub snapshot: Option<Snapshot>,
    pub profile: Option<Recorded>,
}

/// Makes the figures of a report on another thread: they have a row for each block and each event. The snapshot comes
/// first, so that the log has what happened after it.
#[napi(catch_unwind)]
pub fn report_data(env: &Env, handle: f64, with_snapshot: bool, with_profile: bool) -> Result<AsyncTask<'_>> {
    let manager = manager(handle).map_err(throw(env))?;
    spawn(env, &REPORT_THREADS, move || {
        let snapshot = with_snapshot.then(|| snapshot_of(&manager));
        let profile = if with_profile { recorded(&manager, true) } else { None };
        Ok(Outcome::value(ReportData { snapshot, profile }))
    })
}

fn buffer(allocation: &Allocation, stack: Option<&Arc<str>>, texts: &mut StringTable) -> [f64; 13] {
    let object = allocation.object.as_ref();
    let pin = allocation.pin();
    // The order of `buffersOf` in JavaScript: cacheable, contiguous, dedicated, imported, shared, of the device,
    // pinned, dropped.
    let flags = [
        object.is_none_or(|object| object.cacheable),
        object.is_some_and(|object| object.contiguous),
        allocation.dedicated && object.is_some(),
        object.is_some_and(|object| object.imported),
        allocation.is_shared(),
        object.is_some(),
        pin.is_some(),
        pin == Some(true),
    ];
    let flags: u32 = flags.iter().enumerate().map(|(bit, flag)| u32::from(*flag) << bit).sum();
    let device_address = object.and_then(|object| object.device_address);
    [
        allocation.id.get() as f64,
        is_npu(allocation.kind),
        allocation.size as f64,
        allocation.reserved as f64,
        texts.index_of(allocation.tag.as_ref()),
        allocation.address as f64,
        device_address.map_or(-1.0, |address| (address + allocation.offset) as f64),
        f64::from(flags),
        object.and_then(|object| object.domain).map_or(-1.0, f64::from),
        texts.index_of(allocation.pool.as_ref()),
        allocation.offset as f64,
        unix_ms(allocation.allocated_at),
        texts.index_of(stack),
    ]
}

/// A buffer and its stack.
type BufferStack = (Arc<Allocation>, Option<Arc<str>>);

fn pool_snapshot(pool: &SnapshotPool, slices: &HashMap<usize, &BufferStack>) -> PoolSnapshot {
    let mut texts = StringTable::default();
    let mut rows = Vec::new();
    let of_pool = pool.tag.as_ref();
    let mut block = |address: usize, block: &BlockMap| {
        let at = address + block.offset as usize;
        let buffer = slices.get(&at).filter(|_| block.id.is_some());
        // A slice that its first holder freed lives on as the allocation of another holder.
        let id = buffer.map(|(buffer, _)| buffer.id).or(block.id).map_or(-1.0, |id| id.get() as f64);
        let tag = block.tag.as_ref().or_else(|| buffer.and_then(|(buffer, _)| buffer.tag.as_ref()));
        let tag = tag.or(of_pool.filter(|_| block.id.is_some()));
        let stack = block.sample.and_then(|sample: Handle| pool.stacks.get(&sample));
        let stack = stack.or_else(|| buffer.and_then(|(_, stack)| stack.as_ref()));
        let pin = block.pinned.map_or(0.0, |dropped| if dropped { 2.0 } else { 1.0 });
        rows.extend([block.offset as f64, block.size as f64, id, texts.index_of(tag), texts.index_of(stack), pin]);
    };
    for chunk in &pool.chunks {
        chunk.blocks.iter().for_each(|of| block(chunk.address, of));
    }
    let chunks = pool.chunks.iter().flat_map(|chunk| [chunk.size as f64, chunk.blocks.len() as f64]).collect();
    PoolSnapshot {
        tag: pool.tag.as_deref().map(str::to_owned),
        stats: PoolStats::new(&pool.name, pool.kind, &pool.stats),
        chunks,
        blocks: Columns { rows: rows.into(), texts: texts.list },
    }
}

/// Returns those of the ids that live allocations of this manager have.
#[napi(catch_unwind)]
pub fn live_among(env: &Env, handle: f64, ids: Float64ArraySlice<'_>) -> Result<Float64Array> {
    let live = manager(handle).map_err(throw(env))?.live_ids();
    let found: Vec<f64> = ids.iter().copied().filter(|id| live.contains(&(*id as u64))).collect();
    Ok(found.into())
}

/// Reports buffers, and sampled blocks of pools, that are older than `age` ms. Reports each once.
#[napi(catch_unwind)]
pub fn leaks(env: &Env, handle: f64, age: f64) -> Result<Vec<Buffer>> {
    let manager = manager(handle).map_err(throw(env))?;
    let backend = manager.info().kind;
    let Leaks { buffers, blocks, pinned } = manager.leaks(Duration::from_secs_f64(age / 1e3));
    let mut leaks: Vec<_> = buffers
        .iter()
        .map(|allocation| Buffer::new(allocation, backend, manager.stack_of(allocation).as_deref()))
        .collect();
    let iommu = manager.info().iommu;
    leaks.extend(blocks.iter().map(|block| leaked_block(block, backend.as_str(), iommu)));
    for (pool, pinned) in pinned {
        if leaks.iter().any(|leak| leak.id == pinned.slice.id.get() as f64) {
            continue;
        }
        let PinnedSlice { slice, tag, size, since, .. } = pinned;
        // A pinned block has no sample here: its age counts from its pin.
        let block = SampledBlock { slice, size, tag, sample: Handle::from_raw(0) };
        let sampled = Sampled { pool, block, at: since, stack: None };
        leaks.push(leaked_block(&sampled, backend.as_str(), iommu));
    }
    Ok(leaks)
}

fn leaked_block(sampled: &Sampled, backend: &str, iommu: bool) -> Buffer {
    let Sampled { pool, block, at, stack } = sampled;
    let info = pool.facts();
    let pin = pool.pin_of(&block.slice);
    let text = |text: Option<&Arc<str>>| text.map(|text| text.to_string());
    Buffer {
        id: block.slice.id.get() as f64,
        kind: pool.kind().as_str().to_owned(),
        size: block.size as f64,
        reserved_size: block.slice.padded as f64,
        tag: text(block.tag.as_ref().or(pool.tag())),
        backend: (pool.kind() == MemoryKind::Npu).then(|| backend.to_owned()),
        address: BigInt::from(block.slice.address as u64),
        device_address: block.slice.device_address.map(BigInt::from),
        cacheable: info.is_none_or(|info| info.cacheable),
        contiguous: info.is_some_and(|info| info.contiguous),
        iommu_domain: info.filter(|_| iommu).map(|info| info.domain),
        dedicated: false,
        imported: false,
        shared: false,
        pinned: pin.is_some(),
        dropped: pin == Some(true),
        pool: text(pool.public_name()),
        offset: block.slice.offset as f64,
        allocated_at: unix_ms(*at),
        stack: text(stack.as_ref()),
    }
}

fn is_npu(kind: MemoryKind) -> f64 {
    f64::from(u8::from(kind == MemoryKind::Npu))
}
