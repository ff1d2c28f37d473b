//! The results of the RKLLM runtime: sinks by number, which the environment's end ends.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::async_task::{start, AsyncTask, Outcome};
use super::buffer::{info, write};
use super::env::{throw, EnvData, EnvId};
use super::registry::{handle, Registry};
use crate::abi::rkllm::CALLBACK_POINTERS;
use crate::allocation::Allocation;
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::manager::unpin;
use crate::pool::{Pool, Slice};
use crate::session::callback::{address, embed_address, Layout};
use crate::session::{self, Element, EmbeddingTable, Pin, Sink, TableRequest, Target, COLUMNS};
use crate::sync::Mutex;

/// The sinks of each environment, by the number that JavaScript has.
static SINKS: Lazy<Registry<EnvId, SinkOfSession>> = Lazy::new(|| Registry::with_exit_hook(abandon_sinks_of));

/// An `RKLLMCallback`. Leaked, because the runtime may read it at any time; used again where the runtime has let go.
type CallbackStruct = [AtomicU64; CALLBACK_POINTERS];

static SPARE_STRUCTS: Mutex<Vec<&'static CallbackStruct>> = Mutex::new(Vec::new());

struct SinkOfSession {
    userdata: Handle,
    callback: Option<&'static CallbackStruct>,
}

fn abandon_sinks_of(env: EnvId) {
    for (_, sink) in SINKS.remove_of(env) {
        session::abandon(sink.userdata);
    }
}

/// An array for rows: its place, floats of a row, and rows.
#[napi(object)]
pub struct RowsTarget {
    pub address: BigInt,
    pub width: f64,
    pub rows: f64,
}

/// A table of embeddings in a file.
#[napi(object)]
pub struct EmbeddingsRequest {
    pub path: String,
    /// float16, else float32.
    pub half: bool,
    pub width: f64,
    pub rows: Option<f64>,
    pub offset: f64,
}

#[napi(object)]
pub struct SinkRequest {
    /// Version of rkllm.h.
    pub header: String,
    /// Bytes of the ring.
    pub ring: f64,
    pub hidden_states: Option<RowsTarget>,
    pub logits: Option<RowsTarget>,
    /// Address and userdata of a tokenizer callback.
    pub tokenizer: Option<BigInt>,
    pub tokenizer_userdata: Option<BigInt>,
    /// Answers the embedding callback, of 1.3.
    pub embeddings: Option<EmbeddingsRequest>,
}

/// A sink's number, and what the runtime gets.
#[napi(object)]
pub struct OpenSink {
    pub sink: f64,
    pub result: BigInt,
    pub userdata: BigInt,
    #[napi(js_name = "struct")]
    pub callback_struct: Option<BigInt>,
}

fn target(name: &'static str, target: Option<RowsTarget>) -> Option<Target> {
    target.map(|RowsTarget { address, width, rows }| Target {
        name,
        address: number(&address) as usize,
        width: width as usize,
        rows: rows as usize,
    })
}

fn number(value: &BigInt) -> u64 {
    value.get_u64().1
}

/// Makes a sink for the session whose memory is that of `buffers`.
#[napi(catch_unwind)]
pub fn open_sink(env: &Env, request: SinkRequest, buffers: Vec<Unknown<'_>>) -> Result<OpenSink> {
    let layout = match request.header.as_str() {
        "1.1" => Layout::V11,
        "1.2.0" => Layout::V120,
        _ => Layout::V121,
    };
    let slices = buffers.iter().filter_map(|buffer| slice_of(env, buffer)).collect::<Vec<_>>();
    let targets = [target("hiddenStates", request.hidden_states), target("logits", request.logits)];
    let table = request.embeddings.as_ref().map(open_table).transpose().map_err(throw(env))?;
    let embed = if table.is_some() { embed_address() as u64 } else { 0 };
    let pinner = Box::new(move || pin(&slices));
    let sink = Sink::new(request.ring as usize, targets, pinner, table).map_err(throw(env))?;
    let id = EnvData::of(env)?.id();
    let userdata = session::open(sink);
    let result = address(layout) as u64;
    let callback = (request.header == "1.3").then(|| {
        let pointers: &'static CallbackStruct = SPARE_STRUCTS.lock().pop().unwrap_or_else(|| Box::leak(Box::default()));
        let tokenizer = request.tokenizer.as_ref().map_or(0, number);
        let tokenizer_userdata = request.tokenizer_userdata.as_ref().map_or(0, number);
        let values = [result, userdata.get(), tokenizer, tokenizer_userdata, embed, userdata.get()];
        pointers.iter().zip(values).for_each(|(place, value)| place.store(value, Ordering::Relaxed));
        pointers
    });
    let callback_struct = callback.map(|pointers| BigInt::from(pointers.as_ptr() as u64));
    let sink = SINKS.insert(id, SinkOfSession { userdata, callback }).get() as f64;
    Ok(OpenSink { sink, result: result.into(), userdata: userdata.get().into(), callback_struct })
}

fn open_table(request: &EmbeddingsRequest) -> crate::error::Result<EmbeddingTable> {
    EmbeddingTable::open(&TableRequest {
        path: request.path.as_str().into(),
        element: if request.half { Element::Float16 } else { Element::Float32 },
        width: request.width as usize,
        rows: request.rows.map(|rows| rows as u64),
        offset: request.offset as u64,
    })
}

/// Finds the slice under an ArrayBuffer. One that was freed or moved has none.
fn slice_of(env: &Env, buffer: &Unknown<'_>) -> Option<(Arc<Pool>, Slice)> {
    let (address, _) = info(env, buffer)?;
    Allocation::at(address).find_map(|allocation| allocation.place())
}

/// Pins the slices of a session, but those that the user has freed since: a run that does not need them goes on.
fn pin(slices: &[(Arc<Pool>, Slice)]) -> crate::error::Result<Pin> {
    let unpin_all = |slices: Vec<(Arc<Pool>, Slice)>| {
        // A forced end of the pool has ended the pins too.
        slices.iter().for_each(|(pool, slice)| drop(unpin(pool, slice)));
    };
    let mut pinned = Vec::with_capacity(slices.len());
    for (pool, slice) in slices {
        match pool.pin_slice(slice.chunk, slice.region) {
            Ok(()) => pinned.push((Arc::clone(pool), *slice)),
            Err(error) if error.code() == ErrorCode::BufferFreed => {}
            Err(error) => {
                unpin_all(pinned);
                return Err(error);
            }
        }
    }
    let live = pinned.clone();
    // The pool's reset and destroy wait for the write, and so does the last unpin of the slice.
    let while_live = move |address: usize, write: &mut dyn FnMut()| {
        let at = |slice: &Slice| (slice.address..slice.address + slice.padded as usize).contains(&address);
        let Some((pool, slice)) = live.iter().find(|(_, slice)| at(slice)) else { return false };
        pool.while_pinned(slice, write)
    };
    Ok(Pin::new(while_live, move || unpin_all(pinned)))
}

fn find(sink: f64) -> crate::error::Result<Arc<Sink>> {
    let userdata = SINKS.with(handle(sink), |sink| sink.userdata);
    userdata
        .and_then(session::find)
        .ok_or_else(|| Error::new(ErrorCode::BufferFreed, "the callbacks of this session were released"))
}

/// Begins to read. `may_pause`: the reader resumes a run that pauses.
#[napi(catch_unwind)]
pub fn sink_attach(env: &Env, sink: f64, may_pause: bool) -> Result<()> {
    find(sink).and_then(|sink| sink.attach(may_pause)).map_err(throw(env))
}

/// Ends to read; drops the rest of the run, unless it was read up to its end.
#[napi(catch_unwind)]
pub fn sink_detach(sink: f64, at_end: bool) {
    if let Ok(sink) = find(sink) {
        sink.detach(at_end);
    }
}

/// Takes results. Returns their texts as one, or nothing if there is no result. `numbers`: the count, whether the run
/// pauses, then the numbers of each.
///
/// Errors: the failure of the run, once the results before it are taken.
#[napi(catch_unwind)]
pub fn sink_take(env: &Env, sink: f64, mut numbers: Float64ArraySlice<'_>) -> Result<Option<String>> {
    let sink = find(sink).map_err(throw(env))?;
    let most = numbers.len().saturating_sub(COLUMNS) / COLUMNS;
    let taken = sink.take(most);
    if let Some(failure) = taken.failure {
        return Err(throw(env)(failure));
    }
    let mut head = [0.0; COLUMNS];
    (head[0], head[1]) = (taken.rows.len() as f64, f64::from(u8::from(taken.paused)));
    write(&mut numbers, std::iter::once(head).chain(taken.rows.iter().copied()));
    Ok((!taken.rows.is_empty()).then_some(taken.text))
}

/// A promise that resolves when there is something to take, or when the sink has ended.
#[napi(catch_unwind)]
pub fn sink_wait(env: &Env, sink: f64) -> Result<AsyncTask<'_>> {
    let sink = find(sink).map_err(throw(env))?;
    let (task, completer) = start(env)?;
    sink.wait(Box::new(move || completer.complete(Ok(Outcome::DONE))));
    Ok(task)
}

/// Directs rows to other arrays.
#[napi(catch_unwind)]
pub fn sink_set_targets(sink: f64, hidden_states: Option<RowsTarget>, logits: Option<RowsTarget>) {
    if let Ok(sink) = find(sink) {
        sink.set_targets([target("hiddenStates", hidden_states), target("logits", logits)]);
    }
}

/// Lets the next rows overwrite those of the last result.
#[napi(catch_unwind)]
pub fn sink_rows_read(sink: f64) {
    if let Ok(sink) = find(sink) {
        sink.rows_read();
    }
}

/// Ends a sink whose runtime is idle, as far as it is known. Returns false, and ends nothing, while a run is under way.
#[napi(catch_unwind)]
pub fn close_sink_if_idle(sink: f64) -> bool {
    let userdata = SINKS.with(handle(sink), |sink| sink.userdata);
    let idle = userdata.is_none_or(session::abandon_idle);
    if idle {
        SINKS.remove(handle(sink));
    }
    idle
}

/// Counters of a sink: calls, late, dropped, waits, wakes.
#[napi(catch_unwind)]
pub fn sink_stats(env: &Env, sink: f64) -> Result<Vec<f64>> {
    let stats = find(sink).map_err(throw(env))?.stats();
    Ok([stats.calls, stats.late, stats.dropped, stats.waits, stats.wakes].map(|count| count as f64).to_vec())
}

/// Ends a sink. `released`: the runtime has let go of the session; else its memory is kept until it has.
#[napi(catch_unwind)]
pub fn close_sink(sink: f64, released: bool) {
    let Some(closed) = SINKS.remove(handle(sink)) else { return };
    match released {
        true => {
            session::release(closed.userdata);
            SPARE_STRUCTS.lock().extend(closed.callback);
        }
        false => session::abandon(closed.userdata),
    }
}
