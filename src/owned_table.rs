//! [`OwnedTable`]: values by handle, each with an owner.
#![forbid(unsafe_code)]

use std::collections::hash_map::Entry;
use std::hash::Hash;

use crate::handle::{Handle, Table};
use crate::hash::{NumberMap, NumberSet};

/// Values by generation-checked handle, and by their owners: the end of an owner visits its own values alone.
///
/// ```
/// use rkllmjs_memory::owned_table::OwnedTable;
///
/// let mut table = OwnedTable::default();
/// let first = table.insert(1_u32, "a pool of the first manager");
/// table.insert(2, "a pool of the second");
/// assert_eq!(table.remove_of(1), [(first, "a pool of the first manager")]);
/// assert_eq!(table.values().count(), 1);
/// ```
#[derive(Debug)]
pub struct OwnedTable<O, T> {
    table: Table<(O, T)>,
    by_owner: NumberMap<O, NumberSet<Handle>>,
}

impl<O, T> Default for OwnedTable<O, T> {
    fn default() -> Self {
        Self { table: Table::new(), by_owner: NumberMap::default() }
    }
}

impl<O: Copy + Eq + Hash, T> OwnedTable<O, T> {
    /// Adds `value` and returns its handle.
    pub fn insert(&mut self, owner: O, value: T) -> Handle {
        let handle = self.table.insert((owner, value));
        self.by_owner.entry(owner).or_default().insert(handle);
        handle
    }

    /// Returns the value that `handle` names, mutably.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        self.table.get_mut(handle).map(|(_, value)| value)
    }

    /// Removes and returns the value of `handle`.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let (owner, value) = self.table.remove(handle)?;
        if let Entry::Occupied(mut owned) = self.by_owner.entry(owner) {
            owned.get_mut().remove(&handle);
            if owned.get().is_empty() {
                owned.remove();
            }
        }
        Some(value)
    }

    /// Removes and returns every value of `owner`, with its handle.
    pub fn remove_of(&mut self, owner: O) -> Vec<(Handle, T)> {
        let owned = self.by_owner.remove(&owner).unwrap_or_default();
        owned.into_iter().filter_map(|handle| Some((handle, self.table.remove(handle)?.1))).collect()
    }

    /// Iterates over all values.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.table.iter().map(|(_, (_, value))| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_of_an_owner_are_removed_and_no_others() {
        let mut table = OwnedTable::default();
        let handles: Vec<_> = (0..6_usize).map(|value| table.insert(value % 2, value)).collect();
        assert_eq!(table.remove(handles[2]), Some(2));
        let mut removed: Vec<_> = table.remove_of(0).into_iter().map(|(_, value)| value).collect();
        removed.sort_unstable();
        assert_eq!(removed, [0, 4]);
        assert_eq!((table.remove_of(0), table.get_mut(handles[0])), (Vec::new(), None));
        assert_eq!([1, 3, 5].map(|at| table.remove(handles[at])), [Some(1), Some(3), Some(5)]);
        assert!(table.by_owner.is_empty(), "an owner without values takes no room");
    }
}
