//! A [`Recorder`]: what is recorded of one source of allocations, a pool or a manager's accounting, under the lock that
//! its source holds anyway.

use std::collections::HashMap;
use std::sync::Arc;

use super::histogram::CachedHistogram;
use super::recording::{RawRecording, Recording, Totals};
use super::ring::{Action, Interner, Label, Ring};
use super::sampler::Sampler;
use super::{clock, Profiler};
use crate::handle::Handle;
use crate::units::MemoryKind;

/// See the module's header.
#[derive(Debug)]
pub struct Recorder {
    profiler: Arc<Profiler>,
    ring: Ring,
    interner: Interner,
    sizes: CachedHistogram,
    frees: u64,
    bytes_freed: u64,
    sampler: Sampler,
    /// What is sampled and lives, by what its source calls it.
    samples: HashMap<Key, Handle>,
    /// What is said of an event of which nothing else is.
    label: Label,
}

/// How a source names an allocation: two numbers.
pub type Key = (u64, u64);

impl Recorder {
    /// What `profiler` records of a source whose events are of `kind`, with that tag and pool unless they say
    /// otherwise.
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

    /// What an event is of that is not of the source's own.
    pub fn label(&mut self, kind: MemoryKind, tag: Option<&Arc<str>>, pool: Option<&Arc<str>>) -> Label {
        Label::new(self.interner.of(tag), self.interner.of(pool), kind)
    }

    /// What the source's own events are of, under that tag if there is one.
    pub fn label_of(&mut self, tag: Option<&Arc<str>>) -> Label {
        match tag {
            Some(_) => self.label.tagged(self.interner.of(tag)),
            None => self.label,
        }
    }

    /// Whose it is.
    pub fn profiler(&self) -> &Arc<Profiler> {
        &self.profiler
    }

    /// An allocation succeeded. Whether it is one to look at more closely: then [`sampled`](Self::sampled) is called.
    #[inline]
    pub fn allocated(&mut self, id: u64, size: u64, label: Option<Label>) -> bool {
        self.push(Action::Allocate, id, size, label);
        self.sizes.count(size);
        self.sampler.passes_mark(size)
    }

    /// The allocation that just succeeded is sampled, under the name `key`. JavaScript is to say where in the program
    /// it was.
    #[cold]
    pub fn sampled(&mut self, key: Key, size: u64, tag: Option<Arc<str>>) {
        let stands_for = self.sampler.hit(size, clock::exact());
        let tag = tag.or_else(|| self.interner.text(self.label.tag()).cloned());
        let id = self.profiler.sampled(size, stands_for, tag);
        self.samples.insert(key, id);
    }

    /// An allocation ended.
    #[inline(always)]
    pub fn ended(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.push(action, id, size, label);
        self.frees += 1;
        self.bytes_freed += size;
    }

    /// What is called `key` ended, if it is sampled.
    #[cold]
    pub fn sample_ended(&mut self, key: Key) {
        if let Some(sample) = self.samples.remove(&key) {
            self.profiler.sites().freed(sample);
        }
    }

    /// Something else happened.
    pub fn note(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.push(action, id, size, label);
    }

    /// Without a label it is the source's own.
    #[inline(always)]
    fn push(&mut self, action: Action, id: u64, size: u64, label: Option<Label>) {
        self.ring.push(action, clock::now(), id, size, label.as_ref().unwrap_or(&self.label));
    }

    /// A sampled allocation has another name from here on. Whether it is sampled.
    pub fn renamed(&mut self, from: Key, to: Key) -> bool {
        match self.samples.remove(&from) {
            Some(sample) => self.samples.insert(to, sample).is_none(),
            None => false,
        }
    }

    /// The sample that is called `key`.
    pub fn sample(&self, key: Key) -> Option<Handle> {
        self.samples.get(&key).copied()
    }

    /// Everything that is sampled and lives.
    pub fn samples(&self) -> impl Iterator<Item = (Key, Handle)> + '_ {
        self.samples.iter().map(|(key, sample)| (*key, *sample))
    }

    /// What was recorded until now, with the events if they are wanted: copied, for whoever holds its source's lock.
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
