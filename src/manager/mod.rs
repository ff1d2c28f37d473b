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

mod allocate;
mod cache_maintenance;
mod limits;
mod pins;
mod pools;
mod prepared;
mod profile;
mod profiling;
mod reservation;
mod sharing;
mod simulated;
mod slices;
mod stats;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::Arc;
use std::time::Duration;

use crate::accounting::{Account, Accounting, Accounts};
use crate::allocation::Allocation;
use crate::backend::DeviceInfo;
use crate::device::Device;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::pool::{Pool, SlabOptions, Slabs};
use crate::sync::Mutex;
use crate::sys::proc::Proc;
use crate::sys::ram::Ram;
use crate::units::MemoryKind;

pub use allocate::{NpuOptions, SystemOptions};
pub use cache_maintenance::SyncJob;
pub use pins::{orphaned_pins, unpin, unpin_orphan};
pub use pools::{PoolMemory, PoolOptions, PreparedPool};
pub use prepared::Prepared;
pub use profile::{Leaks, Sampled, Snapshot, SnapshotPool};
use profiling::Profiling;
pub use reservation::Reservation;
pub use slices::{block_dropped, SliceOptions};
pub use stats::{DomainStats, NpuStats, SlabStats, Summary, SystemStats};

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
        let ram_total = Proc::default().memory().map_or(0, |memory| Ram::of(&memory).total);
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

    /// Leaves refusals for exhaustion to the caller, who reclaims memory and tries again: see
    /// [`Accounting::let_caller_retry`].
    #[must_use]
    pub fn with_retrying_caller(self) -> Self {
        self.accounting.let_caller_retry();
        self
    }

    /// Counts a request that the caller gave up after an error for exhaustion. A slice's request counts with its pool
    /// ([`Pool::count_refused`](crate::pool::Pool::count_refused)).
    pub fn count_refused(&self, kind: MemoryKind, size: u64, tag: Option<Arc<str>>) {
        Account { accounting: Arc::clone(&self.accounting), kind: Some(kind), tag }.failed(size);
    }

    /// Returns the description of the opened device.
    pub fn info(&self) -> &DeviceInfo {
        self.device.info()
    }

    /// Returns the free SRAM, in bytes.
    pub fn sram_free(&self) -> u64 {
        self.device.backend().gauges(0).sram_free
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
            account.refused(size.unwrap_or(0), &error);
            match size {
                Some(size) => error.requested(size),
                None => error,
            }
        })
    }
}

#[cfg(test)]
mod tests;
