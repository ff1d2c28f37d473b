//! How a pool is laid out: sizes that are whole, sane, and turned into arenas.

use super::chunk::Chunk;
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::suballoc::{Fixed, LayoutError, SubAllocator, Tlsf};
use crate::units::{align_up, format_bytes, MAX_SAFE_INTEGER};

/// How a pool is laid out; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Reserved at once, and never given back before the pool ends.
    pub initial: u64,
    /// It grows up to here.
    pub max: u64,
    /// What it grows by; a request beyond that has a chunk of its own size.
    pub chunk: u64,
    /// Fixed-size blocks instead of variable ones.
    pub block: Option<u64>,
    /// Of every slice; a power of two, and what sizes are rounded up to.
    pub alignment: u64,
    /// Debugging: this many frees wait, poisoned, before their bytes are used again. 0: none does.
    pub delay: usize,
}

impl Layout {
    /// The unit of everything: a fixed block, or the alignment.
    pub fn granule(&self) -> u64 {
        self.block.unwrap_or(self.alignment)
    }

    /// Sizes rounded up to whole granules, and sane.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`.
    pub fn checked(self) -> Result<Self> {
        let bad = |message: String| Err(Error::new(ErrorCode::OutOfRange, message));
        if !self.alignment.is_power_of_two() {
            return bad(format!("alignment is {}; it must be a power of two", self.alignment));
        }
        // Blocks lie at multiples of their size: rounded up, each of them is aligned.
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

    /// The least that a chunk must have to serve a request which no chunk has room for; `None` beyond what a pool can
    /// ever give.
    pub fn least_chunk(&self, size: u64) -> Option<u64> {
        // Its start is aligned to whatever a slice may ask for.
        let needs = align_up(size, self.alignment)?;
        let fits = needs <= self.max && self.block.is_none_or(|block| size <= block);
        fits.then(|| self.block.unwrap_or(needs))
    }

    /// What a pool that has `reserved` bytes grows by where it needs `least` and would like `most`, a chunk at first:
    /// that, or what is left of its maximum; `None` where less than `least` is.
    pub fn growth(&self, reserved: u64, least: u64, most: u64) -> Option<u64> {
        let left = self.max.saturating_sub(reserved);
        (least <= left).then(|| least.max(most.min(left)))
    }

    /// An empty arena of `capacity` bytes.
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

    /// `capacity` bytes of `memory`, which may have been rounded up to pages.
    pub(super) fn chunk(&self, memory: Memory, capacity: u64) -> Result<Chunk> {
        Ok(Chunk::new(memory, self.arena(capacity)?))
    }
}

fn rounded(name: &str, bytes: u64, granule: u64) -> Result<u64> {
    // A block size is no power of two.
    bytes
        .div_ceil(granule)
        .checked_mul(granule)
        .filter(|rounded| *rounded <= MAX_SAFE_INTEGER)
        .ok_or_else(|| Error::new(ErrorCode::OutOfRange, format!("{name} is {bytes}; that is beyond 2^53 - 1 bytes")))
}
