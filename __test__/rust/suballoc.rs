//! Suballocators against a naive model: a map of used intervals, searched from end to end.
//!
//! Property tests with short sequences that shrink, and seeded long ones. Both compare every answer with the model's, so
//! that "no fit", "largest free" and "stale" are checked as hard as placement is. No unsafe, no system call and no clock
//! anywhere in here: all of it can run under Miri (`cargo +nightly miri test --no-default-features --test suballoc`;
//! there it runs a thousandth of the steps). An unoptimised build runs a tenth: the millions want `cargo test --release`.

use proptest::prelude::*;
use rkllmjs_memory::suballoc::{regions, Fixed, LayoutError, Region, RegionId, StaleRegion, SubAllocator, Tlsf};
use std::collections::BTreeMap;

/// Steps of each seeded run.
const STEPS: u32 = if cfg!(miri) {
    500
} else if cfg!(debug_assertions) {
    50_000
} else {
    500_000
};

#[derive(Clone, Copy, Debug)]
enum Op {
    Allocate { size: u64, align_log2: u32 },
    AllocateAt { nth_free: usize, size: u64, align_log2: u32 },
    Free { nth: usize },
    FreeStale { nth: usize },
    SetTag { nth: usize, tag: u64 },
    Reset,
}

/// What a suballocator promises, besides the sizes it is asked for.
#[derive(Clone, Copy, Debug)]
struct Rules {
    capacity: u64,
    /// Sizes are rounded up to it.
    unit: u64,
    /// Every region is one unit, and free neighbours stay apart.
    fixed: bool,
}

#[derive(Debug)]
struct Model {
    rules: Rules,
    used: BTreeMap<u64, Region>,
    live: Vec<RegionId>,
    dead: Vec<RegionId>,
    next_tag: u64,
}

impl Model {
    fn new(rules: Rules) -> Self {
        Self { rules, used: BTreeMap::new(), live: Vec::new(), dead: Vec::new(), next_tag: 1 << 40 }
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

    /// Bytes that a request takes, if it is one that an empty arena could serve.
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
        assert_eq!(region.tag, self.next_tag);
        assert!(region.used);
        let inside = self.holes().iter().any(|&(start, end)| start <= region.offset && region.end() <= end);
        assert!(inside, "{region:?} is not inside a hole");
        self.next_tag += 1;
        self.used.insert(region.offset, region);
        self.live.push(region.id);
    }

    fn step(&mut self, arena: &mut dyn SubAllocator, op: Op) {
        match op {
            Op::Allocate { size, align_log2 } => {
                let align = 1 << align_log2;
                let padded = self.padded(size);
                let fits = padded.is_some_and(|p| self.holes().into_iter().any(|hole| self.fits(hole, p, align)));
                let region = arena.allocate(size, align, self.next_tag);
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
                let region = arena.allocate_at(target.id, size, align, self.next_tag);
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
                    assert_eq!(arena.set_tag(id, 1), Err(StaleRegion(id)));
                    assert_eq!(arena.next(id), Err(StaleRegion(id)));
                    assert_eq!(arena.allocate_at(id, 1, 1, 1), None);
                }
            }
            Op::SetTag { nth, tag } => {
                if let Some(&id) = self.live.get(nth % self.live.len().max(1)) {
                    arena.set_tag(id, tag).expect("live");
                    let region = arena.get(id).expect("live");
                    assert_eq!(region.tag, tag);
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

    /// Everything the arena says about itself.
    fn compare(&self, arena: &dyn SubAllocator) {
        arena.validate().expect("valid");
        let holes = self.holes();
        let walked: Vec<Region> = regions(arena).collect();
        assert!(walked.iter().filter(|region| region.used).eq(self.used.values()));
        let free: Vec<(u64, u64)> = walked.iter().filter(|r| !r.used).map(|r| (r.offset, r.end())).collect();
        assert_eq!(free, holes);
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

fn tlsf(units: u64, unit: u64) -> (Rules, Tlsf) {
    let rules = Rules { capacity: units * unit, unit, fixed: false };
    (rules, Tlsf::new(rules.capacity, unit).expect("valid layout"))
}

fn fixed(units: u64, unit: u64) -> (Rules, Fixed) {
    let rules = Rules { capacity: units * unit, unit, fixed: true };
    (rules, Fixed::new(rules.capacity, unit).expect("valid layout"))
}

/// splitmix64: seeded, so a failure names its seed and comes again.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Log-uniform: as likely small as large.
    fn size(&mut self, most: u64) -> u64 {
        let bits = self.below(u64::from(most.ilog2()) + 1);
        (1 << bits) + self.below(1 << bits)
    }

    /// Mostly allocations and frees in balance, drifting between nearly empty and refusing.
    fn op(&mut self, rules: Rules, filling: bool) -> Op {
        let (nth, tag) = (self.next() as usize, self.next());
        let most = if rules.fixed { rules.unit } else { (rules.capacity / 4).max(1) };
        let size = self.size(most).min(rules.capacity + 1);
        let align_log2 = match self.below(8) {
            0 => self.below(u64::from(rules.capacity.ilog2()) + 2) as u32,
            1 => rules.unit.trailing_zeros() + self.below(4) as u32,
            _ => 0,
        };
        match self.below(100) {
            0..8 => Op::FreeStale { nth },
            8..14 => Op::SetTag { nth, tag },
            14..20 => Op::AllocateAt { nth_free: nth, size, align_log2 },
            roll if (roll < 65) == filling || roll < 35 => Op::Allocate { size, align_log2 },
            _ => Op::Free { nth },
        }
    }
}

/// `steps` operations; the model is compared after every `every`th, and each answer at once.
fn seeded_run(seed: u64, rules: Rules, arena: &mut dyn SubAllocator, steps: u32, every: u32) {
    let mut seeded = Seeded(seed);
    let mut model = Model::new(rules);
    let mut filling = true;
    for step in 0..steps {
        if seeded.below(400) == 0 {
            filling = !filling;
        }
        let op = if seeded.below(50_000) == 0 { Op::Reset } else { seeded.op(rules, filling) };
        model.step(arena, op);
        model.dead.truncate(4096);
        if step % every == 0 {
            model.compare(arena);
        }
    }
    model.compare(arena);
}

#[test]
fn tlsf_small_arena_seeded() {
    for (seed, (units, unit)) in [(64, 64), (1000, 1), (4096, 64), (777, 4096)].into_iter().enumerate() {
        let (rules, mut arena) = tlsf(units, unit);
        seeded_run(seed as u64, rules, &mut arena, STEPS, 16);
    }
}

/// Many regions: bins with long lists, nodes recycled by the thousand.
#[test]
fn tlsf_crowded_arena_seeded() {
    let (rules, mut arena) = tlsf(1 << 15, 64);
    let mut seeded = Seeded(7);
    let mut model = Model::new(rules);
    for _ in 0..STEPS / 1000 {
        for _ in 0..10 {
            let filling = model.live.len() < 1500;
            let op = match seeded.op(rules, filling) {
                Op::Allocate { size, align_log2 } => Op::Allocate { size: size % 2000 + 1, align_log2: align_log2 % 9 },
                other => other,
            };
            model.step(&mut arena, op);
        }
        model.compare(&arena);
    }
}

#[test]
fn fixed_seeded() {
    for (seed, (units, unit)) in [(1, 64), (63, 4096), (64, 64), (65, 192), (300, 4096)].into_iter().enumerate() {
        let (rules, mut arena) = fixed(units, unit);
        seeded_run(seed as u64, rules, &mut arena, STEPS, 16);
    }
}

fn any_op(most: u64) -> impl Strategy<Value = Op> {
    let size = prop_oneof![4 => 0..=most / 8 + 1, 1 => 0..=most + 1, 1 => Just(u64::MAX)];
    let align = prop_oneof![6 => Just(0), 2 => 0u32..16, 1 => 0u32..64];
    let nth = any::<usize>();
    prop_oneof![
        8 => (size.clone(), align.clone()).prop_map(|(size, align_log2)| Op::Allocate { size, align_log2 }),
        2 => (nth, size, align).prop_map(|(nth_free, size, align_log2)| Op::AllocateAt { nth_free, size, align_log2 }),
        6 => nth.prop_map(|nth| Op::Free { nth }),
        1 => nth.prop_map(|nth| Op::FreeStale { nth }),
        1 => (nth, any::<u64>()).prop_map(|(nth, tag)| Op::SetTag { nth, tag }),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 400 }, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn tlsf_property(units in 1u64..400, unit_log2 in 0u32..13, ops in prop::collection::vec(any_op(20_000), 1..120)) {
        let (rules, mut arena) = tlsf(units, 1 << unit_log2);
        let mut model = Model::new(rules);
        for op in ops {
            model.step(&mut arena, op);
            model.compare(&arena);
        }
    }

    #[test]
    fn fixed_property(units in 1u64..400, unit in 1u64..5000, ops in prop::collection::vec(any_op(6_000), 1..120)) {
        let (rules, mut arena) = fixed(units, unit);
        let mut model = Model::new(rules);
        for op in ops {
            model.step(&mut arena, op);
            model.compare(&arena);
        }
    }

    /// Any number is safe as an id, whatever the arena's state.
    #[test]
    fn made_up_ids_are_errors(raw in prop_oneof![any::<u64>(), 0u64..8, (0u64..8).prop_map(|slot| slot | 1 << 63)]) {
        let (_, mut tlsf) = tlsf(64, 64);
        let (_, mut fixed) = fixed(64, 64);
        let arenas: [&mut dyn SubAllocator; 2] = [&mut tlsf, &mut fixed];
        for arena in arenas {
            let kept: Vec<Region> = (0..3).filter_map(|tag| arena.allocate(64, 1, tag)).collect();
            let id = RegionId::from_raw(raw);
            if kept.iter().any(|region| region.id == id) {
                continue;
            }
            prop_assert_eq!(arena.free(id), Err(StaleRegion(id)));
            prop_assert_eq!(arena.set_tag(id, 9), Err(StaleRegion(id)));
            let _ = (arena.get(id), arena.next(id), arena.allocate_at(id, 64, 1, 0));
            prop_assert_eq!(arena.validate(), Ok(()));
            for region in kept {
                prop_assert_eq!(arena.free(region.id), Ok(region));
            }
        }
    }
}

/// A fresh pool of N bytes serves one allocation of N: nothing is rounded away.
#[test]
fn a_fresh_arena_serves_all_of_itself() {
    for capacity in [1, 64, 127, 1_000_003, (1 << 32) + 4097, u64::from(u32::MAX) * 5] {
        let mut arena = Tlsf::new(capacity, 1).expect("valid layout");
        assert_eq!(arena.largest_free(), capacity);
        assert_eq!(arena.allocate(capacity + 1, 1, 0), None);
        let all = arena.allocate(capacity, 1 << 20, 0).expect("fits");
        assert_eq!((all.offset, all.size, arena.free_bytes()), (0, capacity, 0));
        assert_eq!(arena.allocate(1, 1, 0), None);
        assert_eq!(arena.free(all.id), Ok(all));
        assert_eq!(arena.largest_free(), capacity);
    }
}

#[test]
fn layouts_that_cannot_be_are_refused() {
    assert_eq!(Tlsf::new(4096, 48).err(), Some(LayoutError::NotPowerOfTwo(48)));
    assert_eq!(Tlsf::new(0, 64).err(), Some(LayoutError::Capacity { capacity: 0, unit: 64 }));
    assert_eq!(Tlsf::new(100, 64).err(), Some(LayoutError::Capacity { capacity: 100, unit: 64 }));
    assert_eq!(Tlsf::new(1 << 60, 1).err(), Some(LayoutError::TooManyUnits { capacity: 1 << 60, unit: 1 }));
    assert!(Tlsf::new(1 << 60, 1 << 13).is_ok());
    assert_eq!(Fixed::new(4096, 0).err(), Some(LayoutError::Capacity { capacity: 4096, unit: 0 }));
    assert_eq!(Fixed::new(4095, 64).err(), Some(LayoutError::Capacity { capacity: 4095, unit: 64 }));
    assert_eq!(Fixed::new(1 << 60, 64).err(), Some(LayoutError::TooManyUnits { capacity: 1 << 60, unit: 64 }));
}

/// The promise is 64 bytes of tables a live block with 1,000,000 live, also with a free region to every two of them: the
/// proportion that Knuth's fifty-per-cent rule leads one to expect.
#[test]
fn a_million_live_blocks_cost_64_bytes_each() {
    const LIVE: u64 = if cfg!(miri) { 10_000 } else { 1_000_000 };
    let (_, mut arena) = tlsf(LIVE * 3 / 2, 64);
    let all: Vec<RegionId> = (0..LIVE * 3 / 2).filter_map(|tag| arena.allocate(64, 64, tag)).map(|r| r.id).collect();
    for &id in all.iter().step_by(3) {
        arena.free(id).expect("live");
    }
    assert_eq!((arena.used_regions(), arena.free_regions()), (LIVE, LIVE / 2));
    assert!(arena.metadata_bytes() <= 64 * LIVE, "{} bytes", arena.metadata_bytes());
    arena.validate().expect("valid");

    let (_, mut blocks) = fixed(LIVE, 64);
    while blocks.allocate(64, 64, 0).is_some() {}
    assert!(blocks.metadata_bytes() <= 13 * LIVE, "{} bytes", blocks.metadata_bytes());
    blocks.validate().expect("valid");
}
