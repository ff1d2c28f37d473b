//! Counts the slices, holes and regions that searches visit, for tests that count work. Other builds count nothing.

/// Counts a visit.
#[inline]
pub(super) fn add() {
    #[cfg(test)]
    VISITS.set(VISITS.get() + 1);
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
