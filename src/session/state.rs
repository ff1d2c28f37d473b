//! The state of a sink, under its lock.
#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::result::{Event, Pin, SinkStats, Taken, Target, Wake};
use super::ring::{Record, Ring, FAILED};
use super::utf8::Decoder;
use crate::abi::rkllm::{answer, state as said, Rows};
use crate::error::{Error, ErrorCode, Result};

pub(super) struct SinkState {
    pub(super) ring: Ring,
    pub(super) decoder: Decoder,
    pub(super) failures: VecDeque<Error>,
    /// `[hidden states, logits]`.
    pub(super) targets: [Option<Target>; 2],
    /// From the first callback of a run, or the request of its results, up to its end.
    pub(super) running: bool,
    /// A callback of the present run was seen.
    pub(super) begun: bool,
    /// The results of the present run are dropped up to its end.
    pub(super) discarding: bool,
    /// Something reads the results.
    pub(super) reader: bool,
    /// The reader lets the run pause, and resumes it.
    pub(super) may_pause: bool,
    pub(super) paused: bool,
    /// The arrays have the rows of a result in the ring.
    pub(super) rows_stored: bool,
    /// The arrays have the rows of a result that the reader has taken and may still look at: also after `finish`.
    pub(super) rows_read: bool,
    pub(super) ended: bool,
    pub(super) held: Option<Pin>,
    pub(super) wake: Option<Wake>,
    pub(super) stats: SinkStats,
}

impl SinkState {
    /// The state of a sink that the runtime has not called yet.
    pub(super) fn new(ring: usize, targets: [Option<Target>; 2]) -> Self {
        Self {
            ring: Ring::new(ring),
            decoder: Decoder::default(),
            failures: VecDeque::with_capacity(1),
            targets,
            running: false,
            begun: false,
            discarding: false,
            reader: false,
            may_pause: false,
            paused: false,
            rows_stored: false,
            rows_read: false,
            ended: false,
            held: None,
            wake: None,
            stats: SinkStats::default(),
        }
    }

    /// Whether the present call is dropped.
    pub(super) fn dropping(&self) -> bool {
        self.ended || self.discarding
    }

    pub(super) fn has_news(&self) -> bool {
        !self.ring.is_empty()
    }

    pub(super) fn take_wake(&mut self) -> Option<Wake> {
        let wake = self.wake.take();
        self.stats.wakes += u64::from(wake.is_some());
        wake
    }

    /// Stores a call for which there is room. Returns the callback's answer.
    pub(super) fn store(&mut self, event: &Event<'_>, copy: fn(&Rows, &Target)) -> i32 {
        let rows = match self.copy_rows(event, copy) {
            Ok(rows) => rows,
            Err(error) => {
                self.fail(error);
                return answer::CONTINUE;
            }
        };
        let state = u8::try_from(event.state).unwrap_or(said::ERROR as u8).min(said::ERROR as u8);
        let record = Record { state, token: event.token, rows, perf: event.perf };
        self.ring.push(&record, event.text);
        self.rows_stored |= rows > 0;
        if !event.answers || state >= said::FINISH as u8 {
            return answer::CONTINUE;
        }
        if rows > 0 {
            return answer::RELEASE_OUTPUT;
        }
        // The last quarter is for what the runtime says before it heeds the answer.
        self.paused = self.may_pause && self.ring.room() < self.ring.size() / 4;
        if self.paused {
            answer::PAUSE
        } else {
            answer::CONTINUE
        }
    }

    /// Copies the rows of a call to the session's arrays. Returns their number.
    fn copy_rows(&self, event: &Event<'_>, copy: fn(&Rows, &Target)) -> Result<u32> {
        let mut most = 0;
        for (rows, target) in [(&event.hidden, &self.targets[0]), (&event.logits, &self.targets[1])] {
            if rows.data.is_null() || rows.count <= 0 || rows.width <= 0 {
                continue;
            }
            let Some(target) = target else { continue };
            let (count, width) = (rows.count.unsigned_abs() as usize, rows.width.unsigned_abs() as usize);
            if width != target.width || count > target.rows {
                let (name, has, fits) = (target.name, target.rows, target.width);
                let message = format!("the runtime gave {count} rows of {width} floats; {name} has {has} of {fits}");
                let bytes = |rows: usize, width: usize| (rows * width * size_of::<f32>()) as u64;
                return Err(Error::new(ErrorCode::OutOfRange, message)
                    .requested(bytes(count, width))
                    .limit(name, bytes(has, fits))
                    .hint("make the session with the model's sizes, and rows for each token of the input"));
            }
            let mut write = || copy(rows, target);
            if !self.held.as_ref().is_some_and(|held| (held.while_live)(target.address, &mut write)) {
                let message = format!("the runtime gave rows for {}, which was freed", target.name);
                return Err(Error::new(ErrorCode::BufferFreed, message)
                    .hint("free no array of a session by hand: dispose() frees all of them"));
            }
            most = most.max(rows.count.unsigned_abs());
        }
        Ok(most)
    }

    /// Ends the results of the present run with `error`. What the runtime says up to the run's end is dropped.
    pub(super) fn fail(&mut self, error: Error) {
        if self.discarding {
            return;
        }
        self.discarding = true;
        // Each stored result leaves the room of this record free. Without room nothing of this run is stored, and the
        // failure before it stands for this one too.
        let record = Record { state: FAILED, token: -1, rows: 0, perf: None };
        if self.ring.push(&record, &[]) {
            self.failures.push_back(error);
        }
    }

    pub(super) fn fail_with_text(&mut self, bytes: usize) {
        let size = self.ring.size();
        let message = format!("a text of {bytes} bytes or more does not fit the ring of {size}");
        self.fail(
            Error::new(ErrorCode::OutOfRange, message)
                .requested(bytes as u64)
                .limit("ring", size as u64)
                .hint("give callbacks() a larger ring"),
        );
    }

    /// Ends the present run. Returns its pin, to be dropped outside the lock.
    pub(super) fn end_run(&mut self) -> Option<Pin> {
        // The end of a run that its reader has left, while another reader waits for the next one.
        let awaited = self.discarding && self.reader && self.ring.is_empty() && !self.ended;
        if awaited {
            (self.begun, self.discarding) = (false, false);
            return None;
        }
        (self.running, self.begun, self.discarding, self.paused) = (false, false, false, false);
        self.held.take()
    }

    /// Drops the results of the run that a reader leaves: those that wait, and those to come.
    pub(super) fn leave_run(&mut self) {
        self.decoder = Decoder::default();
        let mut over = false;
        while !over {
            let Some(record) = self.ring.pop(|_| {}) else { break };
            over = i32::from(record.state) >= said::FINISH;
            self.rows_stored &= record.rows == 0;
            if record.state == FAILED {
                self.failures.pop_front();
            }
        }
        self.discarding |= !over && self.begun;
    }

    pub(super) fn pop_into(&mut self, taken: &mut Taken, most: usize) {
        let mut bytes = Vec::new();
        let mut before = 0;
        while taken.rows.len() < most {
            if self.ring.next_state() == Some(FAILED) && !taken.rows.is_empty() {
                break; // The next call returns it.
            }
            bytes.clear();
            let Some(record) = self.ring.pop(|piece| bytes.extend_from_slice(piece)) else { break };
            if record.state == FAILED {
                taken.failure = self.failures.pop_front();
                self.reader = false;
                self.decoder = Decoder::default();
                break;
            }
            self.decoder.decode(&bytes, &mut taken.text);
            let over = i32::from(record.state) >= said::FINISH;
            if over {
                self.decoder.finish(&mut taken.text);
            }
            let units: usize = taken.text[before..].chars().map(char::len_utf16).sum();
            before = taken.text.len();
            let perf = record.perf.unwrap_or_default();
            taken.rows.push([
                record.state.into(),
                record.token.into(),
                record.rows.into(),
                units as f64,
                f64::from(u8::from(record.perf.is_some())),
                perf.prefill_time_ms.into(),
                perf.prefill_tokens.into(),
                perf.generate_time_ms.into(),
                perf.generate_tokens.into(),
                perf.memory_usage_mb.into(),
            ]);
            self.reader &= !over;
            if over || record.rows > 0 {
                // These rows are read until the next call.
                if record.rows > 0 {
                    (self.rows_stored, self.rows_read) = (false, true);
                }
                break;
            }
        }
    }
}

/// The error of a run on the event loop's own thread, which cannot wait for itself.
pub(super) fn full(ring: &Ring) -> Error {
    let size = ring.size();
    let message = format!("the ring of {size} bytes is full, or rows were not read, and the run blocks the event loop");
    Error::new(ErrorCode::BufferBusy, message)
        .limit("ring", size as u64)
        .hint("call rkllm_run_async, or rkllm_run on another thread; or give callbacks() a larger ring")
}
