//! The vendor's driver, DRM GEM flavour (`docs/design/rknpu.md` §2 and §3).
//!
//! The kernel counts a GEM handle once, however often its dma-buf is imported, and returns the *same* handle each time.
//! So this backend keeps the count (`object_table.rs`). An import must not run during a close: it could get a handle
//! that dies the next moment, or that another buffer then gets. `gate` excludes the two: an import takes it
//! exclusively, a destroy shares it. The gate also keeps this process's switches of the IOMMU domain away from an
//! import (see [`RknpuGem::import`]). Its purpose is to be held across ioctls, and it is taken before any other lock.
//!
//! The IOMMU domain is the device's, for all processes (§3.4):
//!
//! - A driver below 0.9.8 does not hold the domain while it creates, frees or runs a job. A switch by one process fails
//!   the allocations of all others and damages the driver's page tables (`docs/design/drivers.md` §5). So this backend
//!   never switches there, and uses domain 0 only.
//! - Later drivers wait for the current domain's jobs, up to 6 s, before they switch. So opening never switches. The
//!   first creation outside domain 0 shows whether the build has domains at all. Calls that took the device out of
//!   domain 0 put it back (`home_domain.rs`).

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{fence, AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::contiguous;
use super::device_node::{duplicate, inside, inspect as inspect_dma_buf, misplaced, open_node, sync_dma_buf};
use super::errno::{check, domain_busy, no_domain, translate, Call, Context, MAX_DOMAINS};
use super::home_domain::{DomainCalls, HomeDomain, Visit};
use super::object_table::{unnamed, ObjectTable};
use super::soc::npu_cores;
use super::{Backend, DeviceInfo, Direction, Gauges, Kind, Object, Placement, Request};
use crate::abi::drm;
use crate::abi::rknpu::{self, Action, MemCreate, MemSync, DRM};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sync::{RwLock, RwLockReadGuard};
use crate::sys::dma_buf::DmaBuf;
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::sys::proc::Proc;
use crate::units::{align_down, align_up, format_bytes, GIB};

/// The first driver that holds the domain during a call (`docs/design/drivers.md` §5).
const HOLDS_DOMAINS: [u32; 3] = [0, 9, 8];
/// The cache line of every core in these SoCs. The driver works on bytes, so ranges are rounded outward to lines.
const CACHE_LINE: u64 = 64;
/// The first driver that knows [`rknpu::IOMMU_LIMIT_IOVA_ALIGNMENT`] (`docs/design/rknpu.md` §2.4).
pub(super) const LIMITS_ALIGNMENT: [u32; 3] = [0, 9, 7];
/// The maximum attempts of a call while other processes switch the device's domain.
const DOMAIN_TRIES: u32 = 8;

/// An open DRM node. See the [module](self).
#[derive(Debug)]
pub struct RknpuGem {
    info: DeviceInfo,
    device: OwnedFd,
    objects: ObjectTable<u32, Gem>,
    gate: RwLock<()>,
    /// Whether an object outside domain 0 has proven that the build has domains.
    has_domains: AtomicBool,
    home: HomeDomain,
}

/// The kernel's names of an object.
#[derive(Debug)]
struct Gem {
    handle: u32,
    /// A kernel pointer, which MEM_SYNC dereferences unchecked. It stays in this struct and ends with the handle.
    obj_addr: u64,
    /// MEM_SYNC accepts cacheable objects only.
    cacheable: bool,
    origin: Origin,
}

#[derive(Debug)]
enum Origin {
    /// MEM_CREATE created the object.
    Created,
    /// An import of an object of this driver, created by another process.
    Sibling,
    /// An import from another driver, which maps and syncs it through this fd.
    Foreign(OwnedFd),
}

impl RknpuGem {
    /// Opens the node if its driver is "rknpu".
    ///
    /// Errors: `ERR_DEVICE_NOT_FOUND`, `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`, `ERR_DEVICE_IO`.
    pub fn open(path: &Path, soc: Option<&str>) -> Result<Self> {
        let device = open_node(Kind::Rknpu, path, OFlag::O_RDWR)?;
        // Sends no private ioctl before the name is known: other drivers give the same numbers another meaning (§1.2).
        let version = drm::version(device.as_fd()).ok().filter(|version| version.name == "rknpu").ok_or_else(|| {
            Error::new(ErrorCode::DeviceNotFound, format!("{} is not an rknpu node", path.display())).path(path)
        })?;
        let ask = |action| DRM.action(device.as_fd(), action, 0);
        let iommu = ask(Action::GetIommuEnabled).map_err(|errno| {
            Error::new(ErrorCode::DeviceIo, format!("the rknpu driver does not say whether it has an IOMMU: {errno}"))
                .syscall("ACTION", errno as i32)
                .path(path)
        })? != 0;
        let (major, minor, patch) = version.number;
        let cma = || Proc::default().meminfo().and_then(|memory| memory.cma_total).unwrap_or(0);
        let mut info = DeviceInfo {
            kind: Kind::Rknpu,
            path: Some(path.to_owned()),
            soc: soc.map(str::to_owned),
            driver_version: Some(format!("{major}.{minor}.{patch}")),
            npu_cores: soc.and_then(npu_cores),
            iommu,
            domains: u32::from(iommu),
            domain_bytes: if iommu { 4 * GIB } else { cma() },
            // EINVAL means that the driver is older than its SRAM support.
            sram_total: ask(Action::GetTotalSram).map_or(0, u64::from),
        };
        if iommu && !info.driver_is_below(HOLDS_DOMAINS) && ask(Action::GetIommuDomain).is_ok() {
            info.domains = MAX_DOMAINS;
        }
        Ok(Self {
            info,
            device,
            objects: ObjectTable::new(),
            gate: RwLock::new(()),
            has_domains: AtomicBool::new(false),
            home: HomeDomain::default(),
        })
    }

    /// Starts a call that takes the device to `domain`; `None` is the unknown domain of a sibling's object. Such a call
    /// shares the gate.
    fn visit(&self, domain: Option<u32>) -> Option<Visit<'_, OwnedFd>> {
        (self.info.domains > 1 && domain != Some(0)).then(|| self.home.visit(&self.device))
    }

    /// Finds out, once, whether the build has domains: one without CONFIG_NO_GKI accepts every domain and uses domain 0
    /// (§3.4). Creates an object in `domain`, as the caller is about to, and reads the domain back.
    ///
    /// Errors: `ERR_UNSUPPORTED` if the build has none, and those of a create.
    fn prove_domains(&self, domain: u32) -> Result<()> {
        if self.has_domains.load(Ordering::Relaxed) {
            return Ok(());
        }
        let device = self.device.as_fd();
        let _gate = self.gate.write();
        // Tries several times: another process may switch between the two calls.
        for _ in 0..DOMAIN_TRIES {
            let before = self.device.current_domain();
            if before.is_some_and(|current| current != 0) {
                self.has_domains.store(true, Ordering::Relaxed);
                return Ok(());
            }
            let mut create = MemCreate {
                flags: flags(true, &Request::plain(page_size())),
                size: page_size(),
                iommu_domain_id: domain as i32, // below 16 by the caller's check
                ..MemCreate::default()
            };
            let at = Context { domain, ..self.at().bytes(page_size()) };
            DRM.mem_create(device, &mut create).map_err(|errno| translate(Call::Create, errno, &at))?;
            let switched = self.device.current_domain() == Some(domain);
            let _ = DRM.mem_destroy(device, create.handle, create.obj_addr);
            let _ = self.device.to_domain_0();
            if switched {
                self.has_domains.store(true, Ordering::Relaxed);
                return Ok(());
            }
        }
        Err(no_domain(&self.info, domain))
    }

    fn shared_gate(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read()
    }

    fn at(&self) -> Context<'_> {
        Context::of(&self.info, self.objects.held())
    }

    /// Inserts an import. A failure closes the handle, which no other code has while `gate` is held exclusively.
    fn adopt(&self, gem: u32, fd: BorrowedFd<'_>, buffer: DmaBuf) -> Result<Object> {
        let undo = |error: Error| {
            // Ignores a failure here: the caller gets the import's own error.
            let _ = drm::gem_close(self.device.as_fd(), gem);
            error
        };
        // Queries with size 0: a driver that does not know the handle then refuses, where it would otherwise create an
        // object (§2.5).
        let mut query = MemCreate { handle: gem, ..MemCreate::default() };
        DRM.mem_create(self.device.as_fd(), &mut query)
            .map_err(|errno| undo(translate(Call::Import, errno, &self.at().bytes(buffer.size))))?;
        let (origin, cacheable) = match DRM.mem_map(self.device.as_fd(), gem) {
            Ok(_) => {
                // Cleans one cache line, which is harmless and tells whether the object was created CACHEABLE (§2.5).
                let probe = MemSync {
                    flags: rknpu::SYNC_TO_DEVICE,
                    reserved: 0,
                    obj_addr: query.obj_addr,
                    offset: 0,
                    size: CACHE_LINE,
                };
                let _visit = self.visit(None);
                (Origin::Sibling, DRM.mem_sync(self.device.as_fd(), probe).is_ok())
            }
            // The driver refuses objects of other drivers.
            Err(Errno::EINVAL) => (Origin::Foreign(duplicate(fd).map_err(undo)?), true),
            Err(errno) => return Err(undo(translate(Call::Map, errno, &self.at()))),
        };
        let sibling = matches!(origin, Origin::Sibling);
        let object = Object {
            handle: unnamed(),
            size: buffer.size,
            device_address: Some(query.dma_addr),
            sram: if sibling { query.sram_size } else { 0 },
            // A sibling may live in any domain, and the driver does not say in which one.
            domain: (self.info.iommu && (!sibling || self.info.domains <= 1)).then_some(0),
            cacheable,
            contiguous: false,
            zeroed: false,
            imported: true,
        };
        Ok(self.objects.insert(Some(gem), Gem { handle: gem, obj_addr: query.obj_addr, cacheable, origin }, object))
    }
}

/// Chooses the flags (§2.4): always CACHEABLE or WRITE_COMBINE, and with an IOMMU always NON_CONTIGUOUS (§3.2).
fn flags(iommu: bool, request: &Request) -> u32 {
    let mut flags = if request.cacheable { rknpu::CACHEABLE } else { rknpu::WRITE_COMBINE };
    if iommu {
        flags |= rknpu::NON_CONTIGUOUS;
    }
    if iommu && request.alignment <= page_size() {
        flags |= rknpu::IOMMU_LIMIT_IOVA_ALIGNMENT;
    }
    if request.placement == Placement::TrySram {
        flags |= rknpu::TRY_ALLOC_SRAM;
    }
    flags
}

impl Backend for RknpuGem {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn create(&self, request: &Request) -> Result<Object> {
        check(request, page_size())?;
        if request.contiguous && self.info.iommu {
            return Err(Error::new(
                ErrorCode::Unsupported,
                "this driver leaks address space when contiguous memory is asked for on a device with an IOMMU",
            )
            .requested(request.size)
            .hint("leave `contiguous` out: with an IOMMU the NPU sees every buffer in one piece"));
        }
        if request.domain >= self.info.domains.max(1) {
            return Err(no_domain(&self.info, request.domain));
        }
        if request.domain != 0 {
            self.prove_domains(request.domain)?;
        }
        // Without the LIMIT bit, the driver aligns an address to the next power of two of the size (§3.3). Without an
        // IOMMU, CMA and the page allocator do the same. So a larger size provides the alignment.
        let size = request.size.max(if request.alignment > page_size() { request.alignment } else { 0 });
        if !self.info.iommu {
            contiguous::check_room(&self.info, size, || self.at().here())?;
        }
        let mut create = MemCreate {
            flags: flags(self.info.iommu, request),
            size,
            iommu_domain_id: request.domain as i32, // below 16 by the check above
            core_mask: request.core_mask,
            ..MemCreate::default()
        };
        let created = {
            let _gate = self.shared_gate();
            let _visit = self.visit(Some(request.domain));
            DRM.mem_create(self.device.as_fd(), &mut create)
        };
        created.map_err(|errno| translate(Call::Create, errno, &self.at().request(request)))?;
        let misaligned = !create.dma_addr.is_multiple_of(request.alignment);
        if create.size < size || misaligned {
            let _gate = self.shared_gate();
            let _visit = self.visit(Some(request.domain));
            let _ = DRM.mem_destroy(self.device.as_fd(), create.handle, create.obj_addr);
            return Err(match misaligned {
                true => misplaced(create.dma_addr, request.alignment),
                false => Error::new(
                    ErrorCode::DeviceIo,
                    format!(
                        "the driver allocated {}, but {} were requested",
                        format_bytes(create.size),
                        format_bytes(size)
                    ),
                ),
            }
            .requested(request.size));
        }
        let object = Object {
            handle: unnamed(),
            size: create.size,
            device_address: Some(create.dma_addr),
            sram: create.sram_size,
            domain: self.info.iommu.then_some(request.domain),
            cacheable: request.cacheable,
            contiguous: !self.info.iommu,
            // shmem pages are zero. CMA without an IOMMU and SRAM keep the previous user's bytes
            // (`docs/design/drivers.md` §1.1).
            zeroed: self.info.iommu && create.sram_size == 0,
            imported: false,
        };
        let gem = Gem {
            handle: create.handle,
            obj_addr: create.obj_addr,
            cacheable: request.cacheable,
            origin: Origin::Created,
        };
        Ok(self.objects.insert(Some(create.handle), gem, object))
    }

    /// Without an IOMMU, the driver accepts a scattered buffer silently and returns the address of its first piece
    /// (`docs/design/drivers.md` §1.5). Only contiguous memory (of a CMA heap) is usable there, and this backend cannot
    /// check it.
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        let buffer = inspect_dma_buf(fd, size)?;
        let _gate = self.gate.write();
        let device = self.device.as_fd();
        let failed = |errno| translate(Call::Import, errno, &self.at().bytes(buffer.size));
        let busy = || match self.info.domains {
            0 | 1 => Error::new(
                ErrorCode::DomainBusy,
                "another process has the NPU in another IOMMU domain, where the driver would map an import",
            )
            .hint("stop the process that uses other domains: drivers below 0.9.8 serve one domain only"),
            _ => domain_busy(&self.at()).syscall("ACTION", Errno::EINVAL as i32),
        };
        // The driver maps an import into the current domain and counts it to domain 0 from then on (§3.4). `gate`
        // excludes the switches of this process. A switch by another process is visible afterwards; the import is then
        // repeated.
        let is_home = || !self.info.iommu || self.device.current_domain().unwrap_or(0) == 0;
        for _ in 0..DOMAIN_TRIES {
            if !is_home() && self.info.domains > 1 {
                self.device.to_domain_0().map_err(|errno| match errno {
                    Errno::EINVAL => busy(),
                    _ => failed(errno),
                })?;
            }
            let gem = drm::prime_fd_to_handle(device, fd).map_err(failed)?;
            if let Some(known) = self.objects.add_reference(&gem) {
                return Ok(known);
            }
            if is_home() {
                return self.adopt(gem, fd, buffer);
            }
            let _ = drm::gem_close(device, gem);
        }
        Err(busy())
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        self.objects.with(object, "MEM_MAP", |gem, object| {
            let failed = |call, errno| translate(call, errno, &self.at().bytes(object.size));
            let mapping = match &gem.origin {
                Origin::Foreign(fd) => Mapping::shared(fd.as_fd(), 0, object.size, alignment),
                Origin::Created | Origin::Sibling => {
                    let offset =
                        DRM.mem_map(self.device.as_fd(), gem.handle).map_err(|errno| failed(Call::Map, errno))?;
                    Mapping::shared(self.device.as_fd(), offset, object.size, alignment)
                }
            };
            mapping.map_err(|error| failed(Call::Mmap, Errno::from_raw(error.raw_os_error().unwrap_or(0))))
        })
    }

    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        // Taken before the object's own lock (see the module's header), because MEM_SYNC switches to the object's
        // domain.
        let _gate = self.shared_gate();
        self.objects.with(object, "MEM_SYNC", |gem, object| {
            let range = inside(range, object.size, "MEM_SYNC")?;
            if range.is_empty() {
                return Ok(());
            }
            let failed = |call| move |errno| translate(call, errno, &self.at().bytes(range.end - range.start));
            match &gem.origin {
                // MEM_SYNC refuses imports, and DMA_BUF_IOCTL_SYNC does nothing for rknpu's own objects (§3.7).
                Origin::Foreign(fd) => sync_dma_buf(fd.as_fd(), direction).map_err(failed(Call::SyncDmaBuf)),
                Origin::Created | Origin::Sibling if gem.cacheable => {
                    let start = align_down(range.start, CACHE_LINE);
                    let end = align_up(range.end, CACHE_LINE).unwrap_or(object.size).min(object.size);
                    let flags = match direction {
                        Direction::ToDevice => rknpu::SYNC_TO_DEVICE,
                        Direction::FromDevice => rknpu::SYNC_FROM_DEVICE,
                    };
                    let sync = MemSync { flags, reserved: 0, obj_addr: gem.obj_addr, offset: start, size: end - start };
                    let _visit = self.visit(object.domain);
                    DRM.mem_sync(self.device.as_fd(), sync).map_err(failed(Call::Sync))
                }
                Origin::Created | Origin::Sibling => {
                    // Uncached memory only needs its stores in order; the start of a job does the rest.
                    fence(Ordering::SeqCst);
                    Ok(())
                }
            }
        })
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        self.objects.with(object, "PRIME_HANDLE_TO_FD", |gem, object| {
            drm::prime_handle_to_fd(self.device.as_fd(), gem.handle)
                .map_err(|errno| translate(Call::Export, errno, &self.at().bytes(object.size)))
        })
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        let _gate = self.shared_gate();
        let Some((gem, object)) = self.objects.release(object, "MEM_DESTROY")? else { return Ok(()) };
        let visit = self.visit(object.domain);
        let result = match &gem.origin {
            Origin::Created => DRM.mem_destroy(self.device.as_fd(), gem.handle, gem.obj_addr),
            Origin::Sibling | Origin::Foreign(_) => drm::gem_close(self.device.as_fd(), gem.handle),
        };
        if let Some(visit) = visit {
            visit.stay();
        }
        // The foreign fd closes with `gem`, after the handle (§3.8).
        result.map_err(|errno| translate(Call::Destroy, errno, &self.at()))
    }

    fn end_of_destroys(&self) {
        let _gate = self.shared_gate();
        self.home.return_home(&self.device);
    }

    fn gauges(&self, _domain: u32) -> Gauges {
        let sram_free = match self.info.sram_total {
            0 => 0,
            _ => DRM.action(self.device.as_fd(), Action::GetFreeSram, 0).map_or(0, u64::from),
        };
        Gauges { sram_free, ..Gauges::default() }
    }

    fn live(&self) -> usize {
        self.objects.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_those_of_rknpu_md_2_4() {
        let plain = Request {
            size: page_size(),
            alignment: page_size(),
            cacheable: true,
            contiguous: false,
            placement: Placement::Dram,
            domain: 0,
            core_mask: 0,
        };
        let uncached = Request { cacheable: false, ..plain.clone() };
        let aligned = Request { alignment: 1 << 20, ..plain.clone() };
        let sram = Request { placement: Placement::TrySram, ..plain.clone() };
        assert_eq!(
            [&plain, &uncached, &aligned, &sram].map(|request| flags(true, request)),
            [0x403, 0x405, 0x3, 0x503]
        );
        assert_eq!([&plain, &uncached, &aligned, &sram].map(|request| flags(false, request)), [0x2, 0x4, 0x2, 0x102]);
    }

    #[test]
    fn a_node_of_another_kind_is_not_opened() {
        let error = RknpuGem::open(Path::new("/dev/null"), None).map(drop).map_err(|error| error.code());
        assert_eq!(error, Err(ErrorCode::DeviceNotFound));
    }
}
