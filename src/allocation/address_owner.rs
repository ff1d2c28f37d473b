//! The owner of the addresses that an ended allocation leaves to its finalizer.

use std::sync::Arc;

use super::backing::SharedBacking;
use crate::pool::ChunkMemory;
use crate::sys::held_addresses::HeldAddresses;

/// The owner of the addresses that an allocation leaves to its finalizer.
#[derive(Debug)]
pub(super) enum AddressOwner {
    /// The allocation itself; with no addresses before the release and after the end.
    Own(Arc<HeldAddresses>),
    /// A chunk: its pool may free it under an ArrayBuffer that cannot be detached.
    Chunk(Arc<ChunkMemory>),
    /// All holders of shared memory.
    Shared(Arc<SharedBacking>),
}

impl AddressOwner {
    pub(super) fn quarantine_forever(&self) {
        match self {
            AddressOwner::Own(addresses) => addresses.quarantine_forever(),
            AddressOwner::Chunk(chunk_memory) => chunk_memory.quarantine_forever(),
            AddressOwner::Shared(share) => share.quarantine_forever(),
        }
    }

    /// Ends the allocation's own addresses. Those of others end with them.
    pub(super) fn end(self) {
        if let AddressOwner::Own(addresses) = self {
            addresses.end();
        }
    }
}

impl Default for AddressOwner {
    fn default() -> Self {
        AddressOwner::Own(Arc::default())
    }
}

/// The report of a finalizer about its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// No ArrayBuffer over them is left in the process.
    Unreachable,
    /// The environment is being torn down. An ArrayBuffer that was moved out of it may live on in another thread
    /// (`docs/design/runtimes.md` §4.1, the teardown hole).
    Unknown,
}
