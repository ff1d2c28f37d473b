//! `rknpu_ioctl.h`, vendor driver 0.7 to 0.9.8, both flavours (`docs/design/rknpu.md` §2).
//!
//! MEM_CREATE always sends the 48 bytes of the newest driver, zeroed (§2.3). DRM pads and truncates them for older
//! drivers. The misc flavour of 0.8 copies its own, smaller size and ignores the size in the number. The misc flavour
//! of 0.9.8 would overrun its stack with *more* than 48.
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::ioctl::{adopt, Request};

/// Allows scattered pages; contiguous ones without it. The misc flavour refuses it.
pub const NON_CONTIGUOUS: u32 = 0x001;
/// Maps CPU-cached memory; required by MEM_SYNC.
pub const CACHEABLE: u32 = 0x002;
/// Maps uncached Normal memory. With neither this nor CACHEABLE, the mapping is Device memory, on which memcpy can
/// raise SIGBUS (§3.2).
pub const WRITE_COMBINE: u32 = 0x004;
/// Uses on-chip SRAM as far as it suffices.
pub const TRY_ALLOC_SRAM: u32 = 0x100;
/// Skips the alignment of the device address to the next power of two of the size (§3.3). Older drivers ignore it.
pub const IOMMU_LIMIT_IOVA_ALIGNMENT: u32 = 0x400;

/// MEM_SYNC: cleans the CPU caches.
pub const SYNC_TO_DEVICE: u32 = 1;
/// MEM_SYNC: invalidates the CPU caches.
pub const SYNC_FROM_DEVICE: u32 = 2;

/// Codes of ACTION (§2.6). Codes that reset, power or re-clock the NPU are left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// The driver's version: major * 10000 + minor * 100 + patch.
    GetDriverVersion = 1,
    /// Whether the NPU accesses memory through an IOMMU.
    GetIommuEnabled = 18,
    /// Total SRAM in bytes; EINVAL before driver 0.8.
    GetTotalSram = 22,
    /// Free SRAM in bytes; EINVAL before driver 0.8.
    GetFreeSram = 23,
    /// The active domain of the *device*; EINVAL on a device without domains.
    GetIommuDomain = 24,
    /// Switches the device's domain, for every process, until the next switch.
    SetIommuDomain = 25,
}

/// `struct rknpu_action`.
#[repr(C)]
#[derive(Clone, Copy)]
struct RawAction {
    flags: u32,
    value: u32,
}

const _: () = assert!(size_of::<RawAction>() == 8 && offset_of!(RawAction, flags) == 0);
const _: () = assert!(offset_of!(RawAction, value) == 4);

/// `struct rknpu_mem_create`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MemCreate {
    /// In: 0 to allocate, else the object to query (DRM) or the dma-buf fd to import (misc). Out: handle or fd.
    pub handle: u32,
    /// In: flags of this file.
    pub flags: u32,
    /// In: bytes requested. Out: bytes in whole pages.
    pub size: u64,
    /// Out: a kernel pointer. It never leaves the backend, and no caller supplies it (`docs/design/safety.md` §4).
    pub obj_addr: u64,
    /// Out: the NPU's address.
    pub dma_addr: u64,
    /// In: bytes of SRAM wanted, 0 for as much as fits. Out: bytes of SRAM allocated.
    pub sram_size: u64,
    /// In: the IOMMU domain, 0 to 15.
    pub iommu_domain_id: i32,
    /// In: the mask of cores that will use the object.
    pub core_mask: u32,
}

const _: () = {
    assert!(size_of::<MemCreate>() == 48, "more than 48 overruns the kernel stack of the misc flavour (§2.3)");
    assert!(offset_of!(MemCreate, handle) == 0);
    assert!(offset_of!(MemCreate, flags) == 4);
    assert!(offset_of!(MemCreate, size) == 8);
    assert!(offset_of!(MemCreate, obj_addr) == 16);
    assert!(offset_of!(MemCreate, dma_addr) == 24);
    assert!(offset_of!(MemCreate, sram_size) == 32);
    assert!(offset_of!(MemCreate, iommu_domain_id) == 40);
    assert!(offset_of!(MemCreate, core_mask) == 44);
};

/// `struct rknpu_mem_map`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemMap {
    handle: u32,
    reserved: u32,
    offset: u64,
}

const _: () = assert!(size_of::<MemMap>() == 16 && offset_of!(MemMap, handle) == 0);
const _: () = assert!(offset_of!(MemMap, reserved) == 4 && offset_of!(MemMap, offset) == 8);

/// `struct rknpu_mem_destroy`.
#[repr(C)]
#[derive(Clone, Copy)]
struct MemDestroy {
    handle: u32,
    reserved: u32,
    obj_addr: u64,
}

const _: () = assert!(size_of::<MemDestroy>() == 16 && offset_of!(MemDestroy, handle) == 0);
const _: () = assert!(offset_of!(MemDestroy, reserved) == 4 && offset_of!(MemDestroy, obj_addr) == 8);

/// `struct rknpu_mem_sync`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemSync {
    /// [`SYNC_TO_DEVICE`], [`SYNC_FROM_DEVICE`] or both.
    pub flags: u32,
    /// Always zero.
    pub reserved: u32,
    /// The kernel pointer of MEM_CREATE. The driver dereferences it unchecked: a stale one crashes the kernel (§2.5).
    pub obj_addr: u64,
    /// Offset in bytes, unchecked by the driver.
    pub offset: u64,
    /// Length in bytes, unchecked by the driver.
    pub size: u64,
}

const _: () = {
    assert!(size_of::<MemSync>() == 32);
    assert!(offset_of!(MemSync, flags) == 0);
    assert!(offset_of!(MemSync, reserved) == 4);
    assert!(offset_of!(MemSync, obj_addr) == 8);
    assert!(offset_of!(MemSync, offset) == 16);
    assert!(offset_of!(MemSync, size) == 24);
};

/// The memory ioctls of one flavour. Both flavours take the same structs; their numbers differ.
pub struct Flavour {
    action: Request<RawAction>,
    create: Request<MemCreate>,
    map: Request<MemMap>,
    destroy: Request<MemDestroy>,
    sync: Request<MemSync>,
}

impl Flavour {
    const fn of(kind: u8, base: u8) -> Self {
        // SAFETY: rknpu_ioctl.h declares these numbers with these structs, in both flavours (§2.1, §2.2). On another
        // driver the same number may mean another call (rocket's PREP_BO is rknpu's MEM_CREATE), so a backend opens a
        // node only after probe.rs identified its driver. The kernel dereferences `obj_addr` unchecked, so the backends
        // pass only a pointer that MEM_CREATE gave, while the object lives.
        unsafe {
            Self {
                action: Request::read_write(kind, base),
                create: Request::read_write(kind, base + 2),
                map: Request::read_write(kind, base + 3),
                destroy: Request::read_write(kind, base + 4),
                sync: Request::read_write(kind, base + 5),
            }
        }
    }

    /// ACTION: queries or sets a property of the device; returns the value that the driver left.
    pub fn action(&self, fd: BorrowedFd<'_>, action: Action, value: u32) -> Result<u32, Errno> {
        let mut raw = RawAction { flags: action as u32, value };
        self.action.call(fd, &mut raw)?;
        Ok(raw.value)
    }

    /// MEM_CREATE: allocates, imports or queries an object, as `create.handle` says.
    pub fn mem_create(&self, fd: BorrowedFd<'_>, create: &mut MemCreate) -> Result<(), Errno> {
        self.create.call(fd, create).map(drop)
    }

    /// MEM_MAP: the offset for `mmap` on the device's own fd. The driver refuses imports; the misc flavour refuses all.
    pub fn mem_map(&self, fd: BorrowedFd<'_>, handle: u32) -> Result<u64, Errno> {
        let mut map = MemMap { handle, reserved: 0, offset: 0 };
        self.map.call(fd, &mut map)?;
        Ok(map.offset)
    }

    /// MEM_DESTROY: frees an object. DRM reads only `handle`, the misc flavour only `obj_addr`.
    pub fn mem_destroy(&self, fd: BorrowedFd<'_>, handle: u32, obj_addr: u64) -> Result<(), Errno> {
        self.destroy.call(fd, &mut MemDestroy { handle, reserved: 0, obj_addr }).map(drop)
    }

    /// MEM_SYNC: cleans or invalidates the CPU caches of a range.
    pub fn mem_sync(&self, fd: BorrowedFd<'_>, mut sync: MemSync) -> Result<(), Errno> {
        self.sync.call(fd, &mut sync).map(drop)
    }
}

/// The flavour of a DRM node whose driver is named "rknpu".
pub const DRM: Flavour = Flavour::of(b'd', 0x40);
/// The flavour of /dev/rknpu.
pub const MISC: Flavour = Flavour::of(b'r', 0);

/// MEM_CREATE on /dev/rknpu with `create.handle` = 0: creates a buffer and returns its fd. The driver opens it with
/// O_RDWR and O_CLOEXEC (`docs/design/drivers.md` §2).
pub fn create_dma_buf(fd: BorrowedFd<'_>, create: &mut MemCreate) -> Result<OwnedFd, Errno> {
    create.handle = 0;
    MISC.mem_create(fd, create)?;
    // SAFETY: the call succeeded with handle 0, so the kernel created a new fd for this process and stored it there.
    // `adopt` refuses a number beyond an int, which becomes negative.
    unsafe { adopt(create.handle as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_rknpu_md_2_1() {
        let numbers = |flavour: &Flavour| {
            [
                flavour.action.number(),
                flavour.create.number(),
                flavour.map.number(),
                flavour.destroy.number(),
                flavour.sync.number(),
            ]
        };
        assert_eq!(numbers(&DRM), [0xC008_6440, 0xC030_6442, 0xC010_6443, 0xC010_6444, 0xC020_6445]);
        assert_eq!(numbers(&MISC), [0xC008_7200, 0xC030_7202, 0xC010_7203, 0xC010_7204, 0xC020_7205]);
    }
}
