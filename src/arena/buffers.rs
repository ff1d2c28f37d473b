//! The buffers of a plan, and their places.

/// A buffer and its lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// The first moment at which the buffer is alive.
    pub lower: i64,
    /// The first moment at which it is not alive any more.
    pub upper: i64,
    /// Bytes.
    pub size: u64,
    /// The offset is a multiple of it. A power of two.
    pub alignment: u64,
}

/// The size of the arena that suffices.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goal {
    /// Stops at a plan of at most so many bytes. `None` looks for the least.
    pub capacity: Option<u64>,
}

/// A valid placement.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The offset of each buffer, in the order of the request.
    pub offsets: Vec<u64>,
    /// Bytes of the arena.
    pub size: u64,
    /// No arena is smaller than so many bytes.
    pub lower_bound: u64,
}

impl Plan {
    /// Takes other offsets of `buffers`.
    pub(super) fn replace(&mut self, offsets: Vec<u64>, buffers: &[Lifetime]) {
        self.size = offsets.iter().zip(buffers).map(|(offset, buffer)| offset + buffer.size).max().unwrap_or(0);
        self.offsets = offsets;
    }

    /// Returns whether no smaller arena exists.
    pub fn is_least(&self) -> bool {
        self.size == self.lower_bound
    }
}
