//! Search for a placement within a given capacity, complete if its steps suffice.
//!
//! A placement that is pushed down as far as it goes has each buffer at 0 or on top of another one. So the search
//! places buffers by their turns: in the order of their offsets, and of their ranks where offsets are equal. Each goes
//! to its natural offset, which the placed ones leave. It misses no placement, and tries none in two orders: a buffer
//! whose turn has passed can only rest on one that is placed later. A branch ends when the bounds (`bounds.rs`) leave
//! no room for a buffer. Where no unplaced buffer is alive, the rest falls into parts, which are solved apart.

use std::ops::Range;

use super::bounds::{Bounds, Turn};
use super::buffers::Lifetime;
use super::sections::Sections;

/// Steps between two looks at the caller's budget.
const STEPS_BETWEEN_LOOKS: u64 = 256;

/// Result of a search.
#[derive(Debug)]
pub enum Outcome {
    /// The offsets of all buffers.
    Found(Vec<u64>),
    /// No placement exists.
    Impossible,
    /// The steps did not suffice, or the budget ended.
    OutOfSteps,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Branch {
    Solved,
    Failed,
    Stopped,
}

#[derive(Debug)]
pub struct Search<'a> {
    buffers: &'a [Lifetime],
    sections: &'a Sections,
    bounds: Bounds<'a>,
    steps: u64,
}

impl<'a> Search<'a> {
    pub fn new(
        buffers: &'a [Lifetime],
        sections: &'a Sections,
        neighbours: &'a [Vec<usize>],
        capacity: u64,
        order: &[usize],
    ) -> Self {
        Self { buffers, sections, bounds: Bounds::new(buffers, sections, neighbours, capacity, order), steps: 0 }
    }

    /// Returns how often a branch ended at each buffer.
    pub fn blame(&self) -> &[f64] {
        self.bounds.blame()
    }

    /// Searches for at most `steps` steps.
    pub fn run(&mut self, steps: u64, goes_on: &mut dyn FnMut() -> bool) -> Outcome {
        if !self.bounds.fit() {
            return Outcome::Impossible;
        }
        self.steps = steps;
        let mut all: Vec<usize> = (0..self.buffers.len()).collect();
        all.sort_by_key(|&at| self.sections.of(at).start);
        match self.solve(&all, (0, 0), goes_on) {
            Branch::Solved => Outcome::Found(self.bounds.lowest().to_vec()),
            Branch::Failed => Outcome::Impossible,
            Branch::Stopped => Outcome::OutOfSteps,
        }
    }

    /// Solves the parts of `buffers`, which are sorted by their first section. No turn before `last` comes again.
    fn solve(&mut self, buffers: &[usize], last: Turn, goes_on: &mut dyn FnMut() -> bool) -> Branch {
        for part in self.parts(buffers) {
            match self.solve_part(&buffers[part], last, goes_on) {
                Branch::Solved => {}
                unsolved => return unsolved,
            }
        }
        Branch::Solved
    }

    /// Cuts `buffers` where none of them is alive; the smallest part first.
    fn parts(&self, buffers: &[usize]) -> Vec<Range<usize>> {
        let mut parts = Vec::new();
        let (mut start, mut end) = (0, 0);
        for (index, &at) in buffers.iter().enumerate() {
            let sections = self.sections.of(at);
            if index > start && sections.start >= end {
                parts.push(start..index);
                start = index;
            }
            end = end.max(sections.end);
        }
        if start < buffers.len() {
            parts.push(start..buffers.len());
        }
        parts.sort_by_key(|part| part.len());
        parts
    }

    fn solve_part(&mut self, part: &[usize], last: Turn, goes_on: &mut dyn FnMut() -> bool) -> Branch {
        let mut turns: Vec<(Turn, usize)> =
            part.iter().map(|&at| (self.bounds.turn(at), at)).filter(|&(turn, _)| turn >= last).collect();
        // A buffer above the top of another one waits: the other would fit below it.
        let top = turns.iter().map(|&((offset, _), at)| offset + self.buffers[at].size).min().unwrap_or(0);
        turns.retain(|&((offset, _), _)| offset < top);
        turns.sort_unstable();
        for (turn, at) in turns {
            if self.steps == 0 || self.steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && !goes_on() {
                return Branch::Stopped;
            }
            self.steps -= 1;
            let mark = self.bounds.mark();
            let rest: Vec<usize> = part.iter().copied().filter(|&other| other != at).collect();
            if self.bounds.place(at, &rest) {
                match self.solve(&rest, turn, goes_on) {
                    Branch::Failed => {}
                    ended => return ended,
                }
                // Another place for this buffer changes nothing for the others.
                if self.bounds.is_alone(at) {
                    self.bounds.take_back(mark);
                    return Branch::Failed;
                }
            }
            self.bounds.take_back(mark);
        }
        Branch::Failed
    }
}
