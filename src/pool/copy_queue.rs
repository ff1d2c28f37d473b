//! A [`Haul`]: moves that are under way. While a second thread copies their bytes, the first one prepares those that come next, which
//! costs it as much where JavaScript's views have to be taken away.

use std::collections::VecDeque;
use std::mem::take;
use std::num::NonZero;
use std::sync::mpsc::{sync_channel, Receiver};
use std::thread::available_parallelism;

use once_cell::sync::Lazy;

use super::compaction::{Load, Move, Moved};
use crate::error::Result;
use crate::sys::thread_pool::Crew;

/// Whoever copies for somebody else. It is the memory that limits: more of them are no faster.
static CARRIERS: Crew = Crew::new("rkllm-carry", 1);

/// Whether there is a processor for them.
static ANY: Lazy<bool> = Lazy::new(|| available_parallelism().map_or(1, NonZero::get) > 1);

/// Bytes that are copied before anybody is woken for the rest: starting a thread takes as long.
const ALONE: u64 = 1 << 20;
/// Bytes that a thread is woken for.
const BATCH: u64 = 1 << 20;
/// Batches that wait for it or are being copied; with as many, one more is copied here.
const AHEAD: usize = 2;

/// See the module's header. Dropped, it waits for what is being copied; moves that nobody copies yet never were.
#[derive(Debug, Default)]
pub struct Haul<'a> {
    aided: bool,
    /// Moves that were taken on, and their bytes, whether they have arrived or not.
    taken: (u64, u64),
    batch: Vec<Move<'a>>,
    batch_bytes: u64,
    away: VecDeque<Away<'a>>,
    arrived: VecDeque<Result<Option<Moved>>>,
}

/// A batch that somebody else copies.
#[derive(Debug)]
struct Away<'a> {
    moves: Vec<Move<'a>>,
    /// `None` for a move whose pool was reset or destroyed.
    carried: Receiver<Vec<Result<Option<()>>>>,
}

impl<'a> Haul<'a> {
    /// With a second thread or without: with one, up to four MiB, or as many larger moves, are under way when no more is taken on.
    pub fn new(aided: bool) -> Self {
        let mut haul = Self::default();
        haul.aided = aided && *ANY;
        haul
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
        if !self.aided || before < ALONE {
            self.arrive(size, step.commit());
            return;
        }
        self.batch.push(step);
        self.batch_bytes += size;
        if self.batch_bytes >= BATCH {
            self.dispatch();
        }
    }

    /// What became of a move that was taken on; `None` where nothing has arrived since.
    pub fn arrival(&mut self) -> Option<Result<Option<Moved>>> {
        self.arrived.pop_front()
    }

    /// Carries out everything that was taken on.
    pub fn finish(&mut self) {
        let rest = take(&mut self.batch);
        self.batch_bytes = 0;
        self.carry(rest);
        self.wait();
    }

    fn wait(&mut self) {
        while let Some(away) = self.away.pop_front() {
            let carried = away.carried.recv();
            self.settle(away.moves, carried.unwrap_or_default());
        }
    }

    fn dispatch(&mut self) {
        while let Some(carried) = self.away.front().and_then(|away| away.carried.try_recv().ok()) {
            let moves = self.away.pop_front().map(|away| away.moves).unwrap_or_default();
            self.settle(moves, carried);
        }
        let moves = take(&mut self.batch);
        self.batch_bytes = 0;
        if self.away.len() >= AHEAD {
            self.carry(moves);
            return;
        }
        let loads: Vec<Option<Load>> = moves.iter().map(Move::load).collect();
        let (done, carried) = sync_channel(1);
        CARRIERS.run(move || {
            let results = loads.iter().map(|load| load.as_ref().map(Load::carry).transpose()).collect();
            // Memory that this keeps alive is let go before anybody is told: what then frees it, gives it back.
            drop(loads);
            // Nobody waits where the haul was dropped in a panic.
            let _ = done.send(results);
        });
        self.away.push_back(Away { moves, carried });
    }

    /// Copies here.
    fn carry(&mut self, moves: Vec<Move<'a>>) {
        for step in moves {
            self.arrive(step.size(), step.commit());
        }
    }

    /// Writes down what somebody else has copied. What is missing from `carried` was not.
    fn settle(&mut self, moves: Vec<Move<'a>>, carried: Vec<Result<Option<()>>>) {
        let mut carried = carried.into_iter();
        for step in moves {
            let size = step.size();
            let arrival = match carried.next() {
                Some(Ok(Some(()))) => Ok(step.arrived()),
                Some(Ok(None)) | None => Ok(None),
                Some(Err(error)) => Err(error),
            };
            self.arrive(size, arrival);
        }
    }

    fn arrive(&mut self, size: u64, arrival: Result<Option<Moved>>) {
        if !matches!(arrival, Ok(Some(_))) {
            self.taken = (self.taken.0 - 1, self.taken.1 - size);
        }
        self.arrived.push_back(arrival);
    }
}

impl Drop for Haul<'_> {
    fn drop(&mut self) {
        // Undone while somebody copies, a move's target could be given to others, who would find their bytes overwritten; undone
        // afterwards, one that slid over its own bytes would have lost them.
        self.wait();
    }
}
