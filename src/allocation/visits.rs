//! Counts the look-ups of allocations by handle, for tests that count work. Other builds count nothing.

/// Counts `count` look-ups.
#[inline]
pub(super) fn add(count: usize) {
    #[cfg(test)]
    VISITS.set(VISITS.get() + count);
    #[cfg(not(test))]
    let _ = count;
}

#[cfg(test)]
thread_local! {
    static VISITS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// Returns the look-ups that this thread has made in `work`.
#[cfg(test)]
pub(crate) fn of(work: impl FnOnce()) -> usize {
    let before = VISITS.get();
    work();
    VISITS.get() - before
}
