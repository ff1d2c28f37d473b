//! Time, cut into sections: after the first end that follows beginnings, before the next beginning.
//!
//! Two buffers share a section if and only if they are alive together, and every other set of buffers that are alive
//! at one moment is a part of a section's.

use std::ops::Range;

use super::buffers::Lifetime;

#[derive(Debug)]
pub struct Sections {
    /// The sections of each buffer.
    ranges: Vec<Range<usize>>,
    /// Bytes that are alive in each section.
    bytes: Vec<u64>,
}

impl Sections {
    pub fn new(buffers: &[Lifetime]) -> Self {
        // A lifetime ends just before `upper`: ends come before beginnings of the same moment.
        let ends = buffers.iter().enumerate().map(|(at, buffer)| (buffer.upper, false, at));
        let beginnings = buffers.iter().enumerate().map(|(at, buffer)| (buffer.lower, true, at));
        let mut events: Vec<(i64, bool, usize)> = ends.chain(beginnings).collect();
        events.sort_unstable();
        let mut ranges = vec![0..0; buffers.len()];
        let (mut section, mut has_begun) = (0, false);
        for (_, begins, at) in events {
            if begins {
                has_begun = true;
                ranges[at].start = section;
            } else {
                section += usize::from(has_begun);
                has_begun = false;
                ranges[at].end = section;
            }
        }
        // Differences first: a buffer may span all sections.
        let mut changes = vec![0_i64; section + 1];
        for (range, buffer) in ranges.iter().zip(buffers) {
            changes[range.start] += buffer.size as i64;
            changes[range.end] -= buffer.size as i64;
        }
        let alive = changes[..section].iter().scan(0_i64, |alive, change| {
            *alive += change;
            Some(*alive as u64)
        });
        let bytes = alive.collect();
        Self { ranges, bytes }
    }

    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    pub fn of(&self, buffer: usize) -> Range<usize> {
        self.ranges[buffer].clone()
    }

    /// Returns the buffers that live with each one.
    pub fn neighbours(&self) -> Vec<Vec<usize>> {
        let meets = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        let with = |at: usize| (0..self.ranges.len()).filter(move |&other| other != at);
        (0..self.ranges.len())
            .map(|at| with(at).filter(|&other| meets(&self.ranges[at], &self.ranges[other])).collect())
            .collect()
    }

    /// The most bytes that are alive at one moment: no arena is smaller.
    pub fn busiest(&self) -> u64 {
        self.bytes.iter().copied().max().unwrap_or(0)
    }

    /// The most bytes that are alive together with `buffer`, its own included.
    pub fn busiest_of(&self, buffer: usize) -> u64 {
        self.bytes[self.of(buffer)].iter().copied().max().unwrap_or(0)
    }
}
