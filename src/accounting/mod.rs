//! [`Books`]: what one manager holds, what it may hold, and who wants to know.
//!
//! **Admit, act, settle.** Bytes are admitted under the ceilings before a driver is asked ([`Account::admit`]), and the
//! [`Admission`] becomes a counted holding when they are there, or is forgotten when it drops. Admitting is one step
//! under one lock: what is in use and under way never passes a ceiling by a byte, and a request that does not fit
//! changes nothing, so that it never makes another one fail.
//!
//! Nothing is called and nothing is formatted under the lock.
#![forbid(unsafe_code)]

mod budget;
mod counters;
mod limit;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::{Action, Key, Profiler, Recorder, Recording, Unread};
use crate::units::{human, MemoryKind};

pub use budget::{Budget, Charge};
pub use counters::Counters;
pub use limit::{Ceiling, Ceilings, Scope, Warning, WARN_AT};

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
    bounds: Bounds,
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
    pub tags: BTreeMap<Arc<str>, Tagged>,
    /// Every live allocation.
    pub live: HashSet<Handle>,
    /// Nothing may be added any more.
    pub closed: bool,
}

/// What carries one tag. Its ceiling lies beside its figures, so that both are looked up at once.
#[derive(Clone, Debug, Default)]
pub struct Tagged {
    /// The figures.
    pub counters: Counters,
    ceiling: Ceiling,
}

/// What an account counts under, looked up once for all that is done to it under the lock.
struct View<'a> {
    kind: Option<MemoryKind>,
    npu: &'a mut Counters,
    system: &'a mut Counters,
    tagged: Option<(&'a Arc<str>, &'a mut Tagged)>,
    bounds: &'a mut Bounds,
}

/// The ceilings that no tag has.
#[derive(Debug, Default)]
struct Bounds {
    npu: Ceiling,
    system: Ceiling,
    total: Ceiling,
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
        self.account.books.state().of(&self.account).each(|counters| counters.freed(self.bytes));
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

    fn tag<'a>(tags: &'a mut BTreeMap<Arc<str>, Tagged>, tag: &Arc<str>) -> &'a mut Tagged {
        if tags.len() > IDLE_TAGS && !tags.contains_key(tag) {
            tags.retain(|_, Tagged { counters, ceiling }| counters.committed() > 0 || ceiling.max().is_some());
        }
        tags.entry(Arc::clone(tag)).or_default()
    }
}

impl View<'_> {
    /// Changes every counter that the account has.
    #[inline(always)]
    fn each(&mut self, change: impl Fn(&mut Counters)) {
        match self.kind {
            Some(MemoryKind::Npu) => change(self.npu),
            Some(MemoryKind::System) => change(self.system),
            None => {}
        }
        if let Some((_, tagged)) = &mut self.tagged {
            change(&mut tagged.counters);
        }
    }

    /// Shows `visit` every ceiling that the account is under, and what is counted against it.
    #[inline(always)]
    fn each_ceiling(&mut self, mut visit: impl FnMut(&mut Ceiling, Over, Usage)) {
        if let Some(kind) = self.kind {
            let (npu, system) = (Usage::of(self.npu), Usage::of(self.system));
            match kind {
                MemoryKind::Npu => visit(&mut self.bounds.npu, Over::Npu, npu),
                MemoryKind::System => visit(&mut self.bounds.system, Over::System, system),
            }
            visit(&mut self.bounds.total, Over::Total, npu.and(system));
        }
        if let Some((_, Tagged { counters, ceiling })) = &mut self.tagged {
            visit(ceiling, Over::Tag, Usage::of(counters));
        }
    }

    /// Shows the ceilings what is in use; those that came near it say so. And the tightest that `bytes` more do not fit under.
    #[inline(always)]
    fn look(&mut self, bytes: u64) -> (Option<Refused>, Vec<Warning>) {
        let mut quiet = true;
        self.each_ceiling(|ceiling, _, usage| quiet &= ceiling.is_quiet(usage.in_use, usage.committed, bytes));
        match quiet {
            true => (None, Vec::new()),
            false => self.look_closely(bytes),
        }
    }

    #[cold]
    fn look_closely(&mut self, bytes: u64) -> (Option<Refused>, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut tightest: Option<(Over, u64, u64, u64)> = None;
        let tag = self.tagged.as_ref().map(|(tag, _)| *tag);
        self.each_ceiling(|ceiling, over, usage| {
            let max = ceiling.max().unwrap_or(u64::MAX);
            if ceiling.observe(usage.in_use) {
                warnings.push(Warning { scope: over.scope(tag), used: usage.in_use, max });
            }
            let room = ceiling.room(usage.committed);
            if bytes > room && tightest.is_none_or(|(_, least, ..)| room < least) {
                tightest = Some((over, room, usage.committed, max));
            }
        });
        let refused = |(over, room, used, max): (Over, _, _, _)| Refused { scope: over.scope(tag), used, room, max };
        (tightest.map(refused), warnings)
    }
}

impl State {
    #[inline(always)]
    fn view<'a>(&'a mut self, kind: Option<MemoryKind>, tag: Option<&'a Arc<str>>) -> View<'a> {
        let Self { accounts: Accounts { npu, system, tags, .. }, bounds, .. } = self;
        View { kind, npu, system, tagged: tag.map(|tag| (tag, Accounts::tag(tags, tag))), bounds }
    }

    #[inline(always)]
    fn of<'a>(&'a mut self, account: &'a Account) -> View<'a> {
        self.view(account.kind, account.tag.as_ref())
    }

    /// Shows the ceilings over the device's domains what is in use, where NPU memory changed.
    fn full_domains(&mut self, kind: Option<MemoryKind>, warnings: &mut Vec<Warning>) {
        if kind != Some(MemoryKind::Npu) {
            return;
        }
        for (id, (budget, ceiling)) in self.domains.iter_mut().enumerate() {
            let used = budget.used();
            if ceiling.observe(used) {
                warnings.push(Warning { scope: Scope::Domain(id as u32), used, max: budget.limit() });
            }
        }
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
            recorder.profiler().absorb(recorder.copy(true));
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

    /// Changes ceilings, and warns of those that are near already.
    pub fn set_ceilings(&self, change: Ceilings) {
        let Ceilings { npu, system, total, tags } = change;
        let warnings = {
            let mut state = self.state();
            let Bounds { npu: own_npu, system: own_system, total: own_total } = &mut state.bounds;
            for (ceiling, change) in [(own_npu, npu), (own_system, system), (own_total, total)] {
                if let Some(change) = change {
                    *ceiling = change;
                }
            }
            for (tag, ceiling) in tags {
                Accounts::tag(&mut state.accounts.tags, &tag).ceiling = ceiling;
            }
            let tags: Vec<_> = state.accounts.tags.keys().cloned().map(Some).collect();
            let kinds = [(Some(MemoryKind::Npu), None), (Some(MemoryKind::System), None)].into_iter();
            let all = kinds.chain(tags.into_iter().map(|tag| (None, tag)));
            let mut warnings: Vec<_> = all.flat_map(|(kind, tag)| state.view(kind, tag.as_ref()).look(0).1).collect();
            state.full_domains(Some(MemoryKind::Npu), &mut warnings);
            warnings
        };
        self.tell(warnings);
    }

    /// The most there may be of that kind, and what still fits under every limit it is under.
    pub fn bounds(&self, kind: MemoryKind) -> (Option<u64>, u64) {
        let mut state = self.state();
        let own = match kind {
            MemoryKind::Npu => state.bounds.npu.max(),
            MemoryKind::System => state.bounds.system.max(),
        };
        let mut room = u64::MAX;
        state.view(Some(kind), None).each_ceiling(|ceiling, _, usage| room = room.min(ceiling.room(usage.committed)));
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
        state.of(self).each(|counters| counters.freed(bytes));
        state.accounts.live.remove(&id);
        if let (Some(recorder), Some((how, event))) = (&mut state.recorder, event) {
            let label = recorder.label(event.kind, event.tag, event.pool);
            recorder.ended(how, id.get(), event.size, Some(label));
            recorder.sample_ended(key(id));
        }
    }

    /// Bytes that stood for no allocation went: a pool's chunk.
    pub fn gave_back(&self, bytes: u64) {
        self.books.state().of(self).each(|counters| counters.resized(-(bytes as i64)));
    }

    /// Bytes that were set aside are not any more.
    pub fn set_free(&self, bytes: u64) {
        self.books.state().of(self).each(|counters| counters.set_aside -= bytes);
    }

    /// A request for `size` bytes was refused.
    pub fn failed(&self, size: u64) {
        let mut state = self.books.state();
        state.of(self).each(Counters::failed);
        if let (Some(recorder), Some(kind)) = (&mut state.recorder, self.kind) {
            let label = recorder.label(kind, self.tag.as_ref(), None);
            recorder.note(Action::Fail, 0, size, Some(label));
        }
    }

    fn take_room(&self, bytes: u64) -> Result<()> {
        let (outcome, warnings) = {
            let mut state = self.books.state();
            let closed = state.accounts.closed;
            let mut view = state.of(self);
            // What others took or gave back since the last time is news too.
            let (refused, mut warnings) = view.look(bytes);
            let outcome = match refused {
                Some(refused) => Err(Some(refused)),
                None if closed => Err(None),
                None => {
                    view.each(|counters| counters.under_way += bytes);
                    Ok(())
                }
            };
            state.full_domains(self.kind, &mut warnings);
            (outcome, warnings)
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
        let (open, sampled) = self.settle(
            |counters| counters.allocated(bytes),
            |State { accounts, recorder, .. }| {
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
            raise();
        }
        open
    }

    /// The bytes are there and stand for no allocation: a pool's chunk.
    pub fn chunked(self) {
        let bytes = self.bytes as i64;
        self.settle(|counters| counters.resized(bytes), |_| {});
    }

    /// The bytes are there, for as long as what is returned.
    pub fn counted(self) -> Counted {
        let counted = Counted { account: self.account.clone(), bytes: self.bytes };
        self.settle(|counters| counters.allocated(counted.bytes), |_| {});
        counted
    }

    /// The bytes are somebody else's to take.
    pub fn set_aside(self) {
        let bytes = self.bytes;
        self.settle(|counters| counters.set_aside += bytes, |_| {});
    }

    /// Whose.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// What was admitted is under way no more, `count` says what it is now, and `then` what else is to be done under the lock.
    fn settle<T>(mut self, count: impl Fn(&mut Counters), then: impl FnOnce(&mut State) -> T) -> T {
        let (result, warnings) = {
            let bytes = std::mem::take(&mut self.bytes);
            let mut state = self.account.books.state();
            let mut view = state.of(&self.account);
            view.each(|counters| {
                counters.under_way -= bytes;
                count(counters);
            });
            let (_, mut warnings) = view.look(0);
            state.full_domains(self.account.kind, &mut warnings);
            (then(&mut state), warnings)
        };
        self.account.books.tell(warnings);
        result
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if self.bytes > 0 {
            let mut state = self.account.books.state();
            state.of(&self.account).each(|counters| counters.under_way -= self.bytes);
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
