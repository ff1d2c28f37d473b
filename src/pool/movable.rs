//! Slices that compaction may move: a name that stays, whatever place it has.

use std::collections::HashMap;

use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::suballoc::RegionId;

/// Where a slice is: its chunk, and its region there.
pub(super) type Place = (Handle, RegionId);

/// A slice that may be moved.
#[derive(Clone, Copy, Debug)]
pub(super) struct Movable {
    pub(super) place: Place,
    /// That a new place has to have as well.
    pub(super) alignment: u64,
    pins: u32,
    /// Its bytes are on their way.
    pub(super) moving: bool,
}

impl Movable {
    pub(super) fn pinned(&self) -> bool {
        self.pins > 0
    }
}

/// Every movable slice of a pool, by its name and by its place. Both agree.
#[derive(Debug, Default)]
pub(super) struct Movables {
    table: Table<Movable>,
    by_place: HashMap<Place, Handle>,
}

impl Movables {
    pub(super) fn insert(&mut self, place: Place, alignment: u64) -> Handle {
        let id = self.table.insert(Movable { place, alignment, pins: 0, moving: false });
        self.by_place.insert(place, id);
        id
    }

    pub(super) fn get(&self, id: Handle) -> Result<Movable> {
        self.table.get(id).copied().ok_or_else(super::freed)
    }

    /// The movable slice at that place.
    pub(super) fn at(&self, place: Place) -> Option<(Handle, Movable)> {
        // Most pools have none.
        if self.by_place.is_empty() {
            return None;
        }
        let id = *self.by_place.get(&place)?;
        Some((id, *self.table.get(id)?))
    }

    /// The slice at that place was freed.
    pub(super) fn forget(&mut self, place: Place) {
        if self.by_place.is_empty() {
            return;
        }
        if let Some(id) = self.by_place.remove(&place) {
            self.table.remove(id);
        }
    }

    /// It is somewhere else from here on. Whoever says so has looked that it exists.
    pub(super) fn moved(&mut self, id: Handle, to: Place) {
        if let Some(movable) = self.table.get_mut(id) {
            self.by_place.remove(&movable.place);
            movable.place = to;
            self.by_place.insert(to, id);
        }
    }

    pub(super) fn pin(&mut self, id: Handle) -> Result<()> {
        let movable = self.still(id)?;
        movable.pins = movable.pins.checked_add(1).ok_or_else(|| {
            Error::new(ErrorCode::OutOfRange, format!("this block is pinned {} times already", u32::MAX))
        })?;
        Ok(())
    }

    pub(super) fn set_moving(&mut self, id: Handle, moving: bool) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.moving = moving;
        }
    }

    /// One that is not being moved by another thread at this moment.
    fn still(&mut self, id: Handle) -> Result<&mut Movable> {
        match self.table.get_mut(id) {
            None => Err(super::freed()),
            Some(movable) if movable.moving => {
                Err(Error::new(ErrorCode::BufferBusy, "this block is being moved").hint("try again"))
            }
            Some(movable) => Ok(movable),
        }
    }

    /// The place of one that may be freed.
    pub(super) fn freeable(&mut self, id: Handle) -> Result<Place> {
        let movable = self.still(id)?;
        match movable.pins {
            0 => Ok(movable.place),
            pins => Err(Error::new(ErrorCode::BufferBusy, format!("this block is pinned {pins} times: it was not freed"))
                .hint("unpin it as often as it was pinned")),
        }
    }

    pub(super) fn unpin(&mut self, id: Handle) -> Result<()> {
        let movable = self.table.get_mut(id).ok_or_else(super::freed)?;
        let unpinned = movable.pins.checked_sub(1);
        movable.pins = unpinned.ok_or_else(|| Error::new(ErrorCode::OutOfRange, "this block is not pinned"))?;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.by_place.len()
    }

    pub(super) fn clear(&mut self) {
        // Not a new table: names of before must not name anything again.
        for id in self.by_place.drain().map(|(_, id)| id) {
            self.table.remove(id);
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let agree = |(place, id): (&Place, &Handle)| self.table.get(*id).is_some_and(|movable| movable.place == *place);
        match self.table.len() == self.by_place.len() && self.by_place.iter().all(agree) {
            true => Ok(()),
            false => Err("movable slices have places that they do not have".to_owned()),
        }
    }
}
