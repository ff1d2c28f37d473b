//! The operating system: address ranges, `/proc` and `/sys`, descriptors, threads.

pub mod address_space;
pub mod fd_socket;
pub mod mapping;
pub mod page;
pub mod pressure;
pub mod proc;
pub mod ram;
pub mod reserve_fd;
pub mod thread_pool;
