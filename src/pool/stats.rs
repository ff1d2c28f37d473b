//! [`PoolStats`] and [`PoolCounts`]: the figures of a pool.

/// The figures of a pool; sizes in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolStats {
    /// The number of chunks.
    pub chunks: u64,
    /// The bytes that the chunks may have at most.
    pub max: u64,
    /// Whether all slices are blocks of one size.
    pub fixed: bool,
    /// Bytes of chunks.
    pub reserved: u64,
    /// Bytes of regions, padded.
    pub allocated: u64,
    /// Requested bytes.
    pub requested: u64,
    /// Free bytes of chunks.
    pub free: u64,
    /// The maximum of `allocated` so far.
    pub peak_allocated: u64,
    /// The largest slice for which a chunk has room now, without the slices that wait.
    pub largest_free: u64,
    /// The number of live slices.
    pub live: u64,
    /// The number of slices ever allocated.
    pub allocations: u64,
    /// The number of refused requests.
    pub failures: u64,
    /// Bytes of freed slices that wait before their bytes are used again, padded. They are free as soon
    /// as the pool needs them.
    pub waiting: u64,
    /// The number of slices that were written to after their free. Only a pool that delays reuse counts them.
    pub late_writes: u64,
    /// The number of chunks that were added ahead of need ([`Pool::grow_ahead`](super::Pool::grow_ahead)).
    pub grown_ahead: u64,
    /// The number of growths ahead that failed.
    pub failed_ahead: u64,
    /// The number and the bytes of slices that are never used again: a thread ended, and one of its ArrayBuffers may
    /// live on in another thread.
    pub lost: (u64, u64),
}

/// The counts of a pool, of [`PoolStats`]. They cost the same however many chunks and slices there are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PoolCounts {
    /// The number of chunks.
    pub chunks: u64,
    /// Bytes of chunks.
    pub reserved: u64,
    /// Bytes of regions, padded.
    pub allocated: u64,
    /// The number of live slices.
    pub live: u64,
    /// The number of slices ever allocated.
    pub allocations: u64,
    /// The number of refused requests.
    pub failures: u64,
    /// Bytes of freed slices that wait, padded.
    pub waiting: u64,
    /// The number of slices that were written to after their free.
    pub late_writes: u64,
}

impl PoolStats {
    /// The fragmentation, 1 - largest free / free; 0 if no byte is free, and for blocks of one size, each of which
    /// serves any request.
    pub fn fragmentation(&self) -> f64 {
        match self.free {
            _ if self.fixed => 0.0,
            0 => 0.0,
            free => 1.0 - self.largest_free as f64 / free as f64,
        }
    }
}
