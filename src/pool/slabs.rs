//! Slabs: the pools behind small NPU allocations, one for each class of memory that must not be mixed.
//!
//! 100,000 buffers of 16 KiB take a hundred kernel objects and as many descriptors instead of 100,000 each. RKNN users
//! run out of descriptors at about 1020 buffers. Slices are whole pages, so no two share one.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::Arc;
use std::time::Duration;

use super::{Layout, Pool, PoolCounts, ReuseDelay};
use crate::backend::{Placement, Request};
use crate::device::memory::Source;
use crate::device::Device;
use crate::error::Result;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::page::page_size;
use crate::units::{KIB, MAX_SAFE_INTEGER, MIB};

/// The minimum size of a slab.
pub(super) const MIN_SLAB: u64 = 256 * KIB;

/// The options of slabs; sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlabOptions {
    /// Allocations up to this size become slices; 0 turns slabs off.
    pub threshold: u64,
    /// The size of a slab.
    pub size: u64,
    /// Debugging: see [`Layout::delay`].
    pub delay: usize,
    /// How long freed slices wait whose ArrayBuffer JavaScript has seen.
    pub reuse_after: Duration,
}

impl Default for SlabOptions {
    fn default() -> Self {
        Self { threshold: MIB, size: 16 * MIB, delay: 0, reuse_after: Duration::ZERO }
    }
}

/// The properties that all slices of a slab have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Class {
    cacheable: bool,
    contiguous: bool,
    domain: u32,
    core_mask: u32,
}

/// The pools behind a manager's small NPU allocations, one for each class of memory.
#[derive(Debug)]
pub struct Slabs {
    device: Arc<Device>,
    options: SlabOptions,
    turns: Option<&'static AtomicU32>,
    classes: Mutex<HashMap<Class, Arc<Pool>>>,
}

impl Slabs {
    /// Starts without a slab. A slab takes at most a 32nd of a domain (or of CMA), so that small boards keep room.
    pub fn new(device: Arc<Device>, options: SlabOptions) -> Self {
        let most = match device.info().domain_bytes {
            0 => u64::MAX,
            bytes => (bytes / 32).max(MIN_SLAB),
        };
        let size = options.size.min(most);
        let options = SlabOptions { threshold: options.threshold.min(size / 4), size, ..options };
        Self { device, options, turns: None, classes: Mutex::default() }
    }

    /// The pool that serves `request`; `None` for requests that slabs do not serve. Slabs use no SRAM, which is too
    /// scarce.
    ///
    /// Errors: those of [`Pool::new`].
    pub fn pool_for(&self, request: &Request) -> Result<Option<Arc<Pool>>> {
        let small = request.size <= self.options.threshold && request.alignment <= page_size();
        if !small || request.placement != Placement::Dram {
            return Ok(None);
        }
        let class = Class {
            cacheable: request.cacheable,
            contiguous: request.contiguous,
            domain: request.domain,
            core_mask: request.core_mask,
        };
        if let Some(pool) = self.classes().get(&class) {
            return Ok(Some(Arc::clone(pool)));
        }
        let source = Source::Npu { device: Arc::clone(&self.device), request: request.clone(), dirty: false };
        let layout = Layout {
            initial: 0,
            max: MAX_SAFE_INTEGER - page_size(),
            chunk: self.options.size,
            block: None,
            alignment: page_size(),
            delay: self.options.delay,
        };
        let pool = Arc::new(Pool::new(None, source, layout, None)?.with_reuse(self.reuse(self.options.reuse_after)));
        // If another thread was first, its pool serves; this one is still empty.
        Ok(Some(Arc::clone(self.classes().entry(class).or_insert(pool))))
    }

    /// Debugging: the number of delayed frees in every pool of the manager.
    pub fn delay(&self) -> usize {
        self.options.delay
    }

    /// Lets freed slices wait for turns of an event loop too, which `turns` counts.
    #[must_use]
    pub fn with_turns(self, turns: &'static AtomicU32) -> Self {
        Self { turns: Some(turns), ..self }
    }

    /// The time that freed slices wait.
    pub fn reuse_after(&self) -> Duration {
        self.options.reuse_after
    }

    /// The wait of `after` and of the event loop's turns.
    pub fn reuse(&self, after: Duration) -> ReuseDelay {
        ReuseDelay { after, turns: self.turns }
    }

    /// The pools of every class.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.classes().values().cloned().collect()
    }

    /// Bytes of freed slices that wait.
    pub fn waiting(&self) -> u64 {
        self.classes().values().map(|pool| pool.waiting()).sum()
    }

    /// Ends the oldest waits of each class until at most `bytes` wait.
    pub fn end_waits_beyond(&self, mut bytes: u64) {
        for pool in self.pools() {
            pool.end_waits_beyond(bytes);
            bytes = bytes.saturating_sub(pool.waiting());
        }
    }

    /// The counts of every class, and its lost slices: their number and bytes.
    pub fn counts(&self) -> Vec<(PoolCounts, (u64, u64))> {
        self.classes().values().map(|pool| (pool.counts(), pool.lost())).collect()
    }

    /// Frees empty slabs; returns the bytes.
    pub fn trim(&self) -> u64 {
        self.pools().iter().map(|pool| pool.trim()).sum()
    }

    /// Frees all slabs.
    pub fn destroy(&self) {
        let pools: Vec<_> = self.classes().drain().map(|(_, pool)| pool).collect();
        for pool in pools {
            // Only this call destroys a slab, so it cannot fail.
            let _ = pool.destroy(true);
        }
    }

    fn classes(&self) -> MutexGuard<'_, HashMap<Class, Arc<Pool>>> {
        self.classes.lock()
    }
}
