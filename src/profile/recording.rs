//! What was recorded of one source of allocations, or of several: events, sizes and counts.

use super::histogram::Histogram;
use super::ring::{Event, Interner, Ring};

/// Counts since profiling began. Bytes are those that were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Allocations that ended.
    pub frees: u64,
    /// Bytes allocated.
    pub bytes_allocated: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
}

/// A [`Recording`] whose events lie as the ring has them.
#[derive(Debug)]
pub struct RawRecording {
    pub(super) events: Option<(Ring, Interner)>,
    pub(super) figures: Recording,
}

impl RawRecording {
    /// With the events as they are read.
    pub fn read(self) -> Recording {
        let events = self.events.map_or_else(Vec::new, |(ring, interner)| ring.read(&interner).collect());
        Recording { events, ..self.figures }
    }
}

/// What was recorded of one source, or of several.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// By time; empty where they were not wanted.
    pub events: Vec<Event>,
    /// How many there are.
    pub kept: u64,
    /// Events that fell out.
    pub dropped: u64,
    /// Sizes of all allocations, in bytes.
    pub sizes: Histogram,
    /// Counts.
    pub totals: Totals,
}

impl Recording {
    /// Adds another one; of the events the latest `capacity` stay.
    pub fn merge(&mut self, other: Self, capacity: usize) {
        self.events.extend(other.events);
        // Stable: events of one source stay in their order where the clock did not go on between them.
        self.events.sort_by_key(|event| event.time);
        let surplus = self.events.len().saturating_sub(capacity);
        self.events.drain(..surplus);
        let all = self.kept + self.dropped + other.kept + other.dropped;
        self.kept = (self.kept + other.kept).min(capacity as u64);
        self.dropped = all - self.kept;
        self.sizes.merge(&other.sizes);
        self.totals.allocations += other.totals.allocations;
        self.totals.frees += other.totals.frees;
        self.totals.bytes_allocated += other.totals.bytes_allocated;
        self.totals.bytes_freed += other.totals.bytes_freed;
    }
}
