//! Allocation of NPU memory and of system memory.

use std::sync::Arc;

use super::prepared::{backing, dedicated, Prepared};
use super::Manager;
use crate::allocation::{Allocation, Backing};
use crate::backend::{Kind, Placement, Request};
use crate::device::block::Block;
use crate::device::memory::{alignment, HugePages, Memory, PageOptions, Pages};
use crate::error::{Error, ErrorCode, Result};
use crate::exhaustion::retry_with_room;
use crate::sys::page::{page_size, whole_pages};
use crate::units::MemoryKind;

/// Options of an allocation of NPU memory. Sizes are bytes; `None` takes the device's default.
#[derive(Clone, Debug, Default)]
pub struct NpuOptions {
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// A power of two, at least 64; a page by default.
    pub alignment: Option<u64>,
    /// Whether the bytes stay as the driver left them.
    pub dirty: bool,
    /// Whether the mapping bypasses the CPU's caches.
    pub uncached: bool,
    /// Whether the memory is physically contiguous.
    pub contiguous: Option<bool>,
    /// The preferred kind of storage.
    pub placement: Placement,
    /// The IOMMU domain.
    pub domain: u32,
    /// The NPU cores that will use the memory, as a bit mask.
    pub core_mask: u32,
    /// Whether even a small allocation gets its own kernel object.
    pub dedicated: bool,
}

/// Options of an allocation of system memory.
#[derive(Clone, Debug, Default)]
pub struct SystemOptions {
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// A power of two, at least 64; a page by default.
    pub alignment: Option<u64>,
    /// The use of transparent huge pages.
    pub huge_pages: HugePages,
    /// Whether the pages are never swapped.
    pub lock: bool,
    /// Whether the pages are faulted in at once.
    pub prefault: bool,
}

impl Manager {
    /// Allocates NPU memory: a slice of a slab for a small size, else a dedicated kernel object.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::create`](crate::device::Device::create).
    pub fn allocate_npu(&self, size: u64, options: &NpuOptions) -> Result<Arc<Allocation>> {
        self.prepare_npu(size, options)?.enter()
    }

    /// Runs the part of [`allocate_npu`](Self::allocate_npu) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`allocate_npu`](Self::allocate_npu).
    pub fn prepare_npu(&self, size: u64, options: &NpuOptions) -> Result<Prepared> {
        self.counted(MemoryKind::Npu, Some(size), options.tag.clone(), |account| {
            let request = self.request(size, options)?;
            let admission = account.admit(whole_pages(size)?.bytes())?;
            let backing = match options.dedicated {
                true => None,
                false => self.slab_slice(&request, !options.dirty)?,
            };
            let backing = match backing {
                Some(backing) => backing,
                None => dedicated(Memory::Npu(self.block(&request, !options.dirty)?)),
            };
            Ok(Prepared::new(admission, backing, size))
        })
    }

    /// Allocates zeroed pages of this process.
    ///
    /// Errors: those of [`Pages::allocate`].
    pub fn allocate_system(&self, size: u64, options: &SystemOptions) -> Result<Arc<Allocation>> {
        self.counted(MemoryKind::System, Some(size), options.tag.clone(), |account| {
            let page_options = page_options(options)?;
            let pages = whole_pages(size)?;
            let admission = account.admit(pages.bytes())?;
            let memory = Memory::System(Pages::allocate(pages, page_options)?);
            Allocation::enter(admission, dedicated(memory), size)
        })
    }

    /// Allocates a slice of a slab. Returns `None` if the request is not for slabs, or if no slab fits: there may still
    /// be room for a dedicated object.
    fn slab_slice(&self, request: &Request, zeroed: bool) -> Result<Option<Backing>> {
        let Some(pool) = self.slabs.pool_for(request)? else { return Ok(None) };
        self.bound_waits();
        let Ok(slice) = pool.allocate(request.size, page_size()) else { return Ok(None) };
        backing(pool, slice, zeroed).map(Some)
    }

    /// Ends the oldest waits in slabs until the slices that still wait fit under every limit, with the memory in use.
    fn bound_waits(&self) {
        if self.slabs.waiting() > 0 {
            self.slabs.end_waits_beyond(self.accounting.limit_and_room(MemoryKind::Npu).1);
        }
    }

    /// Creates a kernel object. Frees the empty slabs and tries again before it fails for lack of memory.
    fn block(&self, request: &Request, zeroed: bool) -> Result<Block> {
        retry_with_room(|| Block::create(&self.device, request, zeroed), || self.slabs.trim() > 0)
    }

    pub(super) fn request(&self, size: u64, options: &NpuOptions) -> Result<Request> {
        let info = self.info();
        if let Some(cores) = info.npu_cores {
            if u64::from(options.core_mask) >> cores != 0 {
                let message =
                    format!("coreMask {:#b} names cores that this NPU lacks: it has {cores}", options.core_mask);
                return Err(Error::new(ErrorCode::OutOfRange, message));
            }
        }
        Ok(Request {
            size,
            alignment: alignment(options.alignment, page_size())?.max(page_size()),
            cacheable: !options.uncached,
            // Scattered pages behind an IOMMU, contiguous ones without: `docs/design/drivers.md` §6, rule 7.
            contiguous: options.contiguous.unwrap_or(!info.iommu && info.kind != Kind::DmaHeap),
            placement: options.placement,
            domain: options.domain,
            core_mask: options.core_mask,
        })
    }
}

pub(super) fn page_options(options: &SystemOptions) -> Result<PageOptions> {
    Ok(PageOptions {
        alignment: alignment(options.alignment, page_size())?.max(page_size()),
        huge_pages: options.huge_pages,
        lock: options.lock,
        prefault: options.prefault,
    })
}
