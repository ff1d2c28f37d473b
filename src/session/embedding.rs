//! Tables of embeddings: a row of floats for each token, in a file that all processes share.
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::error::{Error, ErrorCode, Result};
use crate::sys::file_mapping::FileMapping;

/// The type of a table's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// IEEE half precision.
    Float16,
    /// IEEE single precision.
    Float32,
}

impl Element {
    const fn bytes(self) -> usize {
        match self {
            Self::Float16 => 2,
            Self::Float32 => 4,
        }
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Float16 => "float16",
            Self::Float32 => "float32",
        })
    }
}

/// The place and the shape of a table.
#[derive(Clone, Debug)]
pub struct TableRequest {
    /// The file.
    pub path: PathBuf,
    /// The type of its numbers.
    pub element: Element,
    /// Numbers of a row.
    pub width: usize,
    /// Rows; `None`: all of the file from `offset` on.
    pub rows: Option<u64>,
    /// The offset of the first row in the file, in bytes.
    pub offset: u64,
}

/// A table that answers the runtime's embedding callback.
#[derive(Debug)]
pub struct EmbeddingTable {
    file: Arc<FileMapping>,
    path: PathBuf,
    element: Element,
    width: usize,
    rows: u64,
    offset: u64,
}

/// How the rows of one call are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conversion {
    /// Byte by byte.
    Copy,
    /// From float16 to float32, which is exact.
    Widen,
}

impl EmbeddingTable {
    /// Maps the table's file and checks its size.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for a file that is shorter than the rows, or that has a part of a row where `rows` is
    /// absent; `ERR_UNSUPPORTED` for what is no file; `ERR_DEVICE_IO`, `ERR_DEVICE_PERMISSION` and others of open and
    /// mmap.
    pub fn open(request: &TableRequest) -> Result<Self> {
        let TableRequest { path, element, width, rows, offset } = request;
        let file = FileMapping::open(path).map_err(|error| refused(path, &error))?;
        let len = file.len();
        let row = (width * element.bytes()) as u64;
        let shown = path.display();
        let wrong = |message: String| Error::new(ErrorCode::OutOfRange, message).path(path);
        let behind = len.saturating_sub(*offset);
        let rows = match rows {
            Some(rows) => *rows,
            None if row > 0 && behind >= row && behind % row == 0 => behind / row,
            None => {
                let message =
                    format!("the {behind} bytes of {shown} from {offset} on are no rows of {width} {element}");
                return Err(wrong(message)
                    .requested(row)
                    .available(behind)
                    .hint("check the width and the dtype; give rows where something else follows the table"));
            }
        };
        let needed = rows.checked_mul(row).and_then(|bytes| bytes.checked_add(*offset)).unwrap_or(u64::MAX);
        if needed > len {
            let message =
                format!("{shown} has {len} bytes; {rows} rows of {width} {element} from {offset} need {needed}");
            return Err(wrong(message).requested(needed).available(len).hint("check rows, width, dtype and offset"));
        }
        Ok(Self { file, path: path.clone(), element: *element, width: *width, rows, offset: *offset })
    }

    /// The number of a row's elements.
    pub(super) fn width(&self) -> usize {
        self.width
    }

    /// Decides how the `bytes` of a call for `count` tokens are written.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for rows of another width or type; `ERR_DEVICE_IO` for a file that has shrunk.
    pub(super) fn conversion(&self, count: u64, bytes: u64) -> Result<Conversion> {
        if !self.file.is_whole() {
            let message = format!("{} has lost bytes since it was mapped: no row is read", self.path.display());
            let hint = "replace the file by another with rename(), and never write to it in place";
            return Err(Error::new(ErrorCode::DeviceIo, message).path(&self.path).hint(hint));
        }
        let of = |element: Element| count.checked_mul((self.width * element.bytes()) as u64);
        if of(self.element) == Some(bytes) {
            return Ok(Conversion::Copy);
        }
        if self.element == Element::Float16 && of(Element::Float32) == Some(bytes) {
            return Ok(Conversion::Widen);
        }
        let (width, element) = (self.width, self.element);
        let message =
            format!("the runtime wants {bytes} bytes for {count} tokens; the table's rows are {width} {element}");
        let hint =
            "give callbacks() a table of the model's width; of float16 where the runtime wants two bytes a number";
        Err(Error::new(ErrorCode::OutOfRange, message).requested(bytes).hint(hint))
    }

    /// The bytes of the row of a token, readable while `self` lives.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` for a token that the table does not have.
    pub(super) fn row(&self, token: i32) -> Result<(*const u8, usize)> {
        let bytes = self.width * self.element.bytes();
        let row = u64::try_from(token).ok().filter(|row| *row < self.rows);
        row.and_then(|row| self.file.at(self.offset + row * bytes as u64, bytes)).map(|at| (at, bytes)).ok_or_else(
            || {
                let message = format!("the runtime wants the row of token {token}; the table has {} rows", self.rows);
                Error::new(ErrorCode::OutOfRange, message)
                    .path(&self.path)
                    .hint("give callbacks() the table of this model, and check its rows, width, dtype and offset")
            },
        )
    }
}

/// The error of a file that cannot be mapped.
fn refused(path: &Path, error: &io::Error) -> Error {
    let shown = path.display();
    let refusal = match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::InvalidInput, None) => {
            Error::new(ErrorCode::Unsupported, format!("{shown} is not a file with bytes")).hint("name a file of rows")
        }
        (io::ErrorKind::NotFound, _) => Error::new(ErrorCode::DeviceIo, format!("{shown} does not exist"))
            .hint("check its spelling; a relative path begins at the working directory"),
        (io::ErrorKind::PermissionDenied, _) => {
            Error::new(ErrorCode::DevicePermission, format!("{shown} may not be read by this user"))
                .hint("let this user read it: chmod, or chown")
        }
        (_, Some(libc::EMFILE | libc::ENFILE)) => {
            Error::new(ErrorCode::TooManyFds, format!("{shown} cannot be opened: no descriptor is free"))
                .hint("close descriptors, or raise the limit (ulimit -n)")
        }
        (io::ErrorKind::OutOfMemory, _) => {
            Error::new(ErrorCode::OutOfMemory, format!("{shown} cannot be mapped: no address space is free"))
        }
        _ => Error::new(ErrorCode::DeviceIo, format!("{shown} cannot be mapped: {error}")),
    };
    match error.raw_os_error() {
        Some(errno) => refusal.syscall("open", errno).path(path),
        None => refusal.path(path),
    }
}

/// The value of half-precision bits. Exact: each half is a single.
pub(super) fn widen(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let (exponent, fraction) = (u32::from(half >> 10 & 0x1f), u32::from(half & 0x3ff));
    let magnitude = match exponent {
        // Not a subnormal single: the runtime's thread may flush those to zero.
        0 => (fraction as f32 * (1.0 / 16_777_216.0)).to_bits(),
        0x1f => 0xff << 23 | fraction << 13,
        _ => (exponent + 112) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs;

    use super::*;

    fn table(name: &str, bytes: usize, change: impl FnOnce(&mut TableRequest)) -> Result<EmbeddingTable> {
        let path = std::env::temp_dir().join(format!("rkllm-embedding-{}-{name}", std::process::id()));
        fs::write(&path, vec![0; bytes]).unwrap();
        let mut request =
            TableRequest { path: path.clone(), element: Element::Float16, width: 8, rows: None, offset: 0 };
        change(&mut request);
        let opened = EmbeddingTable::open(&request);
        fs::remove_file(path).unwrap();
        opened
    }

    #[test]
    fn each_half_has_its_value() {
        for bits in 0..=u16::MAX {
            let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
            let magnitude = match exponent {
                0 => fraction * 2_f64.powi(-24),
                0x1f if fraction == 0.0 => f64::INFINITY,
                0x1f => f64::NAN,
                _ => (1.0 + fraction / 1024.0) * 2_f64.powi(exponent - 15),
            };
            let (wide, negative) = (widen(bits), bits & 0x8000 != 0);
            assert_eq!(wide.is_sign_negative(), negative, "{bits:#x}");
            assert!(f64::from(wide.abs()) == magnitude || wide.is_nan() && magnitude.is_nan(), "{bits:#x}");
        }
    }

    #[test]
    fn the_rows_of_a_file_are_counted_and_a_part_of_a_row_is_refused() {
        assert_eq!(table("whole", 160, |_| {}).unwrap().rows, 10);
        assert_eq!(table("behind", 170, |request| request.offset = 10).unwrap().rows, 10);
        assert_eq!(table("given", 170, |request| request.rows = Some(3)).unwrap().rows, 3);
        type Change = fn(&mut TableRequest);
        let wrong: [(usize, Change); 6] = [
            (170, |_| {}),
            (8, |_| {}),
            (160, |request| request.offset = 160),
            (160, |request| request.offset = u64::MAX),
            (160, |request| request.rows = Some(11)),
            (160, |request| request.rows = Some(u64::MAX)),
        ];
        for (at, (bytes, change)) in wrong.into_iter().enumerate() {
            let error = table(&format!("wrong-{at}"), bytes, change).unwrap_err();
            assert_eq!(error.code(), ErrorCode::OutOfRange, "{at}: {error}");
        }
    }

    #[test]
    fn a_token_beyond_the_rows_and_rows_of_another_size_are_refused() {
        let table = table("tokens", 160, |request| request.rows = Some(9)).unwrap();
        assert_eq!(table.row(8).unwrap().1, 16);
        for token in [-1, 9, i32::MIN, i32::MAX] {
            assert_eq!(table.row(token).unwrap_err().code(), ErrorCode::OutOfRange, "{token}");
        }
        assert_eq!(table.conversion(3, 48).unwrap(), Conversion::Copy);
        assert_eq!(table.conversion(3, 96).unwrap(), Conversion::Widen);
        for (count, bytes) in [(3, 47), (3, 95), (4, 48), (0, 1), (u64::MAX, 16)] {
            assert_eq!(table.conversion(count, bytes).unwrap_err().code(), ErrorCode::OutOfRange, "{count} {bytes}");
        }
        assert_eq!(table.conversion(0, 0).unwrap(), Conversion::Copy);
    }
}
