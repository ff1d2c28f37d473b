//! Debugging: frees that wait, poisoned, before their bytes are used again.
//!
//! An operation that is still under way when its slice is freed writes into whoever has the slice next. With a delay
//! the slice waits behind a number of other frees, filled with [`POISON`]; when its turn comes and it holds anything
//! else, somebody wrote to freed memory, and is counted.

use std::collections::VecDeque;

use super::slice::Slice;
use crate::device::memory::Memory;
use crate::handle::Handle;
use crate::suballoc::RegionId;

/// What freed bytes hold while they wait.
const POISON: u8 = 0xdd;

/// The frees that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct DelayedFrees {
    /// With the bytes that were asked for.
    slices: VecDeque<(Slice, u64)>,
    /// Slices that were written to while they waited.
    pub(super) late_writes: u64,
}

impl DelayedFrees {
    pub(super) fn has(&self, chunk: Handle, region: RegionId) -> bool {
        self.slices.iter().any(|(slice, _)| (slice.chunk, slice.region) == (chunk, region))
    }

    /// Adds a freed slice of which `requested` bytes were asked for.
    pub(super) fn push(&mut self, slice: Slice, requested: u64) {
        self.slices.push_back((slice, requested));
    }

    /// Takes the oldest out, if more than `keep` wait.
    pub(super) fn pop(&mut self, keep: usize) -> Option<(Slice, u64)> {
        let due = self.slices.len() > keep;
        due.then(|| self.slices.pop_front()).flatten()
    }

    /// How many, and the bytes that were asked for.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.slices.len() as u64, self.slices.iter().map(|(_, requested)| requested).sum())
    }

    pub(super) fn clear(&mut self) {
        self.slices.clear();
    }
}

/// Fills a freed slice with poison.
pub(super) fn poison(memory: &Memory, slice: &Slice) {
    memory.mapping().fill(slice.offset..slice.offset + slice.padded, POISON);
}

/// Whether a slice still holds the poison and nothing else.
pub(super) fn is_poison(memory: &Memory, slice: &Slice) -> bool {
    let mut bytes = [0; 4096];
    (slice.offset..slice.offset + slice.padded).step_by(bytes.len()).all(|at| {
        let count = (slice.offset + slice.padded - at).min(bytes.len() as u64) as usize;
        memory.mapping().read(at, &mut bytes[..count]);
        bytes[..count].iter().all(|byte| *byte == POISON)
    })
}
