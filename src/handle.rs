//! Handles, which cross the border to JavaScript in place of pointers.
//!
//! A [`Handle`] is an integer below 2^53, so a JavaScript number holds it exactly. The slot's index is in the low 32
//! bits, the slot's generation in the 21 above. A slot's generation grows each time the slot is emptied, so a handle
//! that outlived its value finds nothing. A slot whose generations are used up is retired. Zero is not a handle.
//!
//! ```
//! use rkllmjs_memory::handle::{Handle, Table};
//!
//! let mut table = Table::new();
//! let handle = table.insert("weights");
//! assert_eq!(table.get(handle), Some(&"weights"));
//! table.remove(handle);
//! table.insert("cache");
//! assert_eq!(table.get(handle), None, "a stale handle finds nothing, although the slot is in use again");
//! assert_eq!(table.get(Handle::from_raw(0)), None);
//! ```

const INDEX_BITS: u32 = 32;
const MAX_GENERATION: u32 = (1 << 21) - 1;

/// Names one value in one [`Table`] until the value is removed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Handle(u64);

impl Handle {
    fn new(index: u32, generation: u32) -> Self {
        Self(u64::from(generation) << INDEX_BITS | u64::from(index))
    }

    /// Returns the handle as an integer below 2^53.
    pub fn get(self) -> u64 {
        self.0
    }

    /// Makes a handle from the integer that [`get`](Self::get) returned. Any integer is safe: one that names no value
    /// finds nothing.
    pub fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    fn index(self) -> usize {
        (self.0 & u64::from(u32::MAX)) as usize
    }

    fn generation(self) -> u64 {
        self.0 >> INDEX_BITS
    }
}

#[derive(Debug)]
struct TableSlot<T> {
    /// The generation of the present or the next value. Starts at 1, so that 0 is never a handle.
    generation: u32,
    value: Option<T>,
}

/// Values by generation-checked [`Handle`]. Insert, look up and remove are O(1).
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<TableSlot<T>>,
    vacant: Vec<u32>,
    live: usize,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Table<T> {
    /// Makes an empty table.
    pub const fn new() -> Self {
        Self { slots: Vec::new(), vacant: Vec::new(), live: 0 }
    }

    /// Inserts `value` and returns its handle.
    pub fn insert(&mut self, value: T) -> Handle {
        self.insert_with(|_| value).0
    }

    /// Inserts a value that is made from its own handle.
    pub fn insert_with(&mut self, make: impl FnOnce(Handle) -> T) -> (Handle, &T) {
        self.live += 1;
        // 2^32 slots of at least 16 bytes are 64 GiB of table: memory ends before the index does.
        let index = self.vacant.pop().unwrap_or(self.slots.len() as u32);
        if index as usize == self.slots.len() {
            self.slots.push(TableSlot { generation: 1, value: None });
        }
        let slot = &mut self.slots[index as usize];
        let handle = Handle::new(index, slot.generation);
        (handle, slot.value.insert(make(handle)))
    }

    /// Returns the value that `handle` names, or `None` if the handle is stale.
    pub fn get(&self, handle: Handle) -> Option<&T> {
        let slot = self.slots.get(handle.index())?;
        (u64::from(slot.generation) == handle.generation()).then_some(slot.value.as_ref()).flatten()
    }

    /// Returns the value that `handle` names, mutably.
    pub fn get_mut(&mut self, handle: Handle) -> Option<&mut T> {
        let slot = self.slots.get_mut(handle.index())?;
        (u64::from(slot.generation) == handle.generation()).then_some(slot.value.as_mut()).flatten()
    }

    /// Removes and returns the value. `handle` is stale afterwards.
    pub fn remove(&mut self, handle: Handle) -> Option<T> {
        let slot = self.slots.get_mut(handle.index())?;
        if u64::from(slot.generation) != handle.generation() {
            return None;
        }
        let value = slot.value.take()?;
        self.live -= 1;
        if slot.generation < MAX_GENERATION {
            slot.generation += 1;
            self.vacant.push(handle.index() as u32);
        } else {
            slot.generation = 0; // retired: no handle has generation 0
        }
        Some(value)
    }

    /// Returns the number of values.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Returns whether the table has no values.
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Iterates over all values with their handles, in slot order, mutably.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Handle, &mut T)> {
        self.slots.iter_mut().enumerate().filter_map(|(index, slot)| {
            let generation = slot.generation;
            slot.value.as_mut().map(|value| (Handle::new(index as u32, generation), value))
        })
    }

    /// Iterates over all values with their handles, in slot order.
    pub fn iter(&self) -> impl Iterator<Item = (Handle, &T)> {
        self.iter_from(0, usize::MAX)
    }

    /// Iterates over the values of `most` slots from slot `from` on. Steps over all slots find each value that lives
    /// throughout once, whatever is inserted and removed between two steps.
    pub fn iter_from(&self, from: usize, most: usize) -> impl Iterator<Item = (Handle, &T)> {
        self.slots.iter().enumerate().skip(from).take(most).filter_map(|(index, slot)| {
            slot.value.as_ref().map(|value| (Handle::new(index as u32, slot.generation), value))
        })
    }

    /// Returns the number of slots, vacant ones included.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_handle_finds_nothing() {
        let mut table = Table::new();
        let first = table.insert("a");
        assert_eq!(table.remove(first), Some("a"));
        let second = table.insert("b");
        assert_eq!(first.index(), second.index());
        assert_eq!(table.get(first), None);
        assert_eq!(table.remove(first), None);
        assert_eq!(table.get(second), Some(&"b"));
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn steps_find_each_value_that_lives_throughout() {
        let mut table = Table::new();
        let handles: Vec<_> = (0..10).map(|value| table.insert(value)).collect();
        let mut found = Vec::new();
        for from in (0..).step_by(3).take_while(|from| *from < 12) {
            found.extend(table.iter_from(from, 3).map(|(_, value)| *value));
            table.remove(handles[from / 3]);
            table.insert(100 + from);
        }
        found.retain(|value| (4..10).contains(value));
        assert_eq!((found, table.slots()), ((4..10).collect(), 10));
    }

    #[test]
    fn any_integer_is_a_safe_handle() {
        let mut table = Table::new();
        table.insert(1);
        for raw in [0, 1, u64::from(u32::MAX), 1 << 52, u64::MAX] {
            assert_eq!(table.get(Handle::from_raw(raw)), None, "{raw}");
            assert_eq!(table.remove(Handle::from_raw(raw)), None, "{raw}");
        }
    }

    #[test]
    fn a_slot_retires_when_its_generations_are_used_up() {
        let mut table = Table::new();
        let mut last = table.insert(());
        for _ in 0..MAX_GENERATION {
            assert!(last.get() < 1 << 53);
            table.remove(last);
            last = table.insert(());
        }
        assert_eq!(last.index(), 1, "slot 0 is retired");
        assert_eq!(table.iter().count(), 1);
    }
}
