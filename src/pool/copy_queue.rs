//! [`CopyQueue`]: the moves of a compaction that are in flight. While a second thread copies their bytes, the first one
//! prepares the next moves, which costs it as much where it has to detach JavaScript's views.

use std::collections::VecDeque;
use std::mem::take;
use std::num::NonZero;
use std::sync::mpsc::{sync_channel, Receiver};
use std::thread::available_parallelism;

use once_cell::sync::Lazy;

use super::compaction::{CopyJob, Move, Moved};
use crate::error::Result;
use crate::sys::thread_pool::ThreadPool;

/// Copies for a compacting thread. Memory bandwidth is the limit: more threads are no faster.
static COPIERS: ThreadPool = ThreadPool::new("rkllm-copier", 1);

/// Whether there is a processor for a copier.
static HAS_SECOND_PROCESSOR: Lazy<bool> = Lazy::new(|| available_parallelism().map_or(1, NonZero::get) > 1);

/// Bytes that the compacting thread copies before a copier is started: starting a thread takes as long.
const INLINE_BYTES: u64 = 1 << 20;
/// Bytes that a copier is woken for.
const BATCH_BYTES: u64 = 1 << 20;
/// Batches that wait for the copier or are being copied; with as many, one more is copied on this thread.
const MAX_BATCHES_IN_FLIGHT: usize = 2;

/// See the module's header. Dropped, it waits for what is being copied; moves that nobody copies yet never were.
#[derive(Debug, Default)]
pub struct CopyQueue<'a> {
    aided: bool,
    /// Moves that were taken on, and their bytes, whether they are complete or not.
    taken: (u64, u64),
    batch: Vec<Move<'a>>,
    batch_bytes: u64,
    in_flight: VecDeque<InFlightBatch<'a>>,
    results: VecDeque<Result<Option<Moved>>>,
}

/// A batch that the other thread copies.
#[derive(Debug)]
struct InFlightBatch<'a> {
    moves: Vec<Move<'a>>,
    /// `None` for a move whose pool was reset or destroyed.
    copied: Receiver<Vec<Result<Option<()>>>>,
}

impl<'a> CopyQueue<'a> {
    /// With a second thread or without: with one, up to four MiB, or as many larger moves, are under way when no more
    /// is taken on.
    pub fn new(aided: bool) -> Self {
        let mut queue = Self::default();
        queue.aided = aided && *HAS_SECOND_PROCESSOR;
        queue
    }

    /// Moves that were taken on.
    pub fn moves(&self) -> u64 {
        self.taken.0
    }

    /// Bytes of the moves that were taken on, but for those that came to nothing.
    pub fn bytes(&self) -> u64 {
        self.taken.1
    }

    /// Takes a move on: its views are gone, and it is carried out before [`finish`](Self::finish) is over.
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

    /// What became of a move that was taken on; `None` where none has completed since.
    pub fn next_result(&mut self) -> Option<Result<Option<Moved>>> {
        self.results.pop_front()
    }

    /// Carries out everything that was taken on.
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
        COPIERS.run(move || {
            let results = jobs.iter().map(|job| job.as_ref().map(CopyJob::copy).transpose()).collect();
            // Memory that this keeps alive is let go before anybody is told: what then frees it, gives it back.
            drop(jobs);
            // Nobody waits where the queue was dropped in a panic.
            let _ = done.send(results);
        });
        self.in_flight.push_back(InFlightBatch { moves, copied });
    }

    /// Copies on this thread.
    fn copy_here(&mut self, moves: Vec<Move<'a>>) {
        for step in moves {
            self.record(step.size(), step.commit());
        }
    }

    /// Completes the moves of a batch that the other thread has copied. A move without an entry in `copied` was not.
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
        // Undone while somebody copies, a move's target could be given to others, who would find their bytes
        // overwritten; undone afterwards, one that slid over its own bytes would have lost them.
        self.wait();
    }
}
