//! Mapped memory of either kind, and the sources that allocate it.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::accounting::Charge;
use crate::backend::{mmap_failed, Direction, Object, Request};
use crate::device::block::Block;
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};
use crate::sys::mapping::Mapping;
use crate::sys::page::{page_size, whole_pages};
use crate::sys::proc::Proc;
use crate::sys::ram;
pub use crate::units::MemoryKind;
use crate::units::{align_up, format_bytes, WholePages, GIB, MIN_ALIGNMENT};

/// The use of transparent huge pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Requests no huge pages.
    #[default]
    No,
    /// Uses huge pages if the kernel has them.
    Try,
    /// Fails without huge pages.
    Must,
}

/// Options for pages of this process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageOptions {
    /// The alignment in bytes, a power of two.
    pub alignment: u64,
    /// The use of transparent huge pages.
    pub huge_pages: HugePages,
    /// Locks the pages in RAM.
    pub lock: bool,
    /// Faults every page in at once.
    pub prefault: bool,
}

/// Zeroed pages of this process, with the charge for their RAM.
#[derive(Debug)]
pub struct Pages {
    mapping: Mapping,
    charge: Charge,
}

impl Pages {
    /// Allocates at least `size` bytes.
    ///
    /// Errors: `ERR_OUT_OF_MEMORY`, `ERR_TOO_MANY_MAPS`; `ERR_UNSUPPORTED` if huge pages are required and the kernel
    /// has none.
    pub fn allocate(size: WholePages, options: PageOptions) -> Result<Self> {
        let (mut alignment, mut granule) = (options.alignment, page_size());
        let huge = match options.huge_pages {
            HugePages::No => None,
            _ => Proc::default().huge_page_size(),
        };
        if let Some(huge) = huge {
            (alignment, granule) = (alignment.max(huge), huge);
        } else if options.huge_pages == HugePages::Must {
            return Err(Error::new(ErrorCode::Unsupported, "this kernel gives out no transparent huge pages")
                .path("/sys/kernel/mm/transparent_hugepage/enabled")
                .hint("write \"madvise\" into it as root, or use hugePages: 'try'"));
        }
        let reserved = align_up(size.bytes(), granule).unwrap_or(size.bytes());
        let charge = ram::admit(reserved)?;
        let mapping = Mapping::anonymous(reserved, alignment).map_err(|error| mmap_failed(&error, reserved))?;
        if huge.is_some() {
            let advised = mapping.huge_pages();
            if let (Err(error), HugePages::Must) = (advised, options.huge_pages) {
                let message = format!("the kernel refuses huge pages: {error}");
                return Err(
                    Error::new(ErrorCode::Unsupported, message).syscall("madvise", error.raw_os_error().unwrap_or(0))
                );
            }
        }
        if options.lock {
            mapping.lock().map_err(|error| lock_failed(&error, reserved))?;
        }
        if options.prefault {
            mapping.prefault().map_err(|error| {
                Error::new(
                    ErrorCode::OutOfMemory,
                    format!("{} could not be faulted in: {error}", format_bytes(reserved)),
                )
                .requested(reserved)
                .syscall("madvise", error.raw_os_error().unwrap_or(0))
            })?;
        }
        Ok(Self { mapping, charge })
    }
}

fn lock_failed(error: &std::io::Error, size: u64) -> Error {
    // Locking a part of a mapping splits it, so ENOMEM may mean the map count here too.
    let refused = mmap_failed(error, size);
    if refused.code() == ErrorCode::TooManyMaps {
        return refused;
    }
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    Error::new(ErrorCode::OutOfMemory, format!("{} could not be locked in RAM: {error}", format_bytes(size)))
        .requested(size)
        .limit("memlock", limit)
        .syscall("mlock", error.raw_os_error().unwrap_or(0))
        .hint("raise RLIMIT_MEMLOCK (ulimit -l), or leave out `lock`")
}

/// Mapped memory.
#[derive(Debug)]
pub enum Memory {
    /// A kernel object of a device.
    Npu(Block),
    /// Pages of this process.
    System(Pages),
}

impl Memory {
    /// The mapping.
    pub fn mapping(&self) -> &Mapping {
        match self {
            Memory::Npu(block) => block.mapping(),
            Memory::System(pages) => &pages.mapping,
        }
    }

    /// The kind of memory.
    pub fn kind(&self) -> MemoryKind {
        match self {
            Memory::Npu(_) => MemoryKind::Npu,
            Memory::System(_) => MemoryKind::System,
        }
    }

    /// Bytes that the memory takes, rounding included.
    pub fn reserved(&self) -> u64 {
        match self {
            Memory::Npu(block) => block.reserved(),
            Memory::System(pages) => pages.charge.bytes(),
        }
    }

    /// The offset of the first byte in use: an import may be a part of its kernel object.
    pub fn start(&self) -> u64 {
        match self {
            Memory::Npu(block) => block.used().start,
            Memory::System(_) => 0,
        }
    }

    /// Reports whether all of the memory is in use.
    pub fn is_whole(&self) -> bool {
        match self {
            Memory::Npu(block) => block.is_whole(),
            Memory::System(_) => true,
        }
    }

    /// The properties of the kernel object; `None` for system memory.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Memory::Npu(block) => Some(block.object()),
            Memory::System(_) => None,
        }
    }

    /// The device of the kernel object; `None` for system memory.
    pub fn device(&self) -> Option<&Arc<Device>> {
        match self {
            Memory::Npu(block) => Some(block.device()),
            Memory::System(_) => None,
        }
    }

    /// Maintains the caches for `range` (bytes from the start).
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of [`Block::sync`].
    pub fn sync(&self, direction: Direction, range: Range<u64>) -> Result<()> {
        match self {
            Memory::Npu(block) => block.sync(direction, range),
            Memory::System(_) => Err(wrong_kind("cache maintenance is for NPU memory")),
        }
    }

    /// Exports the whole kernel object as a new dma-buf fd.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of [`Block::export`].
    pub fn export(&self) -> Result<OwnedFd> {
        match self {
            Memory::Npu(block) => block.export(),
            Memory::System(_) => Err(wrong_kind("only NPU memory has a dma-buf")),
        }
    }

    /// Writes zeros over `range` (bytes from the start), visible to the CPU and the device.
    ///
    /// Errors: those of [`Block::sync`].
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        self.mapping().zero(range.clone());
        match self {
            // The CPU caches may still hold the zeros; without a clean, the device would read the old bytes.
            Memory::Npu(block) => block.sync(Direction::ToDevice, range),
            Memory::System(_) => Ok(()),
        }
    }
}

impl Memory {
    /// Copies `size` bytes of `source`, starting at `from`, to `offset`. The ranges may overlap in one memory. The copy
    /// includes writes of the CPU and of the device, and both see the result.
    ///
    /// Errors: those of [`Block::sync`]; the source then keeps its bytes, also if both overlap.
    pub fn copy(&self, offset: u64, source: &Self, from: u64, size: u64) -> Result<()> {
        if let Memory::Npu(block) = source {
            // Cleans first: invalidating the lines would discard those that the CPU has written.
            block.sync(Direction::ToDevice, from..from + size)?;
            block.sync(Direction::FromDevice, from..from + size)?;
        }
        self.mapping().copy(offset, source.mapping(), from, size);
        let Memory::Npu(block) = self else { return Ok(()) };
        block.sync(Direction::ToDevice, offset..offset + size).inspect_err(|_| {
            source.mapping().copy(from, self.mapping(), offset, size);
            if let Memory::Npu(block) = source {
                // The sync would most likely fail again; the CPU has the right bytes in any case.
                let _ = block.sync(Direction::ToDevice, from..from + size);
            }
        })
    }
}

fn wrong_kind(why: &str) -> Error {
    Error::new(ErrorCode::BufferKind, format!("this buffer is system memory: {why}"))
}

/// A source of memory of one kind.
#[derive(Clone, Debug)]
pub enum Source {
    /// Kernel objects like `request`, which gives all properties but the size.
    Npu {
        /// The device.
        device: Arc<Device>,
        /// The properties of each object.
        request: Request,
        /// Keeps the bytes as the driver gave them.
        dirty: bool,
    },
    /// Pages of this process.
    System(PageOptions),
}

impl Source {
    /// The kind of memory.
    pub fn kind(&self) -> MemoryKind {
        match self {
            Source::Npu { .. } => MemoryKind::Npu,
            Source::System(_) => MemoryKind::System,
        }
    }

    /// Allocates `size` bytes.
    ///
    /// Errors: those of [`Block::create`] and of [`Pages::allocate`].
    pub fn allocate(&self, size: u64) -> Result<Memory> {
        match self {
            Source::Npu { device, request, dirty } => {
                Block::create(device, &Request { size, ..request.clone() }, !dirty).map(Memory::Npu)
            }
            Source::System(options) => Pages::allocate(whole_pages(size)?, *options).map(Memory::System),
        }
    }
}

/// The maximum alignment. Larger ones have no use, and each buffer would reserve as many addresses.
const MAX_ALIGNMENT: u64 = GIB;

/// Checks an alignment; `default` stands for `None`.
///
/// Errors: `ERR_OUT_OF_RANGE` if it is no power of two within the bounds.
pub fn alignment(wanted: Option<u64>, default: u64) -> Result<u64> {
    let Some(wanted) = wanted else { return Ok(default) };
    if wanted.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&wanted) {
        return Ok(wanted);
    }
    let message = format!("alignment is {wanted}; it must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
    Err(Error::new(ErrorCode::OutOfRange, message))
}
