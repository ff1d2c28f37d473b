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

mod address_owner;
pub mod backing;
mod directory;
mod end;
mod enter;
pub(crate) mod visits;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::SystemTime;

use crate::accounting::{Account, Accounting, AllocationEvent};
use crate::backend::Object;
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::pool::{ChunkMemory, Exposed, Pool, Slice};
use crate::sync::{Mutex, MutexGuard};
use crate::units::MemoryKind;
use address_owner::AddressOwner;
pub use address_owner::Reachability;
pub use backing::Backing;
use backing::SharedBacking;
pub use end::Detached;

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

impl Allocation {
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

    fn event(&self) -> Option<AllocationEvent<'_>> {
        let (tag, pool) = (self.tag.as_ref(), self.pool.as_ref());
        self.recorded.then_some(AllocationEvent { id: self.id, size: self.size, kind: self.kind, tag, pool })
    }

    fn state(&self) -> MutexGuard<'_, AllocationState> {
        self.state.lock()
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

fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "this buffer was freed")
}
