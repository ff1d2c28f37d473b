//! The order in which requests try the chunks of a pool, with an index of the chunks that may have room.
#![forbid(unsafe_code)]

use super::max_tree::MaxTree;
use crate::handle::Handle;

/// Vacant places from which on the order is packed, if they are the majority.
const MIN_VACANT: usize = 32;

/// Chunks by age, and for each an upper bound of the sizes that it has room for. A chunk that ended leaves a vacant
/// place.
///
/// A free raises the bound of its chunk, a refusal lowers it, an allocation leaves it. So a bound is too high only
/// where the chunk has served a request since, and each allocation costs later requests one vain try at most. Bounds
/// of a set of one chunk are not kept.
#[derive(Debug)]
pub(super) struct ChunkOrder {
    places: Vec<Option<Handle>>,
    len: usize,
    /// The bounds for alignments up to each of these. The first holds for every alignment that regions have anyway;
    /// others are added by the first request with that alignment.
    bounds: Vec<(u64, MaxTree)>,
}

impl Default for ChunkOrder {
    fn default() -> Self {
        Self { places: Vec::new(), len: 0, bounds: vec![(1, MaxTree::default())] }
    }
}

impl ChunkOrder {
    /// The number of chunks.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Sets the alignment that every region has.
    pub(super) fn set_granule(&mut self, granule: u64) {
        self.bounds[0].0 = granule;
    }

    /// The chunks in the order of trying.
    pub(super) fn handles(&self) -> impl Iterator<Item = Handle> + '_ {
        self.places.iter().filter_map(|place| *place)
    }

    /// Adds a chunk at the end. Returns its place.
    pub(super) fn push(&mut self, handle: Handle, room: u64) -> usize {
        let at = self.places.len();
        self.places.push(Some(handle));
        self.len += 1;
        self.set(at, room);
        at
    }

    /// Removes the chunk at a place. Returns whether the order should be [packed](Self::pack).
    pub(super) fn remove(&mut self, at: usize) -> bool {
        self.places[at] = None;
        self.len -= 1;
        self.set(at, 0);
        let vacant = self.places.len() - self.len;
        vacant >= MIN_VACANT && vacant > self.len
    }

    /// Closes the vacant places. Calls `moved` with each chunk and its new place.
    pub(super) fn pack(&mut self, mut moved: impl FnMut(Handle, usize)) {
        let kept: Vec<usize> = (0..self.places.len()).filter(|at| self.places[*at].is_some()).collect();
        for (_, tree) in &mut self.bounds {
            *tree = MaxTree::new(kept.iter().map(|at| tree.get(*at)).collect::<Vec<_>>().into_iter());
        }
        self.places.retain(Option::is_some);
        for (at, handle) in self.places.iter().enumerate() {
            handle.iter().for_each(|handle| moved(*handle, at));
        }
    }

    /// The number of the bounds for an alignment.
    pub(super) fn class_of(&mut self, alignment: u64) -> usize {
        if alignment <= self.bounds[0].0 {
            return 0;
        }
        self.bounds.iter().position(|(of, _)| *of == alignment).unwrap_or_else(|| {
            self.bounds.push((alignment, self.bounds[0].1.clone()));
            self.bounds.len() - 1
        })
    }

    /// The first chunk that may have room for `size` bytes.
    pub(super) fn first_with(&self, class: usize, size: u64) -> Option<(usize, Handle)> {
        let at = self.bounds[class].1.first_at_least(size)?;
        Some((at, self.places[at]?))
    }

    /// The bound of a chunk.
    pub(super) fn bound(&self, class: usize, at: usize) -> u64 {
        self.bounds[class].1.get(at)
    }

    /// Lowers the bound of a chunk that refused a request.
    pub(super) fn lower(&mut self, class: usize, at: usize, room: u64) {
        if self.bound(class, at) > room {
            self.bounds[class].1.set(at, room);
        }
    }

    /// Lowers the bounds of a chunk in which no more than `room` bytes are free in one piece.
    pub(super) fn lower_all(&mut self, at: usize, room: u64) {
        (0..self.bounds.len()).for_each(|class| self.lower(class, at, room));
    }

    /// Raises the bounds of a chunk in which a region of `room` bytes is free.
    #[inline]
    pub(super) fn raise(&mut self, at: usize, room: u64) {
        for (_, tree) in &mut self.bounds {
            if tree.get(at) < room {
                tree.set(at, room);
            }
        }
    }

    /// Sets the bounds of a chunk.
    pub(super) fn set(&mut self, at: usize, room: u64) {
        self.bounds.iter_mut().for_each(|(_, tree)| tree.set(at, room));
    }

    /// The largest of the exact figures of all chunks, of which the bounds are upper ones.
    pub(super) fn largest(&self, exact: impl Fn(Handle) -> u64) -> u64 {
        self.bounds[0].1.max_of(|at| self.places[at].map_or(0, &exact))
    }

    /// The chunk at a place.
    pub(super) fn at(&self, at: usize) -> Option<Handle> {
        *self.places.get(at)?
    }
}
