//! The structs and ioctls of the kernel, and the structs of librkllmrt, one file a header.
//!
//! Imports nothing but the crate's root, libc and nix. The compiler checks the size and offsets of every struct; a test
//! checks every request number. A wrapper takes a borrowed fd and the struct by reference, and returns the errno.
//! `backend/errno.rs` interprets errnos. Facts: `docs/design/rknpu.md` §2, §4 and §5.

pub mod dma_buf;
pub mod dma_heap;
pub mod drm;
mod ioctl;
pub mod rkllm;
pub mod rknpu;
pub mod rocket;
pub mod udmabuf;
