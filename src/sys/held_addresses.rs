//! [`HeldAddresses`]: the addresses of freed memory, until no ArrayBuffer reaches them.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::mapping::{Mapping, Retired};
use crate::sync::Mutex;

/// The addresses that one owner keeps from its memory's end to the end of the last ArrayBuffer over them.
///
/// The owner calls [`end`](Self::end) when every finalizer has run. Without that call the addresses stay out of use
/// for ever, which is the safe default.
#[derive(Debug, Default)]
pub struct HeldAddresses {
    state: Mutex<State>,
    /// Set once a finalizer could not prove that no ArrayBuffer reaches the addresses.
    quarantined: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// `None` before the memory ends, and for memory without addresses of its own.
    retired: Option<Retired>,
    /// Set by [`HeldAddresses::end`]: memory that is retired later, since it was refused before, holds no addresses.
    ended: bool,
}

impl HeldAddresses {
    /// Frees the memory of `mapping` and holds its addresses. The second time nothing happens.
    ///
    /// Errors: those of [`Mapping::retire`]; nothing has changed then.
    pub fn retire(&self, mapping: &Mapping) -> io::Result<()> {
        let Some(retired) = mapping.retire()? else { return Ok(()) };
        let ended = {
            let mut state = self.state.lock();
            state.retired = Some(retired);
            state.ended
        };
        if ended {
            self.end();
        }
        Ok(())
    }

    /// Keeps the addresses out of use until the process ends, because an ArrayBuffer may reach them.
    pub fn quarantine_forever(&self) {
        self.quarantined.store(true, Ordering::Relaxed);
    }

    /// Reports whether [`quarantine_forever`](Self::quarantine_forever) was called.
    pub fn are_quarantined(&self) -> bool {
        self.quarantined.load(Ordering::Relaxed)
    }

    /// Lets the kernel reuse the addresses, unless they are quarantined.
    pub fn end(&self) {
        let retired = {
            let mut state = self.state.lock();
            state.ended = true;
            state.retired.take()
        };
        // Dropping a range that an ArrayBuffer may still reach keeps it out of use for ever.
        if let (Some(range), false) = (retired, self.are_quarantined()) {
            range.give_back();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::address_space::{fate, Fate};
    use crate::sys::page::page_size;

    #[test]
    fn addresses_are_held_until_the_end_and_quarantined_ones_are_not_given_back() {
        for quarantined in [false, true] {
            let mapping = Mapping::anonymous(page_size(), 64).unwrap();
            mapping.write(0, b"secret");
            let held = HeldAddresses::default();
            held.retire(&mapping).unwrap();
            held.retire(&mapping).unwrap();
            assert!(held.state.lock().retired.is_some() && !held.are_quarantined());
            let mut bytes = [1; 6];
            mapping.read(0, &mut bytes);
            assert_eq!(bytes, [0; 6]);
            if quarantined {
                held.quarantine_forever();
            }
            held.end();
            assert!(held.state.lock().retired.is_none());
            assert_eq!(held.are_quarantined(), quarantined);
            let expected = if quarantined { Fate::Withheld } else { Fate::Free };
            assert_eq!(fate(mapping.address() as usize), expected);
        }
    }

    #[test]
    fn memory_that_ends_after_its_addresses_holds_none() {
        let mapping = Mapping::anonymous(page_size(), 64).unwrap();
        let held = HeldAddresses::default();
        held.end();
        held.retire(&mapping).unwrap();
        assert!(held.state.lock().retired.is_none());
        assert_eq!(mapping.retire().unwrap(), None);
        assert_eq!(fate(mapping.address() as usize), Fate::Free);
    }
}
