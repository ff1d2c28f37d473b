//! The look-up of tags, and the removal of idle ones, so that a tag per request does not leak.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use super::tag_account::TagAccount;

/// The accounts of tags, by name.
pub(super) type Tags = BTreeMap<Arc<str>, Arc<TagAccount>>;

/// The number of tags from which on idle ones are removed.
const MAX_IDLE_TAGS: usize = 1024;

/// The number of tags that one new tag visits. A lap around all tags takes an eighth as many new ones, so idle tags are
/// at most a quarter of the others, or [`MAX_IDLE_TAGS`].
const VISITS: usize = 8;

/// A walk around the tags that goes on with each new one. No new tag pays for a walk over all of them.
#[derive(Debug, Default)]
pub(super) struct TagSweep {
    /// The last visited tag; `None` at the start of a lap.
    last: Option<Arc<str>>,
    /// The number of visits so far.
    #[cfg(test)]
    visited: usize,
}

impl TagSweep {
    /// Returns the account of a tag, which it makes if there is none.
    pub(super) fn account<'a>(&mut self, tags: &'a mut Tags, tag: &Arc<str>) -> &'a Arc<TagAccount> {
        if tags.len() >= MAX_IDLE_TAGS && !tags.contains_key(tag) {
            self.advance(tags);
        }
        tags.entry(Arc::clone(tag)).or_default()
    }

    /// Visits the next tags and removes the idle ones.
    #[cold]
    fn advance(&mut self, tags: &mut Tags) {
        let from = self.last.take().map_or(Unbounded, Excluded);
        let next: Vec<_> = tags
            .range((from, Unbounded))
            .take(VISITS)
            .map(|(name, account)| (Arc::clone(name), account.is_idle()))
            .collect();
        #[cfg(test)]
        (self.visited += next.len());
        // A lap that ends here starts again with the next new tag.
        self.last = next.last().filter(|_| next.len() == VISITS).map(|(name, _)| Arc::clone(name));
        for (name, _) in next.into_iter().filter(|(_, idle)| *idle) {
            tags.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Arc<str> {
        format!("request {number}").into()
    }

    /// Counts visits, not time: 16,000 live tags must not make a new one slower.
    #[test]
    fn a_new_tag_visits_a_few_others_however_many_are_live() {
        let (mut tags, mut sweep) = (Tags::new(), TagSweep::default());
        let live: Vec<_> = (0..16_000).map(|number| Arc::clone(sweep.account(&mut tags, &name(number)))).collect();
        assert_eq!(tags.len(), live.len(), "live tags stay");
        assert!(sweep.visited <= VISITS * live.len());
        let before = sweep.visited;
        for _ in 0..100 {
            sweep.account(&mut tags, &name(7));
        }
        assert_eq!(sweep.visited, before, "a known tag visits none");
    }

    #[test]
    fn idle_tags_are_removed_beside_live_ones_too() {
        for live in [0, 1, 500, 5_000] {
            let (mut tags, mut sweep) = (Tags::new(), TagSweep::default());
            let held: Vec<_> = (0..live).map(|number| Arc::clone(sweep.account(&mut tags, &name(number)))).collect();
            let mut most = 0;
            for number in 0..20_000 {
                sweep.account(&mut tags, &name(100_000 + number));
                most = most.max(tags.len() - held.len());
            }
            assert!(most <= (live / 4).max(MAX_IDLE_TAGS), "{most} idle tags beside {live} live ones");
            assert!((0..live).all(|number| tags.contains_key(&name(number))), "live tags stay");
        }
    }
}
