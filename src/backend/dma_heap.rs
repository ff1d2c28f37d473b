//! The kernel's DMA-BUF heaps, mainline's and the vendor's (`docs/design/rknpu.md` §4).
//!
//! A heap's buffer has no device address until a driver maps it: programs pass this backend's memory to the NPU runtime
//! as an fd. The system heap accepts any length and leaves it to the OOM killer, so the caller limits sizes by the
//! available RAM.

use std::fs;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;

use super::contiguous;
use super::device_node::{duplicate, inside, inspect as inspect_dma_buf, open_node, sync_dma_buf};
use super::errno::{check, translate, Call, Context};
use super::object_table::{unnamed, ObjectTable};
use super::soc::npu_cores;
use super::{Backend, DeviceInfo, Direction, Gauges, Kind, Maintenance, Object, Request};
use crate::abi::dma_buf::{set_name, NAME_MAX};
use crate::abi::dma_heap::{alloc, Vendor};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sys::mapping::Mapping;
use crate::sys::page::page_size;
use crate::sys::proc::Proc;

/// The name of our buffers in `/proc/PID/fdinfo` and in the kernel's list of dma-bufs.
const BUFFER_NAME: &std::ffi::CStr = c"rkllm-memory";
const _: () = assert!(BUFFER_NAME.count_bytes() <= NAME_MAX);

/// An open heap. See the [module](self).
#[derive(Debug)]
pub struct DmaHeap {
    info: DeviceInfo,
    heap: OwnedFd,
    /// The sibling heap without CPU caches; `None` if the kernel has none.
    uncached: Option<OwnedFd>,
    vendor: Vendor,
    contiguous: bool,
    objects: ObjectTable<(u64, u64), OwnedFd>,
}

/// Lists every heap under `dev`, best default first: scattered memory, which is plentiful and suits an IOMMU, before
/// contiguous areas; cached before uncached; full reach before 32 bits.
pub fn heaps(dev: &Path) -> Vec<PathBuf> {
    let list = |folder: &str| -> Vec<PathBuf> {
        fs::read_dir(dev.join(folder))
            .map_or_else(|_| Vec::new(), |entries| entries.flatten().map(|e| e.path()).collect())
    };
    let mut heaps = list("dma_heap");
    heaps.extend(list("rk_dma_heap"));
    heaps.sort_by_cached_key(|path| {
        let name = name_of(path);
        (
            name.contains("uncached"),
            name.contains("dma32"),
            is_contiguous(&name),
            vendor_of(path) == Vendor::Rockchip,
            name,
        )
    });
    heaps
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn vendor_of(path: &Path) -> Vendor {
    match path.parent() {
        Some(folder) if folder.ends_with("rk_dma_heap") => Vendor::Rockchip,
        _ => Vendor::Mainline,
    }
}

/// The system heaps give scattered memory; every other heap is a CMA area (`docs/design/rknpu.md` §4.1).
fn is_contiguous(name: &str) -> bool {
    !name.starts_with("system")
}

/// "system" → "system-uncached", "cma-dma32" → "cma-uncached-dma32"; `None` for an uncached heap.
fn uncached_sibling(path: &Path) -> Option<PathBuf> {
    let name = name_of(path);
    if name.contains("uncached") {
        return None;
    }
    Some(path.with_file_name(match name.strip_suffix("-dma32") {
        Some(base) => format!("{base}-uncached-dma32"),
        None => format!("{name}-uncached"),
    }))
}

/// Opens a heap read-only, which suffices to allocate and is all that some udev rules allow (`docs/design/rknpu.md`
/// §4.1).
fn open_heap(path: &Path) -> Result<OwnedFd> {
    open_node(Kind::DmaHeap, path, OFlag::O_RDONLY)
}

impl DmaHeap {
    /// Opens a heap.
    ///
    /// Errors: `ERR_DEVICE_NOT_FOUND`, `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`.
    pub fn open(path: &Path, soc: Option<&str>) -> Result<Self> {
        let name = name_of(path);
        let in_a_heap_folder =
            path.parent().is_some_and(|folder| folder.ends_with("dma_heap") || folder.ends_with("rk_dma_heap"));
        if !in_a_heap_folder {
            return Err(Error::new(
                ErrorCode::DeviceNotFound,
                format!("{} is not a heap of /dev/dma_heap or /dev/rk_dma_heap", path.display()),
            )
            .path(path));
        }
        let heap = open_heap(path)?;
        let contiguous = is_contiguous(&name);
        let memory = Proc::default().meminfo();
        Ok(Self {
            info: DeviceInfo {
                kind: Kind::DmaHeap,
                path: Some(path.to_owned()),
                soc: soc.map(str::to_owned),
                driver_version: None,
                npu_cores: soc.and_then(npu_cores),
                iommu: false,
                domains: 0,
                domain_bytes: if contiguous { memory.and_then(|memory| memory.cma_total).unwrap_or(0) } else { 0 },
                sram_total: 0,
            },
            heap,
            uncached: uncached_sibling(path).and_then(|sibling| open_heap(&sibling).ok()),
            vendor: vendor_of(path),
            contiguous,
            objects: ObjectTable::new(),
        })
    }

    fn at(&self) -> Context<'_> {
        Context::of(&self.info, self.objects.held())
    }

    /// Reports whether the heap itself is uncached.
    fn is_uncached(&self) -> bool {
        self.info.path.as_deref().is_some_and(|path| name_of(path).contains("uncached"))
    }

    fn refuse<T>(&self, request: &Request, message: &str, hint: &str) -> Result<T> {
        let name = self.info.path.as_deref().map(name_of).unwrap_or_default();
        let error = Error::new(ErrorCode::Unsupported, format!("the heap \"{name}\" {message}"));
        Err(error.requested(request.size).hint(hint))
    }
}

impl Backend for DmaHeap {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn create(&self, request: &Request) -> Result<Object> {
        check(request, page_size())?;
        if request.contiguous && !self.contiguous {
            return self.refuse(
                request,
                "gives scattered memory",
                "open a CMA heap: \"linux,cma\", \"cma\", \"rk-dma-heap-cma\"",
            );
        }
        if request.domain != 0 {
            return self.refuse(request, "has no IOMMU domains", "leave `iommuDomain` out");
        }
        let heap = match (request.cacheable, self.is_uncached(), &self.uncached) {
            (true, false, _) | (false, true, _) => &self.heap,
            (false, false, Some(sibling)) => sibling,
            (false, false, None) => {
                return self.refuse(request, "has no uncached sibling on this kernel", "leave `cacheable` out and sync")
            }
            (true, true, _) => return self.refuse(request, "is uncached", "open its cached sibling"),
        };
        // Other contiguous heaps are areas of their own, which /proc/meminfo does not show.
        if self.info.path.as_deref().is_some_and(|path| name_of(path).contains("cma")) {
            contiguous::check_room(&self.info, request.size, || self.at().here())?;
        }
        let fd = alloc(heap.as_fd(), self.vendor, request.size)
            .map_err(|errno| translate(Call::Create, errno, &self.at().request(request)))?;
        // The name is only informative; kernels before 5.3 support none.
        let _ = set_name(fd.as_fd(), BUFFER_NAME);
        let buffer = inspect_dma_buf(fd.as_fd(), None)?;
        let object = Object {
            handle: unnamed(),
            size: buffer.size,
            device_address: None,
            sram: 0,
            domain: None,
            cacheable: request.cacheable,
            contiguous: self.contiguous,
            zeroed: true, // every heap clears its buffers (`docs/design/rknpu.md` §4.2)
            imported: false,
        };
        Ok(self.objects.insert(buffer.identity, fd, object))
    }

    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        let buffer = inspect_dma_buf(fd, size)?;
        if let Some(known) = buffer.identity.and_then(|identity| self.objects.add_reference(&identity)) {
            return Ok(known);
        }
        let own = duplicate(fd)?;
        let object = Object {
            handle: unnamed(),
            size: buffer.size,
            device_address: None,
            sram: 0,
            domain: None,
            cacheable: true,
            contiguous: false,
            zeroed: false,
            imported: true,
        };
        // If another thread imported the buffer first, this fd closes.
        let (object, _loser) = self.objects.insert_import(buffer.identity, own, object);
        Ok(object)
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        self.objects.with(object, "mmap", |fd, object| {
            Mapping::shared(fd.as_fd(), 0, object.size, alignment).map_err(|error| {
                let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
                translate(Call::Mmap, errno, &self.at().bytes(object.size))
            })
        })
    }

    /// Syncs the whole buffer for any range. A heap syncs for the devices that have mapped the buffer; before the NPU's
    /// driver has mapped it, the call does nothing (`docs/design/rknpu.md` §3.7).
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        self.objects.with(object, "DMA_BUF_IOCTL_SYNC", |fd, object| {
            if inside(range, object.size, "DMA_BUF_IOCTL_SYNC")?.is_empty() {
                return Ok(());
            }
            sync_dma_buf(fd.as_fd(), direction).map_err(|errno| translate(Call::SyncDmaBuf, errno, &self.at()))
        })
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        self.objects.with(object, "fcntl(F_DUPFD_CLOEXEC)", |fd, _| duplicate(fd.as_fd()))
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        self.objects.release(object, "close").map(drop)
    }

    fn gauges(&self, _domain: u32) -> Gauges {
        Gauges::default()
    }

    fn live(&self) -> usize {
        self.objects.len()
    }

    fn maintenance(&self) -> Maintenance {
        Maintenance::Objects
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_best_default_comes_first() {
        let dev = std::env::temp_dir().join(format!("rkllm-heaps-{}", std::process::id()));
        for heap in [
            "dma_heap/system-uncached",
            "dma_heap/linux,cma",
            "dma_heap/system-dma32",
            "rk_dma_heap/rk-dma-heap-cma",
            "dma_heap/system",
        ] {
            let path = dev.join(heap);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        }
        let found: Vec<_> = heaps(&dev).iter().map(|path| name_of(path)).collect();
        fs::remove_dir_all(&dev).unwrap();
        assert_eq!(found, ["system", "linux,cma", "rk-dma-heap-cma", "system-dma32", "system-uncached"]);
        assert!(heaps(&dev).is_empty());
    }

    #[test]
    fn siblings_have_the_vendors_names() {
        let sibling = |name: &str| uncached_sibling(&Path::new("/dev/dma_heap").join(name)).map(|path| name_of(&path));
        assert_eq!(sibling("system").as_deref(), Some("system-uncached"));
        assert_eq!(sibling("cma-dma32").as_deref(), Some("cma-uncached-dma32"));
        assert_eq!(sibling("system-uncached"), None);
    }

    #[test]
    fn a_file_that_is_no_heap_is_refused() {
        let error = DmaHeap::open(Path::new("/dev/null"), None).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceNotFound);
    }
}
