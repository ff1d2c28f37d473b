//! [`Pass`]: one compaction of a pool and its progress.

use std::cmp::Reverse;

use super::holes::{Hole, Holes};
use super::moves::Move;
use crate::error::Result;
use crate::handle::Handle;
use crate::pool::Pool;
use crate::suballoc::RegionId;

/// The slices, holes or regions that one critical section visits at most, however large the pool: other threads wait
/// for its lock meanwhile.
pub(in crate::pool) const SEARCH_STEP: usize = 256;

/// One compaction of a pool and its progress.
#[derive(Debug)]
pub struct Pass {
    /// The number of the pass in its pool.
    pub(super) number: u64,
    /// The progress of the list of chunks; `None` once `chunks` has them.
    pub(super) listing: Option<Listing>,
    /// The chunks, from those that fill up to those that empty.
    pub(super) chunks: Vec<Handle>,
    pub(super) survey: Survey,
    pub(super) holes: Holes,
    /// The slices that may still go into a hole; the last one is next.
    pub(super) candidates: Vec<Candidate>,
    pub(super) slides: Slides,
    /// The most bytes of a slice that moves.
    pub(super) largest: u64,
}

impl Pass {
    /// Leaves slices larger than `bytes` where they are. They keep no other slice from moving.
    pub fn skip_larger(&mut self, bytes: u64) {
        self.largest = bytes;
    }
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) id: Handle,
    pub(super) rank: usize,
    pub(super) offset: u64,
}

/// The progress of the list of a pool's chunks.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// The next slot of the pool's table of chunks.
    pub(super) next: usize,
    /// The chunks, each after its rank.
    pub(super) found: Vec<(ChunkRank, Handle)>,
}

/// The initial chunk (false) always stays, so it is filled first; then the fullest chunk, which would cost most to
/// empty.
pub(super) type ChunkRank = (bool, Reverse<u64>);

/// The progress of the survey.
#[derive(Debug, Default)]
pub(super) struct Survey {
    /// The rank of the current chunk.
    pub(super) rank: usize,
    /// The last surveyed slice of that chunk; `None` at its start.
    pub(super) seen: Option<RegionId>,
    pub(super) holes: Vec<(Hole, u64)>,
}

/// The progress of sliding.
#[derive(Debug, Default)]
pub(super) struct Slides {
    /// The rank of the current chunk.
    pub(super) rank: usize,
    /// The last region of that chunk that stays in its place; `None` at the chunk's start.
    pub(super) last_fixed: Option<RegionId>,
}

/// The result of one step of the search for a move.
#[derive(Debug)]
#[must_use]
pub enum SearchStep<'a> {
    /// A move, whose target is reserved.
    Found(Move<'a>),
    /// None so far: the next step continues there.
    Paused,
    /// There is none.
    Exhausted,
}

impl Pool {
    /// Starts a compaction. Other users may use the pool throughout.
    ///
    /// Errors: `ERR_POOL_DESTROYED`.
    pub fn start_pass(&self) -> Result<Pass> {
        let number = {
            let mut state = self.state();
            state.alive(self.name())?;
            state.passes += 1;
            state.passes
        };
        Ok(Pass {
            number,
            listing: Some(Listing::default()),
            chunks: Vec::new(),
            survey: Survey::default(),
            holes: Holes::default(),
            candidates: Vec::new(),
            slides: Slides::default(),
            largest: u64::MAX,
        })
    }
}
