//! The verbs, for `src/js/` to dress. Cold: each call but the look-ups ends in the kernel.

use std::os::fd::{BorrowedFd, IntoRawFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::buffer;
use super::realm::{manager, throw, Realm};
use super::types;
use crate::accounting::{Counters, TaggedCounters};
use crate::allocation::Allocation;
use crate::backend::probe::{self, Probed};
use crate::backend::{Direction, Kind};
use crate::device::select::{self, Choice};
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::manager::Manager;
use crate::pool::SlabOptions;
use crate::sys::proc::Gauge;
use crate::sys::reserve_fd;
use crate::units::MemoryKind;

/// Once an environment, before anything else: how errors are made, and whether this runtime's finalizers come for the
/// last ArrayBuffer over the memory whatever thread they come from (Deno).
#[napi(catch_unwind)]
pub fn setup(env: &Env, make_error: Unknown<'_>, finalizers_follow_memory: bool) -> Result<()> {
    reserve_fd::hold();
    Realm::enter(env, &make_error, finalizers_follow_memory)
}

/// Of this native part: copies of the package use one, where their versions are the same.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// Every device this process can open, best first, then every one it cannot: `{device}` or `{backend, path, error}`.
#[napi(catch_unwind)]
pub fn probe_devices(env: &Env) -> Result<Vec<Object<'_>>> {
    let realm = Realm::of(env)?;
    let describe = |probed: Probed| {
        let mut object = Object::new(env)?;
        match probed.outcome {
            Ok(info) => object.set("device", types::Device::new(&info, info.sram_total))?,
            Err(error) => {
                object.set("backend", probed.kind.as_str())?;
                object.set("path", probed.path.unwrap_or_default().to_string_lossy().as_ref())?;
                object.set("error", realm.error_value(env, &error)?)?;
            }
        }
        Ok(object)
    };
    probe::probe().into_iter().map(describe).collect()
}

/// What [`open_manager`] opened.
#[napi(object)]
pub struct Opened {
    pub manager: f64,
    pub device: types::Device,
    /// 'auto' found no NPU on this machine, for the first time in this process.
    pub warn: bool,
}

/// Whether this process was told that its NPU is a simulated one: once is enough, however many workers it has.
static WARNED: AtomicBool = AtomicBool::new(false);

/// Opens a device. `backend` is a name or "auto".
#[napi(catch_unwind)]
pub fn open_manager(
    env: &Env,
    backend: String,
    device: Option<String>,
    simulated: Option<types::Simulated>,
    slabs: Option<types::Slabs>,
) -> Result<Opened> {
    let choice = match backend.as_str() {
        "auto" => Choice::Auto,
        name => Choice::Only(Kind::from_name(name).ok_or_else(|| {
            throw(env)(Error::new(ErrorCode::OutOfRange, format!("there is no backend called \"{name}\"")))
        })?),
    };
    let opened =
        select::open(choice, device.as_deref().map(Path::new), simulated.map(Into::into)).map_err(throw(env))?;
    let manager = Manager::new(opened.device, slabs.map_or_else(SlabOptions::default, Into::into));
    let device = types::Device::new(manager.info(), manager.sram_free());
    let handle = Realm::of(env)?.open(manager);
    Ok(Opened { manager: handle.get() as f64, device, warn: opened.fell_back && !WARNED.swap(true, Relaxed) })
}

/// What `dispose` waits for a driver that is slow to take memory back. What is left goes on by itself.
const DISPOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Frees everything the manager owns and closes it. Nothing happens the second time.
#[napi(catch_unwind)]
pub fn close_manager(env: &Env, manager: f64) -> Result<()> {
    if let Some(manager) = Realm::of(env)?.close(Handle::from_raw(manager as u64)) {
        manager.dispose();
        manager.settle(DISPOSE_PATIENCE);
    }
    Ok(())
}

/// The JavaScript object is gone: the manager closes when its last buffer does.
#[napi(catch_unwind)]
pub fn abandon_manager(env: &Env, manager: f64) -> Result<()> {
    drop(Realm::of(env)?.close(Handle::from_raw(manager as u64)));
    Ok(())
}

/// Allocates NPU memory: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn allocate_npu<'env>(env: &'env Env, handle: f64, size: f64, options: Option<types::Npu>) -> Result<Array<'env>> {
    let options = options.unwrap_or_default().into();
    let allocated = manager(handle).and_then(|manager| manager.allocate_npu(size as u64, &options));
    handed_out(env, allocated)
}

/// Allocates system memory: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn allocate_system<'env>(
    env: &'env Env,
    handle: f64,
    size: f64,
    options: Option<types::System>,
) -> Result<Array<'env>> {
    let options = options.unwrap_or_default().into();
    let allocated = manager(handle).and_then(|manager| manager.allocate_system(size as u64, &options));
    handed_out(env, allocated)
}

/// Maps somebody else's dma-buf: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn import_dma_buf<'env>(
    env: &'env Env,
    handle: f64,
    fd: i32,
    size: Option<f64>,
    tag: Option<String>,
) -> Result<Array<'env>> {
    let imported = manager(handle).and_then(|manager| {
        let fd = borrow_fd(fd)?;
        manager.import(fd, size.map(|size| size as u64), tag.map(Into::into))
    });
    handed_out(env, imported)
}

/// Frees `buffer`; `kind` is the one it must be of ("npu", "system"), if that matters. Returns the allocation's id, or 0 where the
/// finalizer says which of several that share the memory it was.
#[napi(catch_unwind)]
pub fn deallocate(
    env: &Env,
    handle: f64,
    buffer: Unknown<'_>,
    kind: Option<String>,
    which: Option<f64>,
) -> Result<f64> {
    let allocation = find(env, handle, &buffer, which)?;
    if let Some(kind) = kind.filter(|kind| kind != allocation.kind.as_str()) {
        let verb = match allocation.kind {
            MemoryKind::Npu => "deallocateNPUMemory",
            MemoryKind::System => "deallocateSystemMemory",
        };
        let message = format!("this buffer is {} memory, not {kind} memory", allocation.kind.as_str());
        return Err(throw(env)(Error::new(ErrorCode::BufferKind, message).hint(format!("use {verb} or deallocate"))));
    }
    allocation.check_freeable().map_err(throw(env))?;
    allocation.set_freeing(true);
    if let Err(error) = buffer::detach(env, &buffer, allocation.address) {
        allocation.set_freeing(false);
        return Err(throw(env)(error));
    }
    if which.is_none() && allocation.is_shared() {
        // Its bytes were moved to an ArrayBuffer that we never saw: which of those over them it was, its finalizer knows.
        return Ok(0.0);
    }
    // Already released where the runtime ran the finalizer inside the detach: nothing is left to do then.
    allocation.release().map_err(throw(env))?;
    Ok(allocation.id.get() as f64)
}

/// Keeps an allocation from being deallocated, or lets it.
#[napi(catch_unwind)]
pub fn pin_allocation(id: f64, pinned: bool) {
    if let Some(allocation) = Allocation::by_id(Handle::from_raw(id as u64)) {
        allocation.set_pinned(pinned);
    }
}

/// Everything known of `buffer`.
#[napi(catch_unwind)]
pub fn describe(env: &Env, handle: f64, buffer: Unknown<'_>, which: Option<f64>) -> Result<types::Buffer> {
    let allocation = find(env, handle, &buffer, which)?;
    let manager = manager(handle).map_err(throw(env))?;
    let stack = manager.stack_of(&allocation);
    Ok(types::Buffer::new(&allocation, manager.info().kind, stack.as_deref()))
}

/// Whether `buffer` is a live one of this manager.
#[napi(catch_unwind)]
pub fn owns(env: &Env, handle: f64, buffer: Unknown<'_>) -> Result<bool> {
    let manager = manager(handle).map_err(throw(env))?;
    Ok(buffer::info(env, &buffer).is_some_and(|(address, _)| manager.find(address, None).is_ok()))
}

/// Whether the allocation of that id is live: its ArrayBuffer was detached, but not by us.
#[napi(catch_unwind)]
pub fn is_live(id: f64) -> bool {
    Allocation::by_id(Handle::from_raw(id as u64)).is_some_and(|allocation| allocation.is_live())
}

/// Cache maintenance of `length` bytes from `offset` on; without a length, to the end.
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

/// A dma-buf over a buffer's kernel object.
#[napi(object)]
pub struct DmaBuf {
    pub fd: i32,
    pub offset: f64,
    pub size: f64,
}

/// A new fd that the caller owns.
#[napi(catch_unwind)]
pub fn export_dma_buf(env: &Env, handle: f64, buffer: Unknown<'_>) -> Result<DmaBuf> {
    let allocation = find(env, handle, &buffer, None)?;
    let fd = manager(handle).and_then(|manager| manager.export(&allocation)).map_err(throw(env))?;
    Ok(DmaBuf { fd: fd.into_raw_fd(), offset: allocation.offset as f64, size: allocation.size as f64 })
}

/// Lets others join the holders of a buffer: a token, for [`adopt`].
#[napi(catch_unwind)]
pub fn share(env: &Env, handle: f64, buffer: Unknown<'_>, which: Option<f64>) -> Result<String> {
    find(env, handle, &buffer, which)?.share().map(|share| share.token()).map_err(throw(env))
}

/// Another ArrayBuffer over memory that is shared: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn adopt<'env>(env: &'env Env, handle: f64, token: String) -> Result<Array<'env>> {
    handed_out(env, manager(handle).and_then(|manager| manager.adopt(&token)))
}

/// NPU memory in figures.
#[napi(catch_unwind)]
pub fn npu_stats(env: &Env, handle: f64) -> Result<types::NpuFigures> {
    manager(handle).map(|manager| manager.npu_stats().into()).map_err(throw(env))
}

/// System memory in figures.
#[napi(catch_unwind)]
pub fn system_stats(env: &Env, handle: f64) -> Result<types::SystemFigures> {
    manager(handle).map(|manager| manager.system_stats().into()).map_err(throw(env))
}

/// The one-look summary.
#[napi(catch_unwind)]
pub fn summary(env: &Env, handle: f64) -> Result<types::Summary> {
    let summary = manager(handle).map_err(throw(env))?.summary();
    Ok(types::Summary {
        npu_used: summary.npu.used as f64,
        npu_total: summary.npu_total as f64,
        npu_peak: summary.npu.peak as f64,
        system_used: summary.system.used as f64,
        system_total: summary.system_total as f64,
        system_peak: summary.system.peak as f64,
        pool_reserved: summary.pool_reserved as f64,
        pool_allocated: summary.pool_allocated as f64,
        live_allocations: (summary.npu.live + summary.system.live) as f64,
    })
}

/// Counters by tag.
#[napi(catch_unwind)]
pub fn tags(env: &Env, handle: f64) -> Result<Vec<types::Tag>> {
    let accounts = manager(handle).map_err(throw(env))?.accounts();
    // Of some nothing is known but their limit.
    let seen = accounts.tags.into_iter().filter(|(_, tagged)| tagged.counters != Counters::default());
    let tag = |(tag, TaggedCounters { counters, .. }): (Arc<str>, TaggedCounters)| types::Tag {
        tag: tag.to_string(),
        counters: counters.into(),
    };
    Ok(seen.map(tag).collect())
}

/// Open file descriptors of this process and their bound, its mappings and theirs; not a number where that cannot be told.
///
/// An array: the engine forgets the shape of an object that native code makes now and then, and with it the code that was optimized
/// for it, allocations' own.
#[napi(catch_unwind, ts_return_type = "[openFds: number, maxFds: number, maps: number, maxMaps: number]")]
pub fn process_gauges(env: &Env, handle: f64) -> Result<Vec<f64>> {
    let (fds, maps) = manager(handle).map_err(throw(env))?.process_gauges();
    let figures = |gauge: Option<Gauge>| gauge.map_or([f64::NAN; 2], |Gauge { used, max }| [used as f64, max as f64]);
    Ok([figures(fds), figures(maps)].concat())
}

/// An array: its elements have no names that would have to be made into strings at each call.
pub(super) fn handed_out<'env>(
    env: &'env Env,
    allocated: crate::error::Result<Arc<Allocation>>,
) -> Result<Array<'env>> {
    let allocation = allocated.map_err(throw(env))?;
    let buffer = buffer::expose(env, &allocation).map_err(throw(env))?;
    let mut pair = env.create_array(2)?;
    pair.set(0, buffer)?;
    pair.set(1, allocation.id.get() as f64)?;
    Ok(pair)
}

/// The live allocation that `buffer` is all of; the one of the id `which` where several are at its address.
pub(super) fn find(env: &Env, handle: f64, buffer: &Unknown<'_>, which: Option<f64>) -> Result<Arc<Allocation>> {
    let found = manager(handle).and_then(|manager| {
        let (address, length) = buffer::info(env, buffer)
            .ok_or_else(|| Error::new(ErrorCode::InvalidArgType, "the buffer must be an ArrayBuffer"))?;
        let allocation = manager.find(address, which.map(|id| Handle::from_raw(id as u64)))?;
        if allocation.size == length {
            return Ok(allocation);
        }
        let message = format!("this ArrayBuffer shows {length} bytes of an allocation of {}", allocation.size);
        Err(Error::new(ErrorCode::UnknownBuffer, message))
    });
    found.map_err(throw(env))
}

fn borrow_fd(fd: i32) -> crate::error::Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Error::new(ErrorCode::OutOfRange, format!("fd is {fd}; it must be 0 or more")));
    }
    Ok(super::buffer::borrowed(fd))
}
