//! `rknpu_ioctl.h`, vendor driver 0.7 to 0.9.8, both flavours (`docs/design/rknpu.md` §2).
//!
//! MEM_CREATE always has the 48 bytes of the newest driver, zeroed: DRM pads and cuts for older ones; the misc flavour
//! of 0.8 copies its own, smaller size whatever the number says; and 0.9.8's would overrun its stack for *more* than 48
//! (§2.3).
#![allow(unsafe_code)]

use std::mem::offset_of;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::ioctl::{adopt, Request};

/// Pages from anywhere; without it contiguous ones. Refused by the misc flavour.
pub const NON_CONTIGUOUS: u32 = 0x001;
/// CPU-cached mapping; the precondition of MEM_SYNC.
pub const CACHEABLE: u32 = 0x002;
/// Uncached but Normal memory. With neither this nor CACHEABLE the mapping is Device memory, where memcpy can raise
/// SIGBUS (§3.2).
pub const WRITE_COMBINE: u32 = 0x004;
/// On-chip SRAM as far as it goes.
pub const TRY_ALLOC_SRAM: u32 = 0x100;
/// Does not align the device address to the next power of two of the size (§3.3). Older drivers ignore it.
pub const IOMMU_LIMIT_IOVA_ALIGNMENT: u32 = 0x400;

/// MEM_SYNC: clean the CPU caches.
pub const SYNC_TO_DEVICE: u32 = 1;
/// MEM_SYNC: invalidate the CPU caches.
pub const SYNC_FROM_DEVICE: u32 = 2;

/// What ACTION asks (§2.6). Those that reset, power or re-clock the NPU are left out on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Action {
    /// major * 10000 + minor * 100 + patch.
    GetDriverVersion = 1,
    /// Whether the NPU sees memory through an IOMMU.
    GetIommuEnabled = 18,
    /// Bytes; EINVAL before driver 0.8.
    GetTotalSram = 22,
    /// Bytes; EINVAL before driver 0.8.
    GetFreeSram = 23,
    /// The domain that the *device* has switched to; EINVAL where there are none.
    GetIommuDomain = 24,
    /// Switches the device, for everybody, until somebody switches it again.
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
    /// In: 0 to allocate, else the object to ask about (DRM) or the dma-buf fd to import (misc). Out: handle or fd.
    pub handle: u32,
    /// In.
    pub flags: u32,
    /// In: bytes. Out: whole pages.
    pub size: u64,
    /// Out: a kernel pointer. Never shown, never taken from anybody.
    pub obj_addr: u64,
    /// Out: what the NPU sees.
    pub dma_addr: u64,
    /// In: bytes of SRAM wanted, 0 for as much as fits. Out: bytes of SRAM got.
    pub sram_size: u64,
    /// In: 0 to 15.
    pub iommu_domain_id: i32,
    /// In: cores that will use it.
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
    /// Zero.
    pub reserved: u32,
    /// What MEM_CREATE gave. The driver follows it without a look: a stale one crashes the kernel (§2.5).
    pub obj_addr: u64,
    /// Bytes from the start; not checked by the driver.
    pub offset: u64,
    /// Bytes; not checked by the driver.
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

/// The memory ioctls of one flavour. Both take the same structs and differ in the numbers.
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
        // driver the same number may mean something else (rocket's PREP_BO is rknpu's MEM_CREATE), so a backend is
        // only opened after the node's driver was named (probe.rs). That the kernel follows `obj_addr` unchecked is
        // the backends' burden: they pass only what MEM_CREATE gave, while the object lives.
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

    /// ACTION: asks or tells the device something; gives back the value as the driver left it.
    pub fn action(&self, fd: BorrowedFd<'_>, action: Action, value: u32) -> Result<u32, Errno> {
        let mut raw = RawAction { flags: action as u32, value };
        self.action.call(fd, &mut raw)?;
        Ok(raw.value)
    }

    /// MEM_CREATE.
    pub fn mem_create(&self, fd: BorrowedFd<'_>, create: &mut MemCreate) -> Result<(), Errno> {
        self.create.call(fd, create).map(drop)
    }

    /// MEM_MAP: where to `mmap` the object on the device's own fd. Refused for imports, and always by the misc flavour.
    pub fn mem_map(&self, fd: BorrowedFd<'_>, handle: u32) -> Result<u64, Errno> {
        let mut map = MemMap { handle, reserved: 0, offset: 0 };
        self.map.call(fd, &mut map)?;
        Ok(map.offset)
    }

    /// MEM_DESTROY: DRM looks only at `handle`, the misc flavour only at `obj_addr`.
    pub fn mem_destroy(&self, fd: BorrowedFd<'_>, handle: u32, obj_addr: u64) -> Result<(), Errno> {
        self.destroy.call(fd, &mut MemDestroy { handle, reserved: 0, obj_addr }).map(drop)
    }

    /// MEM_SYNC.
    pub fn mem_sync(&self, fd: BorrowedFd<'_>, mut sync: MemSync) -> Result<(), Errno> {
        self.sync.call(fd, &mut sync).map(drop)
    }
}

/// On a DRM node whose driver is named "rknpu".
pub const DRM: Flavour = Flavour::of(b'd', 0x40);
/// On /dev/rknpu.
pub const MISC: Flavour = Flavour::of(b'r', 0);

/// MEM_CREATE on /dev/rknpu with `create.handle` = 0: a new buffer, which *is* the fd. The driver opened it with
/// O_RDWR and O_CLOEXEC (`docs/design/drivers.md` §2).
pub fn create_dma_buf(fd: BorrowedFd<'_>, create: &mut MemCreate) -> Result<OwnedFd, Errno> {
    create.handle = 0;
    MISC.mem_create(fd, create)?;
    // SAFETY: the call succeeded with handle 0, so the kernel made a new fd for this process and put it there; a
    // number beyond an int becomes negative and is refused.
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
