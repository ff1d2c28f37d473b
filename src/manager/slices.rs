//! Slices of a manager's pools: fixed ones as allocations, and movable ones.

use std::sync::Arc;

use super::prepared::{backing, Prepared};
use super::Manager;
use crate::accounting::Account;
use crate::allocation::{Allocation, Backing};
use crate::device::memory::alignment;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::pool::{Clearing, Pool, Slice, SliceRequest, UnclaimedMovable, View};
use crate::suballoc::RegionId;
use crate::units::MIN_ALIGNMENT;

/// A request for a slice of a manager's pool.
#[derive(Clone, Debug, Default)]
pub struct SliceOptions {
    /// Bytes.
    pub size: u64,
    /// A power of two, at least 64; 64 by default.
    pub alignment: Option<u64>,
    /// The bytes that are cleared.
    pub clearing: Clearing,
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
}

impl SliceOptions {
    /// Checks the alignment. The request names neither the tag nor its owner.
    fn request(&self) -> Result<SliceRequest> {
        let mut request = SliceRequest::new(self.size, alignment(self.alignment, MIN_ALIGNMENT)?);
        request.clearing = self.clearing;
        Ok(request)
    }
}

impl Manager {
    /// Allocates a slice of `pool` as an allocation of this manager.
    ///
    /// Errors: those of [`Pool::allocate`].
    pub fn allocate_from(&self, pool: &Arc<Pool>, options: SliceOptions) -> Result<Arc<Allocation>> {
        self.prepare_from(pool, options)?.enter()
    }

    /// Runs the part of [`allocate_from`](Self::allocate_from) that waits for the driver, on any thread.
    ///
    /// Errors: those of [`allocate_from`](Self::allocate_from).
    pub fn prepare_from(&self, pool: &Arc<Pool>, options: SliceOptions) -> Result<Prepared> {
        let prepared = self.prepare_at(pool, options, |request| pool.request_held(request).map(Some))?;
        prepared.ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this memory was freed"))
    }

    /// Like [`allocate_from`](Self::allocate_from), from the chunks that the pool has. Returns `None` if the request
    /// may have to wait for a driver.
    ///
    /// Errors: those of [`allocate_from`](Self::allocate_from), but for those of a growth.
    pub fn allocate_resident(&self, pool: &Arc<Pool>, options: SliceOptions) -> Result<Option<Arc<Allocation>>> {
        let prepared = self.prepare_at(pool, options, |request| pool.request_resident_held(request))?;
        prepared.map(Prepared::enter).transpose()
    }

    /// Makes the slice that `place` returns the memory of an allocation.
    fn prepare_at(
        &self,
        pool: &Arc<Pool>,
        options: SliceOptions,
        place: impl FnOnce(SliceRequest) -> Result<Option<Slice>>,
    ) -> Result<Option<Prepared>> {
        let mut request = options.request()?;
        let (size, account) = (options.size, self.slice_account(options.tag));
        request.owner = pool.owner(account.tag.as_ref());
        let prepare = || {
            let admission = account.admit(size)?;
            let Some(slice) = place(request)? else { return Ok(None) };
            let backing = backing(Arc::clone(pool), slice, false)?;
            Ok(Some(Prepared::new(admission, backing, size)))
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
    pub fn allocate_movable(&self, pool: &Arc<Pool>, options: SliceOptions) -> Result<(Handle, Slice)> {
        let (request, account) = self.movable_request(options)?;
        pool.request_movable(request, account.as_ref())
    }

    /// Like [`allocate_movable`](Self::allocate_movable), from the chunks that the pool has. Returns `None` if the
    /// request may have to wait for a driver.
    ///
    /// Errors: those of [`allocate_movable`](Self::allocate_movable), but for those of a growth.
    pub fn allocate_movable_resident(
        &self,
        pool: &Arc<Pool>,
        options: SliceOptions,
    ) -> Result<Option<(Handle, Slice)>> {
        let (request, account) = self.movable_request(options)?;
        pool.request_movable_resident(request, account.as_ref())
    }

    /// Runs [`allocate_movable`](Self::allocate_movable) on any thread.
    ///
    /// Errors: those of [`allocate_movable`](Self::allocate_movable).
    pub fn prepare_movable(&self, pool: &Arc<Pool>, options: SliceOptions) -> Result<UnclaimedMovable> {
        let (request, account) = self.movable_request(options)?;
        UnclaimedMovable::allocate(pool, request, account.as_ref())
    }

    fn movable_request(&self, options: SliceOptions) -> Result<(SliceRequest, Option<Account>)> {
        Ok((options.request()?, options.tag.map(|tag| self.slice_account(Some(tag)))))
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
    pub(super) fn slice_account(&self, tag: Option<Arc<str>>) -> Account {
        Account { accounting: Arc::clone(&self.accounting), kind: None, tag }
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
