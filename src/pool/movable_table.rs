//! The movable slices of a pool, by id and by place.

use std::collections::HashMap;
use std::sync::Arc;

use super::slice::freed;
use crate::accounting::CountedBytes;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::suballoc::RegionId;

/// A slice's place: the chunk and the region in it.
pub(super) type SlicePlace = (Handle, RegionId);

/// The id and the tag of a movable slice.
pub(super) type MovableName = (Handle, Option<Arc<str>>);

/// A slice that compaction may move.
#[derive(Debug)]
pub(super) struct Movable {
    pub(super) place: SlicePlace,
    /// The alignment that every place must have.
    pub(super) alignment: u64,
    pins: u32,
    /// Set while the slice is in a move.
    pub(super) moving: bool,
    /// The id of JavaScript's ArrayBuffer over the slice; `None` without one.
    pub(super) view: Option<Handle>,
    /// The tag and the bytes counted under it.
    tagged: Option<(Arc<str>, CountedBytes)>,
}

impl Movable {
    pub(super) fn pinned(&self) -> bool {
        self.pins > 0
    }

    pub(super) fn tag(&self) -> Option<Arc<str>> {
        self.tagged.as_ref().map(|(tag, _)| Arc::clone(tag))
    }
}

/// All movable slices of a pool, by id and by place. Both maps agree.
#[derive(Debug, Default)]
pub(super) struct Movables {
    table: Table<Movable>,
    by_place: HashMap<Handle, InChunk>,
}

/// The movable slices of one chunk, by the slots of their regions. A walk over the regions finds them without a search.
#[derive(Debug, Default)]
pub(super) struct InChunk {
    slots: Vec<Option<(RegionId, Handle)>>,
    live: usize,
}

impl InChunk {
    /// The movable slice of that region.
    pub(super) fn at(&self, region: RegionId) -> Option<Handle> {
        let (id, handle) = (*self.slots.get(region.slot() as usize)?)?;
        (id == region).then_some(handle)
    }

    fn put(&mut self, region: RegionId, id: Handle) {
        let slot = region.slot() as usize;
        if slot >= self.slots.len() {
            self.slots.resize(slot + 1, None);
        }
        self.live += usize::from(self.slots[slot].replace((region, id)).is_none());
    }

    fn take(&mut self, region: RegionId) -> Option<Handle> {
        let id = self.at(region)?;
        self.slots[region.slot() as usize] = None;
        self.live -= 1;
        Some(id)
    }
}

impl Movables {
    pub(super) fn insert(
        &mut self,
        place: SlicePlace,
        alignment: u64,
        tagged: Option<(Arc<str>, CountedBytes)>,
    ) -> Handle {
        let id = self.table.insert(Movable { place, alignment, pins: 0, moving: false, view: None, tagged });
        self.put(place, id);
        id
    }

    fn put(&mut self, (chunk, region): SlicePlace, id: Handle) {
        self.by_place.entry(chunk).or_default().put(region, id);
    }

    fn take(&mut self, (chunk, region): SlicePlace) -> Option<Handle> {
        let in_chunk = self.by_place.get_mut(&chunk)?;
        let id = in_chunk.take(region);
        if in_chunk.live == 0 {
            self.by_place.remove(&chunk);
        }
        id
    }

    /// The movable slices of one chunk.
    pub(super) fn of(&self, chunk: Handle) -> Option<&InChunk> {
        self.by_place.get(&chunk)
    }

    pub(super) fn get(&self, id: Handle) -> Result<&Movable> {
        self.table.get(id).ok_or_else(freed)
    }

    /// The movable slice at that place.
    pub(super) fn at(&self, (chunk, region): SlicePlace) -> Option<Handle> {
        self.of(chunk)?.at(region)
    }

    /// Removes the freed slice at that place. Returns its id and tag if it was movable.
    #[inline]
    pub(super) fn forget(&mut self, place: SlicePlace) -> Option<MovableName> {
        // Most pools have no movable slices.
        if self.by_place.is_empty() {
            return None;
        }
        let id = self.take(place)?;
        self.table.remove(id).map(|movable| (id, movable.tag()))
    }

    /// Records a slice's new place. The caller has checked that the slice exists.
    pub(super) fn moved(&mut self, id: Handle, to: SlicePlace) {
        if let Some(movable) = self.table.get_mut(id) {
            let from = std::mem::replace(&mut movable.place, to);
            self.take(from);
            self.put(to, id);
        }
    }

    pub(super) fn pin(&mut self, id: Handle) -> Result<()> {
        let movable = self.get_unmoving(id)?;
        movable.pins = movable.pins.checked_add(1).ok_or_else(|| {
            Error::new(ErrorCode::OutOfRange, format!("this block is pinned {} times already", u32::MAX))
        })?;
        Ok(())
    }

    /// Records the ArrayBuffer over a slice, or its end.
    pub(super) fn set_view(&mut self, id: Handle, view: Option<Handle>) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.view = view;
        }
    }

    pub(super) fn set_moving(&mut self, id: Handle, moving: bool) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.moving = moving;
        }
    }

    /// Finds a slice that is not in a move.
    fn get_unmoving(&mut self, id: Handle) -> Result<&mut Movable> {
        match self.table.get_mut(id) {
            None => Err(freed()),
            Some(movable) if movable.moving => {
                Err(Error::new(ErrorCode::BufferBusy, "this block is being moved").hint("try again"))
            }
            Some(movable) => Ok(movable),
        }
    }

    /// The place of a slice that may be freed.
    pub(super) fn freeable(&mut self, id: Handle) -> Result<SlicePlace> {
        let movable = self.get_unmoving(id)?;
        match movable.pins {
            0 => Ok(movable.place),
            pins => {
                Err(Error::new(ErrorCode::BufferBusy, format!("this block is pinned {pins} times: it was not freed"))
                    .hint("unpin it as often as it was pinned"))
            }
        }
    }

    pub(super) fn unpin(&mut self, id: Handle) -> Result<()> {
        let movable = self.table.get_mut(id).ok_or_else(freed)?;
        let unpinned = movable.pins.checked_sub(1);
        movable.pins = unpinned.ok_or_else(|| Error::new(ErrorCode::OutOfRange, "this block is not pinned"))?;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn clear(&mut self) {
        // A new table would start its generations again, and stale ids would name new slices.
        for (_, chunk) in self.by_place.drain() {
            for (_, id) in chunk.slots.into_iter().flatten() {
                self.table.remove(id);
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let placed = |(chunk, region): SlicePlace, id| {
            self.table.get(id).is_some_and(|movable| movable.place == (chunk, region))
        };
        let agree = |(chunk, in_chunk): (&Handle, &InChunk)| {
            let mut live = in_chunk.slots.iter().flatten();
            live.clone().count() == in_chunk.live && live.all(|(region, id)| placed((*chunk, *region), *id))
        };
        let places: usize = self.by_place.values().map(|chunk| chunk.live).sum();
        match self.table.len() == places && self.by_place.iter().all(agree) {
            true => Ok(()),
            false => Err("the movable slices by id and by place disagree".to_owned()),
        }
    }
}
