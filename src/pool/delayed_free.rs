//! Debugging: delays the reuse of freed bytes and poisons them.
//!
//! An operation that is still in flight when its slice is freed would write into the next owner's bytes. With a delay,
//! the slice waits behind a number of other frees, filled with [`POISON`]. If it holds other bytes when its turn comes,
//! an operation wrote to freed memory, and the pool counts that.

use std::collections::VecDeque;

use super::slice::Slice;
use crate::device::memory::Memory;
use crate::handle::Handle;
use crate::suballoc::RegionId;

/// The byte that fills delayed slices.
const POISON: u8 = 0xdd;

/// The delayed frees, oldest first.
#[derive(Debug, Default)]
pub(super) struct DelayedFrees {
    /// The slices and their requested bytes.
    slices: VecDeque<(Slice, u64)>,
    /// The number of slices that were written to during the delay.
    pub(super) late_writes: u64,
}

impl DelayedFrees {
    pub(super) fn has(&self, chunk: Handle, region: RegionId) -> bool {
        self.slices.iter().any(|(slice, _)| (slice.chunk, slice.region) == (chunk, region))
    }

    /// Adds a freed slice of `requested` bytes.
    pub(super) fn push(&mut self, slice: Slice, requested: u64) {
        self.slices.push_back((slice, requested));
    }

    /// Takes the oldest slice if more than `keep` are delayed.
    pub(super) fn pop(&mut self, keep: usize) -> Option<(Slice, u64)> {
        let due = self.slices.len() > keep;
        due.then(|| self.slices.pop_front()).flatten()
    }

    /// The number of delayed slices and their requested bytes.
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

/// Reports whether a slice holds only poison.
pub(super) fn is_poison(memory: &Memory, slice: &Slice) -> bool {
    let mut bytes = [0; 4096];
    (slice.offset..slice.offset + slice.padded).step_by(bytes.len()).all(|at| {
        let count = (slice.offset + slice.padded - at).min(bytes.len() as u64) as usize;
        memory.mapping().read(at, &mut bytes[..count]);
        bytes[..count].iter().all(|byte| *byte == POISON)
    })
}
