//! Replay: what a pool of some layout would have made of a recorded log.
//!
//! The suballocators are the real ones, and so is the arithmetic of growth ([`Layout::least_chunk`],
//! [`Layout::growth`]); which chunk is tried first and which one goes back is [`Pool`](crate::pool::Pool)'s policy once
//! more, without memory and without locks. `__test__/rust/replay.rs` runs both on the same logs and compares them after
//! every step.
#![forbid(unsafe_code)]

use crate::error::Result;
use crate::handle::{Handle, Table};
use crate::pool::Layout;
use crate::suballoc::{RegionId, SubAllocator};

/// The smallest capacity is looked for in steps of this many bytes, or of a block where that is more.
const FINEST_STEP: u64 = 4096;

/// One entry of a log: somebody takes `size` bytes and calls them `block`, or gives `block` back (a size of 0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Names an allocation from its allocation to its free. Small numbers: they index a table.
    pub block: u32,
    /// Bytes asked for; 0: a free.
    pub size: u64,
}

/// A request that found no room, and what there was instead; bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Which step, from 0.
    pub step: u64,
    /// Bytes asked for.
    pub size: u64,
    /// Bytes asked for that were live.
    pub live: u64,
    /// Bytes of chunks.
    pub reserved: u64,
    /// Bytes free in them.
    pub free: u64,
    /// The largest of the free pieces.
    pub largest_free: u64,
}

/// What became of a log; bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Outcome {
    /// Requests that were served.
    pub allocations: u64,
    /// Blocks that were given back.
    pub frees: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// Bytes that they asked for.
    pub failed_bytes: u64,
    /// The first of them.
    pub first_failure: Option<Refusal>,
    /// The most that was live, as asked for.
    pub peak_live: u64,
    /// The most that regions took, padded.
    pub peak_allocated: u64,
    /// The most that chunks took.
    pub peak_reserved: u64,
    /// 1 - largest free / free, when regions took most.
    pub fragmentation_at_peak: f64,
    /// One past the last byte that was ever used; `None` where there was more than one chunk.
    pub highest_address: Option<u64>,
    /// Chunks that were asked of the device, the initial one included.
    pub chunks_made: u64,
    /// Blocks that nobody gave back.
    pub live_at_end: u64,
    /// Bytes of chunks at the end.
    pub reserved_at_end: u64,
    /// The largest slice that its chunks have room for at the end.
    pub largest_free_at_end: u64,
}

/// A pool without memory.
#[derive(Debug)]
pub struct Replay {
    layout: Layout,
    chunks: Table<Box<dyn SubAllocator>>,
    /// Handles of `chunks`, in the order in which they are tried.
    order: Vec<Handle>,
    /// The initial one, which stays.
    first: Option<Handle>,
    /// By `Step::block`.
    blocks: Vec<Option<(Handle, RegionId)>>,
    steps: u64,
    reserved: u64,
    live: u64,
    allocated: u64,
    highest: u64,
    /// `allocated` is at its peak, and the fragmentation of it is still to be looked up.
    at_peak: bool,
    so_far: Outcome,
}

impl Replay {
    /// An empty pool.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for a layout that cannot be; `ERR_OUT_OF_MEMORY`.
    pub fn new(layout: Layout) -> Result<Self> {
        let layout = layout.checked()?;
        let mut replay = Self {
            layout,
            chunks: Table::new(),
            order: Vec::new(),
            first: None,
            blocks: Vec::new(),
            steps: 0,
            reserved: 0,
            live: 0,
            allocated: 0,
            highest: 0,
            at_peak: false,
            so_far: Outcome::default(),
        };
        if layout.initial > 0 {
            replay.first = Some(replay.grow(layout.initial)?);
        }
        Ok(replay)
    }

    /// Does one step; false where a request was refused. A free of what is not live, its request having been refused,
    /// is nothing.
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
            // Its free is not in the log.
            self.free(chunk, region);
        }
        Ok(true)
    }

    /// What became of it so far.
    pub fn outcome(&self) -> Outcome {
        Outcome {
            fragmentation_at_peak: if self.at_peak { self.fragmentation() } else { self.so_far.fragmentation_at_peak },
            highest_address: (self.so_far.chunks_made <= 1).then_some(self.highest),
            live_at_end: self.so_far.allocations - self.so_far.frees,
            reserved_at_end: self.reserved,
            largest_free_at_end: self.largest_free(),
            ..self.so_far
        }
    }

    /// Bytes of chunks now.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Bytes of regions now.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// The largest slice that its chunks have room for now.
    pub fn largest_free(&self) -> u64 {
        self.chunks.iter().map(|(_, chunk)| chunk.largest_free()).max().unwrap_or(0)
    }

    /// Offset of a live block in its chunk.
    pub fn offset(&self, block: u32) -> Option<u64> {
        let (chunk, region) = (*self.blocks.get(block as usize)?)?;
        Some(self.chunks.get(chunk)?.get(region).ok()?.offset)
    }

    fn fragmentation(&self) -> f64 {
        match self.reserved - self.allocated {
            0 => 0.0,
            free => 1.0 - self.largest_free() as f64 / free as f64,
        }
    }

    fn allocate(&mut self, size: u64) -> Result<Option<(Handle, RegionId)>> {
        for at in 0..self.order.len() {
            if let Some(taken) = self.take_from(self.order[at], size) {
                self.order.swap(0, at);
                return Ok(Some(taken));
            }
        }
        let growth =
            self.layout.least_chunk(size).and_then(|least| self.layout.growth(self.reserved, least, self.layout.chunk));
        let Some(bytes) = growth else { return Ok(None) };
        let chunk = self.grow(bytes)?;
        Ok(self.take_from(chunk, size))
    }

    #[inline]
    fn take_from(&mut self, handle: Handle, size: u64) -> Option<(Handle, RegionId)> {
        let region = self.chunks.get_mut(handle)?.allocate(size, self.layout.alignment, size)?;
        self.live += size;
        self.allocated += region.size;
        self.highest = self.highest.max(region.end());
        self.so_far.allocations += 1;
        self.so_far.peak_live = self.so_far.peak_live.max(self.live);
        if self.allocated > self.so_far.peak_allocated {
            self.so_far.peak_allocated = self.allocated;
            self.at_peak = true;
        }
        Some((handle, region.id))
    }

    fn grow(&mut self, bytes: u64) -> Result<Handle> {
        let handle = self.chunks.insert(self.layout.arena(bytes)?);
        self.order.push(handle);
        self.reserved += bytes;
        self.so_far.chunks_made += 1;
        self.so_far.peak_reserved = self.so_far.peak_reserved.max(self.reserved);
        Ok(handle)
    }

    #[inline]
    fn free(&mut self, handle: Handle, region: RegionId) {
        if self.at_peak {
            // Looked up when the peak is left, not at each step up to it.
            self.at_peak = false;
            self.so_far.fragmentation_at_peak = self.fragmentation();
        }
        let Some(chunk) = self.chunks.get_mut(handle) else { return };
        let Ok(freed) = chunk.free(region) else { return };
        let empty = chunk.used_regions() == 0;
        self.live -= freed.user_data;
        self.allocated -= freed.size;
        self.so_far.frees += 1;
        if empty && self.order.len() > 1 {
            self.give_back();
        }
    }

    /// Empty chunks but one go. The initial one stays, and so the initial size does.
    fn give_back(&mut self) {
        let is_empty = |handle: &Handle| self.chunks.get(*handle).is_some_and(|chunk| chunk.used_regions() == 0);
        let others = self.order.iter().copied().filter(|handle| Some(*handle) != self.first);
        for handle in others.filter(is_empty).skip(1).collect::<Vec<_>>() {
            self.order.retain(|kept| *kept != handle);
            self.reserved -= self.chunks.remove(handle).map_or(0, |chunk| chunk.capacity());
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
                live: self.live,
                reserved: self.reserved,
                free: self.reserved - self.allocated,
                largest_free: self.largest_free(),
            });
        }
    }
}

/// What a pool of that layout makes of a log.
///
/// Errors: those of [`Replay::new`] and [`Replay::step`].
pub fn replay(layout: Layout, steps: impl IntoIterator<Item = Step>) -> Result<Outcome> {
    let mut replay = Replay::new(layout)?;
    for step in steps {
        replay.step(step)?;
    }
    Ok(replay.outcome())
}

/// The smallest maximum with which a pool of otherwise that layout serves every request of a log, found by bisection:
/// it serves them, and one step of 4 KiB (or of a block) less does not. `None` where no size up to the layout's own
/// maximum does.
///
/// A pool that was given its maximum at once is looked for as one that is.
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
    // A smaller arena is cut in other places: what was enough of a large one need not be enough of a small one.
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
