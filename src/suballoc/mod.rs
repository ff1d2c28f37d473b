//! Suballocators: which bytes of an arena are taken, and nothing else.
//!
//! A suballocator hands out *regions* of the range `0..capacity`. It knows no memory, no descriptor and no pointer: the
//! pool above it owns the bytes, and everything here can be tested, fuzzed and replayed without a device. Metadata
//! lives out of band, so nothing that JavaScript or the NPU writes can corrupt it.
//!
//! What every implementation keeps (`validate` checks it, `__test__/rust/suballoc.rs` proves it against a naive model):
//!
//! - free and used regions together tile `0..capacity`, without gap or overlap;
//! - two free regions never touch (in [`Fixed`], whose blocks do not merge, a run of free blocks counts as one region
//!   of the walk);
//! - a [`RegionId`] is good for one region from its allocation to its free; any other use is a [`StaleRegion`], never a
//!   panic and never somebody else's region.
//!
//! Nothing here locks: the pool's one mutex covers it.

#![forbid(unsafe_code)]

mod bins;
mod fixed;
mod node;
mod tlsf;
mod tlsf_check;

pub use fixed::Fixed;
pub use tlsf::Tlsf;

use std::fmt;

/// Names one region of one suballocator: a slot and the generation of its use.
///
/// Ids are reused only after the slot went through 2^31 generations, and every use of an id is checked, so a stale or
/// made-up one is an error value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u64);

impl RegionId {
    /// Set in the generation of a used region; free regions have ids too, so that a planner can name them.
    const USED: u32 = 1 << 31;

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// The region's slot: below the largest number of regions that were ever alive at once, so it can index a side
    /// table.
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn names_used(self) -> bool {
        self.generation() & Self::USED != 0
    }

    /// The id as a number, for storing it elsewhere.
    pub fn to_raw(self) -> u64 {
        self.0
    }

    /// An id from a number. Any number is safe: one that names no live region is refused where it is used.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionId({}@{:x})", self.slot(), self.generation())
    }
}

/// A region as the walk sees it: used or free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Names the region. A free region's id serves [`SubAllocator::allocate_at`] and the walk.
    pub id: RegionId,
    /// First byte, from the start of the arena.
    pub offset: u64,
    /// Bytes, rounded up to the suballocator's granularity: what the region really takes.
    pub size: u64,
    /// The caller's own number for a used region; 0 for a free one.
    pub user_data: u64,
    /// Whether the region is allocated.
    pub used: bool,
}

impl Region {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.size
    }
}

/// The id names no live region: freed already, never given out, or of a suballocator that was reset since.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no live region")]
pub struct StaleRegion(pub RegionId);

/// What a suballocator cannot be made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Granularity and block alignment are powers of two.
    #[error("{0} is not a power of two")]
    NotPowerOfTwo(u64),
    /// The capacity is zero or no multiple of the granularity (of the block size).
    #[error("capacity {capacity} is not a positive multiple of {unit}")]
    Capacity {
        /// Bytes asked for.
        capacity: u64,
        /// What they must be a multiple of.
        unit: u64,
    },
    /// More units than an index can name.
    #[error("capacity {capacity} has too many units of {unit} bytes")]
    TooManyUnits {
        /// Bytes asked for.
        capacity: u64,
        /// Bytes a unit.
        unit: u64,
    },
    /// The allocator's own tables did not fit into memory.
    #[error("no memory for the suballocator's tables")]
    NoMemory,
}

/// Places regions in the range `0..capacity()`.
///
/// Offsets and sizes are bytes. Implementations are `Send`, object-safe, and free of panics that a caller can reach.
pub trait SubAllocator: Send + fmt::Debug {
    /// Takes `size` bytes at an offset that is a multiple of `align`, and stores `user_data` with them.
    ///
    /// Alignment is relative to the arena's start: whoever owns the memory aligns that. `None` when nothing free fits,
    /// when `size` is 0, or when `align` is no power of two. With `align` up to the granularity this succeeds exactly
    /// when `size <= largest_free()`; with a larger one, exactly when some free region holds an aligned `size`.
    fn allocate(&mut self, size: u64, align: u64, user_data: u64) -> Option<Region>;

    /// Like `allocate`, out of the free region `free` only: how a compaction planner says where.
    fn allocate_at(&mut self, free: RegionId, size: u64, align: u64, user_data: u64) -> Option<Region>;

    /// Gives a region back, in constant time, and returns what it was.
    fn free(&mut self, id: RegionId) -> Result<Region, StaleRegion>;

    /// The region that `id` names now.
    fn get(&self, id: RegionId) -> Result<Region, StaleRegion>;

    /// Replaces the user data of a used region.
    fn set_user_data(&mut self, id: RegionId, user_data: u64) -> Result<(), StaleRegion>;

    /// The region at the lowest address, used or free.
    fn first(&self) -> Region;

    /// The region after `id` by address, `None` after the last. Constant time.
    fn next(&self, id: RegionId) -> Result<Option<Region>, StaleRegion>;

    /// The region before `id` by address, `None` before the first. Constant time, but for a run of free blocks of one
    /// size.
    fn previous(&self, id: RegionId) -> Result<Option<Region>, StaleRegion>;

    /// Bytes of the whole arena.
    fn capacity(&self) -> u64;

    /// Bytes in free regions.
    fn free_bytes(&self) -> u64;

    /// Bytes in used regions, as padded to the granularity.
    fn allocated(&self) -> u64 {
        self.capacity() - self.free_bytes()
    }

    /// Number of used regions.
    fn used_regions(&self) -> u64;

    /// Number of free regions.
    fn free_regions(&self) -> u64;

    /// The largest size that `allocate` can satisfy now: exact, 0 when nothing is free.
    fn largest_free(&self) -> u64;

    /// 1 - largest free / free bytes; 0 when nothing is free.
    fn fragmentation(&self) -> f64 {
        match self.free_bytes() {
            0 => 0.0,
            free => 1.0 - self.largest_free() as f64 / free as f64,
        }
    }

    /// Frees everything. Ids given out before are stale afterwards.
    fn reset(&mut self);

    /// Bytes that the tables take now.
    fn metadata_bytes(&self) -> u64;

    /// Checks every invariant, in time linear in the number of regions. For tests and for diagnosis.
    fn validate(&self) -> Result<(), String>;
}

/// All regions of `arena`, used and free, by ascending address.
pub fn regions(arena: &dyn SubAllocator) -> impl Iterator<Item = Region> + '_ {
    regions_from(arena, arena.first())
}

/// `first`, which is one of `arena`, and all regions above it.
pub fn regions_from(arena: &dyn SubAllocator, first: Region) -> impl Iterator<Item = Region> + '_ {
    std::iter::successors(Some(first), |region| arena.next(region.id).ok().flatten())
}
