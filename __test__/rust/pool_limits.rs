//! Limits and accounting of a pool, its layout, and the holders of its memory.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::time::Duration;

use rkllmjs_memory::accounting::{Account, Accounting, Limit, Limits};
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Backend, Placement, Request};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::{Error, ErrorCode};
use rkllmjs_memory::pool::{Layout, Pool, PoolStats, SlabOptions, Slabs, Slice};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{MemoryKind, GIB, KIB, MAX_SAFE_INTEGER, MIB};

fn pages() -> Source {
    Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() })
}

fn layout(initial: u64, max: u64, chunk: u64) -> Layout {
    Layout { initial, max, chunk, block: None, alignment: 64, delay: 0 }
}

fn simulated(options: Options) -> (Arc<Simulated>, Arc<Device>) {
    let backend = Arc::new(Simulated::new(options).unwrap());
    let device = Device::new(Arc::clone(&backend) as Arc<dyn Backend>);
    (backend, device)
}

fn pool(layout: Layout) -> Pool {
    Pool::new(Some("p".into()), pages(), layout, None).unwrap()
}

/// A pool that charges its chunks as system memory with the tag "kv".
fn counted(layout: Layout) -> (Arc<Accounting>, Pool) {
    let accounting = Accounting::new(&[]);
    let account =
        Account { accounting: Arc::clone(&accounting), kind: Some(MemoryKind::System), tag: Some("kv".into()) };
    (accounting, Pool::new(Some("p".into()), pages(), layout, Some(account)).unwrap())
}

fn used(accounting: &Accounting) -> (u64, u64) {
    accounting
        .read(|accounts| (accounts.system.committed(), accounts.tags.get("kv").map_or(0, |tag| tag.counters().used)))
}

fn read(pool: &Pool, slice: &Slice, size: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; size as usize];
    pool.chunk_memory(slice.chunk).unwrap().memory().unwrap().mapping().read(slice.offset, &mut bytes);
    bytes
}

fn fill(pool: &Pool, slice: &Slice, byte: u8) {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    memory.mapping().fill(slice.offset..slice.offset + slice.padded, byte);
}

fn limit(error: &Error) -> (ErrorCode, Option<&str>, Option<u64>) {
    (error.code(), error.details().scope.as_deref(), error.details().limit)
}

#[test]
fn sizes_of_a_layout_are_whole_granules() {
    let rounded = layout(100, 1000, 1).checked().unwrap();
    assert_eq!(rounded, layout(128, 1024, 64));
    assert_eq!((rounded.granule(), layout(0, 64, 0).checked().unwrap().chunk), (64, 64));
    let blocks = Layout { block: Some(100), ..layout(129, 1000, 300) }.checked().unwrap();
    assert_eq!(blocks, Layout { block: Some(128), ..layout(256, 1024, 384) });
    assert_eq!(blocks.granule(), 128);
    assert_eq!(layout(64, 64, MIB).checked().unwrap().chunk, 64, "no chunk is larger than the pool");
    assert!(layout(64, 64, 64).checked().is_ok(), "a pool may have all of it at once");
}

#[test]
fn the_largest_layout_ends_at_the_largest_safe_integer() {
    let largest = MAX_SAFE_INTEGER / 64 * 64;
    assert_eq!(layout(0, largest, MIB).checked().unwrap().max, largest);
    let error = layout(0, largest + 1, MIB).checked().unwrap_err();
    assert_eq!((error.code(), error.to_string().contains("maxSize")), (ErrorCode::OutOfRange, true));
    let exactly = Layout { alignment: 1, ..layout(0, MAX_SAFE_INTEGER, MIB) };
    assert_eq!(exactly.checked().unwrap().max, MAX_SAFE_INTEGER);
}

#[test]
fn a_pool_grows_by_a_chunk_or_by_what_is_left_but_by_no_less_than_it_needs() {
    let layout = layout(0, 1000, 400);
    assert_eq!(layout.growth(0, 100, 400), Some(400));
    assert_eq!(layout.growth(0, 500, 400), Some(500), "a request beyond a chunk");
    assert_eq!(layout.growth(700, 100, 400), Some(300));
    assert_eq!(layout.growth(700, 300, 400), Some(300));
    assert_eq!(layout.growth(700, 301, 400), None);
    assert_eq!(layout.growth(2000, 1, 400), None);
}

#[test]
fn a_chunk_is_large_enough_for_the_request_that_needs_it() {
    let variable = layout(0, 1024, 256);
    assert_eq!(
        [1, 64, 65, 1024, 1025, u64::MAX].map(|size| variable.least_chunk(size)),
        [Some(64), Some(64), Some(128), Some(1024), None, None]
    );
    let blocks = Layout { block: Some(192), ..variable };
    assert_eq!([1, 192, 193].map(|size| blocks.least_chunk(size)), [Some(192), Some(192), None]);
}

#[test]
fn a_request_that_no_pool_can_serve_is_told_from_an_exhausted_pool() {
    let pool = pool(layout(64 * KIB, 128 * KIB, 64 * KIB));
    let error = pool.allocate(128 * KIB + 1, 64).unwrap_err();
    assert_eq!(limit(&error), (ErrorCode::OutOfRange, Some("pool:p"), Some(128 * KIB)));
    assert_eq!(error.details().requested, Some(128 * KIB + 1));
    let held = pool.allocate(40 * KIB, 64).unwrap();
    pool.allocate(50 * KIB, 64).unwrap();
    let error = pool.allocate(30 * KIB, 64).unwrap_err();
    assert_eq!(limit(&error), (ErrorCode::PoolExhausted, Some("pool:p"), Some(128 * KIB)));
    let details = error.details();
    assert_eq!(
        (details.requested, details.available, details.largest_free),
        (Some(30 * KIB), Some(38 * KIB), Some(24 * KIB))
    );
    assert_eq!(pool.stats().failures, 2);
    let stats = pool.stats();
    assert_eq!((stats.chunks, stats.reserved, stats.free, stats.largest_free), (2, 128 * KIB, 38 * KIB, 24 * KIB));
    assert_eq!((stats.allocated, stats.requested, stats.live, stats.allocations), (90 * KIB, 90 * KIB, 2, 2));
    pool.free(held.chunk, held.region).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.allocated, stats.peak_allocated, stats.live, stats.allocations), (50 * KIB, 90 * KIB, 1, 2));
}

#[test]
fn fragmentation_is_the_share_of_free_bytes_outside_the_largest_piece() {
    let stats = |free, largest_free| PoolStats { free, largest_free, ..PoolStats::default() };
    let of = [stats(0, 0), stats(80, 80), stats(80, 60)].map(|stats| stats.fragmentation());
    assert_eq!(of, [0.0, 0.0, 0.25]);
}

#[test]
fn alignment_goes_from_that_of_the_pool_to_a_page() {
    let pool = pool(layout(MIB, MIB, MIB));
    let page = page_size();
    pool.allocate(1, 1).unwrap();
    let fine = pool.allocate(1, 1).unwrap();
    assert_eq!((fine.offset, fine.padded), (64, 64), "no finer than the pool's");
    assert_eq!(pool.allocate(1, page).unwrap().offset, page);
    for alignment in [2 * page, 3, 0] {
        let error = pool.allocate(1, alignment).unwrap_err();
        assert_eq!((error.code(), error.details().requested), (ErrorCode::OutOfRange, Some(1)), "{alignment}");
    }
    let coarse = Layout { alignment: 4 * page, ..layout(MIB, MIB, MIB) };
    let source = Source::System(PageOptions { alignment: 4 * page, ..PageOptions::default() });
    let coarse = Pool::new(None, source, coarse, None).unwrap();
    assert_eq!(coarse.allocate(1, 4 * page).unwrap().padded, 4 * page);
    assert_eq!(coarse.allocate(1, 8 * page).unwrap_err().code(), ErrorCode::OutOfRange);
}

#[test]
fn chunks_are_counted_for_as_long_as_the_pool_has_them() {
    let (accounting, pool) = counted(layout(MIB, 3 * MIB, MIB));
    assert_eq!(used(&accounting), (MIB, MIB));
    let slices = [(); 3].map(|()| pool.allocate(MIB, 64).unwrap());
    assert_eq!(used(&accounting), (3 * MIB, 3 * MIB));
    for slice in &slices[1..] {
        pool.free(slice.chunk, slice.region).unwrap();
    }
    // The pool keeps one empty chunk.
    assert_eq!((used(&accounting), pool.stats().reserved), ((2 * MIB, 2 * MIB), 2 * MIB));
    assert_eq!((pool.trim(), pool.trim()), (MIB, 0));
    assert_eq!(used(&accounting), (MIB, MIB));
    pool.allocate(MIB, 64).unwrap();
    pool.reset(|_| false).unwrap();
    assert_eq!((used(&accounting), pool.stats().reserved), ((0, 0), 0));
    pool.allocate(1, 64).unwrap();
    pool.destroy(true).unwrap();
    assert_eq!(used(&accounting), (0, 0));
    assert_eq!(
        pool.stats(),
        PoolStats { max: 3 * MIB, peak_allocated: 3 * MIB, allocations: 5, ..PoolStats::default() }
    );
}

#[test]
fn under_a_limit_a_pool_grows_by_less_than_a_chunk() {
    let (accounting, pool) = counted(layout(0, 64 * MIB, 8 * MIB));
    let limit = Limits { system: Some(Limit::new(Some(3 * MIB), &[])), ..Limits::default() };
    accounting.set_limits(limit);
    pool.allocate(MIB, 64).unwrap();
    assert_eq!(used(&accounting), (2 * MIB, 2 * MIB), "a quarter of a chunk fits under the limit");
    pool.allocate(MIB, 64).unwrap();
    pool.allocate(MIB, 64).unwrap();
    assert_eq!(used(&accounting).0, 3 * MIB, "as little as it needs");
    let error = pool.allocate(1, 64).unwrap_err();
    assert_eq!((error.code(), error.details().requested), (ErrorCode::MemoryLimit, Some(1)));
    assert_eq!((used(&accounting).0, pool.stats().reserved), (3 * MIB, 3 * MIB), "a refusal takes nothing");
}

#[test]
fn a_growth_that_is_refused_takes_nothing_of_the_maximum() {
    let (accounting, pool) = counted(layout(0, 2 * MIB, MIB));
    let set = |limit| accounting.set_limits(Limits { system: Some(limit), ..Limits::default() });
    set(Limit::new(Some(1), &[]));
    for _ in 0..3 {
        assert_eq!(pool.allocate(MIB, 64).unwrap_err().code(), ErrorCode::MemoryLimit);
    }
    set(Limit::default());
    pool.allocate(MIB, 64).unwrap();
    pool.allocate(MIB, 64).unwrap();
    assert_eq!(pool.allocate(1, 64).unwrap_err().code(), ErrorCode::PoolExhausted);
}

#[test]
fn a_slab_and_a_chunk_are_halved_until_the_device_has_room() {
    for name in [None, Some("p".into())] {
        let (_backend, device) = simulated(Options { domain_bytes: Some(8 * MIB), ..Options::default() });
        let source = Source::Npu { device: Arc::clone(&device), request: Request::plain(1), dirty: false };
        let _others = source.allocate(5 * MIB).unwrap();
        let pool = Pool::new(name, source, layout(0, 64 * MIB, 4 * MIB), None).unwrap();
        pool.allocate(1, 64).unwrap();
        assert_eq!(pool.stats().reserved, 2 * MIB);
    }
}

#[test]
fn a_pool_warns_once_when_it_comes_near_its_maximum() {
    let (accounting, pool) = counted(layout(100 * KIB, 100 * KIB, 100 * KIB));
    let warnings =
        || accounting.take_warnings().iter().map(|w| (w.scope.to_string(), w.used, w.max)).collect::<Vec<_>>();
    pool.allocate(79 * KIB, 64).unwrap();
    assert_eq!(warnings(), []);
    pool.allocate(KIB, 64).unwrap();
    pool.allocate(KIB, 64).unwrap();
    assert_eq!(warnings(), [("pool:p".to_owned(), 80 * KIB, 100 * KIB)]);
}

#[test]
fn a_movable_block_is_counted_under_its_own_tag_until_it_is_freed() {
    let (accounting, pool) = counted(layout(MIB, MIB, MIB));
    let own = Account { accounting: Arc::clone(&accounting), kind: None, tag: Some("own".into()) };
    let counters = || accounting.read(|accounts| accounts.tags["own"].counters());
    let (id, slice) = pool.allocate_movable(100, 64, Some(&own)).unwrap();
    assert_eq!((slice.padded, counters().used, counters().live), (128, 128, 1));
    let (_, size, tag) = pool.movable(id).unwrap();
    assert_eq!((size, tag.as_deref()), (100, Some("own")));
    pool.free_movable(id).unwrap();
    assert_eq!((counters().used, counters().live), (0, 0));
    assert_eq!(pool.movable(id).unwrap_err().code(), ErrorCode::BufferFreed);
    // The request fits, but not with its padding: the pool keeps no charge.
    accounting.set_limits(Limits { tags: vec![("own".into(), Limit::new(Some(100), &[]))], ..Limits::default() });
    let error = pool.allocate_movable(100, 64, Some(&own)).unwrap_err();
    assert_eq!(limit(&error), (ErrorCode::MemoryLimit, Some("tag:own"), Some(100)));
    assert_eq!((counters().committed(), pool.stats().live, pool.movables()), (0, 0, 0));
}

#[test]
fn a_pinned_block_stays_until_it_is_unpinned_as_often() {
    let pool = pool(layout(MIB, MIB, MIB));
    let (id, slice) = pool.allocate_movable(64, 64, None).unwrap();
    let code = |result: rkllmjs_memory::error::Result<()>| result.err().map(|error| error.code());
    assert_eq!(code(pool.unpin(id).map(drop)), Some(ErrorCode::OutOfRange));
    pool.pin(id).unwrap();
    pool.pin(id).unwrap();
    pool.unpin(id).unwrap();
    for refused in [pool.free_movable(id), pool.check_freeable(id), pool.check_unpinned(&slice)] {
        assert_eq!(code(refused), Some(ErrorCode::BufferBusy));
    }
    pool.unpin(id).unwrap();
    pool.check_freeable(id).unwrap();
    pool.check_unpinned(&slice).unwrap();
    assert_eq!((pool.movables(), pool.stats().live), (1, 1), "asking frees nothing");
    pool.free_movable(id).unwrap();
    for gone in
        [pool.pin(id), pool.unpin(id).map(drop), pool.check_freeable(id), pool.free_movable(id), pool.free_dropped(id)]
    {
        assert_eq!(code(gone), Some(ErrorCode::BufferFreed));
    }
}

#[test]
fn a_block_that_is_being_moved_can_be_neither_pinned_nor_freed() {
    let pool = pool(layout(MIB, MIB, MIB));
    let below = pool.allocate(64, 64).unwrap();
    let (id, slice) = pool.allocate_movable(64, 64, None).unwrap();
    pool.free(below.chunk, below.region).unwrap();
    let mut pass = pool.start_pass().unwrap();
    let step = pool.next_move(&mut pass).unwrap();
    assert_eq!((step.id(), step.size(), step.address(), step.view()), (id, 64, slice.address, None));
    for refused in [pool.pin(id), pool.free_movable(id), pool.check_unpinned(&slice)] {
        assert_eq!(refused.unwrap_err().code(), ErrorCode::BufferBusy);
    }
    let moved = step.commit().unwrap().unwrap();
    assert_eq!((moved.from.offset, moved.to.offset, moved.from.chunk, moved.to.chunk), (64, 0, 0, 0));
    pool.pin(id).unwrap();
}

#[test]
fn a_block_that_is_dropped_stays_while_there_is_a_view_of_it() {
    let pool = pool(layout(MIB, MIB, MIB));
    let below = pool.allocate(64, 64).unwrap();
    let (id, slice) = pool.allocate_movable(64, 64, None).unwrap();
    assert!(pool.is_movable(&slice) && !pool.is_movable(&below));
    pool.check_unpinned(&below).unwrap();
    let view = rkllmjs_memory::handle::Handle::from_raw(99);
    pool.set_view(id, Some(view));
    pool.free_dropped(id).unwrap();
    assert_eq!(pool.movables(), 1);
    pool.free(below.chunk, below.region).unwrap();
    let mut pass = pool.start_pass().unwrap();
    assert_eq!(pool.next_move(&mut pass).unwrap().view(), Some(view));
    pool.set_view(id, None);
    pool.free_dropped(id).unwrap();
    assert_eq!((pool.movables(), pool.stats().live), (0, 0));
}

#[test]
fn only_bytes_of_an_earlier_slice_are_zeroed() {
    let pool = pool(layout(MIB, MIB, MIB));
    let fresh = pool.allocate(256, 64).unwrap();
    assert_eq!(fresh.used_before, 0);
    fill(&pool, &fresh, 7);
    pool.zero(&fresh).unwrap();
    assert!(read(&pool, &fresh, 256).iter().all(|byte| *byte == 7), "no slice had them before");
    pool.free(fresh.chunk, fresh.region).unwrap();
    let larger = pool.allocate(1024, 64).unwrap();
    assert_eq!((larger.offset, larger.used_before), (0, 256));
    fill(&pool, &larger, 8);
    pool.zero(&larger).unwrap();
    let bytes = read(&pool, &larger, 1024);
    assert!(bytes[..256].iter().all(|byte| *byte == 0) && bytes[256..].iter().all(|byte| *byte == 8));
    pool.free(larger.chunk, larger.region).unwrap();
    let again = pool.allocate(64, 64).unwrap();
    assert_eq!(again.used_before, 64);
    let (found, size) = pool.slice(again.chunk, again.region).unwrap();
    assert_eq!((found, size), (again, 64));
}

#[test]
fn freed_bytes_stay_as_they_are_where_no_free_is_delayed() {
    let pool = pool(layout(MIB, MIB, MIB));
    let slice = pool.allocate(256, 64).unwrap();
    fill(&pool, &slice, 7);
    pool.free(slice.chunk, slice.region).unwrap();
    assert_eq!(read(&pool, &slice, 256), vec![7; 256]);
}

#[test]
fn a_slice_lies_where_its_memory_is_mapped() {
    let pool = pool(layout(MIB, MIB, MIB));
    let slices = [(); 2].map(|()| pool.allocate(256, 64).unwrap());
    let chunk = pool.chunk_memory(slices[0].chunk).unwrap();
    let mapped = chunk.memory().unwrap().mapping().address() as usize;
    assert_eq!((chunk.base(), slices[0].address, slices[1].address), (mapped, mapped, mapped + 256));
}

#[test]
fn all_bytes_of_dirty_chunks_are_zeroed() {
    let (_backend, device) = simulated(Options::default());
    let source = Source::Npu { device, request: Request::plain(1), dirty: true };
    let pool = Pool::new(None, source, layout(MIB, MIB, MIB), None).unwrap();
    let slice = pool.allocate(200, 64).unwrap();
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    let base = memory.object().unwrap().device_address.unwrap();
    assert_eq!(slice.device_address, Some(base + slice.offset));
    fill(&pool, &slice, 7);
    pool.zero(&slice).unwrap();
    assert_eq!(read(&pool, &slice, slice.padded), vec![0; 256]);
}

#[test]
fn shared_memory_outlives_its_pool() {
    let pool = pool(layout(MIB, 2 * MIB, MIB));
    let (held, other) = (pool.allocate(MIB, 64).unwrap(), pool.allocate(MIB, 64).unwrap());
    let chunk_memory = pool.chunk_memory(held.chunk).unwrap();
    assert_eq!(chunk_memory.base(), held.address);
    assert!(chunk_memory.retain());
    chunk_memory.release();
    assert!(!chunk_memory.is_retained() && chunk_memory.memory().is_some(), "the pool has it still");
    assert!(chunk_memory.retain() && chunk_memory.retain() && chunk_memory.is_retained());
    // The reset frees the chunk despite the initial size: a slice of it is shared.
    pool.reset(|_| true).unwrap();
    assert_eq!(
        (pool.stats().chunks, pool.chunk_memory(held.chunk).is_err(), pool.chunk_memory(other.chunk).is_ok()),
        (1, true, true)
    );
    assert!(chunk_memory.memory().is_some());
    assert!(!chunk_memory.retain(), "it is on its way");
    chunk_memory.release();
    assert!(chunk_memory.memory().is_some() && chunk_memory.is_retained());
    chunk_memory.release();
    assert!(chunk_memory.memory().is_none() && !chunk_memory.is_retained());
}

#[test]
fn trimming_keeps_the_initial_size_and_gives_large_chunks_back_first() {
    let pool = pool(layout(0, 64 * MIB, MIB));
    assert_eq!(pool.stats().chunks, 0);
    let slices: Vec<_> = [1, 4, 2].map(|n| pool.allocate(n * MIB, 64).unwrap()).into();
    assert_eq!(pool.stats().reserved, 7 * MIB);
    slices.iter().for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
    assert_eq!(pool.stats().chunks, 1);
    pool.trim();
    assert_eq!((pool.stats().chunks, pool.stats().reserved), (0, 0));

    // After a reset that kept only later chunks, the remaining ones hold the initial size.
    let pool = self::pool(layout(MIB, 64 * MIB, MIB));
    let slices: Vec<_> = [1, 1, 4].map(|n| pool.allocate(n * MIB, 64).unwrap()).into();
    let first = pool.chunk_memory(slices[0].chunk).unwrap();
    pool.reset(|other| !Arc::ptr_eq(other, &first)).unwrap();
    assert_eq!((pool.stats().reserved, pool.trim()), (5 * MIB, 4 * MIB));
    assert_eq!((pool.stats().reserved, pool.stats().chunks), (MIB, 1));
}

#[test]
fn freed_slices_wait_in_turn_and_a_trim_lets_them_all_go() {
    let delayed = Layout { delay: 2, ..layout(MIB, MIB, MIB) };
    let pool = pool(delayed);
    let slices = [(); 4].map(|()| pool.allocate(3 * 4096, 64).unwrap());
    for slice in &slices {
        fill(&pool, slice, 1);
        pool.free(slice.chunk, slice.region).unwrap();
        assert_eq!(read(&pool, slice, slice.padded), vec![0xdd; 3 * 4096]);
        assert_eq!(pool.slice(slice.chunk, slice.region).unwrap_err().code(), ErrorCode::BufferFreed);
    }
    assert_eq!((pool.stats().allocated, pool.stats().waiting), (0, 2 * 3 * 4096), "two wait");
    assert_eq!((pool.stats().live, pool.stats().requested), (0, 0));
    pool.validate().unwrap();
    // A late operation writes to the last byte of the slice that is freed last.
    pool.chunk_memory(slices[3].chunk)
        .unwrap()
        .memory()
        .unwrap()
        .mapping()
        .write(slices[3].offset + 3 * 4096 - 1, b"!");
    assert_eq!(pool.trim(), 0);
    assert_eq!((pool.stats().waiting, pool.stats().late_writes), (0, 1));
    pool.validate().unwrap();
}

#[test]
fn a_slice_that_waits_is_gone_after_a_reset() {
    let pool = pool(Layout { delay: 10, ..layout(MIB, MIB, MIB) });
    let slice = pool.allocate(64, 64).unwrap();
    pool.free(slice.chunk, slice.region).unwrap();
    pool.reset(|_| true).unwrap();
    let whole = pool.allocate(MIB, 64).unwrap();
    fill(&pool, &whole, 3);
    pool.trim();
    assert_eq!((pool.stats().late_writes, pool.stats().live), (0, 1), "it does not come free twice");
    pool.validate().unwrap();
}

fn slabs(options: Options, slabs: SlabOptions) -> (Arc<Simulated>, Arc<Device>, Slabs) {
    let (backend, device) = simulated(options);
    let slabs = Slabs::new(Arc::clone(&device), slabs);
    (backend, device, slabs)
}

#[test]
fn each_class_of_small_requests_has_its_slab() {
    let (_backend, device, slabs) = slabs(Options::default(), SlabOptions { size: 4 * MIB, ..SlabOptions::default() });
    let plain = Request::plain(MIB);
    let pool = slabs.pool_for(&plain).unwrap().unwrap();
    let same = slabs.pool_for(&Request::plain(1)).unwrap().unwrap();
    assert!(Arc::ptr_eq(&pool, &same), "one slab for every size");
    assert_eq!((pool.layout().chunk, pool.layout().alignment, pool.public_name()), (4 * MIB, page_size(), None));
    for other in [
        Request { cacheable: !plain.cacheable, ..plain.clone() },
        Request { contiguous: true, ..plain.clone() },
        Request { domain: 1, ..plain.clone() },
        Request { core_mask: 2, ..plain.clone() },
    ] {
        let class = slabs.pool_for(&other).unwrap().unwrap();
        assert!(!Arc::ptr_eq(&pool, &class), "{other:?}");
    }
    for large in [
        Request::plain(MIB + 1),
        Request { alignment: 2 * page_size(), ..plain.clone() },
        Request { placement: Placement::TrySram, ..plain.clone() },
    ] {
        assert!(slabs.pool_for(&large).unwrap().is_none(), "{large:?}");
    }
    let slice = pool.allocate(1, page_size()).unwrap();
    assert_eq!((slice.padded, slabs.counts().len()), (page_size(), 5));
    let reserved: u64 = slabs.counts().iter().map(|(counts, _)| counts.reserved).sum();
    assert_eq!(reserved, 4 * MIB);
    pool.free(slice.chunk, slice.region).unwrap();
    assert_eq!((slabs.trim(), slabs.trim()), (4 * MIB, 0));
    pool.allocate(1, 1).unwrap();
    slabs.destroy();
    assert_eq!((slabs.counts().len(), pool.allocate(1, 1).unwrap_err().code()), (0, ErrorCode::PoolDestroyed));
    assert!(device.wait_for_frees(Duration::from_secs(60)));
    assert_eq!(device.domains()[0].used(), 0);
}

#[test]
fn a_slab_leaves_small_domains_their_room() {
    let chunk = |domain_bytes, options: SlabOptions| {
        let (_backend, _device, slabs) =
            slabs(Options { domain_bytes: Some(domain_bytes), ..Options::default() }, options);
        let threshold =
            (0..40).map(|n| 1 << n).take_while(|size| slabs.pool_for(&Request::plain(*size)).unwrap().is_some());
        let threshold = threshold.last();
        let chunk = slabs.pool_for(&Request::plain(1)).unwrap().map(|pool| pool.layout().chunk);
        (chunk, threshold)
    };
    let default = SlabOptions::default();
    assert_eq!(chunk(4 * GIB, default), (Some(16 * MIB), Some(MIB)));
    assert_eq!(
        chunk(64 * MIB, default),
        (Some(2 * MIB), Some(512 * KIB)),
        "a 32nd of the domain, and slices of a quarter"
    );
    assert_eq!(chunk(4 * MIB, default), (Some(256 * KIB), Some(64 * KIB)), "but 256 KiB");
    assert_eq!(chunk(4 * GIB, SlabOptions { threshold: 0, ..default }), (None, None), "turned off");
    let (_backend, _device, slabs) = self::slabs(Options::default(), SlabOptions { delay: 7, ..default });
    let pool = slabs.pool_for(&Request::plain(1)).unwrap().unwrap();
    assert_eq!((slabs.delay(), pool.layout().delay), (7, 7));
}
