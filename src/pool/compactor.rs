//! [`Compactor`]: compacts a pool within limits of bytes, moves and time.
//!
//! A compaction detaches views, so it runs on the thread that owns them. Two other threads do the work that needs no
//! view: one copies bytes ([`CopyQueue`]), and one surveys the pool before the first time slice of an incremental
//! compaction.
//!
//! [`DetachView`] is the only thing that a compactor needs from its caller.

mod detach;
mod outcome;
mod run;

use std::mem::take;
use std::sync::mpsc::{sync_channel, Receiver, TryRecvError};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::compaction::SEARCH_STEP;
use super::{Moved, Pass, Pool};
use crate::error::Result;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::thread_pool::ThreadPool;
pub use detach::{DetachView, Detachment};
pub use outcome::{Compaction, CompactionLimits, CompactionOutcome};
use run::CompactionRun;

/// Pause between two survey steps of the surveying thread.
const SURVEY_PAUSE: Duration = Duration::from_micros(50);

/// The thread that surveys pools.
static SURVEYORS: ThreadPool = ThreadPool::new("rkllm-survey", 1);
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
        let mut run = CompactionRun::new(&self.pool, detacher, limits);
        run.bytes_freed = ended;
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
        let mut run = CompactionRun::new(&self.pool, detacher, limits);
        run.incremental = true;
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
#[cfg(test)]
mod tests;
