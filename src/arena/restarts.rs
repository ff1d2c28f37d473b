//! Restarts of the search: many short ones in random orders, and ever longer ones in orders without chance.

use super::buffers::{Goal, Lifetime, Plan};
use super::groups::Groups;
use super::order::{Orders, Random};
use super::search::{Outcome, Search};
use super::sections::Sections;

/// Steps of the shortest restarts.
const STEPS: u64 = 1_000;

/// The lengths of restarts in random orders, by turns. A good order succeeds soon; after that another one is better.
const RANDOM_STEPS: [u64; 7] = [STEPS, STEPS, 2 * STEPS, STEPS, STEPS, 2 * STEPS, 4 * STEPS];

/// Searches below the best size. Buffers of one lifetime lie together in half of the steps: there are far fewer such
/// placements, and mostly one of them suffices.
pub fn search(
    buffers: &[Lifetime],
    sections: &Sections,
    orders: &Orders,
    goal: Goal,
    goes_on: &mut dyn FnMut() -> bool,
    best: &mut Plan,
) {
    let mut random = Random::new();
    let mut apart = Restarts::new(buffers, sections, orders);
    let groups = Groups::new(buffers);
    let of_groups = groups.as_ref().map(|groups| {
        let sections = Sections::new(&groups.buffers);
        let orders = Orders::new(&groups.buffers, &sections);
        (groups, sections, orders)
    });
    let mut together = of_groups
        .as_ref()
        .map(|(groups, sections, orders)| (*groups, Restarts::new(&groups.buffers, sections, orders)));
    loop {
        let enough = goal.capacity.unwrap_or(0).max(best.lower_bound);
        if best.size <= enough || !goes_on() {
            return;
        }
        // Without a goal, the size that suffices is mostly too small.
        let progress_every = if goal.capacity.is_none() { 2 } else { 8 };
        let wanted = Wanted { enough, below: best.size, progress_every };
        match &mut together {
            Some((groups, restarts)) if restarts.steps() <= apart.steps() && restarts.lower_bound < best.size => {
                if let Some(offsets) = restarts.run(wanted, &mut random, goes_on) {
                    best.replace(groups.offsets(&offsets), buffers);
                }
            }
            _ => {
                if let Some(offsets) = apart.run(wanted, &mut random, goes_on) {
                    best.replace(offsets, buffers);
                }
                best.lower_bound = best.lower_bound.max(apart.lower_bound);
            }
        }
    }
}

/// The sizes that a restart looks for.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    /// The size that suffices.
    enough: u64,
    /// The best size so far: smaller ones are progress.
    below: u64,
    /// One of so many restarts looks for progress, half way between the two.
    progress_every: u32,
}

/// The restarts for one list of buffers, and what they have learnt.
struct Restarts<'a> {
    buffers: &'a [Lifetime],
    sections: &'a Sections,
    orders: &'a Orders,
    neighbours: Vec<Vec<usize>>,
    /// How hard each buffer was to place.
    blame: Vec<f64>,
    /// No placement of these buffers is smaller, as far as the search has proved.
    lower_bound: u64,
    random: Runs,
    sorted: Runs,
}

/// Restarts of one kind.
#[derive(Default)]
struct Runs {
    count: u32,
    steps: u64,
}

impl<'a> Restarts<'a> {
    fn new(buffers: &'a [Lifetime], sections: &'a Sections, orders: &'a Orders) -> Self {
        Self {
            buffers,
            sections,
            orders,
            neighbours: sections.neighbours(),
            blame: vec![0.0; buffers.len()],
            lower_bound: 0,
            random: Runs::default(),
            sorted: Runs::default(),
        }
    }

    const fn steps(&self) -> u64 {
        self.random.steps + self.sorted.steps
    }

    /// Searches once more. Most restarts have a random order, and what the ones before learnt about the buffers that
    /// are hard to place. A quarter of the steps goes to orders without chance, in ever longer runs: one of them ends.
    fn run(&mut self, wanted: Wanted, random: &mut Random, goes_on: &mut dyn FnMut() -> bool) -> Option<Vec<u64>> {
        let enough = wanted.enough.max(self.lower_bound);
        let halfway = (self.random.count + self.sorted.count + 1).is_multiple_of(wanted.progress_every);
        let capacity = if halfway { enough + (wanted.below - 1 - enough) / 2 } else { enough };
        let (order, steps) = if self.sorted.steps <= self.random.steps / 3 {
            let steps = STEPS << (self.sorted.count / Orders::SORTED).min(40);
            let order = self.orders.sorted(self.sorted.count);
            self.sorted.add(steps);
            (order, steps)
        } else {
            let steps = RANDOM_STEPS[self.random.count as usize % RANDOM_STEPS.len()];
            self.random.add(steps);
            (self.orders.random(random, &self.blame), steps)
        };
        let mut search = Search::new(self.buffers, self.sections, &self.neighbours, capacity, &order);
        let outcome = search.run(steps, goes_on);
        for (all, new) in self.blame.iter_mut().zip(search.blame()) {
            *all = *all * 0.95 + new / steps as f64;
        }
        match outcome {
            Outcome::Found(offsets) => Some(offsets),
            Outcome::Impossible => {
                self.lower_bound = capacity + 1;
                None
            }
            Outcome::OutOfSteps => None,
        }
    }
}

impl Runs {
    const fn add(&mut self, steps: u64) {
        self.count = self.count.wrapping_add(1);
        self.steps += steps;
    }
}
