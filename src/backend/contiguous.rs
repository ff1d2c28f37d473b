//! Contiguous memory of devices without an IOMMU: the CMA area, and the pages that stand in for it.
//!
//! With a full CMA area the GEM flavour takes objects of up to 4 MiB from ordinary pages, and for a larger one the
//! kernel logs a warning with a trace (`docs/design/drivers.md` §5, A2 and B1). So a larger object than CmaFree is not
//! asked for.

use super::{DeviceInfo, Kind};
use crate::error::{Error, ErrorCode, Result};
use crate::sys::page::page_size;
use crate::sys::proc::Proc;
use crate::units::{format_bytes, MIB};

/// The page allocator serves objects up to this size when the CMA area is full.
pub const MAX_FROM_PAGES: u64 = 4 * MIB;

/// CMA aligns an area to its size, up to this many pages (the default of CONFIG_CMA_ALIGNMENT).
const MAX_ALIGNMENT_PAGES: u64 = 1 << 8;

impl DeviceInfo {
    /// Whether ordinary pages serve small objects once the CMA area is full.
    pub fn falls_back_to_pages(&self) -> bool {
        self.kind == Kind::Rknpu && !self.iommu
    }

    /// The maximum alignment of a device address; `None` if sizes alone bound it.
    pub fn max_alignment(&self) -> Option<u64> {
        let from_cma = !self.iommu && matches!(self.kind, Kind::Rknpu | Kind::RknpuHeap | Kind::Simulated);
        from_cma.then(|| MAX_ALIGNMENT_PAGES * page_size())
    }
}

/// Refuses `size` bytes that the CMA area cannot give, before the driver is asked. Accepts them if the kernel shows no
/// CMA area: the device may have one of its own. `here` tells what this process holds.
///
/// Errors: `ERR_OUT_OF_MEMORY`.
pub(super) fn check_room(info: &DeviceInfo, size: u64, here: impl FnOnce() -> String) -> Result<()> {
    if info.falls_back_to_pages() && size <= MAX_FROM_PAGES {
        return Ok(());
    }
    match Proc::default().meminfo().and_then(|memory| memory.cma_total.zip(memory.cma_free)) {
        Some((total, free)) if total > 0 && size > free => {
            let error = full(info, size, &here()).requested(size);
            Err(match &info.path {
                Some(path) => error.path(path),
                None => error,
            })
        }
        _ => Ok(()),
    }
}

/// The error for a full CMA area. `here` tells what this process holds.
pub(super) fn full(info: &DeviceInfo, size: u64, here: &str) -> Error {
    let memory = Proc::default().meminfo();
    let cma = memory.and_then(|memory| memory.cma_total.zip(memory.cma_free)).filter(|(total, _)| *total > 0);
    let mut figures = match cma {
        Some((total, free)) => format!("CMA has {} of {} free", format_bytes(free), format_bytes(total)),
        None => "the kernel shows no CMA area".to_owned(),
    };
    let from_pages = info.falls_back_to_pages() && size <= MAX_FROM_PAGES;
    if let (true, Some(memory)) = (from_pages, memory) {
        let available = format_bytes(memory.available);
        figures = format!("{figures}, and ordinary pages ({available} available) have no such piece either");
    }
    let message = format!("no {} of contiguous memory are left in one piece: {figures}; {here}", format_bytes(size));
    let error = Error::new(ErrorCode::OutOfMemory, message)
        .hint("free buffers, use smaller ones, or give the kernel a larger CMA area (cma= on its command line)");
    match (from_pages, memory, cma) {
        (true, Some(memory), _) => error.available(memory.available).limit("ram", memory.total),
        (_, _, Some((total, free))) => error.available(free).limit("cma", total),
        _ => error,
    }
}
