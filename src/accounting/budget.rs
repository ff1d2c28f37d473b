//! Budgets: quantities with a limit, charged by tokens.
//!
//! **Reserve, act, commit.** A [`Charge`] is reserved before the kernel is asked, and returns its bytes when it drops.
//! So every exit of an allocation, errors and panics included, leaves the budget as it was. A request that does not fit
//! changes nothing, not even for a moment, so it never makes a fitting request fail.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// A limit and the bytes reserved under it.
#[derive(Debug)]
pub struct Budget {
    limit: AtomicU64,
    used: AtomicU64,
}

/// The refusal of a request that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The bytes that would have fitted.
    pub available: u64,
    /// The limit, in bytes.
    pub limit: u64,
}

impl Budget {
    /// Makes an unused budget. `u64::MAX` stands for no limit.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit: AtomicU64::new(limit), used: AtomicU64::new(0) })
    }

    /// Returns the limit, in bytes.
    pub fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Sets the limit, in bytes. Bytes that are reserved beyond it stay reserved.
    pub fn set_limit(&self, limit: u64) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Returns the bytes reserved.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the bytes that can still be reserved.
    pub fn available(&self) -> u64 {
        self.limit().saturating_sub(self.used())
    }

    /// Reserves `bytes`, or refuses and changes nothing.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Charge, Refused> {
        let limit = self.limit();
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Charge { budget: Arc::clone(self), bytes }),
            Err(used) => Err(Refused { available: limit.saturating_sub(used), limit }),
        }
    }
}

/// Bytes reserved under a [`Budget`]. Dropping a charge returns its bytes.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// Returns the number of bytes reserved.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_refunds_itself_and_a_refusal_takes_nothing() {
        let budget = Budget::new(100);
        let first = budget.reserve(60).unwrap();
        assert_eq!(budget.reserve(41).unwrap_err(), Refused { available: 40, limit: 100 });
        assert_eq!(budget.reserve(u64::MAX).unwrap_err().available, 40);
        let second = budget.reserve(40).unwrap();
        assert_eq!(budget.available(), 0);
        drop(first);
        assert_eq!(budget.used(), 40);
        budget.set_limit(30);
        assert_eq!((budget.used(), budget.available()), (40, 0));
        assert_eq!(budget.reserve(1).unwrap_err(), Refused { available: 0, limit: 30 });
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn threads_never_exceed_the_limit_and_doomed_requests_make_no_other_fail() {
        let budget = Budget::new(8);
        std::thread::scope(|scope| {
            for _ in 0..7 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        // Seven threads of one byte always fit: the eighth's requests change nothing.
                        let charge = budget.reserve(1).unwrap();
                        assert!(budget.used() <= 8);
                        drop(charge);
                    }
                });
            }
            scope.spawn(|| {
                for _ in 0..20_000 {
                    assert!(budget.reserve(9).is_err());
                }
            });
        });
        assert_eq!(budget.used(), 0);
    }
}
