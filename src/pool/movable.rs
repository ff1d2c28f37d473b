//! Slices that compaction may move. Their ids stay the same in every place.

use std::sync::Arc;

use super::slice::{freed, Slice, SliceRequest};
use super::{ChunkMemory, Pool};
use crate::accounting::{notify, Account, Admission};
use crate::error::Result;
use crate::handle::Handle;
use crate::profile::Action;

/// A movable slice over which an ArrayBuffer is made.
#[derive(Debug)]
pub struct View {
    /// The place.
    pub slice: Slice,
    /// The requested bytes.
    pub size: u64,
    /// The slice's own tag; `None` without one.
    pub tag: Option<Arc<str>>,
    /// The memory of its chunk.
    pub chunk_memory: Arc<ChunkMemory>,
}

impl Pool {
    /// Like [`allocate`](Self::allocate), for a slice that compaction may move; its id stays the same. An account, if
    /// given, counts the bytes while the slice lives.
    ///
    /// Errors: those of [`allocate`](Self::allocate) and [`Account::admit`].
    pub fn allocate_movable(&self, size: u64, alignment: u64, account: Option<&Account>) -> Result<(Handle, Slice)> {
        self.request_movable(SliceRequest::new(size, alignment), account)
    }

    /// Like [`allocate_movable`](Self::allocate_movable). The account, not the request, has the tag.
    ///
    /// Errors: those of [`request`](Self::request) and [`Account::admit`].
    pub fn request_movable(&self, request: SliceRequest, account: Option<&Account>) -> Result<(Handle, Slice)> {
        let made = self.movable_at(request, account, |request| self.request_held(request).map(Some))?;
        made.ok_or_else(freed)
    }

    /// Like [`request_movable`](Self::request_movable), from the chunks that the pool has. Returns `None` if the
    /// request may have to wait for a driver.
    ///
    /// Errors: those of [`request_movable`](Self::request_movable), but for those of a growth.
    pub fn request_movable_resident(
        &self,
        request: SliceRequest,
        account: Option<&Account>,
    ) -> Result<Option<(Handle, Slice)>> {
        self.movable_at(request, account, |request| self.request_resident_held(request))
    }

    /// Makes the slice that `place` returns movable.
    fn movable_at(
        &self,
        request: SliceRequest,
        account: Option<&Account>,
        place: impl FnOnce(SliceRequest) -> Result<Option<Slice>>,
    ) -> Result<Option<(Handle, Slice)>> {
        let own = account.and_then(|account| account.tag.as_ref());
        self.try_movable_at(request, account, place).map_err(|error| self.refused(request.size, own, error))
    }

    fn try_movable_at(
        &self,
        request: SliceRequest,
        account: Option<&Account>,
        place: impl FnOnce(SliceRequest) -> Result<Option<Slice>>,
    ) -> Result<Option<(Handle, Slice)>> {
        let SliceRequest { size, alignment, .. } = request;
        let mut admission = account.map(|account| account.admit(size)).transpose()?;
        let tag = account.and_then(|account| account.tag.clone());
        let owner = self.owner(tag.as_ref());
        let Some(slice) = place(SliceRequest { owner, ..request })? else { return Ok(None) };
        let covered = admission.as_mut().map_or(Ok(()), |admission| admission.cover(slice.padded));
        if let Err(error) = covered {
            self.free(slice.chunk, slice.region)?;
            return Err(error);
        }
        let tagged = tag.clone().zip(admission.map(Admission::commit));
        let alignment = alignment.max(self.layout.alignment);
        let (id, sampled) = {
            let mut state = self.state();
            let place = (slice.chunk, slice.region);
            // A reset in between has freed the slice: an id would name a place of others.
            state.live_region(place).ok_or_else(freed)?;
            let id = state.movables.insert(place, alignment, owner, tagged);
            (id, state.record_movable(&slice, size, tag))
        };
        if sampled {
            notify();
        }
        Ok(Some((id, slice)))
    }

    /// The current place of a movable slice, its requested bytes and its tag.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn movable(&self, id: Handle) -> Result<(Slice, u64, Option<Arc<str>>)> {
        let state = self.state();
        let movable = state.movables.get(id)?;
        state.slice(movable.place).map(|(slice, size)| (slice, size, movable.tag()))
    }

    /// Like [`movable`](Self::movable), for a caller that makes an ArrayBuffer over the slice. The slice stays in its
    /// place until [`end_view`](Self::end_view).
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while another thread moves the slice.
    pub fn begin_view(&self, id: Handle) -> Result<View> {
        let mut state = self.state();
        let place = state.movables.unmoving(id)?;
        let (slice, size) = state.slice(place)?;
        let chunk = state.chunks.get(slice.chunk).ok_or_else(freed)?;
        let (chunk_memory, tag) = (Arc::clone(&chunk.chunk_memory), state.movables.get(id)?.tag());
        state.movables.begin_view(id);
        Ok(View { slice, size, tag, chunk_memory })
    }

    /// Records the ArrayBuffer that the caller of [`begin_view`](Self::begin_view) has made, if it has.
    pub fn end_view(&self, id: Handle, view: Option<Handle>) {
        let mut state = self.state();
        state.movables.end_view(id);
        if view.is_some() {
            state.movables.set_view(id, view);
        }
    }

    /// Records the ArrayBuffer over a movable slice, or its end. A compaction detaches it before a move.
    pub fn set_view(&self, id: Handle, view: Option<Handle>) {
        self.state().movables.set_view(id, view);
    }

    /// Pins a movable slice to its place until as many calls of [`unpin`](Self::unpin).
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while another thread moves the slice.
    pub fn pin(&self, id: Handle) -> Result<()> {
        self.state().pin_movable(id)
    }

    /// Undoes one [`pin`](Self::pin), as [`unpin_slice`](Self::unpin_slice). Returns whether there are others.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_OUT_OF_RANGE` for a slice that is not pinned.
    pub fn unpin(&self, id: Handle) -> Result<bool> {
        self.unpin_where(false, |state| Ok(state.movables.get(id)?.place))
    }

    /// Frees a movable slice.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while the slice is pinned or in a move.
    pub fn free_movable(&self, id: Handle) -> Result<()> {
        let seen = self.state().movables.get(id)?.seen;
        self.free_where(Action::Free, seen, |state| state.freeable(id))
    }

    /// Checks whether a movable slice could be freed now.
    ///
    /// Errors: those of [`free_movable`](Self::free_movable).
    pub fn check_freeable(&self, id: Handle) -> Result<()> {
        self.state().freeable(id).map(drop)
    }

    /// Reports whether the slice at that place is movable.
    pub fn is_movable(&self, slice: &Slice) -> bool {
        self.state().movables.at((slice.chunk, slice.region)).is_some()
    }

    /// Keeps the slice at that place, if it is movable, because a descriptor with its offset leaves the process. An
    /// importer holds the memory for as long as it likes, so the slice stays there until it is freed, also unpinned.
    ///
    /// Errors: `ERR_UNSUPPORTED` for a movable slice that is not pinned.
    pub fn keep_exported(&self, slice: &Slice) -> Result<()> {
        let place = (slice.chunk, slice.region);
        let mut state = self.state();
        let pinned = state.pins.get(place).is_some();
        match state.movables.at(place) {
            Some(id) => state.movables.keep_exported(id, pinned),
            None => Ok(()),
        }
    }

    /// Records that the block of a movable slice was collected. Frees the slice, unless it is pinned or an ArrayBuffer
    /// over it exists.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while another thread moves the slice.
    pub fn free_dropped(&self, id: Handle) -> Result<()> {
        let seen = {
            let mut state = self.state();
            let place = state.movables.unmoving(id)?;
            let movable = state.movables.get(id)?;
            let (viewed, seen) = (movable.view.is_some(), movable.seen);
            if state.pins.set_dropped(place, !viewed) || viewed {
                return Ok(());
            }
            seen
        };
        self.free_where(Action::Collect, seen, |state| state.freeable(id))
    }

    /// The number of movable slices.
    pub fn movables(&self) -> usize {
        self.state().movables.len()
    }
}
