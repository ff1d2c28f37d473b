//! Tests of compaction: the work of one step has a bound.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::device::memory::{PageOptions, Source};
use crate::pool::visits;
use crate::pool::Layout;
use crate::sys::page::page_size;

/// A pool of one chunk with `fixed` slices that cannot move, of which every second one was freed, and movable ones
/// above them, which fit into no hole.
fn scattered(fixed: u64, movable: u64) -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    let size = ((fixed + 4 * movable) * 64).next_multiple_of(page_size());
    let layout = Layout { initial: size, max: size, chunk: size, block: None, alignment: 64, delay: 0 };
    let pool = Pool::new(None, source, layout, None).unwrap();
    let slices: Vec<_> = (0..fixed).map(|_| pool.allocate(64, 64).unwrap()).collect();
    for _ in 0..movable {
        pool.allocate_movable(128, 64, None).unwrap();
    }
    slices.iter().step_by(2).for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
    pool
}

/// Counts visits, not time: how long the lock is held does not depend on the size of the pool.
#[test]
fn no_step_visits_more_than_its_share_of_a_large_pool() {
    let pool = scattered(20_000, 5_000);
    let mut pass = pool.start_pass().unwrap();
    let (mut steps, mut all) = (0, 0);
    let mut visited = |most: usize| {
        let visits = visits::take();
        assert!(visits <= most, "{visits} visits in one step");
        (steps, all) = (steps + 1, all + visits);
    };
    visits::take();
    while !pool.survey(&mut pass, SEARCH_STEP) {
        // The holes between the slices, too.
        visited(2 * SEARCH_STEP + 1);
    }
    visited(2 * SEARCH_STEP + 1);
    while let SearchStep::Paused = pool.search_fill(&mut pass) {
        visited(SEARCH_STEP);
    }
    visited(SEARCH_STEP);
    while let SearchStep::Paused = pool.search_slide(&mut pass) {
        visited(SEARCH_STEP);
    }
    visited(SEARCH_STEP);
    assert!(all > 30_000 && steps > 100, "{all} visits in {steps} steps");
}
