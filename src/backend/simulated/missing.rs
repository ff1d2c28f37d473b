//! Syncs that a program missed, as the model of the caches finds them.

use std::ops::Range;

use super::caches::{Fault, Found};
use crate::handle::Handle;
use crate::sync::Mutex;

/// A missing sync that was found in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingSync {
    /// The object.
    pub object: Handle,
    /// The fault.
    pub fault: Fault,
    /// The lines concerned, from the first to the last, in bytes from the object's start.
    pub range: Range<u64>,
}

/// The most findings that wait to be taken. Later ones are dropped.
const MAX_MISSING: usize = 1024;

/// The missing syncs that were found and not taken yet.
#[derive(Debug, Default)]
pub struct MissingSyncs(Mutex<Vec<MissingSync>>);

impl MissingSyncs {
    /// Adds the findings of one call.
    pub fn add(&self, object: Handle, found: Vec<Found>) {
        if found.is_empty() {
            return;
        }
        let mut missing = self.0.lock();
        let room = MAX_MISSING.saturating_sub(missing.len());
        missing.extend(found.into_iter().take(room).map(|(fault, range)| MissingSync { object, fault, range }));
    }

    /// Takes all findings.
    pub fn take(&self) -> Vec<MissingSync> {
        std::mem::take(&mut *self.0.lock())
    }
}
