//! [`Recorder`]: records the events, sizes and samples of one source of allocations, a pool or a manager's accounting.

use std::collections::HashMap;
use std::sync::Arc;

use super::histogram::CachedHistogram;
use super::recording::{RawRecording, Recording, Totals};
use super::ring::{Action, Interner, Label, Ring};
use super::sampler::Sampler;
use super::{clock, Profiler};
use crate::handle::Handle;
use crate::units::MemoryKind;

/// Records the allocations of one source, under the lock that the source holds anyway.
#[derive(Debug)]
pub struct Recorder {
    profiler: Arc<Profiler>,
    ring: Ring,
    interner: Interner,
    sizes: CachedHistogram,
    frees: u64,
    bytes_freed: u64,
    sampler: Sampler,
    /// Live samples by the source's key.
    samples: HashMap<Key, Handle>,
    /// The label of events without one of their own.
    label: Label,
}

/// The two numbers by which a source names an allocation.
pub type Key = (u64, u64);

impl Recorder {
    /// Makes a recorder for `profiler`. Events without a label of their own have this kind, tag and pool.
    pub fn new(profiler: &Arc<Profiler>, kind: MemoryKind, tag: Option<&Arc<str>>, pool: Option<&Arc<str>>) -> Self {
        let mut interner = Interner::default();
        let label = Label::new(interner.of(tag), interner.of(pool), kind);
        Self {
            ring: Ring::new(profiler.options.event_capacity),
            sampler: Sampler::new(profiler.options.sample_interval, profiler.seed()),
            profiler: Arc::clone(profiler),
            sizes: CachedHistogram::default(),
            frees: 0,
            bytes_freed: 0,
            samples: HashMap::new(),
            interner,
            label,
        }
    }

    /// Makes the label of an event that differs from the source's own.
    pub fn label(&mut self, kind: MemoryKind, tag: Option<&Arc<str>>, pool: Option<&Arc<str>>) -> Label {
        Label::new(self.interner.of(tag), self.interner.of(pool), kind)
    }

    /// Returns the source's own label, with its tag replaced by `tag` if there is one.
    pub fn label_of(&mut self, tag: Option<&Arc<str>>) -> Label {
        match tag {
            Some(_) => self.label.tagged(self.interner.of(tag)),
            None => self.label,
        }
    }

    /// Returns the profiler that this recorder belongs to.
    pub fn profiler(&self) -> &Arc<Profiler> {
        &self.profiler
    }

    /// Records an allocation. Returns whether it is to be sampled; the caller then calls [`sampled`](Self::sampled).
    #[inline]
    pub fn allocated(&mut self, id: u64, size: u64, label: Option<Label>) -> bool {
        self.push(Action::Allocate, id, size, label);
        self.sizes.count(size);
        self.sampler.passes_mark(size)
    }

    /// Samples the allocation that was just recorded, under the name `key`. Its stack is pending until
    /// [`CallSites::attribute`](super::CallSites::attribute).
    #[cold]
    pub fn sampled(&mut self, key: Key, size: u64, tag: Option<Arc<str>>) {
        let stands_for = self.sampler.hit(size, clock::exact());
        let tag = tag.or_else(|| self.interner.text(self.label.tag()).cloned());
        let id = self.profiler.sampled(size, stands_for, tag);
        self.samples.insert(key, id);
    }

    /// Records the end of an allocation: a free or a collection.
    #[inline(always)]
    pub fn ended(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.push(action, id, size, label);
        self.frees += 1;
        self.bytes_freed += size;
    }

    /// Ends the sample of the allocation `key`, if there is one.
    #[cold]
    pub fn sample_ended(&mut self, key: Key) {
        if let Some(sample) = self.samples.remove(&key) {
            self.profiler.sites().freed(sample);
        }
    }

    /// Records an event that neither begins nor ends an allocation.
    pub fn note(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.push(action, id, size, label);
    }

    /// Adds an event to the ring, by default with the source's own label.
    #[inline(always)]
    fn push(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.ring.push(action, clock::now(), id, size, label.as_ref().unwrap_or(&self.label));
    }

    /// Changes the key of an allocation. Returns whether the allocation is sampled.
    pub fn renamed(&mut self, from: Key, to: Key) -> bool {
        match self.samples.remove(&from) {
            Some(sample) => self.samples.insert(to, sample).is_none(),
            None => false,
        }
    }

    /// Returns the sample of the allocation `key`.
    pub fn sample(&self, key: Key) -> Option<Handle> {
        self.samples.get(&key).copied()
    }

    /// Iterates over all live samples with their keys.
    pub fn samples(&self) -> impl Iterator<Item = (Key, Handle)> + '_ {
        self.samples.iter().map(|(key, sample)| (*key, *sample))
    }

    /// Copies the recording so far, with the raw events on request. Cheap enough for the source's lock; the caller
    /// decodes the copy after unlocking.
    pub fn copy(&self, with_events: bool) -> RawRecording {
        let sizes = self.sizes.read();
        let totals = Totals {
            allocations: sizes.len(),
            frees: self.frees,
            // Exact: a sum of whole numbers, below 2^53.
            bytes_allocated: sizes.sum() as u64,
            bytes_freed: self.bytes_freed,
        };
        let figures =
            Recording { events: Vec::new(), kept: self.ring.kept(), dropped: self.ring.dropped(), sizes, totals };
        RawRecording { events: with_events.then(|| (self.ring.clone(), self.interner.clone())), figures }
    }
}
