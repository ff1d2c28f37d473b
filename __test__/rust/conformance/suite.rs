//! The conformance suite of all backends: the manager's requirements, case by case.
//!
//! A case passes, fails with the figures, or does not apply to this device for a reason; the last kind is counted
//! apart. After each case the backend has as many objects and the process as many file descriptors as before. Run it
//! with `cargo test --no-default-features --test conformance`, in a process of its own: cases count the process's
//! descriptors and lower its limits.

use std::fs;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::unistd::ftruncate;

use rkllmjs_memory::abi::udmabuf;
use rkllmjs_memory::backend::{Backend, Kind, Object, Request};
use rkllmjs_memory::error::{Error, ErrorCode};
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::sys::mapping::Mapping;
use rkllmjs_memory::sys::page::page_size;

/// Outcome of a case without a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The backend fulfils the contract.
    Held,
    /// The case does not apply to this device, for this reason.
    NotApplicable(String),
}

/// Result of a case; the error describes the failure.
pub type Check = Result<Outcome, String>;

/// A rule of the contract.
#[derive(Clone, Copy)]
pub struct Case {
    /// The rule as a sentence.
    pub name: &'static str,
    pub check: fn(&Rig) -> Check,
}

impl Case {
    /// Runs the case against a backend without other users.
    pub fn run(&self, backend: &Arc<dyn Backend>) -> Check {
        let (live, fds) = (backend.live(), open_fds());
        let outcome = (self.check)(&Rig { backend: Arc::clone(backend) })?;
        if backend.live() != live {
            return Err(format!("{} objects lived before and {} do now", live, backend.live()));
        }
        let now = open_fds();
        if now != fds {
            return Err(format!("{fds} file descriptors were open before and {now} are now"));
        }
        Ok(outcome)
    }
}

/// Fails a case unless `$condition` holds.
macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(crate) use ensure;

pub const HELD: Check = Ok(Outcome::Held);

pub fn not_applicable(why: impl Into<String>) -> Check {
    Ok(Outcome::NotApplicable(why.into()))
}

/// Open file descriptors of this process.
pub fn open_fds() -> usize {
    // Reading the folder opens it: one of the entries is its own descriptor.
    fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count().saturating_sub(1))
}

/// Formats an error for a failed case.
pub fn told(error: Error) -> String {
    format!("{}: {error}", error.code())
}

/// The environment of a case.
pub struct Rig {
    pub backend: Arc<dyn Backend>,
}

/// An object that its guard destroys.
pub struct Owned {
    pub backend: Arc<dyn Backend>,
    pub object: Object,
    gone: bool,
}

impl Owned {
    pub fn handle(&self) -> Handle {
        self.object.handle
    }

    pub fn map(&self) -> Result<Mapping, String> {
        self.backend.map(self.handle(), page_size()).map_err(told)
    }

    pub fn export(&self) -> Result<OwnedFd, String> {
        self.backend.export(self.handle()).map_err(told)
    }

    pub fn destroy(mut self) -> Result<(), String> {
        self.gone = true;
        self.backend.destroy(self.handle()).map_err(told)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if !self.gone {
            // A case that failed earlier reports its own failure.
            let _ = self.backend.destroy(self.object.handle);
        }
    }
}

impl Rig {
    /// The number of domains that serve, at least 1: a build of the driver may accept all and use one.
    pub fn domains(&self) -> u32 {
        let count = self.backend.info().domains.max(1);
        let second = Request { domain: 1, ..Request::plain(page_size()) };
        match self.try_create(&second) {
            Ok(_) if count > 1 => count,
            _ => 1,
        }
    }

    pub fn kind(&self) -> Kind {
        self.backend.info().kind
    }

    pub fn try_create(&self, request: &Request) -> Result<Owned, Error> {
        let object = self.backend.create(request)?;
        Ok(self.own(object))
    }

    pub fn create(&self, request: &Request) -> Result<Owned, String> {
        self.try_create(request).map_err(|error| format!("create of {request:?}: {}", told(error)))
    }

    /// Creates a plain object of `pages` pages.
    pub fn pages(&self, pages: u64) -> Result<Owned, String> {
        self.create(&Request::plain(pages * page_size()))
    }

    pub fn own(&self, object: Object) -> Owned {
        Owned { backend: Arc::clone(&self.backend), object, gone: false }
    }

    /// Creates an object that the device may not support. Returns `None` at `ERR_UNSUPPORTED`.
    pub fn create_if_supported(&self, request: &Request) -> Result<Option<Owned>, String> {
        match self.try_create(request) {
            Ok(owned) => Ok(Some(owned)),
            Err(error) if error.code() == ErrorCode::Unsupported => Ok(None),
            Err(error) => Err(told(error)),
        }
    }

    /// Gets a dma-buf of another driver, and a mapping of its bytes. Returns `None` on a machine without such a driver.
    pub fn foreign(&self, size: u64) -> Result<Option<(OwnedFd, Mapping)>, String> {
        let words = |error: nix::errno::Errno| format!("making a memfd: {error}");
        let memfd =
            memfd_create("rkllm-conformance", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).map_err(words)?;
        ftruncate(&memfd, size as i64).map_err(words)?;
        fcntl(&memfd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).map_err(words)?;
        use std::os::fd::AsFd;
        let memory = Mapping::shared(memfd.as_fd(), 0, size, page_size()).map_err(|error| error.to_string())?;
        if self.kind() == Kind::Simulated {
            return Ok(Some((memfd, memory))); // The simulated dma-bufs are memfds.
        }
        let Ok(node) = fs::File::open("/dev/udmabuf") else { return Ok(None) };
        let buffer = udmabuf::create(node.as_fd(), memfd.as_fd(), size).map_err(|error| format!("udmabuf: {error}"))?;
        Ok(Some((buffer, memory)))
    }

    pub fn imports(&self) -> bool {
        self.kind() != Kind::Rocket
    }
}

pub const NO_IMPORT: &str = "this driver imports nothing";

/// 16 bytes that identify a place.
pub fn mark(seed: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8..].copy_from_slice(&(!seed).to_le_bytes());
    bytes
}

pub fn shows(mapping: &Mapping, offset: u64, seed: u64) -> bool {
    let mut bytes = [0; 16];
    mapping.read(offset, &mut bytes);
    bytes == mark(seed)
}
