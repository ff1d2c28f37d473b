//! Compaction of pools. The core decides what moves ([`Compactor`](crate::pool::Compactor)); this file detaches the
//! ArrayBuffers, on their thread.

use std::time::Duration;

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::buffer;
use super::env::{throw, EnvData};
use super::registry::pool;
use crate::allocation::Allocation;
use crate::error::Error as CoreError;
use crate::handle::Handle;
use crate::pool::{self, CompactionLimits, CompactionOutcome, DetachView, Detachment, Location, Moved};

/// Numbers that describe a move: id, from (chunk, offset), to (chunk, offset), size.
const NUMBERS_PER_MOVE: usize = 6;

/// Limits of a compaction; none where absent.
#[napi(object)]
pub struct CompactionCaps {
    pub max_bytes: Option<f64>,
    pub max_moves: Option<f64>,
    pub max_ms: Option<f64>,
}

impl From<CompactionCaps> for CompactionLimits {
    fn from(caps: CompactionCaps) -> Self {
        let limit = |cap: Option<f64>| cap.map_or(u64::MAX, |cap| cap as u64);
        Self { max_bytes: limit(caps.max_bytes), max_moves: limit(caps.max_moves), max_time: caps.max_ms.map(duration) }
    }
}

/// Results of a compaction.
#[napi(object, object_from_js = false)]
pub struct Compaction<'env> {
    /// Six numbers a move: id, from (chunk, offset), to (chunk, offset), size. Absent for a time slice, which writes
    /// them to an array of the caller.
    pub moves: Option<Float64Array>,
    /// Number of moves.
    pub moved: f64,
    pub bytes_moved: f64,
    /// Bytes of empty chunks that went back to the device.
    pub bytes_freed: f64,
    /// Fragmentation at the start; 0 for a time slice.
    pub fragmentation_before: f64,
    pub fragmentation_after: f64,
    /// A limit stopped it, or the survey is still running.
    pub stopped: bool,
    /// The driver's error that ended it. Moves that were made before stay.
    #[napi(ts_type = "Error")]
    pub failure: Option<Unknown<'env>>,
}

impl<'env> Compaction<'env> {
    fn new(env: &'env Env, result: pool::Compaction, moves: Option<Float64Array>) -> Result<Self> {
        let stopped = matches!(result.outcome, CompactionOutcome::Stopped);
        let failure = match result.outcome {
            CompactionOutcome::Failed(error) => Some(EnvData::of(env)?.error_value(env, &error)?),
            CompactionOutcome::Finished | CompactionOutcome::Stopped => None,
        };
        Ok(Self {
            moves,
            moved: result.moved as f64,
            bytes_moved: result.bytes_moved as f64,
            bytes_freed: result.bytes_freed as f64,
            fragmentation_before: result.fragmentation_before,
            fragmentation_after: result.fragmentation_after,
            stopped,
            failure,
        })
    }
}

type ViewOf<'a> = Function<'a, f64, Unknown<'static>>;

/// Moves movable blocks together, then gives empty chunks back to the device. `view_of` returns the ArrayBuffer of an
/// allocation, if JavaScript still has it. A compaction that time has stopped continues at the next call with a time.
#[napi(catch_unwind)]
pub fn pool_defragment<'env>(
    env: &'env Env,
    handle: f64,
    caps: CompactionCaps,
    view_of: ViewOf<'_>,
) -> Result<Compaction<'env>> {
    let open = pool(handle).map_err(throw(env))?;
    let mut moves = Vec::new();
    let report = |moved: &[Moved]| moves.extend(moved.iter().flat_map(numbers));
    let result = open.compactor.compact(caps.into(), &mut Detacher { env, view_of: &view_of }, report);
    Compaction::new(env, result.map_err(|failure| failure.into_thrown(env))?, Some(moves.into()))
}

/// Runs one time slice of a compaction that continues with the next call. A slice makes at least one step, and as many
/// as take `max_ms` or move `max_bytes`. Larger blocks stay where they are. The moves are written to `report` and are
/// no more than fit there. The first slice moves nothing: it starts the survey on another thread.
#[napi(catch_unwind)]
pub fn pool_defragment_slice<'env>(
    env: &'env Env,
    handle: f64,
    max_ms: f64,
    max_bytes: f64,
    mut report: Float64ArraySlice<'_>,
    view_of: ViewOf<'_>,
) -> Result<Compaction<'env>> {
    let open = pool(handle).map_err(throw(env))?;
    let limits = CompactionLimits {
        max_bytes: max_bytes as u64,
        max_moves: (report.len() / NUMBERS_PER_MOVE) as u64,
        max_time: Some(duration(max_ms)),
    };
    let report = |moved: &[Moved]| buffer::write(&mut report, moved.iter().map(numbers));
    let result = open.compactor.compact_slice(limits, &mut Detacher { env, view_of: &view_of }, report);
    Compaction::new(env, result.map_err(|failure| failure.into_thrown(env))?, None)
}

/// Detaches the ArrayBuffers over blocks that are about to move.
struct Detacher<'d> {
    env: &'d Env,
    view_of: &'d ViewOf<'d>,
}

/// Error that ends a compaction: of the core, or thrown by JavaScript.
enum Failure {
    Core(CoreError),
    Thrown(napi::Error),
}

impl From<CoreError> for Failure {
    fn from(error: CoreError) -> Self {
        Self::Core(error)
    }
}

impl Failure {
    fn into_thrown(self, env: &Env) -> napi::Error {
        match self {
            Self::Core(error) => throw(env)(error),
            Self::Thrown(error) => error,
        }
    }
}

impl DetachView for Detacher<'_> {
    type Error = Failure;

    fn detach(&mut self, view: Handle, address: usize) -> std::result::Result<Detachment, Failure> {
        let Some(allocation) = Allocation::by_handle(view).filter(|allocation| allocation.is_live()) else {
            return Ok(Detachment::Ended);
        };
        // Some runtimes run the finalizer inside the detach: it must not free the block that is about to move.
        let Some(detached) = allocation.detach_from_slice() else { return Ok(Detachment::Refused) };
        let buffer = self.view_of.call(allocation.handle.get() as f64).map_err(Failure::Thrown)?;
        let whole = (address, allocation.size);
        if buffer::info(self.env, &buffer) != Some(whole) || buffer::detach(self.env, &buffer, address).is_err() {
            return Ok(Detachment::Refused);
        }
        detached.ended();
        Ok(Detachment::Detached)
    }
}

fn duration(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.clamp(0.0, 1e9) / 1e3)
}

fn numbers(moved: &Moved) -> [f64; NUMBERS_PER_MOVE] {
    let Moved { id, from, to, size, .. } = *moved;
    let location = |location: Location| [location.chunk as f64, location.offset as f64];
    let ([from_chunk, from_offset], [to_chunk, to_offset]) = (location(from), location(to));
    [id.get() as f64, from_chunk, from_offset, to_chunk, to_offset, size as f64]
}
