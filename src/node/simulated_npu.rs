//! The simulated NPU's accesses to buffers, and the syncs that a program missed.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::buffer::find;
use super::env::throw;
use super::registry::manager;

/// A missing sync in a buffer.
#[napi(object)]
pub struct Missing {
    pub fault: String,
    pub offset: f64,
    pub length: f64,
}

/// Returns `length` bytes at `offset` as the NPU sees them; to the end without a length.
#[napi(catch_unwind)]
pub fn device_read(
    env: &Env,
    handle: f64,
    buffer: Unknown<'_>,
    offset: f64,
    length: Option<f64>,
    id: Option<f64>,
) -> Result<Uint8Array> {
    let allocation = find(env, handle, &buffer, id)?;
    manager(handle)
        .and_then(|manager| manager.device_read(&allocation, offset as u64, length.map(|n| n as u64)))
        .map(Uint8Array::from)
        .map_err(throw(env))
}

/// Writes bytes as a job of the NPU does.
#[napi(catch_unwind)]
pub fn device_write(
    env: &Env,
    handle: f64,
    buffer: Unknown<'_>,
    offset: f64,
    bytes: Uint8Array,
    id: Option<f64>,
) -> Result<()> {
    let allocation = find(env, handle, &buffer, id)?;
    manager(handle).and_then(|manager| manager.device_write(&allocation, offset as u64, &bytes)).map_err(throw(env))
}

/// Counts the bytes that the NPU wrote and that the CPU has not invalidated since.
#[napi(catch_unwind)]
pub fn stale_bytes(env: &Env, handle: f64, buffer: Unknown<'_>, id: Option<f64>) -> Result<f64> {
    let allocation = find(env, handle, &buffer, id)?;
    manager(handle).and_then(|manager| manager.stale_bytes(&allocation)).map(|bytes| bytes as f64).map_err(throw(env))
}

/// Takes the missing syncs that were found since the last call, and returns those in the buffer.
#[napi(catch_unwind)]
pub fn take_missing_syncs(env: &Env, handle: f64, buffer: Unknown<'_>, id: Option<f64>) -> Result<Vec<Missing>> {
    let allocation = find(env, handle, &buffer, id)?;
    let missing = manager(handle).and_then(|manager| manager.take_missing_syncs(&allocation)).map_err(throw(env))?;
    let described = missing.into_iter().map(|(fault, range)| Missing {
        fault: fault.as_str().to_owned(),
        offset: range.start as f64,
        length: (range.end - range.start) as f64,
    });
    Ok(described.collect())
}
