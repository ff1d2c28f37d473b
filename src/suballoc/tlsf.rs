//! Two-level segregated fit: variable sizes, any power-of-two alignment, constant time.
//!
//! Free regions are in bins by size: a first level by power of two, a second of 64 steps each, and a bitmap for both,
//! so two bit scans find the next occupied bin (see [`super::bins`]). Every region, used or free, is a node of 32 bytes
//! in one vector, linked by index to its neighbours by address. `free` merges a region with its free neighbours.
//!
//! Invariants:
//!
//! - node 0 is the boundary: always used, size 0, before the first region and after the last. It spares every
//!   neighbour look-up a branch for the ends, and every list its null check;
//! - two neighbours are never both free; a free node is in the bin of its size, exactly once; `free` is the sum of
//!   the free nodes' sizes;
//! - a node without a region is on the list of unused nodes and has size 0; its generation advanced when it left the
//!   regions, so ids to it are stale.

use super::bins::Bins;
use super::node::{Node, COUNT, NIL, USED};
use super::refused::Refused;
use super::{LayoutError, Region, RegionId, StaleRegion, SubAllocator};

/// The low part of the used span whose free regions are used first, as a fraction.
const LOW_END: (u64, u64) = (3, 32);

/// The number of nodes that one request adds at most.
const NODES_AT_ONCE: usize = 62;

/// The variable-size suballocator.
#[derive(Debug)]
pub struct Tlsf {
    pub(super) nodes: Vec<Node>,
    pub(super) bins: Bins,
    /// The head of the list of nodes without a region.
    pub(super) unused: u32,
    /// log2 of the granularity.
    shift: u32,
    /// All granules, and the free ones.
    pub(super) total: u64,
    pub(super) free: u64,
    pub(super) used_regions: u64,
    pub(super) free_regions: u64,
    pub(super) refused: Refused,
    /// The granules of the region that the last free has made.
    last_freed: u64,
}

impl Tlsf {
    /// Makes an empty arena of `capacity` bytes. Every region's offset and size is a multiple of `granularity`, a power
    /// of two.
    ///
    /// # Errors
    ///
    /// [`LayoutError`] when the capacity is 0, is not a multiple of the granularity, or has 2^48 granules or more.
    pub fn new(capacity: u64, granularity: u64) -> Result<Self, LayoutError> {
        if !granularity.is_power_of_two() {
            return Err(LayoutError::NotPowerOfTwo(granularity));
        }
        if capacity == 0 || !capacity.is_multiple_of(granularity) {
            return Err(LayoutError::Capacity { capacity, unit: granularity });
        }
        let shift = granularity.trailing_zeros();
        let total = capacity >> shift;
        if total > COUNT {
            return Err(LayoutError::TooManyUnits { capacity, unit: granularity });
        }
        let mut arena = Self {
            nodes: vec![Node::BOUNDARY],
            bins: Bins::new(total),
            unused: NIL,
            shift,
            total,
            free: 0,
            used_regions: 0,
            free_regions: 0,
            refused: Refused::NONE,
            last_freed: 0,
        };
        if !arena.reserve() {
            return Err(LayoutError::NoMemory);
        }
        arena.span_all();
        Ok(arena)
    }

    /// Makes one free region that covers the arena, which has no region and at least one unused node.
    fn span_all(&mut self) {
        let only = self.take_unused();
        let node = &mut self.nodes[only as usize];
        node.set_offset(0);
        node.set_size(self.total);
        node.prev_phys = NIL;
        node.next_phys = NIL;
        self.nodes[NIL as usize].prev_phys = only;
        self.nodes[NIL as usize].next_phys = only;
        self.bins.push(&mut self.nodes, only, self.total);
        self.free = self.total;
        self.free_regions = 1;
        self.used_regions = 0;
        self.refused.any = false;
    }

    /// Makes sure that the next `take_unused` finds a node. Returns false when memory is exhausted.
    #[inline(always)]
    fn reserve(&mut self) -> bool {
        self.unused != NIL || self.grow()
    }

    fn reserve_two(&mut self) -> bool {
        self.reserve() && (self.nodes[self.unused as usize].next_free != NIL || self.grow())
    }

    /// Adds unused nodes: room for exactly a quarter more, because doubling would break the promise of at most 64 bytes
    /// a live block. Fills a few of them at a time, so that no request waits for a million.
    #[cold]
    #[inline(never)]
    fn grow(&mut self) -> bool {
        let len = self.nodes.len();
        if self.nodes.capacity() - len < NODES_AT_ONCE {
            let more = (len / 4).clamp(NODES_AT_ONCE, 1 << 20);
            if u32::try_from(len + more).is_err() || self.nodes.try_reserve_exact(more).is_err() {
                return false;
            }
        }
        for index in len..len + NODES_AT_ONCE {
            let next = if index + 1 < len + NODES_AT_ONCE { index as u32 + 1 } else { self.unused };
            self.nodes.push(Node { extent: 0, next_free: next, ..Node::BOUNDARY });
        }
        self.unused = len as u32;
        true
    }

    #[inline(always)]
    fn take_unused(&mut self) -> u32 {
        let index = self.unused;
        self.unused = self.nodes[index as usize].next_free;
        index
    }

    /// Makes a node unused, so that ids to it are stale.
    #[inline(always)]
    fn give_unused(&mut self, index: u32) {
        let unused = self.unused;
        let node = &mut self.nodes[index as usize];
        node.retire();
        node.set_size(0);
        node.next_free = unused;
        self.unused = index;
    }

    #[inline(always)]
    fn view(&self, index: u32) -> Region {
        let node = &self.nodes[index as usize];
        let used = node.used();
        Region {
            id: RegionId::new(index, node.generation()),
            offset: node.offset() << self.shift,
            size: node.size() << self.shift,
            user_data: if used { node.user_data() } else { 0 },
            used,
        }
    }

    /// Returns the node that `id` names, unless `id` is stale.
    #[inline(always)]
    fn resolve(&self, id: RegionId) -> Result<u32, StaleRegion> {
        match self.nodes.get(id.slot() as usize) {
            Some(node) if node.generation() == id.generation() && node.size() != 0 => Ok(id.slot()),
            _ => Err(StaleRegion(id)),
        }
    }

    /// Converts bytes to granules, rounded up. Returns `None` for 0 bytes, and for more bytes than the arena has.
    #[inline(always)]
    fn granules(&self, bytes: u64) -> Option<u64> {
        let granules = bytes.wrapping_sub(1) >> self.shift;
        // 0 bytes wrapped to u64::MAX, and with a granularity of 1 the addition must not wrap back to 0.
        (granules < self.total).then_some(granules.wrapping_add(1))
    }

    /// Allocates the first `need` granules of free node `index`, which is in no bin. Needs an unused node.
    #[inline(always)]
    fn take(&mut self, index: u32, need: u64, user_data: u64) -> Region {
        let whole = self.nodes[index as usize];
        let rest = whole.size() - need;
        if whole.next_phys == NIL {
            // The used span ends here.
            self.bins.set_low((whole.offset() + need) / LOW_END.1 * LOW_END.0);
        }
        if rest == 0 {
            self.free_regions -= 1;
        } else {
            let cut = self.take_unused();
            self.nodes[whole.next_phys as usize].prev_phys = cut;
            let node = &mut self.nodes[cut as usize];
            node.set_offset(whole.offset() + need);
            node.set_size(rest);
            node.prev_phys = index;
            node.next_phys = whole.next_phys;
            self.nodes[index as usize].next_phys = cut;
            self.bins.push(&mut self.nodes, cut, rest);
        }
        let node = &mut self.nodes[index as usize];
        node.extent = node.extent & !COUNT | need | USED;
        node.set_user_data(user_data);
        self.free -= need;
        self.used_regions += 1;
        Region {
            id: RegionId::new(index, node.generation()),
            offset: whole.offset() << self.shift,
            size: need << self.shift,
            user_data,
            used: true,
        }
    }

    /// Divides free node `index` after `skip` granules, which stay free, and allocates from the rest.
    fn take_after(&mut self, index: u32, skip: u64, need: u64, user_data: u64) -> Option<Region> {
        // With nothing to skip one node is enough, and a caller that has just freed a neighbour is sure to have it.
        if !(if skip == 0 { self.reserve() } else { self.reserve_two() }) {
            return None;
        }
        let whole = self.nodes[index as usize];
        self.bins.remove(&mut self.nodes, index, whole.size());
        if skip == 0 {
            return Some(self.take(index, need, user_data));
        }
        let cut = self.take_unused();
        self.nodes[whole.next_phys as usize].prev_phys = cut;
        let node = &mut self.nodes[cut as usize];
        node.set_offset(whole.offset() + skip);
        node.set_size(whole.size() - skip);
        node.prev_phys = index;
        node.next_phys = whole.next_phys;
        self.nodes[index as usize].next_phys = cut;
        self.nodes[index as usize].set_size(skip);
        self.bins.push(&mut self.nodes, index, skip);
        self.free_regions += 1;
        Some(self.take(cut, need, user_data))
    }

    #[cold]
    #[inline(never)]
    fn allocate_aligned(&mut self, need: u64, align: u64, user_data: u64) -> Option<Region> {
        let (index, skip) = self.find_aligned(need, align >> self.shift)?;
        self.take_after(index, skip, need, user_data)
    }
}

impl SubAllocator for Tlsf {
    #[inline]
    fn allocate(&mut self, size: u64, align: u64, user_data: u64) -> Option<Region> {
        if !align.is_power_of_two() {
            return None;
        }
        let need = self.granules(size)?;
        if align >> self.shift > 1 {
            return self.allocate_aligned(need, align, user_data);
        }
        if !self.reserve() {
            return None;
        }
        let index = self.find(need)?;
        Some(self.take(index, need, user_data))
    }

    fn allocate_at(&mut self, free: RegionId, size: u64, align: u64, user_data: u64) -> Option<Region> {
        if !align.is_power_of_two() {
            return None;
        }
        let need = self.granules(size)?;
        let index = self.resolve(free).ok()?;
        let node = &self.nodes[index as usize];
        let skip = node.offset().wrapping_neg() & (align >> self.shift).saturating_sub(1);
        if node.used() || need.checked_add(skip)? > node.size() {
            return None;
        }
        self.take_after(index, skip, need, user_data)
    }

    #[inline]
    fn free(&mut self, id: RegionId) -> Result<Region, StaleRegion> {
        let index = self.resolve(id)?;
        if !id.names_used() {
            return Err(StaleRegion(id));
        }
        let region = self.view(index);
        let Node { prev_phys, next_phys, .. } = self.nodes[index as usize];
        let mut size = self.nodes[index as usize].size();
        self.free += size;
        self.used_regions -= 1;
        self.free_regions += 1;
        self.refused.any = false;

        let mut end = next_phys;
        let right = self.nodes[next_phys as usize];
        if !right.used() {
            self.bins.remove(&mut self.nodes, next_phys, right.size());
            size += right.size();
            end = right.next_phys;
            self.give_unused(next_phys);
            self.free_regions -= 1;
        }
        let mut merged = index;
        let left = self.nodes[prev_phys as usize];
        if left.used() {
            self.nodes[index as usize].retire();
        } else {
            self.bins.remove(&mut self.nodes, prev_phys, left.size());
            size += left.size();
            merged = prev_phys;
            self.give_unused(index);
            self.free_regions -= 1;
        }
        let node = &mut self.nodes[merged as usize];
        node.set_size(size);
        node.next_phys = end;
        self.nodes[end as usize].prev_phys = merged;
        self.last_freed = size;
        self.bins.push_freed(&mut self.nodes, merged, size);
        Ok(region)
    }

    fn get(&self, id: RegionId) -> Result<Region, StaleRegion> {
        self.resolve(id).map(|index| self.view(index))
    }

    #[inline]
    fn set_user_data(&mut self, id: RegionId, user_data: u64) -> Result<(), StaleRegion> {
        let index = self.resolve(id)?;
        if !id.names_used() {
            return Err(StaleRegion(id));
        }
        self.nodes[index as usize].set_user_data(user_data);
        Ok(())
    }

    fn first(&self) -> Region {
        self.view(self.nodes[NIL as usize].next_phys)
    }

    fn next(&self, id: RegionId) -> Result<Option<Region>, StaleRegion> {
        let next_phys = self.nodes[self.resolve(id)? as usize].next_phys;
        Ok((next_phys != NIL).then(|| self.view(next_phys)))
    }

    fn previous(&self, id: RegionId) -> Result<Option<Region>, StaleRegion> {
        let prev_phys = self.nodes[self.resolve(id)? as usize].prev_phys;
        Ok((prev_phys != NIL).then(|| self.view(prev_phys)))
    }

    fn capacity(&self) -> u64 {
        self.total << self.shift
    }

    fn free_bytes(&self) -> u64 {
        self.free << self.shift
    }

    fn used_regions(&self) -> u64 {
        self.used_regions
    }

    fn free_regions(&self) -> u64 {
        self.free_regions
    }

    fn largest_free(&self) -> u64 {
        let Some(list) = self.bins.last() else { return 0 };
        let sizes = self.bins.members(&self.nodes, list).map(|index| self.nodes[index as usize].size());
        let candidates = if self.bins.is_uniform(list) { 1 } else { usize::MAX };
        sizes.take(candidates).max().unwrap_or(0) << self.shift
    }

    fn last_freed(&self) -> u64 {
        self.last_freed << self.shift
    }

    fn reset(&mut self) {
        let mut index = self.nodes[NIL as usize].next_phys;
        while index != NIL {
            let next_phys = self.nodes[index as usize].next_phys;
            self.give_unused(index);
            index = next_phys;
        }
        self.bins.clear();
        self.span_all();
    }

    fn metadata_bytes(&self) -> u64 {
        (size_of::<Self>() + self.nodes.capacity() * size_of::<Node>() + self.bins.bytes()) as u64
    }

    fn validate(&self) -> Result<(), String> {
        self.check()
    }
}
