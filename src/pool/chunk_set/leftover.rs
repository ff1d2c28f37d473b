//! Takes out the chunks that a pool no longer needs: after a free a few, and in a trim all, some at a time.

use std::cmp::Reverse;
use std::mem::take;

use super::{ChunkSet, HasArena, Member};
use crate::handle::Handle;
use crate::pool::visits;

/// The most empty chunks that one free looks at.
const MAX_LEFTOVER: usize = 8;

/// A chunk that may go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leftover {
    handle: Handle,
    at: usize,
    bytes: u64,
}

impl Leftover {
    /// Sorts small chunks last, so that one large chunk does not stay for the whole initial size.
    pub(crate) fn sort(all: &mut [Self]) {
        all.sort_unstable_by_key(|Self { at, bytes, .. }| (Reverse(*bytes), *at));
    }
}

impl<C: HasArena> ChunkSet<C> {
    /// Removes the empty chunks that a free has left over. Keeps one, so that the next request does not ask the driver
    /// again. Looks at [`MAX_LEFTOVER`] at most: after a reset, no single free pays for the end of all chunks.
    pub(crate) fn take_leftover(&mut self, initial: u64) -> Vec<C> {
        if self.order.len() < 2 {
            return Vec::new();
        }
        let listed = self.empty.split_off(self.empty.len().saturating_sub(MAX_LEFTOVER));
        let mut empty = self.unlist(&listed, |Member { chunk, in_empty, .. }| {
            *in_empty = false;
            chunk.is_empty()
        });
        empty.sort_unstable_by_key(|leftover| leftover.at);
        let kept = empty.len().min(1);
        for Leftover { handle, .. } in empty.drain(..kept) {
            self.list(handle);
        }
        self.remove_idle(&empty, initial)
    }

    /// Takes the names of all chunks that may be empty or idle, for [`idle_of`](Self::idle_of).
    pub(crate) fn take_listed(&mut self) -> Vec<Handle> {
        let mut listed = take(&mut self.empty);
        match listed.is_empty() {
            true => take(&mut self.idle),
            false => {
                listed.append(&mut self.idle);
                listed
            }
        }
    }

    /// Takes chunks out of the lists. Returns those that are idle, and so may go.
    pub(crate) fn idle_of(&mut self, listed: &[Handle]) -> Vec<Leftover> {
        self.unlist(listed, |Member { chunk, in_empty, in_idle, .. }| {
            (*in_empty, *in_idle) = (false, false);
            chunk.is_idle()
        })
    }

    fn unlist(&mut self, listed: &[Handle], goes: impl Fn(&mut Member<C>) -> bool) -> Vec<Leftover> {
        let mut found = Vec::with_capacity(listed.len());
        for handle in listed {
            visits::add(1);
            let Some(member) = self.chunks.get_mut(*handle) else { continue };
            if goes(member) && Some(*handle) != self.first {
                found.push(Leftover { handle: *handle, at: member.at, bytes: member.chunk.arena().capacity() });
            }
        }
        found
    }

    /// Removes those chunks that are still idle, down to `initial` bytes.
    pub(crate) fn remove_idle(&mut self, leftover: &[Leftover], initial: u64) -> Vec<C> {
        let mut gone = Vec::new();
        for Leftover { handle, bytes, .. } in leftover {
            visits::add(1);
            if !self.get(*handle).is_some_and(HasArena::is_idle) {
                continue;
            }
            if self.reserved - bytes < initial {
                self.list(*handle);
                continue;
            }
            self.reserved -= bytes;
            gone.extend(self.remove(*handle));
        }
        gone
    }
}
