//! The layout of a pool: sizes, checked and rounded, and the arenas that they make.

use std::sync::Arc;

use super::chunk::{Chunk, LostSlices};
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::suballoc::{Fixed, LayoutError, SubAllocator, Tlsf};
use crate::units::{align_up, format_bytes, MAX_SAFE_INTEGER};

/// The sizes of a pool, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The bytes allocated at the start, which stay until the pool ends.
    pub initial: u64,
    /// The maximum size.
    pub max: u64,
    /// The size of a chunk. A larger request gets a chunk of its own size.
    pub chunk: u64,
    /// The size of fixed blocks; `None` for blocks of any size.
    pub block: Option<u64>,
    /// The alignment of every slice: a power of two, to which sizes are rounded up.
    pub alignment: u64,
    /// Debugging: the number of frees whose reuse is delayed
    /// ([`PoolStats::late_writes`](super::PoolStats::late_writes)); 0 for none.
    pub delay: usize,
}

impl Layout {
    /// The unit of sizes: a fixed block, or the alignment.
    pub fn granule(&self) -> u64 {
        self.block.unwrap_or(self.alignment)
    }

    /// Checks the sizes and rounds them up to whole granules.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`.
    pub fn checked(self) -> Result<Self> {
        let bad = |message: String| Err(Error::new(ErrorCode::OutOfRange, message));
        if !self.alignment.is_power_of_two() {
            return bad(format!("alignment is {}; it must be a power of two", self.alignment));
        }
        // Blocks lie at multiples of their size, so a rounded size aligns each of them.
        let block = match self.block {
            Some(0) => return bad("blockSize must be at least 1 byte".to_owned()),
            Some(block) => Some(rounded("blockSize", block, self.alignment)?),
            None => None,
        };
        let layout = Self { block, ..self };
        let granule = layout.granule();
        let layout = Self {
            initial: rounded("initialSize", self.initial, granule)?,
            max: rounded("maxSize", self.max, granule)?,
            chunk: rounded("chunkSize", self.chunk.max(1), granule)?,
            ..layout
        };
        if layout.max < layout.initial {
            return bad(format!(
                "maxSize ({}) is less than initialSize ({})",
                format_bytes(layout.max),
                format_bytes(layout.initial)
            ));
        }
        if layout.max == 0 {
            return bad("a pool needs an initialSize or a maxSize".to_owned());
        }
        Ok(Self { chunk: layout.chunk.min(layout.max), ..layout })
    }

    /// The minimum size of a chunk that serves a request for which no chunk has room; `None` beyond the pool's maximum.
    pub fn least_chunk(&self, size: u64) -> Option<u64> {
        // A chunk's start is aligned to the largest alignment that a slice may request.
        let needs = align_up(size, self.alignment)?;
        let fits = needs <= self.max && self.block.is_none_or(|block| size <= block);
        fits.then(|| self.block.unwrap_or(needs))
    }

    /// The bytes to add to a pool of `reserved` bytes: `most`, or the rest below its maximum. Returns `None` if the
    /// rest is less than `least`.
    pub fn growth(&self, reserved: u64, least: u64, most: u64) -> Option<u64> {
        let left = self.max.saturating_sub(reserved);
        (least <= left).then(|| least.max(most.min(left)))
    }

    /// Creates an empty arena of `capacity` bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_OUT_OF_MEMORY`.
    pub fn arena(&self, capacity: u64) -> Result<Box<dyn SubAllocator>> {
        let arena: std::result::Result<Box<dyn SubAllocator>, LayoutError> = match self.block {
            Some(block) => Fixed::new(capacity, block).map(|arena| Box::new(arena) as _),
            None => Tlsf::new(capacity, self.granule()).map(|arena| Box::new(arena) as _),
        };
        arena.map_err(|error| match error {
            LayoutError::NoMemory => Error::new(ErrorCode::OutOfMemory, error.to_string()),
            _ => Error::new(ErrorCode::OutOfRange, error.to_string()),
        })
    }

    /// Creates a chunk from `capacity` bytes of `memory`, which may have been rounded up to pages.
    pub(super) fn chunk(&self, memory: Memory, capacity: u64, lost: &Arc<LostSlices>) -> Result<Chunk> {
        Ok(Chunk::new(memory, self.arena(capacity)?, lost))
    }
}

fn rounded(name: &str, bytes: u64, granule: u64) -> Result<u64> {
    // A block size need not be a power of two.
    bytes
        .div_ceil(granule)
        .checked_mul(granule)
        .filter(|rounded| *rounded <= MAX_SAFE_INTEGER)
        .ok_or_else(|| Error::new(ErrorCode::OutOfRange, format!("{name} is {bytes}; that is beyond 2^53 - 1 bytes")))
}
