//! The simulated NPU: accesses of the device to an allocation, and the syncs that the program missed.

use std::ops::Range;

use super::Manager;
use crate::allocation::Allocation;
use crate::backend::simulated::caches::Fault;
use crate::backend::simulated::Simulated;
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;

impl Manager {
    /// Reads bytes of an allocation as the simulated NPU sees them.
    ///
    /// Errors: `ERR_UNSUPPORTED` on a real device, `ERR_BUFFER_KIND`, `ERR_OUT_OF_RANGE`.
    pub fn device_read(&self, allocation: &Allocation, offset: u64, length: Option<u64>) -> Result<Vec<u8>> {
        let (memory, range) = Self::bytes_of(allocation, offset, length)?;
        let (device, object) = simulated(&memory)?;
        let mut bytes = vec![0; (range.end - range.start) as usize];
        device.device_read(object, range.start, &mut bytes)?;
        Ok(bytes)
    }

    /// Writes bytes of an allocation as a job of the simulated NPU does.
    ///
    /// Errors: those of [`device_read`](Self::device_read).
    pub fn device_write(&self, allocation: &Allocation, offset: u64, bytes: &[u8]) -> Result<()> {
        let (memory, range) = Self::bytes_of(allocation, offset, Some(bytes.len() as u64))?;
        let (device, object) = simulated(&memory)?;
        device.device_write(object, range.start, bytes)
    }

    /// Counts the bytes of an allocation that the simulated NPU wrote and that the CPU has not invalidated since. None
    /// of shared memory that has other holders, which may still do so.
    ///
    /// Errors: those of [`device_read`](Self::device_read).
    pub fn stale_bytes(&self, allocation: &Allocation) -> Result<u64> {
        if allocation.has_other_holders() {
            return Ok(0);
        }
        let (memory, range) = Self::bytes_of(allocation, 0, None)?;
        let (device, object) = simulated(&memory)?;
        device.stale_bytes(object, range)
    }

    /// Takes the missing syncs that were found since the last call. Returns those of `allocation`, as bytes from its
    /// start.
    ///
    /// Errors: those of [`device_read`](Self::device_read).
    pub fn take_missing_syncs(&self, allocation: &Allocation) -> Result<Vec<(Fault, Range<u64>)>> {
        let (memory, own) = Self::bytes_of(allocation, 0, None)?;
        let (device, object) = simulated(&memory)?;
        let missing = device.take_missing_syncs().into_iter().filter(|missing| missing.object == object);
        let inside = missing.filter_map(|missing| {
            let (start, end) = (missing.range.start.max(own.start), missing.range.end.min(own.end));
            (start < end).then(|| (missing.fault, start - own.start..end - own.start))
        });
        Ok(inside.collect())
    }
}

fn simulated(memory: &Memory) -> Result<(&Simulated, Handle)> {
    let Some((device, object)) = memory.device().zip(memory.object()) else {
        return Err(Error::new(ErrorCode::BufferKind, "the NPU does not reach system memory")
            .hint("allocate it with allocateNPUMemory"));
    };
    let Some(device) = device.backend().simulated() else {
        return Err(Error::new(ErrorCode::Unsupported, "only the simulated NPU runs without a runtime")
            .hint("open the manager with backend: 'simulated'"));
    };
    Ok((device, object.handle))
}
