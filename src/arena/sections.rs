//! Time, cut where a lifetime starts or ends: between two cuts the same buffers are alive.

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
        let mut cuts: Vec<i64> = buffers.iter().flat_map(|buffer| [buffer.lower, buffer.upper]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let section = |moment: i64| cuts.partition_point(|&cut| cut < moment);
        let ranges: Vec<_> = buffers.iter().map(|buffer| section(buffer.lower)..section(buffer.upper)).collect();
        // Differences first: a buffer may span all sections.
        let mut changes = vec![0_i64; cuts.len()];
        for (range, buffer) in ranges.iter().zip(buffers) {
            changes[range.start] += buffer.size as i64;
            changes[range.end] -= buffer.size as i64;
        }
        let alive = changes.iter().scan(0_i64, |alive, change| {
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
