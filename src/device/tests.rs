//! Tests of the device: bounds before the driver is asked, charges, and the reaper.
#![allow(clippy::unwrap_used)]

use std::os::fd::AsFd;

use super::*;
use crate::backend::simulated::{Options, Simulated};
use crate::units::{GIB, MIB};

fn device(options: Options) -> Arc<Device> {
    Device::new(Arc::new(Simulated::new(options).unwrap()))
}

#[test]
fn sizes_are_bounded_before_the_driver_sees_them() {
    let device = device(Options::default());
    for size in [0, 4 * GIB + 1, 1 << 45, 1 << 62, u64::MAX] {
        assert_eq!(device.create(&Request::plain(size)).unwrap_err().code(), ErrorCode::OutOfRange, "{size}");
    }
    let elsewhere = Request { domain: 16, ..Request::plain(1) };
    assert_eq!(device.create(&elsewhere).unwrap_err().code(), ErrorCode::OutOfRange);
    assert_eq!(device.backend().live(), 0);
    assert_eq!(device.domains()[0].used(), 0);
}

#[test]
fn a_request_beyond_the_ram_never_reaches_the_driver() {
    // A device without a reach of its own, as a DMA-BUF heap: only RAM bounds the size.
    let mut info = Simulated::new(Options::default()).unwrap().info().clone();
    (info.kind, info.iommu, info.domain_bytes) = (Kind::DmaHeap, false, 0);
    let device = Device::new(Arc::new(NeverAsked(info)));
    let ram = ram::Ram::read().unwrap();
    for size in [ram.available, ram.total, ram.total + 4096, 1 << 46] {
        let error = device.create(&Request::plain(size)).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfMemory, "{size}");
        assert_eq!(error.details().requested, Some(size));
    }
}

/// A backend whose driver must not be called.
#[derive(Debug)]
struct NeverAsked(DeviceInfo);

impl Backend for NeverAsked {
    fn info(&self) -> &DeviceInfo {
        &self.0
    }
    fn create(&self, request: &Request) -> Result<Object> {
        panic!("the driver was asked for {request:?}")
    }
    fn import(&self, _: BorrowedFd<'_>, _: Option<u64>) -> Result<Object> {
        unreachable!()
    }
    fn map(&self, _: Handle, _: u64) -> Result<crate::sys::mapping::Mapping> {
        unreachable!()
    }
    fn sync(&self, _: Handle, _: crate::backend::Direction, _: std::ops::Range<u64>) -> Result<()> {
        unreachable!()
    }
    fn export(&self, _: Handle) -> Result<std::os::fd::OwnedFd> {
        unreachable!()
    }
    fn destroy(&self, _: Handle) -> Result<()> {
        unreachable!()
    }
    fn gauges(&self, _: u32) -> crate::backend::Gauges {
        unreachable!()
    }
    fn live(&self) -> usize {
        0
    }
}

#[test]
fn a_wait_for_present_frees_ends_while_other_threads_free_more() {
    let latency = Duration::from_millis(2);
    let device = device(Options { latency, ..Options::default() });
    let free = |device: &Arc<Device>| {
        let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
        device.free_later(object, charges);
    };
    let ended = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        // The reaper always has a next object.
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let made: Vec<_> = (0..4).map(|_| device.create(&Request::plain(MIB)).unwrap()).collect();
                made.into_iter().for_each(|(object, charges)| device.free_later(object, charges));
            }
        });
        free(&device);
        device.wait_for_present_frees();
        ended.store(true, Ordering::Relaxed);
    });
    device.wait_for_present_frees();
    assert_eq!((device.pending(), device.domains()[0].used()), (0, 0));
}

#[test]
fn an_object_that_comes_back_is_charged_once() {
    let device = device(Options::default());
    let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
    let fd = device.backend().export(object.handle).unwrap();
    let (again, shared) = device.import(fd.as_fd(), None).unwrap();
    assert_eq!((again.handle, again.device_address), (object.handle, object.device_address));
    assert_eq!(device.domains()[0].used(), MIB);
    device.free_later(object, charges);
    device.wait_for_frees(FREE_TIMEOUT);
    assert_eq!(device.domains()[0].used(), MIB, "the import still holds the object");
    device.free_later(again, shared);
    assert!(device.wait_for_frees(FREE_TIMEOUT));
    assert_eq!(device.domains()[0].used(), 0);
    assert!(device.live_charges().is_empty());
}

/// A backend whose imports return together, two at a time.
#[derive(Debug)]
struct ImportsMeet(Simulated, std::sync::Barrier);

impl Backend for ImportsMeet {
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        let imported = self.0.import(fd, size);
        self.1.wait();
        imported
    }
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }
    fn create(&self, request: &Request) -> Result<Object> {
        self.0.create(request)
    }
    fn map(&self, object: Handle, alignment: u64) -> Result<crate::sys::mapping::Mapping> {
        self.0.map(object, alignment)
    }
    fn sync(&self, object: Handle, to: crate::backend::Direction, range: std::ops::Range<u64>) -> Result<()> {
        self.0.sync(object, to, range)
    }
    fn export(&self, object: Handle) -> Result<std::os::fd::OwnedFd> {
        self.0.export(object)
    }
    fn destroy(&self, object: Handle) -> Result<()> {
        self.0.destroy(object)
    }
    fn gauges(&self, domain: u32) -> crate::backend::Gauges {
        self.0.gauges(domain)
    }
    fn live(&self) -> usize {
        self.0.live()
    }
}

#[test]
fn a_dma_buf_that_two_threads_import_at_once_is_charged_once() {
    let exporter = device(Options::default());
    let (object, charges) = exporter.create(&Request::plain(MIB)).unwrap();
    let fd = exporter.backend().export(object.handle).unwrap();
    let backend = ImportsMeet(Simulated::new(Options::default()).unwrap(), std::sync::Barrier::new(2));
    let importer = Device::new(Arc::new(backend));
    for round in 0..100 {
        let import = || importer.import(fd.as_fd(), None).unwrap();
        let both =
            std::thread::scope(|scope| [scope.spawn(import), scope.spawn(import)].map(|one| one.join().unwrap()));
        assert_eq!(importer.domains()[0].used(), MIB, "round {round}");
        both.into_iter().for_each(|(object, charges)| importer.free_later(object, charges));
        assert!(importer.wait_for_frees(FREE_TIMEOUT));
        assert_eq!(importer.domains()[0].used(), 0, "round {round}");
    }
    assert!(importer.live_charges().is_empty());
    exporter.free_later(object, charges);
}

/// A backend that refuses a create and completes a free meanwhile, so that there is room once the caller gets the
/// error.
#[derive(Debug)]
struct FullUntilSettled {
    inner: Simulated,
    device: Mutex<Weak<Device>>,
}

impl Backend for FullUntilSettled {
    fn create(&self, request: &Request) -> Result<Object> {
        let refused = self.inner.create(request);
        if refused.is_err() {
            let device = self.device.lock().upgrade().unwrap();
            assert!(device.wait_for_frees(FREE_TIMEOUT));
        }
        refused
    }
    fn destroy(&self, object: Handle) -> Result<()> {
        std::thread::sleep(Duration::from_millis(50));
        self.inner.destroy(object)
    }
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        self.inner.import(fd, size)
    }
    fn map(&self, object: Handle, alignment: u64) -> Result<crate::sys::mapping::Mapping> {
        self.inner.map(object, alignment)
    }
    fn sync(&self, object: Handle, to: crate::backend::Direction, range: std::ops::Range<u64>) -> Result<()> {
        self.inner.sync(object, to, range)
    }
    fn export(&self, object: Handle) -> Result<std::os::fd::OwnedFd> {
        self.inner.export(object)
    }
    fn gauges(&self, domain: u32) -> crate::backend::Gauges {
        self.inner.gauges(domain)
    }
    fn live(&self) -> usize {
        self.inner.live()
    }
}

#[test]
fn a_create_is_retried_after_a_free_that_completed_during_the_refusal() {
    let options = Options { max_objects: Some(1), ..Options::default() };
    let backend = FullUntilSettled { inner: Simulated::new(options).unwrap(), device: Mutex::default() };
    let backend = Arc::new(backend);
    let device = Device::new(Arc::clone(&backend) as Arc<dyn Backend>);
    *backend.device.lock() = Arc::downgrade(&device);
    let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
    device.free_later(object, charges);
    let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
    device.free_later(object, charges);
    assert!(device.wait_for_frees(FREE_TIMEOUT));
}

#[test]
fn objects_without_a_reaper_wait_and_are_destroyed_by_the_next_caller_that_waits() {
    let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
    let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
    assert!(device.pending.push(object, charges));
    drop(Reaper(Some(Arc::clone(&device))));
    assert_eq!((device.pending(), device.backend().live()), (MIB, 1), "the caller's thread destroyed it");
    assert!(device.pending.in_progress());
    assert!(device.wait_for_frees(Duration::ZERO));
    assert_eq!((device.pending(), device.backend().live()), (0, 0));
    // The next free asks for a reaper again.
    let (object, charges) = device.create(&Request::plain(MIB)).unwrap();
    assert!(device.pending.push(object, charges));
    device.start_reaper();
    assert!(device.wait_for_frees(FREE_TIMEOUT));
}
