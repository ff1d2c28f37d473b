//! The façade: allocates, frees, describes and counts memory for one opened device. May import every room but `node`.
//!
//! ```
//! use std::sync::Arc;
//!
//! use rkllmjs_memory::allocation::Reachability;
//! use rkllmjs_memory::backend::simulated::{Options, Simulated};
//! use rkllmjs_memory::device::Device;
//! use rkllmjs_memory::manager::{Manager, NpuOptions};
//! use rkllmjs_memory::pool::SlabOptions;
//!
//! let device = Device::new(Arc::new(Simulated::new(Options::default())?));
//! let manager = Manager::new(device, SlabOptions::default());
//!
//! let tensor = manager.allocate_npu(1 << 20, &NpuOptions::default())?;
//! assert_eq!(manager.find(tensor.address, None)?.id, tensor.id);
//! assert_eq!((manager.summary().npu.live, manager.summary().npu.used), (1, 1 << 20));
//!
//! // `release` frees the memory; `finalize` says that no ArrayBuffer reaches the addresses any more.
//! tensor.release()?;
//! tensor.finalize(Reachability::Unreachable);
//! assert_eq!((manager.summary().npu.live, manager.summary().npu.used), (0, 0));
//! # Ok::<(), rkllmjs_memory::error::Error>(())
//! ```

mod limits;
mod pins;
mod pools;
mod profile;
mod profiling;
mod reservation;
mod simulated;
mod stats;

use std::collections::BTreeMap;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU32;
use std::sync::Arc;
use std::time::Duration;

use crate::accounting::{Account, Accounting, Accounts, Admission};
use crate::allocation::backing::SharedBacking;
use crate::allocation::{Allocation, Backing};
use crate::backend::{DeviceInfo, Direction, Kind, Maintenance, Placement, Request};
use crate::device::block::{Block, ImportRange};
use crate::device::memory::{alignment, HugePages, Memory, PageOptions, Pages};
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};
use crate::exhaustion::retry_with_room;
use crate::handle::{Handle, Table};
use crate::pool::{Pool, SlabOptions, Slabs};
use crate::sync::Mutex;
use crate::sys::page::{page_size, whole_pages};
use crate::sys::proc::Proc;
use crate::sys::ram::Ram;
use crate::units::MemoryKind;
pub use stats::{DomainStats, NpuStats, SlabStats, Summary, SystemStats};

pub use pins::{orphaned_pins, unpin_orphan};
pub use pools::{block_dropped, PoolMemory, PoolOptions, PreparedPool};
pub use profile::{Leaks, Sampled, Snapshot, SnapshotPool};
use profiling::Profiling;
pub use reservation::Reservation;

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

/// Manages the memory of one opened device, and system memory, under one accounting.
#[derive(Debug)]
pub struct Manager {
    device: Arc<Device>,
    accounting: Arc<Accounting>,
    slabs: Slabs,
    pools: Mutex<BTreeMap<Arc<str>, Arc<Pool>>>,
    reservations: Mutex<Table<Reservation>>,
    profiling: Profiling,
    proc: Proc,
    /// Read once, as is `ram_total`: neither changes while the machine runs.
    npu_total: u64,
    ram_total: u64,
}

impl Manager {
    /// Makes a manager for `device`.
    pub fn new(device: Arc<Device>, slabs: SlabOptions) -> Self {
        let ram_total = Ram::read().map_or(0, |ram| ram.total);
        let npu_total = stats::reach(device.info()).map_or(ram_total, |reach| reach.min(ram_total));
        let accounting = Accounting::new(device.domains());
        Self {
            slabs: Slabs::new(Arc::clone(&device), slabs),
            pools: Mutex::default(),
            reservations: Mutex::default(),
            profiling: Profiling::default(),
            device,
            accounting,
            proc: Proc::default(),
            npu_total,
            ram_total,
        }
    }

    /// Lets freed slices wait for turns of an event loop too, which `turns` counts.
    #[must_use]
    pub fn with_turns(self, turns: &'static AtomicU32) -> Self {
        Self { slabs: self.slabs.with_turns(turns), ..self }
    }

    /// Returns the description of the opened device.
    pub fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Returns the free SRAM, in bytes.
    pub fn sram_free(&self) -> u64 {
        self.device.backend().gauges(0).sram_free
    }

    /// Allocates NPU memory: a slice of a slab for a small size, else a dedicated kernel object.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::create`].
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
            Ok(Prepared { admission, backing: Unclaimed(Some(backing)), size })
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

    /// Maps `range` of a dma-buf of another library or process. `fd` stays the caller's.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::import`].
    pub fn import(&self, fd: BorrowedFd<'_>, range: ImportRange, tag: Option<Arc<str>>) -> Result<Arc<Allocation>> {
        self.prepare_import(fd, range, tag)?.enter()
    }

    /// Runs the part of [`import`](Self::import) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`import`](Self::import).
    pub fn prepare_import(&self, fd: BorrowedFd<'_>, range: ImportRange, tag: Option<Arc<str>>) -> Result<Prepared> {
        self.counted(MemoryKind::Npu, range.size, tag, |account| {
            // The size is known only after the import; an object that exceeds a limit is closed again.
            let mut admission = account.admit(0)?;
            let block = Block::import(&self.device, fd, range)?;
            admission.cover(block.reserved())?;
            let used = block.used();
            let backing = Unclaimed(Some(dedicated(Memory::Npu(block))));
            Ok(Prepared { admission, backing, size: used.end - used.start })
        })
    }

    /// Finds the live allocation of this manager at `address`. Shared memory may have several allocations there:
    /// `handle` selects one of them.
    ///
    /// Errors: `ERR_UNKNOWN_BUFFER`.
    pub fn find(&self, address: usize, handle: Option<Handle>) -> Result<Arc<Allocation>> {
        let matches = |found: &Arc<Allocation>| {
            found.belongs_to(&self.accounting)
                && (!found.is_shared() || handle.is_none_or(|handle| handle == found.handle))
        };
        Allocation::at(address).find(matches).ok_or_else(|| {
            Error::new(ErrorCode::UnknownBuffer, "this buffer was not allocated by this MemoryManager")
                .hint("pass an ArrayBuffer that this manager returned, or a view of one")
        })
    }

    /// Makes an allocation of this manager over memory that another manager of this process shares.
    ///
    /// Errors: those of [`SharedBacking::find`] and [`SharedBacking::retain`]; `ERR_UNSUPPORTED` for memory of another
    /// kind of device.
    pub fn adopt(&self, token: &str) -> Result<Arc<Allocation>> {
        let share = SharedBacking::find(token)?;
        let backing = Backing::Shared(Arc::clone(&share));
        let (memory, _) =
            backing.memory().ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this buffer was freed"))?;
        if let Some(other) = memory.device().map(|device| device.info().kind).filter(|kind| *kind != self.info().kind) {
            let message =
                format!("this buffer is memory of \"{other}\", and this manager uses \"{}\"", self.info().kind);
            return Err(Error::new(ErrorCode::Unsupported, message).hint("open both managers with the same backend"));
        }
        self.counted(memory.kind(), Some(share.size), share.tag.clone(), |account| {
            let admission = account.admit(backing.info().reserved)?;
            share.retain()?;
            Allocation::enter(admission, backing.clone(), share.size)
        })
    }

    /// Synchronizes the CPU's caches for `length` bytes from `offset` on, by default up to the end.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, `ERR_OUT_OF_RANGE`, and those of the driver.
    pub fn sync(&self, allocation: &Allocation, direction: Direction, offset: u64, length: Option<u64>) -> Result<()> {
        self.prepare_sync(allocation, direction, offset, length)?.run()
    }

    /// Returns the part of [`sync`](Self::sync) that waits for the driver, for any thread. The job keeps the memory
    /// alive.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_BUFFER_KIND`.
    pub fn prepare_sync(
        &self,
        allocation: &Allocation,
        direction: Direction,
        offset: u64,
        length: Option<u64>,
    ) -> Result<SyncJob> {
        let (memory, range) = Self::bytes_of(allocation, offset, length)?;
        // The clean and the invalidate of a whole object are two steps. A neighbour's bytes that this thread writes in
        // between would be lost, so a slice is not left to another thread.
        let whole = memory.device().is_some_and(|device| device.backend().maintenance() == Maintenance::Objects);
        let shared = range.end - range.start < memory.mapping().len();
        if whole && shared && direction == Direction::FromDevice {
            memory.sync(direction, range)?;
            return Ok(SyncJob(None));
        }
        Ok(SyncJob(Some((memory, direction, range))))
    }

    /// Returns the memory of an allocation, with the place of `length` bytes from `offset` on, by default all the rest.
    fn bytes_of(allocation: &Allocation, offset: u64, length: Option<u64>) -> Result<(Arc<Memory>, Range<u64>)> {
        let (memory, start) = allocation.memory()?;
        let end = length.map_or(Some(allocation.size), |length| offset.checked_add(length));
        let range = match end {
            Some(end) if offset <= end && end <= allocation.size => start + offset..start + end,
            _ if allocation.kind == MemoryKind::System => 0..0,
            _ => {
                let length = length.unwrap_or(0);
                let message =
                    format!("offset {offset} and length {length} exceed the buffer's {} bytes", allocation.size);
                return Err(Error::new(ErrorCode::OutOfRange, message)
                    .requested(offset.saturating_add(length))
                    .limit("buffer", allocation.size));
            }
        };
        Ok((memory, range))
    }

    /// Returns a new close-on-exec dma-buf fd of the allocation's kernel object. The allocation starts at
    /// [`offset`](Allocation::offset) in it, and stays there.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, those of [`Pool::keep_exported`], and those of the driver.
    pub fn export(&self, allocation: &Allocation) -> Result<OwnedFd> {
        let (memory, _) = allocation.memory()?;
        if let (MemoryKind::Npu, Some((pool, slice))) = (allocation.kind, allocation.place()) {
            pool.keep_exported(&slice)?;
        }
        memory.export()
    }

    /// Frees all memory. ArrayBuffers that JavaScript still holds read zeros afterwards.
    pub fn dispose(&self) {
        self.end(|_| true);
    }

    /// Frees all memory, and the pools that `ends` selects.
    fn end(&self, ends: impl Fn(&Pool) -> bool) {
        let live: Vec<_> = self.accounting.close().into_iter().filter_map(Allocation::by_handle).collect();
        self.release_all();
        self.end_pools(&live, ends);
        for allocation in live {
            // If the kernel has no mapping left for the zero pages, the memory is freed when the buffer is collected.
            let _ = allocation.release();
        }
    }

    /// Waits until the driver has taken back all freed memory, at most `timeout`. Returns whether it has.
    pub fn wait_for_frees(&self, timeout: Duration) -> bool {
        self.device.wait_for_frees(timeout)
    }

    /// Waits until the driver has taken back the memory that was freed before this call.
    pub fn wait_for_present_frees(&self) {
        self.device.wait_for_present_frees();
    }

    /// Returns the freed bytes that the driver has not taken back yet.
    pub fn pending(&self) -> u64 {
        self.device.pending()
    }

    /// Copies the figures of the accounting.
    pub fn accounts(&self) -> Accounts {
        self.accounting.read(Accounts::clone)
    }

    /// Runs `allocate`. Counts a refusal, and replaces the error's size, which was rounded up, by the requested one.
    fn counted<T>(
        &self,
        kind: MemoryKind,
        size: Option<u64>,
        tag: Option<Arc<str>>,
        allocate: impl FnOnce(&Account) -> Result<T>,
    ) -> Result<T> {
        let account = Account { accounting: Arc::clone(&self.accounting), kind: Some(kind), tag };
        self.profiling.timed(|| allocate(&account)).map_err(|error| {
            account.failed(size.unwrap_or(0));
            match size {
                Some(size) => error.requested(size),
                None => error,
            }
        })
    }

    /// Allocates a slice of a slab. Returns `None` if the request is not for slabs, or if no slab fits: there may still
    /// be room for a dedicated object.
    fn slab_slice(&self, request: &Request, zeroed: bool) -> Result<Option<Backing>> {
        let Some(pool) = self.slabs.pool_for(request)? else { return Ok(None) };
        self.bound_waits();
        let Ok(slice) = pool.allocate(request.size, page_size()) else { return Ok(None) };
        pools::backing(pool, slice, zeroed).map(Some)
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

    fn request(&self, size: u64, options: &NpuOptions) -> Result<Request> {
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

/// Cache maintenance that is left to do.
#[derive(Debug)]
pub struct SyncJob(Option<(Arc<Memory>, Direction, Range<u64>)>);

impl SyncJob {
    /// Maintains the caches.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of the driver.
    pub fn run(self) -> Result<()> {
        self.0.map_or(Ok(()), |(memory, direction, range)| memory.sync(direction, range))
    }
}

/// Memory that JavaScript has not seen yet. Dropping the value frees the memory.
#[derive(Debug)]
pub struct Prepared {
    admission: Admission,
    backing: Unclaimed,
    size: u64,
}

impl Prepared {
    /// Whether the memory is a slice that a reset of its pool, or the pool's end, has freed meanwhile.
    pub fn is_stale(&self) -> bool {
        match &self.backing.0 {
            Some(Backing::Suballocated { pool, slice, .. }) => pool.slice(slice.chunk, slice.region).is_err(),
            _ => false,
        }
    }

    /// Makes an allocation that belongs to this thread.
    ///
    /// Errors: those of [`Allocation::enter`].
    pub fn enter(self) -> Result<Arc<Allocation>> {
        let Self { admission, mut backing, size } = self;
        match backing.0.take() {
            Some(backing) => Allocation::enter(admission, backing, size),
            None => Err(Error::new(ErrorCode::BufferFreed, "this memory was freed")),
        }
    }
}

/// A backing that no allocation has taken yet.
#[derive(Debug)]
struct Unclaimed(Option<Backing>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(Backing::Suballocated { pool, slice, .. }) = &self.0 {
            pool.free_unclaimed(slice);
        }
    }
}

fn dedicated(memory: Memory) -> Backing {
    Backing::Dedicated(Arc::new(memory))
}

fn page_options(options: &SystemOptions) -> Result<PageOptions> {
    Ok(PageOptions {
        alignment: alignment(options.alignment, page_size())?.max(page_size()),
        huge_pages: options.huge_pages,
        lock: options.lock,
        prefault: options.prefault,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::allocation::Reachability;
    use crate::backend::errno::Call;
    use crate::backend::fault_injecting::{Fault, FaultInjecting};
    use crate::backend::simulated::{Options, Simulated};
    use crate::backend::Backend;

    fn manager(options: Options) -> Manager {
        Manager::new(Device::new(Arc::new(Simulated::new(options).unwrap())), SlabOptions::default())
    }

    fn end(allocation: &Allocation) {
        allocation.release().unwrap();
        allocation.finalize(Reachability::Unreachable);
    }

    #[test]
    fn memory_is_zeroed_even_if_the_driver_does_not_clear_it() {
        let manager = manager(Options { soc: Some("rk3566".into()), ..Options::default() });
        let mut bytes = [1; 64];
        let clean = manager.allocate_npu(1 << 16, &NpuOptions::default()).unwrap();
        clean.memory().unwrap().0.mapping().read((1 << 16) - 64, &mut bytes);
        assert_eq!(bytes, [0; 64]);
        let options = NpuOptions { dirty: true, dedicated: true, ..NpuOptions::default() };
        let dirty = manager.allocate_npu(1 << 16, &options).unwrap();
        dirty.memory().unwrap().0.mapping().read(0, &mut bytes);
        assert_ne!(bytes, [0; 64], "the simulated CMA area clears nothing");
        end(&clean);
        end(&dirty);
    }

    #[test]
    fn a_slice_never_shows_its_last_owners_bytes_unless_asked_to() {
        let manager = manager(Options::default());
        let write = |allocation: &Allocation| {
            let (memory, start) = allocation.memory().unwrap();
            memory.mapping().fill(start..start + allocation.size, 7);
        };
        let read = |allocation: &Allocation| {
            let (memory, start) = allocation.memory().unwrap();
            let mut bytes = vec![1; allocation.size as usize];
            memory.mapping().read(start, &mut bytes);
            bytes
        };
        let allocate = |dirty| manager.allocate_npu(10_000, &NpuOptions { dirty, ..NpuOptions::default() }).unwrap();
        let first = allocate(false);
        write(&first);
        end(&first);
        let second = allocate(true);
        assert_eq!(second.address, first.address, "the slab uses the slice's place again");
        assert_eq!(read(&second), vec![7; 10_000]);
        end(&second);
        let third = allocate(false);
        assert_eq!((third.address, read(&third)), (first.address, vec![0; 10_000]));
        end(&third);
        assert_eq!(manager.npu_stats().objects, 1, "one empty slab is kept");
    }

    #[test]
    fn a_slice_that_may_still_be_reachable_is_never_used_again() {
        let manager = manager(Options::default());
        let moved = manager.allocate_npu(4096, &NpuOptions::default()).unwrap();
        moved.finalize(Reachability::Unknown);
        let next = manager.allocate_npu(4096, &NpuOptions::default()).unwrap();
        assert_ne!(next.address, moved.address);
        end(&next);
        assert_eq!(manager.summary().npu.live, 0);
    }

    #[test]
    fn twenty_thousand_small_buffers_are_twenty_kernel_objects() {
        let manager = manager(Options { max_objects: Some(20), ..Options::default() });
        let allocate = |_| manager.allocate_npu(16 << 10, &NpuOptions::default()).unwrap();
        let buffers: Vec<_> = (0..20_000).map(allocate).collect();
        assert_eq!(manager.npu_stats().objects, 20);
        assert_eq!(manager.npu_stats().counters.used, 20_000 * (16 << 10));
        buffers.iter().for_each(|buffer| end(buffer));
        assert_eq!((manager.npu_stats().objects, manager.npu_stats().counters.used), (1, 0));
    }

    #[test]
    fn a_small_request_gets_a_dedicated_object_when_no_slab_fits() {
        // Room for three pages: a slab needs more.
        let options = Options { domain_bytes: Some(4 * page_size()), domains: Some(1), ..Options::default() };
        let manager = manager(options);
        let small = manager.allocate_npu(100, &NpuOptions::default()).unwrap();
        assert!(small.dedicated);
        end(&small);
    }

    #[test]
    fn the_accounting_follows_kinds_and_tags() {
        let manager = manager(Options::default());
        let tag: Arc<str> = "kv".into();
        let npu = NpuOptions { tag: Some(Arc::clone(&tag)), ..NpuOptions::default() };
        let system = SystemOptions { tag: Some(Arc::clone(&tag)), ..SystemOptions::default() };
        let (a, b) = (manager.allocate_npu(1, &npu).unwrap(), manager.allocate_system(1, &system).unwrap());
        assert!(manager.allocate_npu(1 << 40, &npu).is_err());
        let accounts = manager.accounts();
        assert_eq!((accounts.npu.used, accounts.system.used), (page_size(), page_size()));
        assert_eq!((accounts.npu.failures, accounts.tags[&tag].counters().failures), (1, 1));
        assert_eq!((accounts.tags[&tag].counters().used, accounts.tags[&tag].counters().live), (2 * page_size(), 2));
        end(&a);
        end(&b);
        assert_eq!(
            (manager.accounts().tags[&tag].counters().used, manager.accounts().tags[&tag].counters().peak),
            (0, 2 * page_size())
        );
    }

    #[test]
    fn a_tag_per_request_does_not_leak() {
        let manager = manager(Options::default());
        for request in 0..5000 {
            let options = SystemOptions { tag: Some(format!("request {request}").into()), ..SystemOptions::default() };
            end(&manager.allocate_system(1, &options).unwrap());
        }
        assert!(manager.accounts().tags.len() <= 1025);
    }

    #[test]
    fn finalizers_may_run_first_twice_or_on_another_thread() {
        let manager = manager(Options::default());
        let allocate = || manager.allocate_npu(1, &NpuOptions::default()).unwrap();
        let first = allocate();
        first.finalize(Reachability::Unreachable);
        assert!(!first.release().unwrap() && first.memory().is_err());
        first.finalize(Reachability::Unreachable);
        let second = allocate();
        assert!(second.release().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| second.finalize(Reachability::Unknown));
        });
        assert_eq!(manager.summary().npu.live, 0);
        assert_eq!(manager.summary().npu.frees, 2);
    }

    #[test]
    fn dispose_refuses_further_allocations() {
        let manager = manager(Options::default());
        let kept = manager.allocate_npu(1, &NpuOptions::default()).unwrap();
        manager.dispose();
        assert!(!kept.is_live());
        let error = manager.allocate_system(1, &SystemOptions::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ManagerDisposed);
        assert_eq!((manager.summary().npu.used, manager.summary().system.used), (0, 0));
        kept.finalize(Reachability::Unreachable);
    }

    #[test]
    fn errors_name_their_cause() {
        let cause = |call, errno| {
            let simulated: Arc<dyn Backend> = Arc::new(Simulated::new(Options::default()).unwrap());
            let faulty = FaultInjecting::new(simulated);
            faulty.fail(Fault::new(call, 1, errno));
            let manager =
                Manager::new(Device::new(Arc::new(faulty)), SlabOptions { threshold: 0, ..SlabOptions::default() });
            let error = manager.allocate_npu(1, &NpuOptions::default()).unwrap_err();
            assert_eq!(error.errno(), Some(errno));
            assert!(error.details().hint.is_some(), "{error}: no hint");
            assert_eq!(manager.summary().npu.failures, 1);
            error.code()
        };
        for (call, errno, code) in [
            (Call::Create, libc::EFAULT, ErrorCode::IovaExhausted),
            (Call::Create, libc::EINVAL, ErrorCode::DomainBusy),
            (Call::Create, libc::ENOMEM, ErrorCode::OutOfMemory),
            (Call::Create, libc::EMFILE, ErrorCode::TooManyFds),
            (Call::Create, libc::ENFILE, ErrorCode::TooManyFds),
            (Call::Create, libc::ENODEV, ErrorCode::DeviceLost),
            (Call::Create, libc::EIO, ErrorCode::DeviceIo),
            (Call::Map, libc::ENOTTY, ErrorCode::DeviceIo),
        ] {
            assert_eq!(cause(call, errno), code, "{call:?} {errno}");
        }
    }
}
