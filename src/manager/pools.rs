//! A manager's named pools.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::allocate::{page_options, NpuOptions, SystemOptions};
use super::Manager;
use crate::accounting::Account;
use crate::allocation::Allocation;
use crate::device::memory::{alignment, Source};
use crate::device::unretired;
use crate::error::{Error, ErrorCode, Result};
use crate::pool::{Layout, Pool, PoolCounts, SlabOptions};
use crate::sync::MutexGuard;
use crate::sys::quarantine;
use crate::units::MIN_ALIGNMENT;

/// Options of a pool. Sizes are bytes.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The name, unique in the manager.
    pub name: Arc<str>,
    /// The size reserved at once.
    pub initial: u64,
    /// The size up to which the pool grows; `initial` by default.
    pub max: Option<u64>,
    /// The size of a chunk, by which the pool grows; by default `initial`, or the size of a slab if `initial` is 0.
    pub chunk: Option<u64>,
    /// The size of a block, for a pool of fixed-size blocks.
    pub block: Option<u64>,
    /// The alignment of every slice; 64 by default.
    pub alignment: Option<u64>,
    /// How long freed slices wait whose ArrayBuffer JavaScript has seen; by default as those of slabs.
    pub reuse_after: Option<Duration>,
    /// The share of the pool that is kept free by growth in the background; 0 for none.
    pub grow_ahead: f64,
    /// The memory of the chunks.
    pub memory: PoolMemory,
}

/// The memory of a pool's chunks.
#[derive(Clone, Debug)]
pub enum PoolMemory {
    /// Kernel objects.
    Npu(NpuOptions),
    /// Pages of this process.
    System(SystemOptions),
}

impl Manager {
    /// Creates a pool.
    ///
    /// Errors: `ERR_POOL_EXISTS`, `ERR_OUT_OF_RANGE`, and those of [`Pool::new`].
    pub fn create_pool(&self, options: &PoolOptions) -> Result<Arc<Pool>> {
        self.enter_pool(self.prepare_pool(options)?)
    }

    /// Gives a prepared pool its name.
    ///
    /// Errors: `ERR_POOL_EXISTS`.
    pub fn enter_pool(&self, mut prepared: PreparedPool) -> Result<Arc<Pool>> {
        let Some(name) = prepared.0.as_ref().and_then(|pool| pool.public_name()).map(Arc::clone) else {
            return Err(Error::new(ErrorCode::PoolDestroyed, "this pool was destroyed"));
        };
        let mut registry = self.registry();
        match registry.entry(Arc::clone(&name)) {
            Entry::Occupied(_) => {
                drop(registry);
                Err(pool_exists(&name))
            }
            Entry::Vacant(place) => {
                let pool = prepared.0.take().map(|pool| Arc::clone(place.insert(pool)));
                drop(registry);
                pool.inspect(|pool| self.record_pool(pool)).ok_or_else(|| pool_exists(&name))
            }
        }
    }

    /// Runs the part of [`create_pool`](Self::create_pool) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`create_pool`](Self::create_pool).
    pub fn prepare_pool(&self, options: &PoolOptions) -> Result<PreparedPool> {
        // Checked before the driver allocates, and when the pool gets its name.
        if self.registry().contains_key(&options.name) {
            return Err(pool_exists(&options.name));
        }
        let aligned = alignment(options.alignment, MIN_ALIGNMENT)?;
        let layout = Layout {
            initial: options.initial,
            max: options.max.unwrap_or(options.initial),
            chunk: options.chunk.unwrap_or(match options.initial {
                0 => SlabOptions::default().size,
                initial => initial,
            }),
            block: options.block,
            alignment: aligned,
            delay: self.slabs.delay(),
        };
        let tag = match &options.memory {
            PoolMemory::Npu(npu) => npu.tag.clone(),
            PoolMemory::System(system) => system.tag.clone(),
        };
        let source = match &options.memory {
            PoolMemory::Npu(npu) => {
                let mut request = self.request(1, npu)?;
                request.alignment = request.alignment.max(aligned);
                Source::Npu { device: Arc::clone(&self.device), request, dirty: npu.dirty }
            }
            PoolMemory::System(system) => {
                let mut pages = page_options(system)?;
                pages.alignment = pages.alignment.max(aligned);
                Source::System(pages)
            }
        };
        let account = Account { kind: Some(source.kind()), ..self.slice_account(tag) };
        let refused = account.clone();
        let reuse = self.slabs.reuse(options.reuse_after.unwrap_or(self.slabs.reuse_after()));
        let pool = Pool::new(Some(Arc::clone(&options.name)), source, layout, Some(account))
            .map(|pool| Arc::new(pool.with_reuse(reuse)))
            .inspect_err(|error| refused.refused(options.initial, error))?;
        pool.grow_ahead(options.grow_ahead);
        Ok(PreparedPool(Some(pool)))
    }

    /// Returns the pool of that name.
    pub fn pool(&self, name: &str) -> Option<Arc<Pool>> {
        self.registry().get(name).cloned()
    }

    /// Returns all named pools.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.registry().values().cloned().collect()
    }

    /// Frees all slices of `pool` and keeps its memory, except chunks that an ArrayBuffer still reaches.
    ///
    /// Errors: `ERR_POOL_DESTROYED`.
    pub fn reset_pool(&self, pool: &Arc<Pool>) -> Result<()> {
        let live = self.live_allocations_of(pool);
        let held: Vec<_> = live.iter().filter_map(|allocation| allocation.chunk_memory()).collect();
        let held: HashSet<_> = held.iter().map(Arc::as_ptr).collect();
        pool.reset(|chunk_memory| !held.contains(&Arc::as_ptr(chunk_memory)))?;
        end(&live);
        Ok(())
    }

    /// Destroys `pool`.
    ///
    /// Errors: `ERR_POOL_BUSY` while the pool has live slices, unless `force`; `ERR_POOL_DESTROYED`.
    pub fn destroy_pool(&self, pool: &Arc<Pool>, force: bool) -> Result<()> {
        pool.destroy(force)?;
        let PoolCounts { allocations, failures, .. } = pool.counts();
        self.accounting.pool_ended(pool.kind(), allocations, failures);
        if let Some(name) = pool.public_name() {
            let mut registry = self.registry();
            if registry.get(name).is_some_and(|of_that_name| Arc::ptr_eq(of_that_name, pool)) {
                registry.remove(name);
            }
        }
        end(&self.live_allocations_of(pool));
        Ok(())
    }

    /// Ends waits of freed slices that are over, some of each pool. Returns the bytes that still wait, and whether
    /// others may be over.
    pub fn end_waits(&self) -> (u64, bool) {
        let mut pools = self.pools();
        pools.extend(self.slabs.pools());
        let each = pools.iter().map(|pool| pool.sweep_waits());
        each.fold((0, false), |(bytes, more), (waiting, over)| (bytes + waiting, more || over))
    }

    /// Frees the empty slabs that are kept for reuse, the memory that the kernel could not retire before, and the pages
    /// that late writers dirtied. Returns the bytes of the first two.
    pub fn trim_slabs(&self) -> u64 {
        quarantine::clean();
        self.slabs.trim() + unretired::retry_all()
    }

    /// Destroys all slabs, and the pools that `ends` selects. `live` are all live allocations.
    pub(super) fn end_pools(&self, live: &[Arc<Allocation>], ends: impl Fn(&Pool) -> bool) {
        let pools: Vec<_> = std::mem::take(&mut *self.registry()).into_values().collect();
        for pool in pools.into_iter().filter(|pool| ends(pool)) {
            // Fails only if another thread has just destroyed the pool.
            let _ = pool.destroy(true);
        }
        self.slabs.destroy();
        end(&live.iter().filter(|allocation| !allocation.dedicated).cloned().collect::<Vec<_>>());
    }

    /// Lists this manager's live allocations over slices of `pool`, in time in proportion to the pool.
    fn live_allocations_of(&self, pool: &Arc<Pool>) -> Vec<Arc<Allocation>> {
        let handles = pool.exposed().map(|exposed| exposed.all()).unwrap_or_default();
        let mut live = Allocation::by_handles(&handles);
        live.retain(|allocation| allocation.belongs_to(&self.accounting) && allocation.is_of(pool));
        live
    }

    fn registry(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Arc<Pool>>> {
        self.pools.lock()
    }
}

fn pool_exists(name: &str) -> Error {
    Error::new(ErrorCode::PoolExists, format!("a pool called \"{name}\" exists already"))
        .hint("use getMemoryPool for that pool, or destroyMemoryPool before you create another")
}

/// A pool that its manager does not know by name yet. Dropping the value destroys the pool.
#[derive(Debug)]
pub struct PreparedPool(Option<Arc<Pool>>);

impl Drop for PreparedPool {
    fn drop(&mut self) {
        if let Some(pool) = self.0.take() {
            // Only this value has the pool, so it cannot fail.
            let _ = pool.destroy(true);
        }
    }
}

/// Releases slices whose pool has freed their memory.
fn end(allocations: &[Arc<Allocation>]) {
    for allocation in allocations {
        // Cannot fail: the slice has no memory left to free.
        let _ = allocation.release();
    }
}

#[cfg(test)]
pub(super) mod tests;
