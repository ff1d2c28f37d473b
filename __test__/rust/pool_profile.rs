//! The events of a profiled pool, and the map of its chunks.

#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::sync::Arc;

use rkllmjs_memory::accounting::{notifications, Account, Accounting};
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::Request;
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::pool::{Layout, Pool, SliceRequest};
use rkllmjs_memory::profile::{self, Action, Profiler, Recording};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{MemoryKind, KIB, MIB};

fn pages() -> Source {
    Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() })
}

fn layout(initial: u64, max: u64, chunk: u64) -> Layout {
    Layout { initial, max, chunk, block: None, alignment: 64, delay: 0 }
}

fn account(accounting: &Arc<Accounting>, kind: Option<MemoryKind>, tag: Option<&str>) -> Account {
    Account { accounting: Arc::clone(accounting), kind, tag: tag.map(Arc::from) }
}

/// A pool of 1 MiB that grows to 3, named "p" and tagged "kv".
fn pool() -> Pool {
    let account = account(&Accounting::new(&[]), Some(MemoryKind::System), Some("kv"));
    Pool::new(Some("p".into()), pages(), layout(MIB, 3 * MIB, MIB), Some(account)).unwrap()
}

/// A profiler that samples every allocation.
fn profiler() -> Arc<Profiler> {
    Profiler::new(profile::Options { sample_interval: 1, event_capacity: 1000 })
}

fn recorded() -> (Pool, Arc<Profiler>) {
    let (pool, profiler) = (pool(), profiler());
    pool.record(Some(&profiler));
    (pool, profiler)
}

/// Action, id and size of each event.
fn events(recording: &Recording) -> Vec<(Action, u64, u64)> {
    recording.events.iter().map(|event| (event.action, event.id, event.size)).collect()
}

fn tags(recording: &Recording) -> Vec<Option<&str>> {
    recording.events.iter().map(|event| event.tag.as_deref()).collect()
}

#[test]
fn events_name_blocks_by_their_ids_and_chunks_by_their_number() {
    let (pool, _profiler) = recorded();
    let first = pool.allocate(MIB, 64).unwrap();
    let second = pool.allocate(MIB / 2, 64).unwrap();
    let third = pool.allocate(MIB, 64).unwrap();
    assert_eq!(pool.allocate(MIB, 64).unwrap_err().code(), ErrorCode::PoolExhausted);
    pool.free(third.chunk, third.region).unwrap();
    pool.free_as(second.chunk, second.region, Action::Collect).unwrap();
    let recording = pool.recording(true).unwrap();
    assert_eq!(
        events(&recording),
        [
            (Action::Allocate, first.id.get(), MIB),
            (Action::Grow, 1, MIB),
            (Action::Allocate, second.id.get(), MIB / 2),
            (Action::Grow, 2, MIB),
            (Action::Allocate, third.id.get(), MIB),
            (Action::Fail, 0, MIB),
            (Action::Free, third.id.get(), MIB),
            (Action::Collect, second.id.get(), MIB / 2),
            // The pool keeps the empty chunk that it would try first.
            (Action::Trim, 2, MIB),
        ]
    );
    let of = |event: &profile::Event| (event.kind, event.tag.clone(), event.pool.clone());
    assert!(recording
        .events
        .iter()
        .all(|event| of(event) == (MemoryKind::System, Some("kv".into()), Some("p".into()))));
    assert!(pool.recording(false).unwrap().events.is_empty());
}

#[test]
fn the_pool_does_not_record_slices_that_their_holder_records() {
    let (pool, profiler) = recorded();
    let held = pool.request_held(SliceRequest::new(100, 64)).unwrap();
    let own = pool.allocate(100, 64).unwrap();
    assert_eq!(pool.sample_of(&held), None);
    pool.free(held.chunk, held.region).unwrap();
    // The pool records the next slice at its place.
    let again = pool.allocate(100, 64).unwrap();
    assert_eq!(again.address, held.address);
    pool.free(again.chunk, again.region).unwrap();
    let (own, again) = (own.id.get(), again.id.get());
    let expected = [(Action::Allocate, own, 100), (Action::Allocate, again, 100), (Action::Free, again, 100)];
    assert_eq!(events(&pool.recording(true).unwrap()), expected);
    assert_eq!(profiler.pending(), 2);
}

#[test]
fn a_movable_block_is_recorded_under_its_id_and_its_own_tag() {
    let (pool, _profiler) = recorded();
    let own = account(&Accounting::new(&[]), None, Some("own"));
    let (tagged, slice) = pool.allocate_movable(100, 64, Some(&own)).unwrap();
    let (plain, other) = pool.allocate_movable(200, 64, None).unwrap();
    assert!(pool.sample_of(&slice).is_some());
    pool.free_movable(tagged).unwrap();
    pool.free_movable(plain).unwrap();
    let recording = pool.recording(true).unwrap();
    let (tagged, plain) = (slice.id.get(), other.id.get());
    assert_eq!(
        events(&recording),
        [
            (Action::Allocate, tagged, 100),
            (Action::Allocate, plain, 200),
            (Action::Free, tagged, 100),
            (Action::Free, plain, 200)
        ]
    );
    assert_eq!(tags(&recording), [Some("own"), Some("kv"), Some("own"), Some("kv")]);
}

#[test]
fn a_move_is_recorded_and_takes_its_sample_along() {
    let (pool, profiler) = recorded();
    let below = pool.allocate(64 * KIB, 64).unwrap();
    let own = account(&Accounting::new(&[]), None, Some("own"));
    let (id, slice) = pool.allocate_movable(64 * KIB, 64, Some(&own)).unwrap();
    let sample = pool.sample_of(&slice).unwrap();
    pool.free(below.chunk, below.region).unwrap();
    let mut pass = pool.start_pass().unwrap();
    while let Some(step) = pool.next_move(&mut pass) {
        step.commit().unwrap().unwrap();
    }
    let (now, ..) = pool.movable(id).unwrap();
    assert_eq!((now.address, now.id), (below.address, slice.id));
    assert!(pool.map()[0].blocks.iter().any(|block| block.id == Some(slice.id) && block.offset == now.offset));
    assert_eq!((pool.sample_of(&now), pool.sample_of(&slice)), (Some(sample), None));
    let recording = pool.recording(true).unwrap();
    let last = recording.events.last().unwrap();
    assert_eq!(
        (last.action, last.id, last.size, last.tag.as_deref()),
        (Action::Move, slice.id.get(), 64 * KIB, Some("own"))
    );
    // The sample ends with the block, at its new place.
    pool.free_movable(id).unwrap();
    assert!(pool.sampled().is_empty() && profiler.sites().sample(sample).is_none());
}

#[test]
fn sampled_blocks_are_listed_as_javascript_knows_them() {
    let (pool, _profiler) = recorded();
    let before = notifications().load(std::sync::atomic::Ordering::Relaxed);
    let own = account(&Accounting::new(&[]), None, Some("own"));
    let fixed = pool.allocate(100, 64).unwrap();
    let (_, place) = pool.allocate_movable(200, 64, Some(&own)).unwrap();
    assert!(notifications().load(std::sync::atomic::Ordering::Relaxed) >= before + 2, "each stack is worth asking for");
    let mut sampled = pool.sampled();
    sampled.sort_by_key(|block| block.size);
    let said: Vec<_> = sampled
        .iter()
        .map(|block| (block.slice.id, block.slice.address, block.size, block.tag.as_deref(), block.sample))
        .collect();
    assert_eq!(
        said,
        [
            (fixed.id, fixed.address, 100, None, pool.sample_of(&fixed).unwrap()),
            (place.id, place.address, 200, Some("own"), pool.sample_of(&place).unwrap()),
        ]
    );
    pool.free(fixed.chunk, fixed.region).unwrap();
    assert_eq!(pool.sampled().len(), 1);
}

#[test]
fn the_map_shows_every_region_of_every_chunk() {
    let (pool, _profiler) = recorded();
    let own = account(&Accounting::new(&[]), None, Some("own"));
    let (first, hole) = (pool.allocate(MIB / 4, 64).unwrap(), pool.allocate(MIB / 4, 64).unwrap());
    let (_, place) = pool.allocate_movable(MIB / 2, 64, Some(&own)).unwrap();
    let other = pool.allocate(MIB, 64).unwrap();
    pool.free(hole.chunk, hole.region).unwrap();
    let map = pool.map();
    assert_eq!(
        map.iter().map(|chunk| (chunk.size, chunk.address)).collect::<Vec<_>>(),
        [(MIB, first.address), (MIB, other.address)]
    );
    let blocks: Vec<_> = map[0]
        .blocks
        .iter()
        .map(|block| (block.offset, block.size, block.id, block.movable, block.tag.as_deref(), block.sample))
        .collect();
    assert_eq!(
        blocks,
        [
            (0, MIB / 4, Some(first.id), false, None, pool.sample_of(&first)),
            (MIB / 4, MIB / 4, None, false, None, None),
            (MIB / 2, MIB / 2, Some(place.id), true, Some("own"), pool.sample_of(&place)),
        ]
    );
    assert!(pool.sample_of(&first).is_some() && pool.sample_of(&place).is_some());
    pool.record(None);
    let samples: HashSet<_> = pool.map().iter().flat_map(|chunk| &chunk.blocks).map(|block| block.sample).collect();
    assert_eq!(samples, HashSet::from([None]), "what is not recorded is not sampled");
}

#[test]
fn a_reset_and_the_end_free_all_live_slices() {
    let (pool, profiler) = recorded();
    let kept = pool.allocate(MIB, 64).unwrap();
    let (_, gone) = pool.allocate_movable(MIB / 2, 64, None).unwrap();
    let chunk_memory = pool.chunk_memory(gone.chunk).unwrap();
    pool.reset(|other| !Arc::ptr_eq(other, &chunk_memory)).unwrap();
    let mut found = events(&pool.recording(true).unwrap()).split_off(3);
    found.sort_by_key(|(action, _, size)| (*action as u8, *size));
    let expected = [(Action::Free, gone.id.get(), MIB / 2), (Action::Free, kept.id.get(), MIB), (Action::Trim, 1, MIB)];
    assert_eq!(found, expected);
    assert!(pool.sampled().is_empty() && pool.movables() == 0);
    let last = pool.allocate(10, 64).unwrap();
    pool.destroy(true).unwrap();
    assert!(pool.recording(true).is_none(), "it is the profiler's now");
    let all = profiler.profile(Vec::new(), true).recording;
    let expected = [(Action::Free, last.id.get(), 10), (Action::Trim, 0, MIB)];
    assert_eq!(events(&all).split_off(all.events.len() - 2), expected);
    assert_eq!((all.totals.allocations, all.totals.frees), (3, 3));
}

#[test]
fn a_delayed_free_is_recorded_when_it_is_asked_for() {
    let profiler = profiler();
    let pool = Pool::new(None, pages(), Layout { delay: 1, ..layout(MIB, MIB, MIB) }, None).unwrap();
    pool.record(Some(&profiler));
    let (movable, moves) = pool.allocate_movable(10, 64, None).unwrap();
    let slice = pool.allocate(20, 64).unwrap();
    pool.free_as(slice.chunk, slice.region, Action::Collect).unwrap();
    pool.free_movable(movable).unwrap();
    let expected = [
        (Action::Allocate, moves.id.get(), 10),
        (Action::Allocate, slice.id.get(), 20),
        (Action::Collect, slice.id.get(), 20),
        (Action::Free, moves.id.get(), 10),
    ];
    assert_eq!(events(&pool.recording(true).unwrap()), expected);
    // A delayed free is already recorded: the end does not free it again, and the live list does not have it.
    assert!(pool.sampled().is_empty());
    pool.destroy(false).unwrap();
    assert_eq!(profiler.profile(Vec::new(), false).recording.totals.frees, 2);
}

#[test]
fn one_allocation_in_256_is_timed_and_stands_for_the_others() {
    let (pool, profiler) = recorded();
    let timed = || profiler.profile(Vec::new(), false).latencies.len();
    let once = || {
        let slice = pool.allocate(64, 64).unwrap();
        pool.free(slice.chunk, slice.region).unwrap();
    };
    once();
    assert_eq!(timed(), 256, "the first one is");
    (1..256).for_each(|_| once());
    assert_eq!(timed(), 256);
    once();
    assert_eq!(timed(), 512);
    (1..256).for_each(|_| once());
    // A refusal has no meaningful latency.
    assert!(pool.allocate(100 * MIB, 64).is_err());
    assert_eq!(timed(), 512);
}

#[test]
fn a_recording_that_ends_goes_to_its_profiler() {
    let (pool, profiler) = recorded();
    let slice = pool.allocate(10, 64).unwrap();
    pool.record(None);
    pool.free(slice.chunk, slice.region).unwrap();
    assert!(pool.recording(true).is_none() && pool.sample_of(&slice).is_none() && pool.sampled().is_empty());
    let totals = profiler.profile(Vec::new(), false).recording.totals;
    assert_eq!((totals.allocations, totals.frees), (1, 0));
}

#[test]
fn a_pool_shows_the_options_of_its_kernel_objects() {
    let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
    let request = Request { domain: 1, ..Request::plain(1) };
    let source = Source::Npu { device, request: request.clone(), dirty: false };
    let npu = Pool::new(None, source, layout(0, MIB, MIB), None).unwrap();
    assert_eq!((npu.facts(), npu.kind(), npu.public_name()), (Some(&request), MemoryKind::Npu, None));
    let system = pool();
    assert_eq!((system.facts(), system.kind()), (None, MemoryKind::System));
    assert_eq!(system.public_name().map(|name| &**name), Some("p"));
    assert_eq!(*system.layout(), layout(MIB, 3 * MIB, MIB));
}
