//! The kernel's structs and ioctls, one file a header.
//!
//! Every struct's size and offsets are checked when this is compiled, every request number in a test. A wrapper takes
//! a borrowed fd and the struct by reference, and gives back the errno; what an errno means is `backend/errno.rs`'s
//! business. Facts: `docs/design/rknpu.md` §2, §4 and §5.

pub mod dma_buf;
pub mod dma_heap;
pub mod drm;
mod ioctl;
pub mod rknpu;
pub mod rocket;
pub mod udmabuf;
