//! Blocks of one size: no fragmentation, constant time, the lowest free block first.
//!
//! A tree of bitmaps has a 1 for each free block (see [`super::bit_tree`]). The lowest free block is taken first, which
//! keeps used blocks together at the front, so that the chunks behind them become free and can be returned to the
//! device.
//!
//! Invariants:
//!
//! - a bit of the tree is set exactly when its block is free;
//! - a tree of [`Aligned`] blocks has exactly the free ones among them;
//! - the generation of a block's slot carries [`RegionId::USED`] exactly when the block is used.
//!
//! In the walk, a run of free blocks is one free region with the id of its first block.
//!
//! Note: alignments above that of every block. A search of the bitmap for one free block among the aligned ones takes
//! time in proportion to the arena. So the first request with such an alignment makes a tree of the blocks that have
//! it, which each later free and allocation of such a block updates. All these trees together have at most as many bits
//! as the arena has blocks.

use super::bit_tree::BitTree;
use super::{LayoutError, Region, RegionId, StaleRegion, SubAllocator};

#[derive(Clone, Copy, Debug, Default)]
struct BlockSlot {
    generation: u32,
    user_data_low: u32,
    user_data_high: u32,
}

impl BlockSlot {
    fn used(&self) -> bool {
        self.generation & RegionId::USED != 0
    }

    fn user_data(&self) -> u64 {
        u64::from(self.user_data_high) << 32 | u64::from(self.user_data_low)
    }

    fn set_user_data(&mut self, user_data: u64) {
        self.user_data_low = user_data as u32;
        self.user_data_high = (user_data >> 32) as u32;
    }

    /// Marks the block free and advances its generation, so that earlier ids are stale.
    fn retire(&mut self) {
        self.generation = self.generation.wrapping_add(1) & !RegionId::USED;
    }
}

/// The fixed-size suballocator.
#[derive(Debug)]
pub struct Fixed {
    /// One slot a block, of 12 bytes.
    slots: Vec<BlockSlot>,
    /// The free blocks.
    tree: BitTree,
    /// The free blocks of each larger alignment that a request has had.
    aligned: Vec<Aligned>,
    block: u64,
    free: u64,
}

/// The free ones among the blocks whose number is a multiple of 2^`shift`.
#[derive(Debug)]
struct Aligned {
    shift: u32,
    /// By the number of the block, divided by 2^`shift`.
    tree: BitTree,
}

impl Aligned {
    /// The number in the tree of a block, if the block is aligned.
    #[inline]
    fn number(&self, block: usize) -> Option<usize> {
        (block & ((1 << self.shift) - 1) == 0).then_some(block >> self.shift)
    }
}

impl Fixed {
    /// Makes an empty arena of `capacity` bytes in blocks of `block` bytes.
    ///
    /// The tables are allocated at once: 12.2 bytes a block.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] when the capacity is 0 or not a multiple of the block size, when it has 2^32 - 1 blocks or more,
    /// or when memory for the tables is exhausted.
    pub fn new(capacity: u64, block: u64) -> Result<Self, LayoutError> {
        if block == 0 || capacity == 0 || !capacity.is_multiple_of(block) {
            return Err(LayoutError::Capacity { capacity, unit: block });
        }
        let blocks = match u32::try_from(capacity / block) {
            Ok(blocks) if blocks < u32::MAX => blocks as usize,
            _ => return Err(LayoutError::TooManyUnits { capacity, unit: block }),
        };
        let mut slots = Vec::new();
        slots.try_reserve_exact(blocks).map_err(|_no_detail| LayoutError::NoMemory)?;
        slots.resize(blocks, BlockSlot::default());
        let mut arena = Self { slots, tree: BitTree::new(blocks), aligned: Vec::new(), block, free: 0 };
        arena.fill();
        Ok(arena)
    }

    /// Returns the bytes of a block.
    pub fn block_size(&self) -> u64 {
        self.block
    }

    /// Allocates the block of that number if it is free, for a pool that keeps its free list elsewhere.
    pub fn claim(&mut self, block: u32, user_data: u64) -> Option<Region> {
        let slot = self.slots.get_mut(block as usize)?;
        if slot.used() {
            return None;
        }
        slot.generation |= RegionId::USED;
        slot.set_user_data(user_data);
        let id = RegionId::new(block, slot.generation);
        self.tree.remove(block as usize);
        for aligned in &mut self.aligned {
            if let Some(number) = aligned.number(block as usize) {
                aligned.tree.remove(number);
            }
        }
        self.free -= 1;
        Some(Region { id, offset: u64::from(block) * self.block, size: self.block, user_data, used: true })
    }

    /// Marks all blocks free in the bitmaps.
    fn fill(&mut self) {
        self.tree.fill(self.slots.len());
        for Aligned { shift, tree } in &mut self.aligned {
            tree.fill(self.slots.len().div_ceil(1 << *shift));
        }
        self.free = self.slots.len() as u64;
    }

    /// Returns the lowest free block.
    fn lowest(&self) -> Option<u32> {
        self.tree.lowest().map(|block| block as u32)
    }

    /// Returns whether a block can serve the request, and `block`'s offset is aligned.
    fn serves(&self, block: u32, size: u64, align: u64) -> bool {
        let offset = u64::from(block) * self.block;
        size != 0 && size <= self.block && align.is_power_of_two() && offset & (align - 1) == 0
    }

    /// Returns the alignment that every block has.
    fn natural_align(&self) -> u64 {
        1 << self.block.trailing_zeros()
    }

    /// Returns the lowest free block whose offset is a multiple of `align`, for an `align` above the natural one.
    #[cold]
    fn lowest_aligned(&mut self, align: u64) -> Option<u32> {
        // Offsets are multiples of the block size, so every 2^`shift`th block is aligned.
        let shift = (align / self.natural_align()).trailing_zeros();
        if self.slots.len() as u64 >> shift.min(63) == 0 {
            // The first block alone has that alignment.
            return self.tree.has(0).then_some(0);
        }
        let at = match self.aligned.iter().position(|aligned| aligned.shift == shift) {
            Some(at) => at,
            None => self.add_aligned(shift),
        };
        self.aligned[at].tree.lowest().map(|number| (number << shift) as u32)
    }

    /// Makes the tree of an alignment. Returns its place.
    fn add_aligned(&mut self, shift: u32) -> usize {
        let count = self.slots.len().div_ceil(1 << shift);
        let mut tree = BitTree::new(count);
        (0..count).filter(|number| self.tree.has(number << shift)).for_each(|number| tree.insert(number));
        self.aligned.push(Aligned { shift, tree });
        self.aligned.len() - 1
    }

    fn resolve(&self, id: RegionId) -> Result<usize, StaleRegion> {
        match self.slots.get(id.slot() as usize) {
            Some(slot) if slot.generation == id.generation() => Ok(id.slot() as usize),
            _ => Err(StaleRegion(id)),
        }
    }

    /// Returns the region that starts at `block`: a used block, or a run of free blocks.
    fn view(&self, block: usize) -> Region {
        let slot = &self.slots[block];
        let blocks = if slot.used() { 1 } else { self.free_run(block) };
        Region {
            id: RegionId::new(block as u32, slot.generation),
            offset: block as u64 * self.block,
            size: blocks as u64 * self.block,
            user_data: if slot.used() { slot.user_data() } else { 0 },
            used: slot.used(),
        }
    }

    /// Counts the free blocks from `block` to the next used one, a word at a time.
    fn free_run(&self, block: usize) -> usize {
        let words = &self.tree.levels[0];
        let mut at = block;
        while at < self.slots.len() {
            let taken = !words[at >> 6] >> (at & 63);
            if taken != 0 {
                at += taken.trailing_zeros() as usize;
                break;
            }
            at = (at | 63) + 1;
        }
        at.min(self.slots.len()) - block
    }
}

impl SubAllocator for Fixed {
    #[inline]
    fn allocate(&mut self, size: u64, align: u64, user_data: u64) -> Option<Region> {
        let lowest = self.lowest()?;
        if self.serves(lowest, size, align) {
            return self.claim(lowest, user_data);
        }
        if size == 0 || size > self.block || !align.is_power_of_two() {
            return None;
        }
        let block = self.lowest_aligned(align)?;
        self.claim(block, user_data)
    }

    fn allocate_at(&mut self, free: RegionId, size: u64, align: u64, user_data: u64) -> Option<Region> {
        let block = self.resolve(free).ok()? as u32;
        if !self.serves(block, size, align) {
            return None;
        }
        self.claim(block, user_data)
    }

    #[inline]
    fn free(&mut self, id: RegionId) -> Result<Region, StaleRegion> {
        let block = self.resolve(id)?;
        if !id.names_used() {
            return Err(StaleRegion(id));
        }
        let region = self.view(block);
        self.slots[block].retire();
        self.tree.insert(block);
        for aligned in &mut self.aligned {
            if let Some(number) = aligned.number(block) {
                aligned.tree.insert(number);
            }
        }
        self.free += 1;
        Ok(region)
    }

    fn get(&self, id: RegionId) -> Result<Region, StaleRegion> {
        self.resolve(id).map(|block| self.view(block))
    }

    fn set_user_data(&mut self, id: RegionId, user_data: u64) -> Result<(), StaleRegion> {
        let block = self.resolve(id)?;
        if !id.names_used() {
            return Err(StaleRegion(id));
        }
        self.slots[block].set_user_data(user_data);
        Ok(())
    }

    fn first(&self) -> Region {
        self.view(0)
    }

    fn next(&self, id: RegionId) -> Result<Option<Region>, StaleRegion> {
        let block = self.resolve(id)?;
        let next = block + if id.names_used() { 1 } else { self.free_run(block) };
        Ok((next < self.slots.len()).then(|| self.view(next)))
    }

    fn previous(&self, id: RegionId) -> Result<Option<Region>, StaleRegion> {
        let block = self.resolve(id)?;
        let Some(last) = block.checked_sub(1) else { return Ok(None) };
        let free = self.slots[..block].iter().rev().take_while(|slot| !slot.used()).count();
        Ok(Some(self.view(last.min(block - free))))
    }

    fn capacity(&self) -> u64 {
        self.slots.len() as u64 * self.block
    }

    fn free_bytes(&self) -> u64 {
        self.free * self.block
    }

    fn used_regions(&self) -> u64 {
        self.slots.len() as u64 - self.free
    }

    /// Returns the number of free blocks, each of which can serve a request.
    fn free_regions(&self) -> u64 {
        self.free
    }

    fn largest_free(&self) -> u64 {
        if self.free == 0 {
            0
        } else {
            self.block
        }
    }

    fn last_freed(&self) -> u64 {
        self.block
    }

    /// Returns 0: as long as a block is free, no request for one is refused.
    fn fragmentation(&self) -> f64 {
        0.0
    }

    fn reset(&mut self) {
        self.slots.iter_mut().filter(|slot| slot.used()).for_each(BlockSlot::retire);
        self.fill();
    }

    fn metadata_bytes(&self) -> u64 {
        let bitmaps = self.tree.bytes() + self.aligned.iter().map(|aligned| aligned.tree.bytes()).sum::<usize>();
        (size_of::<Self>() + self.slots.capacity() * size_of::<BlockSlot>() + bitmaps) as u64
    }

    fn validate(&self) -> Result<(), String> {
        let free = self.slots.iter().filter(|slot| !slot.used()).count() as u64;
        if free != self.free {
            return Err(format!("{free} blocks are free, but the counter has {}", self.free));
        }
        for (block, slot) in self.slots.iter().enumerate() {
            if self.tree.has(block) == slot.used() {
                return Err(format!("block {block} is free in one table and used in the other"));
            }
        }
        let ones = self.tree.check()?;
        if ones != free {
            return Err(format!("level 0 has {ones} bits for {free} free blocks"));
        }
        for Aligned { shift, tree } in &self.aligned {
            let count = self.slots.len().div_ceil(1 << shift);
            let agree = (0..count).all(|number| tree.has(number) == self.tree.has(number << shift));
            if tree.check()? > count as u64 || !agree {
                return Err(format!("the tree of every {}th block disagrees with that of all", 1_u64 << shift));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validate_finds_damage() {
        let damages: &[fn(&mut Fixed)] = &[
            |a| a.free -= 1,
            |a| a.slots[0].retire(),
            |a| a.slots[70].generation |= RegionId::USED,
            |a| a.tree.levels[0][0] |= 1,
            |a| a.tree.levels[0][1] |= 1 << 63,
            |a| a.tree.levels[1][0] = 1,
            |a| a.aligned[0].tree.remove(3),
            |a| a.aligned[0].tree.insert(0),
        ];
        for (number, damage) in damages.iter().enumerate() {
            let mut arena = Fixed::new(100 * 4096, 4096).expect("valid layout");
            arena.allocate(4096, 4096, 0).expect("free");
            assert_eq!(arena.lowest_aligned(8192), Some(2));
            assert_eq!(arena.validate(), Ok(()));
            damage(&mut arena);
            assert!(arena.validate().is_err(), "damage {number} went unnoticed");
        }
    }

    #[test]
    fn an_aligned_request_takes_the_lowest_aligned_free_block() {
        // 384 is 3 * 128: the natural alignment is less than the block, and every `stride`th block is aligned.
        for (block, blocks) in [(4096, 100), (384, 1000), (128, 4096)] {
            for stride in [2, 4, 32, 64, 128, 512] {
                let mut arena = Fixed::new(blocks * block, block).expect("valid layout");
                let align = stride << block.trailing_zeros();
                assert!(arena.claim(0, 0).is_some());
                for expected in (stride..blocks).step_by(stride as usize) {
                    let found = arena.lowest_aligned(align);
                    assert_eq!(found.map(u64::from), Some(expected), "{block}-byte blocks, stride {stride}");
                    assert!(arena.claim(expected as u32, 0).is_some());
                }
                assert_eq!(arena.lowest_aligned(align), None, "{block}-byte blocks, stride {stride}");
                assert_eq!(arena.validate(), Ok(()));
            }
        }
    }

    /// The tree of an alignment is made by its first request, and follows the frees and allocations after that.
    #[test]
    fn an_aligned_block_is_found_again_after_its_free_and_after_a_reset() {
        let mut arena = Fixed::new(1000 * 4096, 4096).expect("valid layout");
        let take = |arena: &mut Fixed| arena.allocate(4096, 64 * 4096, 0);
        let blocks: Vec<_> = std::iter::from_fn(|| take(&mut arena)).collect();
        assert_eq!(
            blocks.iter().map(|block| block.offset / 4096).collect::<Vec<_>>(),
            (0..1000).step_by(64).collect::<Vec<_>>()
        );
        for at in [9, 3, 12] {
            arena.free(blocks[at].id).expect("live");
            assert_eq!(arena.validate(), Ok(()));
        }
        assert_eq!(
            [0; 4].map(|_| take(&mut arena).map(|block| block.offset / 4096)),
            [Some(192), Some(576), Some(768), None]
        );
        assert_eq!(
            arena.allocate(4096, 1 << 40, 0),
            None,
            "beyond the arena, block 0 alone is aligned, and it is used"
        );
        arena.reset();
        assert_eq!(arena.validate(), Ok(()));
        assert_eq!(arena.allocate(4096, 1 << 40, 0).map(|block| block.offset), Some(0));
        assert_eq!(take(&mut arena).map(|block| block.offset / 4096), Some(64));
        assert_eq!((arena.validate(), arena.aligned.len()), (Ok(()), 1));
    }

    #[test]
    fn a_block_is_claimed_once() {
        let mut arena = Fixed::new(3 * 4096, 4096).expect("valid layout");
        let claimed = arena.claim(1, 7).expect("free");
        assert_eq!((claimed.offset, claimed.user_data), (4096, 7));
        assert_eq!(arena.claim(1, 7), None);
        assert_eq!(arena.claim(3, 7), None);
        assert_eq!(arena.allocate(1, 1, 0).map(|r| r.offset), Some(0));
        assert_eq!(arena.allocate(1, 1, 0).map(|r| r.offset), Some(8192));
        assert_eq!(arena.allocate(1, 1, 0), None);
    }
}
