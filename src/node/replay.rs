//! Replay of a recorded log against a pool's policy, without memory.

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::env::throw;
use crate::error::{Error, ErrorCode};
use crate::pool::replay::{replay, smallest_capacity, Outcome, Step};
use crate::pool::Layout;

/// Layout of the pool; bytes.
#[napi(object)]
pub struct ReplayLayout {
    pub initial: f64,
    pub max: f64,
    pub chunk: f64,
    pub block: Option<f64>,
    pub alignment: f64,
}

impl From<&ReplayLayout> for Layout {
    fn from(layout: &ReplayLayout) -> Self {
        Self {
            initial: layout.initial as u64,
            max: layout.max as u64,
            chunk: layout.chunk as u64,
            block: layout.block.map(|bytes| bytes as u64),
            alignment: layout.alignment as u64,
            delay: 0,
        }
    }
}

/// The first request that failed.
#[napi(object)]
pub struct ReplayFailure {
    pub step: f64,
    pub size: f64,
    pub live: f64,
    pub reserved: f64,
    pub free: f64,
    pub largest_free: f64,
}

/// Results of a replay.
#[napi(object, use_nullable = true)]
pub struct ReplayOutcome {
    pub allocations: f64,
    pub frees: f64,
    pub failures: f64,
    pub failed_bytes: f64,
    pub first_failure: Option<ReplayFailure>,
    pub peak_live: f64,
    pub peak_allocated: f64,
    pub peak_reserved: f64,
    pub fragmentation_at_peak: f64,
    pub highest_address: Option<f64>,
    pub chunks_made: f64,
    pub live_at_end: f64,
    pub reserved_at_end: f64,
    pub largest_free_at_end: f64,
}

impl From<Outcome> for ReplayOutcome {
    fn from(outcome: Outcome) -> Self {
        Self {
            allocations: outcome.allocations as f64,
            frees: outcome.frees as f64,
            failures: outcome.failures as f64,
            failed_bytes: outcome.failed_bytes as f64,
            first_failure: outcome.first_failure.map(|failure| ReplayFailure {
                step: failure.step as f64,
                size: failure.size as f64,
                live: failure.live as f64,
                reserved: failure.reserved as f64,
                free: failure.free as f64,
                largest_free: failure.largest_free as f64,
            }),
            peak_live: outcome.peak_live as f64,
            peak_allocated: outcome.peak_allocated as f64,
            peak_reserved: outcome.peak_reserved as f64,
            fragmentation_at_peak: outcome.fragmentation_at_peak,
            highest_address: outcome.highest_address.map(|bytes| bytes as f64),
            chunks_made: outcome.chunks_made as f64,
            live_at_end: outcome.live_at_end as f64,
            reserved_at_end: outcome.reserved_at_end as f64,
            largest_free_at_end: outcome.largest_free_at_end as f64,
        }
    }
}

/// Replays a log: step `i` allocates `sizes[i]` bytes as block `blocks[i]`, or frees that block if the size is 0.
#[napi(catch_unwind)]
pub fn replay_log(env: &Env, sizes: &[f64], blocks: &[u32], layout: ReplayLayout) -> Result<ReplayOutcome> {
    steps(sizes, blocks)
        .and_then(|steps| replay(Layout::from(&layout), steps))
        .map(ReplayOutcome::from)
        .map_err(throw(env))
}

/// Returns the smallest maximum that serves the whole log, up to the layout's maximum.
#[napi(catch_unwind)]
pub fn replay_smallest(env: &Env, sizes: &[f64], blocks: &[u32], layout: ReplayLayout) -> Result<Option<f64>> {
    let smallest = steps(sizes, blocks).and_then(|steps| smallest_capacity(Layout::from(&layout), steps));
    Ok(smallest.map_err(throw(env))?.map(|bytes| bytes as f64))
}

fn steps<'a>(sizes: &'a [f64], blocks: &'a [u32]) -> crate::error::Result<impl Iterator<Item = Step> + Clone + 'a> {
    // Block numbers index a table: larger ones than a log of this length needs would make the table large.
    if blocks.iter().any(|block| *block as usize >= blocks.len()) {
        return Err(Error::new(ErrorCode::OutOfRange, "blocks must be numbered from 0 up to the number of steps"));
    }
    Ok(sizes.iter().zip(blocks).map(|(size, block)| Step { block: *block, size: *size as u64 }))
}
