//! Budgets: quantities with a limit, taken by tokens.
//!
//! **Reserve, act, settle.** A [`Charge`] is taken before the kernel is asked and gives its bytes back when it drops,
//! so that every way out of an allocation, errors and panics included, leaves the budget as it was. A request that does
//! not fit changes nothing, not even for a moment: it can never make one that fits fail.
#![forbid(unsafe_code)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// A limit and what is taken of it, in bytes.
#[derive(Debug)]
pub struct Budget {
    limit: u64,
    used: AtomicU64,
}

/// A request that did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// What would have fitted, in bytes.
    pub available: u64,
    /// The limit, in bytes.
    pub limit: u64,
}

impl Budget {
    /// Nothing taken yet. `u64::MAX` is no limit.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0) })
    }

    /// The limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What is taken.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// What may still be taken.
    pub fn available(&self) -> u64 {
        self.limit.saturating_sub(self.used())
    }

    /// Takes `bytes`, or refuses and changes nothing.
    pub fn reserve(self: &Arc<Self>, bytes: u64) -> Result<Charge, Refused> {
        let fits = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(Charge { budget: Arc::clone(self), bytes }),
            Err(used) => Err(Refused { available: self.limit.saturating_sub(used), limit: self.limit }),
        }
    }
}

/// Bytes taken from a [`Budget`]; given back when dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Charge {
    /// How many.
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
        drop(second);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn threads_never_pass_the_limit_and_doomed_requests_refuse_nobody() {
        let budget = Budget::new(8);
        std::thread::scope(|scope| {
            for _ in 0..7 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        // Eight threads of one byte always fit, whatever the doomed one asks for.
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
