//! Gives a pool's chunks back to the device.

use super::chunk::Chunk;
use super::chunk_set::Leftover;
use super::Pool;

/// The chunks that one critical section of a trim looks at.
const TRIM_STEP: usize = 256;

impl Pool {
    /// Frees empty chunks, down to the initial size; returns the bytes.
    /// A chunk whose slices all wait is empty: operations in flight then read zeros.
    pub fn trim(&self) -> u64 {
        let mut freed = 0;
        while let (1.., bytes) = self.end_some_waits() {
            freed += bytes;
        }
        freed + self.trim_chunks()
    }

    /// Like [`trim`](Self::trim), but ends no wait.
    pub(super) fn trim_chunks(&self) -> u64 {
        self.end_idle_waits() + self.free_idle_chunks()
    }

    /// Frees all idle chunks, down to the initial size, some in each critical section. Returns the bytes.
    pub(super) fn free_idle_chunks(&self) -> u64 {
        let mut freed = 0;
        let listed = self.state().chunks.take_listed();
        let mut leftover: Vec<_> =
            listed.chunks(TRIM_STEP).flat_map(|listed| self.state().chunks.idle_of(listed)).collect();
        Leftover::sort(&mut leftover);
        for some in leftover.chunks(TRIM_STEP) {
            let gone = self.state().remove_idle(some, &self.layout);
            freed += self.end(gone);
        }
        freed
    }

    /// Frees the chunks' memory outside the lock; returns the bytes.
    pub(super) fn end(&self, chunks: Vec<Chunk>) -> u64 {
        let bytes = chunks.iter().map(|chunk| chunk.arena.capacity()).sum();
        for chunk in chunks {
            chunk.chunk_memory.end();
        }
        if let (Some(account), true) = (&self.account, bytes > 0) {
            account.chunk_freed(bytes);
        }
        bytes
    }
}
