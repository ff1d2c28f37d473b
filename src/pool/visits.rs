//! Counts the slices, holes, regions and chunks that one call visits, for tests that count work. Other builds count
//! nothing.

/// Counts visits.
#[inline(always)]
pub(super) fn add(visits: usize) {
    let _ = visits;
    #[cfg(test)]
    VISITS.set(VISITS.get() + visits);
}

#[cfg(test)]
thread_local! {
    static VISITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Returns the visits since the last call.
#[cfg(test)]
pub(super) fn take() -> usize {
    VISITS.replace(0)
}
