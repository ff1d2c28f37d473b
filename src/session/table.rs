//! The sinks of the process, by the handle that the runtime has as userdata.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::sink::Sink;
use crate::handle::{Handle, Table};
use crate::sync::RwLock;

/// The sinks of the process, by the handle that the runtime has as userdata.
static SINKS: RwLock<Table<Arc<Sink>>> = RwLock::new(Table::new());

/// Enters a sink. The handle is the callback's userdata.
pub fn open(sink: Sink) -> Handle {
    SINKS.write().insert(Arc::new(sink))
}

/// Finds a sink that was not removed.
pub fn find(handle: Handle) -> Option<Arc<Sink>> {
    SINKS.read().get(handle).map(Arc::clone)
}

/// Ends and removes a sink, because the runtime has let go of the session.
pub fn release(handle: Handle) {
    let sink = SINKS.write().remove(handle);
    if let Some(sink) = sink {
        sink.end(true);
    }
}

/// Ends a sink whose session is gone. While a run is under way the memory stays pinned, and the sink known.
pub fn abandon(handle: Handle) {
    let Some(sink) = find(handle) else { return };
    if !sink.end(false) {
        release(handle);
    }
}

/// Ends and removes a sink whose runtime is idle. Returns false, and ends nothing, while a run is under way.
pub fn abandon_idle(handle: Handle) -> bool {
    let Some(sink) = find(handle) else { return true };
    let busy = sink.end_if_idle();
    if !busy {
        release(handle);
    }
    !busy
}

/// Removes a sink that ended during a run, once the run is over.
pub(super) fn remove_ended(handle: Handle, sink: &Sink) {
    if sink.is_over() {
        release(handle);
    }
}
