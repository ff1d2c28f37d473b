//! Static planning of an arena: places buffers with known lifetimes, so that those alive together do not overlap.
//! Pure arithmetic; imports the root alone.
//!
//! Finding the least arena is NP-hard. [`plan`] tries several orders of first fit, then a complete search
//! (`search.rs`, and `bounds.rs` for what it may leave out) with restarts (`restarts.rs`) below the best size so far,
//! until the caller's budget ends or the lower bound is reached. A plan is valid whenever it ends.
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
mod groups;
mod order;
mod restarts;
mod search;
mod sections;

use crate::error::{Error, ErrorCode, Result};
pub use buffers::{Goal, Lifetime, Plan};
use order::Orders;
use sections::Sections;

/// The most buffers of a plan: first fit takes time in proportion to their square.
pub const MAX_BUFFERS: usize = 20_000;

/// The most buffers for which the complete search runs: its depth is their number.
const MAX_SEARCHED: usize = 1_000;

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
        restarts::search(buffers, &sections, &orders, goal, goes_on, &mut best);
    }
    Ok(best)
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
