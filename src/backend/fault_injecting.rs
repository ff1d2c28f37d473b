//! Backends around backends.
//!
//! [`FaultInjecting`] makes the nth call of a kind fail with an errno, translated as the device's own would be: so
//! every path that starts with a driver's refusal can be walked without a driver.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::errno::{translate, Call, Context};
use super::{Backend, DeviceInfo, Direction, Gauges, Object, Request};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::mapping::Mapping;

/// One failure to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which call. [`Backend::map`] meets both [`Call::Map`] and [`Call::Mmap`], [`Backend::sync`] both its kinds.
    pub call: Call,
    /// Which of them, counted from when the fault is added: 1 is the next.
    pub nth: u64,
    /// What the kernel is to say.
    pub errno: i32,
    /// Whether the call is made all the same, and only its success denied. True to life for a destroy: the driver gives
    /// up an object that it failed to free. An object or fd made this way is undone.
    pub performed: bool,
}

impl Fault {
    /// The `nth` such call from now on fails and is not made; a destroy is, so that its object is gone.
    pub fn new(call: Call, nth: u64, errno: i32) -> Self {
        Self { call, nth, errno, performed: call == Call::Destroy }
    }
}

/// See the module's header.
#[derive(Debug)]
pub struct FaultInjecting {
    inner: Arc<dyn Backend>,
    faults: Mutex<Vec<Fault>>,
}

impl FaultInjecting {
    /// Around `inner`, without faults.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, faults: Mutex::default() }
    }

    /// Adds a failure to come.
    pub fn fail(&self, fault: Fault) {
        self.faults().push(fault);
    }

    /// Failures that have not happened yet.
    pub fn pending(&self) -> usize {
        self.faults().len()
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock()
    }

    /// Counts one call of any of `calls`; the fault that is due with it.
    fn due(&self, calls: &[Call]) -> Option<Fault> {
        let mut faults = self.faults();
        let mut due = None;
        faults.retain_mut(|fault| {
            if !calls.contains(&fault.call) || fault.nth == 0 {
                return true;
            }
            fault.nth -= 1;
            if fault.nth > 0 {
                return true;
            }
            if due.is_some() {
                fault.nth = 1; // one failure a call: the other one's turn is next
                return true;
            }
            due = Some(*fault);
            false
        });
        due
    }

    fn refusal(&self, fault: Fault, at: impl FnOnce(Context<'_>) -> Context<'_>) -> Error {
        let context = at(Context::of(self.inner.info(), (self.inner.live(), None)));
        translate(fault.call, Errno::from_raw(fault.errno), &context)
    }
}

impl Backend for FaultInjecting {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }

    fn create(&self, request: &Request) -> Result<Object> {
        let Some(fault) = self.due(&[Call::Create]) else { return self.inner.create(request) };
        if fault.performed {
            self.inner.destroy(self.inner.create(request)?.handle)?;
        }
        Err(self.refusal(fault, |at| at.request(request)))
    }

    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        let Some(fault) = self.due(&[Call::Import]) else { return self.inner.import(fd, size) };
        if fault.performed {
            self.inner.destroy(self.inner.import(fd, size)?.handle)?;
        }
        Err(self.refusal(fault, |at| at.bytes(size.unwrap_or(0))))
    }

    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        let Some(fault) = self.due(&[Call::Map, Call::Mmap]) else { return self.inner.map(object, alignment) };
        if fault.performed {
            drop(self.inner.map(object, alignment)?);
        }
        Err(self.refusal(fault, |at| at))
    }

    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        let Some(fault) = self.due(&[Call::Sync, Call::SyncDmaBuf]) else {
            return self.inner.sync(object, direction, range);
        };
        if fault.performed {
            self.inner.sync(object, direction, range)?;
        }
        Err(self.refusal(fault, |at| at))
    }

    fn export(&self, object: Handle) -> Result<OwnedFd> {
        let Some(fault) = self.due(&[Call::Export]) else { return self.inner.export(object) };
        if fault.performed {
            drop(self.inner.export(object)?);
        }
        Err(self.refusal(fault, |at| at))
    }

    fn destroy(&self, object: Handle) -> Result<()> {
        let Some(fault) = self.due(&[Call::Destroy]) else { return self.inner.destroy(object) };
        if fault.performed {
            self.inner.destroy(object)?;
        }
        Err(self.refusal(fault, |at| at))
    }

    fn gauges(&self, domain: u32) -> Gauges {
        self.inner.gauges(domain)
    }

    fn live(&self) -> usize {
        self.inner.live()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::simulated::{Options, Simulated};
    use crate::error::ErrorCode;

    fn device() -> FaultInjecting {
        FaultInjecting::new(Arc::new(Simulated::new(Options::default()).unwrap()))
    }

    #[test]
    fn the_nth_call_fails_and_no_other() {
        let device = device();
        device.fail(Fault::new(Call::Create, 3, libc::EFAULT));
        let results: Vec<_> = (0..4).map(|_| device.create(&Request::plain(1))).collect();
        assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
        let error = results[2].as_ref().unwrap_err();
        assert_eq!((error.code(), error.errno()), (ErrorCode::IovaExhausted, Some(libc::EFAULT)));
        assert_eq!((device.live(), device.pending()), (3, 0));
    }

    #[test]
    fn a_failed_destroy_has_happened_or_not_as_told() {
        let device = device();
        let (a, b) = (device.create(&Request::plain(1)).unwrap(), device.create(&Request::plain(1)).unwrap());
        device.fail(Fault::new(Call::Destroy, 1, libc::EINVAL));
        device.fail(Fault { performed: false, ..Fault::new(Call::Destroy, 2, libc::EIO) });
        assert_eq!(device.destroy(a.handle).unwrap_err().code(), ErrorCode::DomainBusy);
        assert_eq!(device.live(), 1);
        assert_eq!(device.destroy(b.handle).unwrap_err().code(), ErrorCode::DeviceIo);
        assert_eq!(device.live(), 1, "not performed");
    }

    #[test]
    fn two_faults_due_at_once_follow_each_other() {
        let device = device();
        let object = device.create(&Request::plain(1)).unwrap().handle;
        device.fail(Fault::new(Call::Map, 1, libc::ENODEV));
        device.fail(Fault::new(Call::Mmap, 1, libc::ENOMEM));
        assert_eq!(device.map(object, 64).unwrap_err().code(), ErrorCode::DeviceLost);
        assert_eq!(device.map(object, 64).unwrap_err().code(), ErrorCode::OutOfMemory);
        assert!(device.map(object, 64).is_ok());
    }
}
