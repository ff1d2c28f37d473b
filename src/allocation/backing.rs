//! The memory of an allocation: a whole kernel object or mapping, a slice of a pool's, or either of them shared.
//!
//! # Sharing
//!
//! Each holder has an ArrayBuffer of its own over the same addresses, possibly in another thread, and an
//! [`Allocation`](crate::allocation::Allocation) of its own with its manager's accounting. A [`SharedBacking`] counts
//! holders and viewers:
//!
//! - *Holders* have not released the memory yet. When the last one does, the memory returns to its owner and its
//!   addresses read zeros.
//! - *Viewers* are allocations whose finalizer has not run. When the last one is gone, the [`SharedBacking`] is
//!   dropped, and the addresses may be used again.
//!
//! A pool reuses a slice's place without zeros in between. A caller's ArrayBuffer cannot always be told from others
//! over the same address. So for an adopted slice only finalizers prove that no ArrayBuffer reaches it: its place waits
//! for the last of them.
#![forbid(unsafe_code)]

use std::io;
use std::sync::{Arc, Weak};

use once_cell::sync::Lazy;

use crate::device::memory::Memory;
use crate::device::unretired;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::id::AllocationId;
use crate::pool::{ChunkMemory, Pool, Slice};
use crate::profile::Action;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::held_addresses::HeldAddresses;

/// The memory of an allocation. See the [module](self).
#[derive(Clone, Debug)]
pub enum Backing {
    /// Memory of its own.
    Dedicated(Arc<Memory>),
    /// A slice of a pool's memory.
    Suballocated {
        /// The pool that owns the slice.
        pool: Arc<Pool>,
        /// The place in the pool.
        slice: Slice,
        /// The chunk's memory and addresses.
        chunk_memory: Arc<ChunkMemory>,
    },
    /// Either of them with several holders.
    Shared(Arc<SharedBacking>),
}

/// The properties of a backing that never change.
#[derive(Clone, Debug)]
pub struct BackingInfo {
    /// Bytes that the backing takes, rounding included.
    pub reserved: u64,
    /// The pool of a slice. The manager's own slabs have no name.
    pub pool: Option<Arc<str>>,
    /// Whether the allocation is the whole of its memory.
    pub dedicated: bool,
}

impl Backing {
    /// The memory and the offset in it. Returns `None` after a release, or once a reset or destroy of the pool took the
    /// memory away.
    pub fn memory(&self) -> Option<(Arc<Memory>, u64)> {
        match self {
            Backing::Dedicated(memory) => Some((Arc::clone(memory), memory.start())),
            Backing::Suballocated { slice, chunk_memory, .. } => {
                chunk_memory.memory().map(|memory| (memory, slice.offset))
            }
            Backing::Shared(share) => share.state().backing.as_ref().and_then(Backing::memory),
        }
    }

    /// Bytes that the backing takes, rounding included.
    pub fn reserved(&self) -> u64 {
        match self {
            Backing::Dedicated(memory) => memory.reserved(),
            Backing::Suballocated { slice, .. } => slice.padded,
            Backing::Shared(share) => share.info.reserved,
        }
    }

    /// The properties that never change.
    pub fn info(&self) -> BackingInfo {
        let reserved = self.reserved();
        match self {
            Backing::Dedicated(memory) => BackingInfo { reserved, pool: None, dedicated: memory.is_whole() },
            Backing::Suballocated { pool, .. } => {
                BackingInfo { reserved, pool: pool.public_name().cloned(), dedicated: false }
            }
            Backing::Shared(share) => share.info.clone(),
        }
    }

    /// The id of the slice; `None` for memory of its own, and for a further holder of shared memory, which is an
    /// allocation of its own.
    pub fn slice_id(&self) -> Option<AllocationId> {
        match self {
            Backing::Suballocated { slice, .. } => Some(slice.id),
            Backing::Dedicated(_) | Backing::Shared(_) => None,
        }
    }

    /// The pool, the place in it, and the chunk; `None` unless the backing is a slice.
    pub fn place(&self) -> Option<(Arc<Pool>, Slice, Arc<ChunkMemory>)> {
        match self {
            Backing::Dedicated(_) => None,
            Backing::Suballocated { pool, slice, chunk_memory } => {
                Some((Arc::clone(pool), *slice, Arc::clone(chunk_memory)))
            }
            Backing::Shared(share) => share.state().backing.as_ref().and_then(Backing::place),
        }
    }

    /// Shares the same memory between several holders, of which the caller is the first.
    ///
    /// Errors: `ERR_UNSUPPORTED` for a slice that compaction may move.
    pub fn share(&self, size: u64, tag: Option<Arc<str>>) -> Result<Arc<SharedBacking>> {
        match self {
            Backing::Shared(share) => return Ok(Arc::clone(share)),
            Backing::Suballocated { pool, slice, .. } if pool.is_movable(slice) => {
                let message = "a movable block cannot be shared: compaction gives it other addresses";
                return Err(Error::new(ErrorCode::Unsupported, message).hint("allocate it without `movable`"));
            }
            _ => {}
        }
        // Reserves the id first, because the shared backing contains it.
        let id = shares().insert(Weak::new());
        let state = SharedState { backing: Some(self.clone()), holders: 1, adopted: false };
        let share = Arc::new(SharedBacking {
            id,
            size,
            tag,
            info: self.info(),
            addresses: Arc::default(),
            state: Mutex::new(state),
        });
        if let Some(place) = shares().get_mut(id) {
            *place = Arc::downgrade(&share);
        }
        Ok(share)
    }
}

/// Memory with several holders. See the [module](self).
#[derive(Debug)]
pub struct SharedBacking {
    id: Handle,
    /// The requested bytes.
    pub size: u64,
    /// Free text for accounting, from the first holder.
    pub tag: Option<Arc<str>>,
    info: BackingInfo,
    addresses: Arc<HeldAddresses>,
    state: Mutex<SharedState>,
}

#[derive(Debug)]
struct SharedState {
    /// `None` once the last holder has released it.
    backing: Option<Backing>,
    holders: usize,
    /// Whether there ever was a second holder.
    adopted: bool,
}

/// Every shared backing of this process that has a viewer.
static SHARES: Lazy<Mutex<Table<Weak<SharedBacking>>>> = Lazy::new(Mutex::default);

fn shares() -> MutexGuard<'static, Table<Weak<SharedBacking>>> {
    SHARES.lock()
}

impl SharedBacking {
    /// Names the shared backing within this process, for [`find`](Self::find).
    pub fn token(&self) -> String {
        format!("{}:{:x}", process(), self.id.get())
    }

    /// Finds the shared backing that `token` names.
    ///
    /// Errors: `ERR_BUFFER_FREED` once its last holder has released it, `ERR_UNKNOWN_BUFFER` for a string that is no
    /// token of this process.
    pub fn find(token: &str) -> Result<Arc<Self>> {
        let id = token.split_once(':').filter(|(of, _)| *of == process());
        let id = id.and_then(|(_, id)| u64::from_str_radix(id, 16).ok()).ok_or_else(|| {
            Error::new(ErrorCode::UnknownBuffer, "this is no token of a buffer that this process shares")
                .hint("share() and adopt() are for threads of one process; others take a dma-buf: exportDmaBuf")
        })?;
        // Upgraded outside the look-up: if this is the last reference, its drop takes the same lock.
        let found = shares().get(Handle::from_raw(id)).and_then(Weak::upgrade);
        found.ok_or_else(freed)
    }

    /// Adds a holder; pair with [`release`](Self::release).
    ///
    /// Errors: `ERR_BUFFER_FREED` once the last holder has released the memory, or the pool took it away.
    pub fn retain(&self) -> Result<()> {
        let mut state = self.state();
        let Some(backing) = state.backing.as_ref().filter(|_| state.holders > 0) else { return Err(freed()) };
        if let (Backing::Suballocated { pool, slice, chunk_memory }, false) = (backing, state.adopted) {
            // In this order: a concurrent reset either sees the hold, or this call sees the reset.
            if !chunk_memory.retain() {
                return Err(freed());
            }
            if let Err(error) = pool.slice(slice.chunk, slice.region) {
                chunk_memory.release();
                return Err(error);
            }
        }
        state.holders += 1;
        state.adopted = true;
        Ok(())
    }

    /// Removes a holder. The last one frees the memory.
    ///
    /// Errors: those of [`Mapping::retire`](crate::sys::mapping::Mapping::retire); the caller then still holds the
    /// memory.
    pub fn release(&self) -> io::Result<()> {
        let Some(memory) = self.remove_holder() else { return Ok(()) };
        self.addresses.retire(memory.mapping()).inspect_err(|_| {
            let mut state = self.state();
            (state.holders, state.backing) = (1, Some(Backing::Dedicated(Arc::clone(&memory))));
        })
    }

    /// Like [`release`](Self::release); memory that the kernel cannot retire now is lost for now ([`unretired`]).
    pub fn release_or_keep(&self) {
        if let Some(memory) = self.remove_holder() {
            unretired::retire_or_keep(memory, &self.addresses);
        }
    }

    /// Removes a holder. Frees a slice without one, and returns memory of its own without one.
    fn remove_holder(&self) -> Option<Arc<Memory>> {
        let backing = {
            let mut state = self.state();
            state.holders = state.holders.saturating_sub(1);
            match (state.holders, &state.backing) {
                (0, Some(Backing::Suballocated { .. })) if state.adopted => None,
                (0, _) => state.backing.take(),
                _ => None,
            }
        };
        let Some(Backing::Dedicated(memory)) = backing else {
            // A slice that was never adopted has no ArrayBuffer left.
            backing.into_iter().for_each(|backing| self.free_slice(backing));
            return None;
        };
        Some(memory)
    }

    /// Reports whether there are several holders now.
    pub fn has_several_holders(&self) -> bool {
        self.state().holders > 1
    }

    /// Keeps the addresses out of use until the process ends, because an ArrayBuffer may reach them.
    pub fn quarantine_forever(&self) {
        self.addresses.quarantine_forever();
    }

    /// Frees a slice's place, or keeps it out of use for good.
    fn free_slice(&self, backing: Backing) {
        let Backing::Suballocated { pool, slice, chunk_memory } = backing else { return };
        match self.addresses.are_quarantined() {
            true => chunk_memory.lose_slice(slice.padded),
            // A pool that was reset or destroyed has freed the slice already. A pinned slice stays.
            false => drop(pool.free_unseen(slice.chunk, slice.region, Action::Free)),
        }
    }

    fn state(&self) -> MutexGuard<'_, SharedState> {
        self.state.lock()
    }
}

impl Drop for SharedBacking {
    fn drop(&mut self) {
        shares().remove(self.id);
        let (backing, adopted) = {
            let mut state = self.state();
            (state.backing.take(), state.adopted)
        };
        if let Some(backing) = backing {
            let chunk_memory = backing.place().map(|(_, _, chunk_memory)| chunk_memory);
            self.free_slice(backing);
            chunk_memory.filter(|_| adopted).into_iter().for_each(|chunk_memory| chunk_memory.release());
        }
        self.addresses.end();
    }
}

fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "the last holder of this buffer has released it")
        .hint("keep the buffer until the other thread has adopted it")
}

/// A name that distinguishes tokens of this process from those of others.
fn process() -> &'static str {
    static NAME: Lazy<String> = Lazy::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("rkllm-{}-{:x}", std::process::id(), since.as_nanos())
    });
    &NAME
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::simulated::{Options, Simulated};
    use crate::device::memory::{PageOptions, Source};
    use crate::device::Device;
    use crate::pool::Layout;
    use crate::sys::page::page_size;

    fn pool() -> Arc<Pool> {
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        let layout = Layout { initial: 1 << 16, max: 1 << 20, chunk: 1 << 16, block: None, alignment: 64, delay: 0 };
        Arc::new(Pool::new(Some("p".into()), source, layout, None).unwrap())
    }

    fn slice(pool: &Arc<Pool>) -> Backing {
        let slice = pool.allocate(4096, 64).unwrap();
        Backing::Suballocated { pool: Arc::clone(pool), slice, chunk_memory: pool.chunk_memory(slice.chunk).unwrap() }
    }

    fn whole() -> Backing {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        let request = crate::backend::Request::plain(1 << 16);
        let source = Source::Npu { device, request, dirty: false };
        Backing::Dedicated(Arc::new(source.allocate(1 << 16).unwrap()))
    }

    fn first_byte(backing: &Backing) -> Option<u8> {
        let (memory, start) = backing.memory()?;
        let mut byte = [0];
        memory.mapping().read(start, &mut byte);
        Some(byte[0])
    }

    #[test]
    fn the_last_holder_frees_the_memory_and_no_holder_can_join_after() {
        let pool = pool();
        for backing in [whole(), slice(&pool)] {
            let share = backing.share(4096, None).unwrap();
            drop(backing);
            let token = share.token();
            share.retain().unwrap();
            share.release().unwrap();
            assert!(SharedBacking::find(&token).is_ok());
            assert_eq!(first_byte(&Backing::Shared(Arc::clone(&share))), Some(0));
            share.release().unwrap();
            assert_eq!(share.retain().unwrap_err().code(), ErrorCode::BufferFreed);
            drop(share);
            assert_eq!(SharedBacking::find(&token).unwrap_err().code(), ErrorCode::BufferFreed);
        }
        assert_eq!(pool.stats().live, 0);
        assert_eq!(SharedBacking::find("rkllm-1-1:1").unwrap_err().code(), ErrorCode::UnknownBuffer);
    }

    #[test]
    fn an_adopted_slice_waits_for_the_last_viewer_and_another_slice_does_not() {
        let pool = pool();
        let alone = slice(&pool).share(4096, None).unwrap();
        alone.release().unwrap();
        assert_eq!(pool.stats().live, 0);
        let adopted = slice(&pool).share(4096, None).unwrap();
        adopted.retain().unwrap();
        adopted.release().unwrap();
        adopted.release().unwrap();
        assert_eq!(pool.stats().live, 1);
        drop(adopted);
        assert_eq!(pool.stats().live, 0);
        pool.validate().unwrap();
    }

    #[test]
    fn a_slice_that_an_array_buffer_may_reach_is_never_used_again() {
        let pool = pool();
        let share = slice(&pool).share(4096, None).unwrap();
        share.retain().unwrap();
        share.quarantine_forever();
        drop(share);
        assert_eq!(pool.stats().live, 1);
    }

    #[test]
    fn adopted_slices_outlive_their_pool_and_other_slices_do_not() {
        for end in [|pool: &Pool| pool.destroy(true).unwrap(), |pool: &Pool| pool.reset(|_| true).unwrap()] {
            let pool = pool();
            let (adopted, alone) = (slice(&pool).share(4096, None).unwrap(), slice(&pool).share(4096, None).unwrap());
            adopted.retain().unwrap();
            end(&pool);
            assert_eq!(alone.retain().unwrap_err().code(), ErrorCode::BufferFreed);
            assert_eq!(first_byte(&Backing::Shared(Arc::clone(&adopted))), Some(0));
            let chunk_memory = Arc::downgrade(&Backing::Shared(Arc::clone(&adopted)).place().unwrap().2);
            adopted.release().unwrap();
            adopted.release().unwrap();
            drop(adopted);
            drop(alone);
            assert!(chunk_memory.upgrade().is_none());
        }
    }

    /// Threads adopt and release while others destroy the pool. Memory with a holder keeps its bytes.
    #[test]
    fn a_holder_that_joins_in_time_has_the_bytes() {
        for round in 0..200 {
            let pool = pool();
            let backing = if round % 2 == 0 { slice(&pool) } else { whole() };
            let share = backing.share(4096, None).unwrap();
            drop(backing);
            let token = share.token();
            let hold = |share: Arc<SharedBacking>| {
                if share.retain().is_ok() {
                    assert_eq!(first_byte(&Backing::Shared(Arc::clone(&share))), Some(0));
                    share.release().unwrap();
                }
            };
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| (0..20).for_each(|_| SharedBacking::find(&token).map_or((), hold)));
                }
                scope.spawn(|| match round % 3 {
                    0 => drop(pool.destroy(true)),
                    1 => drop(pool.reset(|_| true)),
                    _ => {}
                });
                scope.spawn(move || share.release().unwrap());
            });
            assert_eq!(SharedBacking::find(&token).unwrap_err().code(), ErrorCode::BufferFreed);
            pool.validate().unwrap();
            assert_eq!(pool.stats().live, 0);
        }
    }
}
