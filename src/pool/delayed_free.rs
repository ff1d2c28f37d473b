//! Debugging: frees that wait, poisoned, before their bytes are used again.
//!
//! An operation that is still under way when its slice is freed writes into whoever has the slice next. With a delay the
//! slice waits behind a number of other frees, filled with [`POISON`]; when its turn comes and it holds anything else,
//! somebody wrote to freed memory, and is counted.

use std::collections::VecDeque;

use super::{freed, Pool, Slice};
use crate::error::Result;
use crate::handle::Handle;
use crate::profile::Action;
use crate::suballoc::RegionId;

/// What freed bytes hold while they wait.
const POISON: u8 = 0xdd;

/// The frees that wait, oldest first.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// With the bytes that were asked for.
    slices: VecDeque<(Slice, u64)>,
    /// Slices that were written to while they waited.
    pub(super) late_writes: u64,
}

impl Waiting {
    pub(super) fn has(&self, chunk: Handle, region: RegionId) -> bool {
        self.slices.iter().any(|(slice, _)| (slice.chunk, slice.region) == (chunk, region))
    }

    pub(super) fn len(&self) -> usize {
        self.slices.len()
    }

    /// How many, and the bytes that were asked for.
    pub(super) fn figures(&self) -> (u64, u64) {
        (self.slices.len() as u64, self.slices.iter().map(|(_, requested)| requested).sum())
    }

    pub(super) fn clear(&mut self) {
        self.slices.clear();
    }
}

impl Pool {
    /// As `free`, with a delay.
    pub(super) fn free_late(&self, chunk: Handle, region: RegionId, how: Action) -> Result<()> {
        let (slice, requested) = self.slice(chunk, region)?;
        // Before it joins the others: whoever takes it out expects the poison.
        self.poison(&slice);
        {
            let mut state = self.state();
            // Another thread may have freed it in the meantime.
            if state.waiting.has(chunk, region) {
                return Err(freed());
            }
            let region = state.chunks.get(chunk).ok_or_else(freed)?.arena.get(region).map_err(|_stale| freed())?;
            let movable = state.movables.forget((chunk, region.id));
            state.record_ended(chunk, &region, movable, how);
            state.live -= 1;
            state.requested -= requested;
            state.waiting.slices.push_back((slice, requested));
        }
        self.end_waiting(self.layout.delay);
        Ok(())
    }

    /// Lets the oldest go until no more than `keep` wait. Whether any did.
    pub(super) fn end_waiting(&self, keep: usize) -> bool {
        let mut any = false;
        loop {
            let Some((slice, requested)) = ({
                let mut state = self.state();
                let due = state.waiting.len() > keep;
                due.then(|| state.waiting.slices.pop_front()).flatten()
            }) else {
                return any;
            };
            any = true;
            let intact = self.is_poison(&slice);
            let spare = {
                let mut state = self.state();
                state.waiting.late_writes += u64::from(!intact);
                // It was counted as gone when it was freed.
                state.live += 1;
                state.requested += requested;
                state.give(slice.chunk, slice.region, &self.layout, None).unwrap_or_default()
            };
            self.end(spare);
        }
    }

    fn poison(&self, slice: &Slice) {
        if let Some(memory) = self.extent(slice.chunk).ok().and_then(|extent| extent.memory()) {
            memory.mapping().fill(slice.offset..slice.offset + slice.padded, POISON);
        }
    }

    fn is_poison(&self, slice: &Slice) -> bool {
        let Some(memory) = self.extent(slice.chunk).ok().and_then(|extent| extent.memory()) else { return true };
        let mut bytes = [0; 4096];
        (slice.offset..slice.offset + slice.padded).step_by(bytes.len()).all(|at| {
            let count = (slice.offset + slice.padded - at).min(bytes.len() as u64) as usize;
            memory.mapping().read(at, &mut bytes[..count]);
            bytes[..count].iter().all(|byte| *byte == POISON)
        })
    }
}
