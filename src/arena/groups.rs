//! Groups of buffers with one lifetime, which a search may place as one: the largest part of many lists is such
//! buffers, whose places differ in nothing that matters.

use std::collections::HashMap;

use super::buffers::Lifetime;

/// The buffers of a list, with those of one lifetime and alignment stacked on each other.
#[derive(Debug)]
pub struct Groups {
    /// The stacks.
    pub buffers: Vec<Lifetime>,
    /// The stack of each buffer, and its offset there.
    places: Vec<(usize, u64)>,
}

impl Groups {
    /// Returns `None` if all lifetimes differ.
    pub fn new(buffers: &[Lifetime]) -> Option<Self> {
        let mut stacks: Vec<Lifetime> = Vec::new();
        let mut by_lifetime = HashMap::new();
        let places = (buffers.iter())
            .map(|buffer| {
                let lifetime = (buffer.lower, buffer.upper, buffer.alignment);
                let stack = *by_lifetime.entry(lifetime).or_insert(stacks.len());
                let offset = match stacks.get(stack) {
                    Some(below) => below.size.next_multiple_of(buffer.alignment),
                    None => 0,
                };
                match stacks.get_mut(stack) {
                    Some(below) => below.size = offset + buffer.size,
                    None => stacks.push(*buffer),
                }
                (stack, offset)
            })
            .collect();
        (stacks.len() < buffers.len()).then_some(Self { buffers: stacks, places })
    }

    /// Returns the offsets of the buffers in stacks at `offsets`.
    pub fn offsets(&self, offsets: &[u64]) -> Vec<u64> {
        self.places.iter().map(|&(stack, offset)| offsets[stack] + offset).collect()
    }
}
