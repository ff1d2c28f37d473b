//! Chooses addresses for mappings: side by side, in a window of the address space that other code does not use.
//!
//! Retired ranges are private zero pages. The kernel merges neighbouring mappings of one kind into one. Without a hint,
//! the kernel scatters mappings among those of other libraries, and each retired range would stay a mapping of its own.
//! Every thread that ends with live buffers would then cost one mapping, and `vm.max_map_count` allows 65,530.
//!
//! An [`AddressHint`] reserves nothing in the kernel and replaces no mapping. If another mapping occupies the hinted
//! addresses, the kernel chooses different ones.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use once_cell::sync::Lazy;

use crate::suballoc::{RegionId, SubAllocator, Tlsf};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::page::page_size;

/// Suggests addresses for one mapping. Dropping the hint makes the addresses available to the next hint.
#[derive(Debug, PartialEq, Eq)]
pub struct AddressHint {
    address: usize,
    id: RegionId,
}

struct Window {
    base: usize,
    arena: Tlsf,
}

/// `None` if the window could not be created; the kernel then chooses every address.
static ADDRESS_WINDOW: Lazy<Mutex<Option<Window>>> = Lazy::new(|| Mutex::new(window()));

fn address_window() -> MutexGuard<'static, Option<Window>> {
    ADDRESS_WINDOW.lock()
}

/// Places the window at a quarter of the address space, with a 32nd of its size. This is far from the stack and the
/// libraries at the top, and from programs and heaps, which start at two thirds or at the bottom.
fn window() -> Option<Window> {
    let top = top_of_addresses();
    let capacity = (top / 32).min(page_size() << 30);
    let arena = Tlsf::new(capacity, page_size()).ok()?;
    Some(Window { base: usize::try_from(top / 4).ok()?, arena })
}

/// The end of the address space that this kernel gives a process, a power of two: 2^47 on x86-64, 2^39 to 2^48 on
/// arm64.
pub fn top_of_addresses() -> u64 {
    static TOP: OnceLock<u64> = OnceLock::new();
    *TOP.get_or_init(|| {
        // The stack lies near the top.
        let here = 0_u8;
        (&raw const here as u64).next_power_of_two()
    })
}

impl AddressHint {
    /// Finds room for `len` bytes (whole pages) at a multiple of `alignment`, a power of two.
    pub fn find(len: u64, alignment: u64) -> Option<Self> {
        let mut window = address_window();
        let window = window.as_mut()?;
        // An aligned offset is an aligned address, because the base is aligned further than any request.
        let region = window.arena.allocate(len, alignment.max(page_size()), 0)?;
        Some(Self { address: window.base + region.offset as usize, id: region.id })
    }

    /// The address of the first byte.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Withdraws these addresses for good, because a mapping occupies them or a stale pointer may reach them.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for AddressHint {
    fn drop(&mut self) {
        if let Some(window) = address_window().as_mut() {
            // The free cannot fail: this hint owns the id.
            let _ = window.arena.free(self.id);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_disjoint_and_aligned() {
        let page = page_size();
        let (a, b) = (AddressHint::find(page, page).unwrap(), AddressHint::find(page, 1 << 21).unwrap());
        assert!(b.address() % (1 << 21) == 0 && a.address() % page as usize == 0);
        assert!(a.address().abs_diff(b.address()) >= page as usize);
        assert!(AddressHint::find(!(page - 1), page).is_none());
    }
}
