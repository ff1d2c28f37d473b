//! Profiling: what was allocated, when, how long it lived, and who did it.
//!
//! Recording is done by a [`Recorder`] that each source of allocations (a pool, a manager's accounting) owns and
//! changes under the lock that it holds anyway, so that it costs a pool a few nanoseconds: 24 bytes into a ring, a
//! count in a histogram, a subtraction for the sampler. Off, it is one comparison with nothing. What few samples need,
//! their stack and their lifetime, is kept in the [`Profiler`] that the recorders of one manager share.
//!
//! A sample's stack is JavaScript's to tell: [`Profiler::pending`] says on the thread that allocated what there is to
//! tell of.
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

/// How a manager is profiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Options {
    /// Mean bytes between two samples; 1 samples everything.
    pub sample_interval: u64,
    /// Events that are kept of each source, and of all together.
    pub event_capacity: usize,
}

/// What the recorders of one manager share. See the module's header.
#[derive(Debug)]
pub struct Profiler {
    number: u64,
    options: Options,
    /// When it began, in µs of [`clock`] and by the calendar.
    began: (u64, SystemTime),
    sites: Mutex<CallSites>,
    /// How long allocations took, in ns.
    latencies: Mutex<Histogram>,
    /// Of sources that are gone.
    past: Mutex<Recording>,
    /// When it ended.
    ended: Mutex<Option<u64>>,
}

/// Everything that was recorded.
#[derive(Clone, Debug)]
pub struct Profile {
    /// When it began.
    pub began: SystemTime,
    /// For how long, in µs.
    pub lasted: u64,
    /// Events, sizes and counts of all sources. The events' times are µs since it began.
    pub recording: Recording,
    /// How long samples lived, in µs.
    pub lifetimes: Histogram,
    /// How long allocations took, in ns.
    pub latencies: Histogram,
    /// Who allocated.
    pub sites: Vec<CallSite>,
}

thread_local! {
    /// Samples of this thread of which nobody has told the stack.
    static PENDING: RefCell<Vec<(u64, Handle)>> = const { RefCell::new(Vec::new()) };
}

/// Where nobody tells, in Rust, they must not add up.
const MAX_PENDING: usize = 64;

impl Profiler {
    /// Begins.
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

    /// How.
    pub fn options(&self) -> Options {
        self.options
    }

    /// How many samples this thread took, of which it has to tell the stack.
    pub fn pending(&self) -> usize {
        PENDING.with_borrow(|pending| pending.iter().filter(|(of, _)| *of == self.number).count())
    }

    /// Those samples; they are told of from here on.
    pub fn take_pending(&self) -> Vec<Handle> {
        PENDING.with_borrow_mut(|pending| {
            let (own, others) = pending.iter().partition(|(of, _)| *of == self.number);
            let own: Vec<(u64, Handle)> = own;
            *pending = others;
            own.into_iter().map(|(_, sample)| sample).collect()
        })
    }

    /// Samples and call sites.
    pub fn sites(&self) -> MutexGuard<'_, CallSites> {
        self.sites.lock()
    }

    /// An allocation took `ns`, and `times` of its like were not measured.
    pub fn record_latency(&self, ns: u64, times: u64) {
        self.latencies.lock().count(ns.max(1), times);
    }

    /// A source is gone, or is not recorded any more.
    pub fn absorb(&self, recorded: RawRecording) {
        self.past.lock().merge(recorded.read(), self.options.event_capacity);
    }

    /// Nothing is recorded from here on.
    pub fn end(&self) {
        self.ended.lock().get_or_insert_with(clock::exact);
    }

    /// Everything that was recorded, with what the sources still have, and with the events if those have theirs.
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

    /// When a sample was taken, by the calendar.
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

    /// For a sampler: no two of them see the same marks.
    fn seed(&self) -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0x9E37_79B9_7F4A_7C15);
        let nanos = self.began.1.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
        NEXT.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed) ^ nanos
    }
}
