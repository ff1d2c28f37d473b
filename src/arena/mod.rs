//! Static planning of an arena: places buffers with known lifetimes, so that those alive together do not overlap.
//! Pure arithmetic; imports the root alone.
//!
//! Finding the least arena is NP-hard. [`plan`] tries several orders of first fit, then a complete search with restarts
//! (`search.rs`, and `bounds.rs` for what it may leave out) below the best size so far, until the caller's budget ends
//! or the lower bound is reached. A plan is valid whenever it ends.
//!
//! ```
//! use rkllmjs_memory::arena::{plan, Goal, Lifetime};
//!
//! let buffer = |lower, upper, size| Lifetime { lower, upper, size, alignment: 1 };
//! let buffers = [buffer(0, 2, 64), buffer(1, 3, 32), buffer(2, 4, 64)];
//! let plan = plan(&buffers, Goal::default(), &mut || true)?;
//! assert_eq!((plan.size, plan.is_least()), (96, true));
//! assert_eq!(plan.offsets[0], plan.offsets[2], "the first and the last are never alive together");
//! # Ok::<(), rkllmjs_memory::error::Error>(())
//! ```
#![forbid(unsafe_code)]

mod bounds;
mod buffers;
mod first_fit;
mod order;
mod search;
mod sections;

use crate::error::{Error, ErrorCode, Result};
pub use buffers::{Goal, Lifetime, Plan};
use order::{Orders, Random};
use search::{Outcome, Search};
use sections::Sections;

/// The most buffers of a plan: first fit takes time in proportion to their square.
pub const MAX_BUFFERS: usize = 20_000;

/// The most buffers for which the complete search runs: its depth is their number.
const MAX_SEARCHED: usize = 1_000;

/// Steps of the first restarts of the search.
const STEPS: u64 = 1_000;

/// Places `buffers`. `goes_on` is called often, and ends the search for a smaller arena when it returns false.
///
/// Errors: `ERR_OUT_OF_RANGE` for more than [`MAX_BUFFERS`], a lifetime or size of nothing, an alignment that is no
/// power of two, and sizes whose sum exceeds 2^53.
pub fn plan(buffers: &[Lifetime], goal: Goal, goes_on: &mut dyn FnMut() -> bool) -> Result<Plan> {
    check(buffers)?;
    let sections = Sections::new(buffers);
    let orders = Orders::new(buffers, &sections);
    let mut best = Plan { offsets: Vec::new(), size: u64::MAX, lower_bound: sections.busiest() };
    for order in orders.fixed() {
        first_fit::improve(buffers, &order, &mut best);
        if best.size <= goal.capacity.unwrap_or(best.lower_bound) || !goes_on() {
            break;
        }
    }
    if buffers.len() <= MAX_SEARCHED {
        search(buffers, &sections, &orders, goal, goes_on, &mut best);
    }
    Ok(best)
}

/// Searches below the best size, with restarts. Most have a random order, and what the ones before learnt about the
/// buffers that are hard to place. A quarter of the steps goes to orders without chance, in ever longer runs.
fn search(
    buffers: &[Lifetime],
    sections: &Sections,
    orders: &Orders,
    goal: Goal,
    goes_on: &mut dyn FnMut() -> bool,
    best: &mut Plan,
) {
    let mut random = Random::new();
    let mut blame = vec![0.0; buffers.len()];
    let neighbours = sections.neighbours();
    let (mut random_runs, mut random_steps, mut sorted_runs, mut sorted_steps) = (0, 0, 0, 0);
    for restart in 1_u32.. {
        let enough = goal.capacity.unwrap_or(0).max(best.lower_bound);
        if best.size <= enough || !goes_on() {
            return;
        }
        // The least arena is unknown, or the goal may be out of reach: some restarts look half way.
        let halfway = restart % if goal.capacity.is_none() { 2 } else { 8 } == 0;
        let capacity = if halfway { enough + (best.size - 1 - enough) / 2 } else { enough };
        let (order, steps) = if sorted_steps <= random_steps / 3 {
            let run = (orders.sorted(sorted_runs), STEPS << (sorted_runs / Orders::SORTED).min(40));
            sorted_runs += 1;
            sorted_steps += run.1;
            run
        } else {
            random_runs += 1;
            random_steps += STEPS * luby(random_runs);
            (orders.random(&mut random, &blame), STEPS * luby(random_runs))
        };
        let mut search = Search::new(buffers, sections, &neighbours, capacity, &order);
        match search.run(steps, goes_on) {
            Outcome::Found(offsets) => {
                best.size = offsets.iter().zip(buffers).map(|(offset, buffer)| offset + buffer.size).max().unwrap_or(0);
                best.offsets = offsets;
            }
            Outcome::Impossible => best.lower_bound = best.lower_bound.max(capacity + 1),
            Outcome::OutOfSteps => {}
        }
        for (all, new) in blame.iter_mut().zip(search.blame()) {
            *all = *all * 0.95 + new / steps as f64;
        }
    }
}

/// Luby's sequence 1 1 2 1 1 2 4 ...: restarts of these lengths lose little against the best length, which is unknown.
fn luby(mut at: u32) -> u64 {
    loop {
        let bits = u32::BITS - at.leading_zeros();
        if at == u32::MAX >> at.leading_zeros() {
            return 1 << (bits - 1);
        }
        at -= (1 << (bits - 1)) - 1;
    }
}

fn check(buffers: &[Lifetime]) -> Result<()> {
    let refuse = |message: String| Err(Error::new(ErrorCode::OutOfRange, message));
    if buffers.len() > MAX_BUFFERS {
        return refuse(format!("{} buffers are more than the {MAX_BUFFERS} of one plan", buffers.len()));
    }
    let mut sum = 0_u64;
    for (at, &Lifetime { lower, upper, size, alignment }) in buffers.iter().enumerate() {
        if lower >= upper {
            return refuse(format!("buffers[{at}] lives from {lower} to {upper}: upper must be greater than lower"));
        }
        if size == 0 || !alignment.is_power_of_two() {
            let wanted = "the size must be at least 1, the alignment a power of two";
            return refuse(format!("buffers[{at}] has {size} bytes at a multiple of {alignment}: {wanted}"));
        }
        sum = sum.saturating_add(size.saturating_add(alignment));
    }
    match sum > 1 << 53 {
        true => refuse("the sizes and alignments add up to more than 2^53".to_owned()),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests;
