//! Compaction: it takes views away, so it runs on their thread. What needs no view is done by others meanwhile: copying, and looking at
//! what there is to move.

use std::sync::mpsc::{sync_channel, Receiver, TryRecvError};
use std::sync::{MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use napi::bindgen_prelude::*;
use napi_derive::napi;

use super::buffer;
use super::realm::{pool, throw, OpenPool, Realm};
use crate::allocation::Allocation;
use crate::error::Error as Refusal;
use crate::pool::{CopyQueue, Location, Move, Moved, Pass};
use crate::sys::thread_pool::ThreadPool;

/// Numbers that tell of a move: id, from (chunk, offset), to (chunk, offset), size.
const NUMBERS: usize = 6;
/// Slices of a pool that are looked at in one step.
const SURVEYED: usize = 256;
/// Between two such steps of a thread of its own.
const PAUSE: Duration = Duration::from_micros(50);

/// Whoever looks at pools for a compaction in slices.
static SCOUTS: ThreadPool = ThreadPool::new("rkllm-scout", 1);

/// A compaction of a pool that goes on with the next call.
#[derive(Debug, Default)]
pub enum Compacting {
    /// There is none.
    #[default]
    Idle,
    /// Somebody looks at what there is.
    Scouting(Receiver<Box<Begun>>),
    /// It was stopped.
    Stopped(Box<Begun>),
}

/// How far a compaction has come.
#[derive(Debug)]
pub struct Begun {
    pass: Pass,
    /// Room for the moves of one slice. Asking for that much makes glibc put together what thousands of frees have left behind: a
    /// millisecond or more, which the event loop would wait for.
    room: Vec<Moved>,
}

/// How far a compaction may go.
#[napi(object)]
pub struct CompactionCaps {
    pub max_bytes: Option<f64>,
    pub max_moves: Option<f64>,
    pub max_ms: Option<f64>,
}

/// What a compaction did.
#[napi(object, object_from_js = false)]
pub struct Compaction<'env> {
    /// Six numbers a move: id, from (chunk, offset), to (chunk, offset), size. Not there after a slice, which has told them already.
    pub moves: Option<Float64Array>,
    /// Moves.
    pub moved: f64,
    pub bytes_moved: f64,
    /// Given back to the device afterwards.
    pub bytes_freed: f64,
    /// 0 for a slice: it is not cheap where many holes are of about one size.
    pub fragmentation_before: f64,
    pub fragmentation_after: f64,
    /// A cap stopped it, or it has not begun yet.
    pub stopped: bool,
    /// The driver failed, and that ended it; what was moved before has moved.
    #[napi(ts_type = "Error")]
    pub failure: Option<Unknown<'env>>,
}

type ViewOf<'a> = Function<'a, f64, Unknown<'static>>;

/// Moves movable slices together, then gives empty chunks back. `view_of` gives the ArrayBuffer that was handed out over an
/// allocation, if JavaScript still has it. What a time has stopped goes on where it was when it is asked for with a time again.
#[napi(catch_unwind)]
pub fn pool_defragment<'env>(
    env: &'env Env,
    handle: f64,
    caps: CompactionCaps,
    view_of: ViewOf<'_>,
) -> Result<Compaction<'env>> {
    let open = pool(handle).map_err(throw(env))?;
    let most = |cap: Option<f64>| cap.map_or(u64::MAX, |cap| cap as u64);
    let max_time = caps.max_ms.map(duration);
    let mut work = Work {
        fragmentation_before: open.pool.stats().fragmentation(),
        max_bytes: most(caps.max_bytes),
        max_moves: most(caps.max_moves),
        max_time,
        ..Work::new(env, &open, &view_of)
    };
    let stopped = max_time.and_then(|_| take_stopped(&open));
    let mut end = End::Done;
    let mut pass = None;
    if let Some(begun) = stopped {
        end = work.go_on(pass.insert(begun.pass))?;
    }
    // What was looked at some time ago is not all that there is.
    if matches!(end, End::Done) {
        end = work.go_on(pass.insert(open.pool.start_pass().map_err(throw(env))?))?;
    }
    if let (Some(_), End::Stopped, Some(pass)) = (max_time, &end, pass) {
        *compacting(&open) = Compacting::Stopped(Begun::new(pass, Vec::new()));
    }
    let told: Vec<f64> = work.moves.iter().flat_map(numbers).collect();
    work.done(end, Some(told.into()))
}

/// One slice of a compaction that goes on with the next one: a step at least, and as many as take `max_ms` or move `max_bytes`. Larger
/// blocks stay where they are. The moves are written to `told`, and are no more than have room there. The first slice moves nothing: it
/// has somebody look at what there is.
#[napi(catch_unwind)]
pub fn pool_defragment_slice<'env>(
    env: &'env Env,
    handle: f64,
    max_ms: f64,
    max_bytes: f64,
    mut told: Float64ArraySlice<'_>,
    view_of: ViewOf<'_>,
) -> Result<Compaction<'env>> {
    let open = pool(handle).map_err(throw(env))?;
    let room = told.len() / NUMBERS;
    let mut work = Work {
        max_bytes: max_bytes as u64,
        max_moves: room as u64,
        max_time: Some(duration(max_ms)),
        slice: true,
        ..Work::new(env, &open, &view_of)
    };
    let Some(begun) = begun(&open, room).map_err(throw(env))? else {
        return work.done(End::Stopped, None);
    };
    let Begun { mut pass, room } = *begun;
    work.moves = room;
    let end = work.go_on(&mut pass)?;
    buffer::write(&mut told, work.moves.iter().map(numbers));
    let mut room = std::mem::take(&mut work.moves);
    let moved = room.len();
    if matches!(end, End::Stopped) {
        room.clear();
        *compacting(&open) = Compacting::Stopped(Begun::new(pass, room));
    }
    Ok(Compaction { moved: moved as f64, ..work.done(end, None)? })
}

/// What there is to do in a slice; `None` while somebody looks.
fn begun(open: &OpenPool, room: usize) -> crate::error::Result<Option<Box<Begun>>> {
    let mut state = compacting(open);
    match std::mem::take(&mut *state) {
        Compacting::Stopped(begun) => return Ok(Some(begun)),
        Compacting::Scouting(found) => match found.try_recv() {
            Err(TryRecvError::Empty) => {
                *state = Compacting::Scouting(found);
                return Ok(None);
            }
            // Where the scout is lost, the slices look for themselves.
            found => {
                return found
                    .map_or_else(|_| open.pool.start_pass().map(|pass| Begun::new(pass, Vec::new())), Ok)
                    .map(Some)
            }
        },
        Compacting::Idle => {}
    }
    let (pool, mut begun) = (open.pool.clone(), Begun::new(open.pool.start_pass()?, Vec::new()));
    let (report, found) = sync_channel(1);
    *state = Compacting::Scouting(found);
    SCOUTS.run(move || {
        begun.room.reserve_exact(room);
        while !pool.survey(&mut begun.pass, SURVEYED) {
            // Whoever wants the pool gets it: a lock that is taken again at once is not handed over.
            thread::sleep(PAUSE);
        }
        // Nobody waits where the pool was closed.
        let _ = report.send(begun);
    });
    Ok(None)
}

impl Begun {
    fn new(pass: Pass, room: Vec<Moved>) -> Box<Self> {
        Box::new(Self { pass, room })
    }
}

fn take_stopped(open: &OpenPool) -> Option<Box<Begun>> {
    let mut state = compacting(open);
    match std::mem::take(&mut *state) {
        Compacting::Stopped(begun) => Some(begun),
        other => {
            *state = other;
            None
        }
    }
}

fn compacting(open: &OpenPool) -> MutexGuard<'_, Compacting> {
    open.compacting.lock().unwrap_or_else(PoisonError::into_inner)
}

fn duration(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.clamp(0.0, 1e9) / 1e3)
}

/// How it ended.
enum End {
    /// There is nothing left to gain.
    Done,
    /// By a cap.
    Stopped,
    /// By the driver.
    Failed(Refusal),
}

/// One call's part of a compaction.
struct Work<'w, 'env> {
    env: &'env Env,
    open: &'w OpenPool,
    view_of: &'w ViewOf<'w>,
    began: Instant,
    fragmentation_before: f64,
    max_bytes: u64,
    max_moves: u64,
    max_time: Option<Duration>,
    slice: bool,
    moves: Vec<Moved>,
    bytes: u64,
}

impl<'w, 'env> Work<'w, 'env> {
    /// All of it, at once.
    fn new(env: &'env Env, open: &'w OpenPool, view_of: &'w ViewOf<'w>) -> Self {
        Self {
            env,
            open,
            view_of,
            began: Instant::now(),
            fragmentation_before: 0.0,
            max_bytes: u64::MAX,
            max_moves: u64::MAX,
            max_time: None,
            slice: false,
            moves: Vec::new(),
            bytes: 0,
        }
    }

    fn go_on(&mut self, pass: &mut Pass) -> Result<End> {
        let pool = &self.open.pool;
        // Whoever gives a time wants no more than a move beyond it.
        let mut queue = CopyQueue::new(self.max_time.is_none());
        let (had, had_bytes) = (self.moves.len() as u64, self.bytes);
        // With however little time, whoever asks often enough gets there.
        let mut first = self.max_time.is_some();
        let mut end = loop {
            let (moves, bytes) = (had + queue.moves(), had_bytes + queue.bytes());
            let spent =
                self.max_time.is_some_and(|time| self.began.elapsed() >= time) || self.slice && bytes >= self.max_bytes;
            if spent && !first || moves >= self.max_moves && self.slice {
                break End::Stopped;
            }
            first = false;
            if !pool.survey(pass, SURVEYED) {
                continue;
            }
            let step = pool.next_fill(pass).or_else(|| {
                queue.finish();
                pool.next_slide(pass)
            });
            let Some(step) = step else { break End::Done };
            if self.slice && step.size() > self.max_bytes {
                continue;
            }
            if !self.slice && (moves >= self.max_moves || bytes + step.size() > self.max_bytes) {
                break End::Stopped;
            }
            if self.take_view(&step)? {
                queue.add(step);
            }
            if let Err(refusal) = self.tell(&mut queue) {
                break End::Failed(refusal);
            }
        };
        queue.finish();
        if let (Err(refusal), false) = (self.tell(&mut queue), matches!(end, End::Failed(_))) {
            end = End::Failed(refusal);
        }
        Ok(end)
    }

    /// Writes down what has arrived. Errors: the first failure there was.
    fn tell(&mut self, queue: &mut CopyQueue<'_>) -> crate::error::Result<()> {
        let mut told = Ok(());
        while let Some(result) = queue.next_result() {
            match result {
                Ok(Some(moved)) => {
                    self.bytes += moved.size;
                    self.moves.push(moved);
                }
                Ok(None) => {}
                Err(refusal) => told = told.and(Err(refusal)),
            }
        }
        told
    }

    /// Takes the ArrayBuffer over what is about to move away. False where it has escaped or is held: the block stays where it is.
    fn take_view(&self, step: &Move<'_>) -> Result<bool> {
        let Some(allocation) = step.view().and_then(Allocation::by_id).filter(|allocation| allocation.is_live()) else {
            return Ok(true);
        };
        // On some runtimes its finalizer runs inside the detach: it must not free what is about to move.
        let Some(lifted) = allocation.detach_from_slice() else { return Ok(false) };
        let view = self.view_of.call(allocation.id.get() as f64)?;
        let (address, whole) = (step.address(), (step.address(), allocation.size));
        if buffer::info(self.env, &view) != Some(whole) || buffer::detach(self.env, &view, address).is_err() {
            return Ok(false);
        }
        // Whether the block will be moved or not, the view is gone.
        lifted.ended();
        self.open.pool.set_view(step.id(), None);
        Ok(true)
    }

    fn done(&self, end: End, moves: Option<Float64Array>) -> Result<Compaction<'env>> {
        let pool = &self.open.pool;
        let bytes_freed = pool.trim();
        let stopped = matches!(end, End::Stopped);
        let failure = match end {
            End::Failed(refusal) => Some(Realm::of(self.env)?.error_value(self.env, &refusal)?),
            End::Done | End::Stopped => None,
        };
        Ok(Compaction {
            moves,
            moved: self.moves.len() as f64,
            bytes_moved: self.bytes as f64,
            bytes_freed: bytes_freed as f64,
            fragmentation_before: self.fragmentation_before,
            fragmentation_after: pool.stats().fragmentation(),
            stopped,
            failure,
        })
    }
}

fn numbers(moved: &Moved) -> [f64; NUMBERS] {
    let Moved { id, from, to, size } = *moved;
    let location = |location: Location| [location.chunk as f64, location.offset as f64];
    let ([from_chunk, from_offset], [to_chunk, to_offset]) = (location(from), location(to));
    [id.get() as f64, from_chunk, from_offset, to_chunk, to_offset, size as f64]
}
