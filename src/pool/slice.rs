//! A slice: the name and the place of some bytes of a pool.

use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::suballoc::RegionId;

/// A slice of a pool, by name and by place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Its chunk.
    pub chunk: Handle,
    /// Its region there.
    pub region: RegionId,
    /// Bytes from the chunk's start.
    pub offset: u64,
    /// Bytes it really takes.
    pub padded: u64,
    /// CPU address.
    pub address: usize,
    /// Address that the NPU sees.
    pub device_address: Option<u64>,
    /// How many of its first bytes somebody has had before: these may be stale.
    pub used_before: u64,
}

/// The error for a name that outlived its slice.
pub(super) fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "this memory was given back to its pool already")
}
