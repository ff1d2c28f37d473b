//! Slices that compaction may move, and compaction itself: it takes views away, so it runs on their thread.

use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::api::handed_out;
use super::buffer;
use super::hot::gone;
use super::realm::{manager, pool, throw, OpenPool, Realm};
use crate::allocation::Allocation;
use crate::handle::Handle;
use crate::pool::{Move, Moved, Pass, Slice, Spot};

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

/// How far a compaction may go.
#[napi(object)]
pub struct CompactionCaps {
    pub max_bytes: Option<f64>,
    pub max_moves: Option<f64>,
    pub max_ms: Option<f64>,
    /// One slice of a compaction that goes on with the next one. It takes a step at least, and leaves blocks larger than `max_bytes`
    /// where they are.
    pub slice: Option<bool>,
}

/// What a compaction did.
#[napi(object, object_from_js = false)]
pub struct Compaction<'env> {
    /// Six numbers a move: id, from (chunk, offset), to (chunk, offset), size.
    pub moves: Float64Array,
    pub bytes_moved: f64,
    /// Given back to the device afterwards.
    pub bytes_freed: f64,
    pub fragmentation_before: f64,
    pub fragmentation_after: f64,
    /// A cap stopped it.
    pub stopped: bool,
    /// The driver failed, and that ended it; what was moved before has moved.
    #[napi(ts_type = "Error")]
    pub failure: Option<Unknown<'env>>,
}

/// Slices of a pool that are looked at in one step.
const SURVEYED: usize = 256;

/// Moves movable slices together, then gives empty chunks back. `view_of` gives the ArrayBuffer that was handed out over an
/// allocation, if JavaScript still has it.
#[napi(catch_unwind)]
pub fn pool_defragment<'env>(
    env: &'env Env,
    handle: f64,
    caps: CompactionCaps,
    view_of: Function<'_, f64, Unknown<'static>>,
) -> Result<Compaction<'env>> {
    let open = pool(handle).map_err(throw(env))?;
    let began = Instant::now();
    let most = |cap: Option<f64>| cap.map_or(u64::MAX, |cap| cap as u64);
    let (max_bytes, max_moves) = (most(caps.max_bytes), most(caps.max_moves));
    let max_time = caps.max_ms.map_or(Duration::MAX, |ms| Duration::from_secs_f64(ms.clamp(0.0, 1e9) / 1e3));
    let slice = caps.slice == Some(true);
    let fragmentation_before = open.pool.stats().fragmentation();
    // Not while it is worked on: taking a view away may run the user's code, and that may compact.
    let resumed = if slice { pass_of(&open).take() } else { None };
    let mut pass = match resumed {
        Some(pass) => pass,
        None => open.pool.start_pass().map_err(throw(env))?,
    };
    let (mut moves, mut steps, mut bytes, mut failure) = (Vec::new(), 0, 0, None);
    let stopped = loop {
        if (!slice || steps > 0) && (bytes >= max_bytes && slice || began.elapsed() >= max_time) {
            break true;
        }
        steps += 1;
        if !open.pool.survey(&mut pass, SURVEYED) {
            continue;
        }
        let Some(step) = open.pool.next_move(&mut pass) else { break false };
        if slice && step.size() > max_bytes {
            continue;
        }
        if !slice && (moves.len() as u64 >= max_moves || bytes + step.size() > max_bytes) {
            break true;
        }
        match carry_out(env, &open, step, &view_of)? {
            Ok(Some(moved)) => {
                bytes += moved.size;
                moves.push(moved);
            }
            Ok(None) => {}
            Err(error) => {
                failure = Some(Realm::of(env)?.error_value(env, &error)?);
                break false;
            }
        }
    };
    if slice && stopped {
        *pass_of(&open) = Some(pass);
    }
    let bytes_freed = open.pool.trim();
    Ok(Compaction {
        moves: moves.iter().flat_map(numbers).collect::<Vec<f64>>().into(),
        bytes_moved: bytes as f64,
        bytes_freed: bytes_freed as f64,
        fragmentation_before,
        fragmentation_after: open.pool.stats().fragmentation(),
        stopped,
        failure,
    })
}

fn pass_of(open: &OpenPool) -> MutexGuard<'_, Option<Pass>> {
    open.pass.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes the view away, then moves. `None`, and all is as it was, where the view has escaped or is held. Where the driver fails, the
/// view is gone and the block is not.
fn carry_out(
    env: &Env,
    open: &OpenPool,
    step: Move<'_>,
    view_of: &Function<'_, f64, Unknown<'static>>,
) -> Result<crate::error::Result<Option<Moved>>> {
    let (id, address) = (step.id(), step.address());
    let allocation = step.view().and_then(Allocation::by_id).filter(|allocation| allocation.is_live());
    let lifted = match &allocation {
        None => None,
        Some(allocation) => {
            // On some runtimes its finalizer runs inside the detach: it must not free what is about to move.
            let Some(lifted) = allocation.lift() else { return Ok(Ok(None)) };
            let view = view_of.call(allocation.id.get() as f64)?;
            let whole = (address, allocation.size);
            if buffer::info(env, &view) != Some(whole) || buffer::detach(env, &view, address).is_err() {
                return Ok(Ok(None));
            }
            Some(lifted)
        }
    };
    let moved = step.commit();
    if let Some(lifted) = lifted {
        // Whether it was moved or not, the view is gone.
        lifted.ended();
        open.pool.set_view(id, None);
    }
    Ok(moved)
}

fn numbers(moved: &Moved) -> [f64; 6] {
    let Moved { id, from, to, size } = *moved;
    let spot = |spot: Spot| [spot.chunk as f64, spot.offset as f64];
    let ([from_chunk, from_offset], [to_chunk, to_offset]) = (spot(from), spot(to));
    [id.get() as f64, from_chunk, from_offset, to_chunk, to_offset, size as f64]
}
