//! Counts of requests that failed for good.
//!
//! JavaScript reclaims memory and tries again when a resource is exhausted, so the core leaves these refusals to it
//! ([`Manager::with_retrying_caller`](crate::manager::Manager::with_retrying_caller)). JavaScript calls one of these
//! functions for each request whose last try failed. A manager or pool that has ended counts nothing any more.

use std::sync::Arc;

use napi_derive::napi;

use super::registry::{manager, pool};
use crate::units::MemoryKind;

/// Counts a request for memory of a manager: an allocation, an import or a pool.
#[napi(catch_unwind)]
pub fn count_refused(handle: f64, npu: bool, size: f64, tag: Option<String>) {
    if let Ok(manager) = manager(handle) {
        let kind = if npu { MemoryKind::Npu } else { MemoryKind::System };
        manager.count_refused(kind, size as u64, tag.map(Arc::from));
    }
}

/// Counts a request for a slice of a pool.
#[napi(catch_unwind)]
pub fn pool_count_refused(handle: f64, size: f64, tag: Option<String>) {
    if let Ok(open) = pool(handle) {
        open.pool.count_refused(size as u64, tag.map(Arc::from).as_ref());
    }
}

/// Counts an adoption of shared memory.
#[napi(catch_unwind)]
pub fn count_refused_adoption(handle: f64, token: String) {
    if let Ok(manager) = manager(handle) {
        manager.count_refused_adoption(&token);
    }
}
