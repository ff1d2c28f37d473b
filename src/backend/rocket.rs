//! The mainline driver, /dev/accel (`docs/design/rknpu.md` §5).
//!
//! Every object is GEM shmem behind an IOMMU domain of the open file. The driver has no flags, no SRAM and no choice of
//! domains, its addresses mean nothing to another process, and it imports no foreign dma-buf.

use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::time::{clock_gettime, ClockId};

use super::cache_maintenance::maintain_object;
use super::device_node::{inside, misplaced, open_node};
use super::errno::{check, translate, Call, Context};
use super::object_table::{unnamed, ObjectTable};
use super::soc::npu_cores;
use super::{Backend, DeviceInfo, Direction, Gauges, Kind, Maintenance, Object, Request};
use crate::abi::drm;
use crate::abi::rocket::{create_bo, fini_bo, prep_bo, CreateBo};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::units::{format_bytes, GIB};

/// The driver keeps a size in a signed 32-bit variable.
const MAX_SIZE: u64 = 2 * GIB - 1;
/// The maximum time that a sync waits for a job that still writes, equal to rknpu's wait for a domain switch.
const WAIT_TIMEOUT_NS: i64 = 6_000_000_000;

/// An open accel node. See the [module](self).
#[derive(Debug)]
pub struct Rocket {
    info: DeviceInfo,
    device: OwnedFd,
    objects: ObjectTable<u32, Bo>,
}

/// The kernel's names of an object.
#[derive(Debug)]
struct Bo {
    handle: u32,
    offset: u64,
}

impl Rocket {
    /// Opens the node if its driver is "rocket".
    ///
    /// Errors: `ERR_DEVICE_NOT_FOUND`, `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`.
    pub fn open(path: &Path, soc: Option<&str>) -> Result<Self> {
        let device = open_node(Kind::Rocket, path, OFlag::O_RDWR)?;
        let version =
            drm::version(device.as_fd()).ok().filter(|version| version.name == "rocket").ok_or_else(|| {
                Error::new(ErrorCode::DeviceNotFound, format!("{} is not a rocket node", path.display())).path(path)
            })?;
        let (major, minor, patch) = version.number;
        let info = DeviceInfo {
            kind: Kind::Rocket,
            path: Some(path.to_owned()),
            soc: soc.map(str::to_owned),
            driver_version: Some(format!("{major}.{minor}.{patch}")),
            npu_cores: soc.and_then(npu_cores),
            iommu: true,
            domains: 1,
            domain_bytes: 4 * GIB,
            sram_total: 0,
        };
        Ok(Self { info, device, objects: ObjectTable::new() })
    }

    fn at(&self) -> Context<'_> {
        Context::of(&self.info, self.objects.held())
    }
}

/// An absolute monotonic time, which the driver expects although its header describes a duration (§5).
fn deadline() -> Result<i64, Errno> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(now.tv_sec().saturating_mul(1_000_000_000).saturating_add(now.tv_nsec()).saturating_add(WAIT_TIMEOUT_NS))
}

impl Backend for Rocket {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn create(&self, request: &Request) -> Result<Object> {
        check(request, page_size())?;
        let unsupported = |message: &str, hint: &str| {
            Err(Error::new(ErrorCode::Unsupported, message).requested(request.size).hint(hint))
        };
        if request.contiguous {
            return unsupported("rocket gives scattered memory behind its IOMMU", "leave `contiguous` out");
        }
        if !request.cacheable {
            return unsupported("rocket gives cached memory only", "leave `cacheable` out and sync");
        }
        if request.domain != 0 {
            return unsupported("rocket has one IOMMU domain for each open file", "leave `iommuDomain` out");
        }
        let Some(size) = u32::try_from(request.size).ok().filter(|size| u64::from(*size) <= MAX_SIZE) else {
            return Err(Error::new(
                ErrorCode::OutOfRange,
                format!("{} do not fit in one rocket buffer: it is below 2 GiB", format_bytes(request.size)),
            )
            .requested(request.size)
            .limit("buffer", MAX_SIZE)
            .hint("split it into several buffers"));
        };
        let mut create = CreateBo { size, ..CreateBo::default() };
        create_bo(self.device.as_fd(), &mut create)
            .map_err(|errno| translate(Call::Create, errno, &self.at().request(request)))?;
        // The driver aligns to a page only, so a larger alignment depends on the address that it returns.
        if !create.dma_address.is_multiple_of(request.alignment) {
            let _ = drm::gem_close(self.device.as_fd(), create.handle);
            return Err(misplaced(create.dma_address, request.alignment).requested(request.size));
        }
        let object = Object {
            handle: unnamed(),
            size: request.size,
            device_address: Some(create.dma_address),
            sram: 0,
            domain: Some(0),
            cacheable: true,
            contiguous: false,
            zeroed: true, // shmem pages are zero
            imported: false,
        };
        Ok(self.objects.insert(None, Bo { handle: create.handle, offset: create.offset }, object))
    }

    fn import(&self, _fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        // The DRM core offers the call, but the driver has no hook: every foreign buffer gives EINVAL (§5).
        let error = Error::new(ErrorCode::Unsupported, "the rocket driver does not import dma-bufs")
            .hint("allocate on this device and export, or use the vendor's driver");
        Err(match size {
            Some(size) => error.requested(size),
            None => error,
        })
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        self.objects.with(object, "mmap", |bo, object| {
            Mapping::shared(self.device.as_fd(), bo.offset, object.size, alignment).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                translate(Call::Mmap, errno, &self.at().bytes(object.size))
            })
        })
    }

    /// Syncs the whole object for any range. The driver tracks one owner of an object: PREP_BO waits for the NPU's
    /// writes and makes the CPU its owner, FINI_BO the device.
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        self.objects.with(object, "PREP_BO", |bo, object| {
            if inside(range, object.size, "PREP_BO")?.is_empty() {
                return Ok(());
            }
            let device = self.device.as_fd();
            maintain_object(direction, |direction| match direction {
                Direction::ToDevice => fini_bo(device, bo.handle),
                Direction::FromDevice => deadline().and_then(|deadline| prep_bo(device, bo.handle, deadline)),
            })
            .map_err(|errno| translate(Call::Sync, errno, &self.at()))
        })
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        self.objects.with(object, "PRIME_HANDLE_TO_FD", |bo, object| {
            drm::prime_handle_to_fd(self.device.as_fd(), bo.handle)
                .map_err(|errno| translate(Call::Export, errno, &self.at().bytes(object.size)))
        })
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        match self.objects.release(object, "GEM_CLOSE")? {
            Some((bo, _)) => drm::gem_close(self.device.as_fd(), bo.handle)
                .map_err(|errno| translate(Call::Destroy, errno, &self.at())),
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
