//! Tests of the compactor: limits, time slices, refused views, and failures of the driver.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::backend::errno::Call;
use crate::backend::fault_injecting::{Fault, FaultInjecting};
use crate::backend::simulated::{Options, Simulated};
use crate::backend::{Backend, Request};
use crate::device::memory::{PageOptions, Source};
use crate::device::Device;
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::pool::Layout;
use crate::sys::page::page_size;

const BLOCK: u64 = 4096;

/// Answers each request with `answer`, and keeps the views that were asked for.
struct FakeDetacher<F> {
    answer: F,
    asked: Vec<(Handle, usize)>,
}

impl<F: FnMut(Handle) -> Result<Detachment>> DetachView for FakeDetacher<F> {
    type Error = Error;

    fn detach(&mut self, view: Handle, address: usize) -> Result<Detachment> {
        self.asked.push((view, address));
        (self.answer)(view)
    }
}

fn detacher<F: FnMut(Handle) -> Result<Detachment>>(answer: F) -> FakeDetacher<F> {
    FakeDetacher { answer, asked: Vec::new() }
}

fn view(at: usize) -> Handle {
    Handle::from_raw(1000 + at as u64)
}

/// A pool of one chunk with `count` viewed blocks, of which every second one was freed. Returns the others.
fn pool(count: usize) -> (Arc<Pool>, Vec<Handle>) {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    let initial = (2 * count as u64 * BLOCK).max(1 << 16);
    let layout = Layout { initial, max: initial, chunk: initial, block: None, alignment: 64, delay: 0 };
    let pool = Arc::new(Pool::new(Some("test".into()), source, layout, None).unwrap());
    let ids: Vec<_> = (0..count).map(|_| pool.allocate_movable(BLOCK, 64, None).unwrap().0).collect();
    let left = ids.iter().enumerate().filter(|(at, id)| at % 2 == 1 || pool.free_movable(**id).is_err());
    let left: Vec<_> = left.map(|(_, id)| *id).collect();
    left.iter().enumerate().for_each(|(at, id)| pool.set_view(*id, Some(view(at))));
    (pool, left)
}

fn agree(_: Handle) -> Result<Detachment> {
    Ok(Detachment::Detached)
}

/// Runs time slices until the compaction is over. Returns the moves, and the most of one slice.
fn all_slices(compactor: &Compactor, limits: CompactionLimits) -> (Vec<Moved>, usize) {
    let (mut moves, mut most) = (Vec::new(), 0);
    loop {
        let report = |slice: &[Moved]| {
            most = most.max(slice.len());
            moves.extend_from_slice(slice);
        };
        let compaction = compactor.compact_slice(limits, &mut detacher(agree), report).unwrap();
        match compaction.outcome {
            CompactionOutcome::Finished => return (moves, most),
            CompactionOutcome::Stopped => thread::yield_now(),
            CompactionOutcome::Failed(error) => panic!("{error}"),
        }
    }
}

#[test]
fn without_limits_all_holes_are_closed_and_each_view_is_detached_once() {
    let (pool, left) = pool(64);
    let compactor = Compactor::new(Arc::clone(&pool));
    let mut detacher = detacher(agree);
    let mut moves = Vec::new();
    let before = pool.stats().fragmentation();
    let compaction = compactor.compact(CompactionLimits::default(), &mut detacher, |all| moves = all.to_vec()).unwrap();
    assert!(matches!(compaction.outcome, CompactionOutcome::Finished));
    assert_eq!(compaction.fragmentation_before, before);
    assert!(before > 0.0);
    assert_eq!((compaction.fragmentation_after, pool.stats().fragmentation()), (0.0, 0.0));
    assert_eq!((compaction.moved, compaction.bytes_moved), (moves.len() as u64, moves.len() as u64 * BLOCK));
    assert_eq!(moves.len(), left.len() / 2, "the upper half goes into the holes of the lower half");
    let mut asked: Vec<_> = detacher.asked.iter().map(|(view, _)| *view).collect();
    asked.sort_unstable();
    asked.dedup();
    assert_eq!(asked.len(), detacher.asked.len());
    assert_eq!(asked.len(), moves.len());
    pool.validate().unwrap();
}

#[test]
fn a_detached_view_is_forgotten_and_an_ended_one_is_left_to_its_owner() {
    for (detachment, dropped) in [(Detachment::Detached, 0), (Detachment::Ended, 1)] {
        let (pool, left) = pool(2);
        let compactor = Compactor::new(Arc::clone(&pool));
        let mut detacher = detacher(|_| Ok(detachment));
        let compaction = compactor.compact(CompactionLimits::default(), &mut detacher, |_| {}).unwrap();
        assert_eq!(compaction.moved, 1);
        // A block that has a view is not freed when it is dropped.
        pool.free_dropped(left[0]).unwrap();
        assert_eq!(pool.movables(), dropped, "{detachment:?}");
    }
}

#[test]
fn the_detacher_gets_the_address_of_the_block_before_the_move() {
    let (pool, left) = pool(2);
    let address = pool.movable(left[0]).unwrap().0.address;
    let compactor = Compactor::new(Arc::clone(&pool));
    let mut detacher = detacher(agree);
    compactor.compact(CompactionLimits::default(), &mut detacher, |_| {}).unwrap();
    assert_eq!(detacher.asked, [(view(0), address)]);
    assert!(pool.movable(left[0]).unwrap().0.address < address);
}

#[test]
fn a_block_whose_view_is_refused_stays_and_the_others_move() {
    let (pool, left) = pool(16);
    let stays = left.len() - 1;
    let place = |id| pool.movable(id).unwrap().0.address;
    let before: Vec<_> = left.iter().map(|id| place(*id)).collect();
    let compactor = Compactor::new(Arc::clone(&pool));
    let refuse = |of| Ok(if of == view(stays) { Detachment::Refused } else { Detachment::Detached });
    let compaction = compactor.compact(CompactionLimits::default(), &mut detacher(refuse), |_| {}).unwrap();
    assert!(compaction.moved > 0);
    assert_eq!(place(left[stays]), before[stays]);
    assert!(pool.pin(left[stays]).is_ok(), "it is not being moved any more");
    pool.validate().unwrap();
}

#[test]
fn an_error_of_the_detacher_ends_the_call_and_leaves_the_pool_usable() {
    let (pool, left) = pool(16);
    let compactor = Compactor::new(Arc::clone(&pool));
    let mut calls = 0;
    let fail = |_| {
        calls += 1;
        if calls == 2 {
            Err(Error::new(ErrorCode::OutOfRange, "thrown"))
        } else {
            Ok(Detachment::Detached)
        }
    };
    let failed = compactor.compact(CompactionLimits::default(), &mut detacher(fail), |_| {});
    assert_eq!(failed.unwrap_err().details().code, ErrorCode::OutOfRange);
    assert!(left.iter().all(|id| pool.check_freeable(*id).is_ok()), "no block is left in a move");
    pool.validate().unwrap();
    let compaction = compactor.compact(CompactionLimits::default(), &mut detacher(agree), |_| {}).unwrap();
    assert!(matches!(compaction.outcome, CompactionOutcome::Finished));
}

#[test]
fn caps_of_moves_and_bytes_are_kept() {
    for limits in [
        CompactionLimits { max_moves: 3, ..CompactionLimits::default() },
        CompactionLimits { max_bytes: 4 * BLOCK - 1, ..CompactionLimits::default() },
        CompactionLimits { max_bytes: 3 * BLOCK, ..CompactionLimits::default() },
    ] {
        let (pool, _) = pool(64);
        let compactor = Compactor::new(Arc::clone(&pool));
        let mut detacher = detacher(agree);
        let compaction = compactor.compact(limits, &mut detacher, |_| {}).unwrap();
        assert!(matches!(compaction.outcome, CompactionOutcome::Stopped));
        assert_eq!((compaction.moved, detacher.asked.len()), (3, 3), "{limits:?}: no view is detached for nothing");
    }
}

#[test]
fn a_compaction_that_time_has_stopped_continues_at_the_next_call_with_a_time() {
    let (pool, _) = pool(64);
    let compactor = Compactor::new(Arc::clone(&pool));
    let limits = CompactionLimits { max_time: Some(Duration::ZERO), ..CompactionLimits::default() };
    let mut calls = 0;
    loop {
        calls += 1;
        let compaction = compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap();
        assert!(compaction.moved <= 1, "with no time there is one step a call");
        if matches!(compaction.outcome, CompactionOutcome::Finished) {
            break;
        }
        assert!(matches!(*compactor.progress(), Progress::Paused(_)));
    }
    assert!(calls > 16, "{calls}");
    assert_eq!(pool.stats().fragmentation(), 0.0);
    assert!(matches!(*compactor.progress(), Progress::Idle));
}

#[test]
fn a_cap_without_a_time_keeps_nothing_for_the_next_call() {
    let (pool, _) = pool(64);
    let compactor = Compactor::new(pool);
    let limits = CompactionLimits { max_moves: 1, ..CompactionLimits::default() };
    compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap();
    assert!(matches!(*compactor.progress(), Progress::Idle));
}

#[test]
fn the_first_time_slice_moves_nothing_and_detaches_nothing() {
    let (pool, _) = pool(64);
    let compactor = Compactor::new(pool);
    let limits =
        CompactionLimits { max_moves: 8, max_time: Some(Duration::from_secs(60)), ..CompactionLimits::default() };
    let mut detacher = detacher(agree);
    let compaction = compactor.compact_slice(limits, &mut detacher, |_| panic!("nothing to report")).unwrap();
    assert_eq!((compaction.moved, detacher.asked.len()), (0, 0));
    assert!(matches!(compaction.outcome, CompactionOutcome::Stopped));
}

#[test]
fn time_slices_keep_their_caps_and_close_all_holes() {
    let time = Some(Duration::from_secs(60));
    for (limits, most) in [
        (CompactionLimits { max_moves: 3, max_time: time, max_bytes: u64::MAX }, 3),
        (CompactionLimits { max_moves: 1000, max_time: time, max_bytes: 2 * BLOCK }, 2),
        (CompactionLimits { max_moves: 1000, max_time: time, max_bytes: BLOCK }, 1),
    ] {
        let (pool, left) = pool(64);
        let compactor = Compactor::new(Arc::clone(&pool));
        let (moves, largest) = all_slices(&compactor, limits);
        assert_eq!((moves.len(), largest), (left.len() / 2, most), "{limits:?}");
        assert_eq!(pool.stats().fragmentation(), 0.0);
        pool.validate().unwrap();
    }
}

#[test]
fn blocks_larger_than_a_time_slice_stay() {
    let (pool, _) = pool(64);
    let compactor = Compactor::new(Arc::clone(&pool));
    let limits = CompactionLimits { max_bytes: BLOCK - 1, max_moves: 8, max_time: Some(Duration::from_secs(60)) };
    let (moves, _) = all_slices(&compactor, limits);
    assert_eq!(moves, []);
    pool.validate().unwrap();
}

#[test]
fn a_block_larger_than_the_budget_keeps_no_other_from_moving() {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    let initial = 64 * BLOCK;
    let layout = Layout { initial, max: initial, chunk: initial, block: None, alignment: 64, delay: 0 };
    let pool = Arc::new(Pool::new(Some("test".into()), source, layout, None).unwrap());
    let allocate = |blocks: u64| pool.allocate_movable(blocks * BLOCK, 64, None).unwrap().0;
    let hole = allocate(8);
    let small: Vec<_> = (0..4).map(|_| allocate(1)).collect();
    let large = allocate(8);
    pool.free_movable(hole).unwrap();
    let place = |id| pool.movable(id).unwrap().0.offset;
    let (before, below) = (place(large), place(small[0]));
    let compactor = Compactor::new(Arc::clone(&pool));
    let limits = CompactionLimits { max_bytes: BLOCK, ..CompactionLimits::default() };
    for _ in 0..16 {
        let compaction = compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap();
        assert!(compaction.bytes_moved <= BLOCK);
    }
    assert!(small.iter().all(|id| place(*id) < below), "all small blocks went into the hole");
    assert_eq!(place(large), before);
    pool.validate().unwrap();
}

#[test]
fn a_whole_compaction_leaves_a_survey_alone() {
    let (pool, _) = pool(64);
    let compactor = Compactor::new(Arc::clone(&pool));
    let limits =
        CompactionLimits { max_moves: 8, max_time: Some(Duration::from_secs(60)), ..CompactionLimits::default() };
    compactor.compact_slice(limits, &mut detacher(agree), |_| {}).unwrap();
    let whole = compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap();
    assert!(matches!(whole.outcome, CompactionOutcome::Stopped));
    assert!(!matches!(*compactor.progress(), Progress::Idle));
    all_slices(&compactor, limits);
    assert_eq!(pool.stats().fragmentation(), 0.0);
}

#[test]
fn chunks_that_a_compaction_empties_go_back_to_the_device() {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    let chunk = 16 * BLOCK;
    let layout = Layout { initial: chunk, max: 4 * chunk, chunk, block: None, alignment: 64, delay: 0 };
    let pool = Arc::new(Pool::new(Some("test".into()), source, layout, None).unwrap());
    let ids: Vec<_> = (0..64).map(|_| pool.allocate_movable(BLOCK, 64, None).unwrap().0).collect();
    ids.iter().enumerate().filter(|(at, _)| at % 4 != 0).for_each(|(_, id)| pool.free_movable(*id).unwrap());
    let reserved = pool.stats().reserved;
    let compactor = Compactor::new(Arc::clone(&pool));
    let compaction = compactor.compact(CompactionLimits::default(), &mut detacher(agree), |_| {}).unwrap();
    assert_eq!(compaction.bytes_freed, reserved - pool.stats().reserved);
    assert!(compaction.bytes_freed > 0);
}

#[test]
fn a_failure_of_the_driver_ends_a_compaction_and_keeps_the_moves_before_it() {
    for (nth, limits) in [
        (1, CompactionLimits::default()),
        (9, CompactionLimits::default()),
        (9, CompactionLimits { max_time: Some(Duration::from_secs(60)), ..CompactionLimits::default() }),
    ] {
        let faulty = Arc::new(FaultInjecting::new(Arc::new(Simulated::new(Options::default()).unwrap())));
        let device = Device::new(Arc::clone(&faulty) as Arc<dyn Backend>);
        let initial = 64 * BLOCK;
        let source = Source::Npu { device, request: Request::plain(initial), dirty: true };
        let layout = Layout { initial, max: initial, chunk: initial, block: None, alignment: 64, delay: 0 };
        let pool = Arc::new(Pool::new(Some("test".into()), source, layout, None).unwrap());
        let ids: Vec<_> = (0..64).map(|_| pool.allocate_movable(BLOCK, 64, None).unwrap().0).collect();
        ids.iter().step_by(2).for_each(|id| pool.free_movable(*id).unwrap());
        faulty.fail(Fault::new(Call::Sync, nth, libc::EIO));
        let compactor = Compactor::new(Arc::clone(&pool));
        let mut reported = 0;
        let report = |moves: &[Moved]| reported = moves.len() as u64;
        let compaction = compactor.compact(limits, &mut detacher(agree), report).unwrap();
        let CompactionOutcome::Failed(error) = &compaction.outcome else { panic!("{:?}", compaction.outcome) };
        assert_eq!(error.details().errno, Some(libc::EIO));
        assert_eq!(compaction.moved, reported);
        assert_eq!(reported > 0, nth > 1, "sync {nth}");
        assert!(reported < 16, "nothing moves after it");
        pool.validate().unwrap();
        let compaction = compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap();
        assert!(matches!(compaction.outcome, CompactionOutcome::Finished));
        assert_eq!(pool.stats().fragmentation(), 0.0);
    }
}

#[test]
fn a_destroyed_pool_is_an_error_value() {
    let (pool, _) = pool(4);
    let compactor = Compactor::new(Arc::clone(&pool));
    pool.destroy(true).unwrap();
    let limits = CompactionLimits::default();
    let whole = compactor.compact(limits, &mut detacher(agree), |_| {}).unwrap_err();
    let slice = compactor.compact_slice(limits, &mut detacher(agree), |_| {}).unwrap_err();
    assert_eq!(whole.details().code, ErrorCode::PoolDestroyed);
    assert_eq!(slice.details().code, ErrorCode::PoolDestroyed);
}
