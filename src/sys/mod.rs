//! What the operating system knows and owns: address ranges, and the figures of `/proc` and `/sys`.

pub mod inbox;
pub mod mapping;
pub mod places;
pub mod pressure;
pub mod proc;
pub mod ram;
pub mod spare;
