//! A slice: the name and the place of some bytes of a pool.

use super::owners::Owner;
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
    /// The owner of the bytes, if the request has no `tag` ([`Pool::owner`](super::Pool::owner)).
    pub owner: Owner,
    /// The bytes that are cleared.
    pub clearing: Clearing,
    pub(super) events: EventOwner,
}

impl SliceRequest {
    /// A request without a tag.
    pub fn new(size: u64, alignment: u64) -> Self {
        Self {
            size,
            alignment,
            tag: None,
            owner: Owner::UNTAGGED,
            clearing: Clearing::default(),
            events: EventOwner::Pool,
        }
    }
}

/// The previous bytes of a slice that are cleared before its owner gets it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clearing {
    /// Those of owners with another tag.
    #[default]
    OtherTags,
    /// All: the slice is zeroed.
    All,
    /// None: the bytes are as their previous owner left them.
    None,
}

impl Clearing {
    /// The meaning of an option `zeroed`.
    pub fn of(zeroed: Option<bool>) -> Self {
        match zeroed {
            None => Self::OtherTags,
            Some(true) => Self::All,
            Some(false) => Self::None,
        }
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
