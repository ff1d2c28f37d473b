//! A decorator that makes the nth call of a kind fail.
//!
//! [`FaultInjecting`] answers with an errno that is translated as the device's own would be. So a test can follow every
//! path that starts with a driver's refusal, without a driver.

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use nix::errno::Errno;

use super::errno::{translate, Call, Context};
use super::simulated::Simulated;
use super::{Backend, DeviceInfo, Direction, Gauges, Maintenance, Object, Request};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::sync::{Mutex, MutexGuard};
use crate::sys::mapping::Mapping;

/// A scheduled failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The kind of call. [`Backend::map`] counts as [`Call::Map`] and [`Call::Mmap`], [`Backend::sync`] as both its
    /// kinds.
    pub call: Call,
    /// The number of the call, counted from when the fault is added: 1 is the next.
    pub nth: u64,
    /// The errno of the kernel.
    pub errno: i32,
    /// Performs the call and denies only its success. A driver does so in a destroy: it gives up an object that it
    /// failed to free. An object or fd that the call created is undone.
    pub performed: bool,
}

impl Fault {
    /// Schedules a failure of the `nth` such call. The call is not performed, except for a destroy.
    pub fn new(call: Call, nth: u64, errno: i32) -> Self {
        Self { call, nth, errno, performed: call == Call::Destroy }
    }
}

/// A backend with scheduled failures. See the [module](self).
#[derive(Debug)]
pub struct FaultInjecting {
    inner: Arc<dyn Backend>,
    faults: Mutex<Vec<Fault>>,
}

impl FaultInjecting {
    /// Wraps `inner`, without faults.
    pub fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, faults: Mutex::default() }
    }

    /// Schedules a failure.
    pub fn fail(&self, fault: Fault) {
        self.faults().push(fault);
    }

    /// Counts the failures that have not happened yet.
    pub fn pending(&self) -> usize {
        self.faults().len()
    }

    fn faults(&self) -> MutexGuard<'_, Vec<Fault>> {
        self.faults.lock()
    }

    /// Counts one call of any of `calls`, and takes the fault that is due.
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
                fault.nth = 1; // one failure a call: the other one follows with the next
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

    fn end_of_destroys(&self) {
        self.inner.end_of_destroys();
    }

    fn gauges(&self, domain: u32) -> Gauges {
        self.inner.gauges(domain)
    }

    fn live(&self) -> usize {
        self.inner.live()
    }

    fn maintenance(&self) -> Maintenance {
        self.inner.maintenance()
    }

    fn simulated(&self) -> Option<&Simulated> {
        self.inner.simulated()
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
    fn a_failed_destroy_is_performed_or_not_as_scheduled() {
        let device = device();
        let (a, b) = (device.create(&Request::plain(1)).unwrap(), device.create(&Request::plain(1)).unwrap());
        device.fail(Fault::new(Call::Destroy, 1, libc::EINVAL));
        device.fail(Fault { performed: false, ..Fault::new(Call::Destroy, 2, libc::EIO) });
        assert_eq!(device.destroy(a.handle).unwrap_err().code(), ErrorCode::DomainBusy);
        assert_eq!(device.live(), 1);
        assert_eq!(device.destroy(b.handle).unwrap_err().code(), ErrorCode::DeviceIo);
        assert_eq!(device.live(), 1, "the destroy was not performed");
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
