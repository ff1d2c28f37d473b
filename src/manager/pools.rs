//! A manager's named pools.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::{page_options, Manager, NpuOptions, Prepared, SystemOptions, Unclaimed};
use crate::accounting::Account;
use crate::allocation::{Allocation, Backing};
use crate::device::memory::{alignment, Source};
use crate::device::unretired;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::pool::{Clearing, Layout, Pool, PoolCounts, SlabOptions, Slice, SliceRequest, UnclaimedMovable, View};
use crate::suballoc::RegionId;
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
            .inspect_err(|_refusal| refused.failed(options.initial))?;
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

    /// Allocates a slice of `pool` as an allocation of this manager.
    ///
    /// Errors: those of [`Pool::allocate`].
    pub fn allocate_from(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<Arc<Allocation>> {
        let prepared = self.prepare_from(pool, size, align, clearing, tag)?;
        // The account of a pool's refusals has the slice's own tag.
        let tag = prepared.admission.account().tag.clone();
        prepared.enter().map_err(|error| pool.refused(size, tag.as_ref(), error))
    }

    /// Runs the part of [`allocate_from`](Self::allocate_from) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`allocate_from`](Self::allocate_from).
    pub fn prepare_from(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<Prepared> {
        let prepared =
            self.prepare_at(pool, size, align, (clearing, tag), |request| pool.request_held(request).map(Some))?;
        prepared.ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this memory was freed"))
    }

    /// Like [`allocate_from`](Self::allocate_from), from the chunks that the pool has. Returns `None` if the request
    /// may have to wait for a driver.
    ///
    /// Errors: those of [`allocate_from`](Self::allocate_from), but for those of a growth.
    pub fn allocate_resident(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<Option<Arc<Allocation>>> {
        let prepared =
            self.prepare_at(pool, size, align, (clearing, tag), |request| pool.request_resident_held(request))?;
        prepared.map(Prepared::enter).transpose()
    }

    /// Makes the slice that `place` returns the memory of an allocation.
    fn prepare_at(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        (clearing, tag): (Clearing, Option<Arc<str>>),
        place: impl FnOnce(SliceRequest) -> Result<Option<Slice>>,
    ) -> Result<Option<Prepared>> {
        let align = alignment(align, MIN_ALIGNMENT)?;
        let account = self.slice_account(tag);
        let mut request = SliceRequest::new(size, align);
        (request.owner, request.clearing) = (pool.owner(account.tag.as_ref()), clearing);
        let prepare = || {
            let admission = account.admit(size)?;
            let Some(slice) = place(request)? else { return Ok(None) };
            let backing = Unclaimed(Some(backing(Arc::clone(pool), slice, false)?));
            Ok(Some(Prepared { admission, backing, size }))
        };
        prepare().map_err(|error| pool.refused(size, account.tag.as_ref(), error))
    }

    /// Makes an allocation of this manager over a slice that was allocated without an ArrayBuffer.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn adopt_slice(&self, pool: &Arc<Pool>, chunk: Handle, region: RegionId) -> Result<Arc<Allocation>> {
        let (slice, size) = pool.slice(chunk, region)?;
        let chunk_memory = pool.chunk_memory(chunk)?;
        let tag = pool.tag_of(chunk, region)?;
        let admission = self.slice_account(None).admit(size)?;
        pool.set_seen(&slice);
        Allocation::enter_block(
            admission,
            Backing::Suballocated { pool: Arc::clone(pool), slice, chunk_memory },
            size,
            tag,
        )
    }

    /// Allocates a slice that compaction may move. Returns its handle and its present place.
    ///
    /// Errors: those of [`Pool::request_movable`].
    pub fn allocate_movable(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<(Handle, Slice)> {
        let (request, account) = self.movable_request(size, align, clearing, tag)?;
        pool.request_movable(request, account.as_ref())
    }

    /// Like [`allocate_movable`](Self::allocate_movable), from the chunks that the pool has. Returns `None` if the
    /// request may have to wait for a driver.
    ///
    /// Errors: those of [`allocate_movable`](Self::allocate_movable), but for those of a growth.
    pub fn allocate_movable_resident(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<Option<(Handle, Slice)>> {
        let (request, account) = self.movable_request(size, align, clearing, tag)?;
        pool.request_movable_resident(request, account.as_ref())
    }

    /// Runs [`allocate_movable`](Self::allocate_movable) on any thread.
    ///
    /// Errors: those of [`allocate_movable`](Self::allocate_movable).
    pub fn prepare_movable(
        &self,
        pool: &Arc<Pool>,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<UnclaimedMovable> {
        let (request, account) = self.movable_request(size, align, clearing, tag)?;
        UnclaimedMovable::allocate(pool, request, account.as_ref())
    }

    fn movable_request(
        &self,
        size: u64,
        align: Option<u64>,
        clearing: Clearing,
        tag: Option<Arc<str>>,
    ) -> Result<(SliceRequest, Option<Account>)> {
        let mut request = SliceRequest::new(size, alignment(align, MIN_ALIGNMENT)?);
        request.clearing = clearing;
        Ok((request, tag.map(|tag| self.slice_account(Some(tag)))))
    }

    /// Makes an allocation of this manager over a movable slice.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while another thread moves the slice.
    pub fn adopt_movable(&self, pool: &Arc<Pool>, id: Handle) -> Result<Arc<Allocation>> {
        let View { slice, size, tag, chunk_memory } = pool.begin_view(id)?;
        let entered = self.slice_account(None).admit(size).and_then(|admission| {
            let backing = Backing::Suballocated { pool: Arc::clone(pool), slice, chunk_memory };
            pool.set_seen(&slice);
            Allocation::enter_block(admission, backing, size, tag)
        });
        pool.end_view(id, entered.as_ref().ok().map(|allocation| allocation.handle));
        entered
    }

    /// Makes the account of a slice. Has no kind, because the slice's memory is counted with the pool's chunks.
    fn slice_account(&self, tag: Option<Arc<str>>) -> Account {
        Account { accounting: Arc::clone(&self.accounting), kind: None, tag }
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

/// Records that the collector took the block of a slice of `pool`. The slice stays while it is pinned or an ArrayBuffer
/// shows it.
///
/// Errors: `ERR_BUFFER_FREED`.
pub fn block_dropped(pool: &Arc<Pool>, chunk: Handle, region: RegionId) -> Result<()> {
    let (slice, _) = pool.slice(chunk, region)?;
    let seen = Allocation::at(slice.address).any(|allocation| allocation.is_of(pool));
    pool.block_dropped(chunk, region, !seen)
}

/// Releases slices whose pool has freed their memory.
fn end(allocations: &[Arc<Allocation>]) {
    for allocation in allocations {
        // Cannot fail: the slice has no memory left to free.
        let _ = allocation.release();
    }
}

/// Makes a backing of `slice`, zeroed on request. Frees the slice on failure.
pub(super) fn backing(pool: Arc<Pool>, slice: Slice, zeroed: bool) -> Result<Backing> {
    let zero = || if zeroed { pool.zero(&slice) } else { Ok(()) };
    match zero().and_then(|()| pool.chunk_memory(slice.chunk)) {
        Ok(chunk_memory) => Ok(Backing::Suballocated { pool, slice, chunk_memory }),
        Err(error) => {
            pool.free(slice.chunk, slice.region)?;
            Err(error)
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use std::sync::Weak;

    use super::*;
    use crate::allocation::{visits, Reachability};
    use crate::backend::simulated::{Options, Simulated};
    use crate::device::Device;
    use crate::pool::ChunkMemory;
    use crate::sys::address_space::{fate, Fate};

    /// Options of a pool of 64 KiB.
    fn options(name: &str) -> PoolOptions {
        PoolOptions {
            name: name.into(),
            initial: 1 << 16,
            max: None,
            chunk: None,
            block: None,
            alignment: None,
            reuse_after: None,
            grow_ahead: 0.0,
            memory: PoolMemory::System(SystemOptions::default()),
        }
    }

    /// A pool of 64 KiB with its manager.
    pub(in crate::manager) fn pool() -> (Manager, Arc<Pool>) {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        let manager = Manager::new(device, SlabOptions::default());
        let pool = manager.create_pool(&options("p")).unwrap();
        (manager, pool)
    }

    /// On Deno a finalizer runs on another thread, at any time within a compaction.
    #[test]
    fn a_slice_goes_whose_finalizer_came_while_a_compaction_had_it() {
        let (manager, pool) = pool();
        let (id, _) = manager.allocate_movable(&pool, 4096, None, Clearing::default(), Some("kv".into())).unwrap();
        let view = manager.adopt_movable(&pool, id).unwrap();
        let detached = view.detach_from_slice().unwrap();
        Allocation::by_handle(view.handle).unwrap().finalize(Reachability::Unreachable);
        // The runtime has no ArrayBuffer to detach: the slice stays where it is.
        drop(detached);
        assert!(Allocation::by_handle(view.handle).is_none() && !view.is_live());
        assert!(pool.free_dropped(id).is_err(), "it was freed");
        let accounts = manager.accounts();
        assert_eq!((pool.stats().live, accounts.live.len(), accounts.tags["kv"].counters().used), (0, 0, 0));
        assert_eq!(pool.validate(), Ok(()));
    }

    /// Counts look-ups, not time.
    #[test]
    fn ending_a_pool_visits_its_own_buffers_alone() {
        let (manager, pool) = pool();
        let others: Vec<_> = (0..2_000).map(|_| manager.allocate_npu(4096, &NpuOptions::default()).unwrap()).collect();
        let expose = || {
            let slice = || manager.allocate_from(&pool, 100, None, Clearing::default(), None).unwrap();
            [slice(), slice(), slice()]
        };
        let ended = expose();
        ended[0].release().unwrap();
        assert_eq!(visits::of(|| manager.reset_pool(&pool).unwrap()), 2);
        let left = expose();
        assert_eq!(visits::of(|| manager.destroy_pool(&pool, true).unwrap()), 3);
        assert!(ended.iter().chain(&left).all(|slice| !slice.is_live()) && others.iter().all(|other| other.is_live()));
        for allocation in ended.iter().chain(&left).chain(&others) {
            allocation.finalize(Reachability::Unreachable);
        }
    }

    /// Each way frees a pool's memory while an ArrayBuffer that was moved, or marked, still reaches a slice.
    #[test]
    fn addresses_of_a_slice_outlive_its_pool_until_the_finalizer_has_run() {
        let ways: [fn(&Manager, &Arc<Pool>); 3] = [
            |manager, pool| manager.reset_pool(pool).unwrap(),
            |manager, pool| manager.destroy_pool(pool, true).unwrap(),
            |manager, _| manager.dispose(),
        ];
        for end in ways {
            let (manager, pool) = pool();
            let slice = manager.allocate_from(&pool, 100, None, Clearing::default(), None).unwrap();
            let chunk_memory: Weak<ChunkMemory> = Arc::downgrade(&slice.chunk_memory().unwrap());
            end(&manager, &pool);
            drop((pool, manager));
            assert!(!slice.is_live());
            assert!(
                chunk_memory.upgrade().is_some_and(|chunk_memory| chunk_memory.memory().is_none()),
                "the memory is freed and its addresses are kept"
            );
            slice.finalize(Reachability::Unreachable);
            assert!(chunk_memory.upgrade().is_none());
        }
    }

    /// The ways to end, and the fate of the addresses: of memory of its own, and of a chunk whose slice it was.
    #[test]
    fn a_detach_that_was_verified_needs_no_finalizer_to_prove_it() {
        type End = fn(&Allocation);
        let ends: [(End, Fate); 3] = [
            (
                |allocation| {
                    allocation.set_unreachable();
                    assert!(allocation.release().unwrap());
                },
                Fate::Free,
            ),
            (|allocation| assert!(allocation.release().unwrap()), Fate::Withheld),
            (|_| {}, Fate::Withheld),
        ];
        for ((end, fate_after), dedicated) in ends.into_iter().flat_map(|end| [(end, false), (end, true)]) {
            let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
            let manager = Manager::new(device, SlabOptions::default());
            let options = NpuOptions { dedicated, ..NpuOptions::default() };
            let allocation = manager.allocate_npu(1 << 16, &options).unwrap();
            let address = allocation.address;
            end(&allocation);
            allocation.finalize(Reachability::Unknown); // the environment ends
            manager.dispose();
            drop((allocation, manager));
            assert_eq!(fate(address), fate_after, "dedicated: {dedicated}");
        }
    }

    #[test]
    fn an_array_buffer_that_could_not_be_made_leaves_the_place_as_it_was() {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        let manager = Manager::new(device, SlabOptions::default());
        let pool = manager.create_pool(&options("p")).unwrap();
        // A slice that was allocated for its ArrayBuffer is free again.
        manager.allocate_from(&pool, 100, None, Clearing::default(), None).unwrap().abandon();
        assert_eq!(pool.stats().live, 0);
        // A block keeps its slice.
        let block = pool.allocate(100, 64).unwrap();
        manager.adopt_slice(&pool, block.chunk, block.region).unwrap().abandon();
        assert_eq!(pool.stats().live, 1);
        pool.free(block.chunk, block.region).unwrap();
        let own = manager.allocate_system(1 << 16, &SystemOptions::default()).unwrap();
        own.abandon();
        assert_eq!((own.is_live(), fate(own.address)), (false, Fate::Free));
        let base = pool.allocate(100, 64).unwrap().address;
        manager.destroy_pool(&pool, true).unwrap();
        drop(pool);
        assert_eq!(fate(base), Fate::Free);
        assert_eq!(manager.summary().npu.live, 0);
    }
}
