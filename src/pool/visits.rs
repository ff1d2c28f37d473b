//! Counts the slices, holes, regions and chunks that one call visits, and the most that one critical section of it
//! visits, for tests that count work. Other builds count nothing.

/// Counts visits.
#[inline(always)]
pub(super) fn add(visits: usize) {
    let _ = visits;
    #[cfg(test)]
    counts::add(visits);
}

/// Starts a critical section of a pool.
#[inline(always)]
pub(super) fn begin_section() {
    #[cfg(test)]
    counts::begin_section();
}

#[cfg(test)]
pub(super) use counts::{take, take_longest_section};

#[cfg(test)]
mod counts {
    use std::cell::Cell;

    thread_local! {
        static VISITS: Cell<usize> = const { Cell::new(0) };
        /// The visits since the last section began, and the most of one.
        static SECTION: Cell<usize> = const { Cell::new(0) };
        static LONGEST: Cell<usize> = const { Cell::new(0) };
    }

    pub(super) fn add(visits: usize) {
        VISITS.set(VISITS.get() + visits);
        SECTION.set(SECTION.get() + visits);
    }

    pub(super) fn begin_section() {
        LONGEST.set(LONGEST.get().max(SECTION.replace(0)));
    }

    /// Returns the visits since the last call.
    pub(in crate::pool) fn take() -> usize {
        VISITS.replace(0)
    }

    /// Returns the most visits of one section since the last call.
    pub(in crate::pool) fn take_longest_section() -> usize {
        begin_section();
        LONGEST.replace(0)
    }
}
