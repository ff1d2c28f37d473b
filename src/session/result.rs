//! The types at the border of a sink: calls of the runtime, pins, and results.
#![forbid(unsafe_code)]

use crate::abi::rkllm::{PerfStat, Rows};
use crate::error::{Error, Result};

/// Numbers of one result: state, token id, rows, UTF-16 units of text, whether it has figures, and the five figures.
pub const COLUMNS: usize = 10;

/// Runs a write to pinned memory at an address; returns false, and does not run it, if that memory is gone.
type WhileLive = dyn Fn(usize, &mut dyn FnMut()) -> bool + Send;

/// Ends the pins of a session's memory when it drops.
pub struct Pin {
    pub(super) while_live: Box<WhileLive>,
    unpin: Option<Box<dyn FnOnce() + Send>>,
}

impl Pin {
    /// `while_live` runs a write if the memory at its address is pinned still, and keeps it there meanwhile. A forced
    /// end or a reset of the pool ends pinned memory too.
    pub fn new(
        while_live: impl Fn(usize, &mut dyn FnMut()) -> bool + Send + 'static,
        unpin: impl FnOnce() + Send + 'static,
    ) -> Self {
        Self { while_live: Box::new(while_live), unpin: Some(Box::new(unpin)) }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(unpin) = self.unpin.take() {
            unpin();
        }
    }
}

/// Pins a session's memory.
pub type Pinner = Box<dyn Fn() -> Result<Pin> + Send + Sync>;

/// Notifies the event loop once.
pub type Wake = Box<dyn FnOnce() + Send>;

/// An array of the session that takes rows.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// The name that errors give it.
    pub name: &'static str,
    /// The address of the first float.
    pub address: usize,
    /// Floats of a row.
    pub width: usize,
    /// Rows that fit.
    pub rows: usize,
}

/// One call of the result callback.
#[derive(Debug)]
pub struct Event<'a> {
    /// A value of `LLMCallState`.
    pub state: i32,
    /// The token.
    pub token: i32,
    /// The text, as far as a ring can hold it.
    pub text: &'a [u8],
    /// Hidden states of the last layer.
    pub hidden: Rows,
    /// Logits.
    pub logits: Rows,
    /// Figures of the run.
    pub perf: Option<PerfStat>,
    /// Whether the version of the header has answers.
    pub answers: bool,
}

/// Results that were taken.
#[derive(Debug, Default)]
pub struct Taken {
    /// The texts of all results, one after the other.
    pub text: String,
    /// [`COLUMNS`] numbers of each.
    pub rows: Vec<[f64; COLUMNS]>,
    /// The failure of the run; no results come with it.
    pub failure: Option<Error>,
    /// Whether the run pauses and everything was taken.
    pub paused: bool,
}

/// Counters of a sink.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct SinkStats {
    /// Calls of the callback.
    pub calls: u64,
    /// Of these, calls after the end of the sink.
    pub late: u64,
    /// Of these, calls whose results were dropped: of runs that failed, and whose reader has left.
    pub dropped: u64,
    /// Times that the runtime's thread had to wait for room.
    pub waits: u64,
    /// Notifications of the event loop.
    pub wakes: u64,
}
