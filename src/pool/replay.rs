//! Replay: runs a recorded log on a pool of another layout.
//!
//! A replay shares with [`Pool`](crate::pool::Pool) the suballocators, the arithmetic of growth
//! ([`Layout::least_chunk`], [`Layout::growth`]), and the set of chunks with its policy. It has no memory and no lock.
//! `__test__/rust/replay.rs` runs both on the same logs and compares them after every step.
#![forbid(unsafe_code)]

use super::chunk_set::ChunkSet;
use crate::error::Result;
use crate::handle::Handle;
use crate::pool::Layout;
use crate::suballoc::{Region, RegionId, SubAllocator};

/// The step of the search for the smallest capacity in bytes; a larger block size replaces it.
const FINEST_STEP: u64 = 4096;

/// One entry of a log: an allocation of `size` bytes named `block`, or a free of `block` (size 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The name of an allocation until its free. Small numbers, because they index a table.
    pub block: u32,
    /// The requested bytes; 0 for a free.
    pub size: u64,
}

/// A refused request and the state of the pool; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The number of the step, from 0.
    pub step: u64,
    /// The requested bytes.
    pub size: u64,
    /// Live requested bytes.
    pub live: u64,
    /// Bytes of chunks.
    pub reserved: u64,
    /// Free bytes of chunks.
    pub free: u64,
    /// The largest free piece.
    pub largest_free: u64,
}

/// The result of a replay; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The number of served requests.
    pub allocations: u64,
    /// The number of frees.
    pub frees: u64,
    /// The number of refused requests.
    pub failures: u64,
    /// The requested bytes of the refused requests.
    pub failed_bytes: u64,
    /// The first refused request.
    pub first_failure: Option<Refusal>,
    /// The maximum of live requested bytes.
    pub peak_live: u64,
    /// The maximum of bytes in regions, padded.
    pub peak_allocated: u64,
    /// The maximum of bytes in chunks.
    pub peak_reserved: u64,
    /// The fragmentation, 1 - largest free / free, at the maximum of bytes in regions.
    pub fragmentation_at_peak: f64,
    /// The end of the highest byte ever used; `None` with more than one chunk.
    pub highest_address: Option<u64>,
    /// The number of chunks allocated, the initial one included.
    pub chunks_made: u64,
    /// The number of blocks without a free.
    pub live_at_end: u64,
    /// Bytes of chunks at the end.
    pub reserved_at_end: u64,
    /// The largest slice for which a chunk has room at the end.
    pub largest_free_at_end: u64,
}

/// A pool without memory.
#[derive(Debug)]
pub struct Replay {
    layout: Layout,
    chunks: ChunkSet<Box<dyn SubAllocator>>,
    /// The live blocks, indexed by `Step::block`.
    blocks: Vec<Option<(Handle, RegionId)>>,
    steps: u64,
    highest: u64,
    /// Set while `chunks.allocated` is at its maximum and the fragmentation there was not computed yet.
    at_peak: bool,
    so_far: Outcome,
}

impl Replay {
    /// Creates an empty pool.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for an impossible layout; `ERR_OUT_OF_MEMORY`.
    pub fn new(layout: Layout) -> Result<Self> {
        let layout = layout.checked()?;
        let mut replay = Self {
            layout,
            chunks: ChunkSet::new(layout.alignment),
            blocks: Vec::new(),
            steps: 0,
            highest: 0,
            at_peak: false,
            so_far: Outcome::default(),
        };
        if layout.initial > 0 {
            replay.chunks.first = Some(replay.grow(layout.initial)?);
        }
        Ok(replay)
    }

    /// Runs one step; returns false for a refused request. Ignores the free of a block that is not live, because its
    /// request was refused.
    ///
    /// Errors: `ERR_OUT_OF_MEMORY` for the tables of a chunk.
    pub fn step(&mut self, Step { block, size }: Step) -> Result<bool> {
        let step = self.steps;
        self.steps += 1;
        let at = block as usize;
        if size == 0 {
            if let Some((chunk, region)) = self.blocks.get_mut(at).and_then(Option::take) {
                self.free(chunk, region);
            }
            return Ok(true);
        }
        let Some(taken) = self.allocate(size)? else {
            self.refuse(step, size);
            return Ok(false);
        };
        if at >= self.blocks.len() {
            self.blocks.resize(at + 1, None);
        }
        if let Some((chunk, region)) = self.blocks[at].replace(taken) {
            // The log lacks the free of the previous block with this name.
            self.free(chunk, region);
        }
        Ok(true)
    }

    /// The result so far.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            fragmentation_at_peak: if self.at_peak { self.fragmentation() } else { self.so_far.fragmentation_at_peak },
            highest_address: (self.so_far.chunks_made <= 1).then_some(self.highest),
            allocations: self.chunks.allocations,
            frees: self.chunks.allocations - self.chunks.live,
            peak_allocated: self.chunks.peak_allocated,
            live_at_end: self.chunks.live,
            reserved_at_end: self.chunks.reserved,
            largest_free_at_end: self.largest_free(),
            ..self.so_far
        }
    }

    /// The current bytes of chunks.
    pub fn reserved(&self) -> u64 {
        self.chunks.reserved
    }

    /// The current bytes of regions.
    pub fn allocated(&self) -> u64 {
        self.chunks.allocated
    }

    /// The largest slice for which a chunk has room now.
    pub fn largest_free(&self) -> u64 {
        self.chunks.largest_free()
    }

    /// The offset of a live block in its chunk.
    pub fn offset(&self, block: u32) -> Option<u64> {
        let (chunk, region) = (*self.blocks.get(block as usize)?)?;
        Some(self.chunks.get(chunk)?.get(region).ok()?.offset)
    }

    fn fragmentation(&self) -> f64 {
        match self.chunks.reserved - self.chunks.allocated {
            0 => 0.0,
            free => 1.0 - self.largest_free() as f64 / free as f64,
        }
    }

    fn allocate(&mut self, size: u64) -> Result<Option<(Handle, RegionId)>> {
        let before = self.chunks.peak_allocated;
        let placed = |handle, _: &mut _, region: Region| (handle, region.id, region.end());
        let mut taken = self.chunks.take(size, self.layout.alignment, placed);
        if taken.is_none() {
            let least = self.layout.least_chunk(size);
            let growth = least.and_then(|least| self.layout.growth(self.chunks.reserved, least, self.layout.chunk));
            let Some(bytes) = growth else { return Ok(None) };
            let chunk = self.grow(bytes)?;
            taken = self.chunks.take_from(chunk, size, self.layout.alignment, placed);
        }
        let Some((handle, id, end)) = taken else { return Ok(None) };
        self.highest = self.highest.max(end);
        self.so_far.peak_live = self.so_far.peak_live.max(self.chunks.requested);
        self.at_peak |= self.chunks.peak_allocated > before;
        Ok(Some((handle, id)))
    }

    fn grow(&mut self, bytes: u64) -> Result<Handle> {
        let handle = self.chunks.add(self.layout.arena(bytes)?);
        self.chunks.reserved += bytes;
        self.so_far.chunks_made += 1;
        self.so_far.peak_reserved = self.so_far.peak_reserved.max(self.chunks.reserved);
        Ok(handle)
    }

    #[inline]
    fn free(&mut self, handle: Handle, region: RegionId) {
        if self.at_peak {
            // Computed when the maximum is left, rather than at each step up to it.
            self.at_peak = false;
            self.so_far.fragmentation_at_peak = self.fragmentation();
        }
        if let Some((_, _, true)) = self.chunks.free(handle, region) {
            self.chunks.take_leftover(self.layout.initial);
        }
    }

    #[cold]
    fn refuse(&mut self, step: u64, size: u64) {
        self.so_far.failures += 1;
        self.so_far.failed_bytes = self.so_far.failed_bytes.saturating_add(size);
        if self.so_far.first_failure.is_none() {
            self.so_far.first_failure = Some(Refusal {
                step,
                size,
                live: self.chunks.requested,
                reserved: self.chunks.reserved,
                free: self.chunks.reserved - self.chunks.allocated,
                largest_free: self.largest_free(),
            });
        }
    }
}

/// Replays a log on a pool of that layout.
///
/// Errors: those of [`Replay::new`] and [`Replay::step`].
pub fn replay(layout: Layout, steps: impl IntoIterator<Item = Step>) -> Result<Outcome> {
    let mut replay = Replay::new(layout)?;
    for step in steps {
        replay.step(step)?;
    }
    Ok(replay.outcome())
}

/// Finds the smallest maximum with which a pool of that layout serves every request of a log. It bisects: the result
/// serves all requests, and one step of 4 KiB (or of a block) less does not. Returns `None` if the layout's own maximum
/// does not suffice.
///
/// For a layout whose initial size is its maximum, the search changes both.
///
/// Errors: those of [`replay`].
pub fn smallest_capacity(layout: Layout, steps: impl Iterator<Item = Step> + Clone) -> Result<Option<u64>> {
    let layout = layout.checked()?;
    let roomy = replay(layout, steps.clone())?;
    if roomy.failures > 0 {
        return Ok(None);
    }
    let step = layout.granule().max(FINEST_STEP.next_multiple_of(layout.granule()));
    let of = |steps_of_it: u64| {
        let max = (steps_of_it * step).min(layout.max);
        let initial = if layout.initial == layout.max { max } else { layout.initial };
        Layout { initial, max, ..layout }
    };
    let serves = |count: u64| -> Result<bool> {
        let mut replay = Replay::new(of(count))?;
        for step in steps.clone() {
            if !replay.step(step)? {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let floor = if layout.initial == layout.max { 0 } else { layout.initial };
    let least = roomy.peak_allocated.max(floor).max(1).div_ceil(step);
    if serves(least)? {
        return Ok(Some(of(least).max));
    }
    // A smaller arena places blocks elsewhere, so a capacity that sufficed in a large arena may not suffice as a small
    // one.
    let (mut fails, mut enough) =
        (least, roomy.highest_address.unwrap_or(roomy.peak_reserved).div_ceil(step).max(least));
    while !serves(enough)? {
        (fails, enough) = (enough, (enough + (enough / 8).max(1)).min(layout.max.div_ceil(step)));
    }
    while enough - fails > 1 {
        let middle = fails + (enough - fails) / 2;
        match serves(middle)? {
            true => enough = middle,
            false => fails = middle,
        }
    }
    Ok(Some(of(enough).max))
}
