//! The core of `@rkllmjs/memory`: NPU and system memory for LLM apps on Rockchip boards.
//!
//! Each room imports only from the rooms before it; `__test__/rust/layers.rs` checks that.
//!
//! | room | contents |
//! |---|---|
//! | [`error`] [`exhaustion`] | the error type, and the errors that reclaiming memory may resolve |
//! | [`units`] [`handle`] [`id`] | kinds of memory and sizes; generation-checked handles; ids |
//! | [`hash`] [`sync`] | tables by handle and by address; locks |
//! | [`abi`] | the kernel's structs and ioctls, one file a header |
//! | [`session`] | results of the RKLLM runtime, taken on its thread without JavaScript |
//! | [`arena`] | places of buffers whose lifetimes are known |
//! | [`suballoc`] | the free and used regions of an arena: arithmetic without memory |
//! | [`profile`] | events, samples, call sites and histograms |
//! | [`accounting`] | one manager's counters, budgets, limits and warnings |
//! | [`sys`] | the operating system: mappings, `/proc` and `/sys`, descriptors, threads |
//! | [`backend`] | trait `Backend`, with one implementation for each kernel interface and a simulated one |
//! | [`device`] | an opened device with its ledger, kernel objects, and mapped memory of either kind |
//! | [`pool`] | slices of few large kernel objects in place of many small ones |
//! | [`allocation`] | the memory behind each ArrayBuffer, and the directory of addresses |
//! | [`manager`] | the façade: allocates, frees, describes and counts |
//! | `node` | the JavaScript binding, and the only room that names napi |
//!
//! The rooms below `node` do not know JavaScript: `cargo test --no-default-features` builds and tests them alone.

#[cfg(not(target_pointer_width = "64"))]
compile_error!(
    "rkllmjs-memory needs a 64-bit target: handles of 53 bits travel in pointers; the 32-bit RV1103 and RV1106 are not \
     supported"
);

pub mod abi;
pub mod accounting;
pub mod allocation;
pub mod arena;
pub mod backend;
pub mod device;
pub mod error;
pub mod exhaustion;
pub mod handle;
pub mod hash;
pub mod id;
pub mod manager;
pub mod owned_table;
pub mod pool;
pub mod profile;
pub mod session;
pub mod suballoc;
pub mod sync;
pub mod sys;
pub mod units;

#[cfg(feature = "napi")]
mod node;
