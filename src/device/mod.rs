//! An opened device with its ledger, kernel objects, mapped memory, and the thread that frees.
//!
//! Imports `backend` and the rooms below it.
//!
//! [`Device`] checks every size before a driver gets it: drivers accept sizes that wrap to zero, crash the kernel, or
//! get the caller killed (`docs/design/drivers.md` §1.2). The ledger tracks this process's bytes in each IOMMU domain.
//! A process opens a real node once, so that two managers share one ledger.
//!
//! ```
//! use std::sync::Arc;
//! use rkllmjs_memory::backend::simulated::{Options, Simulated};
//! use rkllmjs_memory::backend::Request;
//! use rkllmjs_memory::device::{block::Block, Device};
//! use rkllmjs_memory::units::MIB;
//! # fn main() -> rkllmjs_memory::error::Result<()> {
//! let device = Device::new(Arc::new(Simulated::new(Options::default())?));
//! let block = Block::create(&device, &Request::plain(MIB), true)?;
//! block.mapping().write(0, b"weights");
//! assert_eq!(device.domains()[0].used(), MIB);
//! # Ok(())
//! # }
//! ```

pub mod block;
pub mod memory;
mod reaper;
pub mod select;
pub mod unretired;

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use once_cell::sync::Lazy;
use reaper::{PendingFrees, LINGER, REAPERS};

use crate::accounting::{Budget, Charge, Refused};
use crate::backend::errno::no_domain;
use crate::backend::{identity, Backend, DeviceInfo, Identity, Kind, Object, Placement, Request};
use crate::error::{Error, ErrorCode, Result};
use crate::exhaustion::retry_with_room;
use crate::handle::Handle;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::address_space;
use crate::sys::page::{page_size, whole_pages};
use crate::sys::ram;
use crate::units::format_bytes;

/// An opened device. See the [module](self).
#[derive(Debug)]
pub struct Device {
    backend: Arc<dyn Backend>,
    /// A budget for each IOMMU domain; without an IOMMU, one without a limit, because only the driver knows the figure.
    domains: Vec<Arc<Budget>>,
    /// The bytes of each domain that are set aside for other libraries.
    for_others: Vec<Arc<Budget>>,
    /// The charges of live objects by their backend's handle. An object that is imported again is not charged twice.
    charges: Mutex<HashMap<Handle, Weak<Charges>>>,
    /// Objects that JavaScript freed and the driver still has to destroy.
    pending: PendingFrees<Arc<Charges>>,
    /// The maximum size of an object, and of one that is aligned to more than a page.
    max_sizes: [Option<u64>; 2],
    /// The number and bytes of objects that the driver failed to destroy.
    lost: (AtomicU64, AtomicU64),
}

/// A part of a domain, set aside for memory of another library. Dropping it returns the bytes.
#[derive(Debug)]
pub struct SetAside {
    _domain: Charge,
    _for_others: Option<Charge>,
}

/// The charges of one kernel object: addresses in its domain, and RAM.
#[derive(Debug)]
pub struct Charges {
    _domain: Charge,
    _ram: Option<Charge>,
    /// The driver's surplus: it provides alignment by a larger size.
    _rest: Option<Charge>,
}

/// The charges of objects that drivers failed to destroy. They stay until the process ends.
static LOST_CHARGES: Mutex<Vec<Arc<Charges>>> = Mutex::new(Vec::new());

/// The maximum time that a create waits for pending frees before it fails.
const FREE_TIMEOUT: Duration = Duration::from_secs(10);

/// The real devices that this process has open, by kind and [`identity`]: the card and the render node of one NPU share
/// one ledger.
static OPEN_DEVICES: Lazy<Mutex<DevicesByNode>> = Lazy::new(Mutex::default);
type DevicesByNode = HashMap<(Kind, Identity), Weak<Device>>;

impl Device {
    /// Opens a device over `backend`.
    pub fn new(backend: Arc<dyn Backend>) -> Arc<Self> {
        address_space::prepare();
        let info = backend.info();
        let domains = match info.iommu {
            true => (0..info.domains.max(1)).map(|_| Budget::new(info.domain_bytes)).collect(),
            false => vec![Budget::new(u64::MAX)],
        };
        let max_sizes = [page_size(), 2 * page_size()].map(|alignment| info.max_object_size(alignment));
        Arc::new(Self {
            backend,
            for_others: domains.iter().map(|_| Budget::new(u64::MAX)).collect(),
            domains,
            charges: Mutex::default(),
            pending: PendingFrees::default(),
            max_sizes,
            lost: Default::default(),
        })
    }

    /// Returns this process's device for the node of `backend` if another manager has it open; else opens a new one.
    pub fn shared(backend: Arc<dyn Backend>) -> Arc<Self> {
        let info = backend.info();
        let Some(path) = info.path.clone() else { return Self::new(backend) };
        let key = (info.kind, identity(&path));
        let mut open = OPEN_DEVICES.lock();
        open.retain(|_, device| device.strong_count() > 0);
        if let Some(device) = open.get(&key).and_then(Weak::upgrade) {
            return device;
        }
        let device = Self::new(backend);
        open.insert(key, Arc::downgrade(&device));
        device
    }

    /// Finds the device of this process that has the device behind `path` open through `kind`.
    pub fn already_open(kind: Kind, path: &Path) -> Option<Arc<Self>> {
        let key = (kind, identity(path));
        let open = OPEN_DEVICES.lock();
        open.get(&key).and_then(Weak::upgrade)
    }

    /// The properties of the device.
    pub fn info(&self) -> &DeviceInfo {
        self.backend.info()
    }

    /// The kernel interface.
    pub fn backend(&self) -> &dyn Backend {
        &*self.backend
    }

    /// The budget of each IOMMU domain; empty without an IOMMU.
    pub fn domains(&self) -> &[Arc<Budget>] {
        if self.info().iommu {
            &self.domains
        } else {
            &[]
        }
    }

    /// The bytes of each IOMMU domain that are set aside for other libraries; empty without an IOMMU.
    pub fn for_others(&self) -> Vec<u64> {
        let domains = self.for_others.iter().take(self.domains().len());
        domains.map(|budget| budget.used()).collect()
    }

    /// Sets `size` bytes of `domain` aside, for memory that another library allocates through the same device.
    ///
    /// Errors: `ERR_OUT_OF_RANGE`, `ERR_IOVA_EXHAUSTED`.
    pub fn set_aside(&self, domain: u32, size: u64) -> Result<SetAside> {
        let budget = self.domain(domain)?;
        let info = self.info();
        // Any number of objects may share the bytes.
        let bound = Some(info.domain_bytes).filter(|bytes| *bytes > 0).max(self.max_sizes[0]);
        self.check_bound(size, bound)?;
        let charge = self.charge(budget, domain, size)?;
        let for_others = self.for_others.get(domain as usize).and_then(|budget| budget.reserve(size).ok());
        Ok(SetAside { _domain: charge, _for_others: for_others })
    }

    /// Creates a kernel object within the device's limits. If memory is short while frees are pending, waits for them
    /// and tries again.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` beyond the device's capacity, `ERR_UNSUPPORTED`, `ERR_IOVA_EXHAUSTED` and
    /// `ERR_OUT_OF_MEMORY` beyond its free memory, and those of [`Backend::create`].
    pub fn create(&self, request: &Request) -> Result<(Object, Arc<Charges>)> {
        if request.placement == Placement::TrySram && self.backend.gauges(request.domain).sram_free < request.size {
            self.wait_for_frees(FREE_TIMEOUT);
        }
        // Read before the attempt: the refusal does not account for frees that complete during it.
        let freeing = self.pending.in_progress();
        let wait = || {
            let any = freeing || self.pending.in_progress();
            if any {
                self.wait_for_frees(FREE_TIMEOUT);
            }
            any
        };
        retry_with_room(|| self.try_create(request), wait)
    }

    fn try_create(&self, request: &Request) -> Result<(Object, Arc<Charges>)> {
        let size = whole_pages(request.size)?.bytes();
        let domain = self.domain(request.domain)?;
        self.check_reach(size, request.alignment)?;
        let addresses = self.charge(domain, request.domain, size)?;
        // Without an IOMMU too: ordinary pages stand in for a full CMA area (`docs/design/drivers.md` §5, A2).
        let ram = ram::admit(size)?;
        let mut charges = Charges { _domain: addresses, _ram: Some(ram), _rest: None };
        match self.backend.create(&Request { size, ..request.clone() }) {
            Ok(object) => {
                // The object exists: charge the excess without checking.
                charges._rest = domain.reserve(object.size.saturating_sub(size)).ok();
                Ok((object.clone(), self.record_charges(object.handle, charges)))
            }
            Err(error) => {
                drop(charges); // the figures then exclude the refused request
                Err(self.with_figures(error, request.domain))
            }
        }
    }

    /// Adds the ledger's figures to a driver's error, which does not say how full the domain is.
    fn with_figures(&self, error: Error, domain: u32) -> Error {
        if error.code() != ErrorCode::IovaExhausted {
            return error;
        }
        let gauges = self.backend.gauges(domain);
        // The ledger has no other process's use. If it has room for what the driver refused, its figure is wrong.
        let own = self.domains.get(domain as usize).map(|budget| budget.available());
        let own = own.filter(|own| error.details().requested.is_none_or(|requested| *own < requested));
        let error = match gauges.free.or(own) {
            Some(free) => error.available(free),
            None => error,
        };
        match gauges.largest_free {
            Some(largest) => error.largest_free(largest),
            None => error,
        }
    }

    /// Imports a foreign dma-buf for the device.
    ///
    /// Errors: those of [`Backend::import`], and `ERR_IOVA_EXHAUSTED` if domain 0 has no room in the ledger.
    pub fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<(Object, Arc<Charges>)> {
        let object = self.backend.import(fd, size)?;
        match self.charge_import(&object) {
            Ok(charges) => Ok((object, charges)),
            Err(error) => {
                let destroyed = self.backend.destroy(object.handle);
                self.backend.end_of_destroys();
                destroyed?;
                Err(error)
            }
        }
    }

    /// Charges an imported object, unless it is charged already. Look-up and charge are one critical section: threads
    /// that import an object at the same time pay for it once.
    fn charge_import(&self, object: &Object) -> Result<Arc<Charges>> {
        // Another owner has paid for the RAM of imported memory: only its addresses are charged.
        let (id, size) = (object.domain.unwrap_or(0), object.size);
        let domain = self.domain(id)?;
        let refused = {
            let mut live = self.live_charges();
            if let Some(known) = live.get(&object.handle).and_then(Weak::upgrade) {
                return Ok(known);
            }
            match domain.reserve(size) {
                Ok(charge) => {
                    let charges = Arc::new(Charges { _domain: charge, _ram: None, _rest: None });
                    live.insert(object.handle, Arc::downgrade(&charges));
                    return Ok(charges);
                }
                Err(refused) => refused,
            }
        };
        Err(self.does_not_fit(domain, id, size, &refused))
    }

    /// Hands an unmapped object to the reaper's thread, which destroys it soon.
    pub fn free_later(self: &Arc<Self>, object: Object, charges: Arc<Charges>) {
        if self.pending.push(object, charges) {
            self.start_reaper();
        }
    }

    /// Starts the reaper. Without a thread the objects wait for the next free, or for
    /// [`wait_for_frees`](Self::wait_for_frees): the caller may be an event loop, which the driver would block.
    fn start_reaper(self: &Arc<Self>) {
        let reaper = Reaper(Some(Arc::clone(self)));
        // A job without a thread is dropped, which `Reaper` notices.
        drop(REAPERS.run(move || reaper.run()));
    }

    fn reap(&self, linger: Duration) {
        self.pending.drain(
            linger,
            |object, charges| {
                if catch_unwind(AssertUnwindSafe(|| self.destroy(object, charges))).is_err() {
                    self.count_lost(object.size);
                }
            },
            || self.backend.end_of_destroys(),
        );
    }

    /// Waits, at most `timeout`, until the driver has destroyed every freed object. Returns whether it has. Destroys
    /// the objects on this thread if the system has no other.
    pub fn wait_for_frees(&self, timeout: Duration) -> bool {
        if self.pending.take_over() {
            self.reap(Duration::ZERO);
        }
        self.pending.wait(timeout)
    }

    /// Waits until the driver has destroyed every object that was freed before this call, however long that takes.
    /// Others may free objects all the time.
    pub fn wait_for_present_frees(&self) {
        let added = self.pending.added();
        while !self.pending.wait_until(added, FREE_TIMEOUT) {
            if self.pending.take_over() {
                self.reap(Duration::ZERO);
            }
        }
    }

    /// Destroys an object. A failed destroy is not retried, because the kernel keeps the object until a reboot
    /// (`docs/design/rknpu.md` §3.6). The object stays charged, and [`lost`](Self::lost) counts it.
    fn destroy(&self, object: &Object, charges: Arc<Charges>) {
        if self.backend.destroy(object.handle).is_err() {
            self.count_lost(object.size);
            LOST_CHARGES.lock().push(charges);
            return;
        }
        let mut live = self.live_charges();
        drop(charges);
        // Another holder of the same object keeps the entry.
        if live.get(&object.handle).is_some_and(|charges| charges.strong_count() == 0) {
            live.remove(&object.handle);
        }
    }

    fn count_lost(&self, bytes: u64) {
        self.lost.0.fetch_add(1, Ordering::Relaxed);
        self.lost.1.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that JavaScript freed and the driver has not destroyed yet.
    pub fn pending(&self) -> u64 {
        self.pending.bytes()
    }

    /// The number and bytes of objects that the driver failed to destroy, and of those that the kernel would not unmap
    /// yet ([`unretired`]).
    pub fn lost(&self) -> (u64, u64) {
        let (objects, bytes) = unretired::lost(Some(self));
        (self.lost.0.load(Ordering::Relaxed) + objects, self.lost.1.load(Ordering::Relaxed) + bytes)
    }

    /// The number of objects that the driver failed to destroy. It never falls: they are not tried again.
    pub fn lost_for_good(&self) -> u64 {
        self.lost.0.load(Ordering::Relaxed)
    }

    fn live_charges(&self) -> MutexGuard<'_, HashMap<Handle, Weak<Charges>>> {
        self.charges.lock()
    }

    fn record_charges(&self, object: Handle, charges: Charges) -> Arc<Charges> {
        let charges = Arc::new(charges);
        self.live_charges().insert(object, Arc::downgrade(&charges));
        charges
    }

    fn domain(&self, id: u32) -> Result<&Arc<Budget>> {
        self.domains.get(id as usize).ok_or_else(|| no_domain(self.info(), id))
    }

    /// Refuses a size or an alignment that the device could not give even if it were empty.
    fn check_reach(&self, size: u64, alignment: u64) -> Result<()> {
        let info = self.info();
        if let Some(most) = info.max_alignment().filter(|most| alignment > *most) {
            let message = format!(
                "an alignment of {} is more than CMA gives: {} at most",
                format_bytes(alignment),
                format_bytes(most)
            );
            return Err(Error::new(ErrorCode::Unsupported, message)
                .requested(size)
                .limit("alignment", most)
                .hint("ask for a smaller alignment"));
        }
        let size = size.max(alignment);
        // Beyond the whole domain, its own size is the plainer figure.
        let whole = Some(info.domain_bytes).filter(|bytes| info.iommu && *bytes > 0 && size > *bytes);
        self.check_bound(size, whole.or(self.max_sizes[usize::from(alignment > page_size())]))
    }

    /// Refuses a size beyond `bound`.
    fn check_bound(&self, size: u64, bound: Option<u64>) -> Result<()> {
        let Some(bound) = bound.filter(|bound| size > *bound) else { return Ok(()) };
        let (what, scope) = match self.info().iommu {
            true if bound == self.info().domain_bytes => ("one IOMMU domain addresses", "domain"),
            true => ("one buffer can have in an IOMMU domain", "domain"),
            false => ("CMA has", "cma"),
        };
        Err(Error::new(
            ErrorCode::OutOfRange,
            format!("{} is more than the {} that {what}", format_bytes(size), format_bytes(bound)),
        )
        .requested(size)
        .limit(scope, bound)
        .hint("split it into several buffers"))
    }

    fn charge(&self, budget: &Arc<Budget>, domain: u32, size: u64) -> Result<Charge> {
        budget.reserve(size).map_err(|refused| self.does_not_fit(budget, domain, size, &refused))
    }

    fn does_not_fit(&self, budget: &Budget, domain: u32, size: u64, refused: &Refused) -> Error {
        let message = format!(
            "IOMMU domain {domain} holds {} of its {}: {} more do not fit",
            format_bytes(budget.used()),
            format_bytes(refused.limit),
            format_bytes(size)
        );
        Error::new(ErrorCode::IovaExhausted, message)
            .requested(size)
            .available(refused.available)
            .limit(format!("domain:{domain}"), refused.limit)
            .hint(match self.info().domains {
                0 | 1 => "deallocate what is no longer used (dropped buffers go when the event loop turns)",
                _ => {
                    "deallocate what is no longer used (dropped buffers go when the event loop turns), or use another \
                     iommuDomain"
                }
            })
    }
}

/// A job that destroys the freed objects of a device. One that is dropped without running reports that.
struct Reaper(Option<Arc<Device>>);

impl Reaper {
    fn run(mut self) {
        if let Some(device) = self.0.take() {
            device.reap(LINGER);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        if let Some(device) = self.0.take() {
            device.pending.reaper_failed();
        }
    }
}

#[cfg(test)]
mod tests;
