//! Live samples, and estimates by the place in the program that allocated.

use std::collections::HashMap;
use std::sync::Arc;

use super::clock;
use super::histogram::Histogram;
use crate::handle::{Handle, Table};

/// The most call sites: later ones count as one, so that a stack that is never the same twice is no leak.
const MAX_CALL_SITES: usize = 10_000;
const OTHER_CALL_SITES: &str = "(other call sites)";

/// A sampled allocation.
#[derive(Clone, Debug)]
struct Sample {
    /// Bytes requested.
    size: u64,
    /// The number of similar allocations that the sample represents.
    stands_for: f64,
    /// The time of the allocation, in µs.
    at: u64,
    tag: Option<Arc<str>>,
    /// The call site's index, once it is known.
    site: Option<usize>,
}

/// Unbiased estimates for a place in the program and one tag.
#[derive(Clone, Debug, PartialEq)]
pub struct CallSite {
    /// Frames, one a line, the innermost first.
    pub stack: Arc<str>,
    /// The tag of the allocations.
    pub tag: Option<Arc<str>>,
    /// Live bytes.
    pub live_bytes: f64,
    /// Live allocations.
    pub live_count: f64,
    /// Bytes ever allocated.
    pub total_bytes: f64,
    /// Allocations ever made.
    pub total_count: f64,
}

/// A stack and a tag.
type CallSiteKey = (Arc<str>, Option<Arc<str>>);

/// The live samples and all call sites of one profile.
#[derive(Debug, Default)]
pub struct CallSites {
    samples: Table<Sample>,
    sites: Vec<CallSite>,
    /// The number of live samples of each site.
    live_samples: Vec<u64>,
    index: HashMap<CallSiteKey, usize>,
    /// Lifetimes of freed samples, in µs.
    lifetimes: Histogram,
}

impl CallSites {
    /// Adds a sample of `size` bytes that represents `stands_for` similar allocations.
    pub fn sampled(&mut self, size: u64, stands_for: f64, tag: Option<Arc<str>>) -> Handle {
        self.samples.insert(Sample { size, stands_for, at: clock::exact(), tag, site: None })
    }

    /// Sets the stack of a sample. Does nothing for a sample that has a stack, or that was freed.
    pub fn attribute(&mut self, id: Handle, stack: &str) {
        let Some(sample) = self.samples.get_mut(id).filter(|sample| sample.site.is_none()) else { return };
        let key = (Arc::from(stack), sample.tag.clone());
        let known = self.index.get(&key).copied();
        let at = known.unwrap_or_else(|| {
            let full = self.sites.len() >= MAX_CALL_SITES;
            let key = if full { (Arc::from(OTHER_CALL_SITES), None) } else { key };
            *self.index.entry(key).or_insert_with_key(|(stack, tag)| {
                self.sites.push(CallSite::new(Arc::clone(stack), tag.clone()));
                self.live_samples.push(0);
                self.sites.len() - 1
            })
        });
        sample.site = Some(at);
        self.live_samples[at] += 1;
        let (count, bytes) = (sample.stands_for, sample.stands_for * sample.size as f64);
        let site = &mut self.sites[at];
        site.live_bytes += bytes;
        site.live_count += count;
        site.total_bytes += bytes;
        site.total_count += count;
    }

    /// Removes a sample whose allocation was freed.
    pub fn freed(&mut self, id: Handle) {
        let Some(sample) = self.samples.remove(id) else { return };
        let lived = clock::exact().saturating_sub(sample.at).max(1);
        self.lifetimes.count(lived, (sample.stands_for.round() as u64).max(1));
        let Some(at) = sample.site else { return };
        let site = &mut self.sites[at];
        self.live_samples[at] -= 1;
        if self.live_samples[at] == 0 {
            // Exactly zero: sums of numbers of different magnitude leave rounding errors.
            (site.live_bytes, site.live_count) = (0.0, 0.0);
        } else {
            site.live_bytes -= sample.stands_for * sample.size as f64;
            site.live_count -= sample.stands_for;
        }
    }

    /// Returns the stack of a live sample, if it is known.
    pub fn stack(&self, id: Handle) -> Option<Arc<str>> {
        let site = self.samples.get(id)?.site?;
        self.sites.get(site).map(|site| Arc::clone(&site.stack))
    }

    /// Returns a live sample's time in µs, its bytes and its stack.
    pub fn sample(&self, id: Handle) -> Option<(u64, u64, Option<Arc<str>>)> {
        self.samples.get(id).map(|sample| (sample.at, sample.size, self.stack(id)))
    }

    /// Returns all call sites.
    pub fn list(&self) -> &[CallSite] {
        &self.sites
    }

    /// Returns the lifetimes of freed samples, in µs.
    pub fn lifetimes(&self) -> &Histogram {
        &self.lifetimes
    }
}

impl CallSite {
    fn new(stack: Arc<str>, tag: Option<Arc<str>>) -> Self {
        Self { stack, tag, live_bytes: 0.0, live_count: 0.0, total_bytes: 0.0, total_count: 0.0 }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn live_and_total_samples_are_counted_by_stack_and_tag() {
        let mut sites = CallSites::default();
        let tag: Option<Arc<str>> = Some("kv".into());
        let ids: Vec<_> = [None, tag.clone(), None].into_iter().map(|tag| sites.sampled(100, 2.0, tag)).collect();
        ids.iter().for_each(|id| sites.attribute(*id, "at f"));
        sites.attribute(ids[0], "at g"); // ignored: the sample has a stack
        sites.freed(ids[0]);
        sites.freed(ids[0]);
        sites.freed(ids[1]);
        let figures: Vec<_> =
            sites.list().iter().map(|site| (site.live_bytes, site.total_bytes, site.total_count)).collect();
        assert_eq!(figures, [(200.0, 400.0, 4.0), (0.0, 200.0, 2.0)]);
        assert_eq!(sites.list()[1].tag, tag);
        assert_eq!(sites.stack(ids[2]).as_deref(), Some("at f"));
        assert_eq!(sites.stack(ids[1]), None);
        assert_eq!(sites.lifetimes().summary().count, 4);
    }

    #[test]
    fn stacks_that_are_never_the_same_twice_do_not_leak() {
        let mut sites = CallSites::default();
        for at in 0..MAX_CALL_SITES + 500 {
            let id = sites.sampled(1, 1.0, None);
            sites.attribute(id, &format!("at f{at}"));
            sites.freed(id);
        }
        assert_eq!(sites.list().len(), MAX_CALL_SITES + 1);
        let others = sites.list().iter().find(|site| &*site.stack == OTHER_CALL_SITES).unwrap();
        assert_eq!((others.total_count, others.live_count), (500.0, 0.0));
    }
}
