//! The seam between the manager and the kernels: trait [`Backend`], one body for each kernel interface.
//!
//! A backend owns its device node and a table of its kernel objects. What leaves it is an [`Object`]: facts and a
//! generation-checked handle, never a GEM handle, a file descriptor number or a kernel pointer. A stale handle is
//! `ERR_DEVICE_IO` with EINVAL, not a use-after-free in the kernel (`docs/design/rknpu.md` §3.6, `obj_addr`).
//!
//! Backends are honest and simple: they make one kernel object for one request, undo what they did when a later step
//! fails, and translate errno by cause. Policy (bounds, zeroing, accounting, retries) lives above.

mod device_node;
pub mod dma_heap;
pub mod errno;
pub mod fault_injecting;
mod object_table;
pub mod probe;
pub mod rknpu_gem;
pub mod rknpu_heap;
pub mod rocket;
pub mod simulated;
pub mod soc;

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

/// Which kernel interface.
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
    /// No NPU: memfd-backed, with the same rules, limits and errors as the real ones.
    Simulated,
}

impl Kind {
    /// Every kind, best first.
    pub const ALL: &'static [Kind] = &[Kind::Rknpu, Kind::RknpuHeap, Kind::Rocket, Kind::DmaHeap, Kind::Simulated];

    /// The name that JavaScript uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Rknpu => "rknpu",
            Kind::RknpuHeap => "rknpu-heap",
            Kind::Rocket => "rocket",
            Kind::DmaHeap => "dma-heap",
            Kind::Simulated => "simulated",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What an opened device is. What cannot be known is `None`, never a guess.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceInfo {
    /// The kernel interface it was opened through.
    pub kind: Kind,
    /// Device node; `None` for the simulated one.
    pub path: Option<PathBuf>,
    /// From the device tree, e.g. "rk3588".
    pub soc: Option<String>,
    /// e.g. "0.9.8".
    pub driver_version: Option<String>,
    /// NPU cores, from the SoC.
    pub npu_cores: Option<u32>,
    /// Whether the NPU sees memory through an IOMMU.
    pub iommu: bool,
    /// IOMMU domains a caller may choose from; 0 without an IOMMU.
    pub domains: u32,
    /// What one domain can address (bytes), or without an IOMMU the contiguous memory there is. 0: not known.
    pub domain_bytes: u64,
    /// On-chip SRAM the driver may hand out, in bytes.
    pub sram_total: u64,
}

/// Where the bytes should lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// Main memory.
    #[default]
    Dram,
    /// On-chip SRAM as far as it goes, the rest in main memory.
    TrySram,
}

/// One kernel object to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Bytes: whole pages, at least one, within the device's reach. The caller has checked that.
    pub size: u64,
    /// Alignment of the CPU and the device address, in bytes: a power of two, at least a page.
    pub alignment: u64,
    /// CPU-cached mapping; needs [`Backend::sync`].
    pub cacheable: bool,
    /// Physically contiguous.
    pub contiguous: bool,
    /// Where the bytes should lie.
    pub placement: Placement,
    /// IOMMU domain.
    pub domain: u32,
    /// NPU cores that will use it, as a bit mask; 0 leaves it to the driver.
    pub core_mask: u32,
}

impl Request {
    /// `size` cached bytes from anywhere, in domain 0.
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

/// A kernel object as its backend describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Names it to its backend.
    pub handle: Handle,
    /// Bytes: whole pages.
    pub size: u64,
    /// Address that the NPU sees; `None` where the backend gives none.
    pub device_address: Option<u64>,
    /// Bytes of it that lie in SRAM.
    pub sram: u64,
    /// IOMMU domain its address belongs to; `None` without an IOMMU.
    pub domain: Option<u32>,
    /// CPU-cached mapping.
    pub cacheable: bool,
    /// Physically contiguous, as far as the driver says.
    pub contiguous: bool,
    /// The kernel provably hands it out as zero pages; where it does not, the caller zeroes.
    pub zeroed: bool,
    /// It came from [`Backend::import`].
    pub imported: bool,
}

/// Which side's writes are made visible to the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// The CPU wrote, the device will read: clean the caches.
    ToDevice,
    /// The device wrote, the CPU will read: invalidate the caches.
    FromDevice,
}

/// What a device says of itself right now. Bytes; `None` where it says nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// SRAM nobody uses.
    pub sram_free: u64,
    /// What of the domain (of the CMA area) nobody uses, where the backend keeps the book itself.
    pub free: Option<u64>,
    /// The largest piece that a domain could still give, where the backend keeps the book itself.
    pub largest_free: Option<u64>,
}

/// One kernel interface to NPU memory.
///
/// Every method may block for as long as the driver does (a domain switch waits up to 6 s). No method panics; none
/// leaves anything behind when it fails.
pub trait Backend: Send + Sync + fmt::Debug {
    /// What was opened.
    fn info(&self) -> &DeviceInfo;

    /// Makes a kernel object.
    ///
    /// Errors: `ERR_IOVA_EXHAUSTED`, `ERR_OUT_OF_MEMORY`, `ERR_DOMAIN_BUSY`, `ERR_TOO_MANY_FDS`, `ERR_UNSUPPORTED`,
    /// `ERR_DEVICE_LOST`, `ERR_DEVICE_IO`.
    fn create(&self, request: &Request) -> Result<Object>;

    /// Makes somebody else's dma-buf visible to the device. `fd` stays the caller's. Importing the same dma-buf again
    /// gives an [`Object`] with the same handle; each import needs its own [`destroy`](Self::destroy).
    /// `size` bounds the bytes used; `None` takes all of it.
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object>;

    /// Maps the whole object, readable and writable, at a CPU address that is a multiple of `alignment`
    /// (a power of two; below a page means a page).
    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping>;

    /// Cache maintenance of `range` (bytes from the object's start, within it). Does nothing where nothing is needed.
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()>;

    /// A new close-on-exec dma-buf fd over the whole object.
    fn export(&self, object: Handle) -> Result<OwnedFd>;

    /// Gives the object back. Its handle is dead afterwards even when the driver failed: a destroy is never retried.
    fn destroy(&self, object: Handle) -> Result<()>;

    /// What the device says of itself right now.
    fn gauges(&self, domain: u32) -> Gauges;

    /// Kernel objects that exist through this backend.
    fn live(&self) -> usize;
}

/// `mmap` of `size` bytes failed: ENOMEM is the map count as often as it is memory, and the figures tell which.
pub(crate) fn mmap_failed(error: &io::Error, size: u64) -> Error {
    let errno = error.raw_os_error().unwrap_or(0);
    if errno != libc::ENOMEM {
        let message = format!("mapping {} failed: {error}", format_bytes(size));
        return Error::new(ErrorCode::DeviceIo, message).requested(size).syscall("mmap", errno);
    }
    match Proc::default().maps() {
        // The kernel counts a mapping or two that `maps` does not show.
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
