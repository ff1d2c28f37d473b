//! The account of one tag: its counters and its limit, under a lock of their own.
//!
//! A pool keeps the accounts of its slices' tags, and counts a slice without a look-up and without the manager's lock.
//! Lock order: the manager's accounting, then the account of a tag.
#![forbid(unsafe_code)]

use std::sync::Arc;

use super::counters::Counters;
use super::limit::{Limit, LimitExceeded, Scope};
use crate::error::Error;
use crate::sync::{Mutex, MutexGuard};

/// The counters and the limit of one tag.
#[derive(Debug, Default)]
pub struct TagAccount {
    state: Mutex<TagState>,
}

/// The counters and the limit of one tag, side by side so that one look-up finds both.
#[derive(Debug, Default)]
pub(super) struct TagState {
    pub(super) counters: Counters,
    pub(super) limit: Limit,
}

/// A refusal of a tag's limit.
#[derive(Debug)]
pub struct TagRefused(LimitExceeded);

impl TagAccount {
    /// Returns the counters of the tag's memory.
    pub fn counters(&self) -> Counters {
        self.state().counters
    }

    /// Returns the tag's limit, in bytes, if there is one.
    pub fn max(&self) -> Option<u64> {
        self.state().limit.max()
    }

    /// Counts an allocation of `bytes`. Returns the bytes in use and the limit, if a warning is due.
    ///
    /// Errors: a refusal if the bytes do not fit under the tag's limit; nothing has changed then.
    #[inline]
    pub fn allocated(&self, bytes: u64) -> Result<Option<(u64, u64)>, TagRefused> {
        let mut state = self.state();
        state.check(bytes)?;
        let TagState { counters, limit } = &mut *state;
        // Frees do not look at the levels: usage may have fallen below one.
        limit.observe(counters.in_use());
        counters.allocated(bytes);
        let in_use = counters.in_use();
        Ok(limit.observe(in_use).then(|| (in_use, limit.max().unwrap_or(u64::MAX))))
    }

    /// Checks that `bytes` fit under the limit now.
    ///
    /// Errors: a refusal if they do not.
    pub fn check(&self, bytes: u64) -> Result<(), TagRefused> {
        self.state().check(bytes)
    }

    /// Counts the free of an allocation of `bytes`.
    #[inline]
    pub fn freed(&self, bytes: u64) {
        self.state().counters.freed(bytes);
    }

    /// Counts the free of `count` allocations of `bytes` in all.
    pub fn all_freed(&self, count: u64, bytes: u64) {
        let counters = &mut self.state().counters;
        counters.used = counters.used.saturating_sub(bytes);
        counters.live = counters.live.saturating_sub(count);
        counters.frees += count;
    }

    /// Counts a refused request.
    pub fn failed(&self) {
        self.state().counters.failed();
    }

    /// Reports whether the account says nothing that a new one would not: no bytes, no limit, no pool that counts here.
    pub(super) fn is_idle(self: &Arc<Self>) -> bool {
        let state = self.state();
        state.counters.committed() == 0 && state.limit.max().is_none() && Arc::strong_count(self) == 1
    }

    pub(super) fn state(&self) -> MutexGuard<'_, TagState> {
        self.state.lock()
    }
}

impl TagState {
    #[inline]
    fn check(&self, bytes: u64) -> Result<(), TagRefused> {
        let room = self.limit.room(self.counters.committed());
        match bytes > room {
            false => Ok(()),
            true => {
                let (used, max) = (self.counters.committed(), self.limit.max().unwrap_or(u64::MAX));
                Err(TagRefused(LimitExceeded { scope: Scope::Total, used, room, max }))
            }
        }
    }
}

impl TagRefused {
    /// Makes the error of a request for `size` bytes with the tag `tag`.
    pub fn error(self, tag: &Arc<str>, size: u64) -> Error {
        LimitExceeded { scope: Scope::Tag(Arc::clone(tag)), ..self.0 }.error(size)
    }
}
