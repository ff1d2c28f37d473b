//! A device whose memory is used up: what the driver is asked then, and who waits for whom.

#![allow(clippy::unwrap_used)]

use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Backend, DeviceInfo, Direction, Gauges, Object, Placement, Request};
use rkllmjs_memory::device::block::Block;
use rkllmjs_memory::device::memory::Source;
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::{ErrorCode, Result};
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::pool::{Layout, Pool};
use rkllmjs_memory::sys::mapping::Mapping;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{GIB, KIB, MIB};

/// A simulated device that counts creates, and whose destroys hang until they are let through.
#[derive(Debug)]
struct Watched {
    inner: Simulated,
    creates: AtomicU64,
    hangs: Mutex<bool>,
    released: Condvar,
}

impl Watched {
    fn new(options: Options, hangs: bool) -> Arc<Self> {
        Arc::new(Self {
            inner: Simulated::new(options).unwrap(),
            creates: AtomicU64::new(0),
            hangs: Mutex::new(hangs),
            released: Condvar::new(),
        })
    }

    fn release(&self) {
        *self.hangs.lock().unwrap() = false;
        self.released.notify_all();
    }

    fn creates(&self) -> u64 {
        self.creates.load(Ordering::Relaxed)
    }
}

impl Backend for Watched {
    fn info(&self) -> &DeviceInfo {
        self.inner.info()
    }
    fn create(&self, request: &Request) -> Result<Object> {
        self.creates.fetch_add(1, Ordering::Relaxed);
        self.inner.create(request)
    }
    fn import(&self, fd: BorrowedFd<'_>, size: Option<u64>) -> Result<Object> {
        self.inner.import(fd, size)
    }
    fn map(&self, object: Handle, alignment: u64) -> Result<Mapping> {
        self.inner.map(object, alignment)
    }
    fn sync(&self, object: Handle, direction: Direction, range: Range<u64>) -> Result<()> {
        self.inner.sync(object, direction, range)
    }
    fn export(&self, object: Handle) -> Result<OwnedFd> {
        self.inner.export(object)
    }
    fn destroy(&self, object: Handle) -> Result<()> {
        drop(self.released.wait_while(self.hangs.lock().unwrap(), |hangs| *hangs).unwrap());
        self.inner.destroy(object)
    }
    fn gauges(&self, domain: u32) -> Gauges {
        self.inner.gauges(domain)
    }
    fn live(&self) -> usize {
        self.inner.live()
    }
}

const SOON: Duration = Duration::from_secs(60);

fn board(soc: &str) -> Options {
    Options { soc: Some(soc.into()), ..Options::default() }
}

#[test]
fn a_hung_driver_holds_up_the_frees_of_its_own_device_only() {
    let hung: Vec<_> = (0..12).map(|_| Watched::new(board("rk3588"), true)).collect();
    let devices: Vec<_> = hung.iter().map(|backend| Device::new(backend.clone())).collect();
    for device in &devices {
        drop(Block::create(device, &Request::plain(page_size()), false).unwrap());
    }
    let healthy = Device::new(Watched::new(board("rk3588"), false));
    drop(Block::create(&healthy, &Request::plain(page_size()), false).unwrap());
    assert!(healthy.wait_for_frees(SOON), "the frees of a healthy device wait for those of hung ones");
    assert!(devices.iter().all(|device| device.pending() == page_size()));
    hung.iter().for_each(|backend| backend.release());
    assert!(devices.iter().all(|device| device.wait_for_frees(SOON)));
}

#[test]
fn slabs_get_smaller_on_a_full_device_and_grow_again() {
    let backend = Watched::new(Options { domain_bytes: Some(7 * MIB), ..board("rk3566") }, false);
    let device = Device::new(backend.clone());
    let source = Source::Npu { device: device.clone(), request: Request::plain(1), dirty: true };
    let layout = Layout { initial: 0, max: GIB, chunk: 4 * MIB, block: None, alignment: page_size(), delay: 0 };
    let slab = Pool::new(None, source, layout, None).unwrap();
    let allocate = || slab.allocate(64 * KIB, page_size());
    let mut slices = Vec::new();
    let refused = loop {
        match allocate() {
            Ok(slice) => slices.push(slice),
            Err(error) => break error,
        }
    };
    assert_eq!((refused.code(), slab.stats().reserved), (ErrorCode::OutOfMemory, 7 * MIB));
    // The first refusal tried every size; the next ones ask once.
    let before = backend.creates();
    for _ in 0..10 {
        assert_eq!(allocate().unwrap_err().code(), ErrorCode::OutOfMemory);
    }
    assert_eq!(backend.creates() - before, 10);
    for slice in slices {
        slab.free(slice.chunk, slice.region).unwrap();
    }
    slab.trim();
    assert!(device.wait_for_frees(SOON));
    let sizes: Vec<u64> = (0..4)
        .map(|_| {
            let before = slab.stats().reserved;
            while slab.stats().reserved == before {
                allocate().unwrap();
            }
            slab.stats().reserved - before
        })
        .collect();
    assert_eq!(sizes, [256 * KIB, 512 * KIB, MIB, 2 * MIB]);
}

#[test]
fn an_alignment_or_a_size_beyond_the_device_is_refused_with_its_bound() {
    let backend = Watched::new(board("rk3566"), false);
    let device = Device::new(backend.clone());
    let refused = |request: Request| device.create(&request).unwrap_err();
    let error = refused(Request { alignment: 4 * MIB, ..Request::plain(page_size()) });
    let most = 256 * page_size();
    assert_eq!((error.code(), error.details().limit), (ErrorCode::Unsupported, Some(most)));
    assert_eq!(error.details().scope.as_deref(), Some("alignment"));
    let error = refused(Request::plain(256 * MIB + page_size()));
    assert_eq!((error.code(), error.details().limit), (ErrorCode::OutOfRange, Some(256 * MIB)));
    assert_eq!(backend.creates(), 0, "the driver was asked");
    drop(Block::create(&device, &Request { alignment: most, ..Request::plain(page_size()) }, false).unwrap());

    // Page 0 of a domain is never used, so no object has all 4 GiB.
    let backend = Watched::new(board("rk3588"), false);
    let device = Device::new(backend.clone());
    let error = device.create(&Request::plain(4 * GIB)).unwrap_err();
    assert_eq!((error.code(), error.details().limit), (ErrorCode::OutOfRange, Some(4 * GIB - page_size())));
    assert_eq!(backend.creates(), 0, "the driver was asked");
}

#[test]
fn an_object_in_sram_is_not_exported() {
    let device = Device::new(Watched::new(board("rk3588"), false));
    let sram = Request { placement: Placement::TrySram, ..Request::plain(page_size()) };
    let block = Block::create(&device, &sram, true).unwrap();
    assert_eq!(block.object().sram, page_size());
    let error = block.export().unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unsupported);
    assert!(error.to_string().contains("SRAM"), "{error}");
    assert!(Block::create(&device, &Request::plain(page_size()), true).unwrap().export().is_ok());
}
