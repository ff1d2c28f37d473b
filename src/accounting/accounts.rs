//! The state under the lock of an [`Accounting`](super::Accounting): usage counters and their limits.

use std::sync::Arc;

use super::budget::Budget;
use super::counters::Counters;
use super::limit::{Limit, LimitExceeded, Scope, Warning};
use super::tag_account::{TagAccount, TagState};
use super::tag_sweep::{TagSweep, Tags};
use crate::handle::Handle;
use crate::hash::NumberSet;
use crate::profile::Recorder;
use crate::sync::MutexGuard;
use crate::units::MemoryKind;

#[derive(Debug, Default)]
pub(super) struct AccountingState {
    pub(super) accounts: Accounts,
    pub(super) sweep: TagSweep,
    pub(super) global: GlobalLimits,
    /// The device's IOMMU domains, which all its managers fill, and the limits that warn.
    pub(super) domains: Vec<(Arc<Budget>, Limit)>,
    pub(super) recorder: Option<Box<Recorder>>,
}

/// The figures of an [`Accounting`](super::Accounting).
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    /// The counters of NPU memory.
    pub npu: Counters,
    /// The counters of system memory.
    pub system: Counters,
    /// The accounts of memory of either kind, by tag.
    pub tags: Tags,
    /// All live allocations.
    pub live: NumberSet<Handle>,
    /// Whether further allocations are refused.
    pub closed: bool,
}

/// The counters and limits of one account, looked up once under the lock.
pub(super) struct View<'a> {
    kind: Option<MemoryKind>,
    npu: &'a mut Counters,
    system: &'a mut Counters,
    tagged: Option<(&'a Arc<str>, MutexGuard<'a, TagState>)>,
    global: &'a mut GlobalLimits,
}

/// The limits that do not belong to a tag.
#[derive(Debug, Default)]
pub(super) struct GlobalLimits {
    pub(super) npu: Limit,
    pub(super) system: Limit,
    pub(super) total: Limit,
}

impl Accounts {
    pub(super) fn kind(&mut self, kind: MemoryKind) -> &mut Counters {
        match kind {
            MemoryKind::Npu => &mut self.npu,
            MemoryKind::System => &mut self.system,
        }
    }
}

impl View<'_> {
    /// Changes all counters of the account.
    #[inline(always)]
    pub(super) fn each(&mut self, change: impl Fn(&mut Counters)) {
        match self.kind {
            Some(MemoryKind::Npu) => change(self.npu),
            Some(MemoryKind::System) => change(self.system),
            None => {}
        }
        if let Some((_, tagged)) = &mut self.tagged {
            change(&mut tagged.counters);
        }
    }

    /// Calls `visit` with every limit that applies to the account, and the usage under that limit.
    #[inline(always)]
    pub(super) fn each_limit(&mut self, mut visit: impl FnMut(&mut Limit, LimitScope, Usage)) {
        if let Some(kind) = self.kind {
            let (npu, system) = (Usage::of(self.npu), Usage::of(self.system));
            match kind {
                MemoryKind::Npu => visit(&mut self.global.npu, LimitScope::Npu, npu),
                MemoryKind::System => visit(&mut self.global.system, LimitScope::System, system),
            }
            visit(&mut self.global.total, LimitScope::Total, npu.and(system));
        }
        if let Some((_, tagged)) = &mut self.tagged {
            let usage = Usage::of(&tagged.counters);
            visit(&mut tagged.limit, LimitScope::Tag, usage);
        }
    }

    /// Checks the account's usage against its limits. Returns the tightest limit under which `bytes` more do not fit,
    /// and the warnings that are due.
    #[inline(always)]
    pub(super) fn check(&mut self, bytes: u64) -> (Option<LimitExceeded>, Vec<Warning>) {
        let mut quiet = true;
        self.each_limit(|limit, _, usage| quiet &= limit.below_thresholds(usage.in_use, usage.committed, bytes));
        match quiet {
            true => (None, Vec::new()),
            false => self.check_slow(bytes),
        }
    }

    #[cold]
    fn check_slow(&mut self, bytes: u64) -> (Option<LimitExceeded>, Vec<Warning>) {
        let mut warnings = Vec::new();
        let mut tightest: Option<(LimitScope, u64, u64, u64)> = None;
        let tag = self.tagged.as_ref().map(|(tag, _)| *tag);
        self.each_limit(|limit, kind, usage| {
            let max = limit.max().unwrap_or(u64::MAX);
            if limit.observe(usage.in_use) {
                warnings.push(Warning { scope: kind.scope(tag), used: usage.in_use, max });
            }
            let room = limit.room(usage.committed);
            if bytes > room && tightest.is_none_or(|(_, least, ..)| room < least) {
                tightest = Some((kind, room, usage.committed, max));
            }
        });
        let refused =
            |(kind, room, used, max): (LimitScope, _, _, _)| LimitExceeded { scope: kind.scope(tag), used, room, max };
        (tightest.map(refused), warnings)
    }
}

impl AccountingState {
    #[inline(always)]
    pub(super) fn view<'a>(&'a mut self, kind: Option<MemoryKind>, tag: Option<&'a Arc<str>>) -> View<'a> {
        let Self { accounts: Accounts { npu, system, tags, .. }, sweep, global, .. } = self;
        View { kind, npu, system, tagged: tag.map(|tag| (tag, sweep.account(tags, tag).state())), global }
    }

    /// Returns the account of a tag.
    pub(super) fn tag(&mut self, tag: &Arc<str>) -> &Arc<TagAccount> {
        self.sweep.account(&mut self.accounts.tags, tag)
    }

    /// Adds the warnings that are due for the device's domains, if NPU memory changed.
    pub(super) fn check_domains(&mut self, kind: Option<MemoryKind>, warnings: &mut Vec<Warning>) {
        if kind != Some(MemoryKind::Npu) {
            return;
        }
        for (id, (budget, limit)) in self.domains.iter_mut().enumerate() {
            let used = budget.used();
            if limit.observe(used) {
                warnings.push(Warning { scope: Scope::Domain(id as u32), used, max: budget.limit() });
            }
        }
    }
}

/// The kind of a limit.
#[derive(Clone, Copy)]
pub(super) enum LimitScope {
    Npu,
    System,
    Total,
    /// The account's tag.
    Tag,
}

impl LimitScope {
    fn scope(self, tag: Option<&Arc<str>>) -> Scope {
        match (self, tag) {
            (LimitScope::Npu, _) => Scope::Npu,
            (LimitScope::System, _) => Scope::System,
            (LimitScope::Tag, Some(tag)) => Scope::Tag(Arc::clone(tag)),
            (LimitScope::Total | LimitScope::Tag, _) => Scope::Total,
        }
    }
}

/// The bytes counted against a limit.
#[derive(Clone, Copy, Default)]
pub(super) struct Usage {
    /// Bytes in use and in flight, which must not exceed the limit.
    pub(super) committed: u64,
    /// Bytes in use, which cause warnings.
    pub(super) in_use: u64,
}

impl Usage {
    pub(super) fn of(counters: &Counters) -> Self {
        Self { committed: counters.committed(), in_use: counters.in_use() }
    }

    fn and(self, other: Self) -> Self {
        Self { committed: self.committed + other.committed, in_use: self.in_use + other.in_use }
    }
}
