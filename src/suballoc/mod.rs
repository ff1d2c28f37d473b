//! Suballocators: they divide an arena into used and free regions. Imports no other room.
//!
//! A suballocator allocates *regions* of the range `0..capacity`. It has no memory, no descriptor and no pointer: the
//! pool above it owns the bytes, so the suballocators are tested, fuzzed and replayed without a device. Metadata lies
//! outside the arena, so that no write by JavaScript or the NPU can corrupt it.
//!
//! ```
//! use rkllmjs_memory::suballoc::{Fixed, SubAllocator, Tlsf};
//!
//! // Variable sizes: 1 MiB in multiples of 64 bytes.
//! let mut arena = Tlsf::new(1 << 20, 64)?;
//! let first = arena.allocate(100, 64, 0).expect("the arena is empty");
//! let second = arena.allocate(5000, 4096, 0).expect("the arena has room");
//! assert_eq!((first.offset, first.size), (0, 128));
//! assert_eq!((second.offset, second.size), (4096, 5056));
//!
//! arena.free(first.id).expect("the region is live");
//! assert!(arena.free(first.id).is_err(), "a stale id is an error value");
//! assert_eq!(arena.largest_free(), (1 << 20) - second.end());
//!
//! // Blocks of one size: the lowest free block first.
//! let mut blocks = Fixed::new(16 * 4096, 4096)?;
//! let block = blocks.allocate(4000, 4096, 7).expect("the arena is empty");
//! assert_eq!((block.offset, block.size, block.user_data), (0, 4096, 7));
//! assert_eq!(blocks.free_bytes(), 15 * 4096);
//! # Ok::<(), rkllmjs_memory::suballoc::LayoutError>(())
//! ```
//!
//! Invariants of every implementation (`validate` checks them, `__test__/rust/suballoc.rs` proves them against a naive
//! model):
//!
//! - free and used regions together tile `0..capacity`, without gap or overlap;
//! - two free regions never touch (in [`Fixed`], whose blocks do not merge, a run of free blocks counts as one region
//!   of the walk);
//! - a [`RegionId`] is valid for one region from its allocation to its free; any other use is a [`StaleRegion`], never
//!   a panic and never another region.
//!
//! A suballocator does not lock: its pool's mutex covers it.

#![forbid(unsafe_code)]

mod bins;
mod bit_tree;
mod crowded_bins;
mod fixed;
mod node;
mod refused;
mod tlsf;
mod tlsf_check;
mod tlsf_find;

pub use fixed::Fixed;
pub use tlsf::Tlsf;

use std::fmt;

/// Names one region of one suballocator by its slot and the slot's generation.
///
/// An id comes again only after its slot went through 2^31 generations. Every use of an id is checked, so a stale or
/// invented one is an error value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RegionId(u64);

impl RegionId {
    /// Set in the generation of a used region; free regions have ids too, so that a planner can name them.
    const USED: u32 = 1 << 31;

    fn new(slot: u32, generation: u32) -> Self {
        Self(u64::from(generation) << 32 | u64::from(slot))
    }

    /// Returns the region's slot, which can index a side table: it is below the largest number of regions that were
    /// ever live at once.
    pub fn slot(self) -> u32 {
        self.0 as u32
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn names_used(self) -> bool {
        self.generation() & Self::USED != 0
    }

    /// Returns the id as a number, for storage elsewhere.
    pub fn to_raw(self) -> u64 {
        self.0
    }

    /// Makes an id from a number. Any number is safe: one that names no live region is refused where it is used.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RegionId({}@{:x})", self.slot(), self.generation())
    }
}

/// A used or free region of an arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// The region's id. A free region's id serves [`SubAllocator::allocate_at`] and the walk.
    pub id: RegionId,
    /// Bytes from the start of the arena to the region.
    pub offset: u64,
    /// Bytes of the region: the requested size, rounded up to the suballocator's granularity.
    pub size: u64,
    /// The caller's number for a used region; 0 for a free one.
    pub user_data: u64,
    /// Whether the region is allocated.
    pub used: bool,
}

impl Region {
    /// Returns the offset after the last byte.
    pub fn end(&self) -> u64 {
        self.offset + self.size
    }
}

/// An id that names no live region: the region was freed, never existed, or its suballocator was reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} names no live region")]
pub struct StaleRegion(pub RegionId);

/// A layout that a suballocator does not support.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// The granularity is not a power of two.
    #[error("{0} is not a power of two")]
    NotPowerOfTwo(u64),
    /// The capacity is zero, or not a multiple of the granularity or block size.
    #[error("capacity {capacity} is not a positive multiple of {unit}")]
    Capacity {
        /// Bytes requested.
        capacity: u64,
        /// The granularity or block size, in bytes.
        unit: u64,
    },
    /// The capacity has more units than an index can name.
    #[error("capacity {capacity} has too many units of {unit} bytes")]
    TooManyUnits {
        /// Bytes requested.
        capacity: u64,
        /// The granularity or block size, in bytes.
        unit: u64,
    },
    /// The system has no memory for the suballocator's tables.
    #[error("no memory for the suballocator's tables")]
    NoMemory,
}

/// Allocates regions of the range `0..capacity()`.
///
/// Offsets and sizes are bytes. Implementations are `Send`, object-safe, and free of panics that a caller can reach.
pub trait SubAllocator: Send + fmt::Debug {
    /// Allocates `size` bytes at an offset that is a multiple of `align`, and stores `user_data` with them.
    ///
    /// Alignment is relative to the arena's start, which the owner of the memory aligns. Returns `None` when no free
    /// region fits, when `size` is 0, or when `align` is not a power of two. With `align` up to the granularity this
    /// succeeds exactly when `size <= largest_free()`; with a larger one, exactly when a free region holds an aligned
    /// `size`.
    fn allocate(&mut self, size: u64, align: u64, user_data: u64) -> Option<Region>;

    /// Allocates from the free region `free` only, so that a compaction planner can choose the place.
    fn allocate_at(&mut self, free: RegionId, size: u64, align: u64, user_data: u64) -> Option<Region>;

    /// Frees a used region in constant time, and returns its last state.
    fn free(&mut self, id: RegionId) -> Result<Region, StaleRegion>;

    /// Returns the region that `id` names.
    fn get(&self, id: RegionId) -> Result<Region, StaleRegion>;

    /// Replaces the user data of a used region.
    fn set_user_data(&mut self, id: RegionId, user_data: u64) -> Result<(), StaleRegion>;

    /// Returns the region at the lowest address, used or free.
    fn first(&self) -> Region;

    /// Returns the region after `id` by address, or `None` after the last. Takes constant time.
    fn next(&self, id: RegionId) -> Result<Option<Region>, StaleRegion>;

    /// Returns the region before `id` by address, or `None` before the first. Takes constant time, except over a run of
    /// free blocks of [`Fixed`].
    fn previous(&self, id: RegionId) -> Result<Option<Region>, StaleRegion>;

    /// Returns the bytes of the whole arena.
    fn capacity(&self) -> u64;

    /// Returns the bytes in free regions.
    fn free_bytes(&self) -> u64;

    /// Returns the bytes in used regions, padding included.
    fn allocated(&self) -> u64 {
        self.capacity() - self.free_bytes()
    }

    /// Returns the number of used regions.
    fn used_regions(&self) -> u64;

    /// Returns the number of free regions.
    fn free_regions(&self) -> u64;

    /// Returns the largest size that `allocate` can satisfy now. Exact; 0 when the arena is full.
    fn largest_free(&self) -> u64;

    /// Returns the size that the last `free` has made room for, of its region merged with its free neighbours. Later
    /// allocations do not change it.
    fn last_freed(&self) -> u64;

    /// Returns 1 - largest free region / free bytes; 0 when the arena is full.
    fn fragmentation(&self) -> f64 {
        match self.free_bytes() {
            0 => 0.0,
            free => 1.0 - self.largest_free() as f64 / free as f64,
        }
    }

    /// Frees all regions. Earlier ids are stale afterwards.
    fn reset(&mut self);

    /// Returns the bytes that the tables take now.
    fn metadata_bytes(&self) -> u64;

    /// Checks every invariant in time linear in the number of regions, for tests and diagnosis.
    fn validate(&self) -> Result<(), String>;
}

/// Iterates over all regions of `arena`, used and free, by ascending address.
pub fn regions(arena: &dyn SubAllocator) -> impl Iterator<Item = Region> + '_ {
    regions_from(arena, arena.first())
}

/// Iterates over `first`, a region of `arena`, and all regions above it.
pub fn regions_from(arena: &dyn SubAllocator, first: Region) -> impl Iterator<Item = Region> + '_ {
    std::iter::successors(Some(first), |region| arena.next(region.id).ok().flatten())
}
