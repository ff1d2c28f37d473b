//! The vendor's driver, DMA-heap flavour: /dev/rknpu, where every buffer *is* a dma-buf fd (`docs/design/rknpu.md`
//! §2.5, §3.6).
//!
//! The driver keeps a raw pointer to each dma-buf. So an object ends in the order munmap, MEM_DESTROY, close, and no
//! call may name it after its fd is closed. The driver reads the number of an ioctl and ignores its type. It would take
//! a DRM ioctl for another call (`docs/design/drivers.md` §2), so this backend sends none.

use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::contiguous;
use super::device_node::{duplicate, inside, inspect as inspect_dma_buf, misplaced, open_node, sync_dma_buf};
use super::errno::{check, translate, Call, Context};
use super::object_table::{unnamed, ObjectTable};
use super::soc::npu_cores;
use super::{Backend, DeviceInfo, Direction, Gauges, Kind, Maintenance, Object, Request};
use crate::abi::rknpu::{self, Action, MemCreate, MISC};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::sys::proc::Proc;

/// An open /dev/rknpu. See the [module](self).
#[derive(Debug)]
pub struct RknpuHeap {
    info: DeviceInfo,
    device: OwnedFd,
    objects: ObjectTable<(u64, u64), Buffer>,
}

/// The kernel's names of an object.
#[derive(Debug)]
struct Buffer {
    /// The fd that owns the memory.
    fd: OwnedFd,
    /// A kernel pointer. It stays in this struct, and MEM_DESTROY uses it once.
    obj_addr: u64,
}

impl RknpuHeap {
    /// Opens the node.
    ///
    /// Errors: `ERR_DEVICE_NOT_FOUND`, `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`.
    pub fn open(path: &Path, soc: Option<&str>) -> Result<Self> {
        let device = open_node(Kind::RknpuHeap, path, OFlag::O_RDWR)?;
        let ask = |action| MISC.action(device.as_fd(), action, 0);
        let version = ask(Action::GetDriverVersion).ok().filter(|version| *version > 0).ok_or_else(|| {
            Error::new(ErrorCode::DeviceNotFound, format!("{} does not answer as the rknpu driver", path.display()))
                .path(path)
        })?;
        let info = DeviceInfo {
            kind: Kind::RknpuHeap,
            path: Some(path.to_owned()),
            soc: soc.map(str::to_owned),
            driver_version: Some(format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100)),
            npu_cores: soc.and_then(npu_cores),
            // The driver unmaps a buffer as soon as it knows its address, so no buffer would be usable with an IOMMU
            // (§2.5).
            iommu: ask(Action::GetIommuEnabled).is_ok_and(|enabled| enabled != 0),
            domains: 0,
            domain_bytes: Proc::default().meminfo().and_then(|memory| memory.cma_total).unwrap_or(0),
            sram_total: 0,
        };
        Ok(Self { info, device, objects: ObjectTable::new() })
    }

    fn at(&self) -> Context<'_> {
        Context::of(&self.info, self.objects.held())
    }

    /// Calls MEM_DESTROY, then closes the fd, also if the driver failed: the fd owns the memory
    /// (`docs/design/drivers.md` §2).
    fn end(&self, buffer: Buffer) -> Result<(), Errno> {
        MISC.mem_destroy(self.device.as_fd(), 0, buffer.obj_addr)
    }

    fn describe(&self, size: u64, dma_addr: u64, imported: bool) -> Object {
        Object {
            handle: unnamed(),
            size,
            device_address: (!self.info.iommu).then_some(dma_addr),
            sram: 0,
            domain: None,
            cacheable: true,
            contiguous: !imported,
            // The vendor's heap clears its buffers, but no interface promises it for every heap of that name.
            zeroed: false,
            imported,
        }
    }
}

impl Backend for RknpuHeap {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn create(&self, request: &Request) -> Result<Object> {
        check(request, page_size())?;
        let unsupported = |message: &str, hint: &str| {
            Err(Error::new(ErrorCode::Unsupported, message).requested(request.size).hint(hint))
        };
        if !request.cacheable {
            return unsupported("/dev/rknpu gives cached memory only", "leave `cacheable` out and sync");
        }
        if request.domain != 0 {
            return unsupported("/dev/rknpu has no IOMMU domains", "leave `iommuDomain` out");
        }
        // CMA aligns to the size, as far as it aligns at all. So a larger size provides the alignment.
        let size = request.size.max(if request.alignment > page_size() { request.alignment } else { 0 });
        contiguous::check_room(&self.info, size, || self.at().here())?;
        // No NON_CONTIGUOUS: this flavour refuses it (§2.4).
        let mut create =
            MemCreate { flags: rknpu::CACHEABLE, size, core_mask: request.core_mask, ..MemCreate::default() };
        let fd = rknpu::create_dma_buf(self.device.as_fd(), &mut create)
            .map_err(|errno| translate(Call::Create, errno, &self.at().request(request)))?;
        let identity = inspect_dma_buf(fd.as_fd(), None).ok().and_then(|buffer| buffer.identity);
        let buffer = Buffer { fd, obj_addr: create.obj_addr };
        let misaligned = !create.dma_addr.is_multiple_of(request.alignment);
        if create.size < size || (misaligned && !self.info.iommu) {
            let _ = self.end(buffer);
            return Err(misplaced(create.dma_addr, request.alignment).requested(request.size));
        }
        Ok(self.objects.insert(identity, buffer, self.describe(create.size, create.dma_addr, false)))
    }

    /// Only memory in one piece is usable: for a scattered buffer, the driver returns the address of its *last* piece
    /// (§2.5). This backend cannot check it.
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        let dma_buf = inspect_dma_buf(fd, size)?;
        if let Some(known) = dma_buf.identity.and_then(|identity| self.objects.add_reference(&identity)) {
            return Ok(known);
        }
        // The driver returns the caller's size, never the buffer's (`docs/design/drivers.md` §2).
        let own = duplicate(fd)?;
        let handle = u32::try_from(own.as_raw_fd()).unwrap_or(0);
        let mut create = MemCreate { handle, flags: rknpu::CACHEABLE, size: dma_buf.size, ..MemCreate::default() };
        MISC.mem_create(self.device.as_fd(), &mut create)
            .map_err(|errno| translate(Call::Import, errno, &self.at().bytes(dma_buf.size)))?;
        let buffer = Buffer { fd: own, obj_addr: create.obj_addr };
        let object = self.describe(dma_buf.size, create.dma_addr, true);
        let (object, loser) = self.objects.insert_import(dma_buf.identity, buffer, object);
        if let Some(loser) = loser {
            let _ = self.end(loser); // another thread imported the same buffer meanwhile
        }
        Ok(object)
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        self.objects.with(object, "mmap", |buffer, object| {
            // The driver ignores any other offset (`docs/design/drivers.md` §2).
            Mapping::shared(buffer.fd.as_fd(), 0, object.size, alignment).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                translate(Call::Mmap, errno, &self.at().bytes(object.size))
            })
        })
    }

    /// Syncs the whole buffer for any range. MEM_SYNC takes a range, but reads a freed table unless the kernel has the
    /// vendor's partial-sync option (§3.7).
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        self.objects.with(object, "DMA_BUF_IOCTL_SYNC", |buffer, object| {
            if inside(range, object.size, "DMA_BUF_IOCTL_SYNC")?.is_empty() {
                return Ok(());
            }
            sync_dma_buf(buffer.fd.as_fd(), direction).map_err(|errno| translate(Call::SyncDmaBuf, errno, &self.at()))
        })
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        self.objects.with(object, "fcntl(F_DUPFD_CLOEXEC)", |buffer, _| duplicate(buffer.fd.as_fd()))
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        match self.objects.release(object, "MEM_DESTROY")? {
            Some((buffer, _)) => self.end(buffer).map_err(|errno| translate(Call::Destroy, errno, &self.at())),
            None => Ok(()),
        }
    }

    fn gauges(&self, _domain: u32) -> Gauges {
        Gauges::default()
    }

    fn live(&self) -> usize {
        self.objects.len()
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Objects
    }
}

impl Drop for RknpuHeap {
    fn drop(&mut self) {
        // Destroys the objects before their fds close. Drivers of 0.8 keep for ever the objects of a process that exits
        // (§2.5).
        for buffer in self.objects.drain() {
            let _ = self.end(buffer);
        }
    }
}
