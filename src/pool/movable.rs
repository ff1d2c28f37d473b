//! Slices that compaction may move. Their ids stay the same in every place.

use std::sync::Arc;

use super::slice::Slice;
use super::Pool;
use crate::accounting::{notify, Account, Admission};
use crate::error::Result;
use crate::handle::Handle;

impl Pool {
    /// Like [`allocate`](Self::allocate), for a slice that compaction may move; its id stays the same. An account, if
    /// given, counts the bytes while the slice lives.
    ///
    /// Errors: those of [`allocate`](Self::allocate) and [`Account::admit`].
    pub fn allocate_movable(&self, size: u64, alignment: u64, account: Option<&Account>) -> Result<(Handle, Slice)> {
        let own = account.and_then(|account| account.tag.as_ref());
        self.try_allocate_movable(size, alignment, account).map_err(|error| self.refused(size, own, error))
    }

    fn try_allocate_movable(&self, size: u64, alignment: u64, account: Option<&Account>) -> Result<(Handle, Slice)> {
        let mut admission = account.map(|account| account.admit(size)).transpose()?;
        let slice = self.allocate_held(size, alignment)?;
        let covered = admission.as_mut().map_or(Ok(()), |admission| admission.cover(slice.padded));
        if let Err(error) = covered {
            self.free(slice.chunk, slice.region)?;
            return Err(error);
        }
        let tag = account.and_then(|account| account.tag.clone());
        let tagged = tag.clone().zip(admission.map(Admission::commit));
        let alignment = alignment.max(self.layout.alignment);
        let (id, sampled) = {
            let mut state = self.state();
            let id = state.movables.insert((slice.chunk, slice.region), alignment, tagged);
            (id, state.record_movable(&slice, size, tag))
        };
        if sampled {
            notify();
        }
        Ok((id, slice))
    }

    /// The current place of a movable slice, its requested bytes and its tag.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn movable(&self, id: Handle) -> Result<(Slice, u64, Option<Arc<str>>)> {
        let ((chunk, region), tag) = {
            let state = self.state();
            let movable = state.movables.get(id)?;
            (movable.place, movable.tag())
        };
        self.slice(chunk, region).map(|(slice, size)| (slice, size, tag))
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
        let (chunk, region) = self.state().movables.get(id)?.place;
        self.unpin_slice(chunk, region, false)
    }

    /// Frees a movable slice.
    ///
    /// Errors: `ERR_BUFFER_FREED`; `ERR_BUFFER_BUSY` while the slice is pinned or in a move.
    pub fn free_movable(&self, id: Handle) -> Result<()> {
        let (chunk, region) = self.state().freeable(id)?;
        self.free(chunk, region)
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
        let ((chunk, region), unseen) = {
            let state = self.state();
            (state.movables.unmoving(id)?, state.movables.get(id)?.view.is_none())
        };
        self.block_dropped(chunk, region, unseen)
    }

    /// The number of movable slices.
    pub fn movables(&self) -> usize {
        self.state().movables.len()
    }
}
