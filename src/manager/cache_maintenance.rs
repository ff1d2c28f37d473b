//! Maintenance of the CPU's caches over an allocation.

use std::ops::Range;
use std::sync::Arc;

use super::Manager;
use crate::allocation::Allocation;
use crate::backend::{Direction, Maintenance};
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::units::MemoryKind;

impl Manager {
    /// Synchronizes the CPU's caches for `length` bytes from `offset` on, by default up to the end.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, `ERR_OUT_OF_RANGE`, and those of the driver.
    pub fn sync(&self, allocation: &Allocation, direction: Direction, offset: u64, length: Option<u64>) -> Result<()> {
        self.prepare_sync(allocation, direction, offset, length)?.run()
    }

    /// Returns the part of [`sync`](Self::sync) that waits for the driver, for any thread. The job keeps the memory
    /// alive.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_BUFFER_KIND`.
    pub fn prepare_sync(
        &self,
        allocation: &Allocation,
        direction: Direction,
        offset: u64,
        length: Option<u64>,
    ) -> Result<SyncJob> {
        let (memory, range) = Self::bytes_of(allocation, offset, length)?;
        // The clean and the invalidate of a whole object are two steps. A neighbour's bytes that this thread writes in
        // between would be lost, so a slice is not left to another thread.
        let whole = memory.device().is_some_and(|device| device.backend().maintenance() == Maintenance::Objects);
        let shared = range.end - range.start < memory.mapping().len();
        if whole && shared && direction == Direction::FromDevice {
            memory.sync(direction, range)?;
            return Ok(SyncJob(None));
        }
        Ok(SyncJob(Some((memory, direction, range))))
    }

    /// Returns the memory of an allocation, with the place of `length` bytes from `offset` on, by default all the rest.
    pub(super) fn bytes_of(
        allocation: &Allocation,
        offset: u64,
        length: Option<u64>,
    ) -> Result<(Arc<Memory>, Range<u64>)> {
        let (memory, start) = allocation.memory()?;
        let end = length.map_or(Some(allocation.size), |length| offset.checked_add(length));
        let range = match end {
            Some(end) if offset <= end && end <= allocation.size => start + offset..start + end,
            _ if allocation.kind == MemoryKind::System => 0..0,
            _ => {
                let length = length.unwrap_or(0);
                let message =
                    format!("offset {offset} and length {length} exceed the buffer's {} bytes", allocation.size);
                return Err(Error::new(ErrorCode::OutOfRange, message)
                    .requested(offset.saturating_add(length))
                    .limit("buffer", allocation.size));
            }
        };
        Ok((memory, range))
    }
}

/// Cache maintenance that is left to do.
#[derive(Debug)]
pub struct SyncJob(Option<(Arc<Memory>, Direction, Range<u64>)>);

impl SyncJob {
    /// Maintains the caches.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of the driver.
    pub fn run(self) -> Result<()> {
        self.0.map_or(Ok(()), |(memory, direction, range)| memory.sync(direction, range))
    }
}
