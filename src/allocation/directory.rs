//! The directory: finds the allocations of this process by address and by handle.

use std::collections::hash_map::Entry;
use std::collections::BTreeSet;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::{visits, Allocation};
use crate::handle::{Handle, Table};
use crate::hash::NumberMap;
use crate::id::AllocationId;
use crate::sync::{Mutex, MutexGuard};

/// All allocations of this process.
#[derive(Default)]
pub(super) struct Directory {
    pub(super) table: Table<Arc<Allocation>>,
    by_address: NumberMap<usize, Handle>,
    /// The further allocations at an address of shared memory, oldest first.
    others: NumberMap<usize, BTreeSet<(AllocationId, Handle)>>,
}

impl Directory {
    pub(super) fn insert(&mut self, make: impl FnOnce(Handle) -> Arc<Allocation>) -> Arc<Allocation> {
        let (handle, allocation) = self.table.insert_with(make);
        let allocation = Arc::clone(allocation);
        self.remember_address(allocation.address, handle);
        allocation
    }

    pub(super) fn remember_address(&mut self, address: usize, handle: Handle) {
        let before = self.by_address.insert(address, handle).filter(|before| *before != handle);
        if let Some(shares_with) = before.and_then(|before| Some((self.table.get(before)?.id, before))) {
            self.others.entry(address).or_default().insert(shares_with);
        }
    }

    pub(super) fn forget_address(&mut self, allocation: &Allocation) {
        let (address, handle) = (&allocation.address, allocation.handle);
        if self.others.is_empty() {
            if let Entry::Occupied(first) = self.by_address.entry(*address) {
                if *first.get() == handle {
                    first.remove();
                }
            }
            return;
        }
        let is_first = self.by_address.get(address) == Some(&handle);
        let next = self.others.get_mut(address).and_then(|others| match is_first {
            true => others.pop_last().map(|(_, next)| next),
            false => {
                others.remove(&(allocation.id, handle));
                None
            }
        });
        if self.others.get(address).is_some_and(BTreeSet::is_empty) {
            self.others.remove(address);
        }
        match next {
            Some(next) => drop(self.by_address.insert(*address, next)),
            None if is_first => drop(self.by_address.remove(address)),
            None => {}
        }
    }
}

/// No code holds this lock across a call into a runtime or a driver, so a finalizer may run on any thread.
pub(super) fn directory() -> MutexGuard<'static, Directory> {
    static DIRECTORY: Lazy<Mutex<Directory>> = Lazy::new(Mutex::default);
    DIRECTORY.lock()
}

impl Allocation {
    /// Finds the live allocations whose first byte is at `address`; shared memory has several.
    pub fn at(address: usize) -> impl Iterator<Item = Arc<Self>> {
        let directory = directory();
        let first = directory.by_address.get(&address).copied();
        let others = directory.others.get(&address).cloned().unwrap_or_default();
        let found = |id: Handle| directory.table.get(id).cloned();
        let first = first.and_then(found);
        let others: Vec<_> = others.into_iter().rev().filter_map(|(_, other)| found(other)).collect();
        first.into_iter().chain(others)
    }

    /// Finds an allocation, live or released, until its finalizer has run.
    pub fn by_handle(handle: Handle) -> Option<Arc<Self>> {
        visits::add(1);
        directory().table.get(handle).cloned()
    }

    /// Finds those of the allocations that are not gone.
    pub fn by_handles(handles: &[Handle]) -> Vec<Arc<Self>> {
        visits::add(handles.len());
        let directory = directory();
        handles.iter().filter_map(|handle| directory.table.get(*handle).cloned()).collect()
    }
}
