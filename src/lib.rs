//! The core of `@rkllmjs/memory`: NPU and system memory for LLM apps on Rockchip boards.
//!
//! Layers, each importing only from those before it (checked by `__test__/rust/layers.rs`):
//!
//! | layer | what lives there |
//! |---|---|
//! | [`error`] [`units`] [`handle`] | refusals, byte counts, generation-checked handles |
//! | [`abi`] | the kernel's structs and ioctls, one file a header |
//! | [`sys`] | address ranges; the figures of `/proc` and `/sys` |
//! | [`backend`] | one kernel interface each, behind one trait; the simulated one among them |
//! | [`limits`] [`stats`] | budgets and counters: arithmetic without memory |
//! | [`profile`] | what is recorded of allocations, for those who ask who did it |
//! | [`books`] | what one manager holds, what it may hold, and who wants to know |
//! | [`suballoc`] | which bytes of an arena are taken: arithmetic without memory |
//! | [`crew`] | threads for calls that may block for seconds |
//! | [`device`] [`block`] | an opened device with its ledger; one kernel object with its mapping and its place in the ledger |
//! | [`memory`] | memory of either kind, mapped, and where it comes from |
//! | [`pool`] | slices of few large kernel objects in place of many small ones |
//! | [`replay`] | what a pool would have made of a recorded log: a pool's policy without memory |
//! | [`body`] | what an allocation is over, alone or together with others |
//! | [`allocation`] | what JavaScript holds one ArrayBuffer over, and the directory it is found in |
//! | [`manager`] [`open`] | the façade, and which device it gets |
//! | `node` | the JavaScript binding, and the only place that names napi |
//!
//! Nothing below `node` knows JavaScript: `cargo test --no-default-features` builds and tests it alone.

pub mod abi;
pub mod allocation;
pub mod backend;
pub mod block;
pub mod body;
pub mod books;
pub mod crew;
pub mod device;
pub mod error;
pub mod handle;
pub mod limits;
pub mod manager;
pub mod memory;
pub mod open;
pub mod pool;
pub mod profile;
pub mod replay;
pub mod stats;
pub mod suballoc;
pub mod sys;
pub mod units;

#[cfg(feature = "napi")]
mod node;
