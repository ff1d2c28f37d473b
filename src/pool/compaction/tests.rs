//! Tests of compaction: the work of one step has a bound.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::handle::Handle;
use crate::pool::testing::{pool_of, ONE_MIB};
use crate::pool::visits;
use crate::pool::Layout;
use crate::sys::page::page_size;

/// A pool of one chunk with `fixed` slices that cannot move, of which every second one was freed, and movable ones
/// above them, which fit into no hole.
fn scattered(fixed: u64, movable: u64) -> Pool {
    let size = ((fixed + 4 * movable) * 64).next_multiple_of(page_size());
    let pool = pool_of(Layout { initial: size, max: size, chunk: size, ..ONE_MIB });
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
        // The holes between the slices, too, and at first the one chunk.
        visited(2 * SEARCH_STEP + 2);
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

/// A pool of `chunks` chunks of one page, each with a movable slice and a hole.
fn of_chunks(chunks: u64) -> Pool {
    let page = page_size();
    let pool = pool_of(Layout { initial: 0, max: chunks * page, chunk: page, ..ONE_MIB });
    // Pairs that fill a chunk each, of which one ends.
    let pairs: Vec<_> = (0..chunks)
        .map(|_| [pool.allocate(page / 4, 64).unwrap(), pool.allocate_movable(3 * page / 4, 64, None).unwrap().1])
        .collect();
    pairs.iter().for_each(|[first, _]| pool.free(first.chunk, first.region).unwrap());
    pool
}

/// Counts visits by critical section: no thread that waits for the lock waits for all chunks.
#[test]
fn no_critical_section_of_a_compaction_or_a_trim_visits_more_than_its_share_of_many_chunks() {
    const CHUNKS: u64 = 2_000;
    let pool = of_chunks(CHUNKS);
    visits::take();
    visits::take_longest_section();
    let mut pass = pool.start_pass().unwrap();
    assert_eq!(visits::take(), 0, "the start of a pass visits no chunk");
    let mut steps = 0;
    while !pool.survey(&mut pass, SEARCH_STEP) {
        steps += 1;
    }
    assert_eq!(pass.chunks.len() as u64, CHUNKS, "each chunk once");
    assert!(steps >= 2 * CHUNKS as usize / SEARCH_STEP - 1, "{steps} steps");
    while let Some(step) = pool.next_move(&mut pass) {
        step.commit().unwrap();
    }
    let longest = visits::take_longest_section();
    assert!((SEARCH_STEP..=2 * SEARCH_STEP + 1).contains(&longest), "{longest} visits in one section");

    pool.reset(|_| true).unwrap();
    visits::take_longest_section();
    assert_eq!(pool.trim(), CHUNKS * page_size());
    let longest = visits::take_longest_section();
    assert!((1..=SEARCH_STEP).contains(&longest), "{longest} visits in one section of a trim");
    assert_eq!((pool.counts().chunks, pool.validate()), (0, Ok(())));
}

/// The movable slice of a chunk that has one.
fn movable_of(pool: &Pool, chunk: Handle) -> Handle {
    let state = pool.state();
    let arena = &*state.chunks.get(chunk).unwrap().arena;
    let found = crate::suballoc::regions(arena).find_map(|region| state.movables.at((chunk, region.id)));
    found.unwrap()
}

/// A chunk that is made or ends between two steps of the list changes nothing for the others.
#[test]
fn chunks_that_come_and_go_while_they_are_listed_are_no_harm() {
    let pool = of_chunks(600);
    let mut pass = pool.start_pass().unwrap();
    assert!(!pool.survey(&mut pass, SEARCH_STEP));
    let listed: Vec<_> = pass.listing.as_ref().unwrap().found.iter().map(|(_, handle)| *handle).collect();
    let movable = movable_of(&pool, listed[7]);
    pool.free_movable(movable).unwrap();
    assert!(pool.trim() > 0);
    while let Some(step) = pool.next_move(&mut pass) {
        step.commit().unwrap();
    }
    assert_eq!(pool.validate(), Ok(()));
}
