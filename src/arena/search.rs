//! Search for a placement within a given capacity, complete if its steps suffice.
//!
//! A placement that is pushed down as far as it goes, and sorted by offset, places each buffer on a lower one or at 0.
//! So the search places buffers in the order of their offsets, each at the lowest offset that the placed ones leave.
//! It misses no placement. For each section of time it keeps a floor, below which no unplaced buffer can lie. A branch
//! ends when the floor and the unplaced bytes of a section exceed the capacity, or when a buffer does not fit any more.
//! Where no unplaced buffer is alive, the rest falls into parts, which are solved apart.

use std::ops::Range;

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

/// A change that the end of a branch takes back.
#[derive(Clone, Copy, Debug)]
enum Change {
    Offset(usize, u64),
    Floor(usize, u64),
    Placed(usize),
}

#[derive(Debug)]
pub struct Search<'a> {
    buffers: &'a [Lifetime],
    sections: &'a Sections,
    capacity: u64,
    /// The place of each buffer in the order: of buffers with one offset, the earlier is tried first.
    rank: Vec<usize>,
    /// The offset of each placed buffer, and the least offset of each unplaced one.
    offsets: Vec<u64>,
    floors: Vec<u64>,
    /// Unplaced bytes of each section.
    unplaced_bytes: Vec<u64>,
    /// Unplaced buffers of each section.
    unplaced: Vec<Vec<usize>>,
    changes: Vec<Change>,
    /// Sections whose floor has risen.
    risen: Vec<usize>,
    /// How often a branch ended at each buffer.
    blame: Vec<f64>,
    steps: u64,
}

impl<'a> Search<'a> {
    pub fn new(buffers: &'a [Lifetime], sections: &'a Sections, capacity: u64, order: &[usize]) -> Self {
        let mut rank = vec![0; buffers.len()];
        for (place, &at) in order.iter().enumerate() {
            rank[at] = place;
        }
        let mut unplaced = vec![Vec::new(); sections.len()];
        let mut unplaced_bytes = vec![0; sections.len()];
        for (at, buffer) in buffers.iter().enumerate() {
            for section in sections.of(at) {
                unplaced[section].push(at);
                unplaced_bytes[section] += buffer.size;
            }
        }
        Self {
            buffers,
            sections,
            capacity,
            rank,
            offsets: vec![0; buffers.len()],
            floors: vec![0; sections.len()],
            unplaced_bytes,
            unplaced,
            changes: Vec::new(),
            risen: Vec::new(),
            blame: vec![0.0; buffers.len()],
            steps: 0,
        }
    }

    /// Returns how often a branch ended at each buffer.
    pub fn blame(&self) -> &[f64] {
        &self.blame
    }

    /// Searches for at most `steps` steps.
    pub fn run(&mut self, steps: u64, goes_on: &mut dyn FnMut() -> bool) -> Outcome {
        if self.unplaced_bytes.iter().any(|&bytes| bytes > self.capacity) {
            return Outcome::Impossible;
        }
        self.steps = steps;
        let mut all: Vec<usize> = (0..self.buffers.len()).collect();
        all.sort_by_key(|&at| self.sections.of(at).start);
        match self.solve(&all, 0, goes_on) {
            Branch::Solved => Outcome::Found(std::mem::take(&mut self.offsets)),
            Branch::Failed => Outcome::Impossible,
            Branch::Stopped => Outcome::OutOfSteps,
        }
    }

    /// Solves the parts of `buffers`, which are sorted by their first section. All offsets are at least `last`.
    fn solve(&mut self, buffers: &[usize], last: u64, goes_on: &mut dyn FnMut() -> bool) -> Branch {
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

    fn solve_part(&mut self, part: &[usize], last: u64, goes_on: &mut dyn FnMut() -> bool) -> Branch {
        // A buffer above the top of another one may be left for later: that one fits below it.
        let top = part.iter().map(|&at| self.offsets[at] + self.buffers[at].size).min().unwrap_or(0);
        let mut candidates: Vec<_> = (part.iter().map(|&at| (self.offsets[at], self.rank[at], at)))
            .filter(|&(offset, ..)| offset >= last && offset < top)
            .collect();
        candidates.sort_unstable();
        for (offset, _, at) in candidates {
            if self.steps == 0 || self.steps.is_multiple_of(STEPS_BETWEEN_LOOKS) && !goes_on() {
                return Branch::Stopped;
            }
            self.steps -= 1;
            let mark = self.changes.len();
            if self.place(at, part) {
                let rest: Vec<usize> = part.iter().copied().filter(|&other| other != at).collect();
                match self.solve(&rest, offset, goes_on) {
                    Branch::Failed => {}
                    ended => return ended,
                }
                // All that live with this buffer are placed, so another place for it changes nothing for the others.
                if self.sections.of(at).all(|section| self.unplaced[section].is_empty()) {
                    self.take_back(mark);
                    return Branch::Failed;
                }
            }
            self.take_back(mark);
        }
        Branch::Failed
    }

    /// Places a buffer of `part` at its least offset. Returns false if the others do not fit any more.
    fn place(&mut self, at: usize, part: &[usize]) -> bool {
        let (offset, size) = (self.offsets[at], self.buffers[at].size);
        self.changes.push(Change::Placed(at));
        for section in self.sections.of(at) {
            self.unplaced_bytes[section] -= size;
            self.unplaced[section].retain(|&other| other != at);
        }
        self.risen.clear();
        for section in self.sections.of(at) {
            self.raise(section, offset + size);
        }
        // Later buffers of this part have no lower offset.
        let first = part.iter().map(|&other| self.sections.of(other).start).min().unwrap_or(0);
        let end = part.iter().map(|&other| self.sections.of(other).end).max().unwrap_or(0);
        for section in first..end {
            if !self.unplaced[section].is_empty() {
                self.raise(section, offset);
            }
        }
        self.lift()
    }

    /// Lifts buffers to the floors that have risen, and floors to their lowest buffers, until nothing moves. Returns
    /// false if something does not fit any more.
    fn lift(&mut self) -> bool {
        while let Some(section) = self.risen.pop() {
            let floor = self.floors[section];
            if floor + self.unplaced_bytes[section] > self.capacity {
                let share = 1.0 / self.unplaced[section].len().max(1) as f64;
                for &at in &self.unplaced[section] {
                    self.blame[at] += share;
                }
                return false;
            }
            for index in 0..self.unplaced[section].len() {
                let at = self.unplaced[section][index];
                let before = self.offsets[at];
                if before >= floor {
                    continue;
                }
                let Lifetime { size, alignment, .. } = self.buffers[at];
                let offset = floor.next_multiple_of(alignment);
                if offset + size > self.capacity {
                    self.blame[at] += 1.0;
                    return false;
                }
                self.changes.push(Change::Offset(at, before));
                self.offsets[at] = offset;
                for other in self.sections.of(at) {
                    // The floor of a section rests on its lowest buffers alone.
                    if before <= self.floors[other] {
                        let lowest = self.unplaced[other].iter().map(|&at| self.offsets[at]).min().unwrap_or(0);
                        self.raise(other, lowest);
                    }
                }
            }
        }
        true
    }

    fn raise(&mut self, section: usize, floor: u64) {
        let before = self.floors[section];
        if before < floor {
            self.changes.push(Change::Floor(section, before));
            self.floors[section] = floor;
            self.risen.push(section);
        }
    }

    fn take_back(&mut self, mark: usize) {
        while self.changes.len() > mark {
            match self.changes.pop() {
                Some(Change::Offset(at, offset)) => self.offsets[at] = offset,
                Some(Change::Floor(section, floor)) => self.floors[section] = floor,
                Some(Change::Placed(at)) => {
                    for section in self.sections.of(at) {
                        self.unplaced_bytes[section] += self.buffers[at].size;
                        self.unplaced[section].push(at);
                    }
                }
                None => return,
            }
        }
    }
}
