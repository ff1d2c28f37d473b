//! Keeps the device in IOMMU domain 0 between calls.
//!
//! The domain is the device's, for all processes (`docs/design/rknpu.md` §3.4). From 0.9.8 on, the driver switches to
//! the domain of an object for MEM_CREATE, MEM_SYNC and MEM_DESTROY, and stays there. So each call that may leave
//! domain 0 is a [`Visit`]. When the last of them ends, the device goes back to domain 0, if the first found it there.
//! A driver below 0.9.8 has one domain, and is never switched.

use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;

use crate::abi::rknpu::{Action, DRM};
use crate::sync::Mutex;

/// The driver's calls that read and set the domain.
pub(super) trait DomainCalls {
    /// The current domain; `None` if the driver has no such call.
    fn current_domain(&self) -> Option<u32>;

    /// Switches to domain 0. Waits for the calls and jobs of the current one, up to 6 s.
    fn to_domain_0(&self) -> Result<(), Errno>;
}

impl DomainCalls for OwnedFd {
    fn current_domain(&self) -> Option<u32> {
        DRM.action(self.as_fd(), Action::GetIommuDomain, 0).ok()
    }

    fn to_domain_0(&self) -> Result<(), Errno> {
        DRM.action(self.as_fd(), Action::SetIommuDomain, 0).map(drop)
    }
}

/// The visits of one open file. See the [module](self).
#[derive(Debug, Default)]
pub(super) struct HomeDomain(Mutex<Visits>);

#[derive(Debug, Default)]
struct Visits {
    /// Visits that have not ended.
    running: u32,
    /// Whether one of them, or one before them, found the device in domain 0.
    left_home: bool,
}

/// A call in another domain, or in one that is not known. Dropping it takes the device back.
#[must_use]
pub(super) struct Visit<'a, D: DomainCalls> {
    home: &'a HomeDomain,
    device: &'a D,
    returns: bool,
}

impl HomeDomain {
    /// Starts a visit, before the driver is called.
    pub(super) fn visit<'a, D: DomainCalls>(&'a self, device: &'a D) -> Visit<'a, D> {
        // Counted before the domain is read: another visit that ends in between leaves the return to this one.
        self.0.lock().running += 1;
        let visit = Visit { home: self, device, returns: true };
        if device.current_domain() == Some(0) {
            self.0.lock().left_home = true;
        }
        visit
    }

    /// Takes the device back to domain 0 if visits left it, and none is running.
    pub(super) fn return_home(&self, device: &impl DomainCalls) {
        let away = |visits: &Visits| visits.left_home && visits.running == 0;
        if !away(&self.0.lock()) {
            return;
        }
        // Fails if a job holds the domain for 6 s. The caller's object exists in any case, and the next call in domain
        // 0 switches by itself.
        let _ = device.to_domain_0();
        let mut visits = self.0.lock();
        // A visit that started meanwhile may leave again: its end returns.
        if away(&visits) {
            visits.left_home = false;
        }
    }
}

impl<D: DomainCalls> Visit<'_, D> {
    /// Ends the visit where it is: the caller will call [`HomeDomain::return_home`] after more of them.
    pub(super) fn stay(mut self) {
        self.returns = false;
    }
}

impl<D: DomainCalls> Drop for Visit<'_, D> {
    fn drop(&mut self) {
        self.home.0.lock().running -= 1;
        if self.returns {
            self.home.return_home(self.device);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// A device that is in domain `.0` and was switched to domain 0 `.1` times.
    #[derive(Default)]
    struct Fake(AtomicU32, AtomicU32);

    impl Fake {
        fn switch(&self, domain: u32) {
            self.0.store(domain, Ordering::Relaxed);
        }

        fn state(&self) -> (u32, u32) {
            (self.0.load(Ordering::Relaxed), self.1.load(Ordering::Relaxed))
        }
    }

    impl DomainCalls for Fake {
        fn current_domain(&self) -> Option<u32> {
            Some(self.0.load(Ordering::Relaxed))
        }
        fn to_domain_0(&self) -> Result<(), Errno> {
            self.switch(0);
            self.1.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }

    #[test]
    fn a_visit_returns_to_domain_0_if_it_started_there() {
        let (home, device) = (HomeDomain::default(), Fake::default());
        for round in 1..4 {
            let visit = home.visit(&device);
            device.switch(5);
            drop(visit);
            assert_eq!(device.state(), (0, round));
        }
        // Another process has the device elsewhere: it stays where this process left it.
        device.switch(7);
        let visit = home.visit(&device);
        device.switch(5);
        drop(visit);
        assert_eq!(device.state(), (5, 3));
    }

    #[test]
    fn the_last_of_several_visits_returns() {
        let (home, device) = (HomeDomain::default(), Fake::default());
        let first = home.visit(&device);
        device.switch(3);
        // The second visit finds the device elsewhere because of the first.
        let second = home.visit(&device);
        drop(first);
        assert_eq!(device.state(), (3, 0), "the second is still running");
        device.switch(5);
        drop(second);
        assert_eq!(device.state(), (0, 1));
    }

    #[test]
    fn visits_that_stay_return_once_for_all() {
        let (home, device) = (HomeDomain::default(), Fake::default());
        for domain in [2, 3, 2] {
            let visit = home.visit(&device);
            device.switch(domain);
            visit.stay();
        }
        assert_eq!(device.state(), (2, 0));
        home.return_home(&device);
        home.return_home(&device);
        assert_eq!(device.state(), (0, 1));
    }

    #[test]
    fn a_visit_whose_start_meets_the_end_of_another_returns_itself() {
        /// A device on which another thread's visit ends right after the domain was read.
        struct Ending<'a>(&'a Fake, Mutex<Option<Visit<'a, Fake>>>);
        impl DomainCalls for Ending<'_> {
            fn current_domain(&self) -> Option<u32> {
                let read = self.0.current_domain();
                drop(self.1.lock().take());
                read
            }
            fn to_domain_0(&self) -> Result<(), Errno> {
                self.0.to_domain_0()
            }
        }
        let (home, device) = (HomeDomain::default(), Fake::default());
        let first = home.visit(&device);
        device.switch(3);
        let ending = Ending(&device, Mutex::new(Some(first)));
        let second = home.visit(&ending);
        device.switch(5);
        drop(second);
        assert_eq!(device.state().0, 0);
    }

    #[test]
    fn a_visit_that_starts_during_a_return_returns_itself() {
        /// A device that another thread visits while it is switched to domain 0.
        struct Visited<'a>(&'a HomeDomain, Fake);
        impl DomainCalls for Visited<'_> {
            fn current_domain(&self) -> Option<u32> {
                self.1.current_domain()
            }
            fn to_domain_0(&self) -> Result<(), Errno> {
                if self.1.state().1 == 0 {
                    // Starts before the switch, which took the device out of domain 3.
                    let visit = self.0.visit(&self.1);
                    self.1.to_domain_0()?;
                    self.1.switch(5);
                    drop(visit);
                    return Ok(());
                }
                self.1.to_domain_0()
            }
        }
        let home = HomeDomain::default();
        let device = Visited(&home, Fake::default());
        let visit = home.visit(&device);
        device.1.switch(3);
        drop(visit);
        assert_eq!(device.1.state().0, 0);
    }
}
