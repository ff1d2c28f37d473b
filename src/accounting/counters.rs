//! Counters: plain numbers, owned by the state they describe and changed under the lock that is already held.
#![forbid(unsafe_code)]

/// What one kind of memory, or one tag, has seen. Bytes are those really taken: page rounding included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Bytes live now.
    pub used: u64,
    /// The most bytes that were ever live at once.
    pub peak: u64,
    /// Allocations live now.
    pub live: u64,
    /// Allocations that ever succeeded.
    pub allocations: u64,
    /// Allocations that ended, however they did.
    pub frees: u64,
    /// Requests that were refused.
    pub failures: u64,
    /// Bytes admitted for allocations that are under way.
    pub in_flight: u64,
    /// Bytes set aside for somebody else's allocations.
    pub set_aside: u64,
}

impl Counters {
    /// Bytes that a limit counts as taken.
    pub fn committed(&self) -> u64 {
        self.used + self.in_flight + self.set_aside
    }

    /// Bytes that a warning speaks of.
    pub fn in_use(&self) -> u64 {
        self.used + self.set_aside
    }

    /// An allocation of `bytes` succeeded.
    pub fn allocated(&mut self, bytes: u64) {
        self.used += bytes;
        self.peak = self.peak.max(self.used);
        self.live += 1;
        self.allocations += 1;
    }

    /// An allocation of `bytes` ended.
    pub fn freed(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
        self.live = self.live.saturating_sub(1);
        self.frees += 1;
    }

    /// Bytes were taken or given back without an allocation: a pool's chunks.
    pub fn resized(&mut self, change: i64) {
        self.used = self.used.saturating_add_signed(change);
        self.peak = self.peak.max(self.used);
    }

    /// A request was refused.
    pub fn failed(&mut self) {
        self.failures += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_stays_when_memory_goes() {
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
