//! Memory whose addresses the kernel would not cover with zero pages: it stays mapped, counts as lost, and is tried
//! again.
//!
//! The kernel refuses when the process has no mapping left (`vm.max_map_count`) or a limit on addresses or data is
//! reached. The owner has ended by then, so this list owns the memory. Each later free tries one of its entries again,
//! and reclaiming tries them all.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::memory::Memory;
use super::Device;
use crate::sync::Mutex;
use crate::sys::held_addresses::HeldAddresses;

#[derive(Debug)]
struct Unretired {
    memory: Arc<Memory>,
    addresses: Arc<HeldAddresses>,
}

static UNRETIRED: Mutex<VecDeque<Unretired>> = Mutex::new(VecDeque::new());
/// The length of the list, so that a free takes no lock while it is empty.
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// Frees `memory` and leaves zero pages at its addresses, now or later.
pub fn retire_or_keep(memory: Arc<Memory>, addresses: &Arc<HeldAddresses>) {
    if addresses.retire(memory.mapping()).is_err() {
        keep(Unretired { memory, addresses: Arc::clone(addresses) });
    }
}

fn keep(entry: Unretired) {
    COUNT.fetch_add(1, Ordering::Relaxed);
    UNRETIRED.lock().push_back(entry);
}

/// Tries the oldest entry again, if there is one.
#[inline]
pub fn retry_one() {
    if COUNT.load(Ordering::Relaxed) > 0 {
        retry(1);
    }
}

/// Tries all entries again. Returns the bytes that were freed.
pub fn retry_all() -> u64 {
    retry(COUNT.load(Ordering::Relaxed))
}

fn retry(count: usize) -> u64 {
    let mut freed = 0;
    for _ in 0..count {
        let Some(entry) = UNRETIRED.lock().pop_front() else { break };
        COUNT.fetch_sub(1, Ordering::Relaxed);
        match entry.addresses.retire(entry.memory.mapping()) {
            Ok(()) => freed += entry.memory.reserved(),
            // The next entry would most likely fail too.
            Err(_) => {
                keep(entry);
                break;
            }
        }
    }
    freed
}

/// The number and bytes of the entries with memory of `device`; `None` stands for system memory.
pub fn lost(device: Option<&Device>) -> (u64, u64) {
    if COUNT.load(Ordering::Relaxed) == 0 {
        return (0, 0);
    }
    let of = |entry: &&Unretired| match (device, entry.memory.device()) {
        (Some(device), Some(of)) => std::ptr::eq(device, Arc::as_ptr(of)),
        (device, of) => device.is_none() && of.is_none(),
    };
    let list = UNRETIRED.lock();
    list.iter().filter(of).fold((0, 0), |(count, bytes), entry| (count + 1, bytes + entry.memory.reserved()))
}
