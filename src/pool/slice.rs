//! A slice: the name and the place of some bytes of a pool.

use super::slice_tags::TagId;
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

/// A request for a slice.
#[derive(Clone, Copy, Debug)]
pub struct SliceRequest {
    /// The bytes.
    pub size: u64,
    /// The address is a multiple of it.
    pub alignment: u64,
    /// The tag that counts the slice ([`Pool::tag_id`](super::Pool::tag_id)).
    pub tag: Option<TagId>,
    /// Whether the bytes are zeros. Otherwise they are as their previous owner left them.
    pub zeroed: bool,
    pub(super) events: EventOwner,
}

impl SliceRequest {
    /// A request without a tag, for a slice that is not zeroed.
    pub fn new(size: u64, alignment: u64) -> Self {
        Self { size, alignment, tag: None, zeroed: false, events: EventOwner::Pool }
    }
}

/// The recorder of a slice's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EventOwner {
    /// The pool, under the slice's address.
    Pool,
    /// The slice's holder, under its own id.
    Holder,
}

/// The error for a stale name.
pub(super) fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "this memory was given back to its pool already")
}
