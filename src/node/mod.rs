//! The JavaScript binding: the only place that names napi.
//!
//! | file | what |
//! |---|---|
//! | `realm.rs` | what one JavaScript environment lends us: its error class, its `transfer`, its end |
//! | `buffer.rs` | external ArrayBuffers: made, looked at, detached, finalized |
//! | `api.rs` | the verbs, for `src/js/` to dress |
//! | `hot.rs` | numbers in, numbers out: slices of pools |
//! | `pools.rs` | the rest of pools |
//! | `compact.rs` | slices that move, and moving them |
//! | `errands.rs` | what waits for a driver off the JavaScript thread |
//! | `inbox.rs` | dma-bufs from process to process |
//! | `limits.rs` | limits, reservations, warnings |
//! | `profile.rs` | what was recorded, and what lives |
//! | `pressure.rs` | who is told that memory is short |
//! | `replay.rs` | what pools would have made of a log |
//! | `types.rs` | the objects that cross |
//!
//! Handles are numbers below 2^53, sizes are numbers, addresses are BigInts. `src/js/` has checked types and option
//! names; ranges are checked here and below. Every export catches panics: none crosses the border.

mod api;
mod buffer;
mod compact;
mod defragment;
mod errands;
mod hot;
mod inbox;
mod limits;
mod pools;
mod pressure;
mod profile;
mod realm;
mod replay;
mod types;
