//! Freed addresses that only an operation in flight may still reach: they are reused last, and late writes to them
//! keep no memory.
//!
//! Addresses of the window return to it, behind all others ([`address_space`]). Ranges that the
//! kernel placed, because they are too large for the window or it is full, wait here with zero pages, first in, first
//! out, until the budget is used up; then each further range unmaps at most `UNMAPPED_PER_RANGE` of the oldest.
//!
//! No rule depends on time. A late writer's pages go back to the kernel each time that a sweep over the free addresses
//! passes; those of a range that is not small also when it is released.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

use super::address_space::{self, Place, Sweep};
use super::zero_pages;
use crate::sync::Mutex;

/// Bytes of addresses in one step of the sweep: 0.2 ms if all of them are dirty.
const SWEPT_PER_STEP: usize = 4 << 20;
/// Releases of smaller ranges than a step for one step: a system call for each would cost as much as the free.
const RELEASES_PER_STEP: u32 = 16;
/// Ranges from this size on are cleaned at their release.
const CLEANED_AT_ONCE: usize = 64 << 10;
/// At least as many as are added, so that the queue shrinks when it is over its budget.
const UNMAPPED_PER_RANGE: usize = 2;
/// The maximum number of ranges that the kernel placed. Neighbours merge into one mapping, but in the worst case each
/// is one of `vm.max_map_count`.
const MAX_RANGES: usize = 8192;

/// A range of whole pages, placed by the kernel, with one owner. Dropping it unmaps nothing.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KernelRange {
    pub(super) base: usize,
    pub(super) len: usize,
}

impl KernelRange {
    /// Unmaps the range; its addresses are free for any mapping of the process.
    pub(super) fn unmap(self) {
        // SAFETY: the range is mapped, and its single owner gives it up here. A pointer into it that is still in use
        // would reach other memory.
        unsafe { libc::munmap(self.base as *mut c_void, self.len) };
    }
}

#[derive(Debug)]
struct Waiting {
    ranges: VecDeque<KernelRange>,
    bytes: usize,
}

static WAITING: Mutex<Waiting> = Mutex::new(Waiting { ranges: VecDeque::new(), bytes: 0 });

impl Waiting {
    /// Removes the oldest ranges while there are more than `bytes` or `count`, at most `most` of them.
    fn take(&mut self, bytes: usize, count: usize, most: usize) -> Vec<KernelRange> {
        let mut oldest = Vec::new();
        while oldest.len() < most && (self.bytes > bytes || self.ranges.len() > count) {
            let Some(range) = self.ranges.pop_front() else { break };
            self.bytes -= range.len;
            oldest.push(range);
        }
        oldest
    }
}

/// Releases a range of the window. Zero pages are mapped there.
pub(super) fn release(place: Place) {
    static RELEASES: AtomicU32 = AtomicU32::new(0);
    let len = place.len();
    if len >= CLEANED_AT_ONCE {
        // SAFETY: zero pages are mapped there, and `place` is ours until it is released.
        unsafe { zero_pages::clean(place.base(), len) };
    }
    place.release();
    if len >= SWEPT_PER_STEP || RELEASES.fetch_add(1, Ordering::Relaxed).is_multiple_of(RELEASES_PER_STEP) {
        sweep(len.max(SWEPT_PER_STEP));
    }
}

/// Queues a range that the kernel placed. Zero pages are mapped there.
pub(super) fn wait(range: KernelRange) {
    // SAFETY: zero pages are mapped there, and the range is ours.
    unsafe { zero_pages::clean(range.base, range.len) };
    let budget = address_space::figures().budget as usize;
    let oldest = {
        let mut waiting = WAITING.lock();
        waiting.bytes += range.len;
        waiting.ranges.push_back(range);
        waiting.take(budget, MAX_RANGES, UNMAPPED_PER_RANGE)
    };
    oldest.into_iter().for_each(KernelRange::unmap);
}

/// Unmaps the oldest waiting ranges, `bytes` of them, because the kernel has no addresses left (RLIMIT_AS). Returns
/// whether there were any.
pub(super) fn give_way(bytes: usize) -> bool {
    let oldest = {
        let mut waiting = WAITING.lock();
        let rest = waiting.bytes.saturating_sub(bytes);
        waiting.take(rest, usize::MAX, usize::MAX)
    };
    let any = !oldest.is_empty();
    oldest.into_iter().for_each(KernelRange::unmap);
    any
}

/// Cleans the next free range of the window, of at most `len` bytes. Returns false at the end of the walk.
fn sweep(len: usize) -> bool {
    match address_space::sweep(len) {
        Sweep::Range(swept) => {
            let (base, len) = swept.range();
            // SAFETY: the range holds zero pages, and nothing else takes it before `done`.
            unsafe { zero_pages::clean(base, len) };
            swept.done();
            true
        }
        Sweep::Passed => true,
        Sweep::End => false,
    }
}

/// Returns all pages that late writers dirtied to the kernel, in one walk over the free addresses.
pub fn clean() {
    address_space::restart_sweep();
    while sweep(usize::MAX) {}
    let ranges = std::mem::take(&mut WAITING.lock().ranges);
    for range in &ranges {
        // SAFETY: zero pages are mapped there, and the range has left the queue meanwhile.
        unsafe { zero_pages::clean(range.base, range.len) };
    }
    let mut waiting = WAITING.lock();
    let later = std::mem::replace(&mut waiting.ranges, ranges);
    waiting.ranges.extend(later);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ranges_go_first_and_few_at_a_time() {
        let ranges = (0..10).map(|i| KernelRange { base: i, len: 10 }).collect();
        let mut waiting = Waiting { ranges, bytes: 100 };
        let bases = |ranges: Vec<KernelRange>| ranges.iter().map(|range| range.base).collect::<Vec<_>>();
        assert_eq!(bases(waiting.take(100, 10, 2)), []);
        assert_eq!(bases(waiting.take(50, 10, 2)), [0, 1]);
        assert_eq!((bases(waiting.take(75, 10, 2)), waiting.bytes), (vec![2], 70));
        assert_eq!(bases(waiting.take(70, 5, 9)), [3, 4]);
        assert_eq!(bases(waiting.take(0, 9, 99)), [5, 6, 7, 8, 9]);
    }
}
