//! Freed slices that wait before their bytes are used again.
//!
//! An operation that is still in flight when its slice is freed (a write to a socket or a file, zlib, a job of the NPU)
//! would read or write the next owner's bytes. So a slice whose ArrayBuffer JavaScript has seen waits for some turns of
//! the event loop and a time ([`ReuseDelay`]). It waits no longer if the pool would fail without it.
//!
//! For debugging, each slice waits behind a number of other frees ([`Layout::delay`](super::Layout::delay)), filled
//! with [`POISON`]. If it holds other bytes when its turn comes, an operation wrote to freed memory, and the pool
//! counts that.
//!
//! A waiting slice is a used region without an owner: it is not live, and free as soon as the pool
//! needs it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use nix::time::{clock_gettime, ClockId};

use super::movable_table::SlicePlace;
use super::slice::Slice;
use crate::device::memory::Memory;

/// The byte that fills delayed slices.
const POISON: u8 = 0xdd;

/// The turns of the event loop that a slice waits, each with a poll of I/O. A write of 32 MiB to a socket takes 8,
/// however long each is (runtimes.md §3.2).
const TURNS: u32 = 12;

/// How long freed slices wait whose ArrayBuffer JavaScript has seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReuseDelay {
    /// The time; zero for no wait.
    pub after: Duration,
    /// The number of the event loop's turns so far, if slices also wait for those.
    pub turns: Option<&'static AtomicU32>,
}

impl ReuseDelay {
    /// Reports whether slices wait at all.
    #[inline]
    pub(super) fn waits(&self) -> bool {
        !self.after.is_zero()
    }

    /// The present turn and time.
    pub(super) fn now(&self) -> Moment {
        Moment { turn: self.turn(), time: monotonic() }
    }

    #[inline]
    pub(super) fn turn(&self) -> u32 {
        self.turns.map_or(0, |turns| turns.load(Relaxed))
    }

    /// Reports whether a wait since `since` is over `now`.
    fn is_over(&self, since: Moment, now: Moment) -> bool {
        let turns = self.turns.is_none() || now.turn.wrapping_sub(since.turn) >= TURNS;
        turns && now.time.saturating_sub(since.time) >= self.after
    }
}

/// A turn of the event loop, and a time of the monotonic clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Moment {
    turn: u32,
    time: Duration,
}

impl Moment {
    /// The same time, for a slice that waits for no turn: its finalizer has run in a turn of its own.
    pub(super) fn without_turns(self) -> Self {
        Self { turn: self.turn.wrapping_sub(TURNS), ..self }
    }
}

/// Reads the coarse clock, a quarter of the exact one's cost. Its ticks are at most 10 ms.
fn monotonic() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// A freed slice that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct WaitingSlice {
    pub(super) place: SlicePlace,
    pub(super) since: Moment,
    /// Whether it is filled with poison.
    pub(super) poisoned: bool,
}

/// The waiting slices of a pool, oldest first. Chunks that ended, or were reset, may have left stale names.
#[derive(Debug, Default)]
pub(super) struct WaitingSlices {
    slices: VecDeque<WaitingSlice>,
    /// The turn in which the queue was last searched.
    searched: u32,
    /// Bytes of the waiting slices, padded.
    pub(super) bytes: u64,
    /// The number of slices that were written to while they waited.
    pub(super) late_writes: u64,
}

impl WaitingSlices {
    pub(super) fn push(&mut self, slice: WaitingSlice) {
        self.slices.push_back(slice);
    }

    /// Reports whether a wait may have ended since the last search. Without turns, each call searches.
    #[inline]
    pub(super) fn is_due(&self, reuse: &ReuseDelay) -> bool {
        !self.slices.is_empty() && (reuse.turns.is_none() || reuse.turn() != self.searched)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Takes the oldest slice if its wait is over, and more than `keep` slices wait.
    pub(super) fn pop_over(&mut self, reuse: &ReuseDelay, now: Moment, keep: usize) -> Option<WaitingSlice> {
        if self.slices.len() > keep && self.slices.front().is_some_and(|slice| reuse.is_over(slice.since, now)) {
            return self.slices.pop_front();
        }
        // No other wait is over in this turn.
        self.searched = now.turn;
        None
    }

    /// Takes the oldest slice.
    pub(super) fn pop(&mut self) -> Option<WaitingSlice> {
        self.slices.pop_front()
    }

    /// The places of the slices.
    pub(super) fn places(&self) -> impl Iterator<Item = SlicePlace> + '_ {
        self.slices.iter().map(|slice| slice.place)
    }

    /// Takes the slices that `chosen` chooses.
    pub(super) fn take_where(&mut self, chosen: impl Fn(&WaitingSlice) -> bool) -> Vec<WaitingSlice> {
        let (taken, left): (VecDeque<_>, _) = self.slices.drain(..).partition(chosen);
        self.slices = left;
        taken.into()
    }

    pub(super) fn clear(&mut self) {
        self.slices.clear();
        self.bytes = 0;
    }
}

/// Fills a freed slice with poison.
pub(super) fn poison(memory: &Memory, slice: &Slice) {
    memory.mapping().fill(slice.offset..slice.offset + slice.padded, POISON);
}

/// Reports whether a slice holds only poison.
pub(super) fn is_poison(memory: &Memory, slice: &Slice) -> bool {
    let mut bytes = [0; 4096];
    (slice.offset..slice.offset + slice.padded).step_by(bytes.len()).all(|at| {
        let count = (slice.offset + slice.padded - at).min(bytes.len() as u64) as usize;
        memory.mapping().read(at, &mut bytes[..count]);
        bytes[..count].iter().all(|byte| *byte == POISON)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    static TURN: AtomicU32 = AtomicU32::new(0);

    /// A slice waits for both: turns alone pass fast, and time alone passes while the event loop stands still.
    #[test]
    fn a_wait_is_over_after_the_turns_and_the_time() {
        let reuse = ReuseDelay { after: Duration::from_millis(100), turns: Some(&TURN) };
        let at = |turn, ms| Moment { turn, time: Duration::from_millis(ms) };
        let since = at(u32::MAX, 5);
        for (now, over) in [
            (at(u32::MAX, 5), false),
            (at(TURNS - 1, 104), false),
            (at(TURNS - 2, 105), false),
            (at(TURNS - 1, 105), true),
            (at(TURNS + 9, 999), true),
        ] {
            assert_eq!(reuse.is_over(since, now), over, "{now:?}");
        }
        assert!(reuse.is_over(since.without_turns(), at(u32::MAX, 105)));
        let timed = ReuseDelay { turns: None, ..reuse };
        assert!(timed.is_over(since, at(u32::MAX, 105)) && !timed.is_over(since, at(9, 104)));
    }
}
