//! Tests of the runs: the figure is that of a walk over all regions, and later requests for it do not walk.

use std::time::Duration;

use super::*;
use crate::pool::testing::{pool_of, ONE_MIB};
use crate::pool::{visits, Layout, Pool, ReuseDelay, SliceRequest};
use crate::profile::Action;
use crate::units::MIB;

fn pool(chunk: u64, after: Duration) -> Pool {
    pool_of(Layout { initial: chunk, max: 4 * chunk, chunk, ..ONE_MIB }).with_reuse(ReuseDelay { after, turns: None })
}

const LONG: Duration = Duration::from_secs(1000);

/// The largest run of free and waiting regions, by a walk over all regions.
fn walked(pool: &Pool) -> u64 {
    let state = pool.state();
    let mut largest = 0;
    for (_, chunk) in state.chunks.iter() {
        let mut run = 0;
        for region in crate::suballoc::regions(&*chunk.arena) {
            let is_free = !region.used || chunk.flags.waiting.has(region.id.slot());
            run = if is_free { run + region.size } else { 0 };
            largest = largest.max(run);
        }
    }
    largest
}

/// Every change of a region updates the runs: requests with and without alignment, frees, waits and their ends, moves
/// and cancelled moves, resets and trims. `validate` compares all runs with those of the regions.
#[test]
fn the_largest_run_is_that_of_a_walk_after_every_change() {
    let pool = pool(64 * 1024, LONG);
    let mut seed = 5_u64;
    let mut random = |below: u64| {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) % below
    };
    let (mut live, mut movable) = (Vec::new(), Vec::new());
    let (mut kept, mut moves) = (0, 0);
    for step in 0..6_000 {
        match random(20) {
            0..=7 => {
                let request = SliceRequest::new(64 + random(900), 64 << (random(12) / 8 * random(4)));
                live.extend(pool.request(request).ok());
            }
            8..=9 => {
                if let Ok((id, _)) = pool.allocate_movable(64 + random(900), 64, None) {
                    // A view makes its old place wait after a move.
                    pool.set_view(id, (random(2) == 0).then(|| Handle::from_raw(1)));
                    movable.push(id);
                }
            }
            10..=12 if !live.is_empty() => {
                let slice: crate::pool::Slice = live.swap_remove(random(live.len() as u64) as usize);
                pool.free(slice.chunk, slice.region).unwrap();
            }
            13..=15 if !live.is_empty() => {
                let slice: crate::pool::Slice = live.swap_remove(random(live.len() as u64) as usize);
                pool.free_seen(slice.chunk, slice.region, Action::Free).unwrap();
            }
            16 if !movable.is_empty() => {
                let id = movable.swap_remove(random(movable.len() as u64) as usize);
                pool.free_movable(id).unwrap();
            }
            17 => {
                pool.end_oldest_wait();
            }
            18 => {
                let mut pass = pool.start_pass().unwrap();
                for _ in 0..random(6) {
                    let Some(found) = pool.next_fill(&mut pass) else { break };
                    moves += 1;
                    match random(3) {
                        0 => drop(found),
                        _ => drop(found.commit().unwrap()),
                    }
                }
                if random(40) == 0 {
                    let step = pool.next_slide(&mut pass);
                    step.into_iter().for_each(|step| assert!(step.commit().is_ok()));
                }
            }
            _ if step % 700 == 0 => {
                pool.reset(|_| true).unwrap();
                (live, movable) = (Vec::new(), Vec::new());
            }
            _ => {}
        }
        kept += usize::from(pool.state().runs.is_some());
        assert_eq!((pool.stats().largest_free, pool.validate()), (walked(&pool), Ok(())), "step {step}");
    }
    assert!(kept > 4_000 && moves > 300, "runs were kept in {kept} steps, and {moves} moves were found");
}

/// Counts looks, not time.
#[test]
fn statistics_look_at_no_slice_that_waits_but_the_first_time() {
    let pool = pool(MIB, LONG);
    let slices: Vec<_> = (0..8_000).map(|_| pool.allocate(64, 64).unwrap()).collect();
    let free = |slice: &crate::pool::Slice| pool.free_seen(slice.chunk, slice.region, Action::Free).unwrap();
    slices.iter().step_by(2).for_each(free);
    visits::take();
    pool.stats();
    assert!(visits::take() >= 4_000, "the first look");
    for slice in slices.iter().skip(1).step_by(2).take(100) {
        free(slice);
        pool.end_oldest_wait();
        pool.allocate(64, 64).unwrap();
        assert_eq!(pool.stats().largest_free, walked(&pool));
        let visits = visits::take();
        assert!(visits < 20, "{visits} looks");
    }
    assert_eq!(pool.validate(), Ok(()));
}

/// Each line breaks the agreement of runs and regions; a check that cannot fail proves nothing.
#[test]
fn check_finds_damage() {
    let damages: &[fn(&mut Runs)] = &[
        |runs| runs.ends.clear(),
        |runs| runs.sizes.clear(),
        |runs| runs.ends.values_mut().for_each(|end| *end += 64),
        |runs| runs.insert(Handle::from_raw(9), 0, 64),
    ];
    for (number, damage) in damages.iter().enumerate() {
        let pool = pool(MIB, LONG);
        let slice = pool.allocate(64, 64).unwrap();
        pool.allocate(64, 64).unwrap();
        pool.free_seen(slice.chunk, slice.region, Action::Free).unwrap();
        pool.stats();
        assert_eq!(pool.validate(), Ok(()));
        damage(pool.state().runs.as_mut().unwrap());
        assert!(pool.validate().is_err(), "damage {number} went unnoticed");
    }
}
