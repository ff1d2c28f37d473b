//! [`Prepared`]: memory on its way to an allocation.

use std::sync::Arc;

use crate::accounting::Admission;
use crate::allocation::{Allocation, Backing};
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::pool::{Pool, Slice};

/// Memory that JavaScript has not seen yet. Dropping the value frees the memory.
#[derive(Debug)]
pub struct Prepared {
    pub(super) admission: Admission,
    backing: Unclaimed,
    size: u64,
}

impl Prepared {
    pub(super) fn new(admission: Admission, backing: Backing, size: u64) -> Self {
        Self { admission, backing: Unclaimed(Some(backing)), size }
    }

    /// Whether the memory is a slice that a reset of its pool, or the pool's end, has freed meanwhile.
    pub fn is_stale(&self) -> bool {
        match &self.backing.0 {
            Some(Backing::Suballocated { pool, slice, .. }) => pool.slice(slice.chunk, slice.region).is_err(),
            _ => false,
        }
    }

    /// Makes an allocation that belongs to this thread. Counts a refusal.
    ///
    /// Errors: those of [`Allocation::enter`].
    pub fn enter(self) -> Result<Arc<Allocation>> {
        let Self { admission, mut backing, size } = self;
        let Some(backing) = backing.0.take() else {
            return Err(Error::new(ErrorCode::BufferFreed, "this memory was freed"));
        };
        let account = admission.account().clone();
        let pool = match (&backing, account.kind) {
            (Backing::Suballocated { pool, .. }, None) => Some(Arc::clone(pool)),
            _ => None,
        };
        Allocation::enter(admission, backing, size).map_err(|error| match pool {
            Some(pool) => pool.refused(size, account.tag.as_ref(), error),
            None => {
                account.failed(size);
                error.requested(size)
            }
        })
    }
}

/// A backing that no allocation has taken yet.
#[derive(Debug)]
struct Unclaimed(Option<Backing>);

impl Drop for Unclaimed {
    fn drop(&mut self) {
        if let Some(Backing::Suballocated { pool, slice, .. }) = &self.0 {
            pool.free_unclaimed(slice);
        }
    }
}

/// Makes a backing of memory of its own.
pub(super) fn dedicated(memory: Memory) -> Backing {
    Backing::Dedicated(Arc::new(memory))
}

/// Makes a backing of `slice`, zeroed on request. Frees the slice on failure.
pub(super) fn backing(pool: Arc<Pool>, slice: Slice, zeroed: bool) -> Result<Backing> {
    let zero = || if zeroed { pool.zero(&slice) } else { Ok(()) };
    match zero().and_then(|()| pool.chunk_memory(slice.chunk)) {
        Ok(chunk_memory) => Ok(Backing::Suballocated { pool, slice, chunk_memory }),
        Err(error) => {
            pool.free(slice.chunk, slice.region)?;
            Err(error)
        }
    }
}
