//! The events, sizes and counts that one or several sources of allocations recorded.

use super::histogram::Histogram;
use super::ring::{Event, Interner, Ring};

/// Counts since profiling began, with bytes as requested.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Allocations that succeeded.
    pub allocations: u64,
    /// Allocations that were freed or collected.
    pub frees: u64,
    /// Bytes allocated.
    pub bytes_allocated: u64,
    /// Bytes freed.
    pub bytes_freed: u64,
}

/// A [`Recording`] with packed events, as copied from the ring.
#[derive(Debug)]
pub struct RawRecording {
    pub(super) events: Option<(Ring, Interner)>,
    pub(super) figures: Recording,
}

impl RawRecording {
    /// Decodes the events.
    pub fn read(self) -> Recording {
        let events = self.events.map_or_else(Vec::new, |(ring, interner)| ring.read(&interner).collect());
        Recording { events, ..self.figures }
    }
}

/// The recording of one source, or of several merged ones.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// Events by time; empty if the caller asked for none.
    pub events: Vec<Event>,
    /// The number of events in the rings.
    pub kept: u64,
    /// The number of events that the rings dropped.
    pub dropped: u64,
    /// Requested sizes of all allocations, in bytes.
    pub sizes: Histogram,
    /// Counts of allocations and bytes.
    pub totals: Totals,
}

impl Recording {
    /// Adds another recording, and keeps the latest `capacity` events.
    pub fn merge(&mut self, other: Self, capacity: usize) {
        self.events.extend(other.events);
        // Stable: events of one source with equal times stay in order.
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
