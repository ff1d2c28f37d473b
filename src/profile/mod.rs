//! Profiling: recorded events, samples with their call sites, and histograms. Imports only the root.
//!
//! Each source of allocations (a pool, a manager's accounting) owns a [`Recorder`], and changes it under the lock that
//! the source holds anyway. So recording costs a pool a few nanoseconds: 24 bytes into a ring, a count in a histogram,
//! a subtraction for the sampler. Without a recorder the cost is one comparison. The recorders of one manager share a
//! [`Profiler`], which keeps the stack and the lifetime of each sample.
//!
//! The stack of a sample comes from JavaScript: [`Profiler::pending`] counts the samples of the calling thread that
//! still need one.
//!
//! ```
//! use rkllmjs_memory::profile::Histogram;
//!
//! let mut sizes = Histogram::default();
//! sizes.count(4096, 99);
//! sizes.count(1 << 20, 1);
//! let summary = sizes.summary();
//! assert_eq!((summary.count, summary.min, summary.max), (100, 4096, 1 << 20));
//! assert_eq!((summary.p50, summary.p999), (4096, 1 << 20));
//! assert_eq!(summary.buckets, [(4096, 99), (1 << 20, 1)]);
//! ```
#![forbid(unsafe_code)]

mod call_sites;
pub mod clock;
mod histogram;
mod recorder;
mod recording;
mod ring;
mod sampler;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::time::SystemTime;

use crate::handle::Handle;
use crate::sync::{Mutex, MutexGuard};
pub use call_sites::{CallSite, CallSites};
pub use histogram::{Histogram, HistogramSummary};
pub use recorder::{Key, Recorder};
pub use recording::{RawRecording, Recording, Totals};
pub use ring::{Action, Event, Label};

/// Options of a profile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Mean bytes between two samples; 1 samples every allocation.
    pub sample_interval: u64,
    /// The number of events kept by each source, and by all sources together.
    pub event_capacity: usize,
}

/// The state that the recorders of one manager share.
#[derive(Debug)]
pub struct Profiler {
    number: u64,
    options: Options,
    /// The start, in µs of [`clock`] and by the calendar.
    began: (u64, SystemTime),
    sites: Mutex<CallSites>,
    /// Durations of allocations, in ns.
    latencies: Mutex<Histogram>,
    /// The recordings of sources that ended.
    past: Mutex<Recording>,
    /// The end, in µs of [`clock`].
    ended: Mutex<Option<u64>>,
}

/// A finished or running profile, as read by [`Profiler::profile`].
#[derive(Clone, Debug)]
pub struct Profile {
    /// The start, by the calendar.
    pub began: SystemTime,
    /// The duration, in µs.
    pub lasted: u64,
    /// Events, sizes and counts of all sources. The events' times are µs since the start.
    pub recording: Recording,
    /// Lifetimes of freed samples, in µs.
    pub lifetimes: Histogram,
    /// Durations of allocations, in ns.
    pub latencies: Histogram,
    /// Estimates by call site.
    pub sites: Vec<CallSite>,
}

thread_local! {
    /// Samples of this thread that have no stack yet, with their profiler's number.
    static PENDING: RefCell<Vec<(u64, Handle)>> = const { RefCell::new(Vec::new()) };
}

/// The most samples that wait for a stack: a Rust caller that never attributes them must not leak.
const MAX_PENDING: usize = 64;

impl Profiler {
    /// Starts a profile.
    pub fn new(options: Options) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            options,
            began: (clock::exact(), SystemTime::now()),
            sites: Mutex::default(),
            latencies: Mutex::default(),
            past: Mutex::default(),
            ended: Mutex::default(),
        })
    }

    /// Returns the options of the profile.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Counts the samples of this thread that need a stack.
    pub fn pending(&self) -> usize {
        PENDING.with_borrow(|pending| pending.iter().filter(|(of, _)| *of == self.number).count())
    }

    /// Returns the samples that [`pending`](Self::pending) counts. They are no longer pending.
    pub fn take_pending(&self) -> Vec<Handle> {
        PENDING.with_borrow_mut(|pending| {
            let (own, others) = pending.iter().partition(|(of, _)| *of == self.number);
            let own: Vec<(u64, Handle)> = own;
            *pending = others;
            own.into_iter().map(|(_, sample)| sample).collect()
        })
    }

    /// Locks the samples and call sites.
    pub fn sites(&self) -> MutexGuard<'_, CallSites> {
        self.sites.lock()
    }

    /// Records that an allocation took `ns`, counted `times` times.
    pub fn record_latency(&self, ns: u64, times: u64) {
        self.latencies.lock().count(ns.max(1), times);
    }

    /// Keeps the recording of a source that ended.
    pub fn absorb(&self, recorded: RawRecording) {
        self.past.lock().merge(recorded.read(), self.options.event_capacity);
    }

    /// Ends the profile.
    pub fn end(&self) {
        self.ended.lock().get_or_insert_with(clock::exact);
    }

    /// Returns the profile: the recordings of ended sources, merged with those of the live `sources`. `with_events`
    /// says whether the latter include events.
    pub fn profile(&self, sources: Vec<Recording>, with_events: bool) -> Profile {
        let mut recording = self.past.lock().clone();
        if !with_events {
            recording.events.clear();
        }
        for source in sources {
            recording.merge(source, self.options.event_capacity);
        }
        let (began, calendar) = self.began;
        for event in &mut recording.events {
            event.time = event.time.saturating_sub(began);
        }
        let ended = *self.ended.lock();
        let sites = self.sites();
        Profile {
            began: calendar,
            lasted: ended.unwrap_or_else(clock::exact).saturating_sub(began),
            recording,
            lifetimes: sites.lifetimes().clone(),
            latencies: self.latencies.lock().clone(),
            sites: sites.list().to_vec(),
        }
    }

    /// Converts the time of a sample, in µs of [`clock`], to calendar time.
    pub fn calendar(&self, at: u64) -> SystemTime {
        let (began, calendar) = self.began;
        calendar + std::time::Duration::from_micros(at.saturating_sub(began))
    }

    fn sampled(&self, size: u64, stands_for: f64, tag: Option<Arc<str>>) -> Handle {
        let id = self.sites().sampled(size, stands_for, tag);
        PENDING.with_borrow_mut(|pending| {
            if pending.len() >= MAX_PENDING {
                pending.remove(0);
            }
            pending.push((self.number, id));
        });
        id
    }

    /// Returns a seed for a sampler. No two samplers get the same marks.
    fn seed(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
        let nanos = self.began.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        NEXT.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed) ^ nanos
    }
}
