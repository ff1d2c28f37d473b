//! [`SlotMap`]: values by the slots of regions.

use super::visits;

/// The slots of a page.
const PAGE: usize = 256;

type Page<T> = Box<[Option<T>; PAGE]>;

/// Values by the slots of a chunk's regions. It has pages, made when first used: the first value of a chunk may have
/// the slot half a million, and its request would otherwise fill a table of that size under the pool's lock.
#[derive(Debug)]
pub(super) struct SlotMap<T> {
    pages: Vec<Option<Page<T>>>,
    len: usize,
}

impl<T> Default for SlotMap<T> {
    fn default() -> Self {
        Self { pages: Vec::new(), len: 0 }
    }
}

impl<T: Copy> SlotMap<T> {
    /// The number of values.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<T> {
        self.pages.get(slot as usize / PAGE)?.as_ref()?[slot as usize % PAGE]
    }

    #[inline]
    pub(super) fn put(&mut self, slot: u32, value: T) {
        let place = match self.pages.get_mut(slot as usize / PAGE) {
            Some(Some(page)) => &mut page[slot as usize % PAGE],
            _ => &mut self.add_page(slot as usize / PAGE)[slot as usize % PAGE],
        };
        self.len += usize::from(place.replace(value).is_none());
    }

    #[cold]
    fn add_page(&mut self, at: usize) -> &mut Page<T> {
        if at >= self.pages.len() {
            visits::add((at - self.pages.len()) / PAGE);
            self.pages.resize_with(at + 1, || None);
        }
        visits::add(1);
        self.pages[at].insert(Box::new([None; PAGE]))
    }

    /// Removes the value of a slot and returns it.
    #[inline]
    pub(super) fn take(&mut self, slot: u32) -> Option<T> {
        let value = self.pages.get_mut(slot as usize / PAGE)?.as_mut()?[slot as usize % PAGE].take();
        self.len -= usize::from(value.is_some());
        value
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn values(&self) -> impl Iterator<Item = T> + '_ {
        self.pages.iter().flatten().flat_map(|page| page.iter().flatten().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_in_its_slot_until_it_is_taken() {
        let mut map = SlotMap::default();
        for slot in [0, 1, 255, 256, 500_000, u32::from(u16::MAX)] {
            assert_eq!(map.get(slot), None);
            map.put(slot, slot + 1);
            map.put(slot, slot + 2);
            assert_eq!(map.get(slot), Some(slot + 2));
        }
        assert_eq!((map.len(), map.values().count()), (6, 6));
        assert_eq!((map.take(256), map.take(256), map.take(u32::MAX), map.len()), (Some(258), None, None, 5));
        assert_eq!((map.get(255), map.get(256)), (Some(257), None));
        map.clear();
        assert_eq!((map.get(255), map.len()), (None, 0));
    }

    /// Counts work, not time.
    #[test]
    fn the_first_value_of_a_high_slot_makes_one_page() {
        let mut map = SlotMap::default();
        visits::take();
        map.put(500_000, 7);
        assert!(visits::take() < 16);
    }
}
