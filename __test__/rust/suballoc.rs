//! Suballocators against a naive model: a map of used intervals, searched from end to end.
//!
//! Property tests with short sequences that shrink, and seeded long ones. Both compare every answer with the model's,
//! so that "no fit", "largest free" and "stale" are checked as hard as placement is. No unsafe, no system call and no
//! clock anywhere in here: all of it can run under Miri, where it runs a thousandth of the steps
//! (`cargo +nightly miri test --no-default-features --test suballoc`). A build with debug assertions runs a tenth:
//! `npm run test:long` runs all.

#[path = "suballoc/model.rs"]
mod model;

use model::{Model, Op, Rules};
use proptest::prelude::*;
use rkllmjs_memory::suballoc::{Fixed, LayoutError, Region, RegionId, StaleRegion, SubAllocator, Tlsf};

/// Steps of each seeded run.
const STEPS: u32 = if cfg!(miri) {
    500
} else if cfg!(debug_assertions) {
    50_000
} else {
    500_000
};

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
        let (nth, user_data) = (self.next() as usize, self.next());
        let most = if rules.fixed { rules.unit } else { (rules.capacity / 4).max(1) };
        let size = self.size(most).min(rules.capacity + 1);
        let align_log2 = match self.below(8) {
            0 => self.below(u64::from(rules.capacity.ilog2()) + 2) as u32,
            1 => rules.unit.trailing_zeros() + self.below(4) as u32,
            _ => 0,
        };
        match self.below(100) {
            0..8 => Op::FreeStale { nth },
            8..14 => Op::SetUserData { nth, user_data },
            14..20 => Op::AllocateAt { nth_free: nth, size, align_log2 },
            roll if (roll < 65) == filling || roll < 35 => Op::Allocate { size, align_log2 },
            _ => Op::Free { nth },
        }
    }
}

/// Runs `steps` operations. Compares each answer at once, and the model after every `every`th operation.
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

/// Many regions: bins with long lists, thousands of recycled nodes.
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

/// Hundreds of free regions in one bin, of sizes that differ in different bits: groups divide the bin and each other.
#[test]
fn tlsf_crowded_bins_seeded() {
    const FILL: u32 = STEPS / 20;
    let bases: [u64; 3] = [5000, 5000, 70_000];
    for (seed, (base, spread)) in bases.into_iter().zip([60, 3, 1000]).enumerate() {
        let (rules, mut arena) = tlsf(base * u64::from(FILL) / 2, 64);
        let mut seeded = Seeded(seed as u64);
        let mut model = Model::new(rules);
        for step in 0..STEPS / 5 {
            // First only allocations, and after each a region of one granule that stays and keeps the holes apart.
            let (fill, nth) = (step < FILL, seeded.next() as usize);
            if step == FILL {
                model.live.retain(|&id| arena.get(id).expect("live").size > 64);
            }
            let size = match seeded.below(8) {
                _ if fill && step % 2 == 1 => 1,
                0 => 64 * seeded.below(base / 2),
                _ => 64 * (base + seeded.below(spread)),
            };
            let align_log2 = if seeded.below(6) == 0 { 6 + seeded.below(9) as u32 } else { 0 };
            let op = match seeded.below(16) {
                _ if fill => Op::Allocate { size, align_log2: 0 },
                0 => Op::FreeStale { nth },
                1 => Op::AllocateAt { nth_free: nth, size, align_log2 },
                // More frees than allocations at first, then as many.
                2..9 if step > 2 * FILL || nth % 2 == 0 => Op::Allocate { size, align_log2 },
                _ => Op::Free { nth },
            };
            model.step(&mut arena, op);
            if step % 256 == 0 {
                model.compare(&arena);
            }
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
        1 => (nth, any::<u64>()).prop_map(|(nth, user_data)| Op::SetUserData { nth, user_data }),
        1 => Just(Op::Reset),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 400 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

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

    /// Any number is safe as an id, in any state of the arena.
    #[test]
    fn made_up_ids_are_errors(raw in prop_oneof![any::<u64>(), 0u64..8, (0u64..8).prop_map(|slot| slot | 1 << 63)]) {
        let (_, mut tlsf) = tlsf(64, 64);
        let (_, mut fixed) = fixed(64, 64);
        let arenas: [&mut dyn SubAllocator; 2] = [&mut tlsf, &mut fixed];
        for arena in arenas {
            let kept: Vec<Region> = (0..3).filter_map(|user_data| arena.allocate(64, 1, user_data)).collect();
            let id = RegionId::from_raw(raw);
            if kept.iter().any(|region| region.id == id) {
                continue;
            }
            prop_assert_eq!(arena.free(id), Err(StaleRegion(id)));
            prop_assert_eq!(arena.set_user_data(id, 9), Err(StaleRegion(id)));
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
fn invalid_layouts_are_refused() {
    assert_eq!(Tlsf::new(4096, 48).err(), Some(LayoutError::NotPowerOfTwo(48)));
    assert_eq!(Tlsf::new(0, 64).err(), Some(LayoutError::Capacity { capacity: 0, unit: 64 }));
    assert_eq!(Tlsf::new(100, 64).err(), Some(LayoutError::Capacity { capacity: 100, unit: 64 }));
    assert_eq!(Tlsf::new(1 << 60, 1).err(), Some(LayoutError::TooManyUnits { capacity: 1 << 60, unit: 1 }));
    assert!(Tlsf::new(1 << 60, 1 << 13).is_ok());
    assert_eq!(Fixed::new(4096, 0).err(), Some(LayoutError::Capacity { capacity: 4096, unit: 0 }));
    assert_eq!(Fixed::new(4095, 64).err(), Some(LayoutError::Capacity { capacity: 4095, unit: 64 }));
    assert_eq!(Fixed::new(1 << 60, 64).err(), Some(LayoutError::TooManyUnits { capacity: 1 << 60, unit: 64 }));
}

/// Tables take at most 64 bytes a live block at 1,000,000 live blocks, also with one free region for every two blocks,
/// the ratio of Knuth's fifty-per-cent rule.
#[test]
fn a_million_live_blocks_cost_64_bytes_each() {
    const LIVE: u64 = if cfg!(miri) { 10_000 } else { 1_000_000 };
    let (_, mut arena) = tlsf(LIVE * 3 / 2, 64);
    let all: Vec<RegionId> =
        (0..LIVE * 3 / 2).filter_map(|user_data| arena.allocate(64, 64, user_data)).map(|r| r.id).collect();
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

#[test]
fn a_request_of_zero_bytes_is_refused_at_any_granularity() {
    for granularity in [1, 64, 4096] {
        let Ok(mut arena) = Tlsf::new(16 * granularity, granularity) else { panic!("it is a layout") };
        let whole = arena.first().id;
        for size in [0, 16 * granularity + 1, u64::MAX] {
            assert_eq!(arena.allocate(size, 1, 0), None);
            assert_eq!(arena.allocate_at(whole, size, 1, 0), None);
        }
        assert!(arena.allocate_at(whole, 16 * granularity, 1, 0).is_some());
    }
}

#[test]
fn fragmentation_is_the_share_of_free_bytes_outside_the_largest_region() {
    let (_, mut arena) = tlsf(100, 64);
    assert_eq!(arena.fragmentation(), 0.0);
    let all: Vec<RegionId> =
        [10, 20, 30, 40].into_iter().filter_map(|n| arena.allocate(n * 64, 1, 0)).map(|r| r.id).collect();
    assert_eq!((arena.free_bytes(), arena.fragmentation()), (0, 0.0));
    arena.free(all[0]).expect("live");
    assert_eq!(arena.fragmentation(), 0.0, "one region is in one piece");
    arena.free(all[2]).expect("live");
    assert_eq!(arena.fragmentation(), 0.25, "10 of 40");
    let (_, mut blocks) = fixed(3, 64);
    let all: Vec<RegionId> = (0..3).filter_map(|_| blocks.allocate(1, 1, 0)).map(|r| r.id).collect();
    for at in [0, 2] {
        blocks.free(all[at]).expect("live");
    }
    assert_eq!(blocks.fragmentation(), 0.0, "every block serves as well as another");
}

#[test]
fn an_id_is_a_number_and_an_error_names_it() {
    let (_, mut arena) = tlsf(4, 64);
    let region = arena.allocate(64, 1, 7).expect("free");
    assert_eq!(arena.get(RegionId::from_raw(region.id.to_raw())), Ok(region));
    let made_up = RegionId::from_raw(0x8000_00ab_0000_0003);
    assert_eq!(StaleRegion(made_up).to_string(), "RegionId(3@800000ab) names no live region");
}

/// See `suballoc::bins`: the low end fills first, so that the rest can become free in large pieces.
#[test]
fn low_free_regions_serve_first_and_above_them_the_region_freed_first() {
    let (_, mut arena) = tlsf(64, 64);
    let all: Vec<RegionId> = (0..64).filter_map(|user_data| arena.allocate(64, 1, user_data)).map(|r| r.id).collect();
    // Low are the first 3 of 32 parts of the used span: 6 regions.
    for at in [40, 30, 2, 60, 5] {
        arena.free(all[at]).expect("live");
    }
    let taken: Vec<u64> = (0..5).filter_map(|_| arena.allocate(64, 1, 0)).map(|region| region.offset / 64).collect();
    assert_eq!(taken, [5, 2, 40, 30, 60]);
    arena.validate().expect("valid");
}

#[test]
fn the_counted_bytes_of_tables_are_the_real_ones() {
    let (_, mut arena) = tlsf(1 << 14, 64);
    let empty = arena.metadata_bytes();
    (0..10_000).for_each(|user_data| assert!(arena.allocate(64, 1, user_data).is_some()));
    // A node takes 32 bytes; up to a quarter more nodes than are in use may exist.
    assert!((32 * 9_900..=40 * 10_100).contains(&(arena.metadata_bytes() - empty)), "{}", arena.metadata_bytes());
    // 64 lists of 12 bytes and a bitmap of the occupied ones, for each of 33 more powers of two.
    let [(_, large), (_, small)] = [1 << 40, 1 << 7].map(|units| tlsf(units, 1));
    assert_eq!(large.metadata_bytes() - small.metadata_bytes(), 33 * (64 * 12 + 8));
    // 12 bytes a block, 1 bit at each level of a tree, and the struct.
    let (_, blocks) = fixed(1 << 14, 64);
    let tables = 12 * (1 << 14) + (1 << 14) / 8 + (1 << 8) / 8 + 8;
    assert!((tables..tables + 200).contains(&blocks.metadata_bytes()), "{}", blocks.metadata_bytes());
}

#[test]
fn no_two_regions_at_one_place_have_the_same_id() {
    const REGIONS: usize = if cfg!(miri) { 500 } else { 200_000 };
    let (_, mut tlsf) = tlsf(1, 64);
    let (_, mut fixed) = fixed(1, 64);
    let arenas: [&mut dyn SubAllocator; 2] = [&mut tlsf, &mut fixed];
    for arena in arenas {
        let mut ids = std::collections::HashSet::new();
        for _ in 0..REGIONS {
            let region = arena.allocate(64, 1, 0).expect("free");
            arena.free(region.id).expect("live");
            ids.insert(region.id);
        }
        assert_eq!(ids.len(), REGIONS);
    }
}

#[test]
fn a_block_arena_has_the_size_of_its_blocks() {
    let (_, arena) = fixed(3, 192);
    assert_eq!((arena.block_size(), arena.capacity()), (192, 576));
}

/// Regions of 130 and of 131 granules are in one bin, and nothing is in those above it.
#[test]
fn no_request_is_refused_that_a_region_behind_smaller_ones_holds() {
    let (_, mut arena) = tlsf(130 + 1 + 131 + 1 + 131 + 1, 64);
    let take = |n: u64| arena.allocate(n * 64, 1, 0).expect("free").id;
    let all = [130, 1, 131, 1, 131, 1].map(take);
    for at in [0, 4, 2] {
        arena.free(all[at]).expect("live");
    }
    assert_eq!(arena.largest_free(), 131 * 64);
    assert_eq!(arena.allocate(132 * 64, 1, 0), None);
    // Of two that fit equally well, the lower one.
    let offsets = [(); 3].map(|()| arena.allocate(131 * 64, 1, 0).map(|region| region.offset / 64));
    assert_eq!(offsets, [Some(131), Some(263), None]);
    assert_eq!(arena.allocate(130 * 64, 1, 0).map(|region| region.offset), Some(0));
    arena.validate().expect("valid");
}
