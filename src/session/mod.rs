//! Results of the RKLLM runtime, taken on its own thread without JavaScript.
//!
//! The runtime calls a function of C with each token. [`callback`] has these functions, one for each layout of
//! `RKLLMResult`. They find the [`Sink`] by a generation-checked handle, the callback's userdata, and store what they
//! are given. The event loop takes it out in batches.
//!
//! - Text and figures go into a ring of a fixed size, which JavaScript cannot write.
//! - Logits and hidden states go into the session's arrays. The sink's lock is held while they are copied: when
//!   [`Sink::end`] returns, no callback writes there any more.
//! - The embedding callback of 1.3 answers from an [`EmbeddingTable`], a file that is mapped once and shared by all
//!   processes.
//! - From the first callback (or the request of its results) up to `finish` or `error` the session's memory is pinned,
//!   beyond the end of the thread that made it.
//!
//! Imports `abi`, `sys` and the crate's root.

pub mod callback;
mod embedding;
mod result;
mod ring;
mod sink;
mod state;
mod table;
mod utf8;

pub use embedding::{Element, EmbeddingTable, TableRequest};
pub use result::{Event, Pin, Pinner, SinkStats, Taken, Target, Wake, COLUMNS};
pub use sink::{Sink, MIN_RING};
pub use table::{abandon, abandon_idle, find, open, release};
