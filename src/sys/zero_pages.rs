//! Zero pages over addresses that hold no memory any more: reads find zeros, writes reach no other memory.
//!
//! Their mappings cost the kernel nothing until a late writer touches them, and neighbours merge into one mapping.
//! [`put`] never leaves a hole: before Linux 6.12 the kernel unmaps first when MAP_FIXED replaces a mapping, and a
//! refusal comes after that. The next `mmap` of any thread could then land in the hole, under a stale pointer.
//!
//! Two kinds of pages serve, of which `put` takes the first that the kernel accepts:
//!
//! - *Private* anonymous pages with MAP_NORESERVE. A strict commit limit (`vm.overcommit_memory` = 2) counts them, and
//!   so does RLIMIT_DATA.
//! - *Scratch*: a shared mapping of a sparse memfd, at the offset that equals the address, so that neighbours merge.
//!   Neither limit counts it before a page is written. Where one of them is set, this is the first kind.
//!
//! A hole that neither kind fills is filled with *read-only* private pages, which no limit counts. A late writer gets
//! EFAULT from the kernel there, or a fault of its own, but reaches no other memory.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::resource::{getrlimit, Resource, RLIM_INFINITY};

use super::page::{page_size, top_of_addresses};

/// A kind of zero pages. See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Private,
    Scratch,
    ReadOnly,
    /// No access and no memory, for addresses that were never in use.
    Reserved,
}

impl Kind {
    /// The writable kinds in the order of preference.
    fn writable() -> [Self; 2] {
        static STRICT: OnceLock<bool> = OnceLock::new();
        let strict = STRICT.get_or_init(|| {
            std::fs::read_to_string("/proc/sys/vm/overcommit_memory").is_ok_and(|mode| mode.trim() == "2")
                || getrlimit(Resource::RLIMIT_DATA).is_ok_and(|(soft, _)| soft != RLIM_INFINITY)
        });
        match strict {
            true => [Self::Scratch, Self::Private],
            false => [Self::Private, Self::Scratch],
        }
    }

    /// Maps pages of this kind. `placement` is MAP_FIXED or MAP_FIXED_NOREPLACE.
    ///
    /// # Safety
    ///
    /// With MAP_FIXED the caller owns the whole range: this replaces its mappings.
    unsafe fn map(self, base: usize, len: usize, placement: c_int) -> io::Result<()> {
        let private = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let (protection, flags, fd, offset) = match self {
            Self::Private => (writable, private, -1, 0),
            Self::ReadOnly => (libc::PROT_READ, private, -1, 0),
            Self::Reserved => (libc::PROT_NONE, private, -1, 0),
            Self::Scratch => {
                let scratch = scratch()?;
                discard(scratch, base, len)?;
                (writable, libc::MAP_SHARED | libc::MAP_NORESERVE, scratch.as_raw_fd(), base as libc::off64_t)
            }
        };
        let wanted = base as *mut c_void;
        // SAFETY: the caller owns the range, or MAP_FIXED_NOREPLACE keeps the kernel from replacing a mapping. A range
        // that belongs to other code would lose its memory here.
        let at = unsafe { libc::mmap64(wanted, len, protection, flags | placement, fd, offset) };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        if at != wanted {
            // Linux before 4.17 takes MAP_FIXED_NOREPLACE for a hint.
            // SAFETY: the kernel has just made this mapping for us, and no other code knows it.
            unsafe { libc::munmap(at, len) };
            return Err(io::Error::from_raw_os_error(libc::EEXIST));
        }
        Ok(())
    }
}

/// The sparse file behind scratch pages, once it was needed; `None` inside if it cannot be made.
static SCRATCH: OnceLock<Option<File>> = OnceLock::new();

/// Returns the file behind scratch pages.
fn scratch() -> io::Result<&'static File> {
    let open = || {
        // A limit on file sizes would answer the ftruncate with a signal that ends the process.
        let unlimited = getrlimit(Resource::RLIMIT_FSIZE).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
        let file = File::from(memfd_create("rkllm-zero-pages", MFdFlags::MFD_CLOEXEC).ok().filter(|_| unlimited)?);
        file.set_len(top_of_addresses()).ok().map(|()| file)
    };
    SCRATCH.get_or_init(open).as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// Discards the bytes that late writers left in the scratch file.
fn discard(scratch: &File, base: usize, len: usize) -> io::Result<()> {
    use nix::fcntl::{fallocate, FallocateFlags};
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    Ok(fallocate(scratch, flags, base as libc::off_t, len as libc::off_t)?)
}

/// Maps zero pages over the range in place of what is mapped there.
///
/// Errors: those of `mmap`. What was mapped is then still mapped, except if the kernel unmapped it and accepted no
/// pages at all in its place.
///
/// # Safety
///
/// The caller owns the whole range, of whole pages. The memory under it ends here. With `exclusive`, the range lies
/// where no other code maps anything, not even in a hole.
pub(super) unsafe fn put(base: usize, len: usize, exclusive: bool) -> io::Result<()> {
    // SAFETY: the caller owns the range.
    unsafe { put_first(&Kind::writable(), base, len, exclusive) }
}

/// [`put`] with the kinds to try.
///
/// # Safety
///
/// As for [`put`].
unsafe fn put_first(kinds: &[Kind], base: usize, len: usize, exclusive: bool) -> io::Result<()> {
    let mut failure = None;
    for kind in kinds {
        // SAFETY: the caller owns the range, also after a failure: either it was plugged, or it is still mapped, or
        // the next kind is only tried because no other code maps anything there.
        let Err(error) = (unsafe { kind.map(base, len, libc::MAP_FIXED) }) else { return Ok(()) };
        failure.get_or_insert(error);
        if plug(base, len) {
            return Ok(());
        }
        if !exclusive {
            break;
        }
    }
    Err(failure.unwrap_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM)))
}

/// Fills the range with zero pages if nothing is mapped there. Returns whether it did.
fn plug(base: usize, len: usize) -> bool {
    let kinds = Kind::writable().into_iter().chain([Kind::ReadOnly]);
    // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping.
    kinds.into_iter().any(|kind| unsafe { kind.map(base, len, libc::MAP_FIXED_NOREPLACE) }.is_ok())
}

/// Reserves a range that was never in use, without access. Returns false if something is mapped there, or the kernel
/// refuses. No limit on committed memory counts it.
///
/// A mapping at the start of a reserved range shortens it, which costs the kernel less than a division of zero pages.
pub(super) fn reserve(base: usize, len: usize) -> bool {
    // SAFETY: MAP_FIXED_NOREPLACE replaces no mapping.
    unsafe { Kind::Reserved.map(base, len, libc::MAP_FIXED_NOREPLACE) }.is_ok()
}

/// Reports whether new mappings are populated at once (`mlockall` with MCL_FUTURE): a reservation would then take RAM.
pub(super) fn populated_at_once() -> bool {
    let len = page_size() as usize;
    let mut resident = 0;
    // SAFETY: maps a page of its own, asks about it, and unmaps it.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let page = libc::mmap64(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        if page == libc::MAP_FAILED {
            return true;
        }
        libc::mincore(page, len, &mut resident);
        libc::munmap(page, len);
    }
    resident & 1 == 1
}

/// Returns the pages that late writers dirtied to the kernel. The range reads zeros again.
///
/// # Safety
///
/// The caller owns the range, and zero pages are mapped there: other bytes would be lost.
pub(super) unsafe fn clean(base: usize, len: usize) {
    // SAFETY: the caller owns the range, whose bytes nothing needs. A failure leaves the pages as they are.
    unsafe { libc::madvise(base as *mut c_void, len, libc::MADV_DONTNEED) };
    if let Some(scratch) = SCRATCH.get().and_then(Option::as_ref) {
        let _ = discard(scratch, base, len);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn anywhere(len: usize) -> *mut u8 {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        // SAFETY: the kernel chooses the addresses of a new mapping.
        unsafe { libc::mmap64(std::ptr::null_mut(), len, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0).cast() }
    }

    #[test]
    fn each_writable_kind_reads_zeros_takes_writes_and_is_cleaned() {
        let len = 4 * page_size() as usize;
        for kind in [Kind::Private, Kind::Scratch] {
            let at = anywhere(len);
            // SAFETY: the mapping is this test's own.
            unsafe {
                at.write(1);
                put_first(&[kind], at as usize, len, false).unwrap();
                assert_eq!(at.read(), 0);
                at.write(2);
                put_first(&[kind], at as usize, len, false).unwrap();
                assert_eq!(at.read(), 0, "the bytes of a late writer are not shown again");
                at.write(3);
                clean(at as usize, len);
                libc::munmap(at.cast(), len);
            }
        }
    }

    #[test]
    fn neighbours_of_a_kind_merge_into_one_mapping() {
        let (page, count) = (page_size() as usize, 64);
        for kind in [Kind::Private, Kind::Scratch, Kind::ReadOnly] {
            let at = anywhere(count * page) as usize;
            for i in (0..count).step_by(2).chain((1..count).step_by(2)) {
                // SAFETY: the mapping is this test's own.
                unsafe { kind.map(at + i * page, page, libc::MAP_FIXED).unwrap() };
            }
            let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
            let inside = maps.lines().filter(|line| {
                let start = line.split('-').next().and_then(|start| usize::from_str_radix(start, 16).ok()).unwrap();
                start > at && start < at + count * page
            });
            assert_eq!(inside.count(), 0, "{kind:?}");
            // SAFETY: as above.
            unsafe { libc::munmap(at as *mut c_void, count * page) };
        }
    }

    #[test]
    fn a_hole_is_plugged_and_a_mapping_is_not() {
        let len = 2 * page_size() as usize;
        let at = anywhere(len);
        // SAFETY: the mapping is this test's own.
        unsafe { at.write(7) };
        assert!(!plug(at as usize, len) && !reserve(at as usize, len));
        // SAFETY: as above.
        unsafe {
            assert_eq!(at.read(), 7);
            libc::munmap(at.cast(), len);
        }
        assert!(plug(at as usize, len));
        // SAFETY: zero pages are mapped there now.
        unsafe {
            assert_eq!(at.read(), 0);
            libc::munmap(at.cast(), len);
        }
    }
}
