//! The accounting of one manager: counters, limits, warnings and recorded events, without a device.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::Ordering;
use std::sync::Arc;

use rkllmjs_memory::accounting::{
    notifications, Account, Accounting, AllocationEvent, Budget, Counters, Limit, Limits, Scope, Warning, WARN_AT,
};
use rkllmjs_memory::error::{Error, ErrorCode};
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::id::AllocationId;
use rkllmjs_memory::profile::{self, Action, Options, Profiler};
use rkllmjs_memory::units::MemoryKind;

const NPU: MemoryKind = MemoryKind::Npu;
const SYSTEM: MemoryKind = MemoryKind::System;

fn account(accounting: &Arc<Accounting>, kind: impl Into<Option<MemoryKind>>, tag: Option<&str>) -> Account {
    Account { accounting: Arc::clone(accounting), kind: kind.into(), tag: tag.map(Arc::from) }
}

fn handle(raw: u64) -> Handle {
    Handle::from_raw(raw)
}

/// Allocates without a record.
fn allocate(account: &Account, id: u64, bytes: u64) {
    assert!(account.admit(bytes).unwrap().allocated(handle(id), bytes, None));
}

/// Makes a limit without warnings.
fn limit(max: u64) -> Option<Limit> {
    Some(Limit::new(Some(max), &[]))
}

fn npu(accounting: &Accounting) -> Counters {
    accounting.read(|accounts| accounts.npu)
}

fn system(accounting: &Accounting) -> Counters {
    accounting.read(|accounts| accounts.system)
}

fn tagged(accounting: &Accounting, tag: &str) -> Counters {
    accounting.read(|accounts| accounts.tags[tag].counters())
}

/// Scope, bytes in use and limit of each warning since the last call.
fn warnings(accounting: &Accounting) -> Vec<(String, u64, u64)> {
    let warnings = accounting.take_warnings();
    warnings.iter().map(|Warning { scope, used, max }| (scope.to_string(), *used, *max)).collect()
}

fn refusal(error: &Error) -> (ErrorCode, Option<&str>, Option<u64>, Option<u64>) {
    let details = error.details();
    (error.code(), details.scope.as_deref(), details.available, details.limit)
}

#[test]
fn an_allocation_counts_for_its_kind_and_its_tag_until_it_is_freed() {
    let accounting = Accounting::new(&[]);
    let (kv, plain) = (account(&accounting, NPU, Some("kv")), account(&accounting, SYSTEM, None));
    allocate(&kv, 1, 100);
    allocate(&kv, 2, 50);
    allocate(&plain, 3, 7);
    kv.freed(handle(1), 100, None);
    let expected = Counters { used: 50, peak: 150, live: 1, allocations: 2, frees: 1, ..Counters::default() };
    assert_eq!((npu(&accounting), tagged(&accounting, "kv")), (expected, expected));
    assert_eq!(system(&accounting), Counters { used: 7, peak: 7, live: 1, allocations: 1, ..Counters::default() });
    let mut live: Vec<_> = accounting.read(|accounts| accounts.live.iter().copied().collect());
    live.sort();
    assert_eq!(live, [handle(2), handle(3)]);
}

#[test]
fn a_slice_of_a_pool_counts_for_its_tag_alone() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: limit(1), total: limit(1), system: limit(1), ..Limits::default() });
    let slice = account(&accounting, None, Some("kv"));
    allocate(&slice, 1, 100);
    assert_eq!((npu(&accounting), system(&accounting)), (Counters::default(), Counters::default()));
    assert_eq!(tagged(&accounting, "kv").used, 100);
    slice.freed(handle(1), 100, None);
    assert_eq!(tagged(&accounting, "kv").used, 0);
}

#[test]
fn admitted_bytes_count_at_once_and_are_returned_when_the_admission_is_dropped() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: limit(100), ..Limits::default() });
    let account = account(&accounting, NPU, Some("kv"));
    let admission = account.admit(60).unwrap();
    assert_eq!((npu(&accounting).committed(), npu(&accounting).in_use()), (60, 0));
    assert_eq!(admission.account().kind, Some(NPU));
    let error = account.admit(41).unwrap_err();
    assert_eq!(refusal(&error), (ErrorCode::MemoryLimit, Some("npu"), Some(40), Some(100)));
    assert_eq!(error.details().requested, Some(41));
    assert_eq!(npu(&accounting).committed(), 60, "a refusal takes nothing");
    let rest = account.admit(40).unwrap();
    drop(admission);
    assert_eq!((npu(&accounting).committed(), tagged(&accounting, "kv").committed()), (40, 40));
    assert!(rest.allocated(handle(1), 40, None));
    assert_eq!((npu(&accounting).committed(), npu(&accounting).in_use(), npu(&accounting).live), (40, 40, 1));
}

#[test]
fn an_admission_grows_by_the_excess_and_stays_as_it_was_when_that_is_refused() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: limit(100), ..Limits::default() });
    let mut admission = account(&accounting, NPU, None).admit(60).unwrap();
    admission.cover(50).unwrap();
    assert_eq!(npu(&accounting).committed(), 60);
    admission.cover(90).unwrap();
    assert_eq!(npu(&accounting).committed(), 90);
    let error = admission.cover(101).unwrap_err();
    assert_eq!((error.details().requested, error.details().available), (Some(11), Some(10)));
    assert_eq!(npu(&accounting).committed(), 90);
    accounting.close();
    admission.cover(90).unwrap();
    assert_eq!(admission.cover(91).unwrap_err().code(), ErrorCode::ManagerDisposed);
    drop(admission);
    assert_eq!(npu(&accounting), Counters::default());
}

#[test]
fn chunks_of_pools_are_bytes_without_an_allocation() {
    let accounting = Accounting::new(&[]);
    let pool = account(&accounting, SYSTEM, Some("pool"));
    pool.admit(300).unwrap().commit_chunk();
    assert_eq!(system(&accounting), Counters { used: 300, peak: 300, ..Counters::default() });
    pool.chunk_freed(200);
    assert_eq!(system(&accounting), Counters { used: 100, peak: 300, ..Counters::default() });
    assert_eq!(tagged(&accounting, "pool"), system(&accounting));
}

#[test]
fn the_end_of_a_pool_leaves_its_slices_in_the_counts() {
    let accounting = Accounting::new(&[]);
    allocate(&account(&accounting, NPU, None), 1, 10);
    accounting.pool_ended(NPU, 5, 2);
    accounting.pool_ended(NPU, 100, 30);
    accounting.pool_ended(SYSTEM, 7, 0);
    let counters = npu(&accounting);
    assert_eq!((counters.allocations, counters.frees, counters.failures, counters.live), (106, 105, 32, 1));
    assert_eq!(system(&accounting), Counters { allocations: 7, frees: 7, ..Counters::default() });
}

#[test]
fn a_guard_counts_its_bytes_until_it_is_dropped() {
    let accounting = Accounting::new(&[]);
    let counted = account(&accounting, NPU, Some("kv")).admit(64).unwrap().commit();
    assert_eq!((npu(&accounting).used, npu(&accounting).live, tagged(&accounting, "kv").used), (64, 1, 64));
    drop(counted);
    let after = Counters { peak: 64, allocations: 1, frees: 1, ..Counters::default() };
    assert_eq!((npu(&accounting), tagged(&accounting, "kv")), (after, after));
}

#[test]
fn bytes_set_aside_are_in_use_but_are_no_allocation() {
    let accounting = Accounting::new(&[]);
    let weights = account(&accounting, NPU, None);
    allocate(&weights, 1, 5);
    weights.admit(70).unwrap().set_aside();
    let counters = npu(&accounting);
    assert_eq!((counters.set_aside, counters.used, counters.live), (70, 5, 1));
    assert_eq!((counters.committed(), counters.in_use()), (75, 75));
    weights.release_set_aside(30);
    assert_eq!(npu(&accounting).set_aside, 40);
}

#[test]
fn the_tightest_of_several_limits_refuses() {
    let accounting = Accounting::new(&[]);
    let tags = vec![(Arc::from("kv"), Limit::new(Some(20), &[]))];
    accounting.set_limits(Limits { npu: limit(50), system: limit(30), total: limit(60), tags });
    let refused = |kind: MemoryKind, tag, bytes| {
        let error = account(&accounting, kind, tag).admit(bytes).unwrap_err();
        let details = error.details();
        (details.scope.clone().unwrap(), details.available.unwrap(), details.limit.unwrap())
    };
    assert_eq!(refused(NPU, None, 51), ("npu".to_owned(), 50, 50));
    assert_eq!(refused(NPU, None, 1000), ("npu".to_owned(), 50, 50));
    assert_eq!(refused(SYSTEM, None, 31), ("system".to_owned(), 30, 30));
    assert_eq!(refused(NPU, Some("kv"), 1000), ("tag:kv".to_owned(), 20, 20));
    allocate(&account(&accounting, SYSTEM, None), 1, 25);
    assert_eq!(refused(NPU, None, 36), ("total".to_owned(), 35, 60));
    allocate(&account(&accounting, NPU, None), 2, 35);
    // The total has no bytes left, so the bytes left of each kind do not matter.
    assert_eq!(refused(NPU, None, 1), ("total".to_owned(), 0, 60));
    assert_eq!(refused(SYSTEM, None, 1), ("total".to_owned(), 0, 60));
    let error = account(&accounting, NPU, None).admit(7).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the limit of total is 60 bytes, of which 60 bytes are in use: 7 bytes more do not fit"
    );
}

#[test]
fn the_limit_of_the_kind_is_named_when_two_are_equally_tight() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: limit(10), total: limit(10), ..Limits::default() });
    let error = account(&accounting, NPU, None).admit(11).unwrap_err();
    assert_eq!(error.details().scope.as_deref(), Some("npu"));
}

#[test]
fn limits_and_their_room_are_readable() {
    let accounting = Accounting::new(&[]);
    assert_eq!(
        (accounting.limit_and_room(NPU), accounting.limit_and_room(SYSTEM)),
        ((None, u64::MAX), (None, u64::MAX))
    );
    accounting.set_limits(Limits { npu: limit(100), system: limit(40), ..Limits::default() });
    allocate(&account(&accounting, NPU, None), 1, 30);
    let in_flight = account(&accounting, NPU, None).admit(10).unwrap();
    assert_eq!((accounting.limit_and_room(NPU), accounting.limit_and_room(SYSTEM)), ((Some(100), 60), (Some(40), 40)));
    // A tighter total bounds the room, but not the limit itself.
    accounting.set_limits(Limits { total: limit(50), ..Limits::default() });
    assert_eq!((accounting.limit_and_room(NPU), accounting.limit_and_room(SYSTEM)), ((Some(100), 10), (Some(40), 10)));
    drop(in_flight);
    assert_eq!(accounting.limit_and_room(NPU), (Some(100), 20));
}

#[test]
fn limits_of_unnamed_scopes_stay() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: limit(100), system: limit(200), ..Limits::default() });
    accounting.set_limits(Limits { system: limit(300), ..Limits::default() });
    assert_eq!((accounting.limit_and_room(NPU).0, accounting.limit_and_room(SYSTEM).0), (Some(100), Some(300)));
    accounting.set_limits(Limits { npu: Some(Limit::default()), ..Limits::default() });
    assert_eq!((accounting.limit_and_room(NPU).0, accounting.limit_and_room(SYSTEM).0), (None, Some(300)));
}

#[test]
fn each_scope_warns_once_with_what_is_in_use() {
    let accounting = Accounting::new(&[]);
    let near = |max| Limit::new(Some(max), &WARN_AT);
    let tags = vec![(Arc::from("kv"), near(100))];
    accounting.set_limits(Limits { npu: Some(near(200)), system: Some(near(10)), total: Some(near(210)), tags });
    let kv = account(&accounting, NPU, Some("kv"));
    let before = notifications().load(Ordering::Relaxed);
    allocate(&kv, 1, 80);
    assert_eq!(warnings(&accounting), [("tag:kv".to_owned(), 80, 100)]);
    assert!(notifications().load(Ordering::Relaxed) > before, "a warning is worth looking for");
    let admission = account(&accounting, NPU, None).admit(100).unwrap();
    assert_eq!(warnings(&accounting), [], "what is only admitted is not in use");
    assert!(admission.allocated(handle(2), 100, None));
    assert_eq!(warnings(&accounting), [("npu".to_owned(), 180, 200), ("total".to_owned(), 180, 210)]);
    allocate(&account(&accounting, SYSTEM, None), 3, 9);
    assert_eq!(warnings(&accounting), [("system".to_owned(), 9, 10)]);
    allocate(&account(&accounting, SYSTEM, None), 4, 1);
    assert_eq!(warnings(&accounting), [("system".to_owned(), 10, 10)], "its second level");
}

#[test]
fn the_last_bytes_under_a_limit_are_admitted_also_when_a_warning_is_over() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { npu: Some(Limit::new(Some(100), &WARN_AT)), ..Limits::default() });
    let account = account(&accounting, NPU, None);
    allocate(&account, 1, 90);
    account.freed(handle(1), 90, None);
    allocate(&account, 2, 100);
    assert_eq!(warnings(&accounting), [("npu".to_owned(), 90, 100), ("npu".to_owned(), 100, 100)]);
}

#[test]
fn a_limit_that_is_near_already_warns_when_it_is_set() {
    let budget = Budget::new(1000);
    let accounting = Accounting::new(&[Arc::clone(&budget)]);
    allocate(&account(&accounting, NPU, Some("kv")), 1, 90);
    allocate(&account(&accounting, SYSTEM, None), 2, 50);
    let _taken = budget.reserve(800).unwrap();
    let near = |max| Some(Limit::new(Some(max), &WARN_AT));
    let tags = vec![(Arc::from("kv"), Limit::new(Some(100), &WARN_AT))];
    accounting.set_limits(Limits { npu: near(110), system: near(60), total: near(150), tags });
    let mut found = warnings(&accounting);
    found.sort();
    let expected =
        [("domain:0", 800, 1000), ("npu", 90, 110), ("system", 50, 60), ("tag:kv", 90, 100), ("total", 140, 150)];
    assert_eq!(found, expected.map(|(scope, used, max)| (scope.to_owned(), used, max)));
}

#[test]
fn a_domain_that_fills_up_warns_when_npu_memory_changes() {
    let budgets = [Budget::new(100), Budget::new(100)];
    let accounting = Accounting::new(&budgets);
    let _taken = budgets[1].reserve(85).unwrap();
    allocate(&account(&accounting, SYSTEM, None), 1, 10);
    allocate(&account(&accounting, None, Some("kv")), 2, 10);
    assert_eq!(warnings(&accounting), []);
    drop(account(&accounting, NPU, None).admit(1).unwrap());
    assert_eq!(warnings(&accounting), [("domain:1".to_owned(), 85, 100)]);
    let _more = budgets[1].reserve(12).unwrap();
    allocate(&account(&accounting, NPU, None), 3, 1);
    assert_eq!(warnings(&accounting), [("domain:1".to_owned(), 97, 100)]);
}

#[test]
fn warnings_wait_and_the_oldest_go_first_when_there_are_too_many() {
    let accounting = Accounting::new(&[]);
    let before = notifications().load(Ordering::Relaxed);
    for used in 0..300 {
        accounting.warn(Warning { scope: Scope::Pool("kv".into()), used, max: 300 });
    }
    assert!(notifications().load(Ordering::Relaxed) >= before + 300);
    let waiting = warnings(&accounting);
    assert_eq!(waiting.len(), 256);
    assert_eq!((&waiting[0], &waiting[255]), (&("pool:kv".to_owned(), 44, 300), &("pool:kv".to_owned(), 299, 300)));
    assert_eq!(warnings(&accounting), [], "each is taken once");
}

#[test]
fn a_closed_accounting_admits_no_bytes() {
    let accounting = Accounting::new(&[]);
    let account = account(&accounting, NPU, None);
    allocate(&account, 1, 10);
    let late = account.admit(20).unwrap();
    assert_eq!(accounting.close(), [handle(1)]);
    assert_eq!(account.admit(1).unwrap_err().code(), ErrorCode::ManagerDisposed);
    assert_eq!(npu(&accounting).committed(), 30);
    // The late allocation counts until its holder frees it.
    assert!(!late.allocated(handle(2), 20, None));
    account.freed(handle(2), 20, None);
    account.freed(handle(1), 10, None);
    assert_eq!((npu(&accounting).committed(), accounting.close()), (0, vec![]));
}

#[test]
fn tags_without_bytes_and_without_a_limit_are_forgotten_when_there_are_many() {
    let accounting = Accounting::new(&[]);
    accounting.set_limits(Limits { tags: vec![("bound".into(), Limit::new(Some(10), &[]))], ..Limits::default() });
    allocate(&account(&accounting, SYSTEM, Some("used")), 1, 1);
    let tags = |accounting: &Accounting| accounting.read(|accounts| accounts.tags.len());
    let idle = |at: usize| drop(account(&accounting, SYSTEM, Some(&format!("idle {at}"))).admit(1).unwrap());
    for at in 0..1022 {
        idle(at);
    }
    // A known tag evicts no other.
    idle(0);
    assert_eq!(tags(&accounting), 1024);
    // Each new tag removes idle ones: their number stays, whatever their names.
    for at in 1022..4096 {
        idle(at);
        assert!(tags(&accounting) <= 1030, "{}", tags(&accounting));
    }
    let left = |name: &str| accounting.read(|accounts| accounts.tags.contains_key(name));
    assert!(left("bound") && left("used") && left("idle 4095"));
    assert!(account(&accounting, SYSTEM, Some("bound")).admit(11).is_err());
}

/// A profiler that samples every allocation.
fn profiler() -> Arc<Profiler> {
    Profiler::new(Options { sample_interval: 1, event_capacity: 100 })
}

/// Action, id, size, kind, tag and pool.
type Seen = (Action, u64, u64, MemoryKind, Option<String>, Option<String>);

fn seen(events: Vec<profile::Event>) -> Vec<Seen> {
    let text = |name: Option<Arc<str>>| name.map(|name| name.to_string());
    let seen =
        |event: profile::Event| (event.action, event.id, event.size, event.kind, text(event.tag), text(event.pool));
    events.into_iter().map(seen).collect()
}

#[test]
fn events_are_recorded_with_kind_tag_and_pool() {
    let accounting = Accounting::new(&[]);
    accounting.record(Some(&profiler()));
    let (kv, pool): (Arc<str>, Arc<str>) = ("kv".into(), "p".into());
    let (tag, in_pool) = (Some("kv".to_owned()), Some("p".to_owned()));
    let tagged = account(&accounting, SYSTEM, Some("kv"));
    let event = AllocationEvent { id: AllocationId::next(), size: 60, kind: SYSTEM, tag: Some(&kv), pool: Some(&pool) };
    assert!(tagged.admit(64).unwrap().allocated(handle(1), 64, Some(event)));
    tagged.freed(handle(1), 64, Some((Action::Collect, event)));
    account(&accounting, NPU, Some("kv")).failed(99);
    // The pool records its slices.
    account(&accounting, None, Some("kv")).failed(98);
    allocate(&tagged, 2, 64);
    tagged.freed(handle(2), 64, None);
    let recording = accounting.recording(true).unwrap();
    let id = event.id.get();
    assert_eq!(
        seen(recording.events),
        [
            (Action::Allocate, id, 60, SYSTEM, tag.clone(), in_pool.clone()),
            (Action::Collect, id, 60, SYSTEM, tag.clone(), in_pool),
            (Action::Fail, 0, 99, NPU, tag, None),
        ]
    );
    assert_eq!((npu(&accounting).failures, self::tagged(&accounting, "kv").failures), (1, 2));
    assert_eq!((recording.totals.bytes_allocated, recording.totals.bytes_freed), (60, 60));
    assert!(accounting.recording(false).unwrap().events.is_empty());
}

#[test]
fn a_sampled_allocation_has_its_sample_until_it_is_freed() {
    let accounting = Accounting::new(&[]);
    let profiler = profiler();
    accounting.record(Some(&profiler));
    let account = account(&accounting, NPU, None);
    let event = AllocationEvent { id: AllocationId::next(), size: 60, kind: NPU, tag: None, pool: None };
    let before = notifications().load(Ordering::Relaxed);
    assert!(account.admit(64).unwrap().allocated(handle(7), 64, Some(event)));
    assert!(notifications().load(Ordering::Relaxed) > before, "its stack is worth asking for");
    let sample = accounting.sample(handle(7)).unwrap();
    assert_eq!(profiler.take_pending(), [sample]);
    assert_eq!(accounting.samples().into_iter().collect::<Vec<_>>(), [(handle(7), sample)]);
    assert_eq!(profiler.sites().sample(sample).map(|(_, size, _)| size), Some(60));
    account.freed(handle(7), 64, Some((Action::Free, event)));
    assert_eq!((accounting.sample(handle(7)), accounting.samples().len()), (None, 0));
    assert!(profiler.sites().sample(sample).is_none());
}

#[test]
fn a_recording_that_ends_goes_to_its_profiler() {
    let accounting = Accounting::new(&[]);
    let profiler = profiler();
    accounting.record(Some(&profiler));
    account(&accounting, NPU, None).failed(5);
    accounting.record(None);
    account(&accounting, NPU, None).failed(6);
    assert!(accounting.recording(true).is_none());
    let profile = profiler.profile(Vec::new(), true);
    assert_eq!(seen(profile.recording.events), [(Action::Fail, 0, 5, NPU, None, None)]);
    assert_eq!(npu(&accounting).failures, 2, "what is refused is counted all the same");
}

#[test]
fn a_budget_has_the_bytes_left_and_a_charge_its_own_bytes() {
    let budget = Budget::new(100);
    let charge = budget.reserve(30).unwrap();
    assert_eq!((charge.bytes(), budget.used(), budget.available(), budget.limit()), (30, 30, 70, 100));
}
