//! Entering: memory becomes an allocation, in the directory and in the accounting.

use std::sync::atomic::AtomicBool;
use std::sync::Arc;
use std::time::SystemTime;

use super::address_owner::{AddressOwner, Reachability};
use super::backing::{Backing, BackingInfo};
use super::directory::directory;
use super::end::retire_failed;
use super::{this_thread, Allocation, AllocationState};
use crate::accounting::Admission;
use crate::error::{Error, ErrorCode, Result};
use crate::id::AllocationId;
use crate::sync::Mutex;

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
}

fn disposed() -> Error {
    Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed")
}
