//! The movable slices of a pool, by name and by place.

use std::collections::HashMap;
use std::sync::Arc;

use super::slice::freed;
use crate::accounting::CountedBytes;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::suballoc::RegionId;

/// Where a slice is: its chunk, and its region there.
pub(super) type SlicePlace = (Handle, RegionId);

/// What a movable slice is called, and what it is counted under.
pub(super) type MovableName = (Handle, Option<Arc<str>>);

/// A slice that may be moved.
#[derive(Debug)]
pub(super) struct Movable {
    pub(super) place: SlicePlace,
    /// That a new place has to have as well.
    pub(super) alignment: u64,
    pins: u32,
    /// Its bytes are on their way.
    pub(super) moving: bool,
    /// What JavaScript's ArrayBuffer over it is found by, while there is one.
    pub(super) view: Option<Handle>,
    /// Its tag, and its bytes under it.
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

/// Every movable slice of a pool, by its name and by its place. Both agree.
#[derive(Debug, Default)]
pub(super) struct Movables {
    table: Table<Movable>,
    by_place: HashMap<Handle, InChunk>,
}

/// The movable slices of one chunk, each at its region's slot: a walk over the regions finds them without a search.
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

    /// Those of one chunk, if it has any.
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

    /// The slice at that place was freed; its name and its tag, if it was a movable one.
    #[inline]
    pub(super) fn forget(&mut self, place: SlicePlace) -> Option<MovableName> {
        // Most pools have none.
        if self.by_place.is_empty() {
            return None;
        }
        let id = self.take(place)?;
        self.table.remove(id).map(|movable| (id, movable.tag()))
    }

    /// It is somewhere else from here on. Whoever says so has looked that it exists.
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

    /// An ArrayBuffer over it was made, or is gone.
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

    /// One that is not being moved by another thread at this moment.
    fn get_unmoving(&mut self, id: Handle) -> Result<&mut Movable> {
        match self.table.get_mut(id) {
            None => Err(freed()),
            Some(movable) if movable.moving => {
                Err(Error::new(ErrorCode::BufferBusy, "this block is being moved").hint("try again"))
            }
            Some(movable) => Ok(movable),
        }
    }

    /// The place of one that may be freed.
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
        // Not a new table: names of before must not name anything again.
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
            false => Err("movable slices have places that they do not have".to_owned()),
        }
    }
}
