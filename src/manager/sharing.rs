//! Memory that several owners use: dma-bufs of other libraries and processes, and buffers of other managers.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use super::prepared::{dedicated, Prepared};
use super::Manager;
use crate::allocation::backing::SharedBacking;
use crate::allocation::{Allocation, Backing};
use crate::device::block::{Block, ImportRange};
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::units::MemoryKind;

impl Manager {
    /// Maps `range` of a dma-buf of another library or process. `fd` stays the caller's.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::import`](crate::device::Device::import).
    pub fn import(&self, fd: BorrowedFd<'_>, range: ImportRange, tag: Option<Arc<str>>) -> Result<Arc<Allocation>> {
        self.prepare_import(fd, range, tag)?.enter()
    }

    /// Runs the part of [`import`](Self::import) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`import`](Self::import).
    pub fn prepare_import(&self, fd: BorrowedFd<'_>, range: ImportRange, tag: Option<Arc<str>>) -> Result<Prepared> {
        self.counted(MemoryKind::Npu, range.size, tag, |account| {
            // The size is known only after the import; an object that exceeds a limit is closed again.
            let mut admission = account.admit(0)?;
            let block = Block::import(&self.device, fd, range)?;
            admission.cover(block.reserved())?;
            let used = block.used();
            Ok(Prepared::new(admission, dedicated(Memory::Npu(block)), used.end - used.start))
        })
    }

    /// Makes an allocation of this manager over memory that another manager of this process shares.
    ///
    /// Errors: those of [`SharedBacking::find`] and [`SharedBacking::retain`]; `ERR_UNSUPPORTED` for memory of another
    /// kind of device.
    pub fn adopt(&self, token: &str) -> Result<Arc<Allocation>> {
        let share = SharedBacking::find(token)?;
        let backing = Backing::Shared(Arc::clone(&share));
        let (memory, _) =
            backing.memory().ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this buffer was freed"))?;
        if let Some(other) = memory.device().map(|device| device.info().kind).filter(|kind| *kind != self.info().kind) {
            let message =
                format!("this buffer is memory of \"{other}\", and this manager uses \"{}\"", self.info().kind);
            return Err(Error::new(ErrorCode::Unsupported, message).hint("open both managers with the same backend"));
        }
        self.counted(memory.kind(), Some(share.size), share.tag.clone(), |account| {
            let admission = account.admit(backing.reserved())?;
            share.retain()?;
            Allocation::enter(admission, backing.clone(), share.size)
        })
    }

    /// Counts an adoption of the shared memory `token` that the caller gave up.
    pub fn count_refused_adoption(&self, token: &str) {
        let Ok(share) = SharedBacking::find(token) else { return };
        if let Some((memory, _)) = Backing::Shared(Arc::clone(&share)).memory() {
            self.count_refused(memory.kind(), share.size, share.tag.clone());
        }
    }

    /// Returns a new close-on-exec dma-buf fd of the allocation's kernel object. The allocation starts at
    /// [`offset`](Allocation::offset) in it, and stays there.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, those of the driver, and those of
    /// [`Pool::keep_exported`](crate::pool::Pool::keep_exported).
    pub fn export(&self, allocation: &Allocation) -> Result<OwnedFd> {
        let (memory, _) = allocation.memory()?;
        if let (MemoryKind::Npu, Some((pool, slice))) = (allocation.kind, allocation.place()) {
            pool.keep_exported(&slice)?;
        }
        memory.export()
    }
}
