//! [`CompactionRun`]: the moves that one call makes, up to its limits.

use std::time::Instant;

use super::detach::{DetachView, Detachment};
use super::outcome::{Compaction, CompactionLimits, CompactionOutcome};
use crate::error::Result;
use crate::pool::compaction::SEARCH_STEP;
use crate::pool::{CopyQueue, Move, Moved, Pass, Pool, SearchStep};

/// The part of a compaction that one call makes.
pub(super) struct CompactionRun<'r, D> {
    pool: &'r Pool,
    detacher: &'r mut D,
    started: Instant,
    limits: CompactionLimits,
    pub(super) incremental: bool,
    pub(super) moves: Vec<Moved>,
    bytes: u64,
    /// Bytes of chunks that went back to the device before the first move.
    pub(super) bytes_freed: u64,
}

impl<'r, D: DetachView> CompactionRun<'r, D> {
    pub(super) fn new(pool: &'r Pool, detacher: &'r mut D, limits: CompactionLimits) -> Self {
        let (started, incremental, moves) = (Instant::now(), false, Vec::new());
        Self { pool, detacher, started, limits, incremental, moves, bytes: 0, bytes_freed: 0 }
    }

    /// Makes the moves of `pass`, until it has none left or a limit is reached.
    pub(super) fn run(&mut self, pass: &mut Pass) -> std::result::Result<CompactionOutcome, D::Error> {
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

    pub(super) fn finish(&self, outcome: CompactionOutcome, fragmentation_before: f64) -> Compaction {
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
