//! [`CopyQueue`]: the moves of a compaction that are in flight. A second thread copies their bytes while the compacting
//! thread prepares the next moves. Preparing costs as much as copying if it detaches JavaScript's views.

use std::collections::VecDeque;
use std::mem::take;
use std::num::NonZero;
use std::sync::mpsc::{sync_channel, Receiver};
use std::thread::available_parallelism;

use once_cell::sync::Lazy;

use super::compaction::{CopyJob, Move, Moved};
use crate::error::Result;
use crate::sys::thread_pool::ThreadPool;

/// The copying thread. Memory bandwidth is the limit, so more threads are no faster.
static COPIERS: ThreadPool = ThreadPool::new("rkllm-copier", 1);

/// Whether the machine has a processor for the copying thread.
static HAS_SECOND_PROCESSOR: Lazy<bool> = Lazy::new(|| available_parallelism().map_or(1, NonZero::get) > 1);

/// Bytes that the compacting thread copies before it starts the copier: starting a thread takes as long.
const INLINE_BYTES: u64 = 1 << 20;
/// Bytes of a batch, enough to be worth a wake-up of the copier.
const BATCH_BYTES: u64 = 1 << 20;
/// The maximum number of batches that the copier has. Beyond it, the compacting thread copies the next batch itself.
const MAX_BATCHES_IN_FLIGHT: usize = 2;

/// A queue of moves in flight. Dropping it waits for running copies and cancels the moves that were not started.
#[derive(Debug, Default)]
pub struct CopyQueue<'a> {
    aided: bool,
    /// The number and bytes of the accepted moves, complete or not.
    taken: (u64, u64),
    batch: Vec<Move<'a>>,
    batch_bytes: u64,
    in_flight: VecDeque<InFlightBatch<'a>>,
    results: VecDeque<Result<Option<Moved>>>,
}

/// A batch that the copier has.
#[derive(Debug)]
struct InFlightBatch<'a> {
    moves: Vec<Move<'a>>,
    /// `None` for a move whose pool was reset or destroyed.
    copied: Receiver<Vec<Result<Option<()>>>>,
}

impl<'a> CopyQueue<'a> {
    /// Creates a queue; `aided` uses the copier. With the copier, up to four MiB (or as many larger moves) are in
    /// flight before [`add`](Self::add) copies on this thread.
    pub fn new(aided: bool) -> Self {
        let mut queue = Self::default();
        queue.aided = aided && *HAS_SECOND_PROCESSOR;
        queue
    }

    /// The number of accepted moves, without those that failed.
    pub fn moves(&self) -> u64 {
        self.taken.0
    }

    /// The bytes of the accepted moves, without those that failed.
    pub fn bytes(&self) -> u64 {
        self.taken.1
    }

    /// Accepts a move whose views are detached. The move is complete once [`finish`](Self::finish) returns.
    pub fn add(&mut self, step: Move<'a>) {
        let (size, before) = (step.size(), self.taken.1);
        self.taken = (self.taken.0 + 1, before + size);
        if !self.aided || before < INLINE_BYTES {
            self.record(size, step.commit());
            return;
        }
        self.batch.push(step);
        self.batch_bytes += size;
        if self.batch_bytes >= BATCH_BYTES {
            self.dispatch();
        }
    }

    /// Takes the result of a completed move; `None` if none has completed since the last call.
    pub fn next_result(&mut self) -> Option<Result<Option<Moved>>> {
        self.results.pop_front()
    }

    /// Completes all accepted moves.
    pub fn finish(&mut self) {
        let rest = take(&mut self.batch);
        self.batch_bytes = 0;
        self.copy_here(rest);
        self.wait();
    }

    fn wait(&mut self) {
        while let Some(in_flight) = self.in_flight.pop_front() {
            let copied = in_flight.copied.recv();
            self.collect(in_flight.moves, copied.unwrap_or_default());
        }
    }

    fn dispatch(&mut self) {
        while let Some(copied) = self.in_flight.front().and_then(|in_flight| in_flight.copied.try_recv().ok()) {
            let moves = self.in_flight.pop_front().map(|in_flight| in_flight.moves).unwrap_or_default();
            self.collect(moves, copied);
        }
        let moves = take(&mut self.batch);
        self.batch_bytes = 0;
        if self.in_flight.len() >= MAX_BATCHES_IN_FLIGHT {
            self.copy_here(moves);
            return;
        }
        let jobs: Vec<Option<CopyJob>> = moves.iter().map(Move::copy_job).collect();
        let (done, copied) = sync_channel(1);
        let queued = COPIERS.run(move || {
            let results = jobs.iter().map(|job| job.as_ref().map(CopyJob::copy).transpose()).collect();
            // Releases the memory before it sends the results: the receiver may free that memory at once.
            drop(jobs);
            // Sending fails if the queue was dropped in a panic.
            let _ = done.send(results);
        });
        match queued {
            Ok(()) => self.in_flight.push_back(InFlightBatch { moves, copied }),
            // The system has no thread: the copies take time here, as those of a small batch do.
            Err(_) => self.copy_here(moves),
        }
    }

    /// Copies on this thread.
    fn copy_here(&mut self, moves: Vec<Move<'a>>) {
        for step in moves {
            self.record(step.size(), step.commit());
        }
    }

    /// Completes the moves of a batch that the copier has copied. A move without an entry in `copied` was not copied.
    fn collect(&mut self, moves: Vec<Move<'a>>, copied: Vec<Result<Option<()>>>) {
        let mut copied = copied.into_iter();
        for step in moves {
            let size = step.size();
            let result = match copied.next() {
                Some(Ok(Some(()))) => Ok(step.complete()),
                Some(Ok(None)) | None => Ok(None),
                Some(Err(error)) => Err(error),
            };
            self.record(size, result);
        }
    }

    fn record(&mut self, size: u64, result: Result<Option<Moved>>) {
        if !matches!(result, Ok(Some(_))) {
            self.taken = (self.taken.0 - 1, self.taken.1 - size);
        }
        self.results.push_back(result);
    }
}

impl Drop for CopyQueue<'_> {
    fn drop(&mut self) {
        // Waits, because cancelling a move during its copy would free its target for other users, and the copy would
        // overwrite their bytes. After the copy, cancelling would lose the bytes of a slice that slid over itself.
        self.wait();
    }
}
