//! Where in the address space mappings of ours go: side by side, in a part of it that nobody else uses.
//!
//! Retired ranges are zero pages, and the kernel keeps neighbours of one kind as one mapping. Were they scattered among
//! everybody else's, as the kernel places what is mapped without a hint, each would be a mapping for good: one for
//! every thread that ends with live buffers, and `vm.max_map_count` ends at 65,530.
//!
//! An [`AddressHint`] is a hint, never more: nothing is reserved and nothing is mapped over. The kernel puts a mapping
//! elsewhere when somebody is there already.
#![forbid(unsafe_code)]

use std::sync::OnceLock;

use once_cell::sync::Lazy;

use crate::suballoc::{RegionId, SubAllocator, Tlsf};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::page::page_size;

/// Addresses to ask the kernel for. They are somebody else's to ask for when this drops.
#[derive(Debug, PartialEq, Eq)]
pub struct AddressHint {
    address: usize,
    id: RegionId,
}

struct Window {
    base: usize,
    arena: Tlsf,
}

/// `None` where the window could not be made: then the kernel places as it likes.
static ADDRESS_WINDOW: Lazy<Mutex<Option<Window>>> = Lazy::new(|| Mutex::new(window()));

fn address_window() -> MutexGuard<'static, Option<Window>> {
    ADDRESS_WINDOW.lock()
}

/// A 32nd of the address space, a quarter of the way up: far from the stack and the libraries at the top, and from
/// programs and their heaps, which begin at two thirds or at the bottom.
fn window() -> Option<Window> {
    let top = top_of_addresses();
    let capacity = (top / 32).min(page_size() << 30);
    let arena = Tlsf::new(capacity, page_size()).ok()?;
    Some(Window { base: usize::try_from(top / 4).ok()?, arena })
}

/// The end of what this kernel gives a process, a power of two: 2^47 on x86-64, 2^39 to 2^48 on arm64.
pub fn top_of_addresses() -> u64 {
    static TOP: OnceLock<u64> = OnceLock::new();
    *TOP.get_or_init(|| {
        // The stack lies near the top.
        let here = 0_u8;
        (&raw const here as u64).next_power_of_two()
    })
}

impl AddressHint {
    /// Room for `len` bytes (whole pages) at a multiple of `alignment`, a power of two.
    pub fn find(len: u64, alignment: u64) -> Option<Self> {
        let mut window = address_window();
        let window = window.as_mut()?;
        // Offsets are aligned as addresses are as far as the base is, which is by more than anybody asks for.
        let region = window.arena.allocate(len, alignment.max(page_size()), 0)?;
        Some(Self { address: window.base + region.offset as usize, id: region.id })
    }

    /// The first byte's address.
    pub fn address(&self) -> usize {
        self.address
    }

    /// Nobody asks for these addresses again: somebody has them, or may reach them.
    pub fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for AddressHint {
    fn drop(&mut self) {
        if let Some(window) = address_window().as_mut() {
            // It is there: nobody else names it.
            let _ = window.arena.free(self.id);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn hints_are_apart_aligned_and_used_again() {
        let page = page_size();
        let (a, b) = (AddressHint::find(page, page).unwrap(), AddressHint::find(page, 1 << 21).unwrap());
        assert!(b.address() % (1 << 21) == 0 && a.address() % page as usize == 0);
        assert!(a.address().abs_diff(b.address()) >= page as usize);
        assert!(AddressHint::find(!(page - 1), page).is_none());
    }
}
