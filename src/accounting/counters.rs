//! Counters: plain numbers, changed under the lock of the state that owns them.
#![forbid(unsafe_code)]

/// The counters of one kind of memory, or of one tag. Bytes include the rounding to pages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Live bytes.
    pub used: u64,
    /// The most bytes that were ever live at once.
    pub peak: u64,
    /// Live allocations.
    pub live: u64,
    /// All successful allocations.
    pub allocations: u64,
    /// All allocations that were freed or collected.
    pub frees: u64,
    /// All refused requests.
    pub failures: u64,
    /// Bytes admitted for allocations in flight.
    pub in_flight: u64,
    /// Bytes reserved for other libraries.
    pub set_aside: u64,
}

impl Counters {
    /// Returns the bytes that must not exceed a limit.
    pub fn committed(&self) -> u64 {
        self.used + self.in_flight + self.set_aside
    }

    /// Returns the bytes that cause warnings.
    pub fn in_use(&self) -> u64 {
        self.used + self.set_aside
    }

    /// Counts an allocation of `bytes`.
    pub fn allocated(&mut self, bytes: u64) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        self.live += 1;
        self.allocations += 1;
    }

    /// Counts the free of an allocation of `bytes`.
    pub fn freed(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.live = self.live.saturating_sub(1);
        self.frees += 1;
    }

    /// Adds `change` bytes that are no allocation: a pool's chunk.
    pub fn resized(&mut self, change: i64) {
        self.used = self.used.saturating_add_signed(change);
        self.peak = self.peak.max(self.used);
    }

    /// Counts a refused request.
    pub fn failed(&mut self) {
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_memory_is_freed() {
        let mut counters = Counters::default();
        counters.allocated(10);
        counters.allocated(5);
        counters.freed(10);
        counters.allocated(1);
        counters.failed();
        assert_eq!(
            counters,
            Counters { used: 6, peak: 15, live: 2, allocations: 3, frees: 1, failures: 1, ..Counters::default() }
        );
    }
}
