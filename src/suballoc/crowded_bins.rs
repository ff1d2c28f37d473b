//! Bins that many regions of several sizes crowd: finer lists divide them, so that no search is long.
//!
//! A list that has [`CROWDED`] members of more than one size is divided into a *group* of 16 lists, by the next four
//! bits of the size. A list of a group is divided in the same way when it is crowded itself. A list whose members all
//! have one size is never divided, however long it is. So each list is either short or uniform: the best fit in it is
//! found in a constant number of steps, and there are at most eleven groups on the way to it.
//!
//! A group without members goes out of use at once. If there is no memory for a group, its list stays as it is, and a
//! search of it takes longer.

use super::bins::{bin_of, Bins, Group, List, CROWDED, DIVIDED, SINGLE_SIZE, UNIFORM};
use super::node::Node;

/// log2 of the number of lists in a group.
const GROUP_BITS: u32 = 4;
const GROUP_LISTS: usize = 1 << GROUP_BITS;

/// The result of looking at a list in a group: its group and its number there.
#[derive(Clone, Copy)]
struct Position {
    group: usize,
    digit: u32,
}

impl Bins {
    fn group_of(&self, list: usize) -> Option<usize> {
        self.lists[list].form.checked_sub(DIVIDED).map(|group| group as usize)
    }

    fn form_of(group: usize) -> u32 {
        group as u32 + DIVIDED
    }

    fn list_at(&self, group: usize, digit: u32) -> usize {
        self.bins() + group * GROUP_LISTS + digit as usize
    }

    fn position(&self, list: usize) -> Position {
        let at = list - self.bins();
        Position { group: at / GROUP_LISTS, digit: (at % GROUP_LISTS) as u32 }
    }

    fn digit_of(&self, group: usize, size: u64) -> u32 {
        (size >> self.groups[group].shift) as u32 & (GROUP_LISTS as u32 - 1)
    }

    /// Returns the undivided list of `size` under the list `list`.
    #[cold]
    #[inline(never)]
    pub(super) fn list_in_divided(&self, mut list: usize, size: u64) -> usize {
        while let Some(group) = self.group_of(list) {
            list = self.list_at(group, self.digit_of(group, size));
        }
        list
    }

    /// Returns the lowest list with members under `list`, which has some.
    pub(super) fn lowest_in(&self, mut list: usize) -> usize {
        while let Some(group) = self.group_of(list) {
            list = self.list_at(group, self.groups[group].occupied.trailing_zeros());
        }
        list
    }

    /// Returns the highest list with members under `list`, which has some.
    pub(super) fn highest_in(&self, mut list: usize) -> usize {
        while let Some(group) = self.group_of(list) {
            list = self.list_at(group, self.groups[group].occupied.checked_ilog2().unwrap_or(0));
        }
        list
    }

    /// Returns the lowest list that has members and may hold one of at least `size` granules: the list of `size`
    /// itself, or the next above, where every member fits.
    pub(super) fn first_from(&self, size: u64) -> Option<usize> {
        let own = bin_of(size);
        let bin = self.occupied_from(own)?;
        if bin > own {
            return Some(self.lowest_in(bin));
        }
        let mut list = bin;
        while let Some(group) = self.group_of(list) {
            let digit = self.digit_of(group, size);
            let from = u32::from(self.groups[group].occupied) & (!0 << digit);
            if from == 0 {
                return self.next_above(list);
            }
            let lowest = from.trailing_zeros();
            list = self.list_at(group, lowest);
            if lowest > digit {
                return Some(self.lowest_in(list));
            }
        }
        Some(list)
    }

    /// Returns the next list above `list` that has members.
    pub(super) fn next_above(&self, mut list: usize) -> Option<usize> {
        while list >= self.bins() {
            let Position { group, digit } = self.position(list);
            let above = u32::from(self.groups[group].occupied) & (!0 << digit << 1);
            if above != 0 {
                return Some(self.lowest_in(self.list_at(group, above.trailing_zeros())));
            }
            list = self.groups[group].parent as usize;
        }
        self.occupied_from(list + 1).map(|bin| self.lowest_in(bin))
    }

    /// Returns the list that a new member of `size` joins under the crowded `list`.
    pub(super) fn list_to_join(&mut self, nodes: &mut [Node], mut list: usize, size: u64) -> usize {
        loop {
            let List { form, head, .. } = self.lists[list];
            if form >= DIVIDED {
                list = self.list_at((form - DIVIDED) as usize, self.digit_of((form - DIVIDED) as usize, size));
            } else if form < CROWDED - 1 || form >= UNIFORM && nodes[head as usize].size() == size {
                return list;
            } else if (UNIFORM..UNIFORM + CROWDED - 1).contains(&form) {
                // It is not crowded any more.
                self.lists[list].form -= UNIFORM;
                return list;
            } else if self.members(nodes, list).all(|index| nodes[index as usize].size() == size) {
                self.lists[list].form |= UNIFORM;
                return list;
            } else if !self.divide(nodes, list) {
                self.lists[list].form &= !UNIFORM;
                return list;
            }
        }
    }

    /// Divides `list`, whose members have several sizes or get one of another size. Returns false, and changes nothing,
    /// if there is no memory for a group.
    fn divide(&mut self, nodes: &mut [Node], list: usize) -> bool {
        let bits = match list.checked_sub(self.bins()) {
            None => (list >> 6) as u32 - 1,
            Some(_) => u32::from(self.groups[self.position(list).group].shift),
        };
        let Some(group) = self.take_group(list, bits.saturating_sub(GROUP_BITS) as u8) else { return false };
        let divided = List { form: Self::form_of(group), ..List::default() };
        let whole = std::mem::replace(&mut self.lists[list], divided);
        if whole.form >= UNIFORM {
            let only = self.list_at(group, self.digit_of(group, nodes[whole.head as usize].size()));
            self.lists[only] = whole;
            self.mark_in_group(only);
            return true;
        }
        let mut index = whole.head;
        while index != 0 {
            let Node { next_free, .. } = nodes[index as usize];
            let part = self.list_at(group, self.digit_of(group, nodes[index as usize].size()));
            self.lists[part].form += 1;
            self.lists[part].append(nodes, index);
            self.mark_in_group(part);
            index = next_free;
        }
        true
    }

    /// Takes a group without members.
    fn take_group(&mut self, parent: usize, shift: u8) -> Option<usize> {
        let parent = u32::try_from(parent).ok()?;
        let new = Group { parent, occupied: 0, shift };
        if let Some(group) = self.unused_group.checked_sub(DIVIDED) {
            let group = group as usize;
            self.unused_group = self.groups[group].parent;
            self.groups[group] = new;
            return Some(group);
        }
        let group = self.groups.len();
        // Every list needs an index of 32 bits, and every group a form.
        let lists = self.lists.len() + GROUP_LISTS;
        u32::try_from(lists).ok()?;
        self.groups.try_reserve(1).ok()?;
        self.lists.try_reserve(GROUP_LISTS).ok()?;
        self.groups.push(new);
        self.lists.resize(lists, List::default());
        Some(group)
    }

    pub(super) fn mark_in_group(&mut self, list: usize) {
        let Position { group, digit } = self.position(list);
        self.groups[group].occupied |= 1 << digit;
    }

    /// Marks a list of a group empty, and puts groups that have no members left out of use.
    #[cold]
    #[inline(never)]
    pub(super) fn mark_empty_in_group(&mut self, mut list: usize) {
        while list >= self.bins() {
            self.lists[list] = List::default();
            let Position { group, digit } = self.position(list);
            let of = &mut self.groups[group];
            of.occupied &= !(1 << digit);
            if of.occupied != 0 {
                return;
            }
            list = of.parent as usize;
            of.parent = self.unused_group;
            self.unused_group = Self::form_of(group);
        }
        self.lists[list] = List::default();
        self.mark_bin_empty(list);
    }

    /// Checks the form, the ends and the bitmaps of every list. Returns the number of members.
    pub(super) fn check(&self, nodes: &[Node], free_regions: u64) -> Result<u64, String> {
        let mut in_use = 0;
        for (group, &Group { parent, occupied, .. }) in self.groups.iter().enumerate() {
            if occupied != 0 {
                in_use += 1;
                if self.group_of(parent as usize) != Some(group) {
                    return Err(format!("group {group}: its list {parent} has form {:?}", self.lists[parent as usize]));
                }
            }
        }
        let (mut unused, mut next) = (0, self.unused_group);
        while let Some(group) = next.checked_sub(DIVIDED) {
            unused += 1;
            next = match self.groups.get(group as usize) {
                Some(of) if of.occupied == 0 && unused <= self.groups.len() => of.parent,
                _ => return Err(format!("group {group} is not out of use, or the list of those is circular")),
            };
        }
        if in_use + unused != self.groups.len() {
            return Err(format!("{} groups, but {in_use} in use and {unused} not", self.groups.len()));
        }
        let mut listed = 0;
        for list in 0..self.lists.len() {
            if list < self.bins() {
                self.check_bitmaps(list)?;
            } else {
                let Position { group, digit } = self.position(list);
                let bit = self.groups[group].occupied >> digit & 1 == 1;
                if bit != (self.lists[list].head != 0 || self.group_of(list).is_some()) {
                    return Err(format!("list {digit} of group {group}: {:?}, bit {bit}", self.lists[list]));
                }
            }
            listed += self.check_list(nodes, list, free_regions)?;
        }
        Ok(listed)
    }

    /// Checks that every member of a list is free, has a size of the list and is linked both ways, and that the form is
    /// true. Returns the number of members.
    fn check_list(&self, nodes: &[Node], list: usize, free_regions: u64) -> Result<u64, String> {
        let (mut last, mut members, mut uniform) = (0, 0, true);
        let List { head, tail, form } = self.lists[list];
        for index in self.members(nodes, list) {
            let node = &nodes[index as usize];
            let size = node.size();
            if node.used() || size == 0 || self.list_in_divided(bin_of(size), size) != list {
                return Err(format!("node {index} does not belong in list {list}: {node:?}"));
            }
            if node.prev_free != last {
                return Err(format!("node {index} in list {list} has {} before it, not {last}", node.prev_free));
            }
            uniform &= size == nodes[head as usize].size();
            last = index;
            members += 1;
            if members > free_regions {
                return Err(format!("list {list} is circular"));
            }
        }
        let true_form = match form {
            DIVIDED.. => members == 0 && list >= SINGLE_SIZE,
            UNIFORM.. => uniform && u64::from(form - UNIFORM) == members,
            counted => u64::from(counted) == members,
        };
        if tail != last || !true_form {
            return Err(format!("list {list}: tail {tail}, last {last}, form {form}, {members} members"));
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free nodes of `sizes`, from node 1 on, in the bins of an arena.
    fn bins_of(sizes: &[u64]) -> (Bins, Vec<Node>) {
        let mut nodes = vec![Node::BOUNDARY; sizes.len() + 1];
        let mut bins = Bins::new(1 << 40);
        for (index, &size) in (1..).zip(sizes) {
            nodes[index as usize].extent = size;
            bins.push(&mut nodes, index, size);
        }
        (bins, nodes)
    }

    fn sizes_from(bins: &Bins, nodes: &[Node], size: u64) -> Vec<u64> {
        std::iter::successors(bins.first_from(size), |&list| bins.next_above(list))
            .flat_map(|list| bins.members(nodes, list).map(|index| nodes[index as usize].size()).collect::<Vec<_>>())
            .collect()
    }

    const BASE: u64 = 1 << 36;
    const MANY: u64 = CROWDED as u64 + 8;

    /// Sizes of one bin that differ in their highest, middle and lowest bits, and as many again outside it.
    fn crowd() -> Vec<u64> {
        let spread = (0..MANY).map(|step| BASE + (step << 22));
        let near = (0..MANY).map(|step| BASE + step);
        let equal = (0..MANY).map(|_| BASE + (3 << 20));
        let outside = (0..2 * MANY).map(|step| (step % 2 + 1) * BASE * 2 + step);
        spread.chain(near).chain(equal).chain(outside).collect()
    }

    #[test]
    fn every_list_of_a_crowded_bin_is_short_or_uniform_and_in_order() {
        let sizes = crowd();
        let (bins, nodes) = bins_of(&sizes);
        assert_eq!(bins.check(&nodes, sizes.len() as u64), Ok(sizes.len() as u64));
        let lists: Vec<usize> = std::iter::successors(bins.first_from(1), |&list| bins.next_above(list)).collect();
        for list in lists {
            let members = bins.members(&nodes, list).count();
            assert!(members < CROWDED as usize || bins.is_uniform(list), "list {list} has {members} members");
        }
        let found = sizes_from(&bins, &nodes, 1);
        assert_eq!(found.len(), sizes.len());
        assert_eq!(bins.last().map(|list| nodes[bins.head(list) as usize].size() >= 4 * BASE), Some(true));
    }

    #[test]
    fn a_look_up_starts_at_the_list_of_the_size_or_above() {
        let sizes = crowd();
        let (bins, nodes) = bins_of(&sizes);
        for need in sizes.iter().flat_map(|&size| [size - 1, size, size + 1]) {
            let found = sizes_from(&bins, &nodes, need);
            let fit = |of: &[u64]| {
                let mut fit: Vec<u64> = of.iter().copied().filter(|&size| size >= need).collect();
                fit.sort_unstable();
                fit
            };
            assert_eq!(fit(&found), fit(&sizes), "{need}");
            // Those that do not fit are of the first list.
            let smaller: Vec<u64> = found.iter().copied().filter(|&size| size < need).collect();
            let uniform = smaller.iter().all(|&size| size == smaller[0]);
            assert!(smaller.len() < CROWDED as usize || uniform, "{need}: {} are smaller", smaller.len());
        }
    }

    #[test]
    fn groups_go_out_of_use_with_their_last_member_and_are_used_again() {
        let sizes = crowd();
        let (mut bins, mut nodes) = bins_of(&sizes);
        let groups = bins.groups.len();
        assert!(groups > 3, "{groups}");
        for round in 0..3 {
            for (index, &size) in (1..).zip(&sizes) {
                bins.remove(&mut nodes, index, size);
            }
            assert_eq!(bins.check(&nodes, 0), Ok(0));
            assert!(bins.groups.iter().all(|group| group.occupied == 0));
            assert_eq!((bins.first_from(1), bins.last()), (None, None));
            for (index, &size) in (1..).zip(&sizes) {
                bins.push(&mut nodes, index, size);
            }
            assert_eq!(bins.check(&nodes, sizes.len() as u64), Ok(sizes.len() as u64), "round {round}");
            assert_eq!(bins.groups.len(), groups);
        }
        bins.clear();
        assert_eq!((bins.groups.len(), bins.lists.len()), (0, bins.bins()));
    }

    fn of_first_group(bins: &mut Bins, digit: u32) -> &mut List {
        let list = bins.list_at(0, digit);
        &mut bins.lists[list]
    }

    /// Each line breaks one rule that `check` checks.
    #[test]
    fn check_finds_damage_in_groups() {
        let damages: &[fn(&mut Bins)] = &[
            |bins| bins.groups[0].occupied ^= 1 << 15,
            |bins| bins.groups[0].occupied = 0,
            |bins| bins.groups[0].parent += 1,
            |bins| bins.unused_group = Bins::form_of(0),
            |bins| of_first_group(bins, 0).form += 1,
            |bins| of_first_group(bins, 1).form += 1,
            |bins| of_first_group(bins, 1).tail = 0,
        ];
        let sizes = crowd();
        for (number, damage) in damages.iter().enumerate() {
            let (mut bins, nodes) = bins_of(&sizes);
            damage(&mut bins);
            assert!(bins.check(&nodes, sizes.len() as u64).is_err(), "damage {number} went unnoticed");
        }
    }
}
