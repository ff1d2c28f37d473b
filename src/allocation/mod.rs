//! The memory of one ArrayBuffer, as an [`Allocation`], and the directory that finds it.
//!
//! Imports `pool` and the rooms below it; it knows no runtime of JavaScript.
//!
//! # Life
//!
//! An allocation is live, then released, then gone (`docs/design/safety.md` §1). *Released*: the memory is back with
//! the device, and the addresses hold zeros ([`Mapping::retire`](crate::sys::mapping::Mapping::retire)). *Gone*: the
//! runtime's finalizer has reported that no ArrayBuffer is left, and the addresses may be used again. Release and
//! finalizer may come in either order, from any thread, and the finalizer may never come. The first `release` wins, the
//! second of the two events cleans up, and a stale handle finds nothing.
//!
//! The directory is process-wide and keyed by the *address* of the bytes: `transfer()` moves the bytes to another
//! ArrayBuffer object, possibly in another thread, and only the address stays the same. Shared memory has several
//! allocations at one address.

pub mod backing;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::SystemTime;

use once_cell::sync::Lazy;

use crate::accounting::{Account, Accounting, Admission, AllocationEvent};
pub use crate::allocation::backing::Backing;
use crate::allocation::backing::{BackingInfo, SharedBacking};
use crate::backend::Object;
use crate::device::memory::Memory;
use crate::device::unretired;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::id::AllocationId;
use crate::pool::{ChunkMemory, Exposed, Pool, Slice};
use crate::profile::Action;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::held_addresses::HeldAddresses;
use crate::units::MemoryKind;

/// The memory behind one ArrayBuffer. See the [module](self).
#[derive(Debug)]
pub struct Allocation {
    /// The id, which the slice under a block has too.
    pub id: AllocationId,
    /// The name in the directory. A block that gets another ArrayBuffer gets another name too.
    pub handle: Handle,
    /// The kind of memory.
    pub kind: MemoryKind,
    /// The requested bytes, which are the length of the ArrayBuffer.
    pub size: u64,
    /// Bytes that the allocation takes, rounding included.
    pub reserved: u64,
    /// Free text for accounting.
    pub tag: Option<Arc<str>>,
    /// The CPU address of the first byte.
    pub address: usize,
    /// The kernel object; `None` for system memory.
    pub object: Option<Object>,
    /// The offset in bytes from the kernel object's start.
    pub offset: u64,
    /// Whether the allocation is the whole of its kernel object.
    pub dedicated: bool,
    /// The pool of a slice. The manager's own slabs have no name.
    pub pool: Option<Arc<str>>,
    /// The time of the allocation.
    pub allocated_at: SystemTime,
    /// The thread that allocated, as numbered by [`this_thread`].
    pub thread: u64,
    account: Account,
    /// Whether events are recorded under this id; a pool records those of its blocks itself.
    recorded: bool,
    /// The list of its named pool's allocations.
    exposed: Option<Arc<Exposed>>,
    /// Set while a caller frees the allocation: some runtimes run the finalizer inside that call.
    freeing: AtomicBool,
    /// Set once it is known that no ArrayBuffer reaches the bytes, whatever the finalizer can tell.
    unreachable: AtomicBool,
    state: Mutex<AllocationState>,
}

#[derive(Debug)]
struct AllocationState {
    /// `None` once released.
    backing: Option<Backing>,
    /// The owner of the addresses, between release and finalizer.
    address_owner: AddressOwner,
    /// The finalizer's report, once it has run.
    finalized: Option<Reachability>,
}

/// The owner of the addresses that an allocation leaves to its finalizer.
#[derive(Debug)]
enum AddressOwner {
    /// The allocation itself; with no addresses before the release and after the end.
    Own(Arc<HeldAddresses>),
    /// A chunk: its pool may free it under an ArrayBuffer that cannot be detached.
    Chunk(Arc<ChunkMemory>),
    /// All holders of shared memory.
    Shared(Arc<SharedBacking>),
}

impl AddressOwner {
    fn quarantine_forever(&self) {
        match self {
            AddressOwner::Own(addresses) => addresses.quarantine_forever(),
            AddressOwner::Chunk(chunk_memory) => chunk_memory.quarantine_forever(),
            AddressOwner::Shared(share) => share.quarantine_forever(),
        }
    }

    /// Ends the allocation's own addresses. Those of others end with them.
    fn end(self) {
        if let AddressOwner::Own(addresses) = self {
            addresses.end();
        }
    }
}

impl Default for AddressOwner {
    fn default() -> Self {
        AddressOwner::Own(Arc::default())
    }
}

/// The report of a finalizer about its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// No ArrayBuffer over them is left in the process.
    Unreachable,
    /// The environment is being torn down. An ArrayBuffer that was moved out of it may live on in another thread
    /// (`docs/design/runtimes.md` §4.1, the teardown hole).
    Unknown,
}

impl Allocation {
    /// Enters `size` bytes of `backing` into the directory and into the accounting that admitted them.
    ///
    /// Errors: `ERR_MANAGER_DISPOSED` if the manager was disposed meanwhile, `ERR_MEMORY_LIMIT` if the driver's surplus
    /// exceeds the limit. Either drops `backing`.
    pub fn enter(admission: Admission, backing: Backing, size: u64) -> Result<Arc<Self>> {
        let tag = admission.account().tag.clone();
        Self::register(admission, backing, size, tag, true)
    }

    /// Like [`enter`](Self::enter), for a block of a pool: the pool counts its tag and records its events.
    ///
    /// Errors: those of [`enter`](Self::enter).
    pub fn enter_block(admission: Admission, backing: Backing, size: u64, tag: Option<Arc<str>>) -> Result<Arc<Self>> {
        Self::register(admission, backing, size, tag, false)
    }

    fn register(
        mut admission: Admission,
        backing: Backing,
        size: u64,
        tag: Option<Arc<str>>,
        recorded: bool,
    ) -> Result<Arc<Self>> {
        let Some((memory, offset)) = backing.memory() else { return Err(disposed()) };
        let BackingInfo { reserved, pool, dedicated } = backing.info();
        let id = backing.slice_id().unwrap_or_else(AllocationId::next);
        if let Err(error) = admission.cover(reserved) {
            match &backing {
                Backing::Dedicated(_) => {}
                Backing::Suballocated { pool, slice, .. } => pool.free(slice.chunk, slice.region)?,
                Backing::Shared(share) => share.release().map_err(|error| retire_failed(&error, reserved))?,
            }
            return Err(error);
        }
        let account = admission.account().clone();
        let exposed = backing.place().and_then(|(pool, ..)| pool.exposed().cloned());
        let make = |handle| {
            Arc::new(Self {
                id,
                handle,
                kind: memory.kind(),
                size,
                reserved,
                tag,
                address: memory.mapping().address() as usize + offset as usize,
                object: memory.object().cloned(),
                offset,
                dedicated,
                pool,
                allocated_at: SystemTime::now(),
                thread: this_thread(),
                account,
                recorded,
                exposed,
                freeing: AtomicBool::new(false),
                unreachable: AtomicBool::new(false),
                state: Mutex::new(AllocationState {
                    backing: Some(backing),
                    address_owner: AddressOwner::default(),
                    finalized: None,
                }),
            })
        };
        let allocation = directory().insert(make);
        allocation.exposed.iter().for_each(|exposed| exposed.add(allocation.handle));
        if !admission.allocated(allocation.handle, reserved, allocation.event()) {
            // No runtime got this allocation.
            allocation.finalize(Reachability::Unreachable);
            return Err(disposed());
        }
        Ok(allocation)
    }

    /// Finds the live allocations whose first byte is at `address`; shared memory has several.
    pub fn at(address: usize) -> impl Iterator<Item = Arc<Self>> {
        let directory = directory();
        let first = directory.by_address.get(&address).copied();
        let others = directory.others.get(&address).cloned().unwrap_or_default();
        let found = |id: Handle| directory.table.get(id).cloned();
        let first = first.and_then(found);
        let others: Vec<_> = others.into_iter().filter_map(found).collect();
        first.into_iter().chain(others)
    }

    /// Finds an allocation, live or released, until its finalizer has run.
    pub fn by_handle(handle: Handle) -> Option<Arc<Self>> {
        #[cfg(test)]
        visits::add(1);
        directory().table.get(handle).cloned()
    }

    /// Finds those of the allocations that are not gone.
    pub fn by_handles(handles: &[Handle]) -> Vec<Arc<Self>> {
        #[cfg(test)]
        visits::add(handles.len());
        let directory = directory();
        handles.iter().filter_map(|handle| directory.table.get(*handle).cloned()).collect()
    }

    /// Reports whether `accounting` counts this allocation.
    pub fn belongs_to(&self, accounting: &Arc<Accounting>) -> bool {
        Arc::ptr_eq(&self.account.accounting, accounting)
    }

    /// Reports whether this is a live slice of `pool`.
    pub fn is_of(&self, pool: &Arc<Pool>) -> bool {
        let backing = self.state().backing.clone();
        backing.and_then(|backing| backing.place()).is_some_and(|(of, _, _)| Arc::ptr_eq(&of, pool))
    }

    /// The pool and the place in it, for a live slice.
    pub fn place(&self) -> Option<(Arc<Pool>, Slice)> {
        let backing = self.state().backing.clone();
        backing.and_then(|backing| backing.place()).map(|(pool, slice, _)| (pool, slice))
    }

    /// Reports whether the slice under the allocation is pinned; and if so, whether its block was collected.
    pub fn pin(&self) -> Option<bool> {
        self.place().and_then(|(pool, slice)| pool.pin_of(&slice))
    }

    /// The chunk's memory, for a live slice.
    pub fn chunk_memory(&self) -> Option<Arc<ChunkMemory>> {
        let backing = self.state().backing.clone();
        backing.and_then(|backing| backing.place()).map(|(_, _, chunk_memory)| chunk_memory)
    }

    /// Shares the memory with further holders.
    ///
    /// Errors: `ERR_BUFFER_FREED`, and those of [`Backing::share`].
    pub fn share(&self) -> Result<Arc<SharedBacking>> {
        let mut state = self.state();
        let backing = state.backing.as_ref().ok_or_else(freed)?;
        let share = backing.share(self.size, self.tag.clone())?;
        state.backing = Some(Backing::Shared(Arc::clone(&share)));
        Ok(share)
    }

    /// Reports whether the memory may have further holders.
    pub fn is_shared(&self) -> bool {
        matches!(self.state().backing, Some(Backing::Shared(_)))
    }

    /// Reports whether the memory has other holders now.
    pub fn has_other_holders(&self) -> bool {
        matches!(&self.state().backing, Some(Backing::Shared(share)) if share.has_several_holders())
    }

    /// The memory and the offset in it. The `Arc` keeps the kernel object alive, but not the addresses.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn memory(&self) -> Result<(Arc<Memory>, u64)> {
        let memory = self.state().backing.as_ref().and_then(Backing::memory);
        memory.ok_or_else(freed)
    }

    /// Marks the allocation as being freed, or undoes the mark after a failure.
    pub fn set_freeing(&self, freeing: bool) {
        self.freeing.store(freeing, Ordering::Relaxed);
    }

    /// Records that no ArrayBuffer reaches the bytes any more: the only one was seen detached, or with its bytes when
    /// its environment had run its last script.
    pub fn set_unreachable(&self) {
        self.unreachable.store(true, Ordering::Relaxed);
    }

    /// Checks that the caller may free the allocation.
    ///
    /// Errors: `ERR_BUFFER_BUSY` while the slice under it is pinned, or in a move.
    pub fn check_freeable(&self) -> Result<()> {
        // Copies no references: each free of an ArrayBuffer comes by here. Lock order: allocation, then pool.
        if let Some(Backing::Suballocated { pool, slice, .. }) = &self.state().backing {
            return pool.check_unpinned(slice);
        }
        // An adopter of a pinned slice only ends its own hold. The block's own manager does not record its events here.
        match self.place() {
            Some((pool, slice)) if !self.recorded => pool.check_unpinned(&slice),
            _ => Ok(()),
        }
    }

    /// Reports whether the memory is still there.
    pub fn is_live(&self) -> bool {
        self.state().backing.is_some()
    }

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

    fn event(&self) -> Option<AllocationEvent<'_>> {
        let (tag, pool) = (self.tag.as_ref(), self.pool.as_ref());
        self.recorded.then_some(AllocationEvent { id: self.id, size: self.size, kind: self.kind, tag, pool })
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

    fn state(&self) -> MutexGuard<'_, AllocationState> {
        self.state.lock()
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

/// Numbers the calling thread. Unlike the kernel's ids, a number is never reused and needs no system call.
pub fn this_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static MINE: u64 = NEXT.fetch_add(1, Ordering::Relaxed);
    }
    MINE.with(|mine| *mine)
}

fn disposed() -> Error {
    Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed")
}

fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "this buffer was freed")
}

fn retire_failed(error: &std::io::Error, bytes: u64) -> Error {
    Error::new(ErrorCode::TooManyMaps, format!("the memory cannot be freed: {error}"))
        .syscall("mmap", error.raw_os_error().unwrap_or(0))
        .requested(bytes)
        .hint("raise vm.max_map_count (sysctl); the buffer's memory goes when it is collected")
}

/// All allocations of this process.
#[derive(Default)]
struct Directory {
    table: Table<Arc<Allocation>>,
    by_address: HashMap<usize, Handle>,
    /// The further allocations at an address of shared memory.
    others: HashMap<usize, Vec<Handle>>,
}

impl Directory {
    fn insert(&mut self, make: impl FnOnce(Handle) -> Arc<Allocation>) -> Arc<Allocation> {
        let (handle, allocation) = self.table.insert_with(make);
        let allocation = Arc::clone(allocation);
        self.remember_address(allocation.address, handle);
        allocation
    }

    fn remember_address(&mut self, address: usize, handle: Handle) {
        if let Some(shares_with) = self.by_address.insert(address, handle) {
            self.others.entry(address).or_default().push(shares_with);
        }
    }

    fn forget_address(&mut self, allocation: &Allocation) {
        let (address, handle) = (&allocation.address, allocation.handle);
        let is_first = self.by_address.get(address) == Some(&handle);
        if self.others.is_empty() {
            if is_first {
                self.by_address.remove(address);
            }
            return;
        }
        let next = self.others.get_mut(address).and_then(|others| {
            others.retain(|other| *other != handle);
            if is_first {
                others.pop()
            } else {
                None
            }
        });
        if self.others.get(address).is_some_and(Vec::is_empty) {
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
fn directory() -> MutexGuard<'static, Directory> {
    static DIRECTORY: Lazy<Mutex<Directory>> = Lazy::new(Mutex::default);
    DIRECTORY.lock()
}

/// The look-ups of allocations by handle, for tests that count work.
#[cfg(test)]
pub(crate) mod visits {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(count: usize) {
        VISITS.set(VISITS.get() + count);
    }

    /// Returns the look-ups that this thread has made in `work`.
    pub(crate) fn of(work: impl FnOnce()) -> usize {
        let before = VISITS.get();
        work();
        VISITS.get() - before
    }
}
