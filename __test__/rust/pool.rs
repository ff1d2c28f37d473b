//! Pools against a naive model, and under threads.
//!
//! The tests fill each slice with its own byte and check it before the free: an overlap, a slice that outlived its
//! chunk and a foreign write show in the bytes, independently of the counters.

#![allow(clippy::unwrap_used)]

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;
use std::time::Duration;

use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Backend, Request};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::pool::{Layout, Pool, Slice};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{KIB, MIB};

use random::Random;

fn npu(device: &Arc<Device>) -> Source {
    Source::Npu { device: Arc::clone(device), request: Request::plain(1), dirty: false }
}

fn simulated() -> (Arc<Simulated>, Arc<Device>) {
    let backend = Arc::new(Simulated::new(Options::default()).unwrap());
    let device = Device::new(Arc::clone(&backend) as Arc<dyn Backend>);
    (backend, device)
}

/// Waits for the reaper.
fn settle(device: &Device) {
    assert!(device.wait_for_frees(Duration::from_secs(60)));
}

fn pages() -> Source {
    Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() })
}

fn layout(initial: u64, max: u64, chunk: u64) -> Layout {
    Layout { initial, max, chunk, block: None, alignment: 64, delay: 0 }
}

fn pool(source: Source, layout: Layout) -> Pool {
    Pool::new(Some("test".into()), source, layout, None).unwrap()
}

fn fill(pool: &Pool, slice: &Slice, size: u64, byte: u8) {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    memory.mapping().fill(slice.offset..slice.offset + size, byte);
}

fn holds(pool: &Pool, slice: &Slice, size: u64, byte: u8) -> bool {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    let mut bytes = vec![!byte; size as usize];
    memory.mapping().read(slice.offset, &mut bytes);
    bytes.iter().all(|found| *found == byte)
}

#[test]
fn random_programs_keep_every_byte_and_every_figure() {
    let (_, device) = simulated();
    for (seed, source, block) in
        [(1, npu(&device), None), (2, pages(), None), (3, pages(), Some(3000)), (4, npu(&device), Some(4096))]
    {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let pool = pool(source, Layout { block, ..layout(256 * KIB, 4 * MIB, 512 * KIB) });
        let mut live: Vec<(Slice, u64, u8)> = Vec::new();
        for step in 0..20_000_u64 {
            match random.below(100) {
                0..=54 => {
                    let most = block.map_or(1 << random.below(17), |_| 3000);
                    let size = 1 + random.below(most);
                    let align = 1 << random.below(if block.is_some() { 4 } else { 13 });
                    match pool.allocate(size, align) {
                        Ok(slice) => {
                            let aligned = block.is_some() || (slice.address as u64).is_multiple_of(align);
                            assert!(aligned, "{slice:?} for {align}");
                            assert!(slice.padded >= size && slice.address.is_multiple_of(64));
                            fill(&pool, &slice, size, step as u8);
                            live.push((slice, size, step as u8));
                        }
                        Err(error) => assert_eq!(error.code(), ErrorCode::PoolExhausted, "{error}"),
                    }
                }
                55..=97 if !live.is_empty() => {
                    let (slice, size, byte) = live.swap_remove(random.below(live.len() as u64) as usize);
                    assert!(holds(&pool, &slice, size, byte), "step {step}: {slice:?} lost its bytes");
                    pool.free(slice.chunk, slice.region).unwrap();
                    let again = pool.free(slice.chunk, slice.region).unwrap_err();
                    assert_eq!(again.code(), ErrorCode::BufferFreed);
                }
                98 => drop(pool.trim()),
                _ if random.below(40) == 0 => {
                    pool.reset(|_| true).unwrap();
                    for (slice, ..) in live.drain(..) {
                        assert!(pool.free(slice.chunk, slice.region).is_err(), "freed by the reset");
                    }
                }
                _ => {}
            }
            if step % 64 == 0 {
                pool.validate().unwrap();
                let stats = pool.stats();
                assert_eq!(stats.live, live.len() as u64);
                assert_eq!(stats.requested, live.iter().map(|(_, size, _)| size).sum::<u64>());
                assert_eq!(stats.allocated, live.iter().map(|(slice, ..)| slice.padded).sum::<u64>());
                assert!(stats.reserved <= 4 * MIB && stats.largest_free <= stats.free);
            }
        }
        assert!(pool.stats().allocations > 5_000);
        pool.destroy(true).unwrap();
        assert_eq!(pool.destroy(true).unwrap_err().code(), ErrorCode::PoolDestroyed);
    }
    settle(&device);
    assert_eq!(device.backend().live(), 0);
    assert_eq!(device.domains()[0].used(), 0);
}

#[test]
fn an_allocation_of_the_largest_free_figure_succeeds() {
    let pool = pool(pages(), layout(MIB, MIB, MIB));
    let whole = pool.allocate(MIB, 64).unwrap();
    pool.free(whole.chunk, whole.region).unwrap();
    let slices: Vec<_> = (0..128).map(|_| pool.allocate(8 * KIB, 64).unwrap()).collect();
    for slice in slices.iter().step_by(3) {
        pool.free(slice.chunk, slice.region).unwrap();
    }
    let stats = pool.stats();
    assert_eq!(pool.allocate(stats.largest_free + 1, 64).unwrap_err().code(), ErrorCode::PoolExhausted);
    assert!(pool.allocate(stats.largest_free, 64).is_ok());
    assert!(stats.fragmentation() > 0.9);
}

#[test]
fn a_smaller_chunk_serves_when_the_device_has_no_whole_one_left() {
    for (block, alignment) in [(None, 64), (Some(96 * KIB), 64)] {
        let options = Options { domain_bytes: Some(8 * MIB), ..Options::default() };
        let backend = Arc::new(Simulated::new(options).unwrap());
        let device = Device::new(Arc::clone(&backend) as Arc<dyn Backend>);
        // Other objects take most of the domain's addresses.
        let (object, charges) = device.create(&Request::plain(3 * MIB)).unwrap();
        let pool = pool(npu(&device), Layout { block, alignment, ..layout(0, 64 * MIB, 4 * MIB) });
        let size = 90 * KIB;
        let slices: Vec<_> = std::iter::from_fn(|| pool.allocate(size, 64).ok()).collect();
        for (at, slice) in slices.iter().enumerate() {
            fill(&pool, slice, size, at as u8);
        }
        let stats = pool.stats();
        assert!(stats.reserved > 9 * MIB / 2 && stats.chunks > 1, "{stats:?} of 5 MiB");
        assert_eq!(pool.allocate(size, 64).unwrap_err().code(), ErrorCode::IovaExhausted);
        assert!(slices.iter().enumerate().all(|(at, slice)| holds(&pool, slice, size, at as u8)));
        pool.validate().unwrap();
        pool.destroy(true).unwrap();
        device.free_later(object, charges);
        settle(&device);
        assert_eq!(backend.live(), 0);
    }
}

#[test]
fn a_pool_grows_to_its_maximum_and_shrinks_to_its_initial_size() {
    let (backend, device) = simulated();
    let pool = pool(npu(&device), layout(MIB, 4 * MIB + 512 * KIB, MIB));
    let slices: Vec<_> = std::iter::from_fn(|| pool.allocate(512 * KIB, 64).ok()).collect();
    assert_eq!((slices.len(), pool.stats().chunks, pool.stats().reserved), (9, 5, 4 * MIB + 512 * KIB));
    let error = pool.allocate(1, 64).unwrap_err();
    assert_eq!((error.code(), error.details().limit), (ErrorCode::PoolExhausted, Some(4 * MIB + 512 * KIB)));
    for slice in &slices {
        pool.free(slice.chunk, slice.region).unwrap();
    }
    // The pool keeps one empty chunk beside the initial size.
    settle(&device);
    assert!(backend.live() <= 2, "{} chunks are left", backend.live());
    pool.trim();
    settle(&device);
    assert_eq!((backend.live(), pool.stats().reserved >= MIB), (1, true));
    let error = pool.allocate(5 * MIB, 64).unwrap_err();
    assert_eq!(error.code(), ErrorCode::OutOfRange, "never");
    let large = pool.allocate(3 * MIB, 64).unwrap();
    assert!(pool.stats().chunks == 2, "a chunk of its own size");
    assert_eq!(pool.destroy(false).unwrap_err().code(), ErrorCode::PoolBusy);
    pool.free(large.chunk, large.region).unwrap();
    pool.destroy(false).unwrap();
    settle(&device);
    assert_eq!(backend.live(), 0);
}

#[test]
fn a_reset_frees_a_chunk_with_reachable_slices() {
    let pool = pool(pages(), layout(MIB, 4 * MIB, MIB));
    let (kept, held) = (pool.allocate(MIB, 64).unwrap(), pool.allocate(MIB, 64).unwrap());
    let chunk_memory = pool.chunk_memory(held.chunk).unwrap();
    fill(&pool, &held, MIB, 9);
    pool.reset(|other| !Arc::ptr_eq(other, &chunk_memory)).unwrap();
    assert!(chunk_memory.memory().is_none(), "its memory is gone, its addresses hold zeros");
    assert!(pool.chunk_memory(held.chunk).is_err() && pool.chunk_memory(kept.chunk).is_ok());
    assert_eq!((pool.stats().chunks, pool.stats().live), (1, 0));
    pool.validate().unwrap();
}

#[test]
fn threads_hammer_one_pool() {
    let (backend, device) = simulated();
    let pool = pool(npu(&device), layout(MIB, 32 * MIB, MIB));
    std::thread::scope(|scope| {
        for thread in 0..4_u64 {
            let pool = &pool;
            scope.spawn(move || {
                let mut random = Random(thread + 77);
                let mut live: Vec<(Slice, u64)> = Vec::new();
                for _ in 0..10_000 {
                    if random.below(2) == 0 && live.len() < 40 {
                        let size = 1 + random.below(100 * KIB);
                        let slice = pool.allocate(size, 64).unwrap();
                        fill(pool, &slice, size, thread as u8 + 1);
                        live.push((slice, size));
                    } else if let Some((slice, size)) = live.pop() {
                        assert!(holds(pool, &slice, size, thread as u8 + 1), "another thread's bytes");
                        pool.free(slice.chunk, slice.region).unwrap();
                    }
                }
                for (slice, _) in live {
                    pool.free(slice.chunk, slice.region).unwrap();
                }
            });
        }
    });
    pool.validate().unwrap();
    assert_eq!((pool.stats().live, pool.stats().allocated, pool.stats().requested), (0, 0, 0));
    pool.destroy(false).unwrap();
    settle(&device);
    assert_eq!((backend.live(), device.domains()[0].used()), (0, 0));
}

#[test]
fn invalid_layouts_are_refused() {
    let good = layout(MIB, MIB, MIB);
    for bad in [
        layout(0, 0, 0),
        layout(2 * MIB, MIB, MIB),
        layout(u64::MAX, u64::MAX, 1),
        Layout { alignment: 48, ..good },
        Layout { block: Some(0), ..good },
        Layout { block: Some(u64::MAX), ..good },
    ] {
        let error = Pool::new(None, pages(), bad, None).unwrap_err();
        assert_eq!(error.code(), ErrorCode::OutOfRange, "{bad:?}");
    }
}

#[test]
fn delayed_frees_wait_and_late_writes_are_found() {
    let pool = pool(pages(), Layout { delay: 2, ..layout(MIB, MIB, MIB) });
    let first = pool.allocate(10_000, 64).unwrap();
    let chunk_memory = pool.chunk_memory(first.chunk).unwrap();
    pool.free(first.chunk, first.region).unwrap();
    assert_eq!(pool.free(first.chunk, first.region).unwrap_err().code(), ErrorCode::BufferFreed);
    assert_eq!((pool.stats().live, pool.stats().requested), (0, 0));
    let second = pool.allocate(10_000, 64).unwrap();
    assert_ne!(second.address, first.address, "the first one waits");
    // A late write through a stale pointer.
    chunk_memory.memory().unwrap().mapping().write(first.offset + 9_999, b"!");
    for _ in 0..3 {
        let next = pool.allocate(64, 64).unwrap();
        pool.free(next.chunk, next.region).unwrap();
    }
    assert_eq!(pool.stats().late_writes, 1);
    pool.validate().unwrap();
    // Delayed frees do not cause a refusal.
    pool.free(second.chunk, second.region).unwrap();
    assert!(pool.allocate(MIB, 64).is_ok());
    pool.validate().unwrap();
}
