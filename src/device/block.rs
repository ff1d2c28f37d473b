//! A [`Block`]: one kernel object with its mapping and its charges. Only its drop destroys the object.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::backend::{Direction, Object, Request};
use crate::device::{Charges, Device};
use crate::error::{Error, ErrorCode, Result};
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::units::format_bytes;

/// An owned kernel object, mapped. See the [module](self).
#[derive(Debug)]
pub struct Block {
    // Fields drop in this order: a dma-buf must be unmapped before its object is destroyed (`docs/design/rknpu.md`
    // §3.6).
    mapping: Mapping,
    owned: Owned,
}

/// A kernel object that goes to the reaper when this drops.
#[derive(Debug)]
struct Owned {
    device: Arc<Device>,
    object: Object,
    charges: Option<Arc<Charges>>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(charges) = self.charges.take() {
            self.device.free_later(self.object.clone(), charges);
        }
    }
}

impl Block {
    /// Creates and maps a kernel object. With `zeroed`, the object has no stale bytes.
    ///
    /// Errors: those of [`Device::create`] and [`Backend::map`](crate::backend::Backend::map).
    pub fn create(device: &Arc<Device>, request: &Request, zeroed: bool) -> Result<Self> {
        let (object, charges) = device.create(request)?;
        let block = Self::map(device, object, charges, request.alignment)?;
        let object = block.object();
        if zeroed && !object.zeroed {
            block.mapping.zero(0..object.size);
            // The CPU caches may still hold the zeros; without a clean, the device would read the old bytes.
            block.sync(Direction::ToDevice, 0..object.size)?;
        }
        Ok(block)
    }

    /// Imports and maps a foreign dma-buf.
    ///
    /// Errors: those of [`Device::import`] and [`Backend::map`](crate::backend::Backend::map).
    pub fn import(device: &Arc<Device>, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Self> {
        let (object, charges) = device.import(fd, size)?;
        Self::map(device, object, charges, page_size())
    }

    fn map(device: &Arc<Device>, object: Object, charges: Arc<Charges>, alignment: u64) -> Result<Self> {
        // `owned` destroys the object on every early return.
        let owned = Owned { device: Arc::clone(device), object, charges: Some(charges) };
        let mapping = device.backend().map(owned.object.handle, alignment)?;
        Ok(Self { mapping, owned })
    }

    /// The properties of the kernel object.
    pub fn object(&self) -> &Object {
        &self.owned.object
    }

    /// The device that owns this object.
    pub fn device(&self) -> &Arc<Device> {
        &self.owned.device
    }

    /// The mapping of the whole object.
    pub fn mapping(&self) -> &Mapping {
        &self.mapping
    }

    /// Maintains the caches for `range` (bytes from the start).
    ///
    /// Errors: `ERR_OUT_OF_RANGE` outside the object, and those of [`Backend::sync`](crate::backend::Backend::sync).
    pub fn sync(&self, direction: Direction, range: Range<u64>) -> Result<()> {
        let size = self.object().size;
        if range.start > range.end || range.end > size {
            let message = format!("bytes {}..{} are not inside the object's {size}", range.start, range.end);
            return Err(Error::new(ErrorCode::OutOfRange, message));
        }
        self.owned.device.backend().sync(self.object().handle, direction, range)
    }

    /// Exports the whole object as a new close-on-exec dma-buf fd.
    ///
    /// Errors: `ERR_UNSUPPORTED` for an object in SRAM, and those of
    /// [`Backend::export`](crate::backend::Backend::export).
    pub fn export(&self) -> Result<OwnedFd> {
        if self.object().sram > 0 {
            // The driver exports the DRAM pages behind the SRAM (`docs/design/drivers.md` §5, A4).
            let message = format!(
                "{} of this buffer are on-chip SRAM, which cannot be exported: other devices would see the main \
                 memory behind it",
                format_bytes(self.object().sram)
            );
            return Err(Error::new(ErrorCode::Unsupported, message)
                .hint("allocate buffers that are exported without `placement: \"try-sram\"`"));
        }
        self.owned.device.backend().export(self.object().handle)
    }
}
