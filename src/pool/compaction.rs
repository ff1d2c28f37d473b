//! Compaction: moves slices together, so that free bytes lie in one piece and chunks become empty.
//!
//! A [`Pass`] makes one [`Move`] at a time: it reserves the target, the owner of the slice detaches its view, the bytes
//! are copied, and [`Move::commit`] gives the slice its new place. Dropping a move cancels it, so a pass can stop at
//! any point. Other users may change the pool between two moves: a pass checks everything that it remembers again
//! before use. A slice in a move can be neither pinned nor freed.
//!
//! A pass first surveys every region, some at a time: a time slice of a compaction must be short, however large the
//! pool. Then the movable slices of the last chunks, from the top, go into the first holes that are large enough. If
//! all slices have one size, no order of moves needs fewer bytes. Slices too large for any hole then slide down, over
//! their own bytes if necessary, in those chunks where that helps.

mod fill;
mod holes;
mod moves;
mod pass;
mod slide;
mod survey;
mod target;

use super::Pool;
pub(super) use moves::CopyJob;
pub use moves::{Location, Move, Moved};
pub(super) use pass::SEARCH_STEP;
pub use pass::{Pass, SearchStep};

impl Pool {
    /// Reserves the target of the next move; returns `None` if no move gains anything. Completes the
    /// [survey](Self::survey) if necessary. Moves in flight ([`CopyQueue`](super::CopyQueue)) must complete before
    /// [`next_slide`](Self::next_slide), which works on the pool that they leave.
    pub fn next_move<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        self.next_fill(pass).or_else(|| self.next_slide(pass))
    }

    /// Finds the next move into a hole. Earlier moves may still be in flight.
    pub fn next_fill<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        while !self.survey(pass, SEARCH_STEP) {}
        search(|| self.search_fill(pass))
    }

    /// Finds the next move down, over the slice's own bytes if necessary. Requires that no hole can be filled any more
    /// and that all earlier moves are complete.
    pub fn next_slide<'a>(&'a self, pass: &mut Pass) -> Option<Move<'a>> {
        while !self.survey(pass, SEARCH_STEP) {}
        search(|| self.search_slide(pass))
    }
}

/// Runs steps until one has a result.
fn search<'a>(mut step: impl FnMut() -> SearchStep<'a>) -> Option<Move<'a>> {
    loop {
        match step() {
            SearchStep::Found(found) => return Some(found),
            SearchStep::Paused => {}
            SearchStep::Exhausted => return None,
        }
    }
}

#[cfg(test)]
mod tests;
