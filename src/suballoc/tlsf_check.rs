//! `Tlsf::check`, the body of [`super::SubAllocator::validate`]: checks every invariant of [`super::tlsf`].

use super::node::{Node, NIL};
use super::tlsf::Tlsf;

impl Tlsf {
    pub(super) fn check(&self) -> Result<(), String> {
        let (used, free) = self.check_tiling()?;
        let listed = self.bins.check(&self.nodes, self.free_regions)?;
        if listed != free {
            return Err(format!("{listed} nodes in lists, {free} free regions by address"));
        }
        self.check_refused()?;
        let unused = self.check_unused()?;
        let nodes = self.nodes.len() as u64;
        if 1 + used + free + unused != nodes {
            return Err(format!("{nodes} nodes, but 1 boundary + {used} used + {free} free + {unused} unused"));
        }
        Ok(())
    }

    /// Checks the regions by address: no gap, no overlap, no two free neighbours, symmetric links, true counters.
    /// Returns the numbers of used and free regions.
    fn check_tiling(&self) -> Result<(u64, u64), String> {
        let boundary = &self.nodes[NIL as usize];
        if !boundary.used() || boundary.size() != 0 {
            return Err("the boundary node changed".into());
        }
        let (mut used, mut free, mut free_granules, mut end) = (0, 0, 0, 0);
        let mut before = NIL;
        let mut was_free = false;
        let mut index = boundary.next_phys;
        while index != NIL {
            let node =
                self.nodes.get(index as usize).ok_or_else(|| format!("a link names node {index}, beyond the table"))?;
            if node.offset() != end || node.size() == 0 {
                return Err(format!("node {index} is {}+{}, expected at {end}", node.offset(), node.size()));
            }
            if node.prev_phys != before {
                return Err(format!("node {index} has {} before it, not {before}", node.prev_phys));
            }
            if node.used() {
                used += 1;
            } else {
                if was_free {
                    return Err(format!("free nodes {before} and {index} touch"));
                }
                free += 1;
                free_granules += node.size();
            }
            was_free = !node.used();
            end += node.size();
            before = index;
            index = node.next_phys;
        }
        if boundary.prev_phys != before {
            return Err(format!("the last node is {before}, the boundary says {}", boundary.prev_phys));
        }
        let counted = (end, free_granules, used, free);
        let kept = (self.total, self.free, self.used_regions, self.free_regions);
        if counted != kept {
            return Err(format!("(total, free, used regions, free regions): counted {counted:?}, kept {kept:?}"));
        }
        Ok((used, free))
    }

    /// Checks that no free region holds an aligned request that counts as refused.
    fn check_refused(&self) -> Result<(), String> {
        if !self.refused.any {
            return Ok(());
        }
        let mut harder = u64::MAX;
        for (exponent, &size) in self.refused.sizes.iter().enumerate().filter(|&(_, &size)| size != u64::MAX) {
            if size < harder {
                harder = size;
                let fits = |node: &&Node| {
                    let skip = node.offset().wrapping_neg() & ((1 << exponent) - 1);
                    !node.used() && node.size() != 0 && size.saturating_add(skip) <= node.size()
                };
                if let Some(node) = self.nodes.iter().find(fits) {
                    return Err(format!("{size} granules at 2^{exponent} count as refused, but {node:?} is free"));
                }
            }
        }
        Ok(())
    }

    /// Checks the list of unused nodes, and returns its length.
    fn check_unused(&self) -> Result<u64, String> {
        let (mut index, mut unused) = (self.unused, 0);
        while index != NIL {
            let node =
                self.nodes.get(index as usize).ok_or_else(|| format!("unused node {index} is beyond the table"))?;
            if node.used() || node.size() != 0 {
                return Err(format!("unused node {index} is in use: {node:?}"));
            }
            unused += 1;
            if unused > self.nodes.len() as u64 {
                return Err("the list of unused nodes is circular".into());
            }
            index = node.next_free;
        }
        Ok(unused)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{RegionId, SubAllocator};
    use super::*;

    /// An arena with three used regions of 2 granules at 0, 4 and 8, and free regions between and after.
    fn arena() -> Tlsf {
        let mut arena = Tlsf::new(64 * 64, 64).expect("valid layout");
        let all: Vec<RegionId> =
            (0..5).filter_map(|user_data| arena.allocate(128, 1, user_data)).map(|r| r.id).collect();
        arena.free(all[1]).expect("live");
        arena.free(all[3]).expect("live");
        assert_eq!(arena.validate(), Ok(()));
        arena
    }

    /// Each line breaks one invariant: a check that cannot fail proves nothing.
    #[test]
    fn validate_finds_damage() {
        let damages: &[fn(&mut Tlsf)] = &[
            |a| a.free += 1,
            |a| a.used_regions += 1,
            |a| a.free_regions -= 1,
            |a| a.refused.add(4, 2),
            |a| a.unused = NIL,
            |a| a.nodes[NIL as usize].prev_phys = 1,
            |a| a.nodes[1].set_size(3),
            |a| a.nodes[2].set_offset(3),
            |a| a.nodes[3].prev_phys = 1,
            |a| a.nodes[3].next_phys = 3,
            |a| a.nodes[3].retire(),
            |a| a.bins.remove(&mut a.nodes, 2, 2),
            |a| a.bins.push(&mut a.nodes, 1, 2),
            |a| a.nodes[2].next_free = NIL,
            |a| a.bins.clear(),
        ];
        for (number, damage) in damages.iter().enumerate() {
            let mut arena = arena();
            damage(&mut arena);
            assert!(arena.validate().is_err(), "damage {number} went unnoticed");
        }
    }
}
