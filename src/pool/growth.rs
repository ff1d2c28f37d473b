//! How a pool comes by its chunks: bytes of its maximum are reserved, the source is asked outside the lock, and what it
//! gave becomes a chunk.

use super::state::PoolState;
use super::Pool;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::profile::Action;
use crate::units::format_bytes;

impl Pool {
    /// The least that a chunk must have to serve a request which no chunk has room for.
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

    /// A chunk that serves a request of `size`. Where there is no room for a whole one, half of that may do, and so on.
    pub(super) fn grow_for(&self, size: u64) -> Result<Handle> {
        let least = self.chunk_for(size)?;
        let mut most = self.layout.chunk;
        loop {
            let reserved = self.reserve(least, most, size)?;
            let bytes = reserved.bytes;
            match self.grow(reserved) {
                Err(error) if bytes > least && self.name.is_some() && error.code().depends_on_size() => {
                    most = bytes / 2 / self.layout.granule() * self.layout.granule();
                }
                grown => return grown,
            }
        }
    }

    /// Makes the initial chunk.
    pub(super) fn grow_first(&self) -> Result<Handle> {
        self.state().reserved = self.layout.initial;
        self.grow(ReservedGrowth { pool: self, bytes: self.layout.initial })
    }

    /// Takes `most` of the pool's maximum, or what is left of it, but at least `least`.
    fn reserve(&self, least: u64, most: u64, size: u64) -> Result<ReservedGrowth<'_>> {
        let mut state = self.state();
        state.alive(self.name())?;
        let Some(bytes) = self.layout.growth(state.reserved, least, most) else {
            return Err(self.exhausted(&state, size));
        };
        state.reserved += bytes;
        Ok(ReservedGrowth { pool: self, bytes })
    }

    /// Makes the chunk that was reserved.
    fn grow(&self, reserved: ReservedGrowth<'_>) -> Result<Handle> {
        let admission = self.account.as_ref().map(|account| account.admit(reserved.bytes)).transpose()?;
        let memory = self.source.allocate(reserved.bytes)?;
        let mut chunk = self.layout.chunk(memory, reserved.bytes)?;
        let handle = {
            let mut state = self.state();
            state.alive(self.name())?;
            (chunk.number, state.grown) = (state.grown, state.grown + 1);
            state.note(Action::Grow, chunk.number, chunk.arena.capacity());
            let handle = state.chunks.insert(chunk);
            state.order.push(handle);
            handle
        };
        if let Some(admission) = admission {
            admission.commit_chunk();
        }
        std::mem::forget(reserved); // settled: the chunk stands for it now
        Ok(handle)
    }

    fn exhausted(&self, state: &PoolState, size: u64) -> Error {
        let (max, largest) = (self.layout.max, state.largest_free());
        let message = format!(
            "pool \"{}\" has no {} left: {} of its {} are allocated, the largest free piece is {}",
            self.name(),
            format_bytes(size),
            format_bytes(state.allocated),
            format_bytes(max),
            format_bytes(largest)
        );
        Error::new(ErrorCode::PoolExhausted, message)
            .requested(size)
            .available(max.saturating_sub(state.allocated))
            .largest_free(largest)
            .limit(format!("pool:{}", self.name()), max)
            .hint("free what is no longer used, or give the pool a larger maxSize")
    }
}

/// Bytes of a pool's maximum, taken before the source is asked for them; they go back unless a chunk stands for them.
struct ReservedGrowth<'a> {
    pool: &'a Pool,
    bytes: u64,
}

impl Drop for ReservedGrowth<'_> {
    fn drop(&mut self) {
        let mut state = self.pool.state();
        state.reserved = state.reserved.saturating_sub(self.bytes);
    }
}
