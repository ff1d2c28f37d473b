//! The end of an allocation: release, finalizer, and the detachment from a slice that lives on.

use std::sync::atomic::Ordering;
use std::sync::Arc;

use super::address_owner::{AddressOwner, Reachability};
use super::backing::Backing;
use super::directory::directory;
use super::{Allocation, AllocationState};
use crate::device::unretired;
use crate::error::{Error, ErrorCode, Result};
use crate::profile::Action;
use crate::sys::held_addresses::HeldAddresses;

impl Allocation {
    /// Frees the memory; returns `false` if it was freed before. Memory of its own leaves zeros at its addresses. A
    /// pool reuses a slice's addresses at once, so the caller has made sure that no ArrayBuffer reaches them.
    ///
    /// Errors: `ERR_TOO_MANY_MAPS` if the kernel has no mapping left for the zeros; the allocation is then unchanged.
    pub fn release(&self) -> Result<bool> {
        self.end(Reachability::Unreachable, Action::Free, false)
    }

    /// Ends the allocation when the runtime's finalizer has run or never will.
    pub fn finalize(&self, reach: Reachability) {
        let reach = if self.unreachable.load(Ordering::Relaxed) { Reachability::Unreachable } else { reach };
        let how = if self.freeing.load(Ordering::Relaxed) { Action::Free } else { Action::Collect };
        // Cannot fail: memory that the kernel cannot retire now is kept, because no other event would try again.
        let _ = self.end(reach, how, true);
        self.transition(|state| state.finalized = Some(reach));
    }

    /// Ends the memory. With `or_keep`, memory that the kernel cannot retire now is lost for now ([`unretired`]).
    fn end(&self, reach: Reachability, how: Action, or_keep: bool) -> Result<bool> {
        let Some(backing) = self.state().backing.take() else { return Ok(false) };
        // Removes the record before the memory is freed: another thread may get the same addresses.
        directory().forget_address(self);
        let own: Arc<HeldAddresses> = Arc::default();
        let taken = match &backing {
            Backing::Dedicated(memory) if or_keep => {
                unretired::retire_or_keep(Arc::clone(memory), &own);
                Ok(())
            }
            Backing::Dedicated(memory) => own.retire(memory.mapping()),
            Backing::Suballocated { pool, slice, chunk_memory } => {
                match reach {
                    // A pool that was reset or destroyed has freed the slice already. A pinned slice stays.
                    Reachability::Unreachable => drop(pool.free_unseen(slice.chunk, slice.region, how)),
                    // The slice's place is never used again, and neither are its addresses when the chunk goes.
                    Reachability::Unknown => chunk_memory.lose_slice(slice.padded),
                }
                Ok(())
            }
            Backing::Shared(share) => {
                if reach == Reachability::Unknown {
                    share.quarantine_forever();
                }
                match or_keep {
                    true => {
                        share.release_or_keep();
                        Ok(())
                    }
                    false => share.release(),
                }
            }
        };
        if let Err(error) = taken {
            self.state().backing = Some(backing);
            directory().remember_address(self.address, self.handle);
            return Err(retire_failed(&error, self.reserved));
        }
        let address_owner = match backing {
            Backing::Dedicated(_) => AddressOwner::Own(own),
            Backing::Suballocated { chunk_memory, .. } => AddressOwner::Chunk(chunk_memory),
            Backing::Shared(share) => AddressOwner::Shared(share),
        };
        self.forget(how);
        self.transition(|state| state.address_owner = address_owner);
        unretired::retry_one();
        Ok(true)
    }

    /// Removes the allocation from the accounting, and from the list of its pool.
    fn forget(&self, how: Action) {
        self.exposed.iter().for_each(|exposed| exposed.remove(self.handle));
        self.account.freed(self.handle, self.reserved, self.event().map(|event| (how, event)));
    }

    /// Detaches the allocation from its slice, so that ending the allocation does not free the slice, which is about to
    /// have another owner. Returns `None` for an ended allocation and for memory of its own.
    pub fn detach_from_slice(&self) -> Option<Detached<'_>> {
        let mut state = self.state();
        match state.backing {
            Some(Backing::Suballocated { .. }) => Some(Detached { allocation: self, backing: state.backing.take() }),
            _ => None,
        }
    }

    /// Undoes [`enter`](Self::enter) after the runtime failed to make the ArrayBuffer. Even if it has made one, no
    /// script has it, so the place is free. A block that had the memory before has it again.
    pub fn abandon(&self) {
        if !self.recorded {
            self.detach_from_slice().into_iter().for_each(Detached::ended);
        }
        self.finalize(Reachability::Unreachable);
    }

    /// Changes the state. The second of release and finalizer decides about the addresses.
    fn transition(&self, change: impl FnOnce(&mut AllocationState)) {
        let (reach, address_owner) = {
            let mut state = self.state();
            change(&mut state);
            match state.finalized {
                Some(reach) => (reach, std::mem::take(&mut state.address_owner)),
                None => return,
            }
        };
        directory().table.remove(self.handle);
        if reach == Reachability::Unknown {
            address_owner.quarantine_forever();
        }
        address_owner.end();
    }
}

/// An allocation without its slice ([`Allocation::detach_from_slice`]). Dropping this attaches the slice again.
#[derive(Debug)]
#[must_use]
pub struct Detached<'a> {
    allocation: &'a Allocation,
    backing: Option<Backing>,
}

impl Detached<'_> {
    /// Ends the allocation, whose ArrayBuffer was detached. The slice lives on without it.
    pub fn ended(mut self) {
        let Some(Backing::Suballocated { chunk_memory, .. }) = self.backing.take() else { return };
        directory().forget_address(self.allocation);
        self.allocation.forget(Action::Free);
        self.allocation.set_unreachable();
        self.allocation.transition(|state| state.address_owner = AddressOwner::Chunk(chunk_memory));
    }
}

impl Drop for Detached<'_> {
    fn drop(&mut self) {
        let Some(backing) = self.backing.take() else { return };
        let finalized = {
            let mut state = self.allocation.state();
            state.backing = Some(backing);
            state.finalized
        };
        // The finalizer came while the slice was away, and found nothing to free.
        if let Some(reach) = finalized {
            self.allocation.finalize(reach);
        }
    }
}

pub(super) fn retire_failed(error: &std::io::Error, bytes: u64) -> Error {
    Error::new(ErrorCode::TooManyMaps, format!("the memory cannot be freed: {error}"))
        .syscall("mmap", error.raw_os_error().unwrap_or(0))
        .requested(bytes)
        .hint("raise vm.max_map_count (sysctl); the buffer's memory goes when it is collected")
}
