//! The façade: allocates, frees, describes and counts, for one opened device.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use crate::allocation::{Accounts, Allocation, Body, Books, MemoryKind};
use crate::backend::simulated::MEMFD_NAME;
use crate::backend::{DeviceInfo, Direction, Kind, Placement, Request};
use crate::block::Block;
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};
use crate::stats::Counters;
use crate::sys::mapping::{page_size, Mapping};
use crate::sys::proc::{Cgroup, Gauge, MemInfo, Pressure, Proc};
use crate::sys::ram::{self, Ram};
use crate::units::{align_up, human, whole_pages, GIB, MIN_ALIGNMENT};

/// How NPU memory is asked for. Sizes are bytes; `None` takes what the device needs.
#[derive(Clone, Debug, Default)]
pub struct NpuOptions {
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// Power of two, at least 64; a page where `None`.
    pub alignment: Option<u64>,
    /// Leave the bytes as the driver gave them.
    pub dirty: bool,
    /// Without a CPU-cached mapping.
    pub uncached: bool,
    /// Physically contiguous.
    pub contiguous: Option<bool>,
    /// Where the bytes should lie.
    pub placement: Placement,
    /// IOMMU domain.
    pub domain: u32,
    /// NPU cores that will use it, as a bit mask.
    pub core_mask: u32,
}

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

/// How system memory is asked for.
#[derive(Clone, Debug, Default)]
pub struct SystemOptions {
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// Power of two, at least 64; a page where `None`.
    pub alignment: Option<u64>,
    /// Transparent huge pages.
    pub huge_pages: HugePages,
    /// Never swapped.
    pub lock: bool,
    /// Every page faulted in now.
    pub prefault: bool,
}

/// NPU memory in figures; bytes.
#[derive(Clone, Debug)]
pub struct NpuStats {
    /// What was asked for and given.
    pub counters: Counters,
    /// What the NPU can address and the machine could give, whichever binds.
    pub total: u64,
    /// What of it is free.
    pub available: u64,
    /// Kernel objects behind the allocations.
    pub objects: u64,
    /// Freed here, not yet given back by the driver.
    pub pending_free: u64,
    /// Objects that the driver failed to take back, and their bytes.
    pub lost: (u64, u64),
    /// Each IOMMU domain: what it addresses, and what of it this process holds.
    pub domains: Vec<(u64, u64)>,
    /// NPU buffers mapped in this process by anyone.
    pub process_mapped: Option<u64>,
    /// SRAM nobody uses.
    pub sram_free: u64,
    /// Contiguous memory, all and free.
    pub cma: Option<(u64, u64)>,
    /// Per cent per core.
    pub load: Option<Vec<f64>>,
}

/// System memory in figures; bytes.
#[derive(Clone, Debug)]
pub struct SystemStats {
    /// What was asked for and given.
    pub counters: Counters,
    /// The machine's memory.
    pub memory: MemInfo,
    /// Resident set of this process.
    pub rss: u64,
    /// The container's figures.
    pub cgroup: Option<Cgroup>,
    /// How much tasks wait for memory.
    pub pressure: Option<Pressure>,
}

/// The one-look summary; bytes. Costs the same however many buffers are live.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    /// NPU memory.
    pub npu: Counters,
    /// What the NPU can address and the machine could give.
    pub npu_total: u64,
    /// System memory.
    pub system: Counters,
    /// RAM of the machine, or the cgroup's limit where that is less.
    pub system_total: u64,
}

/// Memory of one opened device, and of the system beside it, with one set of books.
#[derive(Debug)]
pub struct Manager {
    device: Arc<Device>,
    books: Arc<Books>,
    proc: Proc,
    /// Neither changes while the machine runs.
    npu_total: u64,
    ram_total: u64,
}

impl Manager {
    /// A manager with empty books.
    pub fn new(device: Arc<Device>) -> Self {
        let proc = Proc::default();
        let ram_total = Ram::read().map_or(0, |ram| ram.total);
        let npu_total = reach(device.info()).map_or(ram_total, |reach| reach.min(ram_total));
        Self { device, books: Arc::default(), proc, npu_total, ram_total }
    }

    /// What was opened.
    pub fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// SRAM nobody uses, in bytes.
    pub fn sram_free(&self) -> u64 {
        self.device.backend().gauges(0).sram_free
    }

    /// Allocates NPU memory: a kernel object of its own.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::create`].
    pub fn allocate_npu(&self, size: u64, options: &NpuOptions) -> Result<Arc<Allocation>> {
        self.counted(MemoryKind::Npu, Some(size), options.tag.as_ref(), || {
            let request = self.request(size, options)?;
            let block = Block::create(&self.device, &request, !options.dirty)?;
            self.enter(Body::Npu(block), size, options.tag.clone())
        })
    }

    /// Allocates zeroed pages of this process.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_OUT_OF_MEMORY`, `ERR_TOO_MANY_MAPS`; `ERR_UNSUPPORTED` where huge pages must be
    /// and are not.
    pub fn allocate_system(&self, size: u64, options: &SystemOptions) -> Result<Arc<Allocation>> {
        self.counted(MemoryKind::System, Some(size), options.tag.as_ref(), || {
            let body = self.system_memory(size, options)?;
            self.enter(body, size, options.tag.clone())
        })
    }

    /// Maps somebody else's dma-buf; `fd` stays the caller's. `size` bounds the bytes shown, else it is all of them.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, and those of [`Device::import`].
    pub fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>, tag: Option<Arc<str>>) -> Result<Arc<Allocation>> {
        self.counted(MemoryKind::Npu, size, tag.as_ref(), || {
            let block = Block::import(&self.device, fd, size)?;
            let shown = size.unwrap_or(block.object().size);
            self.enter(Body::Npu(block), shown, tag.clone())
        })
    }

    /// The live allocation of this manager at `address`.
    ///
    /// Errors: `ERR_UNKNOWN_BUFFER`.
    pub fn find(&self, address: usize) -> Result<Arc<Allocation>> {
        Allocation::at(address).filter(|found| found.belongs_to(&self.books)).ok_or_else(|| {
            Error::new(ErrorCode::UnknownBuffer, "this buffer was not allocated by this MemoryManager")
                .hint("pass the ArrayBuffer that it returned, or a view of it")
        })
    }

    /// Whether `allocation` is this manager's.
    pub fn owns(&self, allocation: &Allocation) -> bool {
        allocation.belongs_to(&self.books)
    }

    /// Cache maintenance of `length` bytes from `offset` on; `None` means to the end.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, `ERR_OUT_OF_RANGE`, and those of the driver.
    pub fn sync(&self, allocation: &Allocation, direction: Direction, offset: u64, length: Option<u64>) -> Result<()> {
        let body = allocation.body()?;
        let Body::Npu(block) = &*body else { return Err(wrong_kind("cache maintenance is for NPU memory")) };
        let end = length.map_or(Some(allocation.size), |length| offset.checked_add(length));
        match end {
            Some(end) if offset <= end && end <= allocation.size => block.sync(direction, offset..end),
            _ => Err(Error::new(
                ErrorCode::OutOfRange,
                format!(
                    "offset {offset} and length {} pass the buffer's {} bytes",
                    length.unwrap_or(0),
                    allocation.size
                ),
            )
            .requested(offset.saturating_add(length.unwrap_or(0)))
            .limit("buffer", allocation.size)),
        }
    }

    /// A new close-on-exec dma-buf fd over the allocation's kernel object.
    ///
    /// Errors: `ERR_BUFFER_KIND` for system memory, and those of the driver.
    pub fn export(&self, allocation: &Allocation) -> Result<OwnedFd> {
        match &*allocation.body()? {
            Body::Npu(block) => block.export(),
            Body::System { .. } => Err(wrong_kind("only NPU memory has a dma-buf")),
        }
    }

    /// Frees everything, buffers that JavaScript still sees included: those read zeros from here on.
    pub fn dispose(&self) {
        for allocation in self.books.close().into_iter().filter_map(Allocation::by_id) {
            // Where the kernel has no mapping left for the zeros, the memory goes when the buffer is collected.
            let _ = allocation.release();
        }
    }

    /// Everything that is counted.
    pub fn accounts(&self) -> Accounts {
        self.books.read(Accounts::clone)
    }

    /// The one-look summary.
    pub fn summary(&self) -> Summary {
        let (npu, system) = self.books.read(|accounts| (accounts.npu, accounts.system));
        Summary { npu, npu_total: self.npu_total, system, system_total: self.ram_total }
    }

    /// NPU memory in figures. Reads this process's mappings.
    pub fn npu_stats(&self) -> NpuStats {
        let info = self.info();
        let domains: Vec<_> = self.device.domains().iter().map(|domain| (domain.limit(), domain.used())).collect();
        let memory = self.proc.meminfo().unwrap_or_default();
        let ram = Ram::read().map_or(0, |ram| ram.available);
        let gauges = self.device.backend().gauges(0);
        let cma = match info.kind {
            // It plays its own area, and never takes from the machine's.
            Kind::Simulated if !info.iommu => Some(info.domain_bytes).zip(gauges.free),
            Kind::Simulated | Kind::Rocket => None,
            _ => memory.cma_total.zip(memory.cma_free),
        };
        let counters = self.books.read(|accounts| accounts.npu);
        let reach = match (info.iommu, cma) {
            (true, _) => domains.iter().map(|(total, used)| total - used).sum(),
            (false, Some((_, free))) if info.kind != Kind::DmaHeap => free,
            (false, _) if info.kind == Kind::DmaHeap => ram,
            _ => info.domain_bytes.saturating_sub(counters.used),
        };
        NpuStats {
            counters,
            total: self.npu_total,
            available: reach.min(ram),
            objects: counters.live,
            pending_free: self.device.pending(),
            lost: self.device.lost(),
            domains,
            process_mapped: self.process_mapped(),
            sram_free: gauges.sram_free,
            cma,
            load: match info.kind {
                Kind::Simulated | Kind::DmaHeap => None,
                _ => self.proc.npu_load(),
            },
        }
    }

    /// System memory in figures.
    pub fn system_stats(&self) -> SystemStats {
        SystemStats {
            counters: self.books.read(|accounts| accounts.system),
            memory: self.proc.meminfo().unwrap_or_default(),
            rss: self.proc.rss().unwrap_or(0),
            cgroup: self.proc.cgroup(),
            pressure: self.proc.pressure(),
        }
    }

    /// Open file descriptors and mappings of this process, and their bounds.
    pub fn process_gauges(&self) -> (Option<Gauge>, Option<Gauge>) {
        (self.proc.fds(), self.proc.maps())
    }

    /// Counts a refusal, and gives it the size that was asked for in place of the one that was rounded up from it.
    fn counted(
        &self,
        kind: MemoryKind,
        size: Option<u64>,
        tag: Option<&Arc<str>>,
        allocate: impl FnOnce() -> Result<Arc<Allocation>>,
    ) -> Result<Arc<Allocation>> {
        allocate().map_err(|error| {
            self.books.failed(kind, tag);
            match size {
                Some(size) => error.requested(size),
                None => error,
            }
        })
    }

    fn enter(&self, body: Body, size: u64, tag: Option<Arc<str>>) -> Result<Arc<Allocation>> {
        Allocation::enter(&self.books, body, size, tag)
    }

    fn request(&self, size: u64, options: &NpuOptions) -> Result<Request> {
        let info = self.info();
        if let Some(cores) = info.npu_cores {
            if u64::from(options.core_mask) >> cores != 0 {
                let message =
                    format!("coreMask {:#b} names cores this NPU does not have: it has {cores}", options.core_mask);
                return Err(Error::new(ErrorCode::OutOfRange, message));
            }
        }
        Ok(Request {
            size,
            alignment: alignment(options.alignment)?,
            cacheable: !options.uncached,
            // Rule 7 of the drivers: scattered pages behind an IOMMU, contiguous ones without.
            contiguous: options.contiguous.unwrap_or(!info.iommu && info.kind != Kind::DmaHeap),
            placement: options.placement,
            domain: options.domain,
            core_mask: options.core_mask,
        })
    }

    fn system_memory(&self, size: u64, options: &SystemOptions) -> Result<Body> {
        let (mut alignment, mut granule) = (alignment(options.alignment)?, page_size());
        let huge = match options.huge_pages {
            HugePages::No => None,
            _ => self.proc.huge_page_size(),
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
        let mapping =
            Mapping::anonymous(reserved, alignment).map_err(|error| crate::backend::mmap_failed(&error, reserved))?;
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
                Error::new(ErrorCode::OutOfMemory, format!("{} could not be faulted in: {error}", human(reserved)))
                    .requested(reserved)
                    .syscall("madvise", error.raw_os_error().unwrap_or(0))
            })?;
        }
        Ok(Body::System { mapping, charge })
    }

    /// Bytes of NPU buffers mapped here, by this library or any other, recognised by their names.
    fn process_mapped(&self) -> Option<u64> {
        let info = self.info();
        match (info.kind, &info.path) {
            (Kind::Simulated, _) => {
                let name = format!("/memfd:{MEMFD_NAME}");
                self.proc.mapped(|mapped| mapped.starts_with(&name))
            }
            (Kind::Rknpu, Some(node)) => {
                let nodes = self.proc.drm_siblings(node);
                self.proc.mapped(|mapped| nodes.iter().any(|node| node.as_os_str() == mapped))
            }
            _ => self.proc.mapped(|mapped| mapped.starts_with("/dmabuf:")),
        }
    }
}

/// What the device can address in all; `None`: whatever RAM there is.
fn reach(info: &DeviceInfo) -> Option<u64> {
    match (info.iommu, info.domain_bytes) {
        (_, 0) => None,
        (true, domain) => domain.checked_mul(info.domains.max(1).into()),
        (false, cma) => Some(cma),
    }
}

/// Larger alignments have no use and would reserve that many addresses a buffer.
const MAX_ALIGNMENT: u64 = GIB;

fn alignment(wanted: Option<u64>) -> Result<u64> {
    let Some(wanted) = wanted else { return Ok(page_size()) };
    if wanted.is_power_of_two() && (MIN_ALIGNMENT..=MAX_ALIGNMENT).contains(&wanted) {
        return Ok(wanted.max(page_size()));
    }
    let message = format!("alignment is {wanted}; it must be a power of two from {MIN_ALIGNMENT} to {MAX_ALIGNMENT}");
    Err(Error::new(ErrorCode::OutOfRange, message))
}

fn wrong_kind(why: &str) -> Error {
    Error::new(ErrorCode::BufferKind, format!("this buffer is system memory: {why}"))
}

fn lock_failed(error: &std::io::Error, size: u64) -> Error {
    // Locking a part of a mapping splits it: ENOMEM is the map count here as well.
    let refused = crate::backend::mmap_failed(error, size);
    if refused.code() == ErrorCode::TooManyMaps {
        return refused;
    }
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    Error::new(ErrorCode::OutOfMemory, format!("{} could not be locked in RAM: {error}", human(size)))
        .requested(size)
        .limit("memlock", limit)
        .syscall("mlock", error.raw_os_error().unwrap_or(0))
        .hint("raise RLIMIT_MEMLOCK (ulimit -l), or leave out `lock`")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::allocation::Reach;
    use crate::backend::decorate::{Fault, FaultInjecting};
    use crate::backend::errno::Call;
    use crate::backend::simulated::{Options, Simulated};
    use crate::backend::Backend;

    fn manager(options: Options) -> Manager {
        Manager::new(Device::new(Arc::new(Simulated::new(options).unwrap())))
    }

    fn end(allocation: &Allocation) {
        allocation.release().unwrap();
        allocation.finalize(Reach::Nobody);
    }

    #[test]
    fn memory_is_zeroed_whatever_the_driver_hands_out() {
        let manager = manager(Options { soc: Some("rk3566".into()), ..Options::default() });
        let mut bytes = [1; 64];
        let clean = manager.allocate_npu(1 << 16, &NpuOptions::default()).unwrap();
        clean.body().unwrap().mapping().read((1 << 16) - 64, &mut bytes);
        assert_eq!(bytes, [0; 64]);
        let dirty = manager.allocate_npu(1 << 16, &NpuOptions { dirty: true, ..NpuOptions::default() }).unwrap();
        dirty.body().unwrap().mapping().read(0, &mut bytes);
        assert_ne!(bytes, [0; 64], "the simulated CMA area clears nothing");
        end(&clean);
        end(&dirty);
    }

    #[test]
    fn the_books_follow_kinds_and_tags() {
        let manager = manager(Options::default());
        let tag: Arc<str> = "kv".into();
        let npu = NpuOptions { tag: Some(Arc::clone(&tag)), ..NpuOptions::default() };
        let system = SystemOptions { tag: Some(Arc::clone(&tag)), ..SystemOptions::default() };
        let (a, b) = (manager.allocate_npu(1, &npu).unwrap(), manager.allocate_system(1, &system).unwrap());
        assert!(manager.allocate_npu(1 << 40, &npu).is_err());
        let accounts = manager.accounts();
        assert_eq!((accounts.npu.used, accounts.system.used), (page_size(), page_size()));
        assert_eq!((accounts.npu.failures, accounts.tags[&tag].failures), (1, 1));
        assert_eq!((accounts.tags[&tag].used, accounts.tags[&tag].live), (2 * page_size(), 2));
        end(&a);
        end(&b);
        assert_eq!((manager.accounts().tags[&tag].used, manager.accounts().tags[&tag].peak), (0, 2 * page_size()));
    }

    #[test]
    fn a_tag_per_request_is_no_leak() {
        let manager = manager(Options::default());
        for request in 0..5000 {
            let options = SystemOptions { tag: Some(format!("request {request}").into()), ..SystemOptions::default() };
            end(&manager.allocate_system(1, &options).unwrap());
        }
        assert!(manager.accounts().tags.len() <= 1025);
    }

    #[test]
    fn finalizers_may_come_first_twice_or_from_another_thread() {
        let manager = manager(Options::default());
        let allocate = || manager.allocate_npu(1, &NpuOptions::default()).unwrap();
        let first = allocate();
        first.finalize(Reach::Nobody);
        assert!(!first.release().unwrap() && first.body().is_err());
        first.finalize(Reach::Nobody);
        let second = allocate();
        assert!(second.release().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| second.finalize(Reach::Unknown));
        });
        assert_eq!(manager.summary().npu.live, 0);
        assert_eq!(manager.summary().npu.frees, 2);
    }

    #[test]
    fn nothing_is_added_after_dispose() {
        let manager = manager(Options::default());
        let kept = manager.allocate_npu(1, &NpuOptions::default()).unwrap();
        manager.dispose();
        assert!(!kept.is_live());
        let error = manager.allocate_system(1, &SystemOptions::default()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::ManagerDisposed);
        assert_eq!((manager.summary().npu.used, manager.summary().system.used), (0, 0));
        kept.finalize(Reach::Nobody);
    }

    #[test]
    fn errors_name_their_cause() {
        let cause = |call, errno| {
            let simulated: Arc<dyn Backend> = Arc::new(Simulated::new(Options::default()).unwrap());
            let faulty = FaultInjecting::new(simulated);
            faulty.fail(Fault::new(call, 1, errno));
            let manager = Manager::new(Device::new(Arc::new(faulty)));
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
