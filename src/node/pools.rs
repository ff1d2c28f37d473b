//! The cold verbs of pools.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::api::handed_out;
use super::hot::{gone, name};
use super::realm::{close_pool, manager, open_pool, pool, throw};
use super::types;

/// Makes a pool; its handle.
#[napi(catch_unwind)]
pub fn create_pool(env: &Env, handle: f64, request: types::PoolRequest) -> Result<f64> {
    let made = manager(handle).and_then(|manager| manager.create_pool(&request.into())).map_err(throw(env))?;
    Ok(open_pool(handle, made))
}

/// A slice as an ArrayBuffer: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn allocate_from_pool<'env>(
    env: &'env Env,
    handle: f64,
    size: f64,
    alignment: Option<f64>,
    zeroed: bool,
    tag: Option<String>,
) -> Result<Array<'env>> {
    let allocated = pool(handle).and_then(|open| {
        let alignment = alignment.map(|alignment| alignment as u64);
        let manager = manager(open.manager.get() as f64)?;
        manager.allocate_from(&open.pool, size as u64, alignment, zeroed, tag.map(Into::into))
    });
    handed_out(env, allocated)
}

/// The ArrayBuffer of a slice that the hot `allocate` took, by its name: `[buffer, id]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, id: number]")]
pub fn pool_expose<'env>(
    env: &'env Env,
    handle: f64,
    index: i32,
    generation: i32,
    slot: i32,
    stamp: i32,
) -> Result<Array<'env>> {
    let adopted = pool(handle).map_err(gone).and_then(|open| {
        let (chunk, region) = name(index, generation, slot, stamp);
        manager(open.manager.get() as f64)?.adopt_slice(&open.pool, chunk, region)
    });
    handed_out(env, adopted)
}

/// Whether a slice that the hot `allocate` took is still its block's.
#[napi(catch_unwind)]
pub fn pool_holds(handle: f64, index: i32, generation: i32, slot: i32, stamp: i32) -> bool {
    let (chunk, region) = name(index, generation, slot, stamp);
    pool(handle).is_ok_and(|open| open.pool.slice(chunk, region).is_ok())
}

/// A pool's figures.
#[napi(catch_unwind)]
pub fn pool_stats(env: &Env, handle: f64) -> Result<types::PoolFigures> {
    let open = pool(handle).map_err(throw(env))?.pool;
    Ok(types::PoolFigures::new(open.public_name().map_or("", |name| name), open.kind(), &open.stats()))
}

/// Gives empty chunks back to the device; returns the bytes.
#[napi(catch_unwind)]
pub fn pool_trim(env: &Env, handle: f64) -> Result<f64> {
    pool(handle).map(|open| open.pool.trim() as f64).map_err(throw(env))
}

/// Frees every slice and keeps the memory, but for chunks that an ArrayBuffer could not be taken from.
#[napi(catch_unwind)]
pub fn pool_reset(env: &Env, handle: f64) -> Result<()> {
    pool(handle).and_then(|open| manager(open.manager.get() as f64)?.reset_pool(&open.pool)).map_err(throw(env))
}

/// Ends a pool.
#[napi(catch_unwind)]
pub fn pool_destroy(env: &Env, handle: f64, force: bool) -> Result<()> {
    pool(handle)
        .and_then(|open| manager(open.manager.get() as f64)?.destroy_pool(&open.pool, force))
        .map_err(throw(env))?;
    close_pool(handle);
    Ok(())
}

/// The figures of every named pool.
#[napi(catch_unwind)]
pub fn pools_stats(env: &Env, handle: f64) -> Result<Vec<types::PoolFigures>> {
    let figures = manager(handle).map(|manager| manager.pool_stats()).map_err(throw(env))?;
    Ok(figures.iter().map(|(name, kind, stats)| types::PoolFigures::new(name, *kind, stats)).collect())
}
