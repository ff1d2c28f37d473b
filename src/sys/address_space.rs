//! Places mappings in a window of the address space that belongs to this library, and reuses addresses last.
//!
//! The window holds zero pages (`zero_pages`) wherever memory was mapped before, and is reserved without access where
//! it was not. So no other code's mapping is ever placed between its ranges, freed ranges merge with their neighbours
//! into few mappings, and a range that is free again costs the kernel nothing. The size of the window is the *address
//! budget*: a freed address comes back when all others were used since.
//!
//! The window consists of segments. A cursor walks through one segment after the other; behind it, a freed range rests.
//! When the end of the segment is reached, the segment continues in which a range was freed or placed least recently.
//! Only ranges in use are remembered, so the bookkeeping grows with them and not with the number of frees.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::OnceLock;

use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};

use super::page::{page_size, top_of_addresses};
use super::zero_pages;
use crate::sync::{Mutex, MutexGuard};
use crate::units::{align_up, GIB};

/// The number of occupied ranges that one search passes: it bounds the time of an allocation.
const MAX_PASSED: usize = 64;
/// The number of segments that one search opens.
const MAX_OPENED: usize = 4;
/// A range has at most this share of a segment. Larger ones are placed by the kernel.
const SHARE_OF_SEGMENT: u64 = 4;
/// The window is reserved in steps: at first this share of it.
const FIRST_SHARE: usize = 16;

/// A range of the window with an owner. Dropping it withholds its addresses for ever, which is the safe default.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The start of the range, and of its bookkeeping: lower than `base` by a gap that the alignment left.
    start: usize,
    base: usize,
    len: usize,
}

/// Figures of the window, in bytes of addresses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressFigures {
    /// The address budget: the window's size.
    pub budget: u64,
    /// Addresses that are never used again, because an ArrayBuffer may reach them.
    pub withheld: u64,
}

/// The window; `None` if it could not be made, and the kernel chooses every address.
fn address_window() -> Option<MutexGuard<'static, Window>> {
    static WINDOW: OnceLock<Option<Mutex<Window>>> = OnceLock::new();
    WINDOW.get_or_init(|| window().map(Mutex::new)).as_ref().map(Mutex::lock)
}

/// Reserves the first part of the window, if that has not been done.
pub fn prepare() {
    grow(|window| window.segments.iter().all(|segment| segment.state == State::Unreserved));
}

/// Returns figures of the window.
pub fn figures() -> AddressFigures {
    let window = address_window();
    window.map_or(AddressFigures::default(), |window| AddressFigures {
        budget: (window.segments.len() * window.segment) as u64,
        withheld: window.withheld as u64,
    })
}

/// The state of an address of the window, for tests of the owners of addresses.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Owned,
    Withheld,
    Free,
}

/// Returns the fate of `address`, which lies in the window.
#[cfg(test)]
pub(crate) fn fate(address: usize) -> Fate {
    let window = address_window().expect("a window");
    assert!(
        (window.base..window.base + window.segments.len() * window.segment).contains(&address),
        "not in the window"
    );
    match window.owned.range(..=address).next_back() {
        Some((_, (end, Owner::Occupied))) if *end > address => Fate::Owned,
        Some((_, (end, Owner::Withheld))) if *end > address => Fate::Withheld,
        _ => Fate::Free,
    }
}

/// Lays the window out from half of the address space on: below lie the random hints of V8, at two thirds begin
/// programs with their heaps, and libraries and stacks lie at the top. It has 5/32 of the addresses: 20 TiB of 47 bits,
/// 80 GiB of the 39 bits of some arm64 kernels. Under RLIMIT_AS it has an eighth of the rest.
fn window() -> Option<Window> {
    let top = top_of_addresses();
    let mut capacity = top / 32 * 5;
    if let Ok((limit, _)) = getrlimit(Resource::RLIMIT_AS) {
        if limit != RLIM_INFINITY {
            capacity = capacity.min(limit.saturating_sub(mapped()?) / 8);
        }
    }
    if zero_pages::populated_at_once() {
        return None;
    }
    let segment = largest_power(capacity / 1024).max(largest_power(capacity / 64).min(GIB)).max(page_size());
    let count = usize::try_from(capacity / segment).ok().filter(|count| *count > 0)?;
    Some(Window::new(usize::try_from(top / 2).ok()?, usize::try_from(segment).ok()?, count))
}

/// The largest power of two that is not above `n`; 0 for 0.
fn largest_power(n: u64) -> u64 {
    n.checked_ilog2().map_or(0, |log| 1 << log)
}

/// Bytes of addresses that this process has mapped.
fn mapped() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    Some(statm.split(' ').next()?.parse::<u64>().ok()? * page_size())
}

/// Reserves the window's next step while `wanted`. Returns whether it did.
fn grow(wanted: impl Fn(&Window) -> bool) -> bool {
    static GROWING: Mutex<()> = Mutex::new(());
    let _one_at_a_time = GROWING.lock();
    let step = address_window().filter(|window| wanted(window)).and_then(|window| window.next_step());
    let Some((first, count, base, segment)) = step else { return false };
    let whole = zero_pages::reserve(base, count * segment);
    let reserved: Vec<_> = (0..count).map(|i| whole || zero_pages::reserve(base + i * segment, segment)).collect();
    if let Some(mut window) = address_window() {
        window.reserved(first, &reserved);
    }
    true
}

impl Place {
    /// Finds room for `len` bytes (whole pages) at a multiple of `alignment`, a power of two. No other code maps
    /// anything there. `None`: the kernel has to choose.
    pub(super) fn find(len: usize, alignment: u64) -> Option<Self> {
        let alignment = usize::try_from(alignment.max(page_size())).ok()?;
        loop {
            match address_window()?.find(len, alignment) {
                Found::At { start, base } => return Some(Self { start, base, len }),
                Found::Nothing => return None,
                Found::NeedsSegment => {}
            }
            // Another thread may have grown the window meanwhile: then there is no step to make, and room is.
            grow(|window| window.needs_segment());
        }
    }

    /// The address of the first byte.
    pub(super) fn base(&self) -> usize {
        self.base
    }

    /// The length in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The whole range: its address, and its length in bytes.
    pub(super) fn whole(&self) -> (usize, usize) {
        (self.start, self.base - self.start + self.len)
    }

    /// Makes the addresses available again, after all others. Zero pages are mapped over the whole range.
    pub(super) fn release(self) {
        if let Some(mut window) = address_window() {
            window.release(self.start);
        }
        std::mem::forget(self);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(mut window) = address_window() {
            window.withhold(self.start);
        }
    }
}

/// A step of the walk through all free parts of the window that were in use before.
#[derive(Debug)]
pub(super) enum Sweep {
    /// The next free range, of at most the bytes that were asked for.
    Range(Swept),
    /// Passed ranges in use.
    Passed,
    /// The end: the next step is the first of the next walk.
    End,
}

/// Makes a step of the walk.
pub(super) fn sweep(len: usize) -> Sweep {
    address_window().map_or(Sweep::End, |mut window| window.sweep(len))
}

/// Begins the walk again.
pub(super) fn restart_sweep() {
    if let Some(mut window) = address_window() {
        window.sweep = window.base;
    }
}

/// A free range that nothing else uses until it is [`done`](Self::done).
#[derive(Debug)]
pub(super) struct Swept(Place);

impl Swept {
    /// Address and length.
    pub(super) fn range(&self) -> (usize, usize) {
        (self.0.base, self.0.len)
    }

    /// Makes the range free again.
    pub(super) fn done(self) {
        if let Some(mut window) = address_window() {
            window.swept(self.0.base);
        }
        std::mem::forget(self.0);
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unreserved,
    /// Reserved, or zero pages, wherever nothing else is mapped.
    Reserved,
    /// Other code has mappings there, or the kernel refused.
    Unusable,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    state: State,
    /// The time of the last release or placement; 0 for a segment that was never used.
    stamp: u64,
    /// Counts how often the cursor has entered.
    opened: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// Memory, or zero pages that an ArrayBuffer or a sweep may reach.
    Occupied,
    /// Withheld for ever.
    Withheld,
    /// Released ahead of the cursor: rests until the segment is opened the next time.
    Resting { opened: u32 },
}

/// Where a request is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    At { start: usize, base: usize },
    Nothing,
    NeedsSegment,
}

/// The window's bookkeeping; it maps nothing. See the [module](self).
#[derive(Debug)]
struct Window {
    base: usize,
    /// The bytes of a segment, a power of two.
    segment: usize,
    segments: Vec<Segment>,
    /// The segment with the cursor; `None` before the first.
    current: Option<usize>,
    cursor: usize,
    /// Counts releases and closed segments.
    clock: u64,
    /// Ranges in use, by start, with their ends.
    owned: BTreeMap<usize, (usize, Owner)>,
    withheld: usize,
    sweep: usize,
}

impl Window {
    fn new(base: usize, segment: usize, count: usize) -> Self {
        let unreserved = Segment { state: State::Unreserved, stamp: 0, opened: 0 };
        Self {
            base,
            segment,
            segments: vec![unreserved; count],
            current: None,
            cursor: base,
            clock: 0,
            owned: BTreeMap::new(),
            withheld: 0,
            sweep: base,
        }
    }

    /// The segments to reserve next: the first of them, their number, their address, and the bytes of each.
    fn next_step(&self) -> Option<(usize, usize, usize, usize)> {
        let first = self.segments.iter().position(|segment| segment.state == State::Unreserved)?;
        let count = first.max(self.segments.len() / FIRST_SHARE).clamp(1, self.segments.len() - first);
        Some((first, count, self.base + first * self.segment, self.segment))
    }

    /// Records which segments of a step were reserved.
    fn reserved(&mut self, first: usize, reserved: &[bool]) {
        for (segment, reserved) in self.segments[first..].iter_mut().zip(reserved) {
            segment.state = if *reserved { State::Reserved } else { State::Unusable };
        }
    }

    fn find(&mut self, len: usize, alignment: usize) -> Found {
        let most = self.segment / SHARE_OF_SEGMENT as usize;
        if len > most || alignment > most {
            return Found::Nothing;
        }
        for _ in 0..MAX_OPENED {
            match self.find_in_current(len, alignment) {
                Some(found) => return found,
                None if self.needs_segment() => return Found::NeedsSegment,
                None if self.open_next() => {}
                None => break,
            }
        }
        Found::Nothing
    }

    /// Searches from the cursor to the end of its segment. `None` if the end was reached.
    fn find_in_current(&mut self, len: usize, alignment: usize) -> Option<Found> {
        let current = self.current?;
        let (end, opened) = (self.base + (current + 1) * self.segment, self.segments[current].opened);
        for _ in 0..MAX_PASSED {
            let at = align_up(self.cursor as u64, alignment as u64)? as usize;
            if at + len > end {
                return None;
            }
            match self.owned.range(..at + len).next_back().map(|(start, owned)| (*start, *owned)) {
                Some((start, (_, Owner::Resting { opened: before }))) if before != opened => {
                    self.owned.remove(&start);
                }
                Some((_, (passed, _))) if passed > at => self.cursor = passed,
                _ => {
                    // A gap without access belongs to the range, so that zero pages cover both and merge with others.
                    let start = if opened == 1 { self.cursor } else { at };
                    self.cursor = at + len;
                    self.owned.insert(start, (at + len, Owner::Occupied));
                    return Some(Found::At { start, base: at });
                }
            }
        }
        Some(Found::Nothing)
    }

    /// Reports whether no fresh segment is left among the reserved ones and the window can still grow.
    fn needs_segment(&self) -> bool {
        let fresh = |segment: &Segment| segment.state == State::Reserved && segment.opened == 0;
        !self.segments.iter().any(fresh) && self.segments.iter().any(|segment| segment.state == State::Unreserved)
    }

    /// Moves the cursor to the segment that was used least recently. Returns false if there is none.
    fn open_next(&mut self) -> bool {
        self.clock += 1;
        if let Some(current) = self.current {
            self.segments[current].stamp = self.clock;
        }
        let reserved = self.segments.iter().enumerate().filter(|(_, segment)| segment.state == State::Reserved);
        let Some((next, _)) = reserved.min_by_key(|(_, segment)| segment.stamp) else { return false };
        self.segments[next].opened = self.segments[next].opened.wrapping_add(1);
        (self.current, self.cursor) = (Some(next), self.base + next * self.segment);
        true
    }

    fn release(&mut self, base: usize) {
        let Some((end, _)) = self.owned.remove(&base) else { return };
        self.clock += 1;
        let at = (base - self.base) / self.segment;
        self.segments[at].stamp = self.clock;
        if self.current == Some(at) && end > self.cursor {
            let opened = self.segments[at].opened;
            self.owned.insert(base, (end, Owner::Resting { opened }));
        }
    }

    /// Merges a range with the withheld ones beside it.
    fn withhold(&mut self, base: usize) {
        let Some((mut end, _)) = self.owned.remove(&base) else { return };
        self.withheld += end - base;
        let mut start = base;
        if let Some((next, Owner::Withheld)) = self.owned.get(&end).copied() {
            self.owned.remove(&end);
            end = next;
        }
        match self.owned.range(..start).next_back() {
            Some((before, (until, Owner::Withheld))) if *until == start => start = *before,
            _ => {}
        }
        self.owned.insert(start, (end, Owner::Withheld));
    }

    /// Occupies the next free range behind the sweep's own cursor, of at most `len` bytes.
    fn sweep(&mut self, len: usize) -> Sweep {
        let Some(last) = self.segments.iter().rposition(|segment| segment.opened > 0) else { return Sweep::End };
        for _ in 0..MAX_PASSED {
            let at = self.sweep;
            let segment = (at - self.base) / self.segment;
            if segment > last {
                self.sweep = self.base;
                return Sweep::End;
            }
            let segment_end = self.base + (segment + 1) * self.segment;
            let Segment { opened, .. } = self.segments[segment];
            // Nothing behind the cursor was in use, unless the segment was open before.
            let end = if self.current == Some(segment) && opened == 1 { self.cursor } else { segment_end };
            if opened == 0 || at >= end {
                self.sweep = segment_end;
                continue;
            }
            match self.owned.range(..=at).next_back() {
                Some((_, (passed, _))) if *passed > at => self.sweep = *passed,
                _ => {
                    let next = self.owned.range(at..).next().map_or(end, |(start, _)| *start);
                    let until = next.min(end).min(at.saturating_add(len));
                    self.sweep = until;
                    self.owned.insert(at, (until, Owner::Occupied));
                    return Sweep::Range(Swept(Place { start: at, base: at, len: until - at }));
                }
            }
        }
        Sweep::Passed
    }

    fn swept(&mut self, base: usize) {
        self.owned.remove(&base);
    }
}

#[cfg(test)]
mod tests;
