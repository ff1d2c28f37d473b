//! Per-manager accounting: usage counters, limits and warnings.
//!
//! **Admit, act, commit.** Bytes are admitted under the limits before a driver is asked ([`Account::admit`]), and the
//! [`Admission`] becomes a counted holding when they are there, or is forgotten when it drops. Admitting is one step
//! under one lock: what is in use and under way never passes a limit by a byte, and a request that does not fit
//! changes nothing, so that it never makes another one fail.
//!
//! Nothing is called and nothing is formatted under the lock.
#![forbid(unsafe_code)]

mod accounts;
mod budget;
mod counters;
mod limit;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::{Action, Key, Profiler, RawRecording, Recorder, Recording};
use crate::sync::{Mutex, MutexGuard};
use crate::units::MemoryKind;

use accounts::{AccountingState, GlobalLimits, View};
pub use accounts::{Accounts, TaggedCounters};
pub use budget::{Budget, Charge};
pub use counters::Counters;
pub use limit::{Limit, Limits, Scope, Warning, WARN_AT};

static NOTIFICATIONS: AtomicU32 = AtomicU32::new(0);

/// Warnings that are kept until they are taken; beyond that the oldest are dropped.
const MAX_PENDING_WARNINGS: usize = 256;

/// Counts the warnings and samples of this process: while it does not change, there is nothing new to read.
pub fn notifications() -> &'static AtomicU32 {
    &NOTIFICATIONS
}

/// Counts a warning or a sample that JavaScript should read.
pub fn notify() {
    NOTIFICATIONS.fetch_add(1, Ordering::Release);
}

/// See the module's header. Every allocation holds its manager's accounting, which outlives the manager until the last
/// of them ends.
#[derive(Debug, Default)]
pub struct Accounting {
    state: Mutex<AccountingState>,
    warnings: Mutex<VecDeque<Warning>>,
}

/// Where bytes are counted. A slice of a pool is only counted by its tag: its pool's chunk counts the memory.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub accounting: Arc<Accounting>,
    /// As that kind of memory.
    pub kind: Option<MemoryKind>,
    /// Under that tag.
    pub tag: Option<Arc<str>>,
}

/// What is recorded of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct AllocationEvent<'a> {
    /// Bytes that were asked for.
    pub size: u64,
    /// Of which memory.
    pub kind: MemoryKind,
    /// Under which tag.
    pub tag: Option<&'a Arc<str>>,
    /// In which pool.
    pub pool: Option<&'a Arc<str>>,
}

/// Bytes that an allocation may take; forgotten when dropped.
#[derive(Debug)]
#[must_use]
pub struct Admission {
    account: Account,
    bytes: u64,
}

/// Bytes that are counted until this drops.
#[derive(Debug)]
pub struct CountedBytes {
    account: Account,
    bytes: u64,
}

impl Drop for CountedBytes {
    fn drop(&mut self) {
        self.account.view(&mut self.account.accounting.state()).each(|counters| counters.freed(self.bytes));
    }
}

impl Accounting {
    /// An empty one, for a device with these domains.
    pub fn new(domains: &[Arc<Budget>]) -> Arc<Self> {
        let watched = |budget: &Arc<Budget>| (Arc::clone(budget), Limit::new(Some(budget.limit()), &WARN_AT));
        let domains = domains.iter().map(watched).collect();
        Arc::new(Self {
            state: Mutex::new(AccountingState { domains, ..AccountingState::default() }),
            warnings: Mutex::default(),
        })
    }

    /// Records what happens from here on, or nothing any more. What was recorded goes to its profiler.
    pub fn record(&self, profiler: Option<&Arc<Profiler>>) {
        // Every event says of which memory it is.
        let recorder = profiler.map(|profiler| Box::new(Recorder::new(profiler, MemoryKind::Npu, None, None)));
        let before = std::mem::replace(&mut self.state().recorder, recorder);
        if let Some(recorder) = before {
            recorder.profiler().absorb(recorder.copy(true));
        }
    }

    /// What was recorded since, with the events if they are wanted.
    pub fn recording(&self, with_events: bool) -> Option<Recording> {
        let copy = self.state().recorder.as_ref().map(|recorder| recorder.copy(with_events));
        copy.map(RawRecording::read)
    }

    /// The samples of what lives, by allocation.
    pub fn samples(&self) -> HashMap<Handle, Handle> {
        let state = self.state();
        let samples = state.recorder.iter().flat_map(|recorder| recorder.samples());
        samples.map(|((_, id), sample)| (Handle::from_raw(id), sample)).collect()
    }

    /// The sample of that allocation.
    pub fn sample(&self, id: Handle) -> Option<Handle> {
        self.state().recorder.as_ref().and_then(|recorder| recorder.sample(key(id)))
    }

    /// The warnings since the last time.
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.warnings().drain(..).collect()
    }

    /// Reads the figures. `read` runs under their lock: no calls out of it.
    pub fn read<T>(&self, read: impl FnOnce(&Accounts) -> T) -> T {
        read(&self.state().accounts)
    }

    /// Changes limits, and warns of those that are near already.
    pub fn set_limits(&self, change: Limits) {
        let Limits { npu, system, total, tags } = change;
        let warnings = {
            let mut state = self.state();
            let GlobalLimits { npu: own_npu, system: own_system, total: own_total } = &mut state.global;
            for (limit, change) in [(own_npu, npu), (own_system, system), (own_total, total)] {
                if let Some(change) = change {
                    *limit = change;
                }
            }
            for (tag, limit) in tags {
                Accounts::tag(&mut state.accounts.tags, &tag).limit = limit;
            }
            let tags: Vec<_> = state.accounts.tags.keys().cloned().map(Some).collect();
            let kinds = [(Some(MemoryKind::Npu), None), (Some(MemoryKind::System), None)].into_iter();
            let all = kinds.chain(tags.into_iter().map(|tag| (None, tag)));
            let mut warnings: Vec<_> = all.flat_map(|(kind, tag)| state.view(kind, tag.as_ref()).check(0).1).collect();
            state.check_domains(Some(MemoryKind::Npu), &mut warnings);
            warnings
        };
        self.publish(warnings);
    }

    /// The most there may be of that kind, and what still fits under every limit it is under.
    pub fn limit_and_room(&self, kind: MemoryKind) -> (Option<u64>, u64) {
        let mut state = self.state();
        let own = match kind {
            MemoryKind::Npu => state.global.npu.max(),
            MemoryKind::System => state.global.system.max(),
        };
        let mut room = u64::MAX;
        state.view(Some(kind), None).each_limit(|limit, _, usage| room = room.min(limit.room(usage.committed)));
        (own, room)
    }

    /// Lets nothing be added from here on, and says what is live. The second time nothing is.
    pub fn close(&self) -> Vec<Handle> {
        let mut state = self.state();
        state.accounts.closed = true;
        state.accounts.live.iter().copied().collect()
    }

    /// Something came near its maximum.
    pub fn warn(&self, warning: Warning) {
        self.publish(vec![warning]);
    }

    /// A pool ended: what its slices were counts on.
    pub fn pool_ended(&self, kind: MemoryKind, allocations: u64, failures: u64) {
        let mut state = self.state();
        let counters = state.accounts.kind(kind);
        counters.allocations += allocations;
        counters.frees += allocations;
        counters.failures += failures;
    }

    fn publish(&self, warnings: Vec<Warning>) {
        if warnings.is_empty() {
            return;
        }
        let mut waiting = self.warnings();
        waiting.extend(warnings);
        let surplus = waiting.len().saturating_sub(MAX_PENDING_WARNINGS);
        waiting.drain(..surplus);
        drop(waiting);
        notify();
    }

    fn warnings(&self) -> MutexGuard<'_, VecDeque<Warning>> {
        self.warnings.lock()
    }

    fn state(&self) -> MutexGuard<'_, AccountingState> {
        self.state.lock()
    }
}

impl Account {
    /// Takes room for `bytes` under every limit they are under, or refuses and changes nothing.
    ///
    /// Errors: `ERR_MEMORY_LIMIT`, `ERR_MANAGER_DISPOSED`.
    pub fn admit(&self, bytes: u64) -> Result<Admission> {
        self.take_room(bytes)?;
        Ok(Admission { account: self.clone(), bytes })
    }

    /// Bytes of an allocation went. How it came to that is recorded, unless that is somebody else's to do.
    pub fn freed(&self, id: Handle, bytes: u64, event: Option<(Action, AllocationEvent<'_>)>) {
        let mut state = self.accounting.state();
        self.view(&mut state).each(|counters| counters.freed(bytes));
        state.accounts.live.remove(&id);
        if let (Some(recorder), Some((how, event))) = (&mut state.recorder, event) {
            let label = recorder.label(event.kind, event.tag, event.pool);
            recorder.ended(how, id.get(), event.size, Some(label));
            recorder.sample_ended(key(id));
        }
    }

    /// Bytes that stood for no allocation went: a pool's chunk.
    pub fn chunk_freed(&self, bytes: u64) {
        self.view(&mut self.accounting.state()).each(|counters| counters.resized(-(bytes as i64)));
    }

    /// Bytes that were set aside are not any more.
    pub fn release_set_aside(&self, bytes: u64) {
        self.view(&mut self.accounting.state()).each(|counters| counters.set_aside -= bytes);
    }

    /// A request for `size` bytes was refused.
    pub fn failed(&self, size: u64) {
        let mut state = self.accounting.state();
        self.view(&mut state).each(Counters::failed);
        if let (Some(recorder), Some(kind)) = (&mut state.recorder, self.kind) {
            let label = recorder.label(kind, self.tag.as_ref(), None);
            recorder.note(Action::Fail, 0, size, Some(label));
        }
    }

    /// What the account counts under.
    #[inline(always)]
    fn view<'a>(&'a self, state: &'a mut AccountingState) -> View<'a> {
        state.view(self.kind, self.tag.as_ref())
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        let (outcome, warnings) = {
            let mut state = self.accounting.state();
            let closed = state.accounts.closed;
            let mut view = self.view(&mut state);
            // What others took or gave back since the last time is news too.
            let (refused, mut warnings) = view.check(bytes);
            let outcome = match refused {
                Some(refused) => Err(Some(refused)),
                None if closed => Err(None),
                None => {
                    view.each(|counters| counters.in_flight += bytes);
                    Ok(())
                }
            };
            state.check_domains(self.kind, &mut warnings);
            (outcome, warnings)
        };
        self.accounting.publish(warnings);
        outcome.map_err(|refused| refused.map_or_else(disposed, |refused| refused.error(bytes)))
    }
}

impl Admission {
    /// Makes sure that there is room for `bytes` in all: a driver may have taken more than was asked of it.
    ///
    /// Errors: those of [`Account::admit`]; what was admitted stays.
    pub fn cover(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.bytes {
            self.account.take_room(bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// The bytes are there, as the allocation `id`, and are recorded unless that is somebody else's to do. False when
    /// the accounting was closed meanwhile: it has to end at once.
    pub fn allocated(self, id: Handle, bytes: u64, event: Option<AllocationEvent<'_>>) -> bool {
        let (open, sampled) = self.commit_as(
            |counters| counters.allocated(bytes),
            |AccountingState { accounts, recorder, .. }| {
                accounts.live.insert(id);
                let sampled = recorder.as_mut().zip(event).is_some_and(|(recorder, event)| {
                    let label = recorder.label(event.kind, event.tag, event.pool);
                    let hit = recorder.allocated(id.get(), event.size, Some(label));
                    if hit {
                        recorder.sampled(key(id), event.size, event.tag.cloned());
                    }
                    hit
                });
                (!accounts.closed, sampled)
            },
        );
        if sampled {
            notify();
        }
        open
    }

    /// The bytes are there and stand for no allocation: a pool's chunk.
    pub fn commit_chunk(self) {
        let bytes = self.bytes as i64;
        self.commit_as(|counters| counters.resized(bytes), |_| {});
    }

    /// The bytes are there, for as long as what is returned.
    pub fn commit(self) -> CountedBytes {
        let counted = CountedBytes { account: self.account.clone(), bytes: self.bytes };
        self.commit_as(|counters| counters.allocated(counted.bytes), |_| {});
        counted
    }

    /// The bytes are somebody else's to take.
    pub fn set_aside(self) {
        let bytes = self.bytes;
        self.commit_as(|counters| counters.set_aside += bytes, |_| {});
    }

    /// Whose.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What was admitted is under way no more, `count` says what it is now, and `then` what else is to be done under
    /// the lock.
    fn commit_as<T>(mut self, count: impl Fn(&mut Counters), then: impl FnOnce(&mut AccountingState) -> T) -> T {
        let (result, warnings) = {
            let bytes = std::mem::take(&mut self.bytes);
            let mut state = self.account.accounting.state();
            let mut view = self.account.view(&mut state);
            view.each(|counters| {
                counters.in_flight -= bytes;
                count(counters);
            });
            let (_, mut warnings) = view.check(0);
            state.check_domains(self.account.kind, &mut warnings);
            (then(&mut state), warnings)
        };
        self.account.accounting.publish(warnings);
        result
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.account.accounting.state();
            self.account.view(&mut state).each(|counters| counters.in_flight -= self.bytes);
        }
    }
}

fn key(id: Handle) -> Key {
    (0, id.get())
}

fn disposed() -> Error {
    Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed")
}
