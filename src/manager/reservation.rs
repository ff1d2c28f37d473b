//! [`Reservation`]: memory that a manager keeps free for other libraries.

use std::sync::Arc;

use crate::accounting::Account;
use crate::device::SetAside;
use crate::units::MemoryKind;

/// Memory that another library in this process allocates, first of all the RKLLM runtime for its weights.
///
/// A reservation counts under limits and in its IOMMU domain. The kernel's own figures of available memory stay as they
/// are, because they include the other library's allocations.
#[derive(Debug)]
pub struct Reservation {
    /// The kind of memory.
    pub kind: MemoryKind,
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// The bytes reserved.
    pub size: u64,
    pub(super) account: Account,
    pub(super) _domain: Option<SetAside>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.release_set_aside(self.size);
    }
}
