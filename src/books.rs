//! [`Books`]: what one manager holds, what it may hold, and who wants to know.
//!
//! **Admit, act, settle.** Bytes are admitted under the ceilings before a driver is asked ([`Account::admit`]), and the
//! [`Admission`] becomes a counted holding when they are there, or is forgotten when it drops. Admitting is one step
//! under one lock: what is in use and under way never passes a ceiling by a byte, and a request that does not fit
//! changes nothing, so that it never makes another one fail.
//!
//! Nothing is called and nothing is formatted under the lock.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::limits::{Budget, Ceiling, Ceilings, Scope, Warning, WARN_AT};
use crate::profile::{Action, Key, Profiler, Recorder, Recording, Unread};
use crate::stats::{Counters, MemoryKind};
use crate::units::human;

static RAISED: AtomicU32 = AtomicU32::new(0);

/// Warnings that wait for somebody to take them; the oldest go first when nobody does.
const WAITING: usize = 256;

/// Warnings that were ever raised in this process: as long as it stands still, nobody has to look for any.
pub fn raised() -> &'static AtomicU32 {
    &RAISED
}

/// Somebody has something to look for: a warning, a sample.
pub fn raise() {
    RAISED.fetch_add(1, Ordering::Release);
}

/// See the module's header. What a manager handed out holds its books, so that they outlive it until the last of it ends.
#[derive(Debug, Default)]
pub struct Books {
    state: Mutex<State>,
    warnings: Mutex<VecDeque<Warning>>,
}

#[derive(Debug, Default)]
struct State {
    accounts: Accounts,
    ceilings: Ceilings,
    /// The device's, whoever fills them up.
    domains: Vec<(Arc<Budget>, Ceiling)>,
    recorder: Option<Box<Recorder>>,
}

/// The figures in [`Books`].
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// NPU memory.
    pub npu: Counters,
    /// System memory.
    pub system: Counters,
    /// Both, by tag.
    pub tags: BTreeMap<Arc<str>, Counters>,
    /// Every live allocation.
    pub live: HashSet<Handle>,
    /// Nothing may be added any more.
    pub closed: bool,
}

/// Where bytes are counted. A slice of a pool is only counted by its tag: its pool's chunk counts the memory.
#[derive(Clone, Debug)]
pub struct Account {
    /// Whose.
    pub books: Arc<Books>,
    /// As that kind of memory.
    pub kind: Option<MemoryKind>,
    /// Under that tag.
    pub tag: Option<Arc<str>>,
}

/// What is recorded of an allocation.
#[derive(Clone, Copy, Debug)]
pub struct Event<'a> {
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
pub struct Counted {
    account: Account,
    bytes: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.account.books.state().accounts.each(&self.account, |counters| counters.freed(self.bytes));
    }
}

/// A ceiling that a request does not fit under.
struct Refused {
    scope: Scope,
    used: u64,
    room: u64,
    max: u64,
}

/// A tag with nothing to its name is forgotten when there are more than this: a tag per request must not be a leak.
const IDLE_TAGS: usize = 1024;

impl Accounts {
    fn kind(&mut self, kind: MemoryKind) -> &mut Counters {
        match kind {
            MemoryKind::Npu => &mut self.npu,
            MemoryKind::System => &mut self.system,
        }
    }

    fn tag(&mut self, tag: &Arc<str>) -> &mut Counters {
        if self.tags.len() > IDLE_TAGS && !self.tags.contains_key(tag) {
            self.tags.retain(|_, counters| counters.committed() > 0);
        }
        self.tags.entry(Arc::clone(tag)).or_default()
    }

    /// Changes every counter that the account has.
    fn each(&mut self, account: &Account, change: impl Fn(&mut Counters)) {
        if let Some(kind) = account.kind {
            change(self.kind(kind));
        }
        if let Some(tag) = &account.tag {
            change(self.tag(tag));
        }
    }
}

impl State {
    /// Shows `visit` every ceiling that is set and that the bytes are under, and what is counted against it.
    #[inline(always)]
    fn each_ceiling(
        &mut self,
        kind: Option<MemoryKind>,
        tag: Option<&Arc<str>>,
        mut visit: impl FnMut(&mut Ceiling, Over, Usage),
    ) {
        let (accounts, ceilings) = (&self.accounts, &mut self.ceilings);
        let mut show = |ceiling: &mut Ceiling, over: Over, usage: Usage| {
            if ceiling.max().is_some() {
                visit(ceiling, over, usage);
            }
        };
        if let Some(kind) = kind {
            let (npu, system) = (Usage::of(&accounts.npu), Usage::of(&accounts.system));
            match kind {
                MemoryKind::Npu => show(&mut ceilings.npu, Over::Npu, npu),
                MemoryKind::System => show(&mut ceilings.system, Over::System, system),
            }
            show(&mut ceilings.total, Over::Total, npu.and(system));
        }
        if let (Some(tag), false) = (tag, ceilings.tags.is_empty()) {
            if let Some(ceiling) = ceilings.tags.get_mut(tag) {
                show(ceiling, Over::Tag, accounts.tags.get(tag).map_or(Usage::default(), Usage::of));
            }
        }
    }

    /// Shows the ceilings what is in use; those that came near it say so. And the tightest that `bytes` more do not fit under.
    #[inline(always)]
    fn look(
        &mut self,
        kind: Option<MemoryKind>,
        tag: Option<&Arc<str>>,
        bytes: u64,
    ) -> (Option<Refused>, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut tightest: Option<(Over, u64, u64, u64)> = None;
        self.each_ceiling(kind, tag, |ceiling, over, usage| {
            if ceiling.observe(usage.in_use) {
                let max = ceiling.max().unwrap_or(u64::MAX);
                warnings.push(Warning { scope: over.scope(tag), used: usage.in_use, max });
            }
            let room = ceiling.room(usage.committed);
            if bytes > room && tightest.is_none_or(|(_, least, ..)| room < least) {
                tightest = Some((over, room, usage.committed, ceiling.max().unwrap_or(u64::MAX)));
            }
        });
        if kind == Some(MemoryKind::Npu) {
            warnings.extend(self.full_domains());
        }
        let refused = |(over, room, used, max): (Over, _, _, _)| Refused { scope: over.scope(tag), used, room, max };
        (tightest.map(refused), warnings)
    }

    /// Shows the ceilings what is in use; those that came near it say so.
    fn observe(&mut self, kind: Option<MemoryKind>, tag: Option<&Arc<str>>) -> Vec<Warning> {
        self.look(kind, tag, 0).1
    }

    fn full_domains(&mut self) -> impl Iterator<Item = Warning> + '_ {
        self.domains.iter_mut().enumerate().filter_map(|(id, (budget, ceiling))| {
            let used = budget.used();
            let scope = Scope::Domain(id as u32);
            ceiling.observe(used).then(|| Warning { scope, used, max: budget.limit() })
        })
    }
}

/// Which ceiling.
#[derive(Clone, Copy)]
enum Over {
    Npu,
    System,
    Total,
    /// The account's tag.
    Tag,
}

impl Over {
    fn scope(self, tag: Option<&Arc<str>>) -> Scope {
        match (self, tag) {
            (Over::Npu, _) => Scope::Npu,
            (Over::System, _) => Scope::System,
            (Over::Tag, Some(tag)) => Scope::Tag(Arc::clone(tag)),
            (Over::Total | Over::Tag, _) => Scope::Total,
        }
    }
}

/// What is counted against a ceiling, in bytes.
#[derive(Clone, Copy, Default)]
struct Usage {
    /// With what is under way: this is what may not pass it.
    committed: u64,
    /// What warnings speak of.
    in_use: u64,
}

impl Usage {
    fn of(counters: &Counters) -> Self {
        Self { committed: counters.committed(), in_use: counters.in_use() }
    }

    fn and(self, other: Self) -> Self {
        Self { committed: self.committed + other.committed, in_use: self.in_use + other.in_use }
    }
}

impl Books {
    /// Empty ones, for a device with these domains.
    pub fn new(domains: &[Arc<Budget>]) -> Arc<Self> {
        let watched = |budget: &Arc<Budget>| (Arc::clone(budget), Ceiling::new(Some(budget.limit()), &WARN_AT));
        let domains = domains.iter().map(watched).collect();
        Arc::new(Self { state: Mutex::new(State { domains, ..State::default() }), warnings: Mutex::default() })
    }

    /// Records what happens from here on, or nothing any more. What was recorded goes to its profiler.
    pub fn record(&self, profiler: Option<&Arc<Profiler>>) {
        // Every event says of which memory it is.
        let recorder = profiler.map(|profiler| Box::new(Recorder::new(profiler, MemoryKind::Npu, None, None)));
        let before = std::mem::replace(&mut self.state().recorder, recorder);
        if let Some(recorder) = before {
            recorder.profiler().absorb(&recorder);
        }
    }

    /// What was recorded since, with the events if they are wanted.
    pub fn recording(&self, with_events: bool) -> Option<Recording> {
        let copy = self.state().recorder.as_ref().map(|recorder| recorder.copy(with_events));
        copy.map(Unread::read)
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

    /// Changes ceilings, and warns of those that are near already. `change` runs under the lock: no calls out of it.
    pub fn set_ceilings(&self, change: impl FnOnce(&mut Ceilings)) {
        let warnings = {
            let mut state = self.state();
            change(&mut state.ceilings);
            let tags: Vec<_> = state.ceilings.tags.keys().cloned().map(Some).collect();
            let kinds = [(Some(MemoryKind::Npu), None), (Some(MemoryKind::System), None)].into_iter();
            let all = kinds.chain(tags.into_iter().map(|tag| (None, tag)));
            all.flat_map(|(kind, tag)| state.observe(kind, tag.as_ref())).collect::<Vec<_>>()
        };
        self.tell(warnings);
    }

    /// The most there may be of that kind, and what still fits under every limit it is under.
    pub fn bounds(&self, kind: MemoryKind) -> (Option<u64>, u64) {
        let mut state = self.state();
        let own = match kind {
            MemoryKind::Npu => state.ceilings.npu.max(),
            MemoryKind::System => state.ceilings.system.max(),
        };
        let mut room = u64::MAX;
        state.each_ceiling(Some(kind), None, |ceiling, _, usage| room = room.min(ceiling.room(usage.committed)));
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
        self.tell(vec![warning]);
    }

    /// A pool ended: what its slices were counts on.
    pub fn pool_ended(&self, kind: MemoryKind, allocations: u64, failures: u64) {
        let mut state = self.state();
        let counters = state.accounts.kind(kind);
        counters.allocations += allocations;
        counters.frees += allocations;
        counters.failures += failures;
    }

    fn tell(&self, warnings: Vec<Warning>) {
        if warnings.is_empty() {
            return;
        }
        let mut waiting = self.warnings();
        waiting.extend(warnings);
        let surplus = waiting.len().saturating_sub(WAITING);
        waiting.drain(..surplus);
        drop(waiting);
        raise();
    }

    fn warnings(&self) -> MutexGuard<'_, VecDeque<Warning>> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Account {
    /// Takes room for `bytes` under every ceiling they are under, or refuses and changes nothing.
    ///
    /// Errors: `ERR_MEMORY_LIMIT`, `ERR_MANAGER_DISPOSED`.
    pub fn admit(&self, bytes: u64) -> Result<Admission> {
        self.take_room(bytes)?;
        Ok(Admission { account: self.clone(), bytes })
    }

    /// Bytes of an allocation went. How it came to that is recorded, unless that is somebody else's to do.
    pub fn freed(&self, id: Handle, bytes: u64, event: Option<(Action, Event<'_>)>) {
        let mut state = self.books.state();
        state.accounts.each(self, |counters| counters.freed(bytes));
        state.accounts.live.remove(&id);
        if let (Some(recorder), Some((how, event))) = (&mut state.recorder, event) {
            let label = recorder.label(event.kind, event.tag, event.pool);
            recorder.ended(how, id.get(), event.size, Some(label));
            recorder.sample_ended(key(id));
        }
    }

    /// Bytes that stood for no allocation went: a pool's chunk.
    pub fn gave_back(&self, bytes: u64) {
        self.books.state().accounts.each(self, |counters| counters.resized(-(bytes as i64)));
    }

    /// Bytes that were set aside are not any more.
    pub fn set_free(&self, bytes: u64) {
        self.books.state().accounts.each(self, |counters| counters.set_aside -= bytes);
    }

    /// A request for `size` bytes was refused.
    pub fn failed(&self, size: u64) {
        let mut state = self.books.state();
        state.accounts.each(self, Counters::failed);
        if let (Some(recorder), Some(kind)) = (&mut state.recorder, self.kind) {
            let label = recorder.label(kind, self.tag.as_ref(), None);
            recorder.note(Action::Fail, 0, size, Some(label));
        }
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        let (outcome, warnings) = {
            let mut state = self.books.state();
            // What others took or gave back since the last time is news too.
            let (refused, warnings) = state.look(self.kind, self.tag.as_ref(), bytes);
            match refused {
                Some(refused) => (Err(Some(refused)), warnings),
                None if state.accounts.closed => (Err(None), warnings),
                None => {
                    state.accounts.each(self, |counters| counters.under_way += bytes);
                    (Ok(()), warnings)
                }
            }
        };
        self.books.tell(warnings);
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

    /// The bytes are there, as the allocation `id`, and are recorded unless that is somebody else's to do. False when the books
    /// were closed meanwhile: it has to end at once.
    pub fn allocated(self, id: Handle, bytes: u64, event: Option<Event<'_>>) -> bool {
        let (open, sampled) = self.settle(|State { accounts, recorder, .. }, account| {
            accounts.each(account, |counters| counters.allocated(bytes));
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
        });
        if sampled {
            raise();
        }
        open
    }

    /// The bytes are there and stand for no allocation: a pool's chunk.
    pub fn chunked(self) {
        let bytes = self.bytes;
        self.settle(|state, account| state.accounts.each(account, |counters| counters.resized(bytes as i64)));
    }

    /// The bytes are there, for as long as what is returned.
    pub fn counted(self) -> Counted {
        let counted = Counted { account: self.account.clone(), bytes: self.bytes };
        self.settle(|state, account| state.accounts.each(account, |counters| counters.allocated(counted.bytes)));
        counted
    }

    /// The bytes are somebody else's to take.
    pub fn set_aside(self) {
        let bytes = self.bytes;
        self.settle(|state, account| state.accounts.each(account, |counters| counters.set_aside += bytes));
    }

    /// Whose.
    pub fn account(&self) -> &Account {
        &self.account
    }

    fn settle<T>(mut self, settle: impl FnOnce(&mut State, &Account) -> T) -> T {
        let (result, warnings) = {
            let bytes = std::mem::take(&mut self.bytes);
            let mut state = self.account.books.state();
            state.accounts.each(&self.account, |counters| counters.under_way -= bytes);
            let result = settle(&mut state, &self.account);
            (result, state.observe(self.account.kind, self.account.tag.as_ref()))
        };
        self.account.books.tell(warnings);
        result
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.account.books.state();
            state.accounts.each(&self.account, |counters| counters.under_way -= self.bytes);
        }
    }
}

fn key(id: Handle) -> Key {
    (0, id.get())
}

impl Refused {
    fn error(&self, requested: u64) -> Error {
        let Self { scope, used, room, max } = self;
        let message = format!(
            "the limit of {scope} is {}, of which {} are in use: {} more do not fit",
            human(*max),
            human(*used),
            human(requested)
        );
        Error::new(ErrorCode::MemoryLimit, message)
            .requested(requested)
            .available(*room)
            .limit(scope.to_string(), *max)
            .hint("deallocate what is no longer used (dropped buffers go when the event loop turns), or raise the limit with setMemoryLimits")
    }
}

fn disposed() -> Error {
    Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed")
}
