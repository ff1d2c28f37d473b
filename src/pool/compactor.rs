//! [`Compactor`]: compacts a pool within limits of bytes, moves and time.
//!
//! A compaction detaches views, so it runs on the thread that owns them. Two other threads do the work that needs no
//! view: one copies bytes ([`CopyQueue`]), and one surveys the pool before the first time slice of an incremental
//! compaction.
//!
//! [`DetachView`] is the only thing that a compactor needs from its caller.

use std::mem::take;
use std::sync::mpsc::{sync_channel, Receiver, TryRecvError};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::compaction::SEARCH_STEP;
use super::{CopyQueue, Move, Moved, Pass, Pool, SearchStep};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::thread_pool::ThreadPool;

/// Pause between two survey steps of the surveying thread.
const SURVEY_PAUSE: Duration = Duration::from_micros(50);

/// The thread that surveys pools.
static SURVEYORS: ThreadPool = ThreadPool::new("rkllm-survey", 1);

/// Detaches the views of blocks that are about to move.
pub trait DetachView {
    /// Reason why a compaction cannot go on. It ends the call; moves that were made before stay.
    type Error: From<Error>;

    /// Detaches `view`, which shows the block at `address`.
    ///
    /// Errors: the caller's own.
    fn detach(&mut self, view: Handle, address: usize) -> std::result::Result<Detachment, Self::Error>;
}

/// Result of [`DetachView::detach`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detachment {
    /// The view was detached. The block moves.
    Detached,
    /// The view had ended before. The block moves.
    Ended,
    /// The view is in use, or shows other bytes. The block stays.
    Refused,
}

/// Limits of one compaction.
#[derive(Clone, Copy, Debug)]
pub struct CompactionLimits {
    /// Bytes to move at most.
    pub max_bytes: u64,
    /// Blocks to move at most.
    pub max_moves: u64,
    /// Time after which no further move starts. The first step is made in any case.
    pub max_time: Option<Duration>,
}

impl Default for CompactionLimits {
    fn default() -> Self {
        Self { max_bytes: u64::MAX, max_moves: u64::MAX, max_time: None }
    }
}

/// Outcome of a compaction.
#[derive(Debug)]
pub enum CompactionOutcome {
    /// No move is left that gains anything.
    Finished,
    /// A limit stopped the compaction.
    Stopped,
    /// The driver failed. Moves that were made before stay.
    Failed(Error),
}

/// Results of one compaction.
#[derive(Debug)]
pub struct Compaction {
    /// Blocks that were moved.
    pub moved: u64,
    /// Bytes that were moved.
    pub bytes_moved: u64,
    /// Bytes of empty chunks that went back to the device.
    pub bytes_freed: u64,
    /// Fragmentation at the start; 0 for a time slice, because computing it takes long where many holes have about one
    /// size.
    pub fragmentation_before: f64,
    /// Fragmentation at the end; of a time slice, without the slices that wait.
    pub fragmentation_after: f64,
    /// Outcome.
    pub outcome: CompactionOutcome,
}

/// Compacts one pool, and keeps a pass that a limit has paused.
#[derive(Debug)]
pub struct Compactor {
    pool: Arc<Pool>,
    progress: Mutex<Progress>,
}

#[derive(Debug, Default)]
enum Progress {
    /// No compaction is paused.
    #[default]
    Idle,
    /// The surveying thread surveys the pool.
    Surveying(Receiver<Box<PausedPass>>),
    /// A compaction continues with the next call.
    Paused(Box<PausedPass>),
}

#[derive(Debug)]
struct PausedPass {
    pass: Pass,
    /// Capacity for the moves of one time slice. Its allocation can make glibc consolidate thousands of free chunks,
    /// which takes a millisecond or more. The surveying thread makes it, so that the event loop does not wait.
    moves: Vec<Moved>,
}

impl PausedPass {
    fn new(pass: Pass) -> Box<Self> {
        Box::new(Self { pass, moves: Vec::new() })
    }
}

impl Compactor {
    /// Makes a compactor of `pool`.
    pub fn new(pool: Arc<Pool>) -> Self {
        Self { pool, progress: Mutex::default() }
    }

    /// Moves blocks together, then gives empty chunks back to the device. `report` gets the moves.
    ///
    /// With a `max_time`, a compaction that time has stopped continues at the next call with a `max_time`.
    ///
    /// Errors: `ERR_POOL_DESTROYED`, and those of `detacher`.
    pub fn compact<D: DetachView>(
        &self,
        limits: CompactionLimits,
        detacher: &mut D,
        report: impl FnOnce(&[Moved]),
    ) -> std::result::Result<Compaction, D::Error> {
        // Nothing would gain from moves around holes that wait. Time slices in the background leave them.
        let ended = self.pool.end_all_waits();
        let fragmentation_before = self.pool.stats().fragmentation();
        let mut run = CompactionRun { bytes_freed: ended, ..CompactionRun::new(&self.pool, detacher, limits) };
        let paused = limits.max_time.and_then(|_| self.take_paused());
        let mut outcome = CompactionOutcome::Finished;
        let mut pass = None;
        if let Some(paused) = paused {
            outcome = run.run(pass.insert(paused.pass))?;
        }
        // A paused pass knows only the blocks of its survey. A new pass finds the others.
        if matches!(outcome, CompactionOutcome::Finished) {
            outcome = run.run(pass.insert(self.pool.start_pass()?))?;
        }
        if let (Some(_), CompactionOutcome::Stopped, Some(pass)) = (limits.max_time, &outcome, pass) {
            *self.progress() = Progress::Paused(PausedPass::new(pass));
        }
        report(&run.moves);
        Ok(run.finish(outcome, fragmentation_before))
    }

    /// Runs one time slice of an incremental compaction, which continues with the next call. `report` gets the moves.
    ///
    /// A time slice makes at least one step, and as many as fit into the limits. Blocks larger than `max_bytes` stay
    /// where they are. The first call moves nothing: it has the surveying thread survey the pool.
    ///
    /// Errors: `ERR_POOL_DESTROYED`, and those of `detacher`.
    pub fn compact_slice<D: DetachView>(
        &self,
        limits: CompactionLimits,
        detacher: &mut D,
        report: impl FnOnce(&[Moved]),
    ) -> std::result::Result<Compaction, D::Error> {
        let mut run = CompactionRun { incremental: true, ..CompactionRun::new(&self.pool, detacher, limits) };
        let Some(paused) = self.surveyed(limits.max_moves)? else {
            return Ok(run.finish(CompactionOutcome::Stopped, 0.0));
        };
        let PausedPass { mut pass, moves } = *paused;
        run.moves = moves;
        let outcome = run.run(&mut pass)?;
        report(&run.moves);
        let compaction = run.finish(outcome, 0.0);
        if matches!(compaction.outcome, CompactionOutcome::Stopped) {
            run.moves.clear();
            *self.progress() = Progress::Paused(Box::new(PausedPass { pass, moves: run.moves }));
        }
        Ok(compaction)
    }

    /// Returns the pass of the next time slice; `None` while the surveying thread works on it.
    fn surveyed(&self, max_moves: u64) -> Result<Option<Box<PausedPass>>> {
        let mut progress = self.progress();
        match take(&mut *progress) {
            Progress::Paused(paused) => return Ok(Some(paused)),
            Progress::Surveying(surveyed) => {
                return match surveyed.try_recv() {
                    Ok(paused) => Ok(Some(paused)),
                    Err(TryRecvError::Empty) => {
                        *progress = Progress::Surveying(surveyed);
                        Ok(None)
                    }
                    // The surveying thread has panicked, or none was left: the time slices survey by themselves.
                    Err(TryRecvError::Disconnected) => self.pool.start_pass().map(|pass| Some(PausedPass::new(pass))),
                };
            }
            Progress::Idle => {}
        }
        let (pool, mut paused) = (Arc::clone(&self.pool), PausedPass::new(self.pool.start_pass()?));
        let (sender, surveyed) = sync_channel(1);
        *progress = Progress::Surveying(surveyed);
        let surveying = SURVEYORS.run(move || {
            paused.moves.reserve_exact(usize::try_from(max_moves).unwrap_or(0));
            while !pool.survey(&mut paused.pass, SEARCH_STEP) {
                // A lock that is taken again at once starves the other threads that wait for the pool.
                thread::sleep(SURVEY_PAUSE);
            }
            // Sending fails if the compactor was dropped meanwhile.
            let _ = sender.send(paused);
        });
        // Without a thread the sender is gone: the next time slice surveys by itself.
        drop(surveying);
        Ok(None)
    }

    fn take_paused(&self) -> Option<Box<PausedPass>> {
        let mut progress = self.progress();
        match take(&mut *progress) {
            Progress::Paused(paused) => Some(paused),
            other => {
                *progress = other;
                None
            }
        }
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock()
    }
}

/// The part of a compaction that one call makes.
struct CompactionRun<'r, D> {
    pool: &'r Pool,
    detacher: &'r mut D,
    started: Instant,
    limits: CompactionLimits,
    incremental: bool,
    moves: Vec<Moved>,
    bytes: u64,
    /// Bytes of chunks that went back to the device before the first move.
    bytes_freed: u64,
}

impl<'r, D: DetachView> CompactionRun<'r, D> {
    fn new(pool: &'r Pool, detacher: &'r mut D, limits: CompactionLimits) -> Self {
        let (started, incremental, moves) = (Instant::now(), false, Vec::new());
        Self { pool, detacher, started, limits, incremental, moves, bytes: 0, bytes_freed: 0 }
    }

    /// Makes the moves of `pass`, until it has none left or a limit is reached.
    fn run(&mut self, pass: &mut Pass) -> std::result::Result<CompactionOutcome, D::Error> {
        let pool = self.pool;
        let CompactionLimits { max_bytes, max_moves, max_time } = self.limits;
        // A block larger than the whole budget would never move, and would stop all behind it.
        pass.skip_larger(max_bytes);
        // With a time limit this thread copies by itself: the call then overruns the limit by one move, not by a queue
        // of them.
        let mut queue = CopyQueue::new(max_time.is_none());
        let (earlier_moves, earlier_bytes) = (self.moves.len() as u64, self.bytes);
        // Even with no time at all each call makes one step, so that a caller who repeats it gets to the end.
        let mut first = max_time.is_some();
        let mut outcome = loop {
            let (moves, bytes) = (earlier_moves + queue.moves(), earlier_bytes + queue.bytes());
            let expired =
                max_time.is_some_and(|time| self.started.elapsed() >= time) || self.incremental && bytes >= max_bytes;
            if expired && !first || moves >= max_moves && self.incremental {
                break CompactionOutcome::Stopped;
            }
            first = false;
            if !pool.survey(pass, SEARCH_STEP) {
                continue;
            }
            let mut found = pool.search_fill(pass);
            if matches!(found, SearchStep::Exhausted) {
                queue.finish();
                found = pool.search_slide(pass);
            }
            let step = match found {
                SearchStep::Found(step) => step,
                SearchStep::Paused => continue,
                SearchStep::Exhausted => break CompactionOutcome::Finished,
            };
            if !self.incremental && (moves >= max_moves || bytes + step.size() > max_bytes) {
                break CompactionOutcome::Stopped;
            }
            if self.detach(&step)? {
                queue.add(step);
            }
            if let Err(error) = self.collect(&mut queue) {
                break CompactionOutcome::Failed(error);
            }
        };
        queue.finish();
        if let (Err(error), false) = (self.collect(&mut queue), matches!(outcome, CompactionOutcome::Failed(_))) {
            outcome = CompactionOutcome::Failed(error);
        }
        Ok(outcome)
    }

    /// Detaches the view of the block that `step` moves. `false`: the block has to stay.
    fn detach(&mut self, step: &Move<'_>) -> std::result::Result<bool, D::Error> {
        let Some(view) = step.view() else { return Ok(true) };
        let detachment = self.detacher.detach(view, step.address())?;
        if detachment == Detachment::Detached {
            // The view is gone even if the move comes to nothing.
            self.pool.set_view(step.id(), None);
        }
        Ok(detachment != Detachment::Refused)
    }

    /// Adds the moves that have been copied since the last call.
    ///
    /// Errors: the first failed copy.
    fn collect(&mut self, queue: &mut CopyQueue<'_>) -> Result<()> {
        let mut result = Ok(());
        while let Some(moved) = queue.next_result() {
            match moved {
                Ok(Some(moved)) => {
                    self.bytes += moved.size;
                    self.moves.push(moved);
                }
                Ok(None) => {}
                Err(error) => result = result.and(Err(error)),
            }
        }
        result
    }

    fn finish(&self, outcome: CompactionOutcome, fragmentation_before: f64) -> Compaction {
        // A time slice does nothing that takes as long as slices wait, or chunks or regions are there.
        let (bytes_freed, fragmentation_after) = match self.incremental {
            true => (self.pool.trim_chunks(), self.pool.fragmentation_now()),
            false => (self.pool.end_all_waits() + self.pool.trim(), self.pool.stats().fragmentation()),
        };
        Compaction {
            moved: self.moves.len() as u64,
            bytes_moved: self.bytes,
            bytes_freed: self.bytes_freed + bytes_freed,
            fragmentation_before,
            fragmentation_after,
            outcome,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::errno::Call;
    use crate::backend::fault_injecting::{Fault, FaultInjecting};
    use crate::backend::simulated::{Options, Simulated};
    use crate::backend::{Backend, Request};
    use crate::device::memory::{PageOptions, Source};
    use crate::device::Device;
    use crate::error::ErrorCode;
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
        let compaction =
            compactor.compact(CompactionLimits::default(), &mut detacher, |all| moves = all.to_vec()).unwrap();
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
}
