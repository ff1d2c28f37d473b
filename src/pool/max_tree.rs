//! A list of numbers with a tree of maxima, which finds the first number that is large enough in logarithmic time.
#![forbid(unsafe_code)]

/// Numbers by position. Positions that were never set have 0.
#[derive(Clone, Debug, Default)]
pub(super) struct MaxTree {
    /// Node 1 is the root, node n has children 2n and 2n + 1, leaves start at half the length.
    nodes: Vec<u64>,
}

impl MaxTree {
    pub(super) fn new(values: impl ExactSizeIterator<Item = u64>) -> Self {
        let mut tree = Self { nodes: vec![0; 2 * values.len().next_power_of_two()] };
        let leaves = tree.leaves();
        tree.nodes[leaves..].iter_mut().zip(values).for_each(|(leaf, value)| *leaf = value);
        (1..leaves).rev().for_each(|node| tree.update(node));
        tree
    }

    fn leaves(&self) -> usize {
        self.nodes.len() / 2
    }

    fn update(&mut self, node: usize) {
        self.nodes[node] = self.nodes[2 * node].max(self.nodes[2 * node + 1]);
    }

    /// The number at a position.
    pub(super) fn get(&self, at: usize) -> u64 {
        self.nodes.get(self.leaves() + at).copied().unwrap_or(0)
    }

    /// Sets the number at a position. The tree grows as a vector does.
    pub(super) fn set(&mut self, at: usize, value: u64) {
        if at >= self.leaves() {
            let values: Vec<_> =
                self.nodes[self.leaves()..].iter().copied().chain(std::iter::repeat(0)).take(at + 1).collect();
            *self = Self::new(values.into_iter());
        }
        let mut node = self.leaves() + at;
        self.nodes[node] = value;
        while node > 1 {
            node /= 2;
            let before = self.nodes[node];
            self.update(node);
            if self.nodes[node] == before {
                return;
            }
        }
    }

    /// The first position whose number is at least `value`, which is not 0.
    pub(super) fn first_at_least(&self, value: u64) -> Option<usize> {
        if self.nodes.get(1).is_none_or(|largest| *largest < value.max(1)) {
            return None;
        }
        let mut node = 1;
        while node < self.leaves() {
            node *= 2;
            if self.nodes[node] < value {
                node += 1;
            }
        }
        Some(node - self.leaves())
    }

    /// The maximum of `exact` over all positions, of which the numbers are upper bounds. Asks for `exact` only where
    /// the bound exceeds the largest one so far.
    pub(super) fn max_of(&self, exact: impl Fn(usize) -> u64) -> u64 {
        let mut largest = 0;
        let mut open: Vec<usize> = Vec::from_iter((self.leaves() > 0).then_some(1));
        while let Some(node) = open.pop() {
            if self.nodes[node] <= largest {
                continue;
            }
            match node.checked_sub(self.leaves()) {
                Some(at) => largest = largest.max(exact(at)),
                // The child with the larger bound is next.
                None if self.nodes[2 * node] >= self.nodes[2 * node + 1] => open.extend([2 * node + 1, 2 * node]),
                None => open.extend([2 * node, 2 * node + 1]),
            }
        }
        largest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_that_is_large_enough_is_found() {
        for count in 1..20_u64 {
            let mut values: Vec<u64> = (0..count).map(|at| at * 7919 % 13).collect();
            let mut tree = MaxTree::new(values.clone().into_iter());
            for round in 0..60 {
                let wanted = 1 + round % 13;
                let expected = values.iter().position(|value| *value >= wanted);
                assert_eq!(tree.first_at_least(wanted), expected, "{wanted} of {values:?}");
                if let Some(at) = expected {
                    values[at] -= wanted;
                    tree.set(at, values[at]);
                    assert_eq!(tree.get(at), values[at]);
                }
            }
        }
    }

    #[test]
    fn a_tree_grows_by_its_positions() {
        let mut tree = MaxTree::default();
        assert_eq!((tree.get(3), tree.first_at_least(0), tree.max_of(|_| 1)), (0, None, 0));
        for at in 0..100 {
            tree.set(at, 100 - at as u64);
        }
        assert_eq!(
            (tree.get(99), tree.get(100), tree.first_at_least(100), tree.first_at_least(101)),
            (1, 0, Some(0), None)
        );
        tree.set(300, 101);
        assert_eq!((tree.first_at_least(101), tree.get(50)), (Some(300), 50));
    }

    #[test]
    fn the_maximum_of_the_exact_numbers_is_found_without_a_look_at_each() {
        let exact: Vec<u64> = (0..1000).map(|at| at * 7919 % 997).collect();
        // A tenth of the bounds is too high.
        let bounds = exact.iter().enumerate().map(|(at, exact)| exact + if at % 10 == 0 { 50 } else { 0 });
        let tree = MaxTree::new(bounds);
        let asked = std::cell::Cell::new(0);
        let largest = tree.max_of(|at| {
            asked.set(asked.get() + 1);
            exact[at]
        });
        assert_eq!(Some(&largest), exact.iter().max());
        assert!(asked.get() < 20, "{} of 1000", asked.get());
    }
}
