//! A slice: the name and the place of some bytes of a pool.

use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::suballoc::RegionId;

/// A slice of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The id, which stays the same when compaction moves the slice.
    pub id: AllocationId,
    /// The handle of its chunk.
    pub chunk: Handle,
    /// The id of its region in the chunk.
    pub region: RegionId,
    /// The offset in bytes from the chunk's start.
    pub offset: u64,
    /// Bytes that the slice takes, padding included.
    pub padded: u64,
    /// The CPU address.
    pub address: usize,
    /// The NPU's address; `None` if there is none.
    pub device_address: Option<u64>,
    /// The number of bytes at the start that had a previous owner and may be stale.
    pub used_before: u64,
}

/// The error for a stale name.
pub(super) fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "this memory was given back to its pool already")
}
