//! Tests of the manager: zeroed memory, slabs, accounting, the ends of allocations and of the manager, and errors.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::allocation::Reachability;
use crate::backend::errno::Call;
use crate::backend::fault_injecting::{Fault, FaultInjecting};
use crate::backend::simulated::{Options, Simulated};
use crate::backend::Backend;
use crate::sys::page::page_size;

fn manager(options: Options) -> Manager {
    Manager::new(Device::new(Arc::new(Simulated::new(options).unwrap())), SlabOptions::default())
}

fn end(allocation: &Allocation) {
    allocation.release().unwrap();
    allocation.finalize(Reachability::Unreachable);
}

#[test]
fn memory_is_zeroed_even_if_the_driver_does_not_clear_it() {
    let manager = manager(Options { soc: Some("rk3566".into()), ..Options::default() });
    let mut bytes = [1; 64];
    let clean = manager.allocate_npu(1 << 16, &NpuOptions::default()).unwrap();
    clean.memory().unwrap().0.mapping().read((1 << 16) - 64, &mut bytes);
    assert_eq!(bytes, [0; 64]);
    let options = NpuOptions { dirty: true, dedicated: true, ..NpuOptions::default() };
    let dirty = manager.allocate_npu(1 << 16, &options).unwrap();
    dirty.memory().unwrap().0.mapping().read(0, &mut bytes);
    assert_ne!(bytes, [0; 64], "the simulated CMA area clears nothing");
    end(&clean);
    end(&dirty);
}

#[test]
fn a_slice_never_shows_its_last_owners_bytes_unless_asked_to() {
    let manager = manager(Options::default());
    let write = |allocation: &Allocation| {
        let (memory, start) = allocation.memory().unwrap();
        memory.mapping().fill(start..start + allocation.size, 7);
    };
    let read = |allocation: &Allocation| {
        let (memory, start) = allocation.memory().unwrap();
        let mut bytes = vec![1; allocation.size as usize];
        memory.mapping().read(start, &mut bytes);
        bytes
    };
    let allocate = |dirty| manager.allocate_npu(10_000, &NpuOptions { dirty, ..NpuOptions::default() }).unwrap();
    let first = allocate(false);
    write(&first);
    end(&first);
    let second = allocate(true);
    assert_eq!(second.address, first.address, "the slab uses the slice's place again");
    assert_eq!(read(&second), vec![7; 10_000]);
    end(&second);
    let third = allocate(false);
    assert_eq!((third.address, read(&third)), (first.address, vec![0; 10_000]));
    end(&third);
    assert_eq!(manager.npu_stats().objects, 1, "one empty slab is kept");
}

#[test]
fn a_slice_that_may_still_be_reachable_is_never_used_again() {
    let manager = manager(Options::default());
    let moved = manager.allocate_npu(4096, &NpuOptions::default()).unwrap();
    moved.finalize(Reachability::Unknown);
    let next = manager.allocate_npu(4096, &NpuOptions::default()).unwrap();
    assert_ne!(next.address, moved.address);
    end(&next);
    assert_eq!(manager.summary().npu.live, 0);
}

#[test]
fn twenty_thousand_small_buffers_are_twenty_kernel_objects() {
    let manager = manager(Options { max_objects: Some(20), ..Options::default() });
    let allocate = |_| manager.allocate_npu(16 << 10, &NpuOptions::default()).unwrap();
    let buffers: Vec<_> = (0..20_000).map(allocate).collect();
    assert_eq!(manager.npu_stats().objects, 20);
    assert_eq!(manager.npu_stats().counters.used, 20_000 * (16 << 10));
    buffers.iter().for_each(|buffer| end(buffer));
    assert_eq!((manager.npu_stats().objects, manager.npu_stats().counters.used), (1, 0));
}

#[test]
fn a_small_request_gets_a_dedicated_object_when_no_slab_fits() {
    // Room for three pages: a slab needs more.
    let options = Options { domain_bytes: Some(4 * page_size()), domains: Some(1), ..Options::default() };
    let manager = manager(options);
    let small = manager.allocate_npu(100, &NpuOptions::default()).unwrap();
    assert!(small.dedicated);
    end(&small);
}

#[test]
fn the_accounting_follows_kinds_and_tags() {
    let manager = manager(Options::default());
    let tag: Arc<str> = "kv".into();
    let npu = NpuOptions { tag: Some(Arc::clone(&tag)), ..NpuOptions::default() };
    let system = SystemOptions { tag: Some(Arc::clone(&tag)), ..SystemOptions::default() };
    let (a, b) = (manager.allocate_npu(1, &npu).unwrap(), manager.allocate_system(1, &system).unwrap());
    assert!(manager.allocate_npu(1 << 40, &npu).is_err());
    let accounts = manager.accounts();
    assert_eq!((accounts.npu.used, accounts.system.used), (page_size(), page_size()));
    assert_eq!((accounts.npu.failures, accounts.tags[&tag].counters().failures), (1, 1));
    assert_eq!((accounts.tags[&tag].counters().used, accounts.tags[&tag].counters().live), (2 * page_size(), 2));
    end(&a);
    end(&b);
    assert_eq!(
        (manager.accounts().tags[&tag].counters().used, manager.accounts().tags[&tag].counters().peak),
        (0, 2 * page_size())
    );
}

#[test]
fn a_tag_per_request_does_not_leak() {
    let manager = manager(Options::default());
    for request in 0..5000 {
        let options = SystemOptions { tag: Some(format!("request {request}").into()), ..SystemOptions::default() };
        end(&manager.allocate_system(1, &options).unwrap());
    }
    assert!(manager.accounts().tags.len() <= 1025);
}

#[test]
fn finalizers_may_run_first_twice_or_on_another_thread() {
    let manager = manager(Options::default());
    let allocate = || manager.allocate_npu(1, &NpuOptions::default()).unwrap();
    let first = allocate();
    first.finalize(Reachability::Unreachable);
    assert!(!first.release().unwrap() && first.memory().is_err());
    first.finalize(Reachability::Unreachable);
    let second = allocate();
    assert!(second.release().unwrap());
    std::thread::scope(|scope| {
        scope.spawn(|| second.finalize(Reachability::Unknown));
    });
    assert_eq!(manager.summary().npu.live, 0);
    assert_eq!(manager.summary().npu.frees, 2);
}

#[test]
fn dispose_refuses_further_allocations() {
    let manager = manager(Options::default());
    let kept = manager.allocate_npu(1, &NpuOptions::default()).unwrap();
    manager.dispose();
    assert!(!kept.is_live());
    let error = manager.allocate_system(1, &SystemOptions::default()).unwrap_err();
    assert_eq!(error.code(), ErrorCode::ManagerDisposed);
    assert_eq!((manager.summary().npu.used, manager.summary().system.used), (0, 0));
    kept.finalize(Reachability::Unreachable);
}

#[test]
fn errors_name_their_cause() {
    let cause = |call, errno| {
        let simulated: Arc<dyn Backend> = Arc::new(Simulated::new(Options::default()).unwrap());
        let faulty = FaultInjecting::new(simulated);
        faulty.fail(Fault::new(call, 1, errno));
        let manager =
            Manager::new(Device::new(Arc::new(faulty)), SlabOptions { threshold: 0, ..SlabOptions::default() });
        let error = manager.allocate_npu(1, &NpuOptions::default()).unwrap_err();
        assert_eq!(error.errno(), Some(errno));
        assert!(error.details().hint.is_some(), "{error}: no hint");
        assert_eq!(manager.summary().npu.failures, 1);
        error.code()
    };
    for (call, errno, code) in [
        (Call::Create, libc::EFAULT, ErrorCode::IovaExhausted),
        (Call::Create, libc::EINVAL, ErrorCode::DomainBusy),
        (Call::Create, libc::ENOMEM, ErrorCode::OutOfMemory),
        (Call::Create, libc::EMFILE, ErrorCode::TooManyFds),
        (Call::Create, libc::ENFILE, ErrorCode::TooManyFds),
        (Call::Create, libc::ENODEV, ErrorCode::DeviceLost),
        (Call::Create, libc::EIO, ErrorCode::DeviceIo),
        (Call::Map, libc::ENOTTY, ErrorCode::DeviceIo),
    ] {
        assert_eq!(cause(call, errno), code, "{call:?} {errno}");
    }
}
