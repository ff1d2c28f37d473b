//! The core of `@rkllmjs/memory`: NPU and system memory for LLM apps on Rockchip boards.
//!
//! Rooms, each importing only from those before it (checked by `__test__/rust/layers.rs`):
//!
//! | room | what lives there |
//! |---|---|
//! | [`error`] [`exhaustion`] [`units`] [`handle`] [`sync`] | errors, and those that reclaiming resolves; kinds of memory and sizes; generation-checked handles; locks |
//! | [`abi`] | the kernel's structs and ioctls, one file a header |
//! | [`suballoc`] | which bytes of an arena are taken: arithmetic without memory |
//! | [`profile`] | recorded events, samples and latencies |
//! | [`accounting`] | one manager's counters, budgets, limits and warnings |
//! | [`sys`] | the operating system: mappings, `/proc` and `/sys`, descriptors, threads |
//! | [`backend`] | trait `Backend`, with one implementation for each kernel interface and a simulated one |
//! | [`device`] | an opened device with its ledger, kernel objects, and mapped memory of either kind |
//! | [`pool`] | slices of few large kernel objects in place of many small ones |
//! | [`allocation`] | the allocations that JavaScript holds ArrayBuffers over |
//! | [`manager`] | the façade |
//! | `node` | the JavaScript binding, and the only place that names napi |
//!
//! Nothing below `node` knows JavaScript: `cargo test --no-default-features` builds and tests it alone.

pub mod abi;
pub mod accounting;
pub mod allocation;
pub mod backend;
pub mod device;
pub mod error;
pub mod exhaustion;
pub mod handle;
pub mod manager;
pub mod pool;
pub mod profile;
pub mod suballoc;
pub mod sync;
pub mod sys;
pub mod units;

#[cfg(feature = "napi")]
mod node;
