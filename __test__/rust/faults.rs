//! Fails each backend call of a manager once, with each of its errnos: no memory is lost.
//!
//! One test in its own process, because it counts the process's descriptors and mappings.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::cell::Cell;
use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use rkllmjs_memory::allocation::{Allocation, Reachability};
use rkllmjs_memory::backend::errno::Call;
use rkllmjs_memory::backend::fault_injecting::{Fault, FaultInjecting};
use rkllmjs_memory::backend::simulated::{Options, Simulated, MEMFD_NAME};
use rkllmjs_memory::backend::{Backend, Direction};
use rkllmjs_memory::device::block::ImportRange;
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::Result;
use rkllmjs_memory::manager::{Manager, NpuOptions};
use rkllmjs_memory::pool::SlabOptions;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::sys::proc::Proc;
use rkllmjs_memory::units::{KIB, MIB};

/// The errnos that the calls are known to return, and possible others.
const ERRNOS: &[i32] = &[
    libc::EPERM,
    libc::ENOENT,
    libc::EIO,
    libc::ENXIO,
    libc::EBADF,
    libc::EAGAIN,
    libc::ENOMEM,
    libc::EACCES,
    libc::EFAULT,
    libc::EBUSY,
    libc::ENODEV,
    libc::EINVAL,
    libc::ENFILE,
    libc::EMFILE,
    libc::ENOTTY,
    libc::ENOSPC,
    libc::ETIMEDOUT,
    libc::EOPNOTSUPP,
];

const CALLS: &[Call] = &[Call::Create, Call::Import, Call::Map, Call::Mmap, Call::Sync, Call::Export, Call::Destroy];

fn open_fds() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

fn mapped() -> u64 {
    let name = format!("/memfd:{MEMFD_NAME}");
    Proc::default().mapped(|mapped| mapped.starts_with(&name)).unwrap()
}

/// Calls each verb that reaches the backend, more than once. Returns the number of refusals.
fn workload(manager: &Manager) -> usize {
    let refused = Cell::new(0);
    let refuse = || refused.set(refused.get() + 1);
    let mut live: Vec<Arc<Allocation>> = Vec::new();
    let mut keep = |result: Result<Arc<Allocation>>| match result {
        Ok(allocation) => {
            live.push(Arc::clone(&allocation));
            Some(allocation)
        }
        Err(_) => {
            refuse();
            None
        }
    };
    let first = keep(manager.allocate_npu(3 * page_size(), &NpuOptions::default()));
    let second = keep(manager.allocate_npu(1, &NpuOptions { alignment: Some(1 << 16), ..NpuOptions::default() }));
    let mut imports = Vec::new();
    for allocation in [&first, &second].into_iter().flatten() {
        match manager.export(allocation) {
            Ok(fd) => imports.push(keep(manager.import(fd.as_fd(), ImportRange::default(), None))),
            Err(_) => refuse(),
        }
    }
    for allocation in [first, second].into_iter().flatten() {
        for direction in [Direction::ToDevice, Direction::FromDevice] {
            if manager.sync(&allocation, direction, 0, None).is_err() {
                refuse();
            }
        }
    }
    for allocation in live {
        allocation.release().unwrap();
        allocation.finalize(Reachability::Unreachable);
        assert!(Allocation::by_handle(allocation.handle).is_none());
    }
    refused.get()
}

/// Yields to other threads. Returns false, for use in a condition.
fn pause() -> bool {
    std::thread::sleep(Duration::from_millis(1));
    false
}

#[test]
fn every_failure_leaves_everything_as_it_was() {
    let boards = [Options::default(), Options { soc: Some("rk3566".into()), ..Options::default() }];
    let (mut runs, mut failures) = (0, 0);
    // With and without slabs: a failed slab falls back to a dedicated object.
    let slabs = [0, 256 * KIB].map(|threshold| SlabOptions { threshold, size: MIB, ..SlabOptions::default() });
    for (board, slabs) in boards.iter().flat_map(|board| slabs.iter().map(move |slabs| (board, *slabs))) {
        for &call in CALLS {
            for &errno in ERRNOS {
                for nth in 1..=4 {
                    let fds = open_fds();
                    let simulated = Arc::new(Simulated::new(board.clone()).unwrap());
                    let faulty = Arc::new(FaultInjecting::new(Arc::clone(&simulated) as Arc<dyn Backend>));
                    faulty.fail(Fault::new(call, nth, errno));
                    let device = Device::new(Arc::clone(&faulty) as Arc<dyn Backend>);
                    let manager = Manager::new(Arc::clone(&device), slabs);
                    let refused = workload(&manager);
                    manager.dispose(); // Frees the empty slab that the manager keeps.
                    assert!(manager.wait_for_frees(Duration::from_secs(60)));
                    let hit = faulty.pending() == 0;
                    let what = format!("{call:?} number {nth} failed with errno {errno}");
                    let lost = device.lost();
                    assert_eq!(device.lost_for_good(), lost.0, "{what}");
                    match call {
                        // A failed destroy has no caller; the manager counts it.
                        Call::Destroy => assert_eq!((refused, lost.0), (0, u64::from(hit)), "{what}"),
                        // A failed slab falls back to a dedicated object, which succeeds.
                        _ if slabs.threshold > 0 => assert!((refused == 0 || hit) && lost == (0, 0), "{what}"),
                        _ => assert_eq!((refused > 0, lost), (hit, (0, 0)), "{what}"),
                    }
                    assert_eq!(simulated.live(), 0, "{what}: an object is left");
                    assert_eq!(mapped(), 0, "{what}: a mapping is left");
                    let summary = manager.summary();
                    assert_eq!((summary.npu.used, summary.npu.live), (0, 0), "{what}: it is still counted");
                    // A failed destroy stays charged: its addresses are lost.
                    let charged: u64 = device.domains().iter().map(|domain| domain.used()).sum();
                    assert!(charged <= lost.1, "{what}: {charged} bytes are still charged");
                    drop(manager);
                    // The reaper releases the device shortly after its last free.
                    assert!(
                        (0..10_000).any(|_| Arc::strong_count(&device) == 1 || pause()),
                        "{what}: the device is held"
                    );
                    drop((device, faulty, simulated));
                    assert_eq!(open_fds(), fds, "{what}: a descriptor is left");
                    runs += 1;
                    failures += usize::from(hit);
                }
            }
        }
    }
    println!("{failures} of {runs} runs met their fault");
    assert!(failures > runs / 3, "only {failures} of {runs} runs met their fault");
}
