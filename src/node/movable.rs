//! Movable blocks: slices of pools that compaction may move.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::async_task::{spawn, AsyncTask, Outcome};
use super::buffer::expose;
use super::env::throw;
use super::memory::{slice_options, DRIVER_THREADS};
use super::registry::{handle as movable, pool, pool_of_block};
use crate::handle::Handle;
use crate::pool::Slice;

/// Returns CPU address and device address (-1: none).
fn addresses(slice: &Slice) -> Vec<f64> {
    vec![slice.address as f64, slice.device_address.map_or(-1.0, |address| address as f64)]
}

/// Allocates a movable slice: `[handle, id]`. The pool knows it by the handle, every output by the id. `resident`:
/// nothing, if the request may have to wait for a driver.
#[napi(catch_unwind, ts_return_type = "[handle: number, id: number]")]
pub fn movable_allocate(
    env: &Env,
    handle: f64,
    size: f64,
    alignment: Option<f64>,
    zeroed: Option<bool>,
    tag: Option<String>,
    resident: Option<bool>,
) -> Result<Option<Vec<f64>>> {
    let allocated = pool(handle).and_then(|open| {
        let (manager, options) = (open.manager()?, slice_options(size, alignment, zeroed, tag));
        match resident {
            Some(true) => manager.allocate_movable_resident(&open.pool, options),
            _ => manager.allocate_movable(&open.pool, options).map(Some),
        }
    });
    let allocated = allocated.map_err(throw(env))?;
    Ok(allocated.map(|(handle, slice)| vec![handle.get() as f64, slice.id.get() as f64]))
}

/// Allocates a movable slice on another thread: a promise of `[handle, id]`, or of nothing after a reset of the pool.
#[napi(catch_unwind)]
pub fn movable_allocate_async(
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
        let made = manager.prepare_movable(&open.pool, options);
        let numbers = |(handle, id): (Handle, u64)| vec![handle.get() as f64, id as f64];
        Outcome::unless_reset(made.map(|made| Outcome::numbers(move || made.claim().map(numbers))))
    };
    spawn(env, &DRIVER_THREADS, work)
}

/// Returns the current addresses of a movable slice.
#[napi(catch_unwind, ts_return_type = "[address: number, deviceAddress: number]")]
pub fn movable_addresses(env: &Env, handle: f64, id: f64) -> Result<Vec<f64>> {
    let found = pool_of_block(handle).and_then(|open| open.pool.movable(movable(id)));
    found.map(|(slice, ..)| addresses(&slice)).map_err(throw(env))
}

/// Returns whether a movable slice is still allocated.
#[napi(catch_unwind)]
pub fn movable_is_live(handle: f64, id: f64) -> bool {
    pool(handle).is_ok_and(|open| open.pool.movable(movable(id)).is_ok())
}

/// Creates the ArrayBuffer of a movable slice at its current address: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn movable_expose<'env>(env: &'env Env, handle: f64, id: f64) -> Result<Array<'env>> {
    let open = pool_of_block(handle).map_err(throw(env))?;
    let adopted =
        open.manager().and_then(|manager| manager.adopt_movable(&open.pool, movable(id))).map_err(throw(env))?;
    // A block whose ArrayBuffer could not be made has none.
    expose(env, Ok(adopted)).inspect_err(|_| open.pool.set_view(movable(id), None))
}

/// Pins a movable slice, or unpins it. Returns whether it is pinned afterwards.
#[napi(catch_unwind)]
pub fn movable_pin(env: &Env, handle: f64, id: f64, pin: bool) -> Result<bool> {
    let done = pool_of_block(handle).and_then(|open| match pin {
        true => open.pool.pin(movable(id)).map(|()| true),
        false => open.pool.unpin(movable(id)),
    });
    done.map_err(throw(env))
}

/// Frees a movable slice that has no ArrayBuffer.
#[napi(catch_unwind)]
pub fn movable_free(env: &Env, handle: f64, id: f64) -> Result<()> {
    pool_of_block(handle).and_then(|open| open.pool.free_movable(movable(id))).map_err(throw(env))
}

/// Throws if a movable slice cannot be freed now, because it is pinned for example.
#[napi(catch_unwind)]
pub fn movable_freeable(env: &Env, handle: f64, id: f64) -> Result<()> {
    pool_of_block(handle).and_then(|open| open.pool.check_freeable(movable(id))).map_err(throw(env))
}

/// Frees a movable slice whose JavaScript object was collected. If it has an ArrayBuffer, that one's finalizer frees
/// it.
#[napi(catch_unwind)]
pub fn movable_collected(handle: f64, id: f64) {
    if let Ok(open) = pool(handle) {
        // A block that is still pinned stays allocated.
        let _ = open.pool.free_dropped(movable(id));
    }
}

/// Returns the number of movable slices in a pool.
#[napi(catch_unwind)]
pub fn pool_movables(handle: f64) -> f64 {
    pool(handle).map_or(0.0, |open| open.pool.movables() as f64)
}
