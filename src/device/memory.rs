//! Memory of either kind, mapped, and where it comes from.

use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::accounting::Charge;
use crate::backend::{mmap_failed, Direction, Object, Request};
use crate::device::block::Block;
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::sys::proc::Proc;
use crate::sys::ram;
pub use crate::units::MemoryKind;
use crate::units::{align_up, format_bytes, whole_pages, GIB, MIN_ALIGNMENT};

/// Whether huge pages are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// No.
    #[default]
    No,
    /// Where there are any.
    Try,
    /// Or else nothing.
    Must,
}

/// How pages of this process are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PageOptions {
    /// Power of two, in bytes.
    pub alignment: u64,
    /// Transparent huge pages.
    pub huge_pages: HugePages,
    /// Never swapped.
    pub lock: bool,
    /// Every page faulted in now.
    pub prefault: bool,
}

/// Zeroed pages of this process, and the RAM they are charged to.
#[derive(Debug)]
pub struct Pages {
    mapping: Mapping,
    charge: Charge,
}

impl Pages {
    /// Takes at least `size` bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_OUT_OF_MEMORY`, `ERR_TOO_MANY_MAPS`; `ERR_UNSUPPORTED` where huge pages must be
    /// and are not.
    pub fn allocate(size: u64, options: PageOptions) -> Result<Self> {
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
        whole_pages(size, page_size())?;
        let reserved = align_up(size, granule).unwrap_or(size);
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
    // Locking a part of a mapping splits it: ENOMEM is the map count here as well.
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

/// Memory, mapped.
#[derive(Debug)]
pub enum Memory {
    /// A kernel object.
    Npu(Block),
    /// Pages of this process.
    System(Pages),
}

impl Memory {
    /// Where it is mapped.
    pub fn mapping(&self) -> &Mapping {
        match self {
            Memory::Npu(block) => block.mapping(),
            Memory::System(pages) => &pages.mapping,
        }
    }

    /// Which memory.
    pub fn kind(&self) -> MemoryKind {
        match self {
            Memory::Npu(_) => MemoryKind::Npu,
            Memory::System(_) => MemoryKind::System,
        }
    }

    /// Bytes it really takes.
    pub fn reserved(&self) -> u64 {
        match self {
            Memory::Npu(block) => block.object().size,
            Memory::System(pages) => pages.charge.bytes(),
        }
    }

    /// The facts of the kernel object, for NPU memory.
    pub fn object(&self) -> Option<&Object> {
        match self {
            Memory::Npu(block) => Some(block.object()),
            Memory::System(_) => None,
        }
    }

    /// The device it is memory of.
    pub fn device(&self) -> Option<&Arc<Device>> {
        match self {
            Memory::Npu(block) => Some(block.device()),
            Memory::System(_) => None,
        }
    }

    /// Cache maintenance of `range` (bytes from the start).
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of [`Block::sync`].
    pub fn sync(&self, direction: Direction, range: Range<u64>) -> Result<()> {
        match self {
            Memory::Npu(block) => block.sync(direction, range),
            Memory::System(_) => Err(wrong_kind("cache maintenance is for NPU memory")),
        }
    }

    /// A new dma-buf fd over the whole kernel object.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of [`Block::export`].
    pub fn export(&self) -> Result<OwnedFd> {
        match self {
            Memory::Npu(block) => block.export(),
            Memory::System(_) => Err(wrong_kind("only NPU memory has a dma-buf")),
        }
    }

    /// Writes zeros over `range` (bytes from the start), for the CPU and for the device.
    ///
    /// Errors: those of [`Block::sync`].
    pub fn zero(&self, range: Range<u64>) -> Result<()> {
        self.mapping().zero(range.clone());
        match self {
            // The zeros may still sit in the caches; the device must not see what lies under them.
            Memory::Npu(block) => block.sync(Direction::ToDevice, range),
            Memory::System(_) => Ok(()),
        }
    }
}

impl Memory {
    /// Copies `size` bytes at `from` of `source`, which may be this memory and overlap, to `offset`: what the CPU wrote
    /// there and what the device wrote, for the CPU and for the device.
    ///
    /// Errors: those of [`Block::sync`]; the source has its bytes then, also where both overlap.
    pub fn copy(&self, offset: u64, source: &Self, from: u64, size: u64) -> Result<()> {
        if let Memory::Npu(block) = source {
            // Lines that the CPU has written go out first: throwing the rest away must not take them along.
            block.sync(Direction::ToDevice, from..from + size)?;
            block.sync(Direction::FromDevice, from..from + size)?;
        }
        self.mapping().copy(offset, source.mapping(), from, size);
        let Memory::Npu(block) = self else { return Ok(()) };
        block.sync(Direction::ToDevice, offset..offset + size).inspect_err(|_| {
            source.mapping().copy(from, self.mapping(), offset, size);
            if let Memory::Npu(block) = source {
                // What failed once will most likely fail again; the CPU has the right bytes in any case.
                let _ = block.sync(Direction::ToDevice, from..from + size);
            }
        })
    }
}

fn wrong_kind(why: &str) -> Error {
    Error::new(ErrorCode::BufferKind, format!("this buffer is system memory: {why}"))
}

/// Where memory comes from: allocates more of the same.
#[derive(Clone, Debug)]
pub enum Source {
    /// Kernel objects as `request` describes them, whatever size it names.
    Npu {
        /// Of this device.
        device: Arc<Device>,
        /// Like this one.
        request: Request,
        /// Leave the bytes as the driver gave them.
        dirty: bool,
    },
    /// Pages of this process.
    System(PageOptions),
}

impl Source {
    /// Which memory.
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
            Source::System(options) => Pages::allocate(size, *options).map(Memory::System),
        }
    }
}

/// Larger alignments have no use and would reserve that many addresses a buffer.
const MAX_ALIGNMENT: u64 = GIB;

/// `wanted`, or `default` where nothing was; a power of two in any case.
///
/// Errors: `ERR_OUT_OF_RANGE`.
pub fn alignment(wanted: Option<u64>, default: u64) -> Result<u64> {
    let Some(wanted) = wanted else { return Ok(default) };
    if wanted.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&wanted) {
        return Ok(wanted);
    }
    let message = format!("alignment is {wanted}; it must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
    Err(Error::new(ErrorCode::OutOfRange, message))
}
