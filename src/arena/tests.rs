//! Tests of plans: valid pair by pair, as small as every order of first fit gives, and refused where wrong.
#![allow(clippy::unwrap_used)]

use super::groups::Groups;
use super::order::Random;
use super::*;

fn buffer(lower: i64, upper: i64, size: u64) -> Lifetime {
    Lifetime { lower, upper, size, alignment: 1 }
}

/// A budget of so many looks.
fn looks(mut count: u32) -> impl FnMut() -> bool {
    move || {
        count = count.saturating_sub(1);
        count > 0
    }
}

/// Checks a plan pair by pair.
fn assert_valid(buffers: &[Lifetime], plan: &Plan) {
    assert_eq!(plan.offsets.len(), buffers.len());
    assert!(plan.lower_bound <= plan.size);
    for (at, (a, &x)) in buffers.iter().zip(&plan.offsets).enumerate() {
        assert!(x % a.alignment == 0 && x + a.size <= plan.size);
        for (b, &y) in buffers.iter().zip(&plan.offsets).take(at) {
            let together = a.lower < b.upper && b.lower < a.upper;
            assert!(!together || x + a.size <= y || y + b.size <= x, "{a:?} at {x} and {b:?} at {y}");
        }
    }
}

/// The least arena, by trying all orders of first fit: some order gives it.
fn least(buffers: &[Lifetime]) -> u64 {
    fn orders(rest: Vec<usize>, order: &mut Vec<usize>, visit: &mut dyn FnMut(&[usize])) {
        if rest.is_empty() {
            visit(order);
        }
        for &at in &rest {
            order.push(at);
            orders(rest.iter().copied().filter(|&other| other != at).collect(), order, visit);
            order.pop();
        }
    }
    let mut best = Plan { offsets: Vec::new(), size: u64::MAX, lower_bound: 0 };
    orders((0..buffers.len()).collect(), &mut Vec::new(), &mut |order| {
        first_fit::improve(buffers, order, &mut best);
    });
    best.size
}

fn random_buffers(random: &mut Random, count: usize, sizes: u64) -> Vec<Lifetime> {
    let mut below = |limit: u64| (random.next() * limit as f64) as u64;
    (0..count)
        .map(|_| {
            let lower = below(12) as i64 - 6;
            let upper = lower + 1 + below(8) as i64;
            Lifetime { lower, upper, size: 1 + below(sizes), alignment: 1 << below(4) }
        })
        .collect()
}

#[test]
fn small_plans_are_the_least() {
    let mut random = Random::new();
    for round in 0..200 {
        let buffers = random_buffers(&mut random, 1 + round % 7, 20);
        let plan = plan(&buffers, Goal::default(), &mut looks(100_000)).unwrap();
        assert_valid(&buffers, &plan);
        assert!(plan.is_least(), "{buffers:?}");
        assert_eq!(plan.size, least(&buffers), "{buffers:?}");
    }
}

#[test]
fn a_thousand_random_plans_are_valid_and_within_five_per_cent_of_the_bound() {
    let mut random = Random::new();
    for round in 0..1000 {
        let mut buffers = random_buffers(&mut random, 10 + round % 60, 4096);
        buffers.iter_mut().for_each(|buffer| buffer.alignment = 1);
        let plan = plan(&buffers, Goal::default(), &mut looks(200)).unwrap();
        assert_valid(&buffers, &plan);
        assert!(plan.size * 100 <= plan.lower_bound * 105, "{} of {}: {buffers:?}", plan.size, plan.lower_bound);
    }
}

#[test]
fn a_packing_without_gaps_is_found() {
    // Cuts a rectangle of 64 moments and 4096 bytes at random: the pieces fit into it, without a gap.
    let mut random = Random::new();
    for _ in 0..20 {
        let mut pieces = vec![(0_i64, 64_i64, 0_u64, 4096_u64)];
        while pieces.len() < 30 {
            let (lower, upper, low, high) = pieces.swap_remove((random.next() * pieces.len() as f64) as usize);
            if random.next() < 0.5 && upper - lower > 1 {
                let cut = lower + 1 + (random.next() * (upper - lower - 1) as f64) as i64;
                pieces.extend([(lower, cut, low, high), (cut, upper, low, high)]);
            } else if high - low > 1 {
                let cut = low + 1 + (random.next() * (high - low - 1) as f64) as u64;
                pieces.extend([(lower, upper, low, cut), (lower, upper, cut, high)]);
            } else {
                pieces.push((lower, upper, low, high));
            }
        }
        let buffers: Vec<_> =
            pieces.iter().map(|&(lower, upper, low, high)| buffer(lower, upper, high - low)).collect();
        let plan = plan(&buffers, Goal { capacity: Some(4096) }, &mut looks(100_000)).unwrap();
        assert_valid(&buffers, &plan);
        assert_eq!(plan.size, 4096);
    }
}

#[test]
fn a_plan_without_a_budget_is_valid_too() {
    let mut random = Random::new();
    let buffers = random_buffers(&mut random, 2_000, 4096);
    let plan = plan(&buffers, Goal::default(), &mut || false).unwrap();
    assert_valid(&buffers, &plan);
}

#[test]
fn a_goal_ends_the_search() {
    let buffers = [buffer(0, 2, 4), buffer(1, 3, 4), buffer(2, 4, 4)];
    let mut looked = 0;
    let plan = plan(&buffers, Goal { capacity: Some(1 << 20) }, &mut || {
        looked += 1;
        true
    })
    .unwrap();
    assert_valid(&buffers, &plan);
    assert_eq!(looked, 0, "the first plan suffices");
}

#[test]
fn nothing_needs_no_arena() {
    let plan = plan(&[], Goal::default(), &mut || true).unwrap();
    assert_eq!((plan.size, plan.lower_bound, plan.offsets.len()), (0, 0, 0));
}

#[test]
fn invalid_lifetimes_are_refused() {
    let fails = |buffers: &[Lifetime]| plan(buffers, Goal::default(), &mut || true).unwrap_err().to_string();
    assert!(fails(&[buffer(3, 3, 1)]).contains("from 3 to 3"));
    assert!(fails(&[buffer(0, 1, 0)]).contains("0 bytes"));
    assert!(fails(&[Lifetime { alignment: 3, ..buffer(0, 1, 1) }]).contains("multiple of 3"));
    assert!(fails(&[buffer(0, 1, 1 << 53), buffer(0, 1, 1)]).contains("2^53"));
    assert!(fails(&vec![buffer(0, 1, 1); MAX_BUFFERS + 1]).contains("20000"));
}

#[test]
fn buffers_share_a_section_if_and_only_if_they_are_alive_together() {
    let mut random = Random::new();
    for _ in 0..100 {
        let buffers = random_buffers(&mut random, 12, 20);
        let sections = Sections::new(&buffers);
        for (at, a) in buffers.iter().enumerate() {
            for (other, b) in buffers.iter().enumerate() {
                let together = a.lower < b.upper && b.lower < a.upper;
                let shared = sections.of(at).any(|section| sections.of(other).contains(&section));
                assert_eq!(shared, together, "{a:?} and {b:?}");
            }
        }
        let alive = |moment: i64| buffers.iter().filter(move |buffer| (buffer.lower..buffer.upper).contains(&moment));
        let busiest = buffers.iter().map(|buffer| alive(buffer.lower).map(|buffer| buffer.size).sum::<u64>()).max();
        assert_eq!(Some(sections.busiest()), busiest);
    }
}

#[test]
fn buffers_of_one_lifetime_are_stacked() {
    let aligned = |size| Lifetime { alignment: 16, ..buffer(0, 2, size) };
    let buffers = [aligned(5), buffer(0, 2, 7), aligned(20), buffer(1, 2, 7), aligned(3), buffer(0, 2, 1)];
    let groups = Groups::new(&buffers).unwrap();
    // Three stacks: 5 at 0, 20 at 16 and 3 at 48; 7 and 1; 7.
    assert_eq!(groups.buffers.iter().map(|stack| stack.size).collect::<Vec<_>>(), [51, 8, 7]);
    assert_eq!(groups.offsets(&[64, 0, 9]), [64, 0, 80, 9, 112, 7]);
    assert!(Groups::new(&[buffer(0, 2, 7), buffer(1, 2, 7), aligned(7)]).is_none());
}
