//! Static planning of an arena.

use std::time::Instant;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::env::throw;
use super::manager::milliseconds;
use crate::arena::{plan, Goal, Lifetime};

/// A plan; bytes.
#[napi(object)]
pub struct ArenaPlan {
    pub offsets: Vec<f64>,
    pub size: f64,
    pub lower_bound: f64,
}

/// Places buffers: four numbers each, the lifetime's ends, the size and the alignment. Improves the plan for at most
/// `max_ms` milliseconds, or until it has at most `capacity` bytes.
#[napi(catch_unwind)]
pub fn plan_arena(env: &Env, numbers: Vec<f64>, capacity: Option<f64>, max_ms: f64) -> Result<ArenaPlan> {
    let buffers: Vec<_> = (numbers.chunks_exact(4))
        .map(|of| Lifetime { lower: of[0] as i64, upper: of[1] as i64, size: of[2] as u64, alignment: of[3] as u64 })
        .collect();
    let goal = Goal { capacity: capacity.map(|bytes| bytes as u64) };
    let (began, budget) = (Instant::now(), milliseconds(max_ms));
    let plan = plan(&buffers, goal, &mut || began.elapsed() < budget).map_err(throw(env))?;
    let offsets = plan.offsets.iter().map(|&offset| offset as f64).collect();
    Ok(ArenaPlan { offsets, size: plan.size as f64, lower_bound: plan.lower_bound as f64 })
}
