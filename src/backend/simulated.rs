//! A simulated device: memfd-backed, with the rules, limits and errnos of the vendor's driver.
//!
//! The device is first-class, for laptops, tests and CI, and never passes for a real one: [`DeviceInfo::kind`] is
//! [`Kind::Simulated`](super::Kind::Simulated), and JavaScript shows that kind with every figure. It simulates
//! (`docs/design/drivers.md`):
//!
//! - 16 domains of 4 GiB that end in EFAULT, or a CMA area that ends in EINVAL and returns the previous user's bytes;
//! - SRAM that runs out silently;
//! - kernel objects that run out like file descriptors;
//! - the latency of a driver;
//! - with [`Options::incoherent`], caches of the CPU that the device does not see ([`caches`]).

mod address_space;
mod board;
pub mod caches;
mod device_view;
pub mod missing;

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, Resource};
use nix::sys::stat::fstat;
use nix::unistd::ftruncate;

use super::device_node::{duplicate, inside};
use super::errno::too_many_fds;
use super::object_table::stale;
use super::{Backend, DeviceInfo, Direction, Gauges, Maintenance, Object, Placement, Request};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::dma_buf::{simulated_views, INCOHERENT_NAME, INCOHERENT_VIEWS, SIMULATED_NAME};
use crate::sys::mapping::Mapping;
use crate::sys::page::{page_size, whole_pages};
use crate::units::format_bytes;
use address_space::AddressSpace;
pub use board::Options;
use caches::CachedMemory;
use missing::MissingSyncs;

/// The name of a simulated object's mapping in `/proc/self/maps`.
pub const MEMFD_NAME: &str = SIMULATED_NAME;

/// The content of freed memory that the kernel does not clear.
const STALE: u8 = 0xdb;

/// A simulated device. See the [module](self).
#[derive(Debug)]
pub struct Simulated {
    info: DeviceInfo,
    max_objects: u64,
    latency: Duration,
    incoherent: bool,
    maintenance: Maintenance,
    /// Missing syncs that were found; `None` without the check.
    missing: Option<MissingSyncs>,
    state: Mutex<SimulatedState>,
}

#[derive(Debug)]
struct SimulatedState {
    domains: Vec<AddressSpace>,
    sram_free: u64,
    /// The number of objects that exist or are being created.
    objects: u64,
    table: Table<Entry>,
    /// Objects by device and inode number of their memfds, which identify an fd that is imported back.
    by_inode: HashMap<(u64, u64), Handle>,
}

#[derive(Debug)]
struct Entry {
    object: Object,
    memory: Arc<File>,
    /// The model of the CPU's caches; `None` for coherent or uncached memory.
    caches: Option<CachedMemory>,
    inode: (u64, u64),
    /// Creates and imports that were not destroyed yet.
    references: u32,
}

/// Addresses, SRAM and one object's place in the count, reserved before the memory is created. Returned on drop unless
/// committed.
struct ReservedAddresses<'a> {
    device: &'a Simulated,
    domain: u32,
    address: u64,
    size: u64,
    sram: u64,
    committed: bool,
}

impl Drop for ReservedAddresses<'_> {
    fn drop(&mut self) {
        if !self.committed {
            self.device.state().release(self.domain, self.address, self.size, self.sram);
        }
    }
}

impl SimulatedState {
    fn release(&mut self, domain: u32, address: u64, size: u64, sram: u64) {
        self.domains[domain as usize].give(address, size);
        self.sram_free += sram;
        self.objects -= 1;
    }
}

impl Simulated {
    /// Creates the board of `options`.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for an unknown board or an impossible figure.
    pub fn new(options: Options) -> Result<Self> {
        let (info, domains) = board::lay_out(&options)?;
        Ok(Self {
            max_objects: options.max_objects.unwrap_or(u64::MAX),
            latency: options.latency,
            incoherent: options.incoherent,
            maintenance: options.maintenance,
            missing: options.check_sync.then(MissingSyncs::default),
            state: Mutex::new(SimulatedState {
                domains,
                sram_free: info.sram_total,
                objects: 0,
                table: Table::new(),
                by_inode: HashMap::new(),
            }),
            info,
        })
    }

    fn state(&self) -> MutexGuard<'_, SimulatedState> {
        self.state.lock()
    }

    /// Simulates the driver's work before each call that may have to switch the IOMMU domain (`docs/design/rknpu.md`
    /// §3.4).
    fn switch_domain(&self) {
        if !self.latency.is_zero() {
            std::thread::sleep(self.latency);
        }
    }

    fn reserve(&self, domain: u32, size: u64, alignment: u64, want_sram: bool) -> Result<ReservedAddresses<'_>> {
        let mut state = self.state();
        if state.objects >= self.max_objects {
            return Err(Error::new(
                ErrorCode::TooManyFds,
                format!("the simulated device holds {} kernel objects and may hold no more", state.objects),
            )
            .limit("fds", self.max_objects)
            .syscall("MEM_CREATE", Errno::EMFILE as i32)
            .hint("free buffers, or make fewer and larger ones"));
        }
        let Some(space) = state.domains.get_mut(domain as usize) else {
            return Err(Error::new(
                ErrorCode::OutOfRange,
                format!("IOMMU domain {domain} does not exist: the device has {}", self.info.domains),
            )
            .syscall("MEM_CREATE", Errno::EINVAL as i32));
        };
        let Some(address) = space.take(size, alignment) else {
            let largest = space.largest();
            return Err(self.exhausted(domain, size, largest));
        };
        let sram = if want_sram { state.sram_free.min(size) } else { 0 };
        state.sram_free -= sram;
        state.objects += 1;
        Ok(ReservedAddresses { device: self, domain, address, size, sram, committed: false })
    }

    fn exhausted(&self, domain: u32, size: u64, largest: u64) -> Error {
        let total = format_bytes(self.info.domain_bytes);
        let (code, errno, scope, message) = if self.info.iommu {
            let message = format!("IOMMU domain {domain} ({total}) has no {} left in one piece", format_bytes(size));
            (ErrorCode::IovaExhausted, Errno::EFAULT, format!("domain:{domain}"), message)
        } else {
            let message = format!("the CMA area ({total}) has no {} left in one piece", format_bytes(size));
            (ErrorCode::OutOfMemory, Errno::EINVAL, "cma".to_owned(), message)
        };
        Error::new(code, message)
            .requested(size)
            .largest_free(largest)
            .limit(scope, self.info.domain_bytes)
            .syscall("MEM_CREATE", errno as i32)
            .hint(match self.info.domains {
                0 | 1 => "deallocate buffers (dropped ones go when the event loop turns), or use smaller ones",
                _ => {
                    "deallocate buffers (dropped ones go when the event loop turns), use smaller ones, or another \
                     iommuDomain"
                }
            })
    }

    /// Makes the memory of an object. The first `stale` bytes of each of its `views` have stale bytes.
    fn make_memory(&self, size: u64, stale: u64, views: u64) -> Result<File> {
        let failed = |call: &'static str| {
            move |errno: Errno| {
                let because =
                    |code| Error::new(code, format!("{call} of {} failed: {}", format_bytes(size), errno.desc()));
                let error = match errno {
                    Errno::EMFILE | Errno::ENFILE => too_many_fds(errno),
                    Errno::ENOMEM | Errno::ENOSPC => because(ErrorCode::OutOfMemory),
                    Errno::EFBIG => Error::new(
                        ErrorCode::DeviceIo,
                        format!("{} exceed the limit of file sizes of this process", format_bytes(size)),
                    )
                    .hint("raise it (ulimit -f unlimited): the simulated device keeps its memory in a file"),
                    _ => because(ErrorCode::DeviceIo),
                };
                error.requested(size).syscall(call, errno as i32)
            }
        };
        let name = if views > 1 { INCOHERENT_NAME } else { MEMFD_NAME };
        let memory =
            memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(failed("memfd_create"))?;
        // ftruncate beyond the limit raises SIGXFSZ, which ends a process that does not ignore it, as Deno's.
        if getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(limit, _)| size * views > limit) {
            return Err(failed("ftruncate")(Errno::EFBIG));
        }
        ftruncate(&memory, i64::try_from(size * views).unwrap_or(i64::MAX)).map_err(failed("ftruncate"))?;
        // Sealed like a dma-buf: the holder of the fd may write the bytes, but may not truncate the file.
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW))
            .map_err(failed("fcntl"))?;
        let file = File::from(memory);
        let chunk = [STALE; 1 << 16];
        for view in 0..views {
            for at in (0..stale).step_by(chunk.len()) {
                let count = (stale - at).min(chunk.len() as u64) as usize;
                file.write_all_at(&chunk[..count], view * size + at).map_err(|error| {
                    failed("write")(error.raw_os_error().map_or(Errno::UnknownErrno, Errno::from_raw))
                })?;
            }
        }
        Ok(file)
    }

    fn entry<T>(&self, handle: Handle, call: &'static str, read: impl FnOnce(&Entry) -> T) -> Result<T> {
        self.state().table.get(handle).map(read).ok_or_else(|| stale(call))
    }
}

fn inode_of(fd: BorrowedFd<'_>) -> Result<((u64, u64), u64)> {
    let stat = fstat(fd).map_err(|errno| {
        Error::new(ErrorCode::InvalidArgType, format!("the fd cannot be imported: {}", errno.desc()))
            .syscall("fstat", errno as i32)
    })?;
    Ok(((stat.st_dev, stat.st_ino), u64::try_from(stat.st_size).unwrap_or(0)))
}

impl Backend for Simulated {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn create(&self, request: &Request) -> Result<Object> {
        self.switch_domain();
        let size = whole_pages(request.size)?.bytes();
        let want_sram = request.placement == Placement::TrySram;
        let mut reservation = self.reserve(request.domain, size, request.alignment.max(page_size()), want_sram)?;
        let sram = reservation.sram;
        // Without an IOMMU, the kernel clears no memory. With one, only SRAM keeps the previous user's bytes.
        let views = if self.incoherent && request.cacheable { INCOHERENT_VIEWS } else { 1 };
        let memory = Arc::new(self.make_memory(size, if self.info.iommu { sram } else { size }, views)?);
        let (inode, _) = inode_of(memory.as_fd())?;
        let mut state = self.state();
        let (handle, entry) = state.table.insert_with(|handle| Entry {
            object: Object {
                handle,
                size,
                device_address: Some(reservation.address),
                sram,
                domain: self.info.iommu.then_some(request.domain),
                cacheable: request.cacheable,
                contiguous: request.contiguous || !self.info.iommu,
                zeroed: self.info.iommu && sram == 0,
                imported: false,
            },
            caches: (views > 1).then(|| CachedMemory::new(Arc::clone(&memory), size)),
            memory,
            inode,
            references: 1,
        });
        let object = entry.object.clone();
        state.by_inode.insert(inode, handle);
        reservation.committed = true;
        Ok(object)
    }

    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        self.switch_domain();
        let (inode, bytes) = inode_of(fd)?;
        let views = simulated_views(fd);
        let bytes = bytes / views;
        let beyond = |wanted| {
            Error::new(ErrorCode::OutOfRange, format!("the dma-buf has only {}", format_bytes(bytes)))
                .available(bytes)
                .requested(wanted)
        };
        let too_many = size.filter(|wanted| *wanted > bytes);
        {
            let mut state = self.state();
            if let (Some(wanted), true) = (too_many, state.by_inode.contains_key(&inode)) {
                return Err(beyond(wanted));
            }
            if let Some(object) = state.reference(inode) {
                return Ok(object);
            }
        }
        let not_a_buffer = |why: &str| {
            Error::new(ErrorCode::InvalidArgType, format!("the fd is not a dma-buf this device can import: {why}"))
                .syscall("PRIME_FD_TO_HANDLE", Errno::EINVAL as i32)
        };
        match fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain) {
            Ok(seals) if seals.contains(SealFlag::F_SEAL_SHRINK) => {}
            // A file that shrinks under a mapping would cause SIGBUS later; udmabuf has the same rule.
            _ => return Err(not_a_buffer("the simulated device takes memfds sealed against shrinking")),
        }
        if bytes == 0 || !bytes.is_multiple_of(page_size()) {
            return Err(not_a_buffer("its size is not a whole number of pages"));
        }
        if let Some(wanted) = too_many {
            return Err(beyond(wanted));
        }
        let memory = Arc::new(File::from(duplicate(fd)?));
        let mut reservation = self.reserve(0, bytes, page_size(), false)?;
        let mut state = self.state();
        if let Some(object) = state.reference(inode) {
            drop(state); // another thread was first; dropping the reservation takes the lock
            return Ok(object);
        }
        let (handle, entry) = state.table.insert_with(|handle| Entry {
            object: Object {
                handle,
                size: bytes,
                device_address: Some(reservation.address),
                sram: 0,
                domain: self.info.iommu.then_some(0),
                cacheable: true,
                contiguous: false,
                zeroed: false,
                imported: true,
            },
            caches: (views > 1).then(|| CachedMemory::new(Arc::clone(&memory), bytes)),
            memory,
            inode,
            references: 1,
        });
        let object = entry.object.clone();
        state.by_inode.insert(inode, handle);
        reservation.committed = true;
        Ok(object)
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        let (memory, size) = self.entry(object, "mmap", |entry| (Arc::clone(&entry.memory), entry.object.size))?;
        Mapping::shared(memory.as_fd(), 0, size, alignment).map_err(|error| super::mmap_failed(&error, size))
    }

    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        self.switch_domain();
        let (size, caches) = self.entry(object, "MEM_SYNC", |entry| (entry.object.size, entry.caches.clone()))?;
        let range = inside(range, size, "MEM_SYNC")?;
        match caches {
            Some(caches) if !range.is_empty() => self.maintain(object, &caches, direction, range),
            _ => Ok(()),
        }
    }

    fn needs_no_sync(&self, object: Handle) -> bool {
        self.latency.is_zero() && self.entry(object, "MEM_SYNC", |entry| entry.caches.is_none()).unwrap_or(false)
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        let memory = self.entry(object, "PRIME_HANDLE_TO_FD", |entry| Arc::clone(&entry.memory))?;
        duplicate(memory.as_fd())
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        self.switch_domain();
        let mut state = self.state();
        let entry = state.table.get_mut(object).ok_or_else(|| stale("MEM_DESTROY"))?;
        entry.references -= 1;
        if entry.references > 0 {
            return Ok(());
        }
        let Some(entry) = state.table.remove(object) else { return Ok(()) };
        state.by_inode.remove(&entry.inode);
        let gone = &entry.object;
        state.release(gone.domain.unwrap_or(0), gone.device_address.unwrap_or(0), gone.size, gone.sram);
        drop(state);
        drop(entry); // closes the memfd outside the lock
        Ok(())
    }

    fn gauges(&self, domain: u32) -> Gauges {
        let state = self.state();
        let space = state.domains.get(domain as usize);
        Gauges {
            sram_free: state.sram_free,
            free: space.map(AddressSpace::free),
            largest_free: space.map(AddressSpace::largest),
        }
    }

    fn live(&self) -> usize {
        self.state().table.len()
    }

    fn maintenance(&self) -> Maintenance {
        self.maintenance
    }

    fn simulated(&self) -> Option<&Simulated> {
        Some(self)
    }
}

impl SimulatedState {
    /// Adds a reference to the object behind `inode`.
    fn reference(&mut self, inode: (u64, u64)) -> Option<Object> {
        let handle = *self.by_inode.get(&inode)?;
        let entry = self.table.get_mut(handle)?;
        entry.references += 1;
        Some(Object { imported: true, ..entry.object.clone() })
    }
}

#[cfg(test)]
mod tests;
