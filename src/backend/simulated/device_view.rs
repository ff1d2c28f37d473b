//! The simulated NPU's accesses to memory, and the syncs that a program missed.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;

use super::caches::{CachedMemory, Found};
use super::missing::{MissingSync, MissingSyncs};
use super::Simulated;
use crate::backend::cache_maintenance::maintain_object;
use crate::backend::device_node::inside;
use crate::backend::{Direction, Maintenance};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sys::dma_buf::INCOHERENT_VIEWS;

impl Simulated {
    /// Reads bytes of an object as the device does, past the CPU's caches.
    ///
    /// Errors: `ERR_DEVICE_IO` for a stale handle, `ERR_OUT_OF_RANGE` outside the object.
    pub fn device_read(&self, object: Handle, offset: u64, bytes: &mut [u8]) -> Result<()> {
        let (memory, caches, size) = self.views(object)?;
        inside(offset..offset.saturating_add(bytes.len() as u64), size, "device_read")?;
        match caches {
            Some(caches) => self.record(object, caches.device_read(offset, bytes)),
            None => memory.read_exact_at(bytes, offset).map_err(|error| failed(&error)),
        }
    }

    /// Writes bytes of an object as a job does, past the CPU's caches.
    ///
    /// Errors: those of [`device_read`](Self::device_read).
    pub fn device_write(&self, object: Handle, offset: u64, bytes: &[u8]) -> Result<()> {
        let (memory, caches, size) = self.views(object)?;
        inside(offset..offset.saturating_add(bytes.len() as u64), size, "device_write")?;
        match caches {
            Some(caches) => self.record(object, caches.device_write(offset, bytes)),
            None => memory.write_all_at(bytes, offset).map_err(|error| failed(&error)),
        }
    }

    /// Returns how often the file behind an exported object has its bytes: once, or as often as the model of the caches
    /// has views.
    pub fn views_of(&self, object: Handle) -> u64 {
        self.views(object).map_or(1, |(_, caches, _)| if caches.is_some() { INCOHERENT_VIEWS } else { 1 })
    }

    /// Counts the bytes of lines in `range` that the device wrote and that the CPU has neither invalidated nor written.
    ///
    /// Errors: those of [`device_read`](Self::device_read).
    pub fn stale_bytes(&self, object: Handle, range: Range<u64>) -> Result<u64> {
        let (_, caches, size) = self.views(object)?;
        let range = inside(range, size, "stale_bytes")?;
        caches.map_or(Ok(0), |caches| caches.stale_bytes(range).map_err(|error| failed(&error)))
    }

    /// Takes the missing syncs that were found since the last call; none without [`check_sync`](super::Options).
    pub fn take_missing_syncs(&self) -> Vec<MissingSync> {
        self.missing.as_ref().map(MissingSyncs::take).unwrap_or_default()
    }

    /// Maintains the caches of `range`, or of the whole object on a device that knows no ranges.
    pub(super) fn maintain(
        &self,
        object: Handle,
        caches: &CachedMemory,
        direction: Direction,
        range: Range<u64>,
    ) -> Result<()> {
        if self.maintenance == Maintenance::Ranges {
            return self.record(object, caches.maintain(direction, Some(range.clone()), &range));
        }
        let kernel = |direction| {
            let done = self.record(object, caches.maintain(direction, None, &range));
            done.map_err(|error| error.errno().map_or(Errno::EIO, Errno::from_raw))
        };
        maintain_object(direction, kernel).map_err(|errno| failed(&errno.into()))
    }

    fn record(&self, object: Handle, found: io::Result<Vec<Found>>) -> Result<()> {
        let found = found.map_err(|error| failed(&error))?;
        if let Some(missing) = &self.missing {
            missing.add(object, found);
        }
        Ok(())
    }

    fn views(&self, object: Handle) -> Result<(std::sync::Arc<std::fs::File>, Option<CachedMemory>, u64)> {
        self.entry(object, "access of the device", |entry| {
            (std::sync::Arc::clone(&entry.memory), entry.caches.clone(), entry.object.size)
        })
    }
}

fn failed(error: &io::Error) -> Error {
    Error::new(ErrorCode::DeviceIo, format!("the simulated device cannot reach its memory: {error}"))
        .syscall("pread", error.raw_os_error().unwrap_or(0))
}
