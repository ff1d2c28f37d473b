//! The limits of one compaction, and its results.

use std::time::Duration;

use crate::error::Error;

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
