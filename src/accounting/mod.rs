//! Per-manager accounting: usage counters, limits and warnings. Imports `profile` and the root.
//!
//! **Admit, act, commit.** [`Account::admit`] admits bytes under the limits before a driver is asked. The [`Admission`]
//! is committed once the memory exists, and dropping it cancels it. Admission is one step under one lock, so the bytes
//! in use and in flight never exceed a limit. A request that does not fit changes nothing, so it makes no other request
//! fail.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rkllmjs_memory::accounting::{Account, Accounting, Limit, Limits, WARN_AT};
//! use rkllmjs_memory::units::MemoryKind;
//!
//! let accounting = Accounting::new(&[]);
//! accounting.set_limits(Limits { npu: Some(Limit::new(Some(100), &WARN_AT)), ..Limits::default() });
//! let account = Account { accounting: Arc::clone(&accounting), kind: Some(MemoryKind::Npu), tag: None };
//!
//! let counted = account.admit(90)?.commit();
//! assert_eq!(accounting.read(|accounts| accounts.npu.used), 90);
//! assert_eq!(accounting.take_warnings()[0].used, 90, "80 per cent of the limit are in use");
//! assert_eq!(account.admit(11).unwrap_err().code().as_str(), "ERR_MEMORY_LIMIT");
//!
//! drop(counted);
//! drop(account.admit(100)?);
//! assert_eq!(accounting.read(|accounts| accounts.npu.committed()), 0);
//! # Ok::<(), rkllmjs_memory::error::Error>(())
//! ```
//!
//! No callback and no formatting runs under the lock.
#![forbid(unsafe_code)]

mod accounts;
mod budget;
mod counters;
mod limit;
mod tag_account;
mod tag_sweep;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::profile::{Action, Key, Profiler, RawRecording, Recorder, Recording};
use crate::sync::{Mutex, MutexGuard};
use crate::units::MemoryKind;

pub use accounts::Accounts;
use accounts::{AccountingState, GlobalLimits, View};
pub use budget::{Budget, Charge, Refused};
pub use counters::Counters;
pub use limit::{Limit, Limits, Scope, Warning, WARN_AT};
pub use tag_account::{TagAccount, TagRefused};

static NOTIFICATIONS: AtomicU32 = AtomicU32::new(0);

/// The most warnings kept until they are taken; the oldest are dropped first.
const MAX_PENDING_WARNINGS: usize = 256;

/// Returns the count of warnings and samples in this process. While the count stays the same, there is nothing to read.
pub fn notifications() -> &'static AtomicU32 {
    &NOTIFICATIONS
}

/// Tells JavaScript that there is a warning or a sample to read.
pub fn notify() {
    NOTIFICATIONS.fetch_add(1, Ordering::Release);
}

/// The accounting of one manager. Every allocation holds it, so it outlives the manager until the last allocation ends.
#[derive(Debug, Default)]
pub struct Accounting {
    state: Mutex<AccountingState>,
    warnings: Mutex<VecDeque<Warning>>,
    caller_retries: AtomicBool,
}

/// The counters of an [`Accounting`] to which an allocation's bytes belong.
#[derive(Clone, Debug)]
pub struct Account {
    /// The manager's accounting.
    pub accounting: Arc<Accounting>,
    /// The kind of memory. `None` for a slice of a pool, whose memory is counted with the pool's chunk.
    pub kind: Option<MemoryKind>,
    /// The allocation's tag.
    pub tag: Option<Arc<str>>,
}

/// The description of an allocation for the profile.
#[derive(Clone, Copy, Debug)]
pub struct AllocationEvent<'a> {
    /// The allocation's id.
    pub id: AllocationId,
    /// Bytes requested.
    pub size: u64,
    /// The kind of memory.
    pub kind: MemoryKind,
    /// The allocation's tag.
    pub tag: Option<&'a Arc<str>>,
    /// The pool's name.
    pub pool: Option<&'a Arc<str>>,
}

/// Admitted bytes, in flight until they are committed. Dropping an admission cancels it.
#[derive(Debug)]
#[must_use]
pub struct Admission {
    account: Account,
    bytes: u64,
}

/// Counted bytes. Dropping the value counts their free.
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
    /// Makes the accounting of a device with these IOMMU domains.
    pub fn new(domains: &[Arc<Budget>]) -> Arc<Self> {
        let watched = |budget: &Arc<Budget>| (Arc::clone(budget), Limit::new(Some(budget.limit()), &WARN_AT));
        let domains = domains.iter().map(watched).collect();
        Arc::new(Self {
            state: Mutex::new(AccountingState { domains, ..AccountingState::default() }),
            warnings: Mutex::default(),
            caller_retries: AtomicBool::new(false),
        })
    }

    /// Leaves the count of refusals for exhaustion to the caller, who reclaims memory and tries again. The caller
    /// counts one refusal ([`Account::failed`]) once the last try has failed. So one request is one refusal.
    pub fn let_caller_retry(&self) {
        self.caller_retries.store(true, Ordering::Relaxed);
    }

    /// Returns whether the caller may try again after `error`, and counts the refusal itself.
    pub fn caller_counts(&self, error: &Error) -> bool {
        error.code().is_exhaustion() && self.caller_retries.load(Ordering::Relaxed)
    }

    /// Starts to record for `profiler`, or stops with `None`. The previous recording goes to its profiler.
    pub fn record(&self, profiler: Option<&Arc<Profiler>>) {
        // The default kind does not matter: every event here has a label.
        let recorder = profiler.map(|profiler| Box::new(Recorder::new(profiler, MemoryKind::Npu, None, None)));
        let before = std::mem::replace(&mut self.state().recorder, recorder);
        if let Some(recorder) = before {
            recorder.profiler().absorb(recorder.copy(true));
        }
    }

    /// Returns the recording so far, with the events on request, or `None` if nothing records.
    pub fn recording(&self, with_events: bool) -> Option<Recording> {
        let copy = self.state().recorder.as_ref().map(|recorder| recorder.copy(with_events));
        copy.map(RawRecording::read)
    }

    /// Returns the samples of live allocations, by allocation.
    pub fn samples(&self) -> HashMap<Handle, Handle> {
        let state = self.state();
        let samples = state.recorder.iter().flat_map(|recorder| recorder.samples());
        samples.map(|((_, handle), sample)| (Handle::from_raw(handle), sample)).collect()
    }

    /// Returns the sample of the allocation `handle`.
    pub fn sample(&self, handle: Handle) -> Option<Handle> {
        self.state().recorder.as_ref().and_then(|recorder| recorder.sample(key(handle)))
    }

    /// Takes the warnings since the last call.
    pub fn take_warnings(&self) -> Vec<Warning> {
        self.warnings().drain(..).collect()
    }

    /// Reads the figures. `read` runs under the lock, so it must not call out of this room.
    pub fn read<T>(&self, read: impl FnOnce(&Accounts) -> T) -> T {
        read(&self.state().accounts)
    }

    /// Changes limits, and warns of those that are nearly reached already.
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
            // Tags that keep their limit have warned already, when they came near to it.
            let mut warnings = Vec::new();
            for (tag, limit) in tags {
                state.tag(&tag).state().limit = limit;
                warnings.extend(state.view(None, Some(&tag)).check(0).1);
            }
            for kind in [MemoryKind::Npu, MemoryKind::System] {
                warnings.extend(state.view(Some(kind), None).check(0).1);
            }
            state.check_domains(Some(MemoryKind::Npu), &mut warnings);
            warnings
        };
        self.publish(warnings);
    }

    /// Returns the account of a tag. It counts as used until the caller drops it.
    pub fn tag(&self, tag: &Arc<str>) -> Arc<TagAccount> {
        Arc::clone(self.state().tag(tag))
    }

    /// Returns the limit of that kind, and the bytes that still fit under every limit that applies.
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

    /// Returns the limit of both kinds together, if there is one.
    pub fn total_limit(&self) -> Option<u64> {
        self.state().global.total.max()
    }

    /// Refuses all further allocations, and returns the live ones.
    pub fn close(&self) -> Vec<Handle> {
        let mut state = self.state();
        state.accounts.closed = true;
        state.accounts.live.iter().copied().collect()
    }

    /// Publishes a warning.
    pub fn warn(&self, warning: Warning) {
        self.publish(vec![warning]);
    }

    /// Adds the counts of a destroyed pool, so that the totals keep them.
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
    /// Admits `bytes` under every limit that applies, or refuses and changes nothing.
    ///
    /// Errors: `ERR_MEMORY_LIMIT`, `ERR_MANAGER_DISPOSED`.
    pub fn admit(&self, bytes: u64) -> Result<Admission> {
        self.take_room(bytes)?;
        Ok(Admission { account: self.clone(), bytes })
    }

    /// Counts that an allocation was freed, and records `event`. `None` if the pool records it.
    pub fn freed(&self, handle: Handle, bytes: u64, event: Option<(Action, AllocationEvent<'_>)>) {
        let mut state = self.accounting.state();
        self.view(&mut state).each(|counters| counters.freed(bytes));
        state.accounts.live.remove(&handle);
        if let (Some(recorder), Some((how, event))) = (&mut state.recorder, event) {
            let label = recorder.label(event.kind, event.tag, event.pool);
            recorder.ended(how, event.id.get(), event.size, Some(label));
            recorder.sample_ended(key(handle));
        }
    }

    /// Counts that a pool's chunk was freed.
    pub fn chunk_freed(&self, bytes: u64) {
        self.view(&mut self.accounting.state()).each(|counters| counters.resized(-(bytes as i64)));
    }

    /// Counts that a reservation ended.
    pub fn release_set_aside(&self, bytes: u64) {
        self.view(&mut self.accounting.state()).each(|counters| counters.set_aside -= bytes);
    }

    /// Counts that a request for `size` bytes was refused with `error`, unless the caller counts it.
    #[cold]
    pub fn refused(&self, size: u64, error: &Error) {
        if !self.accounting.caller_counts(error) {
            self.failed(size);
        }
    }

    /// Counts and records that a request for `size` bytes was refused.
    pub fn failed(&self, size: u64) {
        let mut state = self.accounting.state();
        self.view(&mut state).each(Counters::failed);
        if let (Some(recorder), Some(kind)) = (&mut state.recorder, self.kind) {
            let label = recorder.label(kind, self.tag.as_ref(), None);
            recorder.note(Action::Fail, 0, size, Some(label));
        }
    }

    #[inline(always)]
    fn view<'a>(&'a self, state: &'a mut AccountingState) -> View<'a> {
        state.view(self.kind, self.tag.as_ref())
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        let (outcome, warnings) = {
            let mut state = self.accounting.state();
            let closed = state.accounts.closed;
            let mut view = self.view(&mut state);
            // Warnings are due even for a refused request: other accounts may have changed the counters meanwhile.
            let (refused, mut warnings) = view.check(bytes);
            let outcome = match refused {
                Some(refused) => Err(Some(refused)),
                None if closed => Err(None),
                None => {
                    view.each(|counters| counters.in_flight += bytes);
                    Ok(())
                }
            };
            drop(view);
            state.check_domains(self.kind, &mut warnings);
            (outcome, warnings)
        };
        self.accounting.publish(warnings);
        outcome.map_err(|refused| refused.map_or_else(disposed, |refused| refused.error(bytes)))
    }
}

impl Admission {
    /// Raises the admission to `bytes` in all, for a driver that allocated more than requested.
    ///
    /// Errors: those of [`Account::admit`]; the earlier admission stays.
    pub fn cover(&mut self, bytes: u64) -> Result<()> {
        if bytes > self.bytes {
            self.account.take_room(bytes - self.bytes)?;
            self.bytes = bytes;
        }
        Ok(())
    }

    /// Commits the bytes as the allocation `handle`, and records `event`; `None` if the pool records it. Returns false
    /// if the accounting was closed meanwhile: the caller then frees the allocation at once.
    pub fn allocated(self, handle: Handle, bytes: u64, event: Option<AllocationEvent<'_>>) -> bool {
        let (open, sampled) = self.commit_as(
            |counters| counters.allocated(bytes),
            |AccountingState { accounts, recorder, .. }| {
                accounts.live.insert(handle);
                let sampled = recorder.as_mut().zip(event).is_some_and(|(recorder, event)| {
                    let label = recorder.label(event.kind, event.tag, event.pool);
                    let hit = recorder.allocated(event.id.get(), event.size, Some(label));
                    if hit {
                        recorder.sampled(key(handle), event.size, event.tag.cloned());
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

    /// Commits the bytes as a pool's chunk, which is no allocation.
    pub fn commit_chunk(self) {
        let bytes = self.bytes as i64;
        self.commit_as(|counters| counters.resized(bytes), |_| {});
    }

    /// Commits the bytes until the returned value is dropped.
    pub fn commit(self) -> CountedBytes {
        let counted = CountedBytes { account: self.account.clone(), bytes: self.bytes };
        self.commit_as(|counters| counters.allocated(counted.bytes), |_| {});
        counted
    }

    /// Commits the bytes as a reservation for other libraries.
    pub fn set_aside(self) {
        let bytes = self.bytes;
        self.commit_as(|counters| counters.set_aside += bytes, |_| {});
    }

    /// Returns the account that the bytes belong to.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Ends the admission: in each counter, `count` replaces the bytes in flight. `then` runs under the same lock.
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
            drop(view);
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

fn key(handle: Handle) -> Key {
    (0, handle.get())
}

fn disposed() -> Error {
    Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed")
}
