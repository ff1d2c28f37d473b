//! Address ranges: their owners, and when the kernel may reuse the addresses.
//!
//! A [`Mapping`] that was never exposed is unmapped when it drops. One that JavaScript has seen must not be unmapped:
//! views, operations in flight and moved ArrayBuffers may still hold its addresses, and the next `mmap` would give
//! those addresses to other memory (`docs/design/runtimes.md` §3.1). [`Mapping::retire`] returns the *memory* at once
//! by mapping private zero pages over the range, and leaves a [`Retired`] range: reads find zeros, writes reach no
//! other memory, and no access faults. Dropping a `Retired` keeps its addresses out of use for ever, which is the safe
//! default. [`Retired::give_back`] queues the addresses behind other retired ranges (`docs/design/safety.md` §3).
//!
//! An [`AddressHint`] suggests the addresses of a mapping. Hints and MAP_FIXED need `mmap` itself; memmap2 makes the
//! mappings without a hint.
//!
//! Only this file accesses memory by address in the core, besides the ioctls of `abi/`.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{c_int, c_void};
use std::io;
use std::mem;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use memmap2::{MmapOptions, MmapRaw};

use super::address_space::{top_of_addresses, AddressHint};
use super::page::page_size;
use crate::sync::{Mutex, MutexGuard};
use crate::units::{align_down, align_up};

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

/// A mapped range and its address hint. Dropping it does not unmap the range.
#[derive(Debug, PartialEq, Eq)]
struct Whole {
    base: usize,
    len: usize,
    /// `None` if the kernel chose the addresses.
    hint: Option<AddressHint>,
}

impl Whole {
    /// Maps `bytes` of `content`, at a multiple of `alignment` if the kernel accepts the hint.
    fn map(bytes: usize, alignment: u64, content: Content<'_>) -> io::Result<Self> {
        let len =
            usize::try_from(align_up(bytes as u64, page_size()).ok_or_else(no_memory)?).map_err(|_| no_memory())?;
        let Some(hint) = AddressHint::find(len as u64, alignment) else { return Self::map_anywhere(len, content) };
        let (flags, fd, offset) = match content {
            // No MAP_NORESERVE here: only retired ranges have it. The kernel would otherwise merge written pages with a
            // retired range, and that range could not merge with the next one.
            Content::Zeros => (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0),
            Content::Shared { fd, offset } => (libc::MAP_SHARED, fd.as_raw_fd(), offset),
        };
        let address = hint.address() as *mut c_void;
        // SAFETY: without MAP_FIXED, mmap replaces no existing mapping, wherever the hint points.
        let at = unsafe { libc::mmap64(address, len, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = at as usize;
        let hint = match hint.address() == base {
            true => Some(hint),
            false => {
                // Another mapping occupies the hinted addresses and may stay there.
                hint.keep();
                None
            }
        };
        Ok(Self { base, len, hint })
    }

    /// Maps `len` bytes of `content` at addresses of the kernel's choice, because the address window is full or
    /// missing.
    fn map_anywhere(len: usize, content: Content<'_>) -> io::Result<Self> {
        let mut options = MmapOptions::new();
        let map = match content {
            Content::Zeros => MmapRaw::from(options.len(len).map_anon()?),
            Content::Shared { fd, offset } => options.len(len).offset(offset as u64).map_raw(fd.as_raw_fd())?,
        };
        let base = map.as_mut_ptr().expose_provenance();
        mem::forget(map); // `unmap` ends the mapping
        Ok(Self { base, len, hint: None })
    }

    /// Unmaps the range. A later hint may suggest its addresses again.
    fn unmap(self) {
        // SAFETY: the range is mapped, and its single owner gives it up here. The module's header says what a pointer
        // into it that is still in use would break.
        unsafe { libc::munmap(self.base as *mut c_void, self.len) };
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
        if (aligned.base as u64).is_multiple_of(alignment.max(page_size())) {
            return Ok(Self::over(aligned, 0, bytes));
        }
        aligned.unmap();
        let slack = alignment.checked_add(len).ok_or_else(no_memory)?;
        let whole = Whole::map(to_usize(slack)?, page_size(), Content::Zeros)?;
        let first = align_up(whole.base as u64, alignment).ok_or_else(no_memory)?;
        let start = first as usize - whole.base;
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
        if (whole.base as u64).is_multiple_of(alignment.max(page_size())) {
            return Ok(Self::over(whole, 0, bytes));
        }
        whole.unmap();
        let mapping = Self::anonymous(len, alignment)?;
        // SAFETY: MAP_FIXED replaces exactly the aligned part of the range that `mapping` has just reserved and that no
        // other code knows. If the range were not ours, this would unmap a stranger's memory.
        let at = unsafe {
            libc::mmap64(
                mapping.address().cast(),
                mapping.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_FIXED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(mapping)
    }

    fn over(whole: Whole, start: usize, len: usize) -> Self {
        let address = whole.base + start;
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

    /// Returns the memory now and keeps the addresses: private zero pages replace the previous mapping.
    ///
    /// Returns `None` if the mapping was retired before. If the kernel has no room for one more mapping, this changes
    /// nothing, and a later call may try again.
    pub fn retire(&self) -> io::Result<Option<Retired>> {
        if self.retired.swap(true, Ordering::AcqRel) {
            return Ok(None);
        }
        let mut held = self.whole();
        let Some(whole) = held.take() else { return Ok(None) };
        // SAFETY: the range is exactly the one that `whole` owns, so this replaces no stranger's mapping. The range
        // stays mapped and writable without a gap, so a stale pointer in JavaScript or in an operation in flight never
        // faults.
        let at = unsafe {
            libc::mmap64(
                whole.base as *mut c_void,
                whole.len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_FIXED | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if at == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
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
    /// Queues the addresses for reuse, after a minimum time and behind other ranges. JavaScript no longer reaches them.
    /// Only an operation that was in flight at the free may still hold one.
    pub fn give_back(mut self) {
        let Some(whole) = self.0.take() else { return };
        let mut line = QUARANTINE.lock();
        line.bytes += whole.len as u64;
        line.ranges.push_back((Instant::now(), whole));
        let limit = quarantine_limit();
        while line.bytes > limit || line.ranges.len() > MAX_QUARANTINED {
            match line.ranges.front() {
                Some((since, _)) if since.elapsed() >= MIN_QUARANTINE => {}
                _ => break,
            }
            if let Some((_, oldest)) = line.ranges.pop_front() {
                line.bytes -= oldest.len as u64;
                oldest.unmap();
            }
        }
    }
}

impl Drop for Retired {
    fn drop(&mut self) {
        let hint = self.0.take().and_then(|whole| whole.hint);
        hint.into_iter().for_each(AddressHint::keep);
    }
}

#[derive(Default)]
struct Quarantine {
    ranges: VecDeque<(Instant, Whole)>,
    bytes: u64,
}

static QUARANTINE: Mutex<Quarantine> = Mutex::new(Quarantine { ranges: VecDeque::new(), bytes: 0 });

/// The minimum time in quarantine under any pressure: longer than a disk or socket operation should take.
const MIN_QUARANTINE: Duration = Duration::from_secs(10);
/// The maximum number of ranges in quarantine. Neighbouring zero pages merge into one mapping, but in the worst case
/// each range is one of `vm.max_map_count`.
const MAX_QUARANTINED: usize = 8192;

/// The maximum bytes of addresses in quarantine: a 64th of the address space. That is 2 TiB with 47-bit addresses and 8
/// GiB with the 39 bits of some arm64 kernels. A kernel with a strict commit limit (`vm.overcommit_memory` = 2) counts
/// every private page, so the maximum is 256 MiB there.
fn quarantine_limit() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let strict = std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2");
        if strict {
            return 256 << 20;
        }
        align_down(top_of_addresses() / 64, page_size())
    })
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
            assert_eq!((whole.len, whole.hint.is_none()), (len, true));
            let base = whole.base;
            let mapping = Mapping::over(whole, 0, len);
            let mut bytes = [1; 11];
            mapping.read(0, &mut bytes);
            assert_eq!(bytes, expected);
            mapping.write(page_size(), b"x");
            let retired = mapping.retire().unwrap().unwrap();
            mapping.read(0, &mut bytes);
            assert_eq!((bytes, retired.0.as_ref().unwrap().base), ([0; 11], base));
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
        assert_ne!(elsewhere.address() as usize, retired.0.as_ref().unwrap().base);
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
    fn the_quarantine_is_a_share_of_the_address_space() {
        let limit = quarantine_limit();
        assert!(limit == 256 << 20 || (1 << 32..=1 << 52).contains(&limit), "{limit:#x}");
    }
}
