//! A [`Block`]: one kernel object with its mapping and its charges. Only its drop destroys the object.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::backend::{Direction, Object, Request};
use crate::device::{Charges, Device};
use crate::error::{Error, ErrorCode, Result};
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::units::{align_down, align_up, format_bytes};

/// Which bytes of a dma-buf to import. The default is all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ImportRange {
    /// The first byte, a multiple of [`ImportRange::ALIGNMENT`].
    pub offset: u64,
    /// The number of bytes; `None` stands for all from `offset` on.
    pub size: Option<u64>,
}

impl ImportRange {
    /// The alignment of `offset`. An ArrayBuffer at another address would fault in `Atomics` on arm64.
    pub const ALIGNMENT: u64 = 8;

    /// The bytes that the dma-buf must have.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` if `offset` is not aligned.
    fn bound(self) -> Result<Option<u64>> {
        if !self.offset.is_multiple_of(Self::ALIGNMENT) {
            let message = format!("offset is {}; it must be a multiple of {}", self.offset, Self::ALIGNMENT);
            return Err(Error::new(ErrorCode::OutOfRange, message)
                .requested(self.offset)
                .hint("import from the multiple below, and make a view of the ArrayBuffer"));
        }
        let needed = self.size.map_or(self.offset.saturating_add(1), |size| self.offset.saturating_add(size));
        Ok((self.offset > 0 || self.size.is_some()).then_some(needed))
    }

    /// The range within an object of `available` bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`.
    fn within(self, available: u64) -> Result<Range<u64>> {
        let end = self.size.map_or(Some(available), |size| self.offset.checked_add(size));
        match end {
            Some(end) if self.offset < end && end <= available => Ok(self.offset..end),
            _ => {
                let message = format!(
                    "bytes from {} to {} are not inside the dma-buf, which has {}",
                    self.offset,
                    self.size.map_or("its end".to_owned(), |size| self.offset.saturating_add(size).to_string()),
                    format_bytes(available)
                );
                Err(Error::new(ErrorCode::OutOfRange, message)
                    .requested(self.offset.saturating_add(self.size.unwrap_or(1)))
                    .available(available))
            }
        }
    }
}

/// An owned kernel object, mapped. See the [module](self).
#[derive(Debug)]
pub struct Block {
    // Fields drop in this order: a dma-buf must be unmapped before its object is destroyed (`docs/design/rknpu.md`
    // §3.6).
    mapping: Mapping,
    owned: Owned,
    /// The bytes in use: all of the object, or a part of an import.
    used: Range<u64>,
    /// Whether the driver has nothing to do for [`sync`](Self::sync).
    coherent: bool,
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
        let used = 0..object.size;
        let block = Self::map(device, object, charges, request.alignment, used)?;
        let object = block.object();
        if zeroed && !object.zeroed {
            block.mapping.zero(0..object.size);
            // The CPU caches may still hold the zeros; without a clean, the device would read the old bytes.
            block.sync(Direction::ToDevice, 0..object.size)?;
        }
        Ok(block)
    }

    /// Imports a foreign dma-buf, of which `range` will be used. Maps all of it: drivers ignore the offset of a mapping
    /// (`docs/design/drivers.md` §6, rule 8).
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for a range beyond the dma-buf's end, and those of [`Device::import`] and
    /// [`Backend::map`](crate::backend::Backend::map).
    pub fn import(device: &Arc<Device>, fd: BorrowedFd<'_>, range: ImportRange) -> Result<Self> {
        let (object, charges) = device.import(fd, range.bound()?)?;
        let owned = Owned { device: Arc::clone(device), object, charges: Some(charges) };
        // A backend may know the object, and not look at the bound.
        let used = range.within(owned.object.size)?;
        Self::map_owned(owned, page_size(), used)
    }

    fn map(
        device: &Arc<Device>,
        object: Object,
        charges: Arc<Charges>,
        alignment: u64,
        used: Range<u64>,
    ) -> Result<Self> {
        Self::map_owned(Owned { device: Arc::clone(device), object, charges: Some(charges) }, alignment, used)
    }

    /// Maps the object. `owned` destroys it if that fails.
    fn map_owned(owned: Owned, alignment: u64, used: Range<u64>) -> Result<Self> {
        let mapping = owned.device.backend().map(owned.object.handle, alignment)?;
        let coherent = owned.device.backend().needs_no_sync(owned.object.handle);
        Ok(Self { mapping, owned, used, coherent })
    }

    /// The bytes in use: all of the object, or the part of it that was imported.
    pub fn used(&self) -> Range<u64> {
        self.used.clone()
    }

    /// The pages in use.
    fn used_pages(&self) -> Range<u64> {
        let end = align_up(self.used.end, page_size()).unwrap_or(self.used.end);
        align_down(self.used.start, page_size())..end.min(self.object().size)
    }

    /// The bytes that the pages in use have.
    pub fn reserved(&self) -> u64 {
        let pages = self.used_pages();
        pages.end - pages.start
    }

    /// Reports whether every page of the object is in use.
    pub fn is_whole(&self) -> bool {
        self.reserved() == self.object().size
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
        match self.coherent {
            true => Ok(()),
            false => self.owned.device.backend().sync(self.object().handle, direction, range),
        }
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
