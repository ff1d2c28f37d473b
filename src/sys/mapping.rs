//! Address ranges: their owners, and when the kernel may reuse the addresses.
//!
//! A [`Mapping`] that was never exposed is unmapped when it drops. One that JavaScript has seen must not be unmapped:
//! views, operations in flight and moved ArrayBuffers may still hold its addresses, and the next `mmap` would give
//! those addresses to other memory (`docs/design/runtimes.md` §3.1). [`Mapping::retire`] returns the *memory* at once
//! by mapping private zero pages over the range, and leaves a [`Retired`] range: reads find zeros, writes reach no
//! other memory, and no access faults. Dropping a `Retired` keeps its addresses out of use for ever, which is the safe
//! default. [`Retired::give_back`] lets the addresses be reused, after all others (`docs/design/safety.md` §3).
//!
//! Addresses come from the window of [`address_space`](super::address_space), or from the kernel if that has no room.
//! memmap2 makes the mappings that the kernel places; those in the window need MAP_FIXED.
//!
//! Only this file accesses memory by address in the core, besides the ioctls of `abi/`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::address_space::Place;
use super::page::page_size;
use super::quarantine::{self, KernelRange};
use super::zero_pages;
use crate::sync::{Mutex, MutexGuard};
use crate::units::align_up;

/// An owned, readable and writable range of addresses.
///
/// A device, other processes or JavaScript share its bytes. So raw copies access them, never a `&[u8]`.
#[derive(Debug)]
pub struct Mapping {
    /// The whole mapped range, slack for the alignment included. `None` once retired.
    whole: Mutex<Option<Whole>>,
    /// The address of the first byte.
    address: usize,
    len: usize,
    retired: AtomicBool,
}

/// The content of a new mapping.
#[derive(Clone, Copy)]
enum Content<'a> {
    /// Private zero pages.
    Zeros,
    /// The bytes of `fd` from `offset` on, shared.
    Shared { fd: BorrowedFd<'a>, offset: libc::off64_t },
}

/// A mapped range. Dropping it does not unmap the range.
#[derive(Debug, PartialEq, Eq)]
enum Whole {
    /// In the window.
    Placed(Place),
    /// Where the kernel chose.
    Kernel(KernelRange),
}

impl Whole {
    /// Maps `bytes` of `content`, at a multiple of `alignment` if the window has room.
    fn map(bytes: usize, alignment: u64, content: Content<'_>) -> io::Result<Self> {
        let len =
            usize::try_from(align_up(bytes as u64, page_size()).ok_or_else(no_memory)?).map_err(|_| no_memory())?;
        let Some(place) = Place::find(len, alignment) else {
            return match Self::map_anywhere(len, content) {
                Err(error) if error.raw_os_error() == Some(libc::ENOMEM) && quarantine::give_way(len) => {
                    Self::map_anywhere(len, content)
                }
                mapped => mapped,
            };
        };
        // SAFETY: `place` owns the range.
        match unsafe { content.map_over(place.base(), len) } {
            Ok(()) => Ok(Self::Placed(place)),
            Err(error) => {
                // A driver refuses after the kernel has unmapped what was there: before Linux 6.12 for good.
                Self::Placed(place).unmap();
                Err(error)
            }
        }
    }

    /// Maps `len` bytes of `content` at addresses of the kernel's choice, because the window is full or missing.
    fn map_anywhere(len: usize, content: Content<'_>) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        let map = match content {
            Content::Zeros => MmapRaw::from(options.len(len).map_anon()?),
            Content::Shared { fd, offset } => options.len(len).offset(offset as u64).map_raw(fd.as_raw_fd())?,
        };
        let base = map.as_mut_ptr().expose_provenance();
        mem::forget(map); // `unmap` ends the mapping
        Ok(Self::Kernel(KernelRange { base, len }))
    }

    fn base(&self) -> usize {
        match self {
            Self::Placed(place) => place.base(),
            Self::Kernel(range) => range.base,
        }
    }

    /// Replaces the mapping with zero pages.
    fn put_zeros(&self) -> io::Result<()> {
        let (base, len, exclusive) = match self {
            Self::Placed(place) => (place.whole().0, place.whole().1, true),
            Self::Kernel(range) => (range.base, range.len, false),
        };
        // SAFETY: this owns exactly the range, so no stranger's mapping is replaced. The range stays mapped, so a stale
        // pointer in JavaScript or in an operation in flight does not fault.
        unsafe { zero_pages::put(base, len, exclusive) }
    }

    /// Ends the mapping. JavaScript has not seen the range: its addresses may be used again.
    fn unmap(self) {
        match self {
            Self::Kernel(range) => range.unmap(),
            whole if whole.put_zeros().is_ok() => whole.give_back(),
            // Nothing may be placed over the memory, or over a hole: the place is withheld.
            Self::Placed(place) => KernelRange { base: place.base(), len: place.len() }.unmap(),
        }
    }

    /// Lets the addresses be reused, after all others. Zero pages are mapped there.
    fn give_back(self) {
        match self {
            Self::Placed(place) => quarantine::release(place),
            Self::Kernel(range) => quarantine::wait(range),
        }
    }
}

impl Content<'_> {
    /// Maps `len` bytes of this content at `base`.
    ///
    /// # Safety
    ///
    /// The caller owns the whole range, and its memory ends here.
    unsafe fn map_over(self, base: usize, len: usize) -> io::Result<()> {
        let (flags, fd, offset) = match self {
            // No MAP_NORESERVE here: only zero pages over free addresses have it. The kernel would otherwise merge
            // written pages with them.
            Self::Zeros => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Self::Shared { fd, offset } => (libc::MAP_SHARED, fd.as_raw_fd(), offset),
        };
        let (writable, flags) = (libc::PROT_READ | libc::PROT_WRITE, flags | libc::MAP_FIXED);
        // SAFETY: MAP_FIXED replaces exactly the caller's range. If that were not the caller's, this would unmap a
        // stranger's memory.
        match unsafe { libc::mmap64(base as *mut c_void, len, writable, flags, fd, offset) } {
            libc::MAP_FAILED => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

fn no_memory() -> io::Error {
    io::Error::from_raw_os_error(libc::ENOMEM)
}

impl Mapping {
    /// Maps private zero pages, `len` bytes at a multiple of `alignment`.
    pub fn anonymous(len: u64, alignment: u64) -> io::Result<Self> {
        let bytes = to_usize(len)?;
        let aligned = Whole::map(bytes, alignment, Content::Zeros)?;
        if (aligned.base() as u64).is_multiple_of(alignment.max(page_size())) {
            return Ok(Self::over(aligned, 0, bytes));
        }
        aligned.unmap();
        let slack = alignment.checked_add(len).ok_or_else(no_memory)?;
        let whole = Whole::map(to_usize(slack)?, page_size(), Content::Zeros)?;
        let first = align_up(whole.base() as u64, alignment).ok_or_else(no_memory)?;
        let start = first as usize - whole.base();
        Ok(Self::over(whole, start, bytes))
    }

    /// Maps `len` bytes of `fd` at `offset`, shared, at a multiple of `alignment`.
    ///
    /// `offset` is the one that the driver gave for the object, which is always its start. The mmap of a dma-buf or of
    /// rknpu ignores any other offset (`docs/design/drivers.md` §1.5).
    pub fn shared(fd: BorrowedFd<'_>, offset: u64, len: u64, alignment: u64) -> io::Result<Self> {
        let bytes = to_usize(len)?;
        let offset = libc::off64_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let whole = Whole::map(bytes, alignment, Content::Shared { fd, offset })?;
        if (whole.base() as u64).is_multiple_of(alignment.max(page_size())) {
            return Ok(Self::over(whole, 0, bytes));
        }
        whole.unmap();
        let mapping = Self::anonymous(len, alignment)?;
        let content = Content::Shared { fd, offset };
        // SAFETY: this is the aligned part of the range that `mapping` has just reserved and that no other code knows.
        let mapped = unsafe { content.map_over(mapping.address, mapping.len.next_multiple_of(page_size() as usize)) };
        if let Err(error) = mapped {
            // Drops `mapping` without a hole in it: unmapping a hole could unmap what another thread has mapped there.
            let plugged = mapping.whole().as_ref().map(Whole::put_zeros);
            if let Some(Err(_)) = plugged {
                mem::forget(mapping);
            }
            return Err(error);
        }
        Ok(mapping)
    }

    fn over(whole: Whole, start: usize, len: usize) -> Self {
        let address = whole.base() + start;
        Self { whole: Mutex::new(Some(whole)), address, len, retired: AtomicBool::new(false) }
    }

    /// The address of the first byte.
    pub fn address(&self) -> *mut u8 {
        ptr::with_exposed_provenance_mut(self.address)
    }

    /// The length in bytes, at least one.
    pub fn len(&self) -> u64 {
        self.len as u64
    }

    /// Always `false`: no mapping is empty.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Writes zeros over `range` (bytes from the start). Ignores the part beyond the end.
    pub fn zero(&self, range: Range<u64>) {
        self.fill(range, 0);
    }

    /// Writes `byte` over `range` (bytes from the start). Ignores the part beyond the end.
    pub fn fill(&self, range: Range<u64>, byte: u8) {
        let end = (range.end.min(self.len as u64)) as usize;
        let start = (range.start.min(end as u64)) as usize;
        // SAFETY: start..end lies inside the mapping, which is readable and writable while `self` lives, retired or
        // not. Other threads and the device may write it too; a plain byte fill has no invariant to break.
        unsafe { ptr::write_bytes(self.address().add(start), byte, end - start) }
    }

    /// Copies `bytes` into the mapping at `offset`. Drops the bytes that would pass the end.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        let start = (offset.min(self.len as u64)) as usize;
        let count = bytes.len().min(self.len - start);
        // SAFETY: the target lies inside the mapping (see `fill`); the source is a slice of other memory.
        unsafe { ptr::copy(bytes.as_ptr(), self.address().add(start), count) }
    }

    /// Copies `count` bytes of `source`, starting at `from`, to `offset`. The ranges may overlap in one mapping. Drops
    /// the bytes that would pass either end.
    pub fn copy(&self, offset: u64, source: &Self, from: u64, count: u64) {
        let start = (offset as usize).min(self.len);
        let at = (from as usize).min(source.len);
        let count = (count as usize).min(self.len - start).min(source.len - at);
        // SAFETY: both ranges lie inside their mappings (see `fill`), and `copy` allows them to overlap.
        unsafe { ptr::copy(source.address().add(at), self.address().add(start), count) }
    }

    /// Copies bytes out of the mapping, starting at `offset`. Fills the part beyond the end with zeros.
    pub fn read(&self, offset: u64, bytes: &mut [u8]) {
        let start = (offset.min(self.len as u64)) as usize;
        let count = bytes.len().min(self.len - start);
        // SAFETY: the source lies inside the mapping (see `fill`); this function alone holds the target.
        unsafe { ptr::copy(self.address().add(start), bytes.as_mut_ptr(), count) }
        bytes[count..].fill(0);
    }

    /// Asks for transparent huge pages.
    pub fn huge_pages(&self) -> io::Result<()> {
        self.advise(libc::MADV_HUGEPAGE)
    }

    fn advise(&self, advice: c_int) -> io::Result<()> {
        // SAFETY: the range is mapped and ours. No advice of this file discards bytes.
        match unsafe { libc::madvise(self.address().cast(), self.len, advice) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Faults every page in, writable.
    pub fn prefault(&self) -> io::Result<()> {
        match self.advise(libc::MADV_POPULATE_WRITE) {
            // Linux before 5.14 does not know this advice: touch each page instead.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                for offset in (0..self.len).step_by(page_size() as usize) {
                    let at = self.address().wrapping_add(offset);
                    // SAFETY: `at` lies inside the mapping. The access is volatile, so that the compiler keeps the
                    // write of the same byte.
                    unsafe { ptr::write_volatile(at, ptr::read_volatile(at)) }
                }
                Ok(())
            }
            other => other,
        }
    }

    /// Locks the pages in RAM.
    pub fn lock(&self) -> io::Result<()> {
        // SAFETY: the range is mapped and ours. mlock changes no byte.
        match unsafe { libc::mlock(self.address().cast(), self.len) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Returns the memory now and keeps the addresses: zero pages replace the previous mapping.
    ///
    /// Returns `None` if the mapping was retired before. If the kernel accepts no zero pages, this changes nothing, and
    /// a later call may try again.
    pub fn retire(&self) -> io::Result<Option<Retired>> {
        if self.retired.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        let mut held = self.whole();
        let Some(whole) = held.take() else { return Ok(None) };
        if let Err(error) = whole.put_zeros() {
            *held = Some(whole);
            self.retired.store(false, Ordering::Release);
            return Err(error);
        }
        Ok(Some(Retired(Some(whole))))
    }

    fn whole(&self) -> MutexGuard<'_, Option<Whole>> {
        self.whole.lock()
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // JavaScript has not seen the range; the owner would have called `retire` otherwise. The module's header says
        // what a later access would break.
        let whole = self.whole().take();
        whole.into_iter().for_each(Whole::unmap);
    }
}

/// A range of addresses whose memory was returned. Dropping it keeps the addresses out of use for ever.
#[derive(Debug, PartialEq, Eq)]
pub struct Retired(Option<Whole>);

impl Retired {
    /// Lets the addresses be reused, after all others. JavaScript no longer reaches them. Only an operation that was in
    /// flight at the free may still hold one.
    pub fn give_back(mut self) {
        self.0.take().into_iter().for_each(Whole::give_back);
    }
}

fn to_usize(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn aligned_ranges_hold_their_bytes() {
        for alignment in [64, page_size(), 1 << 16, 1 << 21] {
            let mapping = Mapping::anonymous(3 * page_size() + 1, alignment).unwrap();
            assert_eq!(mapping.address() as u64 % alignment.max(page_size()), 0);
            mapping.write(10, b"hello");
            let mut back = [0xff; 8];
            mapping.read(8, &mut back);
            assert_eq!(&back, b"\0\0hello\0");
        }
    }

    #[test]
    fn without_a_hint_the_kernel_places_either_content_and_all_of_it_is_unmapped() {
        use nix::sys::memfd::{memfd_create, MFdFlags};
        let len = 2 * page_size() as usize;
        let file = std::fs::File::from(memfd_create("rkllm-mapping", MFdFlags::MFD_CLOEXEC).unwrap());
        file.set_len(3 * page_size()).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, b"second page", page_size()).unwrap();
        let shared = Content::Shared { fd: std::os::fd::AsFd::as_fd(&file), offset: page_size() as i64 };
        for (content, expected) in [(Content::Zeros, [0; 11]), (shared, *b"second page")] {
            let whole = Whole::map_anywhere(len, content).unwrap();
            let base = whole.base();
            assert_eq!(whole, Whole::Kernel(KernelRange { base, len }));
            let mapping = Mapping::over(whole, 0, len);
            let mut bytes = [1; 11];
            mapping.read(0, &mut bytes);
            assert_eq!(bytes, expected);
            mapping.write(page_size(), b"x");
            let retired = mapping.retire().unwrap().unwrap();
            mapping.read(0, &mut bytes);
            assert_eq!((bytes, retired.0.as_ref().unwrap().base()), ([0; 11], base));
        }
        let mut last = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut last, 2 * page_size()).unwrap();
        assert_eq!(&last, b"x", "what was written is in the file");
    }

    #[test]
    fn out_of_range_accesses_stay_inside() {
        let mapping = Mapping::anonymous(page_size(), 64).unwrap();
        mapping.fill(page_size() - 2..u64::MAX, 7);
        mapping.write(u64::MAX, b"x");
        mapping.write(page_size() - 1, b"yz");
        let mut back = [1; 4];
        mapping.read(page_size() - 2, &mut back);
        assert_eq!(back, [7, b'y', 0, 0]);
    }

    #[test]
    fn a_retired_range_reads_zero_takes_writes_and_is_retired_once() {
        let mapping = Mapping::anonymous(page_size(), 64).unwrap();
        mapping.write(0, b"secret");
        let retired = mapping.retire().unwrap().unwrap();
        assert_eq!(mapping.retire().unwrap(), None);
        let mut back = [1; 6];
        mapping.read(0, &mut back);
        assert_eq!(back, [0; 6]);
        mapping.write(0, b"stale");
        drop(mapping); // the range stays reserved: no other mapping may be placed there
        let elsewhere = Mapping::anonymous(page_size(), 64).unwrap();
        assert_ne!(elsewhere.address() as usize, retired.0.as_ref().unwrap().base());
        retired.give_back();
    }

    #[test]
    fn ranges_that_are_retired_for_good_merge_into_one_mapping() {
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let retire = || drop(Mapping::anonymous(page_size(), 64).unwrap().retire().unwrap());
        retire();
        let before = maps();
        for _ in 0..1000 {
            retire();
            // Unrelated mappings come and go in between.
            drop(vec![0_u8; 1 << 20]);
        }
        assert!(maps() < before + 100, "{before} → {}", maps());
    }

    #[test]
    fn an_address_that_was_given_back_is_not_soon_used_again() {
        let fifo = Mapping::anonymous(1 << 16, 64).unwrap();
        let address = fifo.address();
        fifo.retire().unwrap().unwrap().give_back();
        let maps = || std::fs::read_to_string("/proc/self/maps").unwrap().lines().count();
        let before = maps();
        for i in 0..20_000 {
            let other = Mapping::anonymous(1 << 16, 64).unwrap();
            assert_ne!(other.address(), address, "after {i} others");
            if i % 2 == 0 {
                other.retire().unwrap().unwrap().give_back();
            }
        }
        assert!(maps() < before + 100, "{before} → {}", maps());
    }

    #[test]
    fn pages_that_late_writers_dirtied_go_back_to_the_kernel() {
        let resident = |mapping: &Mapping| {
            let mut pages = [0_u8; 16];
            // SAFETY: `pages` has a byte for each page of the mapping; the call changes no memory but that.
            let done = unsafe { libc::mincore(mapping.address().cast(), mapping.len, pages.as_mut_ptr()) };
            assert_eq!(done, 0);
            pages.iter().filter(|page| **page & 1 == 1).count()
        };
        let window = Mapping::anonymous(16 * page_size(), 64).unwrap();
        let whole = Whole::map_anywhere(16 * page_size() as usize, Content::Zeros).unwrap();
        let len = 16 * page_size() as usize;
        for mapping in [window, Mapping::over(whole, 0, len)] {
            let retired = mapping.retire().unwrap().unwrap();
            mapping.fill(0..u64::MAX, 1); // an operation that was in flight at the free
            assert_eq!(resident(&mapping), 16);
            retired.give_back(); // at least 64 KiB
            assert_eq!(resident(&mapping), 0);
            // An operation that waits still longer.
            mapping.fill(0..u64::MAX, 2);
            // Another test's step of the sweep may have the range at this moment.
            let cleaned = (0..1000).any(|_| {
                quarantine::clean();
                resident(&mapping) == 0
            });
            assert!(cleaned);
        }
    }

    #[test]
    fn a_mapping_that_was_refused_leaves_zero_pages_and_no_hole() {
        let file = std::fs::File::open("/proc/self/status").unwrap(); // a file that cannot be mapped
        let content = Content::Shared { fd: std::os::fd::AsFd::as_fd(&file), offset: 0 };
        let place = Place::find(1 << 16, 64).unwrap();
        let base = place.base();
        place.release();
        assert!(Whole::map(1 << 16, 64, content).is_err());
        assert!(!zero_pages::reserve(base, 1 << 17), "zero pages are mapped there");
        assert!(Mapping::shared(std::os::fd::AsFd::as_fd(&file), 0, 1 << 16, 1 << 30).is_err());
    }
}
