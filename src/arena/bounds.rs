//! Bounds of the offsets in a branch of the search: what the placed buffers leave to the others.
//!
//! Each buffer has a natural offset, the top of the highest placed one that lives with it, and a lowest offset, below
//! which no placement of the branch goes. Each section of time has a floor, below which no unplaced buffer can lie. The
//! three only rise along a branch; [`Bounds::take_back`] restores them at its end.

use super::buffers::Lifetime;
use super::sections::Sections;

/// The place of a buffer in the order of placing: by offset, then by rank.
pub type Turn = (u64, usize);

/// A change that the end of a branch takes back.
#[derive(Clone, Copy, Debug)]
enum Change {
    Placed(usize),
    Natural(usize, u64),
    Lowest(usize, u64),
    Support(usize, Option<Support>),
    Floor(usize, u64),
}

/// The unplaced buffer with the lowest top of those that live with another one.
#[derive(Clone, Copy, Debug)]
struct Support {
    buffer: usize,
    top: u64,
}

#[derive(Debug)]
pub struct Bounds<'a> {
    buffers: &'a [Lifetime],
    sections: &'a Sections,
    /// The buffers that live with each one.
    neighbours: &'a [Vec<usize>],
    capacity: u64,
    rank: Vec<usize>,
    placed: Vec<bool>,
    natural: Vec<u64>,
    /// The offset of each placed buffer, and the lowest offset of each unplaced one.
    lowest: Vec<u64>,
    /// The support of each buffer whose turn has passed, as far as it is known.
    supports: Vec<Option<Support>>,
    floors: Vec<u64>,
    /// Unplaced bytes of each section.
    unplaced_bytes: Vec<u64>,
    /// Unplaced buffers of each section.
    unplaced: Vec<Vec<usize>>,
    changes: Vec<Change>,
    /// Sections in which a placed buffer has raised the floor.
    raised: Vec<usize>,
    /// Sections whose lowest buffers may have risen, and whether a section is among them.
    stale: Vec<usize>,
    is_stale: Vec<bool>,
    /// How often a branch ended at each buffer.
    blame: Vec<f64>,
}

impl<'a> Bounds<'a> {
    /// Buffers of one offset are placed in the order of `order`.
    pub fn new(
        buffers: &'a [Lifetime],
        sections: &'a Sections,
        neighbours: &'a [Vec<usize>],
        capacity: u64,
        order: &[usize],
    ) -> Self {
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
            neighbours,
            capacity,
            rank,
            placed: vec![false; buffers.len()],
            natural: vec![0; buffers.len()],
            lowest: vec![0; buffers.len()],
            supports: vec![None; buffers.len()],
            floors: vec![0; sections.len()],
            unplaced_bytes,
            unplaced,
            changes: Vec::new(),
            raised: Vec::new(),
            stale: Vec::new(),
            is_stale: vec![false; sections.len()],
            blame: vec![0.0; buffers.len()],
        }
    }

    /// Returns the turn of an unplaced buffer at its natural offset.
    pub fn turn(&self, at: usize) -> Turn {
        (self.natural[at], self.rank[at])
    }

    /// Returns the lowest offset of each buffer: of placed ones, the offset.
    pub fn lowest(&self) -> &[u64] {
        &self.lowest
    }

    /// Returns how often a branch ended at each buffer.
    pub fn blame(&self) -> &[f64] {
        &self.blame
    }

    /// Returns whether no section has more bytes than the capacity.
    pub fn fit(&self) -> bool {
        self.unplaced_bytes.iter().all(|&bytes| bytes <= self.capacity)
    }

    /// Returns whether all buffers that live with `at` are placed.
    pub fn is_alone(&self, at: usize) -> bool {
        self.neighbours[at].iter().all(|&other| self.placed[other])
    }

    /// The state to which [`Self::take_back`] returns.
    pub const fn mark(&self) -> usize {
        self.changes.len()
    }

    /// Places a buffer at its natural offset. `rest` are the unplaced buffers of its part of the plan, which all follow
    /// in the order of placing. Returns false if one of them does not fit any more.
    pub fn place(&mut self, at: usize, rest: &[usize]) -> bool {
        let turn = self.turn(at);
        debug_assert!(self.lowest[at] <= turn.0, "a bound would exclude a placement that the search tries");
        let top = turn.0 + self.buffers[at].size;
        self.changes.extend([Change::Placed(at), Change::Lowest(at, self.lowest[at])]);
        self.placed[at] = true;
        self.lowest[at] = turn.0;
        for section in self.sections.of(at) {
            self.unplaced_bytes[section] -= self.buffers[at].size;
            self.unplaced[section].retain(|&other| other != at);
            self.raise_floor(section, top);
        }
        for &other in &self.neighbours[at] {
            let natural = top.next_multiple_of(self.buffers[other].alignment);
            if !self.placed[other] && self.natural[other] < natural {
                self.changes.push(Change::Natural(other, self.natural[other]));
                self.natural[other] = natural;
            }
        }
        let fits = self.lift(rest, turn);
        for &section in &self.stale {
            self.is_stale[section] = false;
        }
        self.stale.clear();
        self.raised.clear();
        fits
    }

    /// Raises all bounds until nothing moves. Returns false if something does not fit.
    fn lift(&mut self, rest: &[usize], turn: Turn) -> bool {
        loop {
            if !self.lift_to_floors() {
                return false;
            }
            let mut moved = false;
            for &at in rest.iter().filter(|&&at| self.turn(at) < turn).collect::<Vec<_>>() {
                match self.lift_to_support(at) {
                    Some(risen) => moved |= risen,
                    None => {
                        self.blame[at] += 1.0;
                        return false;
                    }
                }
            }
            if !moved {
                return true;
            }
        }
    }

    /// Lifts a buffer whose turn has passed. It cannot stay at its natural offset, so it will rest on a buffer that is
    /// not placed yet. Returns whether it rises; `None` if nothing is left that it could rest on, or it does not fit.
    fn lift_to_support(&mut self, at: usize) -> Option<bool> {
        let holds = |&Support { buffer, top }: &Support| {
            !self.placed[buffer] && self.lowest[buffer] + self.buffers[buffer].size == top
        };
        if self.supports[at].as_ref().is_some_and(holds) {
            return Some(false);
        }
        let support = (self.neighbours[at].iter().filter(|&&other| !self.placed[other]))
            .map(|&buffer| Support { buffer, top: self.lowest[buffer] + self.buffers[buffer].size })
            .min_by_key(|support| support.top)?;
        self.changes.push(Change::Support(at, self.supports[at]));
        self.supports[at] = Some(support);
        let offset = support.top.next_multiple_of(self.buffers[at].alignment);
        match offset > self.lowest[at] {
            true => self.lift_buffer(at, offset).then_some(true),
            false => Some(false),
        }
    }

    /// Lifts buffers to the floors, and floors to their lowest buffers. Returns false if something does not fit.
    fn lift_to_floors(&mut self) -> bool {
        loop {
            while let Some(section) = self.raised.pop() {
                let floor = self.floors[section];
                for index in 0..self.unplaced[section].len() {
                    let at = self.unplaced[section][index];
                    let offset = floor.next_multiple_of(self.buffers[at].alignment);
                    if self.lowest[at] < floor && !self.lift_buffer(at, offset) {
                        self.blame[at] += 1.0;
                        return false;
                    }
                }
            }
            let Some(section) = self.stale.pop() else { return true };
            self.is_stale[section] = false;
            let unplaced = &self.unplaced[section];
            let lowest = unplaced.iter().map(|&at| self.lowest[at]).min().unwrap_or(0);
            if lowest > self.floors[section] {
                self.changes.push(Change::Floor(section, self.floors[section]));
                self.floors[section] = lowest;
            }
            if self.floors[section] + self.unplaced_bytes[section] > self.capacity {
                let share = 1.0 / unplaced.len().max(1) as f64;
                for &at in unplaced {
                    self.blame[at] += share;
                }
                return false;
            }
        }
    }

    /// Lifts an unplaced buffer to an offset. Returns false if it does not fit there.
    fn lift_buffer(&mut self, at: usize, offset: u64) -> bool {
        let before = self.lowest[at];
        self.changes.push(Change::Lowest(at, before));
        self.lowest[at] = offset;
        for section in self.sections.of(at) {
            // The floor of a section rests on its lowest buffers alone.
            if before <= self.floors[section] {
                self.set_stale(section);
            }
        }
        offset + self.buffers[at].size <= self.capacity
    }

    fn raise_floor(&mut self, section: usize, floor: u64) {
        self.set_stale(section);
        if self.floors[section] < floor {
            self.changes.push(Change::Floor(section, self.floors[section]));
            self.floors[section] = floor;
            self.raised.push(section);
        }
    }

    fn set_stale(&mut self, section: usize) {
        if !self.is_stale[section] {
            self.is_stale[section] = true;
            self.stale.push(section);
        }
    }

    pub fn take_back(&mut self, mark: usize) {
        while self.changes.len() > mark {
            match self.changes.pop() {
                Some(Change::Natural(at, offset)) => self.natural[at] = offset,
                Some(Change::Lowest(at, offset)) => self.lowest[at] = offset,
                Some(Change::Support(at, support)) => self.supports[at] = support,
                Some(Change::Floor(section, floor)) => self.floors[section] = floor,
                Some(Change::Placed(at)) => {
                    self.placed[at] = false;
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
