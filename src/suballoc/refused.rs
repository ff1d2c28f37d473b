//! [`Refused`]: aligned requests that a search has refused, so that their repetition takes constant time.

/// The aligned requests that were refused since the last free.
#[derive(Debug)]
pub(super) struct Refused {
    /// Whether `sizes` holds any.
    pub(super) any: bool,
    /// For each log2 of an alignment, the smallest size refused with it or with a smaller alignment, in granules.
    pub(super) sizes: [u64; 64],
}

impl Refused {
    pub(super) const NONE: Self = Self { any: false, sizes: [u64::MAX; 64] };

    /// Returns whether a request that was no harder was refused.
    pub(super) fn covers(&self, need: u64, align: u64) -> bool {
        self.any && self.sizes[align.trailing_zeros() as usize & 63] <= need
    }

    #[cold]
    pub(super) fn add(&mut self, need: u64, align: u64) {
        if !self.any {
            *self = Self { any: true, ..Self::NONE };
        }
        for size in &mut self.sizes[align.trailing_zeros() as usize & 63..] {
            *size = need.min(*size);
        }
    }
}
