//! When bytes of a pool are used again, and by whom: waits of freed slices, tags, and threads that free, move and reset
//! at the same time.

#![allow(clippy::unwrap_used)]

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rkllmjs_memory::accounting::{Account, Accounting};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::pool::{Clearing, Layout, Pool, ReuseDelay, Slice, SliceRequest};
use rkllmjs_memory::profile::Action;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{KIB, MIB};

const BLOCK: u64 = 4 * KIB;
const HOUR: Duration = Duration::from_secs(3600);

fn pool(layout: Layout) -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(Some("test".into()), source, layout, None).unwrap()
}

fn layout(initial: u64, max: u64) -> Layout {
    Layout { initial, max, chunk: initial, block: None, alignment: 64, delay: 0 }
}

fn waiting_pool(initial: u64, max: u64) -> Pool {
    pool(layout(initial, max)).with_reuse(ReuseDelay { after: HOUR, turns: None })
}

fn fill(pool: &Pool, slice: &Slice, byte: u8) {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    memory.mapping().fill(slice.offset..slice.offset + slice.padded, byte);
}

fn bytes(pool: &Pool, slice: &Slice) -> Vec<u8> {
    let mut bytes = vec![0; slice.padded as usize];
    pool.chunk_memory(slice.chunk).unwrap().memory().unwrap().mapping().read(slice.offset, &mut bytes);
    bytes
}

fn free_seen(pool: &Pool, slice: &Slice) {
    pool.free_seen(slice.chunk, slice.region, Action::Free).unwrap();
}

#[test]
fn a_seen_slice_waits_and_an_unseen_one_does_not() {
    let pool = waiting_pool(16 * BLOCK, 16 * BLOCK);
    let [unseen, seen] = [(); 2].map(|()| pool.allocate(BLOCK, 64).unwrap());
    pool.free(unseen.chunk, unseen.region).unwrap();
    free_seen(&pool, &seen);
    let stats = pool.stats();
    assert_eq!((stats.live, stats.allocated, stats.requested, stats.waiting), (0, 0, 0, BLOCK));
    assert_eq!((stats.free, stats.largest_free), (stats.reserved, stats.reserved));
    assert_eq!(pool.validate(), Ok(()));
    assert_eq!(pool.allocate(BLOCK, 64).unwrap().offset, unseen.offset);
    assert_ne!(pool.allocate(BLOCK, 64).unwrap().offset, seen.offset);
    let stale = pool.free(seen.chunk, seen.region).unwrap_err();
    assert_eq!(stale.code(), ErrorCode::BufferFreed);
    assert!(pool.slice(seen.chunk, seen.region).is_err() && pool.pin_slice(seen.chunk, seen.region).is_err());
}

#[test]
fn the_oldest_waiting_slice_is_taken_before_the_pool_fails() {
    let pool = waiting_pool(4 * BLOCK, 4 * BLOCK);
    let slices: Vec<_> = (0..4).map(|_| pool.allocate(BLOCK, 64).unwrap()).collect();
    [2, 0, 3].iter().for_each(|at| free_seen(&pool, &slices[*at]));
    let next = [(); 3].map(|()| pool.allocate(BLOCK, 64).unwrap().offset / BLOCK);
    assert_eq!(next, [2, 0, 3]);
    assert_eq!(pool.allocate(BLOCK, 64).unwrap_err().code(), ErrorCode::PoolExhausted);
    assert_eq!((pool.stats().waiting, pool.validate()), (0, Ok(())));
    // A larger slice takes as many as it needs.
    let pool = waiting_pool(4 * BLOCK, 4 * BLOCK);
    let slices: Vec<_> = (0..4).map(|_| pool.allocate(BLOCK, 64).unwrap()).collect();
    slices.iter().for_each(|slice| free_seen(&pool, slice));
    assert_eq!(pool.allocate(2 * BLOCK, 64).unwrap().offset, 0);
    assert_eq!((pool.stats().waiting, pool.validate()), (2 * BLOCK, Ok(())));
}

#[test]
fn a_pool_grows_up_to_its_maximum_before_it_takes_waiting_slices() {
    let pool = waiting_pool(BLOCK, 2 * BLOCK);
    for waiting in [1, 2, 2, 2] {
        free_seen(&pool, &pool.allocate(BLOCK, 64).unwrap());
        assert_eq!((pool.stats().waiting, pool.stats().chunks), (waiting * BLOCK, waiting));
    }
}

#[test]
fn a_wait_ends_after_the_turns_of_the_event_loop() {
    static TURNS: AtomicU32 = AtomicU32::new(0);
    let turns = Some(&TURNS);
    let pool = pool(layout(8 * BLOCK, 8 * BLOCK)).with_reuse(ReuseDelay { after: Duration::from_nanos(1), turns });
    let slice = pool.allocate(BLOCK, 64).unwrap();
    free_seen(&pool, &slice);
    thread::sleep(Duration::from_millis(20)); // the coarse clock's tick
    assert!(!pool.end_waits());
    assert_ne!(pool.allocate(BLOCK, 64).unwrap().offset, slice.offset);
    TURNS.fetch_add(11, Relaxed);
    assert!(!pool.end_waits());
    TURNS.fetch_add(1, Relaxed);
    assert_eq!(pool.allocate(BLOCK, 64).unwrap().offset, slice.offset, "the next request ends the wait");
    assert_eq!(pool.stats().waiting, 0);
}

#[test]
fn a_trim_counts_the_chunks_that_went_with_the_end_of_a_wait() {
    static TURNS: AtomicU32 = AtomicU32::new(0);
    let turns = Some(&TURNS);
    let pool = pool(layout(BLOCK, 4 * BLOCK)).with_reuse(ReuseDelay { after: Duration::from_nanos(1), turns });
    let slices: Vec<_> = (0..4).map(|_| pool.allocate(BLOCK, 64).unwrap()).collect();
    slices.iter().for_each(|slice| free_seen(&pool, slice));
    let before = pool.stats();
    assert_eq!((before.chunks, before.waiting), (4, 4 * BLOCK));
    thread::sleep(Duration::from_millis(20)); // the coarse clock's tick
    TURNS.fetch_add(12, Relaxed);
    let given = pool.trim();
    assert_eq!((given, pool.stats().reserved), (3 * BLOCK, BLOCK));
}

/// A free before a reset is no reason to give the bytes to others earlier.
#[test]
fn waiting_slices_outlast_a_reset_and_end_with_their_chunk() {
    let pool = waiting_pool(4 * BLOCK, 8 * BLOCK);
    let slices: Vec<_> = (0..8).map(|_| pool.allocate(BLOCK, 64).unwrap()).collect();
    free_seen(&pool, &slices[1]);
    free_seen(&pool, &slices[5]);
    pool.reset(|_| true).unwrap();
    assert_eq!((pool.stats().live, pool.stats().waiting, pool.validate()), (0, 2 * BLOCK, Ok(())));
    let next: Vec<_> = (0..6).map(|_| pool.allocate(BLOCK, 64).unwrap()).collect();
    assert!(next.iter().all(|slice| slice.address != slices[1].address && slice.address != slices[5].address));
    next.iter().for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
    // The second chunk has only a slice that waits: the device gets it back, and late operations read zeros.
    assert_eq!(pool.trim(), 4 * BLOCK);
    assert_eq!((pool.stats().waiting, pool.validate()), (BLOCK, Ok(())));
    pool.destroy(false).unwrap();
    assert_eq!((pool.stats().waiting, pool.stats().reserved), (0, 0));
}

#[test]
fn bytes_never_cross_tags_and_stay_where_the_tag_is_the_same() {
    let pool = pool(layout(MIB, MIB));
    let ask = |tag: Option<&str>, clearing| {
        let tag = tag.map(|tag| pool.tag_id(&tag.into()).unwrap());
        let mut request = SliceRequest::new(BLOCK, 64);
        (request.tag, request.clearing) = (tag, clearing);
        let slice = pool.request(request).unwrap();
        let first = bytes(&pool, &slice)[0];
        assert!(bytes(&pool, &slice).iter().all(|byte| *byte == first));
        fill(&pool, &slice, 7);
        pool.free(slice.chunk, slice.region).unwrap();
        first
    };
    use Clearing::{All, None as Never, OtherTags};
    for (tag, clearing, expected) in [
        (None, OtherTags, 0),
        (None, OtherTags, 7),
        (Some("a"), OtherTags, 0),
        (Some("a"), OtherTags, 7),
        (Some("b"), OtherTags, 0),
        (None, OtherTags, 0),
        (None, Never, 7),
        (Some("a"), Never, 7),
        // They are those of a request without a tag.
        (Some("a"), OtherTags, 0),
        (Some("a"), All, 0),
    ] {
        assert_eq!(ask(tag, clearing), expected, "{tag:?} {clearing:?}");
    }
}

/// A new owner's first bytes lie behind all others: they are its own, and stay so when it uses them again.
#[test]
fn bytes_behind_those_of_other_owners_are_not_cleared() {
    let pool = pool(layout(64 * MIB, 64 * MIB));
    let before = pool.allocate(BLOCK, 64).unwrap();
    let mut request = SliceRequest::new(BLOCK, 64);
    request.tag = Some(pool.tag_id(&"a".into()).unwrap());
    for expected in [0, 7, 7] {
        let slice = pool.request(request).unwrap();
        assert!(slice.offset >= before.offset + before.padded);
        assert_eq!(bytes(&pool, &slice), vec![expected; BLOCK as usize]);
        fill(&pool, &slice, 7);
        pool.free(slice.chunk, slice.region).unwrap();
    }
}

/// Free regions merge and are divided again: every byte that a slice shows was its tag's last, or is zero.
#[test]
fn a_slice_shows_its_own_tags_bytes_or_zeros_however_regions_merge() {
    let accounting = Accounting::new(&[]);
    let pool = pool(layout(64 * KIB, 256 * KIB));
    let tags: [Option<Arc<str>>; 4] = [None, Some("a".into()), Some("b".into()), Some("c".into())];
    let mut random = 88_172_645_463_325_252_u64;
    let mut below = |bound: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % bound
    };
    let (mut held, mut movable) = (Vec::new(), Vec::new());
    for step in 0..6000 {
        let at = below(4) as usize;
        let mut request = SliceRequest::new(1 + below(9000), 64);
        let shown = |slice: &Slice, size: u64| {
            let shown = bytes(&pool, slice);
            let ours = |byte: &u8| *byte == 0 || usize::from(*byte) == at + 1;
            assert!(shown[..size as usize].iter().all(ours), "step {step}: bytes of another tag than {:?}", tags[at]);
            fill(&pool, slice, at as u8 + 1);
        };
        match below(5) {
            0 | 1 => {
                request.tag = tags[at].as_ref().map(|tag| pool.tag_id(tag).unwrap());
                if let Ok(slice) = pool.request(request) {
                    shown(&slice, request.size);
                    held.push(slice);
                }
            }
            2 => {
                let account = Account { accounting: Arc::clone(&accounting), kind: None, tag: tags[at].clone() };
                if let Ok((id, slice)) = pool.request_movable(request, Some(&account)) {
                    shown(&slice, request.size);
                    movable.push(id);
                }
            }
            3 if !held.is_empty() => {
                let slice: Slice = held.swap_remove(below(held.len() as u64) as usize);
                pool.free(slice.chunk, slice.region).unwrap();
            }
            _ if !movable.is_empty() => {
                pool.free_movable(movable.swap_remove(below(movable.len() as u64) as usize)).unwrap();
                let mut pass = pool.start_pass().unwrap();
                for _ in 0..below(4) {
                    let Some(step) = pool.next_move(&mut pass) else { break };
                    step.commit().unwrap();
                }
            }
            _ => {}
        }
    }
    assert_eq!(pool.validate(), Ok(()));
}

#[test]
fn a_move_in_flight_is_no_damage() {
    let pool = pool(layout(MIB, MIB));
    let ids: Vec<_> = (0..8).map(|_| pool.allocate_movable(BLOCK, 64, None).unwrap().0).collect();
    pool.free_movable(ids[0]).unwrap();
    let mut pass = pool.start_pass().unwrap();
    let step = pool.next_move(&mut pass).unwrap();
    assert_eq!(pool.validate(), Ok(()));
    drop(step);
    assert_eq!(pool.validate(), Ok(()));
    let mut pass = pool.start_pass().unwrap();
    while let Some(step) = pool.next_move(&mut pass) {
        step.commit().unwrap();
        assert_eq!(pool.validate(), Ok(()));
    }
}

/// An operation in flight still uses the old place of a slice whose ArrayBuffer JavaScript has seen.
#[test]
fn the_old_place_of_a_seen_slice_waits_after_a_move() {
    let pool = waiting_pool(MIB, MIB);
    let ids: Vec<_> = (0..8).map(|_| pool.allocate_movable(BLOCK, 64, None).unwrap().0).collect();
    let (last, ..) = pool.movable(ids[7]).unwrap();
    pool.begin_view(ids[7]).unwrap();
    pool.end_view(ids[7], Some(rkllmjs_memory::handle::Handle::from_raw(99)));
    pool.free_movable(ids[0]).unwrap();
    let mut pass = pool.start_pass().unwrap();
    while let Some(step) = pool.next_move(&mut pass) {
        step.commit().unwrap();
    }
    assert_eq!((pool.movable(ids[7]).unwrap().0.offset, pool.stats().waiting), (0, BLOCK));
    assert_eq!(pool.validate(), Ok(()));
    assert_ne!(pool.allocate(BLOCK, 64).unwrap().offset, last.offset);
}

/// Looking a slice up and using it are one step: a compaction may move it at any other time.
#[test]
fn a_live_movable_slice_is_never_called_freed_while_others_move_it() {
    let pool = pool(layout(MIB, 64 * MIB));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Relaxed) {
                let mut pass = pool.start_pass().unwrap();
                while let Some(step) = pool.next_move(&mut pass) {
                    step.commit().unwrap();
                }
            }
        });
        let (mut held, mut random) = (Vec::new(), 1_u64);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if held.len() < 300 {
                held.push(pool.allocate_movable(64 + (random >> 33) % 4000, 64, None).unwrap().0);
                continue;
            }
            let id = held.swap_remove((random >> 33) as usize % held.len());
            assert!(pool.movable(id).is_ok());
            while let Err(error) = pool.free_movable(id) {
                assert_eq!(error.code(), ErrorCode::BufferBusy, "{error}");
                thread::yield_now();
            }
        }
        stop.store(true, Relaxed);
        assert_eq!(held.len() as u64, pool.stats().live);
    });
    assert_eq!(pool.validate(), Ok(()));
}

/// Names survive a reset only if their slices do.
#[test]
fn a_reset_beside_allocations_leaves_no_stale_name() {
    let pool = pool(layout(MIB, 64 * MIB));
    thread::scope(|scope| {
        let allocating: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if let Ok((id, _)) = pool.allocate_movable(BLOCK, 64, None) {
                            // A reset has freed it, or this does.
                            let _ = pool.free_movable(id);
                        }
                    }
                })
            })
            .collect();
        while !allocating.iter().all(thread::ScopedJoinHandle::is_finished) {
            pool.reset(|_| true).unwrap();
            thread::yield_now();
        }
    });
    assert_eq!((pool.movables() as u64, pool.stats().live, pool.validate()), (0, 0, Ok(())));
}

/// A delayed free fills its slice with poison outside the lock; clearing a slice for another tag does so with zeros.
#[test]
fn delayed_frees_and_clears_beside_a_reset_touch_no_live_slice() {
    let delayed = Layout { delay: 4, ..layout(64 * KIB, MIB) };
    for (layout, tags) in [(delayed, false), (layout(64 * KIB, MIB), true)] {
        let pool = pool(layout);
        let tag = pool.tag_id(&"t".into()).unwrap();
        thread::scope(|scope| {
            let freeing: Vec<_> = (0..2)
                .map(|thread| {
                    scope.spawn({
                        let pool = &pool;
                        move || {
                            for turn in 0..3000 {
                                let mut request = SliceRequest::new(BLOCK, 64);
                                request.tag = (tags && (turn + thread) % 2 == 0).then_some(tag);
                                if let Ok(slice) = pool.request(request) {
                                    let _ = pool.free(slice.chunk, slice.region);
                                }
                            }
                        }
                    })
                })
                .collect();
            let mut checked = 0;
            while !freeing.iter().all(thread::ScopedJoinHandle::is_finished) || checked < 10 {
                pool.reset(|_| true).unwrap();
                let Ok(slice) = pool.allocate(BLOCK, 64) else { continue };
                fill(&pool, &slice, 7);
                thread::yield_now();
                assert!(bytes(&pool, &slice).iter().all(|byte| *byte == 7), "tags: {tags}");
                checked += 1;
                pool.free(slice.chunk, slice.region).unwrap();
            }
        });
        assert_eq!(pool.validate(), Ok(()));
    }
}
