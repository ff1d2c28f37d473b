//! The interface between the manager and the kernels: trait [`Backend`], with one implementation for each kernel
//! interface.
//!
//! Imports `abi`, `sys` and the rooms below them; it knows no pool and no policy.
//!
//! A backend owns its device node and a table of its kernel objects. It returns an [`Object`]: facts and a
//! generation-checked handle, never a GEM handle, a file descriptor number or a kernel pointer. A stale handle is
//! `ERR_DEVICE_IO` with EINVAL, not a use-after-free in the kernel (`docs/design/rknpu.md` §3.6).
//!
//! A backend creates one kernel object for one request, undoes its steps when a later one fails, and translates errnos
//! by cause. Policy (limits, zeroing, accounting, retries) belongs to the rooms above. `docs/design/drivers.md` §6 has
//! the rules.

mod cache_maintenance;
pub mod contiguous;
mod device_node;
pub mod dma_heap;
pub mod errno;
pub mod fault_injecting;
mod home_domain;
mod object_table;
pub mod probe;
pub mod rknpu_gem;
pub mod rknpu_heap;
pub mod rocket;
pub mod simulated;
pub mod soc;

pub(crate) use device_node::{identity, Identity};

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::sys::proc::Proc;
use crate::units::format_bytes;

/// The kinds of kernel interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Vendor driver, DRM GEM flavour: `/dev/dri/renderD*` whose DRM name is `rknpu`.
    Rknpu,
    /// Vendor driver, DMA-heap flavour: `/dev/rknpu`, every buffer is a dma-buf fd.
    RknpuHeap,
    /// Mainline driver: `/dev/accel/accel*` whose DRM name is `rocket`.
    Rocket,
    /// The kernel's DMA-BUF heaps: `/dev/dma_heap/<name>`, `/dev/rk_dma_heap/<name>`.
    DmaHeap,
    /// A simulated device on memfds, with the rules, limits and errors of the real ones.
    Simulated,
}

impl Kind {
    /// All kinds, best first.
    pub const ALL: &'static [Kind] = &[Kind::Rknpu, Kind::RknpuHeap, Kind::Rocket, Kind::DmaHeap, Kind::Simulated];

    /// The name in JavaScript.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Rknpu => "rknpu",
            Kind::RknpuHeap => "rknpu-heap",
            Kind::Rocket => "rocket",
            Kind::DmaHeap => "dma-heap",
            Kind::Simulated => "simulated",
        }
    }

    /// Parses the name in JavaScript.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The properties of an opened device. An unknown property is `None`, never a guess.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// The kernel interface.
    pub kind: Kind,
    /// The device node; `None` for the simulated device.
    pub path: Option<PathBuf>,
    /// The SoC from the device tree, e.g. "rk3588".
    pub soc: Option<String>,
    /// The driver's version, e.g. "0.9.8".
    pub driver_version: Option<String>,
    /// The number of NPU cores of the SoC.
    pub npu_cores: Option<u32>,
    /// Whether the NPU accesses memory through an IOMMU.
    pub iommu: bool,
    /// The number of IOMMU domains that the driver's version has; 0 without an IOMMU.
    pub domains: u32,
    /// The bytes that one domain addresses; without an IOMMU, the bytes of contiguous memory; 0 if unknown.
    pub domain_bytes: u64,
    /// On-chip SRAM that the driver may allocate, in bytes.
    pub sram_total: u64,
}

impl DeviceInfo {
    /// Reports whether the driver is older than a version. An unreadable version is as old as any.
    pub fn driver_is_below(&self, version: [u32; 3]) -> bool {
        let own: Vec<u32> = match &self.driver_version {
            Some(text) => text.split('.').map_while(|part| part.parse().ok()).collect(),
            None => Vec::new(),
        };
        own.as_slice() < version.as_slice()
    }

    /// The maximum size of one object; `None` if the device reports no bound.
    ///
    /// Page 0 of an IOMMU domain is never used. A driver that aligns an address to the next power of two of the size
    /// has no place for more than half of the domain (`docs/design/rknpu.md` §3.3).
    pub fn max_object_size(&self, alignment: u64) -> Option<u64> {
        let aligns = || alignment > page_size() || self.driver_is_below(rknpu_gem::LIMITS_ALIGNMENT);
        match (self.iommu, self.domain_bytes) {
            (_, 0) => None,
            (true, bytes) if self.kind == Kind::Rknpu && aligns() => Some(bytes / 2),
            (true, bytes) => Some(bytes - page_size()),
            (false, cma) if self.falls_back_to_pages() => Some(cma.max(contiguous::MAX_FROM_PAGES)),
            (false, cma) => Some(cma),
        }
    }
}

/// The placement of an object's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Main memory.
    #[default]
    Dram,
    /// On-chip SRAM as far as it suffices, the rest in main memory.
    TrySram,
}

/// A request for one kernel object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes: whole pages, at least one, within the device's reach. The caller has checked them.
    pub size: u64,
    /// Alignment of the CPU and the device address, in bytes: a power of two, at least a page.
    pub alignment: u64,
    /// CPU-cached mapping, which requires [`Backend::sync`].
    pub cacheable: bool,
    /// Physically contiguous memory.
    pub contiguous: bool,
    /// The placement of the bytes.
    pub placement: Placement,
    /// The IOMMU domain.
    pub domain: u32,
    /// Bit mask of the NPU cores that will use the object; 0 leaves the choice to the driver.
    pub core_mask: u32,
}

impl Request {
    /// A request for `size` cached bytes in domain 0, scattered or not.
    pub fn plain(size: u64) -> Self {
        Self {
            size,
            alignment: page_size(),
            cacheable: true,
            contiguous: false,
            placement: Placement::Dram,
            domain: 0,
            core_mask: 0,
        }
    }
}

/// A kernel object, as its backend describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Identifies the object to its backend.
    pub handle: Handle,
    /// The size in bytes, in whole pages.
    pub size: u64,
    /// The NPU's address; `None` if the backend gives none.
    pub device_address: Option<u64>,
    /// Bytes of the object that lie in SRAM.
    pub sram: u64,
    /// The IOMMU domain of the address; `None` without an IOMMU.
    pub domain: Option<u32>,
    /// Whether the mapping is CPU-cached.
    pub cacheable: bool,
    /// Whether the memory is physically contiguous, as far as the driver says.
    pub contiguous: bool,
    /// Whether the kernel provably hands out zero pages. If not, the caller zeroes them.
    pub zeroed: bool,
    /// Whether [`Backend::import`] created the object.
    pub imported: bool,
}

/// The direction of cache maintenance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The CPU wrote, the device will read: clean the caches.
    ToDevice,
    /// The device wrote, the CPU will read: invalidate the caches.
    FromDevice,
}

/// The unit of a backend's cache maintenance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Maintenance {
    /// The lines of a range.
    #[default]
    Ranges,
    /// Whole objects, whatever the range.
    Objects,
}

/// The device's current figures in bytes; `None` where the device has no figure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Free SRAM.
    pub sram_free: u64,
    /// Free bytes of the domain (of the CMA area); `None` if the backend does not track them.
    pub free: Option<u64>,
    /// The largest free piece of the domain; `None` if the backend does not track it.
    pub largest_free: Option<u64>,
}

/// One kernel interface to NPU memory.
///
/// Every method may block for as long as the driver does (a domain switch waits up to 6 s). No method panics, and a
/// failed one leaves nothing behind.
pub trait Backend: Send + Sync + fmt::Debug {
    /// The properties of the opened device.
    fn info(&self) -> &DeviceInfo;

    /// Creates a kernel object.
    ///
    /// Errors: `ERR_IOVA_EXHAUSTED`, `ERR_OUT_OF_MEMORY`, `ERR_DOMAIN_BUSY`, `ERR_TOO_MANY_FDS`, `ERR_UNSUPPORTED`,
    /// `ERR_DEVICE_LOST`, `ERR_DEVICE_IO`.
    fn create(&self, request: &Request) -> Result<Object>;

    /// Imports a foreign dma-buf for the device. The caller keeps `fd`. Importing the same dma-buf again gives an
    /// [`Object`] with the same handle; each import needs its own [`destroy`](Self::destroy). `size` limits the bytes
    /// to use; `None` uses the whole buffer.
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object>;

    /// Maps the whole object, readable and writable, at a CPU address that is a multiple of `alignment` (a power of
    /// two; less than a page means a page).
    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping>;

    /// Maintains the caches for `range` (bytes from the object's start, within it). Does nothing on coherent memory.
    /// The rest of the object keeps the CPU's writes, also if the kernel maintains whole objects.
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()>;

    /// Exports the whole object as a new close-on-exec dma-buf fd.
    fn export(&self, object: Handle) -> Result<OwnedFd>;

    /// Destroys the object. Its handle is dead afterwards even if the driver failed: a destroy is never retried.
    fn destroy(&self, object: Handle) -> Result<()>;

    /// Ends a batch of destroys: the driver's state that all processes share becomes what it was before them.
    fn end_of_destroys(&self) {}

    /// Reads the device's current figures.
    fn gauges(&self, domain: u32) -> Gauges;

    /// Counts the kernel objects of this backend.
    fn live(&self) -> usize;

    /// The unit of the kernel's cache maintenance.
    fn maintenance(&self) -> Maintenance {
        Maintenance::Ranges
    }

    /// Reports whether [`sync`](Self::sync) has nothing to do for `object`, now and later. The caller then leaves it
    /// out.
    fn needs_no_sync(&self, object: Handle) -> bool {
        let _ = object;
        false
    }

    /// The simulated device behind this backend, which gives access to the device's view of memory.
    fn simulated(&self) -> Option<&simulated::Simulated> {
        None
    }
}

/// The error for a failed `mmap` of `size` bytes. ENOMEM means the map count as often as memory; the figures decide.
pub(crate) fn mmap_failed(error: &io::Error, size: u64) -> Error {
    let errno = error.raw_os_error().unwrap_or(0);
    if errno != libc::ENOMEM {
        let message = format!("mapping {} failed: {error}", format_bytes(size));
        return Error::new(ErrorCode::DeviceIo, message).requested(size).syscall("mmap", errno);
    }
    match Proc::default().maps() {
        // The kernel counts one or two mappings that `maps` does not show.
        Some(maps) if maps.used + 4 >= maps.max => Error::new(
            ErrorCode::TooManyMaps,
            format!("this process has {} mappings and may have {}", maps.used, maps.max),
        )
        .limit("maps", maps.max)
        .hint("raise vm.max_map_count (sysctl), or make fewer and larger buffers"),
        _ => Error::new(ErrorCode::OutOfMemory, format!("the kernel has no room to map {}", format_bytes(size))),
    }
    .requested(size)
    .syscall("mmap", errno)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::{GIB, MIB};

    fn info(kind: Kind, version: Option<&str>, iommu: bool, domain_bytes: u64) -> DeviceInfo {
        DeviceInfo {
            kind,
            path: None,
            soc: None,
            driver_version: version.map(str::to_owned),
            npu_cores: None,
            iommu,
            domains: u32::from(iommu),
            domain_bytes,
            sram_total: 0,
        }
    }

    #[test]
    fn versions_compare_by_number() {
        let below = |version, bound| info(Kind::Rknpu, version, true, GIB).driver_is_below(bound);
        for (version, expected) in [("0.9.7", true), ("0.9.8", false), ("0.9.10", false), ("0.10.0", false)] {
            assert_eq!(below(Some(version), [0, 9, 8]), expected, "{version}");
        }
        assert!(below(None, [0, 9, 8]) && below(Some("unknown"), [0, 9, 8]));
    }

    #[test]
    fn one_object_has_at_most_what_the_driver_can_place() {
        let page = page_size();
        for (kind, version, iommu, bytes, alignment, expected) in [
            (Kind::Rknpu, Some("0.9.8"), true, 4 * GIB, page, Some(4 * GIB - page)),
            (Kind::Rknpu, Some("0.9.8"), true, 4 * GIB, MIB, Some(2 * GIB)),
            (Kind::Rknpu, Some("0.9.6"), true, 4 * GIB, page, Some(2 * GIB)),
            (Kind::Rknpu, Some("0.9.8"), false, 256 * MIB, page, Some(256 * MIB)),
            (Kind::Rknpu, Some("0.9.8"), false, MIB, page, Some(4 * MIB)), // ordinary pages
            (Kind::RknpuHeap, Some("0.9.8"), false, MIB, page, Some(MIB)),
            (Kind::DmaHeap, None, false, 0, page, None),
        ] {
            let info = info(kind, version, iommu, bytes);
            assert_eq!(info.max_object_size(alignment), expected, "{kind} {version:?} {alignment}");
        }
    }

    #[test]
    fn only_a_driver_that_holds_its_domain_has_several() {
        let old = info(Kind::Rknpu, Some("0.9.7"), true, 4 * GIB);
        let error = errno::no_domain(&old, 1);
        assert_eq!((error.code(), error.details().limit), (ErrorCode::Unsupported, Some(1)));
        assert_eq!(error.details().driver_version.as_deref(), Some("0.9.7"));
        assert!(error.to_string().contains("0.9.7"), "{error}");
        assert_eq!(errno::no_domain(&old, 16).code(), ErrorCode::OutOfRange, "no driver has it");
        let new = DeviceInfo { domains: 16, ..info(Kind::Rknpu, Some("0.9.8"), true, 4 * GIB) };
        let code = |info: &DeviceInfo, domain| errno::no_domain(info, domain).code();
        assert_eq!(code(&new, 16), ErrorCode::OutOfRange);
        assert_eq!(code(&new, 5), ErrorCode::Unsupported, "a build without domains");
        assert_eq!(code(&info(Kind::Rknpu, Some("0.9.8"), false, MIB), 1), ErrorCode::OutOfRange);
    }
}
