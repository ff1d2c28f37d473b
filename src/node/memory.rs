//! NPU and system memory: allocation, deallocation, and operations on buffers.

use std::time::SystemTime;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::async_task::{spawn, AsyncTask, Outcome};
use super::buffer::{self, expose, find};
use super::env::throw;
use super::registry::{self, manager};
use crate::allocation::Allocation;
use crate::backend::{self, Direction, Placement};
use crate::device::memory::HugePages;
use crate::error::{Error, ErrorCode};
use crate::manager::{NpuOptions, SliceOptions, SystemOptions};
use crate::pool::Clearing;
use crate::sys::thread_pool::ThreadPool;
use crate::units::MemoryKind;

/// Threads for calls that wait for a driver. Further calls queue.
pub(super) static DRIVER_THREADS: ThreadPool = ThreadPool::new("rkllm-driver", 4);

#[napi(object)]
#[derive(Default)]
pub struct Npu {
    pub tag: Option<String>,
    pub alignment: Option<f64>,
    pub zeroed: Option<bool>,
    pub cacheable: Option<bool>,
    pub contiguous: Option<bool>,
    pub sram: Option<bool>,
    pub iommu_domain: Option<u32>,
    pub core_mask: Option<u32>,
    pub dedicated: Option<bool>,
}

impl From<Npu> for NpuOptions {
    fn from(options: Npu) -> Self {
        Self {
            tag: options.tag.map(Into::into),
            alignment: options.alignment.map(|n| n as u64),
            dirty: options.zeroed == Some(false),
            uncached: options.cacheable == Some(false),
            contiguous: options.contiguous,
            placement: if options.sram == Some(true) { Placement::TrySram } else { Placement::Dram },
            domain: options.iommu_domain.unwrap_or(0),
            core_mask: options.core_mask.unwrap_or(0),
            dedicated: options.dedicated == Some(true),
        }
    }
}

#[napi(object)]
#[derive(Default)]
pub struct System {
    pub tag: Option<String>,
    pub alignment: Option<f64>,
    /// `true`: required; `false`: tried; absent: none.
    pub huge_pages: Option<bool>,
    pub lock: Option<bool>,
    pub prefault: Option<bool>,
}

impl From<System> for SystemOptions {
    fn from(options: System) -> Self {
        Self {
            tag: options.tag.map(Into::into),
            alignment: options.alignment.map(|n| n as u64),
            huge_pages: match options.huge_pages {
                None => HugePages::No,
                Some(false) => HugePages::Try,
                Some(true) => HugePages::Must,
            },
            lock: options.lock == Some(true),
            prefault: options.prefault == Some(true),
        }
    }
}

/// Makes a request for a slice of the arguments that its exports share.
pub(super) fn slice_options(
    size: f64,
    alignment: Option<f64>,
    zeroed: Option<bool>,
    tag: Option<String>,
) -> SliceOptions {
    SliceOptions {
        size: size as u64,
        alignment: alignment.map(|n| n as u64),
        clearing: Clearing::of(zeroed),
        tag: tag.map(Into::into),
    }
}

#[napi(object, use_nullable = true)]
pub struct Buffer {
    pub id: f64,
    pub kind: String,
    pub size: f64,
    pub reserved_size: f64,
    pub tag: Option<String>,
    pub backend: Option<String>,
    pub address: BigInt,
    pub device_address: Option<BigInt>,
    pub cacheable: bool,
    pub contiguous: bool,
    pub iommu_domain: Option<u32>,
    pub dedicated: bool,
    pub imported: bool,
    pub shared: bool,
    pub pinned: bool,
    pub dropped: bool,
    pub pool: Option<String>,
    pub offset: f64,
    pub allocated_at: f64,
    pub stack: Option<String>,
}

impl Buffer {
    pub fn new(allocation: &Allocation, kind: backend::Kind, stack: Option<&str>) -> Self {
        let object = allocation.object.as_ref();
        let pin = allocation.pin();
        Self {
            id: allocation.id.get() as f64,
            kind: allocation.kind.as_str().to_owned(),
            size: allocation.size as f64,
            reserved_size: allocation.reserved as f64,
            tag: allocation.tag.as_deref().map(str::to_owned),
            backend: object.map(|_| kind.as_str().to_owned()),
            address: BigInt::from(allocation.address as u64),
            device_address: object
                .and_then(|object| object.device_address)
                .map(|address| BigInt::from(address + allocation.offset)),
            cacheable: object.is_none_or(|object| object.cacheable),
            contiguous: object.is_some_and(|object| object.contiguous),
            iommu_domain: object.and_then(|object| object.domain),
            dedicated: allocation.dedicated && object.is_some(),
            imported: object.is_some_and(|object| object.imported),
            shared: allocation.is_shared(),
            pinned: pin.is_some(),
            dropped: pin == Some(true),
            pool: allocation.pool.as_deref().map(str::to_owned),
            offset: allocation.offset as f64,
            allocated_at: unix_ms(allocation.allocated_at),
            stack: stack.map(str::to_owned),
        }
    }
}

/// Converts a time to milliseconds since 1970.
pub fn unix_ms(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64() * 1e3
}

/// Allocates NPU memory: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn allocate_npu<'env>(env: &'env Env, handle: f64, size: f64, options: Option<Npu>) -> Result<Array<'env>> {
    let options = options.unwrap_or_default().into();
    let allocated = manager(handle).and_then(|manager| manager.allocate_npu(size as u64, &options));
    expose(env, allocated)
}

/// Allocates system memory: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn allocate_system<'env>(env: &'env Env, handle: f64, size: f64, options: Option<System>) -> Result<Array<'env>> {
    let options = options.unwrap_or_default().into();
    let allocated = manager(handle).and_then(|manager| manager.allocate_system(size as u64, &options));
    expose(env, allocated)
}

/// Allocates NPU memory on another thread: a promise of `[buffer, handle]`, or of nothing after
/// `cancelTask`.
#[napi(catch_unwind)]
pub fn allocate_npu_async(env: &Env, handle: f64, size: f64, options: Option<Npu>) -> Result<AsyncTask<'_>> {
    let options = options.unwrap_or_default().into();
    let manager = manager(handle).map_err(throw(env))?;
    let work = move || manager.prepare_npu(size as u64, &options).map(Outcome::memory);
    spawn(env, &DRIVER_THREADS, work)
}

/// Frees `buffer`. `kind` is the kind that it must have ("npu" or "system"), if that matters. Returns the allocation's
/// handle, or 0 if the finalizer tells which of several allocations over shared memory it was. `force`: also if it is
/// pinned, because its pool or manager is about to end.
#[napi(catch_unwind)]
pub fn deallocate(
    env: &Env,
    handle: f64,
    buffer: Unknown<'_>,
    kind: Option<String>,
    id: Option<f64>,
    force: Option<bool>,
) -> Result<f64> {
    let allocation = find(env, handle, &buffer, id)?;
    if let Some(kind) = kind.filter(|kind| kind != allocation.kind.as_str()) {
        let verb = match allocation.kind {
            MemoryKind::Npu => "deallocateNPUMemory",
            MemoryKind::System => "deallocateSystemMemory",
        };
        let message = format!("this buffer is {} memory, not {kind} memory", allocation.kind.as_str());
        return Err(throw(env)(Error::new(ErrorCode::BufferKind, message).hint(format!("use {verb} or deallocate"))));
    }
    if force != Some(true) {
        allocation.check_freeable().map_err(throw(env))?;
    }
    allocation.set_freeing(true);
    if let Err(error) = buffer::detach(env, &buffer, allocation.address) {
        allocation.set_freeing(false);
        return Err(throw(env)(error));
    }
    if id.is_none() && allocation.is_shared() {
        // A `transfer()` has moved the bytes to an ArrayBuffer that this addon did not create: its finalizer knows the
        // allocation.
        return Ok(0.0);
    }
    // Also if this environment ends before the finalizer could say so.
    allocation.set_unreachable();
    // Does nothing where the runtime has run the finalizer inside the detach.
    allocation.release().map_err(throw(env))?;
    Ok(allocation.handle.get() as f64)
}

/// Describes `buffer`.
#[napi(catch_unwind)]
pub fn describe(env: &Env, handle: f64, buffer: Unknown<'_>, id: Option<f64>) -> Result<Buffer> {
    let allocation = find(env, handle, &buffer, id)?;
    let manager = manager(handle).map_err(throw(env))?;
    let stack = manager.stack_of(&allocation);
    Ok(Buffer::new(&allocation, manager.info().kind, stack.as_deref()))
}

/// Returns whether `buffer` is a live buffer of this manager.
#[napi(catch_unwind)]
pub fn owns(env: &Env, handle: f64, buffer: Unknown<'_>) -> Result<bool> {
    let manager = manager(handle).map_err(throw(env))?;
    Ok(buffer::info(env, &buffer).is_some_and(|(address, _)| manager.find(address, None).is_ok()))
}

/// Returns whether an allocation is live. A detached buffer whose allocation lives was transferred by a script.
#[napi(catch_unwind)]
pub fn is_live(id: f64) -> bool {
    Allocation::by_handle(registry::handle(id)).is_some_and(|allocation| allocation.is_live())
}

/// Cache maintenance of `length` bytes at `offset`; to the end without a length.
#[napi(catch_unwind)]
pub fn sync(
    env: &Env,
    handle: f64,
    buffer: Unknown<'_>,
    to_device: bool,
    offset: f64,
    length: Option<f64>,
) -> Result<()> {
    let allocation = find(env, handle, &buffer, None)?;
    let direction = if to_device { Direction::ToDevice } else { Direction::FromDevice };
    manager(handle)
        .and_then(|manager| manager.sync(&allocation, direction, offset as u64, length.map(|n| n as u64)))
        .map_err(throw(env))
}

/// Cache maintenance on another thread, as [`sync`]. The memory stays until it is done, even if it is freed meanwhile.
#[napi(catch_unwind)]
pub fn sync_async<'env>(
    env: &'env Env,
    handle: f64,
    buffer: Unknown<'_>,
    to_device: bool,
    offset: f64,
    length: Option<f64>,
) -> Result<AsyncTask<'env>> {
    let allocation = find(env, handle, &buffer, None)?;
    let direction = if to_device { Direction::ToDevice } else { Direction::FromDevice };
    let manager = manager(handle).map_err(throw(env))?;
    let job =
        manager.prepare_sync(&allocation, direction, offset as u64, length.map(|n| n as u64)).map_err(throw(env))?;
    spawn(env, &DRIVER_THREADS, move || job.run().map(|()| Outcome::DONE))
}
