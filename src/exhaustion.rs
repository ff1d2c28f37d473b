//! Exhaustion: the errors that report an exhausted resource, and the remedies that are tried before a caller sees one.
//!
//! | step | room | attempt | for |
//! |---|---|---|---|
//! | 1 | `device` | waits for pending frees, and asks the driver again | [`Memory`], [`Slots`] |
//! | 2 | `manager` | frees empty slabs, and asks again | [`Memory`], [`Slots`] |
//! | 3 | `pool` | asks for a smaller chunk, down to the size of the request | [`Memory`], [`Limit`] |
//! | 4 | `src/js/reclaim` | collects garbage, compacts pools and trims them, and allocates again | all |
//!
//! [`Memory`]: Exhausted::Memory
//! [`Slots`]: Exhausted::Slots
//! [`Limit`]: Exhausted::Limit
#![forbid(unsafe_code)]

use crate::error::{ErrorCode, Result};

/// An exhausted resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// RAM, CMA, or the addresses of an IOMMU domain.
    Memory,
    /// File descriptors or mappings of this process: their number matters, not their sizes.
    Slots,
    /// A limit that the user set.
    Limit,
    /// The maximum of a pool.
    Pool,
}

impl ErrorCode {
    /// Returns the exhausted resource, or `None` for other errors.
    pub const fn exhausted(self) -> Option<Exhausted> {
        match self {
            ErrorCode::OutOfMemory | ErrorCode::IovaExhausted => Some(Exhausted::Memory),
            ErrorCode::TooManyFds | ErrorCode::TooManyMaps => Some(Exhausted::Slots),
            ErrorCode::MemoryLimit => Some(Exhausted::Limit),
            ErrorCode::PoolExhausted => Some(Exhausted::Pool),
            _ => None,
        }
    }

    /// Returns whether reclaiming memory may resolve the error. `src/js/reclaim/exhaustion.js` lists the same codes.
    pub const fn is_exhaustion(self) -> bool {
        self.exhausted().is_some()
    }

    /// Returns whether a smaller request may succeed at once.
    pub const fn depends_on_size(self) -> bool {
        matches!(self.exhausted(), Some(Exhausted::Memory | Exhausted::Limit))
    }
}

/// Runs `attempt`, and once more if a resource of the kernel was exhausted and `make_room` returned some of it.
///
/// Errors: those of `attempt`.
pub fn retry_with_room<T>(mut attempt: impl FnMut() -> Result<T>, make_room: impl FnOnce() -> bool) -> Result<T> {
    match attempt() {
        Err(error) if is_kernels(error.code()) && make_room() => attempt(),
        result => result,
    }
}

/// Returns whether the code reports an exhausted resource of the kernel.
fn is_kernels(code: ErrorCode) -> bool {
    matches!(code.exhausted(), Some(Exhausted::Memory | Exhausted::Slots))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::error::Error;

    #[test]
    fn a_second_attempt_needs_an_error_of_the_kernels_and_room() {
        let attempts = |code: ErrorCode, room: bool| {
            let (count, asked) = (Cell::new(0), Cell::new(false));
            let attempt = || {
                count.set(count.get() + 1);
                Err::<(), _>(Error::new(code, "no"))
            };
            let make_room = || {
                asked.set(true);
                room
            };
            assert_eq!(retry_with_room(attempt, make_room).unwrap_err().code(), code);
            (count.get(), asked.get())
        };
        for code in [ErrorCode::OutOfMemory, ErrorCode::IovaExhausted, ErrorCode::TooManyFds, ErrorCode::TooManyMaps] {
            assert_eq!((attempts(code, true), attempts(code, false)), ((2, true), (1, true)));
        }
        for code in [ErrorCode::MemoryLimit, ErrorCode::PoolExhausted, ErrorCode::OutOfRange, ErrorCode::DeviceIo] {
            assert_eq!(attempts(code, true), (1, false));
        }
    }

    #[test]
    fn a_smaller_request_helps_against_bytes_only() {
        let codes = ErrorCode::ALL.iter().filter(|code| code.depends_on_size());
        let expected = [ErrorCode::MemoryLimit, ErrorCode::OutOfMemory, ErrorCode::IovaExhausted];
        assert_eq!(codes.copied().collect::<Vec<_>>(), expected);
    }
}
