//! Slices that compaction may move.

use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::api::handed_out;
use super::hot::gone;
use super::realm::{manager, pool, throw};
use crate::handle::Handle;
use crate::pool::Slice;

fn movable(id: f64) -> Handle {
    Handle::from_raw(id as u64)
}

/// CPU address and device address (-1: none).
fn place(slice: &Slice) -> Vec<f64> {
    vec![slice.address as f64, slice.device_address.map_or(-1.0, |address| address as f64)]
}

/// Takes a slice that may be moved: its id, and where it is now.
#[napi(catch_unwind, ts_return_type = "[id: number, address: number, deviceAddress: number]")]
pub fn movable_allocate(
    env: &Env,
    handle: f64,
    size: f64,
    alignment: Option<f64>,
    zeroed: bool,
    tag: Option<String>,
) -> Result<Vec<f64>> {
    let allocated = pool(handle).and_then(|open| {
        let alignment = alignment.map(|alignment| alignment as u64);
        let manager = manager(open.manager.get() as f64)?;
        manager.allocate_movable(&open.pool, size as u64, alignment, zeroed, tag.map(Into::into))
    });
    let (id, slice) = allocated.map_err(throw(env))?;
    let mut answer = vec![id.get() as f64];
    answer.extend(place(&slice));
    Ok(answer)
}

/// Where a movable slice is now.
#[napi(catch_unwind, ts_return_type = "[address: number, deviceAddress: number]")]
pub fn movable_place(env: &Env, handle: f64, id: f64) -> Result<Vec<f64>> {
    let found = pool(handle).map_err(gone).and_then(|open| open.pool.movable(movable(id)));
    found.map(|(slice, ..)| place(&slice)).map_err(throw(env))
}

/// Whether a movable slice still is.
#[napi(catch_unwind)]
pub fn movable_holds(handle: f64, id: f64) -> bool {
    pool(handle).is_ok_and(|open| open.pool.movable(movable(id)).is_ok())
}

/// The ArrayBuffer of a movable slice where it is now: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn movable_expose<'env>(env: &'env Env, handle: f64, id: f64) -> Result<Array<'env>> {
    let adopted = pool(handle).map_err(gone).and_then(|open| {
        let manager = manager(open.manager.get() as f64)?;
        manager.adopt_movable(&open.pool, movable(id))
    });
    handed_out(env, adopted)
}

/// Pins a movable slice, or undoes that.
#[napi(catch_unwind)]
pub fn movable_pin(env: &Env, handle: f64, id: f64, pin: bool) -> Result<()> {
    let done = pool(handle).map_err(gone).and_then(|open| match pin {
        true => open.pool.pin(movable(id)),
        false => open.pool.unpin(movable(id)),
    });
    done.map_err(throw(env))
}

/// Gives a movable slice back that no ArrayBuffer is over.
#[napi(catch_unwind)]
pub fn movable_free(env: &Env, handle: f64, id: f64) -> Result<()> {
    pool(handle).map_err(gone).and_then(|open| open.pool.free_movable(movable(id))).map_err(throw(env))
}

/// Throws what keeps a movable slice from being freed: pins.
#[napi(catch_unwind)]
pub fn movable_freeable(env: &Env, handle: f64, id: f64) -> Result<()> {
    pool(handle).map_err(gone).and_then(|open| open.pool.check_freeable(movable(id))).map_err(throw(env))
}

/// Gives a movable slice back that JavaScript has dropped. Where an ArrayBuffer was over it, that one's finalizer sees to it.
#[napi(catch_unwind)]
pub fn movable_dropped(handle: f64, id: f64) {
    if let Ok(open) = pool(handle) {
        // Pinned for somebody who never unpinned it: it stays.
        let _ = open.pool.free_dropped(movable(id));
    }
}

/// How many movable slices a pool has.
#[napi(catch_unwind)]
pub fn pool_movables(handle: f64) -> f64 {
    pool(handle).map_or(0.0, |open| open.pool.movables() as f64)
}

/// Gives the empty slabs that are kept back to the device; returns the bytes.
#[napi(catch_unwind)]
pub fn trim_slabs(env: &Env, handle: f64) -> Result<f64> {
    manager(handle).map(|manager| manager.trim_slabs() as f64).map_err(throw(env))
}

/// Waits until what was freed is back with the driver, at most `patience` ms; the bytes that were pending.
#[napi(catch_unwind)]
pub fn settle(env: &Env, handle: f64, patience: f64) -> Result<f64> {
    let manager = manager(handle).map_err(throw(env))?;
    let before = manager.pending();
    manager.settle(Duration::from_secs_f64(patience.clamp(0.0, 60_000.0) / 1e3));
    Ok(before.saturating_sub(manager.pending()) as f64)
}
