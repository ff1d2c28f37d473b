//! Compares a replay with a real pool step by step, and its figures with a naive count.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use proptest::prelude::*;

use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::pool::replay::{replay, smallest_capacity, Replay, Step};
use rkllmjs_memory::pool::{Layout, Pool, Slice};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{align_up, KIB, MIB};

const BLOCKS: u32 = 40;

fn layout(initial: u64, max: u64, chunk: u64) -> Layout {
    Layout { initial, max, chunk, block: None, alignment: 64, delay: 0 }
}

fn pool(layout: Layout) -> Pool {
    let pages = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(Some("test".into()), pages, layout, None).unwrap()
}

/// Growing pools, constant pools, and pools of fixed blocks.
fn layouts() -> impl Strategy<Value = Layout> {
    let sizes = (0..4u64, 1..9u64, 1..4u64, prop::sample::select(vec![64, 256, 4096]));
    (sizes, prop::option::of(1..20_000u64)).prop_map(|((initial, more, chunk, alignment), block)| {
        let unit = 32 * KIB;
        let (initial, max) = (initial * unit, (initial + more) * unit);
        Layout { block, alignment, ..layout(initial, max, chunk * unit) }
    })
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = prop_oneof![Just(0), Just(0), Just(0), 1..600u64, 1..20_000u64, 30_000..70_000u64];
    let step = (0..BLOCKS, size).prop_map(|(block, size)| Step { block, size });
    prop::collection::vec(step, 1..300)
}

/// Runs a step of a log on a real pool. `blocks` has the live blocks, `peak` the most reserved bytes. Returns whether
/// the pool served the request.
fn really(pool: &Pool, blocks: &mut HashMap<u32, Slice>, peak: &mut u64, Step { block, size }: Step) -> bool {
    let free = |slice: Option<Slice>| {
        if let Some(slice) = slice {
            pool.free(slice.chunk, slice.region).unwrap();
        }
    };
    if size == 0 {
        free(blocks.remove(&block));
        return true;
    }
    match pool.allocate(size, 64) {
        Ok(slice) => {
            // A reallocated block lives twice for a moment, and the pool may have grown for it.
            *peak = pool.stats().reserved.max(*peak);
            free(blocks.insert(block, slice));
        }
        Err(error) => {
            assert!(matches!(error.code(), ErrorCode::PoolExhausted | ErrorCode::OutOfRange), "{error:?}");
            return false;
        }
    }
    true
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    /// `Pool` and `Replay` make the same decisions.
    #[test]
    fn a_replay_is_what_a_pool_does(layout in layouts(), steps in steps()) {
        let (pool, mut replay, mut blocks) = (pool(layout), Replay::new(layout).unwrap(), HashMap::new());
        let mut peak = pool.stats().reserved;
        for step in steps {
            let served = really(&pool, &mut blocks, &mut peak, step);
            prop_assert_eq!(replay.step(step).unwrap(), served);
            let stats = pool.stats();
            prop_assert_eq!(
                (replay.reserved(), replay.allocated(), replay.largest_free()),
                (stats.reserved, stats.allocated, stats.largest_free)
            );
            let offset = |block: u32| blocks.get(&block).map(|slice| slice.offset);
            for block in 0..BLOCKS {
                prop_assert_eq!(replay.offset(block), offset(block));
            }
        }
        let (stats, outcome) = (pool.stats(), replay.outcome());
        prop_assert_eq!(
            (outcome.allocations, outcome.failures, outcome.live_at_end, outcome.peak_allocated, outcome.peak_reserved),
            (stats.allocations, stats.failures, stats.live, stats.peak_allocated, peak)
        );
    }

    #[test]
    fn figures_are_those_of_a_naive_count(steps in steps()) {
        let capacity = 64 * MIB;
        let outcome = replay(layout(capacity, capacity, capacity), steps.clone()).unwrap();
        let (mut live, mut frees, mut allocations) = (HashMap::new(), 0, 0);
        let (mut peak, mut peak_padded) = (0, 0);
        for Step { block, size } in steps {
            let sum = |live: &HashMap<u32, u64>| live.values().sum::<u64>() + size;
            // A reallocated block lives twice for a moment.
            peak = peak.max(sum(&live));
            let padded = |size: u64| align_up(size, 64).unwrap();
            peak_padded = peak_padded.max(live.values().map(|size| padded(*size)).sum::<u64>() + padded(size));
            let before = if size == 0 { live.remove(&block) } else { live.insert(block, size) };
            frees += u64::from(before.is_some());
            allocations += u64::from(size > 0);
        }
        prop_assert_eq!(
            (outcome.allocations, outcome.frees, outcome.live_at_end, outcome.peak_live, outcome.peak_allocated),
            (allocations, frees, live.len() as u64, peak, peak_padded)
        );
        prop_assert_eq!((outcome.failures, outcome.first_failure), (0, None));
        let highest = outcome.highest_address.unwrap();
        prop_assert!(highest >= peak_padded && highest <= capacity);
        prop_assert_eq!((outcome.peak_reserved, outcome.chunks_made), (capacity, 1));
    }

    #[test]
    fn the_smallest_capacity_serves_all_and_one_step_less_does_not(layout in layouts(), steps in steps()) {
        let initial = if layout.initial == layout.max { 64 * MIB } else { layout.initial };
        let roomy = Layout { max: 64 * MIB, initial, ..layout };
        let with = |max: u64| {
            let initial = if roomy.initial == roomy.max { max } else { roomy.initial };
            replay(Layout { initial, max, ..roomy }, steps.clone()).map(|outcome| outcome.failures)
        };
        let Some(smallest) = smallest_capacity(roomy, steps.iter().copied()).unwrap() else {
            prop_assert!(with(64 * MIB).unwrap() > 0);
            return Ok(());
        };
        prop_assert_eq!(with(smallest).unwrap(), 0);
        let checked = roomy.checked().unwrap();
        let unit = 4096u64.next_multiple_of(checked.granule());
        // A capacity below the initial size is invalid, and one below the peak of live bytes is too small.
        let least = if checked.initial == checked.max { unit } else { checked.initial.max(unit) };
        if let Some(less) = smallest.checked_sub(unit).filter(|less| *less >= least) {
            prop_assert!(with(less).unwrap() > 0, "{smallest} is not the smallest: {less} will do");
        }
    }
}

#[test]
fn the_first_refusal_has_the_figures_of_its_moment() {
    let take = |block, size| Step { block, size };
    let give = |block| Step { block, size: 0 };
    let steps =
        [take(0, 1000), take(1, 1000), take(2, 1000), give(1), take(1, 2000), take(3, 1000), give(1), take(4, 5000)];
    let outcome = replay(layout(4096, 4096, 4096), steps).unwrap();
    let refusal = outcome.first_failure.unwrap();
    assert_eq!((refusal.step, refusal.size, refusal.live, refusal.reserved), (4, 2000, 2000, 4096));
    // Each block takes 1024 bytes: the second and the last quarter are free.
    assert_eq!((refusal.free, refusal.largest_free), (2048, 1024));
    assert_eq!((outcome.failures, outcome.failed_bytes, outcome.allocations, outcome.frees), (2, 7000, 4, 1));
    assert_eq!((outcome.peak_live, outcome.peak_allocated, outcome.highest_address), (3000, 3072, Some(4096)));
    // At the first peak, before any free, the free bytes were in one piece.
    assert_eq!(outcome.fragmentation_at_peak, 0.0);
    assert_eq!(outcome.largest_free_at_end, 1024);
}

#[test]
fn invalid_layouts_are_refused() {
    let bad = [layout(8192, 4096, 4096), layout(0, 0, 0), Layout { alignment: 48, ..layout(4096, 4096, 4096) }];
    for layout in bad {
        assert_eq!(Replay::new(layout).unwrap_err().code(), ErrorCode::OutOfRange);
        assert!(smallest_capacity(layout, std::iter::empty()).is_err());
    }
}

#[test]
fn fragmentation_is_that_of_the_first_time_at_the_peak() {
    let mut replay = Replay::new(layout(MIB, MIB, MIB)).unwrap();
    let mut step = |block, kib| assert!(replay.step(Step { block, size: kib * KIB }).unwrap());
    [(0, 100), (1, 100), (2, 100), (1, 0), (3, 150)].into_iter().for_each(|(block, kib)| step(block, kib));
    // 100 KiB are free between two blocks, and 574 behind the last one.
    let expected = 1.0 - 574.0 / 674.0;
    assert_eq!(replay.outcome().fragmentation_at_peak, expected);
    // As many bytes again, now in one piece.
    let mut step = |block, kib| assert!(replay.step(Step { block, size: kib * KIB }).unwrap());
    [(3, 0), (4, 100), (5, 50)].into_iter().for_each(|(block, kib)| step(block, kib));
    assert_eq!(replay.allocated(), 350 * KIB);
    assert_eq!(replay.outcome().fragmentation_at_peak, expected);
}
