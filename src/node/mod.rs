//! The JavaScript binding, and the only place that names napi.
//!
//! It may import every room of the core. No room of the core imports it. A file imports only files above it in this
//! table:
//!
//! | file | content |
//! |---|---|
//! | `env.rs` | data of a JavaScript environment: error constructor, `transfer`, exit hooks |
//! | `last_pool.rs` | the pool of the last fast call |
//! | `registry.rs` | native objects by handle: managers, pools |
//! | `shared_buffers.rs` | ArrayBuffers over shared memory at the end of an environment |
//! | `buffer.rs` | external ArrayBuffers: creation, look-up, detach, finalizer |
//! | `fast_path.rs` | allocation and free of slices, without arguments |
//! | `async_task.rs` | tasks off the JavaScript thread, and their promises |
//! | `devices.rs` | the probe |
//! | `manager.rs` | set-up, opening and closing of managers |
//! | `memory.rs` | NPU and system memory |
//! | `sharing.rs` | dma-bufs, inboxes, shared memory |
//! | `pools.rs`, `movable.rs`, `compaction.rs` | pools, movable blocks, compaction |
//! | `limits.rs` | limits, reservations, warnings |
//! | `pressure.rs` | notifications of memory pressure |
//! | `processes.rs` | ends of worker processes |
//! | `stats.rs` | statistics |
//! | `profile.rs` | profiles, snapshots, leaks |
//! | `sinks.rs` | results of the RKLLM runtime |
//! | `refusals.rs` | counts of requests that failed for good |
//! | `replay.rs` | replay of recorded logs |
//! | `arena.rs` | plans of arenas |
//!
//! Handles are numbers below 2^53, sizes are numbers of bytes, addresses are BigInts, and `null` is an unknown value.
//! `src/js/` has checked types and option names; this room and the core check ranges. Every export catches panics: none
//! unwinds into the runtime.

mod arena;
mod async_task;
mod buffer;
mod compaction;
mod devices;
mod env;
mod fast_path;
mod last_pool;
mod limits;
mod manager;
mod memory;
mod movable;
mod pools;
mod pressure;
mod processes;
mod profile;
mod refusals;
mod registry;
mod replay;
mod shared_buffers;
mod sharing;
mod simulated_npu;
mod sinks;
mod stats;
