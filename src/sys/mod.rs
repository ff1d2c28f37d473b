//! The operating system: address ranges, `/proc` and `/sys`, memory pressure, descriptors over sockets, threads.
//!
//! Imports `accounting` and the crate's root: [`ram`] charges a budget. It knows no device and no kernel interface of
//! an NPU.
//!
//! Readers take the root of a file tree, so tests read fixtures in place of the running system:
//!
//! ```
//! use rkllmjs_memory::sys::proc::Proc;
//! let memory = Proc::default().meminfo().expect("this test needs /proc");
//! assert!(memory.available <= memory.total);
//! assert_eq!(Proc::new("/nonexistent").meminfo(), None);
//! ```

pub mod address_space;
pub mod cgroup;
pub mod dma_buf;
pub mod fd_socket;
pub mod file_mapping;
pub mod held_addresses;
pub mod mapping;
pub mod page;
pub mod poller;
pub mod pressure;
pub mod proc;
pub mod process;
pub mod quarantine;
pub mod ram;
pub mod reserve_fd;
pub mod thread_pool;
mod zero_pages;
