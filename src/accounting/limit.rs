//! Limits, which refuse requests, and shares of a limit, which cause warnings.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorCode};
use crate::units::format_bytes;

/// The memory that a limit applies to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// NPU memory.
    Npu,
    /// System memory.
    System,
    /// Memory of both kinds.
    Total,
    /// Memory of either kind with that tag.
    Tag(Arc<str>),
    /// The memory of a named pool.
    Pool(Arc<str>),
    /// The addresses of an IOMMU domain.
    Domain(u32),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Npu => f.write_str("npu"),
            Scope::System => f.write_str("system"),
            Scope::Total => f.write_str("total"),
            Scope::Tag(tag) => write!(f, "tag:{tag}"),
            Scope::Pool(name) => write!(f, "pool:{name}"),
            Scope::Domain(id) => write!(f, "domain:{id}"),
        }
    }
}

/// A warning that usage rose above a share of a limit.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// The memory that the limit applies to.
    pub scope: Scope,
    /// Bytes in use.
    pub used: u64,
    /// The limit, in bytes.
    pub max: u64,
}

/// The default shares at which a limit warns.
pub const WARN_AT: [f64; 2] = [0.8, 0.95];

/// A warning ends when usage is this share of the limit below its level.
const HYSTERESIS: f64 = 0.05;

/// A limit with its warning levels. A check costs three comparisons while usage crosses no level.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `u64::MAX` stands for no limit.
    max: u64,
    /// Usage at which the next warning is due, and below which the last one is over. Between them nothing changes.
    due: u64,
    over: u64,
    /// Usage at which each warning is due, rising, and below which the warning is over.
    levels: Vec<(u64, u64)>,
    /// The number of levels that usage is above.
    warned: usize,
}

impl Default for Limit {
    /// Makes a limit that neither refuses nor warns.
    fn default() -> Self {
        Self::new(None, &[])
    }
}

impl Limit {
    /// Makes a limit of `max` bytes that warns at these shares of the limit (above 0, up to 1, in any order).
    pub fn new(max: Option<u64>, warn_at: &[f64]) -> Self {
        let bytes = |share: f64| (max.unwrap_or(0) as f64 * share).ceil() as u64;
        let mut levels: Vec<_> = match max {
            // No request fits under 0, so there is no usage to warn of.
            None | Some(0) => Vec::new(),
            Some(_) => warn_at.iter().map(|share| (bytes(*share), bytes(share - HYSTERESIS))).collect(),
        };
        levels.sort_unstable();
        levels.dedup();
        let mut limit = Self { max: max.unwrap_or(u64::MAX), due: 0, over: 0, levels, warned: 0 };
        limit.wait();
        limit
    }

    /// Returns the limit, in bytes, if there is one.
    pub fn max(&self) -> Option<u64> {
        Some(self.max).filter(|max| *max != u64::MAX)
    }

    /// Returns the bytes that still fit beside `used`.
    #[inline(always)]
    pub fn room(&self, used: u64) -> u64 {
        if self.max == u64::MAX {
            return u64::MAX;
        }
        self.max.saturating_sub(used)
    }

    /// Returns whether [`observe`](Self::observe) would change nothing, and `bytes` more fit.
    #[inline(always)]
    pub fn below_thresholds(&self, used: u64, committed: u64, bytes: u64) -> bool {
        self.is_between(used) && bytes <= self.room(committed)
    }

    #[inline(always)]
    fn is_between(&self, used: u64) -> bool {
        (self.over..self.due).contains(&used)
    }

    /// Updates the usage. Returns true if a warning is due: usage rose above a level, for the first time or again.
    #[inline(always)]
    pub fn observe(&mut self, used: u64) -> bool {
        !self.is_between(used) && self.cross(used)
    }

    #[cold]
    fn cross(&mut self, used: u64) -> bool {
        while self.warned > 0 && used < self.levels[self.warned - 1].1 {
            self.warned -= 1;
        }
        let before = self.warned;
        while self.levels.get(self.warned).is_some_and(|(level, _)| used >= *level) {
            self.warned += 1;
        }
        self.wait();
        self.warned > before
    }

    /// Sets `due` and `over` for the levels next to the present usage.
    fn wait(&mut self) {
        self.due = self.levels.get(self.warned).map_or(u64::MAX, |(level, _)| *level);
        self.over = self.warned.checked_sub(1).map_or(0, |last| self.levels[last].1);
    }
}

/// A limit that a request exceeds.
#[derive(Debug)]
pub(super) struct LimitExceeded {
    pub(super) scope: Scope,
    pub(super) used: u64,
    pub(super) room: u64,
    pub(super) max: u64,
}

impl LimitExceeded {
    pub(super) fn error(&self, requested: u64) -> Error {
        let Self { scope, used, room, max } = self;
        let message = format!(
            "the limit of {scope} is {}, of which {} are in use: {} more do not fit",
            format_bytes(*max),
            format_bytes(*used),
            format_bytes(requested)
        );
        Error::new(ErrorCode::MemoryLimit, message)
            .requested(requested)
            .available(*room)
            .limit(scope.to_string(), *max)
            .hint(
                "deallocate unused buffers (dropped buffers are freed when the event loop turns), or raise the limit \
                 with setMemoryLimits",
            )
    }
}

/// Limits to set. `None` keeps the present limit.
#[derive(Debug, Default)]
pub struct Limits {
    /// The limit of NPU memory.
    pub npu: Option<Limit>,
    /// The limit of system memory.
    pub system: Option<Limit>,
    /// The limit of both kinds together.
    pub total: Option<Limit>,
    /// Limits of the memory with a tag, of either kind.
    pub tags: Vec<(Arc<str>, Limit)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rise_above_a_level_warns_once() {
        let mut limit = Limit::new(Some(100), &[0.95, 0.8]);
        let warned_at: Vec<u64> = (0..=100).filter(|used| limit.observe(*used)).collect();
        assert_eq!(warned_at, [80, 95]);
        // Usage that varies around a level warns once, until usage is 5 % below.
        assert!(![94, 96, 90, 99].iter().any(|used| limit.observe(*used)));
        assert!(!limit.observe(89) && limit.observe(95));
        assert!(!limit.observe(10) && limit.observe(100), "two levels at once are one warning");
        assert!(!limit.observe(100));
    }

    #[test]
    fn usage_below_the_thresholds_would_cross_no_level() {
        for warn_at in [&[0.95, 0.8][..], &[], &[1.0], &[0.02, 0.5]] {
            let mut limit = Limit::new(Some(100), warn_at);
            let mut warnings = 0;
            // Up and down, in steps of every size.
            for step in 0..40_000_u64 {
                let used = step * step % 7919 % 101;
                let (quiet, before) = (limit.below_thresholds(used, used, 3), limit.clone());
                let warned = limit.cross(used);
                assert!(!quiet || (!warned && before.warned == limit.warned && used + 3 <= 100), "{used}: {before:?}");
                // The converse holds too, except for a crossing downwards and up again at once.
                assert!(quiet || warned || before.warned != limit.warned || used + 3 > 100, "{used}: {before:?}");
                warnings += u64::from(warned);
            }
            assert_eq!(warnings > 0, !warn_at.is_empty());
        }
    }

    #[test]
    fn no_limit_and_a_limit_of_zero_never_warn() {
        for mut limit in [Limit::default(), Limit::new(None, &WARN_AT), Limit::new(Some(0), &WARN_AT)] {
            assert!(![0, 1, u64::MAX, 0, u64::MAX].iter().any(|used| limit.observe(*used)));
        }
        assert_eq!(Limit::default().room(u64::MAX), u64::MAX);
        assert_eq!((Limit::new(Some(5), &[]).room(3), Limit::new(Some(5), &[]).room(7)), (2, 0));
    }
}
