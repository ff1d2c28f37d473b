//! Notifies a manager's environment of memory pressure. The notifications come from a thread of the core, through a
//! function that does not keep the event loop alive.

use std::path::Path;

use napi::bindgen_prelude::*;
use napi::threadsafe_function::ThreadsafeFunctionCallMode::NonBlocking;
use napi_derive::napi;

use super::registry::set_pressure_subscription;
use crate::sys::pressure::{self, Shortage};

/// Calls `callback` with the PSI level ("some" or "full") and the available bytes, on this thread, whenever memory is
/// short by the files under `root`, until the manager is closed. Returns `false` if the system has no thread or
/// descriptor for that.
#[napi(catch_unwind)]
pub fn watch_pressure(
    manager: f64,
    root: String,
    callback: Function<'_, FnArgs<(String, f64)>, Unknown<'static>>,
) -> Result<bool> {
    // A busy event loop has at most two notifications waiting: more would say the same.
    let notify =
        callback.build_threadsafe_function::<Shortage>().weak::<true>().callee_handled::<false>().max_queue_size::<2>();
    let notify = notify.build_callback(|call| {
        let Shortage { level, available } = call.value;
        Ok(FnArgs::from((level.as_str().to_owned(), available as f64)))
    })?;
    let subscribed = pressure::watch(Path::new(&root), move |shortage| {
        notify.call(shortage, NonBlocking); // fails when the environment has ended, which is fine
    });
    let Ok(subscription) = subscribed else { return Ok(false) };
    set_pressure_subscription(manager, subscription);
    Ok(true)
}
