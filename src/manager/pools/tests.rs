//! Tests of pools: their ends, the finalizers of their slices, and addresses that are used again.
#![allow(clippy::unwrap_used)]

use std::sync::Weak;

use super::*;
use crate::accounting::{Limit, Limits};
use crate::allocation::{visits, Reachability};
use crate::backend::simulated::{Options, Simulated};
use crate::device::Device;
use crate::manager::SliceOptions;
use crate::pool::ChunkMemory;
use crate::sys::address_space::{fate, Fate};

/// Options of a pool of 64 KiB.
fn options(name: &str) -> PoolOptions {
    PoolOptions {
        name: name.into(),
        initial: 1 << 16,
        max: None,
        chunk: None,
        block: None,
        alignment: None,
        reuse_after: None,
        grow_ahead: 0.0,
        memory: PoolMemory::System(SystemOptions::default()),
    }
}

fn slice(size: u64) -> SliceOptions {
    SliceOptions { size, ..SliceOptions::default() }
}

/// A pool of 64 KiB with its manager.
pub(in crate::manager) fn pool() -> (Manager, Arc<Pool>) {
    let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
    let manager = Manager::new(device, SlabOptions::default());
    let pool = manager.create_pool(&options("p")).unwrap();
    (manager, pool)
}

/// On Deno a finalizer runs on another thread, at any time within a compaction.
#[test]
fn a_slice_goes_whose_finalizer_came_while_a_compaction_had_it() {
    let (manager, pool) = pool();
    let (id, _) = manager.allocate_movable(&pool, SliceOptions { tag: Some("kv".into()), ..slice(4096) }).unwrap();
    let view = manager.adopt_movable(&pool, id).unwrap();
    let detached = view.detach_from_slice().unwrap();
    Allocation::by_handle(view.handle).unwrap().finalize(Reachability::Unreachable);
    // The runtime has no ArrayBuffer to detach: the slice stays where it is.
    drop(detached);
    assert!(Allocation::by_handle(view.handle).is_none() && !view.is_live());
    assert!(pool.free_dropped(id).is_err(), "it was freed");
    let accounts = manager.accounts();
    assert_eq!((pool.stats().live, accounts.live.len(), accounts.tags["kv"].counters().used), (0, 0, 0));
    assert_eq!(pool.validate(), Ok(()));
}

/// Counts look-ups, not time.
#[test]
fn the_statistics_visit_no_buffer() {
    let (manager, pool) = pool();
    let live = || {
        let npu = manager.allocate_npu(4096, &NpuOptions::default()).unwrap();
        (npu, manager.allocate_from(&pool, slice(8)).unwrap())
    };
    let live: Vec<_> = (0..500).map(|_| live()).collect();
    let visits = visits::of(|| {
        let summary = manager.summary();
        assert_eq!((summary.npu.live, summary.system.live), (500, 500));
        assert_eq!(manager.npu_stats().counters.live, 500);
        assert!(manager.system_stats().memory.total > 0);
    });
    assert_eq!(visits, 0);
    for (npu, system) in &live {
        npu.finalize(Reachability::Unreachable);
        system.finalize(Reachability::Unreachable);
    }
}

/// Counts look-ups, not time.
#[test]
fn ending_a_pool_visits_its_own_buffers_alone() {
    let (manager, pool) = pool();
    let others: Vec<_> = (0..2_000).map(|_| manager.allocate_npu(4096, &NpuOptions::default()).unwrap()).collect();
    let expose = || [(); 3].map(|()| manager.allocate_from(&pool, slice(100)).unwrap());
    let ended = expose();
    ended[0].release().unwrap();
    assert_eq!(visits::of(|| manager.reset_pool(&pool).unwrap()), 2);
    let left = expose();
    assert_eq!(visits::of(|| manager.destroy_pool(&pool, true).unwrap()), 3);
    assert!(ended.iter().chain(&left).all(|slice| !slice.is_live()) && others.iter().all(|other| other.is_live()));
    for allocation in ended.iter().chain(&left).chain(&others) {
        allocation.finalize(Reachability::Unreachable);
    }
}

/// Each way frees a pool's memory while an ArrayBuffer that was moved, or marked, still reaches a slice.
#[test]
fn addresses_of_a_slice_outlive_its_pool_until_the_finalizer_has_run() {
    let ways: [fn(&Manager, &Arc<Pool>); 3] = [
        |manager, pool| manager.reset_pool(pool).unwrap(),
        |manager, pool| manager.destroy_pool(pool, true).unwrap(),
        |manager, _| manager.dispose(),
    ];
    for end in ways {
        let (manager, pool) = pool();
        let slice = manager.allocate_from(&pool, slice(100)).unwrap();
        let chunk_memory: Weak<ChunkMemory> = Arc::downgrade(&slice.chunk_memory().unwrap());
        end(&manager, &pool);
        drop((pool, manager));
        assert!(!slice.is_live());
        assert!(
            chunk_memory.upgrade().is_some_and(|chunk_memory| chunk_memory.memory().is_none()),
            "the memory is freed and its addresses are kept"
        );
        slice.finalize(Reachability::Unreachable);
        assert!(chunk_memory.upgrade().is_none());
    }
}

/// The ways to end, and the fate of the addresses: of memory of its own, and of a chunk whose slice it was.
#[test]
fn a_detach_that_was_verified_needs_no_finalizer_to_prove_it() {
    type End = fn(&Allocation);
    let ends: [(End, Fate); 3] = [
        (
            |allocation| {
                allocation.set_unreachable();
                assert!(allocation.release().unwrap());
            },
            Fate::Free,
        ),
        (|allocation| assert!(allocation.release().unwrap()), Fate::Withheld),
        (|_| {}, Fate::Withheld),
    ];
    for ((end, fate_after), dedicated) in ends.into_iter().flat_map(|end| [(end, false), (end, true)]) {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        let manager = Manager::new(device, SlabOptions::default());
        let options = NpuOptions { dedicated, ..NpuOptions::default() };
        let allocation = manager.allocate_npu(1 << 16, &options).unwrap();
        let address = allocation.address;
        end(&allocation);
        allocation.finalize(Reachability::Unknown); // the environment ends
        manager.dispose();
        drop((allocation, manager));
        assert_eq!(fate(address), fate_after, "dedicated: {dedicated}");
    }
}

#[test]
fn an_array_buffer_that_could_not_be_made_leaves_the_place_as_it_was() {
    let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
    let manager = Manager::new(device, SlabOptions::default());
    let pool = manager.create_pool(&options("p")).unwrap();
    // A slice that was allocated for its ArrayBuffer is free again.
    manager.allocate_from(&pool, slice(100)).unwrap().abandon();
    assert_eq!(pool.stats().live, 0);
    // A block keeps its slice.
    let block = pool.allocate(100, 64).unwrap();
    manager.adopt_slice(&pool, block.chunk, block.region).unwrap().abandon();
    assert_eq!(pool.stats().live, 1);
    pool.free(block.chunk, block.region).unwrap();
    let own = manager.allocate_system(1 << 16, &SystemOptions::default()).unwrap();
    own.abandon();
    assert_eq!((own.is_live(), fate(own.address)), (false, Fate::Free));
    let base = pool.allocate(100, 64).unwrap().address;
    manager.destroy_pool(&pool, true).unwrap();
    drop(pool);
    assert_eq!(fate(base), Fate::Free);
    assert_eq!(manager.summary().npu.live, 0);
}

/// A tag's limit may have room for the requested bytes and not for the padded ones.
#[test]
fn a_refusal_of_padding_is_counted_however_the_slice_was_requested() {
    type Request = fn(&Manager, &Arc<Pool>, SliceOptions) -> Error;
    let ways: [Request; 3] = [
        |manager, pool, options| manager.allocate_from(pool, options).unwrap_err(),
        |manager, pool, options| manager.allocate_resident(pool, options).unwrap_err(),
        |manager, pool, options| manager.prepare_from(pool, options).unwrap().enter().unwrap_err(),
    ];
    for request in ways {
        let (manager, pool) = pool();
        let limit = Limit::new(Some(100), &[]);
        manager.set_limits(Limits { tags: vec![("kv".into(), limit)], ..Limits::default() });
        let error = request(&manager, &pool, SliceOptions { tag: Some("kv".into()), ..slice(100) });
        assert_eq!((error.code(), error.details().requested), (ErrorCode::MemoryLimit, Some(100)));
        assert_eq!((pool.stats().failures, pool.stats().live), (1, 0));
        assert_eq!(manager.accounts().tags["kv"].counters().failures, 1);
    }
}
