//! Memory that a manager keeps free for others.

use std::sync::Arc;

use crate::accounting::Account;
use crate::device::SetAside;
use crate::units::MemoryKind;

/// Memory that somebody else will take, or has taken: the RKLLM runtime's weights first of all. CountedBytes under
/// limits and in its IOMMU domain; what the kernel says is available is not touched, for it sees whatever the others
/// take.
#[derive(Debug)]
pub struct Reservation {
    /// Which memory.
    pub kind: MemoryKind,
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// Bytes.
    pub size: u64,
    pub(super) account: Account,
    pub(super) _domain: Option<SetAside>,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.account.release_set_aside(self.size);
    }
}
