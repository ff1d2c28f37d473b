//! Tells a manager's environment when memory is short: from a thread of ours, through a function that holds no event loop open.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking;
use napi_derive::napi;
use once_cell::sync::Lazy;

use crate::handle::Handle;
use crate::sys::pressure::{self, Shortage, Subscription};

/// What open managers have subscribed to.
static WATCHED: Lazy<Mutex<HashMap<Handle, Subscription>>> = Lazy::new(Mutex::default);

fn watched() -> MutexGuard<'static, HashMap<Handle, Subscription>> {
    WATCHED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Has `told` called with PSI's word ("some", "full") and the available bytes, on this thread, whenever memory is short by the
/// figures under `root`, until the manager is closed. `false` where the system has no thread or descriptor for that.
#[napi(catch_unwind)]
pub fn watch_pressure(
    manager: f64,
    root: String,
    told: Function<'_, FnArgs<(String, f64)>, Unknown<'static>>,
) -> Result<bool> {
    // Two at most wait for a busy event loop: they say the same.
    let told =
        told.build_threadsafe_function::<Shortage>().weak::<true>().callee_handled::<false>().max_queue_size::<2>();
    let told = told.build_callback(|call| {
        let Shortage { level, available } = call.value;
        Ok(FnArgs::from((level.as_str().to_owned(), available as f64)))
    })?;
    let subscribed = pressure::watch(Path::new(&root), move |shortage| {
        told.call(shortage, NonBlocking); // an environment that has ended takes none, and that is fine
    });
    let Ok(subscription) = subscribed else { return Ok(false) };
    let before = watched().insert(Handle::from_raw(manager as u64), subscription);
    drop(before); // outside the lock: the last one waits for its thread
    Ok(true)
}

/// That manager is told of nothing any more.
pub fn unwatch(manager: Handle) {
    let subscription = watched().remove(&manager);
    drop(subscription);
}
