//! The growth of a pool: reserves bytes of its maximum, allocates from the source outside the lock, and adds the memory
//! as a chunk.

use std::sync::atomic::Ordering;

use super::slabs::MIN_SLAB;
use super::state::PoolState;
use super::Pool;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::Action;
use crate::units::format_bytes;

impl Pool {
    /// The minimum size of a chunk that serves a request for which no chunk has room.
    fn chunk_for(&self, size: u64) -> Result<u64> {
        if let Some(least) = self.layout.least_chunk(size) {
            return Ok(least);
        }
        let most = self.layout.block.unwrap_or(self.layout.max);
        let message = format!(
            "{} is more than pool \"{}\" can ever give: {}",
            format_bytes(size),
            self.name(),
            format_bytes(most)
        );
        Err(Error::new(ErrorCode::OutOfRange, message).requested(size).limit(format!("pool:{}", self.name()), most))
    }

    /// Adds a chunk that serves a request of `size`. If there is no room for a full chunk, tries half of it, and so on.
    ///
    /// A slab remembers the size that fitted: a full device would otherwise refuse a full slab before each small
    /// allocation. Each slab that is granted doubles the size of the next one, up to the full size. Below
    /// [`MIN_SLAB`], the manager allocates the request by itself.
    pub(super) fn grow_for(&self, size: u64) -> Result<Handle> {
        let least = self.chunk_for(size)?;
        let is_slab = self.name.is_none();
        let smallest = if is_slab { least.max(MIN_SLAB) } else { least };
        let mut most = if is_slab { self.next_slab.load(Ordering::Relaxed) } else { self.layout.chunk };
        loop {
            let reserved = self.reserve(least, most, size)?;
            let bytes = reserved.bytes;
            let grown = self.grow(reserved);
            let refused = grown.as_ref().is_err_and(|error| error.code().depends_on_size());
            let next = match (&grown, refused) {
                (Ok(_), _) => bytes.saturating_mul(2).min(self.layout.chunk),
                (_, true) => bytes / 2 / self.layout.granule() * self.layout.granule(),
                _ => return grown,
            };
            if is_slab {
                self.next_slab.store(next.max(MIN_SLAB).min(self.layout.chunk), Ordering::Relaxed);
            }
            if !refused || bytes <= smallest {
                return grown;
            }
            most = next.max(smallest);
        }
    }

    /// Adds the initial chunk.
    pub(super) fn grow_first(&self) -> Result<Handle> {
        self.state().chunks.reserved = self.layout.initial;
        self.grow(ReservedGrowth { pool: self, bytes: self.layout.initial })
    }

    /// Reserves `most` bytes of the pool's maximum, or the rest of it, but at least `least`.
    fn reserve(&self, least: u64, most: u64, size: u64) -> Result<ReservedGrowth<'_>> {
        let mut state = self.state();
        state.alive(self.name())?;
        let Some(bytes) = self.layout.growth(state.chunks.reserved, least, most) else {
            return Err(self.exhausted(&mut state, size));
        };
        state.chunks.reserved += bytes;
        Ok(ReservedGrowth { pool: self, bytes })
    }

    /// Allocates the reserved chunk.
    fn grow(&self, reserved: ReservedGrowth<'_>) -> Result<Handle> {
        let admission = self.account.as_ref().map(|account| account.admit(reserved.bytes)).transpose()?;
        let memory = self.source.allocate(reserved.bytes)?;
        let mut chunk = self.layout.chunk(memory, reserved.bytes, &self.lost)?;
        let handle = {
            let mut state = self.state();
            state.alive(self.name())?;
            (chunk.number, state.grown) = (state.grown, state.grown + 1);
            state.note(Action::Grow, chunk.number, chunk.arena.capacity());
            state.chunks.add(chunk)
        };
        if let Some(admission) = admission {
            admission.commit_chunk();
        }
        std::mem::forget(reserved); // the chunk holds the bytes now
        Ok(handle)
    }

    /// Reports whether the pool's maximum leaves no room for a chunk that serves a request of `size`.
    pub(super) fn cannot_grow(&self, size: u64) -> bool {
        self.state().cannot_grow(&self.layout, size)
    }

    fn exhausted(&self, state: &mut PoolState, size: u64) -> Error {
        let (max, largest) = (self.layout.max, state.largest_free(&self.layout));
        let message = format!(
            "pool \"{}\" has no {} left: {} of its {} are allocated, the largest free piece is {}",
            self.name(),
            format_bytes(size),
            format_bytes(state.chunks.allocated),
            format_bytes(max),
            format_bytes(largest)
        );
        Error::new(ErrorCode::PoolExhausted, message)
            .requested(size)
            .available(max.saturating_sub(state.chunks.allocated))
            .largest_free(largest)
            .limit(format!("pool:{}", self.name()), max)
            .hint("free what is no longer used, or give the pool a larger maxSize")
    }
}

/// Reserved bytes of a pool's maximum. Dropping them returns them.
struct ReservedGrowth<'a> {
    pool: &'a Pool,
    bytes: u64,
}

impl Drop for ReservedGrowth<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.chunks.reserved = state.chunks.reserved.saturating_sub(self.bytes);
    }
}
