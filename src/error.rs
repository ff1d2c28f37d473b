//! The one error type of this crate.
//!
//! Every error carries a stable [`ErrorCode`], a sentence with the figures, and a hint if there is a remedy. The
//! binding turns it into the `MemoryError` of `index.d.ts` with all its fields.
//!
//! ```
//! use rkllmjs_memory::error::{Error, ErrorCode};
//!
//! let error = Error::new(ErrorCode::OutOfMemory, "4 GiB do not fit").requested(4 << 30).hint("use a smaller model");
//! assert_eq!(error.code().as_str(), "ERR_OUT_OF_MEMORY");
//! assert_eq!(error.to_string(), "4 GiB do not fit");
//! assert_eq!(error.details().hint.as_deref(), Some("use a smaller model"));
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// The reason of an error. The texts are API: they never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)+ }

        impl ErrorCode {
            /// All codes.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+];

            /// Returns the code as JavaScript sees it.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)+ }
            }
        }
    };
}

codes! {
    /// An argument has the wrong type, or an option does not exist.
    InvalidArgType = "ERR_INVALID_ARG_TYPE",
    /// A number is zero, negative, fractional, NaN, or beyond the device's capacity.
    OutOfRange = "ERR_OUT_OF_RANGE",
    /// A hard limit that the user set does not allow the request.
    MemoryLimit = "ERR_MEMORY_LIMIT",
    /// RAM, CMA or the kernel has no memory left.
    OutOfMemory = "ERR_OUT_OF_MEMORY",
    /// The IOMMU domain's 4 GiB of addresses are used up: the driver answers EFAULT.
    IovaExhausted = "ERR_IOVA_EXHAUSTED",
    /// A job held another IOMMU domain for too long.
    DomainBusy = "ERR_DOMAIN_BUSY",
    /// The process (EMFILE) or the system (ENFILE) has no file descriptor left.
    TooManyFds = "ERR_TOO_MANY_FDS",
    /// `vm.max_map_count` is reached.
    TooManyMaps = "ERR_TOO_MANY_MAPS",
    /// The buffer was not allocated by this manager.
    UnknownBuffer = "ERR_UNKNOWN_BUFFER",
    /// The buffer was freed before.
    BufferFreed = "ERR_BUFFER_FREED",
    /// The buffer's bytes moved to another ArrayBuffer; the memory is freed when that one is collected.
    BufferTransferred = "ERR_BUFFER_TRANSFERRED",
    /// The runtime uses the buffer in an operation, or the buffer was marked as not detachable.
    BufferBusy = "ERR_BUFFER_BUSY",
    /// The operation needs an NPU buffer and got a system buffer, or the other way round.
    BufferKind = "ERR_BUFFER_KIND",
    /// A pool of that name exists.
    PoolExists = "ERR_POOL_EXISTS",
    /// No pool of that name exists.
    PoolUnknown = "ERR_POOL_UNKNOWN",
    /// The pool was destroyed.
    PoolDestroyed = "ERR_POOL_DESTROYED",
    /// The pool has no room left.
    PoolExhausted = "ERR_POOL_EXHAUSTED",
    /// The pool has live allocations.
    PoolBusy = "ERR_POOL_BUSY",
    /// The device does not exist.
    DeviceNotFound = "ERR_DEVICE_NOT_FOUND",
    /// The device exists, and this user may not open it.
    DevicePermission = "ERR_DEVICE_PERMISSION",
    /// The device disappeared while it was open.
    DeviceLost = "ERR_DEVICE_LOST",
    /// The driver failed in a way that has no code of its own; `errno` has the reason.
    DeviceIo = "ERR_DEVICE_IO",
    /// The device or the runtime does not support the operation.
    Unsupported = "ERR_UNSUPPORTED",
    /// The runtime forbids external ArrayBuffers (Electron): zero-copy is impossible.
    ExternalBuffersForbidden = "ERR_EXTERNAL_BUFFERS_FORBIDDEN",
    /// The manager was disposed.
    ManagerDisposed = "ERR_MANAGER_DISPOSED",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An error with its figures. Boxed, so that `Result<T>` stays one word wider than `T`.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Error(Box<Details>);

/// The fields of an [`Error`]. Sizes are bytes; unknown fields are `None`.
#[derive(Debug)]
pub struct Details {
    /// The reason, for programs.
    pub code: ErrorCode,
    /// The reason, for people: one sentence with cause and figures.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
    /// Bytes requested.
    pub requested: Option<u64>,
    /// Bytes that were free.
    pub available: Option<u64>,
    /// The largest free piece.
    pub largest_free: Option<u64>,
    /// The limit that the request exceeded.
    pub limit: Option<u64>,
    /// The owner of the limit: "domain:0", "cma", "ram", "fds".
    pub scope: Option<String>,
    /// The kernel call that failed, e.g. "MEM_CREATE".
    pub syscall: Option<&'static str>,
    /// The errno of that call.
    pub errno: Option<i32>,
    /// The file or device of that call.
    pub path: Option<PathBuf>,
    /// The version of the driver whose capability was exceeded.
    pub driver_version: Option<String>,
}

impl Error {
    /// Makes an error with a code and a message; the methods below add the other fields.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Details {
            code,
            message: message.into(),
            hint: None,
            requested: None,
            available: None,
            largest_free: None,
            limit: None,
            scope: None,
            syscall: None,
            errno: None,
            path: None,
            driver_version: None,
        }))
    }

    /// Returns the error's code.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// Returns the errno, if a kernel call failed.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// Returns all fields.
    pub fn details(&self) -> &Details {
        &self.0
    }

    /// Adds the remedy.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds the number of bytes requested.
    pub fn requested(mut self, bytes: u64) -> Self {
        self.0.requested = Some(bytes);
        self
    }

    /// Adds the number of bytes that were free.
    pub fn available(mut self, bytes: u64) -> Self {
        self.0.available = Some(bytes);
        self
    }

    /// Adds the size of the largest free piece, in bytes.
    pub fn largest_free(mut self, bytes: u64) -> Self {
        self.0.largest_free = Some(bytes);
        self
    }

    /// Adds the limit that the request exceeded, and the limit's owner.
    pub fn limit(mut self, scope: impl Into<String>, bytes: u64) -> Self {
        self.0.scope = Some(scope.into());
        self.0.limit = Some(bytes);
        self
    }

    /// Adds the kernel call and its errno.
    pub fn syscall(mut self, name: &'static str, errno: i32) -> Self {
        self.0.syscall = Some(name);
        self.0.errno = Some(errno);
        self
    }

    /// Adds the file or device of the failed call.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
        self
    }

    /// Adds the version of the driver.
    pub fn driver_version(mut self, version: impl Into<String>) -> Self {
        self.0.driver_version = Some(version.into());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_follow_the_node_convention() {
        let mut texts: Vec<_> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
        assert!(texts.iter().all(|t| t.starts_with("ERR_")));
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
    }

    #[test]
    fn an_error_is_one_word() {
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }
}
