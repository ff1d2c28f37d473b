//! The naive model of a suballocator: used intervals in a map, holes found by walking it.

use rkllmjs_memory::suballoc::{regions, Region, RegionId, StaleRegion, SubAllocator};
use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Allocate { size: u64, align_log2: u32 },
    AllocateAt { nth_free: usize, size: u64, align_log2: u32 },
    Free { nth: usize },
    FreeStale { nth: usize },
    SetUserData { nth: usize, user_data: u64 },
    Reset,
}

/// The rules of a suballocator.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub capacity: u64,
    /// The suballocator rounds sizes up to it.
    pub unit: u64,
    /// Every region is one unit, and free neighbours stay apart.
    pub fixed: bool,
}

#[derive(Debug)]
pub struct Model {
    rules: Rules,
    used: BTreeMap<u64, Region>,
    pub live: Vec<RegionId>,
    pub dead: Vec<RegionId>,
    next_user_data: u64,
}

impl Model {
    pub fn new(rules: Rules) -> Self {
        Self { rules, used: BTreeMap::new(), live: Vec::new(), dead: Vec::new(), next_user_data: 1 << 40 }
    }

    fn holes(&self) -> Vec<(u64, u64)> {
        let mut holes = Vec::new();
        let mut at = 0;
        for region in self.used.values() {
            if region.offset > at {
                holes.push((at, region.offset));
            }
            at = region.end();
        }
        if at < self.rules.capacity {
            holes.push((at, self.rules.capacity));
        }
        holes
    }

    /// Bytes that a request takes, if an empty arena could serve it.
    fn padded(&self, size: u64) -> Option<u64> {
        let padded = size.checked_next_multiple_of(self.rules.unit)?;
        let most = if self.rules.fixed { self.rules.unit } else { self.rules.capacity };
        (size > 0 && padded <= most).then_some(padded)
    }

    fn fits(&self, (start, end): (u64, u64), padded: u64, align: u64) -> bool {
        let mut starts = (start..end).step_by(self.rules.unit as usize);
        if self.rules.fixed {
            return starts.any(|at| at % align == 0);
        }
        let at = start.next_multiple_of(align);
        at + padded <= end
    }

    fn admit(&mut self, region: Region, padded: u64, align: u64) {
        assert_eq!(region.size, padded);
        assert_eq!(region.offset % align, 0);
        assert_eq!(region.user_data, self.next_user_data);
        assert!(region.used);
        let inside = self.holes().iter().any(|&(start, end)| start <= region.offset && region.end() <= end);
        assert!(inside, "{region:?} is not inside a hole");
        self.next_user_data += 1;
        self.used.insert(region.offset, region);
        self.live.push(region.id);
    }

    /// Applies `op` to the arena and to the model, and compares the answers.
    pub fn step(&mut self, arena: &mut dyn SubAllocator, op: Op) {
        match op {
            Op::Allocate { size, align_log2 } => {
                let align = 1 << align_log2;
                let padded = self.padded(size);
                let fits = padded.is_some_and(|p| self.holes().into_iter().any(|hole| self.fits(hole, p, align)));
                let region = arena.allocate(size, align, self.next_user_data);
                assert_eq!(region.is_some(), fits, "allocate({size}, {align})");
                if let (Some(region), Some(padded)) = (region, padded) {
                    self.admit(region, padded, align);
                }
            }
            Op::AllocateAt { nth_free, size, align_log2 } => {
                let align = 1 << align_log2;
                let free: Vec<Region> = regions(arena).filter(|region| !region.used).collect();
                let Some(&target) = free.get(nth_free % free.len().max(1)) else { return };
                let padded = self.padded(size);
                let first_only = self.rules.fixed && target.offset % align != 0;
                let fits = !first_only && padded.is_some_and(|p| self.fits((target.offset, target.end()), p, align));
                let region = arena.allocate_at(target.id, size, align, self.next_user_data);
                assert_eq!(region.is_some(), fits, "allocate_at({target:?}, {size}, {align})");
                if let (Some(region), Some(padded)) = (region, padded) {
                    assert!(target.offset <= region.offset && region.end() <= target.end());
                    self.admit(region, padded, align);
                }
            }
            Op::Free { nth } => {
                if self.live.is_empty() {
                    return;
                }
                let id = self.live.swap_remove(nth % self.live.len());
                let freed = arena.free(id).expect("live");
                assert_eq!(self.used.remove(&freed.offset), Some(freed));
                self.dead.push(id);
            }
            Op::FreeStale { nth } => {
                if let Some(&id) = self.dead.get(nth % self.dead.len().max(1)) {
                    assert_eq!(arena.free(id), Err(StaleRegion(id)));
                    assert_eq!(arena.get(id), Err(StaleRegion(id)));
                    assert_eq!(arena.set_user_data(id, 1), Err(StaleRegion(id)));
                    assert_eq!(arena.next(id), Err(StaleRegion(id)));
                    assert_eq!(arena.previous(id), Err(StaleRegion(id)));
                    assert_eq!(arena.allocate_at(id, 1, 1, 1), None);
                }
            }
            Op::SetUserData { nth, user_data } => {
                if let Some(&id) = self.live.get(nth % self.live.len().max(1)) {
                    arena.set_user_data(id, user_data).expect("live");
                    let region = arena.get(id).expect("live");
                    assert_eq!(region.user_data, user_data);
                    self.used.insert(region.offset, region);
                }
            }
            Op::Reset => {
                arena.reset();
                self.dead.append(&mut self.live);
                self.used.clear();
            }
        }
    }

    /// Compares all figures of the arena with the model.
    pub fn compare(&self, arena: &dyn SubAllocator) {
        arena.validate().expect("valid");
        let holes = self.holes();
        let walked: Vec<Region> = regions(arena).collect();
        assert!(walked.iter().filter(|region| region.used).eq(self.used.values()));
        let free: Vec<(u64, u64)> = walked.iter().filter(|r| !r.used).map(|r| (r.offset, r.end())).collect();
        assert_eq!(free, holes);
        for (at, region) in walked.iter().enumerate() {
            let before = at.checked_sub(1).map(|before| walked[before]);
            assert_eq!(arena.previous(region.id), Ok(before));
        }
        for region in walked.iter().filter(|region| !region.used) {
            assert_eq!(arena.get(region.id), Ok(*region));
        }
        let free_bytes: u64 = holes.iter().map(|(start, end)| end - start).sum();
        let widest = holes.iter().map(|(start, end)| end - start).max().unwrap_or(0);
        let largest = if self.rules.fixed { widest.min(self.rules.unit) } else { widest };
        assert_eq!(arena.largest_free(), largest);
        assert_eq!(arena.free_bytes(), free_bytes);
        assert_eq!(arena.allocated(), self.rules.capacity - free_bytes);
        assert_eq!(arena.used_regions(), self.used.len() as u64);
        let free_regions = if self.rules.fixed { free_bytes / self.rules.unit } else { holes.len() as u64 };
        assert_eq!(arena.free_regions(), free_regions);
    }
}
