//! Pools, but for their fast path.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::async_task::{spawn, AsyncTask, Outcome};
use super::buffer::expose;
use super::env::throw;
use super::fast_path::{slice_name, slice_numbers};
use super::manager::milliseconds;
use super::memory::{slice_options, Npu, System, DRIVER_THREADS};
use super::registry::{close_pool, manager, open_pool, pool, pool_of_block};
use crate::device::memory::alignment as checked;
use crate::manager::{block_dropped, PoolMemory, PoolOptions};
use crate::pool::{self, Clearing, DeferredRequest, SliceRequest, TagId, UnclaimedSlice};
use crate::units::{MemoryKind, MIN_ALIGNMENT};

/// Options of a new pool.
#[napi(object)]
pub struct PoolRequest {
    pub name: String,
    pub initial_size: f64,
    pub max_size: Option<f64>,
    pub chunk_size: Option<f64>,
    pub block_size: Option<f64>,
    pub alignment: Option<f64>,
    pub reuse_after_ms: Option<f64>,
    pub grow_ahead: Option<f64>,
    /// Options of a pool of NPU memory.
    pub npu: Option<Npu>,
    /// Options of a pool of system memory.
    pub system: Option<System>,
}

impl From<PoolRequest> for PoolOptions {
    fn from(request: PoolRequest) -> Self {
        Self {
            name: request.name.into(),
            initial: request.initial_size as u64,
            max: request.max_size.map(|n| n as u64),
            chunk: request.chunk_size.map(|n| n as u64),
            block: request.block_size.map(|n| n as u64),
            alignment: request.alignment.map(|n| n as u64),
            reuse_after: request.reuse_after_ms.map(milliseconds),
            grow_ahead: request.grow_ahead.unwrap_or(0.0),
            memory: match request.system {
                Some(system) => PoolMemory::System(system.into()),
                None => PoolMemory::Npu(request.npu.unwrap_or_default().into()),
            },
        }
    }
}

#[napi(object)]
pub struct PoolStats {
    pub name: String,
    pub kind: String,
    pub max_size: f64,
    pub chunks: f64,
    pub reserved: f64,
    pub allocated: f64,
    pub requested: f64,
    pub free: f64,
    pub peak_allocated: f64,
    pub largest_free: f64,
    pub live_allocations: f64,
    pub total_allocations: f64,
    pub failed_allocations: f64,
    pub fragmentation: f64,
    pub waiting: f64,
    pub late_writes: f64,
    pub grown_ahead: f64,
    pub failed_ahead: f64,
    pub lost: LostSlices,
}

/// Slices that are never used again.
#[napi(object)]
pub struct LostSlices {
    pub slices: f64,
    pub bytes: f64,
}

impl PoolStats {
    pub fn new(name: &str, kind: MemoryKind, stats: &pool::PoolStats) -> Self {
        Self {
            name: name.to_owned(),
            kind: kind.as_str().to_owned(),
            max_size: stats.max as f64,
            chunks: stats.chunks as f64,
            reserved: stats.reserved as f64,
            allocated: stats.allocated as f64,
            requested: stats.requested as f64,
            free: stats.free as f64,
            peak_allocated: stats.peak_allocated as f64,
            largest_free: stats.largest_free as f64,
            live_allocations: stats.live as f64,
            total_allocations: stats.allocations as f64,
            failed_allocations: stats.failures as f64,
            fragmentation: stats.fragmentation(),
            waiting: stats.waiting as f64,
            late_writes: stats.late_writes as f64,
            grown_ahead: stats.grown_ahead as f64,
            failed_ahead: stats.failed_ahead as f64,
            lost: LostSlices { slices: stats.lost.0 as f64, bytes: stats.lost.1 as f64 },
        }
    }
}

/// Creates a pool and returns its handle.
#[napi(catch_unwind)]
pub fn create_pool(env: &Env, handle: f64, request: PoolRequest) -> Result<f64> {
    let pool = manager(handle).and_then(|manager| manager.create_pool(&request.into())).map_err(throw(env))?;
    Ok(open_pool(handle, pool))
}

/// Creates a pool on another thread: a promise of its handle.
#[napi(catch_unwind)]
pub fn create_pool_async(env: &Env, handle: f64, request: PoolRequest) -> Result<AsyncTask<'_>> {
    let maker = manager(handle).map_err(throw(env))?;
    let work = move || {
        let prepared = maker.prepare_pool(&request.into())?;
        Ok(Outcome::new(move |env| {
            // Looked up again: the manager may have been closed meanwhile.
            let pool = manager(handle).and_then(|manager| manager.enter_pool(prepared)).map_err(throw(env))?;
            Ok(env.create_double(open_pool(handle, pool))?.raw())
        }))
    };
    spawn(env, &DRIVER_THREADS, work)
}

/// Allocates a slice with its ArrayBuffer: `[buffer, handle]`. `resident`: nothing, if the request may have to wait for
/// a driver.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn allocate_from_pool<'env>(
    env: &'env Env,
    handle: f64,
    size: f64,
    alignment: Option<f64>,
    zeroed: Option<bool>,
    tag: Option<String>,
    resident: Option<bool>,
) -> Result<Option<Array<'env>>> {
    let allocated = pool(handle).and_then(|open| {
        let (manager, options) = (open.manager()?, slice_options(size, alignment, zeroed, tag));
        match resident {
            Some(true) => manager.allocate_resident(&open.pool, options),
            _ => manager.allocate_from(&open.pool, options).map(Some),
        }
    });
    allocated.transpose().map(|allocated| expose(env, allocated)).transpose()
}

/// Allocates a slice on another thread: a promise of `[buffer, handle]`, or of nothing after a reset of the pool.
#[napi(catch_unwind)]
pub fn allocate_from_pool_async(
    env: &Env,
    handle: f64,
    size: f64,
    alignment: Option<f64>,
    zeroed: Option<bool>,
    tag: Option<String>,
) -> Result<AsyncTask<'_>> {
    let open = pool(handle).map_err(throw(env))?;
    let manager = open.manager().map_err(throw(env))?;
    let options = slice_options(size, alignment, zeroed, tag);
    let work = move || {
        let prepared = manager.prepare_from(&open.pool, options);
        Outcome::unless_reset(prepared.map(Outcome::memory))
    };
    spawn(env, &DRIVER_THREADS, work)
}

/// Allocates a slice without an ArrayBuffer on another thread: a promise of its numbers, or of nothing after a reset of
/// the pool. `tag` is a number of [`pool_tag`], or -1.
#[napi(catch_unwind)]
pub fn pool_allocate_async(
    env: &Env,
    handle: f64,
    size: f64,
    alignment: f64,
    zeroed: Option<bool>,
    tag: i32,
) -> Result<AsyncTask<'_>> {
    let open = pool(handle).map_err(throw(env))?;
    let mut request =
        SliceRequest::new(size as u64, checked(Some(alignment as u64), MIN_ALIGNMENT).map_err(throw(env))?);
    (request.tag, request.clearing) = (u32::try_from(tag).ok().map(TagId::from_raw), Clearing::of(zeroed));
    let request = DeferredRequest::new(open.pool, request);
    let work = move || {
        let made = request.run();
        let numbers = |made: UnclaimedSlice| Outcome::numbers(move || made.claim().map(|slice| slice_numbers(&slice)));
        Outcome::unless_reset(made.map(numbers))
    };
    spawn(env, &DRIVER_THREADS, work)
}

/// Creates the ArrayBuffer of a slice that the fast path has allocated: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn pool_expose<'env>(
    env: &'env Env,
    handle: f64,
    index: i32,
    generation: i32,
    slot: i32,
    region_generation: i32,
) -> Result<Array<'env>> {
    let adopted = pool_of_block(handle).and_then(|open| {
        let (chunk, region) = slice_name(index, generation, slot, region_generation);
        open.manager()?.adopt_slice(&open.pool, chunk, region)
    });
    expose(env, adopted)
}

/// Pins a slice.
#[napi(catch_unwind)]
pub fn pin_slice(env: &Env, handle: f64, index: i32, generation: i32, slot: i32, region_generation: i32) -> Result<()> {
    let (chunk, region) = slice_name(index, generation, slot, region_generation);
    pool_of_block(handle).and_then(|open| open.pool.pin_slice(chunk, region)).map_err(throw(env))
}

/// Removes one pin of a slice. Returns whether it has others.
#[napi(catch_unwind)]
pub fn unpin_slice(
    env: &Env,
    handle: f64,
    index: i32,
    generation: i32,
    slot: i32,
    region_generation: i32,
) -> Result<bool> {
    let (chunk, region) = slice_name(index, generation, slot, region_generation);
    pool_of_block(handle).and_then(|open| open.pool.unpin_slice(chunk, region, false)).map_err(throw(env))
}

/// Records that the block of a slice was collected.
#[napi(catch_unwind)]
pub fn block_collected(handle: f64, index: i32, generation: i32, slot: i32, region_generation: i32) {
    let (chunk, region) = slice_name(index, generation, slot, region_generation);
    if let Ok(open) = pool(handle) {
        // A slice that was freed meanwhile is not an error.
        let _ = block_dropped(&open.pool, chunk, region);
    }
}

/// Returns the tag of a slice.
#[napi(catch_unwind)]
pub fn slice_tag(handle: f64, index: i32, generation: i32, slot: i32, region_generation: i32) -> Option<String> {
    let (chunk, region) = slice_name(index, generation, slot, region_generation);
    let tag = pool(handle).ok()?.pool.tag_of(chunk, region).ok()??;
    Some(tag.to_string())
}

/// Returns the number that stands for a tag in requests of the fast path.
#[napi(catch_unwind)]
pub fn pool_tag(env: &Env, handle: f64, tag: String) -> Result<i32> {
    let id = pool(handle).and_then(|open| open.pool.tag_id(&tag.into()));
    id.map(|id| id.get() as i32).map_err(throw(env))
}

/// Takes back the numbers of all tags of a pool.
#[napi(catch_unwind)]
pub fn pool_forget_tags(handle: f64) {
    if let Ok(open) = pool(handle) {
        open.pool.forget_tags();
    }
}

/// Stops a pool's warnings of being full.
#[napi(catch_unwind)]
pub fn pool_expect_full(handle: f64) {
    if let Ok(open) = pool(handle) {
        open.pool.expect_full();
    }
}

/// Returns a pool's statistics.
#[napi(catch_unwind)]
pub fn pool_stats(env: &Env, handle: f64) -> Result<PoolStats> {
    let pool = pool(handle).map_err(throw(env))?.pool;
    Ok(PoolStats::new(pool.public_name().map_or("", |name| name), pool.kind(), &pool.stats()))
}

/// Ends the waits of a pool's freed slices, because memory is scarce.
#[napi(catch_unwind)]
pub fn pool_end_waits(handle: f64) {
    if let Ok(open) = pool(handle) {
        open.pool.end_all_waits();
    }
}

/// Gives empty chunks back to the device and returns their bytes.
#[napi(catch_unwind)]
pub fn pool_trim(env: &Env, handle: f64) -> Result<f64> {
    pool(handle).map(|open| open.pool.trim() as f64).map_err(throw(env))
}

/// Frees every slice and keeps the memory, except chunks with an ArrayBuffer that could not be detached.
#[napi(catch_unwind)]
pub fn pool_reset(env: &Env, handle: f64) -> Result<()> {
    pool(handle).and_then(|open| open.manager()?.reset_pool(&open.pool)).map_err(throw(env))
}

/// Destroys a pool.
#[napi(catch_unwind)]
pub fn pool_destroy(env: &Env, handle: f64, force: bool) -> Result<()> {
    pool(handle).and_then(|open| open.manager()?.destroy_pool(&open.pool, force)).map_err(throw(env))?;
    close_pool(handle);
    Ok(())
}

/// Returns the statistics of every named pool.
#[napi(catch_unwind)]
pub fn pools_stats(env: &Env, handle: f64) -> Result<Vec<PoolStats>> {
    let pools = manager(handle).map(|manager| manager.pool_stats()).map_err(throw(env))?;
    Ok(pools.iter().map(|(name, kind, stats)| PoolStats::new(name, *kind, stats)).collect())
}

/// Gives empty slabs back to the device and returns their bytes.
#[napi(catch_unwind)]
pub fn trim_slabs(env: &Env, handle: f64) -> Result<f64> {
    manager(handle).map(|manager| manager.trim_slabs() as f64).map_err(throw(env))
}
