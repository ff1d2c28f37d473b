//! Processes: the end of a worker with its parent, and of the worker that a dead parent left.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use crate::sys::process;

/// Kills a process if it is the one that started at `start`, in clock ticks since boot. Returns whether it was killed.
#[napi(catch_unwind)]
pub fn kill_process(pid: i32, start: f64) -> Result<bool> {
    process::kill_started(pid, start as u64).map_err(|error| Error::from_reason(error.to_string()))
}

/// Makes this process, whose standard input is a pipe of its parent, end with the parent.
#[napi(catch_unwind)]
pub fn end_with_parent() -> Result<()> {
    process::end_with_parent().map_err(|error| Error::from_reason(error.to_string()))
}
