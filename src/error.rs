//! The one error of this crate.
//!
//! Every failure carries a stable [`ErrorCode`], a sentence with the figures, and where there is one the next thing to
//! try. The binding turns it into the `MemoryError` of `index.d.ts`; nothing is lost on the way.

use std::fmt;
use std::path::{Path, PathBuf};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)+) => {
        /// Why something was refused. The texts are API: they never change.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $name,)+ }

        impl ErrorCode {
            /// Every code there is.
            pub const ALL: &'static [ErrorCode] = &[$(ErrorCode::$name,)+];

            /// The code as JavaScript sees it.
            pub const fn as_str(self) -> &'static str {
                match self { $(ErrorCode::$name => $text,)+ }
            }
        }
    };
}

codes! {
    /// An argument of the wrong type, or an option that does not exist.
    InvalidArgType = "ERR_INVALID_ARG_TYPE",
    /// Zero, negative, fractional, NaN, or beyond what the device can hold.
    OutOfRange = "ERR_OUT_OF_RANGE",
    /// A hard limit that the user set.
    MemoryLimit = "ERR_MEMORY_LIMIT",
    /// RAM, CMA or the kernel has no more.
    OutOfMemory = "ERR_OUT_OF_MEMORY",
    /// The IOMMU domain's 4 GiB of addresses are used up; the driver says EFAULT.
    IovaExhausted = "ERR_IOVA_EXHAUSTED",
    /// A job held another IOMMU domain for too long.
    DomainBusy = "ERR_DOMAIN_BUSY",
    /// EMFILE or ENFILE.
    TooManyFds = "ERR_TOO_MANY_FDS",
    /// `vm.max_map_count` is reached.
    TooManyMaps = "ERR_TOO_MANY_MAPS",
    /// Not this manager's buffer.
    UnknownBuffer = "ERR_UNKNOWN_BUFFER",
    /// Freed already.
    BufferFreed = "ERR_BUFFER_FREED",
    /// Its bytes moved to another ArrayBuffer; they go when that one is collected.
    BufferTransferred = "ERR_BUFFER_TRANSFERRED",
    /// The runtime holds it under an operation, or it was marked as not detachable.
    BufferBusy = "ERR_BUFFER_BUSY",
    /// A system buffer where an NPU buffer is wanted, or the other way round.
    BufferKind = "ERR_BUFFER_KIND",
    /// There is a pool of that name.
    PoolExists = "ERR_POOL_EXISTS",
    /// There is no pool of that name.
    PoolUnknown = "ERR_POOL_UNKNOWN",
    /// The pool was destroyed.
    PoolDestroyed = "ERR_POOL_DESTROYED",
    /// The pool has no room left.
    PoolExhausted = "ERR_POOL_EXHAUSTED",
    /// Allocations of the pool live.
    PoolBusy = "ERR_POOL_BUSY",
    /// No such device.
    DeviceNotFound = "ERR_DEVICE_NOT_FOUND",
    /// The device is there and this user may not open it.
    DevicePermission = "ERR_DEVICE_PERMISSION",
    /// The device went away.
    DeviceLost = "ERR_DEVICE_LOST",
    /// The driver failed in a way that has no code of its own; `errno` says how.
    DeviceIo = "ERR_DEVICE_IO",
    /// This device or runtime cannot do that.
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

/// A refusal with its figures. Boxed, so that `Result<T>` stays one word wider than `T`.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.message)]
pub struct Error(Box<Details>);

/// What an [`Error`] knows. Sizes are bytes; what is not known is `None`.
#[derive(Debug)]
pub struct Details {
    /// Why.
    pub code: ErrorCode,
    /// One sentence naming cause and figures.
    pub message: String,
    /// The next thing to try.
    pub hint: Option<String>,
    /// Bytes asked for.
    pub requested: Option<u64>,
    /// Bytes that were free.
    pub available: Option<u64>,
    /// The largest single piece that was free.
    pub largest_free: Option<u64>,
    /// The bound that was hit.
    pub limit: Option<u64>,
    /// What the bound belongs to: "domain:0", "cma", "ram", "fds".
    pub scope: Option<String>,
    /// The kernel call that failed, e.g. "MEM_CREATE".
    pub syscall: Option<&'static str>,
    /// The errno it gave.
    pub errno: Option<i32>,
    /// The file or device it concerned.
    pub path: Option<PathBuf>,
}

impl Error {
    /// A refusal that so far has only its sentence.
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
        }))
    }

    /// Why.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// The errno behind it, if the kernel said no.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// Everything it knows.
    pub fn details(&self) -> &Details {
        &self.0
    }

    /// Adds the next thing to try.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Adds how many bytes were asked for.
    pub fn requested(mut self, bytes: u64) -> Self {
        self.0.requested = Some(bytes);
        self
    }

    /// Adds how many bytes were free.
    pub fn available(mut self, bytes: u64) -> Self {
        self.0.available = Some(bytes);
        self
    }

    /// Adds the largest single free piece, in bytes.
    pub fn largest_free(mut self, bytes: u64) -> Self {
        self.0.largest_free = Some(bytes);
        self
    }

    /// Adds the bound that was hit and what it belongs to.
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

    /// Adds the file or device it concerned.
    pub fn path(mut self, path: impl AsRef<Path>) -> Self {
        self.0.path = Some(path.as_ref().to_owned());
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
