//! [`Prepared`]: memory on its way to an allocation.

use std::sync::Arc;

use crate::accounting::{Account, Admission};
use crate::allocation::{Allocation, Backing};
use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::pool::{Pool, Slice};

/// Memory that JavaScript has not seen yet. Dropping the value frees the memory.
#[derive(Debug)]
pub struct Prepared {
    admission: Admission,
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
        let Self { mut admission, mut backing, size } = self;
        if let Some(Err(error)) = backing.0.as_ref().map(|memory| admission.cover(memory.reserved())) {
            return Err(backing.refused(admission.account(), size, error));
        }
        match backing.0.take() {
            Some(backing) => Allocation::enter(admission, backing, size),
            None => Err(Error::new(ErrorCode::BufferFreed, "this memory was freed")),
        }
    }
}

/// A backing that no allocation has taken yet.
#[derive(Debug)]
struct Unclaimed(Option<Backing>);

impl Unclaimed {
    /// Frees the memory that was refused, and counts the refusal: for a slice of a named pool, which has no kind in its
    /// account, with those of the pool. An empty chunk stays, as after any free: the next request may be refused too.
    #[cold]
    fn refused(mut self, account: &Account, size: u64, error: Error) -> Error {
        if let Some(Backing::Suballocated { pool, slice, .. }) = self.0.take() {
            // Fails if the pool's end or a reset has freed the slice.
            let _ = pool.free(slice.chunk, slice.region);
            if account.kind.is_none() {
                return pool.refused(size, account.tag.as_ref(), error);
            }
        }
        account.refused(size, &error);
        error.requested(size)
    }
}

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
