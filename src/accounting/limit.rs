//! What a user sets: limits that refuse, and shares of them that warn.

use std::fmt;
use std::sync::Arc;

/// Whose memory a limit is over.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// NPU memory.
    Npu,
    /// System memory.
    System,
    /// Both.
    Total,
    /// What carries that tag, of either kind.
    Tag(Arc<str>),
    /// A pool that comes near the most it may have.
    Pool(Arc<str>),
    /// An IOMMU domain that fills up.
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

/// A share of a limit was passed upwards; bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Warning {
    /// Whose.
    pub scope: Scope,
    /// In use.
    pub used: u64,
    /// The limit.
    pub max: u64,
}

/// Shares at which a limit warns unless it is told others.
pub const WARN_AT: [f64; 2] = [0.8, 0.95];

/// A crossing is over when the share is this much below it again.
const HYSTERESIS: f64 = 0.05;

/// How much there may be, and when to say that it is nearly so much. Costs three comparisons as long as nothing
/// happens.
#[derive(Clone, Debug)]
pub struct Limit {
    /// `u64::MAX` is none.
    max: u64,
    /// From here on the next warning is due, and below here the last one is over: between them nothing happens.
    due: u64,
    over: u64,
    /// Bytes at which to warn, rising, and below which each warning is over.
    levels: Vec<(u64, u64)>,
    /// How many of them have been warned of.
    warned: usize,
}

impl Default for Limit {
    /// None.
    fn default() -> Self {
        Self::new(None, &[])
    }
}

impl Limit {
    /// A limit of `max` bytes that warns at these shares of it (above 0, up to 1, in any order).
    pub fn new(max: Option<u64>, warn_at: &[f64]) -> Self {
        let bytes = |share: f64| (max.unwrap_or(0) as f64 * share).ceil() as u64;
        let mut levels: Vec<_> = match max {
            // Nothing fits under 0, so nothing comes near it.
            None | Some(0) => Vec::new(),
            Some(_) => warn_at.iter().map(|share| (bytes(*share), bytes(share - HYSTERESIS))).collect(),
        };
        levels.sort_unstable();
        levels.dedup();
        let mut limit = Self { max: max.unwrap_or(u64::MAX), due: 0, over: 0, levels, warned: 0 };
        limit.wait();
        limit
    }

    /// The most there may be.
    pub fn max(&self) -> Option<u64> {
        Some(self.max).filter(|max| *max != u64::MAX)
    }

    /// What still fits beside `used`.
    #[inline(always)]
    pub fn room(&self, used: u64) -> u64 {
        if self.max == u64::MAX {
            return u64::MAX;
        }
        self.max.saturating_sub(used)
    }

    /// Whether [`observe`](Self::observe) would change nothing, and `bytes` more fit.
    #[inline(always)]
    pub fn below_thresholds(&self, used: u64, committed: u64, bytes: u64) -> bool {
        self.is_between(used) && bytes <= self.room(committed)
    }

    #[inline(always)]
    fn is_between(&self, used: u64) -> bool {
        (self.over..self.due).contains(&used)
    }

    /// Tells it what is in use now; true when that is the first time above one of its levels, or above it again.
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

    /// For what is next.
    fn wait(&mut self) {
        self.due = self.levels.get(self.warned).map_or(u64::MAX, |(level, _)| *level);
        self.over = self.warned.checked_sub(1).map_or(0, |last| self.levels[last].1);
    }
}

/// Limits to be set; the others stay.
#[derive(Debug, Default)]
pub struct Limits {
    /// Over NPU memory.
    pub npu: Option<Limit>,
    /// Over system memory.
    pub system: Option<Limit>,
    /// Over both.
    pub total: Option<Limit>,
    /// Over what carries a tag, of either kind.
    pub tags: Vec<(Arc<str>, Limit)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crossing_upwards_is_told_once() {
        let mut limit = Limit::new(Some(100), &[0.95, 0.8]);
        let told: Vec<u64> = (0..=100).filter(|used| limit.observe(*used)).collect();
        assert_eq!(told, [80, 95]);
        // Up and down around a level is one crossing, until it is 5 % below.
        assert!(![94, 96, 90, 99].iter().any(|used| limit.observe(*used)));
        assert!(!limit.observe(89) && limit.observe(95));
        assert!(!limit.observe(10) && limit.observe(100), "two levels at once are one warning");
        assert!(!limit.observe(100));
    }

    #[test]
    fn where_it_is_quiet_nothing_would_have_happened() {
        for warn_at in [&[0.95, 0.8][..], &[], &[1.0], &[0.02, 0.5]] {
            let mut limit = Limit::new(Some(100), warn_at);
            let mut heard = 0;
            // Up and down, in steps of every size.
            for step in 0..40_000_u64 {
                let used = step * step % 7919 % 101;
                let (quiet, before) = (limit.below_thresholds(used, used, 3), limit.clone());
                let warned = limit.cross(used);
                assert!(!quiet || (!warned && before.warned == limit.warned && used + 3 <= 100), "{used}: {before:?}");
                // And the other way round, but for a crossing downwards and up again at once.
                assert!(quiet || warned || before.warned != limit.warned || used + 3 > 100, "{used}: {before:?}");
                heard += u64::from(warned);
            }
            assert_eq!(heard > 0, !warn_at.is_empty());
        }
    }

    #[test]
    fn no_limit_and_one_of_nothing_never_warn() {
        for mut limit in [Limit::default(), Limit::new(None, &WARN_AT), Limit::new(Some(0), &WARN_AT)] {
            assert!(![0, 1, u64::MAX, 0, u64::MAX].iter().any(|used| limit.observe(*used)));
        }
        assert_eq!(Limit::default().room(u64::MAX), u64::MAX);
        assert_eq!((Limit::new(Some(5), &[]).room(3), Limit::new(Some(5), &[]).room(7)), (2, 0));
    }
}
