//! Managers: set-up of an environment, opening and closing.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::Arc;
use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::async_task::{start, AsyncTask, Completer, Outcome};
use super::devices::{Device, Simulated};
use super::env::{throw, EnvData};
use super::registry;
use crate::backend::{simulated, Kind};
use crate::device::select::{self, BackendChoice};
use crate::error::{Error, ErrorCode};
use crate::manager::{orphaned_pins, unpin_orphan, Manager};
use crate::pool::SlabOptions;
use crate::sys::reserve_fd;
use crate::sys::thread_pool::ThreadPool;

/// Sets an environment up, before any other call. `make_error` constructs a `MemoryError`. `finalizers_follow_memory`
/// says that a finalizer proves that no ArrayBuffer is left, whichever thread it runs on (Deno).
#[napi(catch_unwind)]
pub fn setup(env: &Env, make_error: Unknown<'_>, finalizers_follow_memory: bool) -> Result<()> {
    reserve_fd::open();
    EnvData::set_up(env, &make_error, finalizers_follow_memory)
}

/// Closes the descriptor in reserve, so that JavaScript can open a file when the process is out of descriptors. Returns
/// whether there was one; pair with `refill_reserve_descriptor`.
#[napi(catch_unwind)]
pub fn lend_reserve_descriptor() -> bool {
    reserve_fd::lend()
}

/// Opens the descriptor in reserve again.
#[napi(catch_unwind)]
pub fn refill_reserve_descriptor() {
    reserve_fd::refill();
}

/// Returns the version of the native part. Copies of the package share one native part if their versions are equal.
#[napi(catch_unwind)]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}

/// How the native part was built.
#[napi(object, use_nullable = true)]
pub struct BuildInfo {
    pub version: String,
    pub target: String,
    pub profile: String,
    pub revision: Option<String>,
}

/// Returns how the native part was built. The revision is known where the packing script built it.
#[napi(catch_unwind)]
pub fn build_info() -> BuildInfo {
    let revision = env!("RKLLM_BUILD_REVISION");
    BuildInfo {
        version: version().to_owned(),
        target: env!("RKLLM_BUILD_TARGET").to_owned(),
        profile: env!("RKLLM_BUILD_PROFILE").to_owned(),
        revision: (!revision.is_empty()).then(|| revision.to_owned()),
    }
}

/// Options of the slabs, which let small NPU allocations share kernel objects.
#[napi(object)]
pub struct Slabs {
    pub threshold: Option<f64>,
    pub size: Option<f64>,
    pub delay_reuse: Option<u32>,
    pub check_sync: Option<bool>,
    pub reuse_after_ms: Option<f64>,
}

impl From<Slabs> for SlabOptions {
    fn from(options: Slabs) -> Self {
        let default = Self::default();
        Self {
            threshold: options.threshold.map_or(default.threshold, |n| n as u64),
            size: options.size.map_or(default.size, |n| n as u64),
            delay: options.delay_reuse.unwrap_or(0) as usize,
            reuse_after: milliseconds(options.reuse_after_ms.unwrap_or(0.0)),
        }
    }
}

/// Result of [`open_manager`].
#[napi(object)]
pub struct Opened {
    pub manager: f64,
    pub device: Device,
    /// 'auto' found no NPU, and no manager of this process has warned of that yet.
    pub warn: bool,
}

/// Set when the process has been warned that its NPU is simulated: once a process, however many workers it has.
static WARNED: AtomicBool = AtomicBool::new(false);

/// Opens a device. `backend` is the name of a backend, or "auto".
#[napi(catch_unwind)]
pub fn open_manager(
    env: &Env,
    backend: String,
    device: Option<String>,
    simulated: Option<Simulated>,
    slabs: Option<Slabs>,
) -> Result<Opened> {
    let choice = match backend.as_str() {
        "auto" => BackendChoice::Auto,
        name => BackendChoice::Only(Kind::from_name(name).ok_or_else(|| {
            throw(env)(Error::new(ErrorCode::OutOfRange, format!("there is no backend called \"{name}\"")))
        })?),
    };
    let check_sync = slabs.as_ref().is_some_and(|options| options.check_sync == Some(true));
    let coherent = simulated.as_ref().is_some_and(|options| options.caches.as_deref() == Some("coherent"));
    let mut board: Option<simulated::Options> = simulated.map(Into::into);
    if check_sync {
        if coherent {
            let message = "debug.checkSync finds nothing with simulated.caches: 'coherent'";
            let error = Error::new(ErrorCode::OutOfRange, message);
            return Err(throw(env)(error.hint("leave out caches: checkSync sets 'incoherent'")));
        }
        let board = board.get_or_insert_default();
        (board.incoherent, board.check_sync) = (true, true);
    }
    let opened = select::open(choice, device.as_deref().map(Path::new), board).map_err(throw(env))?;
    if check_sync && opened.device.info().kind != Kind::Simulated {
        let message = "debug.checkSync: only the simulated device knows which bytes its caches hold";
        let error = Error::new(ErrorCode::Unsupported, message);
        return Err(throw(env)(error.hint("open the manager with backend: 'simulated', or leave out checkSync")));
    }
    let options = slabs.map_or_else(SlabOptions::default, Into::into);
    let manager = Manager::new(opened.device, options).with_turns(EnvData::of(env)?.turns()).with_retrying_caller();
    let device = Device::new(manager.info(), manager.sram_free());
    let manager = registry::open_manager(EnvData::of(env)?.id(), manager);
    Ok(Opened { manager, device, warn: opened.fell_back && !WARNED.swap(true, Relaxed) })
}

/// Time that `dispose` waits for a slow driver. Frees that are still pending complete by themselves.
const DISPOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Frees everything that a manager owns, and closes it. A second call does nothing.
#[napi(catch_unwind)]
pub fn close_manager(manager: f64) {
    if let Some(manager) = registry::close_manager(manager) {
        manager.dispose();
        manager.wait_for_frees(DISPOSE_TIMEOUT);
    }
}

/// Threads that dispose of managers. Each waits for a driver, so that a hung one holds up its own managers only.
static DISPOSERS: ThreadPool = ThreadPool::new("rkllm-dispose", MAX_DISPOSERS);

/// More managers than a process disposes of at the same time.
const MAX_DISPOSERS: usize = 256;

/// A manager that another thread disposes of. If the system has no thread, the caller's frees the memory, and waits for
/// no driver.
struct Closing {
    manager: Option<Arc<Manager>>,
    completer: Option<Completer>,
}

impl Closing {
    fn run(mut self) {
        if let Some(manager) = self.manager.take() {
            manager.dispose();
            manager.wait_for_present_frees();
        }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        if let Some(manager) = self.manager.take() {
            manager.dispose();
        }
        if let Some(completer) = self.completer.take() {
            completer.complete(Ok(Outcome::DONE));
        }
    }
}

/// Closes the pools of a manager that is about to be closed: they and their blocks are known no more. Their memory
/// stays until then.
#[napi(catch_unwind)]
pub fn close_pools(manager: f64) {
    registry::close_pools_of(manager);
}

/// Like [`close_manager`], on another thread: the promise resolves when the driver has taken back all memory.
#[napi(catch_unwind)]
pub fn close_manager_async(env: &Env, manager: f64) -> Result<AsyncTask<'_>> {
    let (task, completer) = start(env)?;
    let closing = Closing { manager: registry::close_manager(manager), completer: Some(completer) };
    // Without a thread the job was dropped, which disposed of the manager.
    drop(DISPOSERS.run(move || closing.run()));
    Ok(task)
}

/// Closes a manager whose JavaScript object was collected. Its buffers keep the device open until the last of them
/// ends. Pinned memory stays.
#[napi(catch_unwind)]
pub fn abandon_manager(manager: f64) {
    if let Some(manager) = registry::close_manager(manager) {
        manager.abandon();
    }
}

/// Removes all pins of the block `id`, which was dropped. Looks in all managers of the process.
#[napi(catch_unwind)]
pub fn unpin_dropped(env: &Env, id: f64) -> Result<()> {
    let id = id as u64;
    for manager in registry::managers() {
        if manager.unpin_dropped(id).map_err(throw(env))? {
            return Ok(());
        }
    }
    match unpin_orphan(id).map_err(throw(env))? {
        true => Ok(()),
        false => Err(throw(env)(
            Error::new(ErrorCode::OutOfRange, format!("no pinned block has the id {id}"))
                .hint("takeSnapshot() and 'leak' have the ids of blocks that were dropped while pinned"),
        )),
    }
}

/// Counts a manager's pinned blocks, those of them that were dropped, and those of all managers that ended without
/// `dispose`: each the number and the bytes.
#[napi(catch_unwind)]
pub fn pin_stats(env: &Env, handle: f64) -> Result<Vec<f64>> {
    let stats = registry::manager(handle).map_err(throw(env))?.pin_stats();
    let orphaned = orphaned_pins();
    let counts =
        [[stats.blocks, stats.bytes], [stats.dropped_blocks, stats.dropped_bytes], [orphaned.blocks, orphaned.bytes]];
    Ok(counts.concat().into_iter().map(|count| count as f64).collect())
}

/// Frees everything that a manager owns but pinned memory, and closes it, because its thread ends.
#[napi(catch_unwind)]
pub fn leave_manager(manager: f64) {
    if let Some(manager) = registry::close_manager(manager) {
        manager.leave();
    }
}

/// Ends waits of freed slices that are over. Returns the bytes that still wait, and whether others may be over.
#[napi(catch_unwind, ts_return_type = "[waiting: number, more: number]")]
pub fn end_waits(handle: f64) -> Vec<f64> {
    let (waiting, more) = registry::manager(handle).map_or((0, false), |manager| manager.end_waits());
    vec![waiting as f64, f64::from(u8::from(more))]
}

/// Converts a number of milliseconds, of which any is safe.
pub fn milliseconds(ms: f64) -> Duration {
    Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default()
}

/// Waits until the driver has taken freed memory back, at most `timeout` ms. Returns the bytes that it took.
#[napi(catch_unwind)]
pub fn wait_for_frees(env: &Env, handle: f64, timeout: f64) -> Result<f64> {
    let manager = registry::manager(handle).map_err(throw(env))?;
    let before = manager.pending();
    manager.wait_for_frees(Duration::from_secs_f64(timeout.clamp(0.0, 60_000.0) / 1e3));
    Ok(before.saturating_sub(manager.pending()) as f64)
}
