//! The movable slices of a pool, by id and by place.

use std::collections::HashMap;
use std::sync::Arc;

use super::owners::Owner;
use super::slice::freed;
use super::slot_map::SlotMap;
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
    /// Set once a dma-buf with the slice's offset has left the process: an importer finds the bytes only there.
    exported: bool,
    /// Set while the slice is in a move.
    pub(super) moving: bool,
    /// The number of callers that make an ArrayBuffer over the slice.
    viewing: u32,
    /// Whether JavaScript has seen an ArrayBuffer over the present place.
    pub(super) seen: bool,
    /// The number of the last compaction that tried to slide it.
    tried: u64,
    /// The owner of the bytes.
    pub(super) owner: Owner,
    /// The id of JavaScript's ArrayBuffer over the slice; `None` without one.
    pub(super) view: Option<Handle>,
    /// The tag and the bytes counted under it.
    tagged: Option<(Arc<str>, CountedBytes)>,
}

impl Movable {
    /// Reports whether compaction may move the slice now, if it is not pinned: no other move has it, and no caller is
    /// making an ArrayBuffer over it.
    pub(super) fn may_move(&self) -> bool {
        !self.exported && !self.moving && self.viewing == 0
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
pub(super) struct InChunk(SlotMap<(RegionId, Handle)>);

impl InChunk {
    /// The movable slice of that region.
    pub(super) fn at(&self, region: RegionId) -> Option<Handle> {
        let (id, handle) = self.0.get(region.slot())?;
        (id == region).then_some(handle)
    }

    fn take(&mut self, region: RegionId) -> Option<Handle> {
        let id = self.at(region)?;
        self.0.take(region.slot());
        Some(id)
    }
}

impl Movables {
    pub(super) fn insert(
        &mut self,
        place: SlicePlace,
        alignment: u64,
        owner: Owner,
        tagged: Option<(Arc<str>, CountedBytes)>,
    ) -> Handle {
        let (exported, moving, viewing, seen, tried, view) = (false, false, 0, false, 0, None);
        let movable = Movable { place, alignment, exported, moving, viewing, seen, tried, owner, view, tagged };
        let id = self.table.insert(movable);
        self.put(place, id);
        id
    }

    fn put(&mut self, (chunk, region): SlicePlace, id: Handle) {
        self.by_place.entry(chunk).or_default().0.put(region.slot(), (region, id));
    }

    fn take(&mut self, (chunk, region): SlicePlace) -> Option<Handle> {
        let in_chunk = self.by_place.get_mut(&chunk)?;
        let id = in_chunk.take(region);
        if in_chunk.0.len() == 0 {
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
            movable.seen = false;
            self.take(from);
            self.put(to, id);
        }
    }

    /// Keeps a slice in its place until [`end_view`](Self::end_view).
    pub(super) fn begin_view(&mut self, id: Handle) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.viewing += 1;
        }
    }

    pub(super) fn end_view(&mut self, id: Handle) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.viewing = movable.viewing.saturating_sub(1);
        }
    }

    /// Records the ArrayBuffer over a slice, or its end.
    pub(super) fn set_view(&mut self, id: Handle, view: Option<Handle>) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.view = view;
            movable.seen |= view.is_some();
        }
    }

    pub(super) fn set_moving(&mut self, id: Handle, moving: bool) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.moving = moving;
        }
    }

    /// Records that the compaction of that number has tried to slide a slice. Each one is tried once.
    pub(super) fn set_tried(&mut self, id: Handle, pass: u64) {
        if let Some(movable) = self.table.get_mut(id) {
            movable.tried = pass;
        }
    }

    pub(super) fn was_tried(&self, id: Handle, pass: u64) -> bool {
        self.table.get(id).is_some_and(|movable| movable.tried == pass)
    }

    /// The place of a slice that is not in a move.
    pub(super) fn unmoving(&self, id: Handle) -> Result<SlicePlace> {
        match self.get(id)? {
            movable if movable.moving => {
                Err(Error::new(ErrorCode::BufferBusy, "this block is being moved").hint("try again"))
            }
            movable => Ok(movable.place),
        }
    }

    /// Keeps a pinned slice at its place from now on, pinned or not, until it is freed.
    pub(super) fn keep_exported(&mut self, id: Handle, pinned: bool) -> Result<()> {
        let movable = self.table.get_mut(id).ok_or_else(freed)?;
        if !pinned {
            let message = "a movable block is exported only while it is pinned: compaction moves it to another offset";
            return Err(Error::new(ErrorCode::Unsupported, message)
                .hint("call pin() before exportDmaBuf, or allocate the block without `movable`"));
        }
        movable.exported = true;
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn clear(&mut self) {
        // A new table would start its generations again, and stale ids would name new slices.
        for (_, chunk) in self.by_place.drain() {
            for (_, id) in chunk.0.values() {
                self.table.remove(id);
            }
        }
    }

    pub(super) fn check(&self) -> Result<(), String> {
        let placed = |(chunk, region): SlicePlace, id| {
            self.table.get(id).is_some_and(|movable| movable.place == (chunk, region))
        };
        let agree = |(chunk, in_chunk): (&Handle, &InChunk)| {
            in_chunk.0.values().count() == in_chunk.0.len()
                && in_chunk.0.values().all(|(region, id)| placed((*chunk, region), id))
        };
        let places: usize = self.by_place.values().map(|chunk| chunk.0.len()).sum();
        match self.table.len() == places && self.by_place.iter().all(agree) {
            true => Ok(()),
            false => Err("the movable slices by id and by place disagree".to_owned()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CHUNK: u64 = 7;

    fn place(slot: u64) -> SlicePlace {
        (Handle::from_raw(CHUNK), RegionId::from_raw(slot))
    }

    /// Two movable slices of one chunk.
    fn movables() -> (Movables, [Handle; 2]) {
        let mut movables = Movables::default();
        let ids = [1, 2].map(|slot| movables.insert(place(slot), 64, Owner::UNTAGGED, None));
        assert_eq!(movables.check(), Ok(()));
        (movables, ids)
    }

    /// Each line breaks the agreement of names and places; a check that cannot fail proves nothing.
    #[test]
    fn check_finds_damage() {
        let damages: &[fn(&mut Movables, [Handle; 2])] = &[
            |movables, _| movables.by_place.clear(),
            |movables, [first, _]| drop(movables.table.remove(first)),
            |movables, [first, _]| movables.table.get_mut(first).unwrap().place = place(3),
            // As many as there are names, but for one that is in no slot, and one that has another name's slot.
            |movables, _| {
                movables.by_place.get_mut(&Handle::from_raw(CHUNK)).unwrap().0.take(1);
            },
            |movables, [first, _]| {
                movables.by_place.get_mut(&Handle::from_raw(CHUNK)).unwrap().0.put(2, (place(2).1, first));
            },
        ];
        for (number, damage) in damages.iter().enumerate() {
            let (mut movables, ids) = movables();
            damage(&mut movables, ids);
            assert!(movables.check().is_err(), "damage {number} went unnoticed");
        }
    }

    #[test]
    fn a_slice_is_found_at_its_place_and_nowhere_else() {
        let (mut movables, [first, second]) = movables();
        movables.moved(first, place(70));
        assert_eq!([1, 2, 70, 71].map(|slot| movables.at(place(slot))), [None, Some(second), Some(first), None]);
        assert_eq!(movables.get(first).unwrap().place, place(70));
        // Another use of the same slot is another region.
        assert_eq!(movables.at(place(2 | 1 << 32)), None);
        assert_eq!(movables.forget(place(70)), Some((first, None)));
        assert_eq!((movables.forget(place(70)), movables.len(), movables.check()), (None, 1, Ok(())));
        movables.clear();
        assert_eq!((movables.at(place(2)), movables.len(), movables.check()), (None, 0, Ok(())));
        assert!(movables.of(Handle::from_raw(CHUNK)).is_none());
    }
}
