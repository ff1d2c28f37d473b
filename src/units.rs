//! Kinds of memory, and byte counts: checked arithmetic and readable text.

use crate::error::{Error, ErrorCode, Result};

/// A kind of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemoryKind {
    /// A kernel object that the NPU can address.
    Npu,
    /// Anonymous memory of this process.
    System,
}

impl MemoryKind {
    /// Returns the name that JavaScript uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            MemoryKind::Npu => "npu",
            MemoryKind::System => "system",
        }
    }
}

/// One KiB, in bytes.
pub const KIB: u64 = 1 << 10;
/// One MiB, in bytes.
pub const MIB: u64 = 1 << 20;
/// One GiB, in bytes.
pub const GIB: u64 = 1 << 30;

/// The largest integer that a JavaScript number holds exactly, 2^53 - 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// The smallest alignment of an allocation, in bytes: a cache line of every core in an RK3588.
pub const MIN_ALIGNMENT: u64 = 64;

/// Rounds `n` up to a multiple of the power of two `to`. Returns `None` on overflow.
pub const fn align_up(n: u64, to: u64) -> Option<u64> {
    debug_assert!(to.is_power_of_two());
    match n.checked_add(to - 1) {
        Some(sum) => Some(sum & !(to - 1)),
        None => None,
    }
}

/// Rounds `n` down to a multiple of the power of two `to`.
pub const fn align_down(n: u64, to: u64) -> u64 {
    debug_assert!(to.is_power_of_two());
    n & !(to - 1)
}

/// A size that is checked and rounded up to whole pages: at least one page, at most 2^53 - 1 bytes.
///
/// The check is not left to drivers: the vendor's rounds 2^64 - 1 up to an object of zero bytes and reports success
/// (`docs/design/drivers.md` §1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WholePages(u64);

impl WholePages {
    /// Rounds `size` up to pages of `page` bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for zero, and beyond 2^53 - 1 bytes.
    pub fn round_up(size: u64, page: u64) -> Result<Self> {
        if size == 0 {
            return Err(Error::new(ErrorCode::OutOfRange, "size must be at least 1 byte").requested(0));
        }
        align_up(size, page).filter(|rounded| *rounded <= MAX_SAFE_INTEGER).map(Self).ok_or_else(|| {
            Error::new(ErrorCode::OutOfRange, format!("size {size} is beyond 2^53 - 1 bytes")).requested(size)
        })
    }

    /// Returns the size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

/// Formats a byte count: "4 GiB", "1.5 MiB", "12 bytes". Rounds down to one decimal, so that the text never promises
/// more than there is.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [(u64, &str); 4] = [(1 << 40, "TiB"), (GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")];
    for (unit, name) in UNITS {
        if bytes >= unit {
            let tenths = u128::from(bytes) * 10 / u128::from(unit);
            return match tenths % 10 {
                0 => format!("{} {name}", tenths / 10),
                rest => format!("{}.{rest} {name}", tenths / 10),
            };
        }
    }
    format!("{bytes} {}", if bytes == 1 { "byte" } else { "bytes" })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_checked() {
        assert_eq!(align_up(1, 4096), Some(4096));
        assert_eq!(align_up(4096, 4096), Some(4096));
        assert_eq!(align_up(u64::MAX, 4096), None);
        assert_eq!(align_down(4097, 4096), 4096);
        assert_eq!(WholePages::round_up(4097, 4096).unwrap().bytes(), 8192);
        for bad in [0, u64::MAX, MAX_SAFE_INTEGER] {
            assert_eq!(WholePages::round_up(bad, 4096).unwrap_err().code(), ErrorCode::OutOfRange);
        }
    }

    #[test]
    fn byte_counts_are_formatted_rounded_down() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1, "1 byte"),
            (1023, "1023 bytes"),
            (KIB, "1 KiB"),
            (MIB + MIB / 2, "1.5 MiB"),
            (4 * GIB, "4 GiB"),
            (4 * GIB - 1, "3.9 GiB"),
            (u64::MAX, "16777215.9 TiB"),
        ] {
            assert_eq!(format_bytes(bytes), text);
        }
    }
}
