//! The allocations over the slices of one pool, so that the end of a small pool does not walk all live buffers.
#![forbid(unsafe_code)]

use crate::handle::Handle;
use crate::hash::NumberSet;
use crate::sync::Mutex;

/// The allocations over the slices of a named pool, of any manager. Slabs keep no such list: they end with all buffers.
#[derive(Debug, Default)]
pub struct Exposed(Mutex<NumberSet<Handle>>);

impl Exposed {
    /// Adds an allocation; pair with [`remove`](Self::remove).
    pub fn add(&self, allocation: Handle) {
        self.0.lock().insert(allocation);
    }

    /// Removes an allocation that has ended.
    pub fn remove(&self, allocation: Handle) {
        self.0.lock().remove(&allocation);
    }

    /// Lists the allocations.
    pub fn all(&self) -> Vec<Handle> {
        self.0.lock().iter().copied().collect()
    }
}
