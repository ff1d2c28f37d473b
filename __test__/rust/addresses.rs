//! Addresses under RLIMIT_AS: the budget respects it, and memory that the kernel refuses to retire is tried again.
//!
//! A process of its own without the test harness: the limit holds for all threads, also for those of a harness, and the
//! budget is chosen once.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{getrlimit, setrlimit, Resource};
use rkllmjs_memory::allocation::Reachability;
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::manager::{Manager, NpuOptions, PoolMemory, PoolOptions, SystemOptions};
use rkllmjs_memory::pool::SlabOptions;
use rkllmjs_memory::sys::address_space::figures;
use rkllmjs_memory::sys::mapping::Mapping;

const MIB: u64 = 1 << 20;

/// Bytes of addresses that this process has mapped.
fn mapped() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').next().unwrap().parse::<u64>().unwrap() * 4096
}

fn main() {
    // The heap gets room for the small allocations that are made while the kernel accepts no mapping.
    drop((0..64).map(|_| vec![0_u8; 1024]).collect::<Vec<_>>());
    let limit = mapped() + 2048 * MIB;
    set_limit(limit);
    the_budget_respects_a_limit_on_addresses_and_churn_never_meets_it();
    a_chunk_that_cannot_be_retired_is_lost_until_it_can(limit);
    a_finalizer_that_cannot_retire_is_not_the_last_try(limit);
    println!("3 passed, 0 failed");
}

fn set_limit(bytes: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_AS).unwrap();
    setrlimit(Resource::RLIMIT_AS, bytes, hard).unwrap();
}

/// Runs `refused` while the kernel accepts no mapping.
fn without_mappings<T>(limit: u64, refused: impl FnOnce() -> T) -> T {
    set_limit(MIB);
    let result = refused();
    set_limit(limit);
    result
}

fn manager() -> (Arc<Device>, Manager) {
    let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
    (Arc::clone(&device), Manager::new(device, SlabOptions::default()))
}

fn the_budget_respects_a_limit_on_addresses_and_churn_never_meets_it() {
    let (_device, _manager) = manager();
    assert!(figures().budget <= 256 * MIB, "{}", figures().budget);
    for size in [MIB / 16, 16 * MIB, 512 * MIB] {
        for _ in 0..100 {
            let mapping = Mapping::anonymous(size, 64).unwrap();
            mapping.retire().unwrap().unwrap().give_back();
        }
    }
}

fn a_chunk_that_cannot_be_retired_is_lost_until_it_can(limit: u64) {
    for npu in [true, false] {
        let (device, manager) = manager();
        let memory = match npu {
            true => PoolMemory::Npu(NpuOptions::default()),
            false => PoolMemory::System(SystemOptions::default()),
        };
        let lost = || if npu { manager.npu_stats().lost } else { manager.system_stats().lost };
        let options = PoolOptions {
            name: "p".into(),
            initial: MIB,
            max: None,
            chunk: None,
            block: None,
            alignment: None,
            reuse_after: None,
            grow_ahead: 0.0,
            memory,
        };
        let pool = manager.create_pool(&options).unwrap();
        without_mappings(limit, || manager.destroy_pool(&pool, true).unwrap());
        drop(pool);
        assert_eq!(lost(), (1, MIB));
        assert_eq!(manager.npu_stats().lost_for_good, 0, "it is tried again");
        assert_eq!(device.backend().live(), usize::from(npu), "the object is not destroyed under its mapping");
        // A later free tries again.
        let other = manager.allocate_system(MIB, &SystemOptions::default()).unwrap();
        other.release().unwrap();
        other.finalize(Reachability::Unreachable);
        assert_eq!(lost(), (0, 0));
        assert!(manager.wait_for_frees(Duration::from_secs(60)));
        assert_eq!(device.backend().live(), 0);
    }
}

fn a_finalizer_that_cannot_retire_is_not_the_last_try(limit: u64) {
    let (device, manager) = manager();
    let buffer = manager.allocate_npu(4 * MIB, &NpuOptions::default()).unwrap();
    without_mappings(limit, || buffer.finalize(Reachability::Unreachable));
    assert!(!buffer.is_live());
    assert_eq!((manager.npu_stats().counters.used, manager.npu_stats().lost), (0, (1, 4 * MIB)));
    manager.trim_slabs();
    assert_eq!(manager.npu_stats().lost, (0, 0));
    assert!(manager.wait_for_frees(Duration::from_secs(60)));
    assert_eq!(device.backend().live(), 0);
    // An explicit free reports the failure, and the caller tries again.
    let buffer = manager.allocate_npu(4 * MIB, &NpuOptions::default()).unwrap();
    without_mappings(limit, || buffer.release().unwrap_err());
    assert!(buffer.is_live() && manager.npu_stats().lost == (0, 0));
    assert!(buffer.release().unwrap());
}
