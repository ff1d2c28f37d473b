//! Compaction against a naive model: through moves, frees, pins, interrupted passes and resets, every slice keeps its
//! bytes and the pool its figures.
//!
//! `COMPACTION_STEPS` is the number of steps of all random programs; `npm run test:long` takes a million.

#![allow(clippy::unwrap_used)]

mod copy_queue;
#[path = "../support/random.rs"]
mod random;

use std::collections::HashMap;
use std::sync::Arc;

use rkllmjs_memory::backend::errno::Call;
use rkllmjs_memory::backend::fault_injecting::{Fault, FaultInjecting};
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Backend, Request};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::pool::{Layout, Moved, Pass, Pool, Slice};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{KIB, MIB};

use random::Random;

fn pool(layout: Layout) -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(Some("test".into()), source, layout, None).unwrap()
}

fn layout(initial: u64, max: u64) -> Layout {
    Layout { initial, max, chunk: initial, block: None, alignment: 64, delay: 0 }
}

/// Contents of a slice: the byte changes every 16, so that bytes that moved within the slice show.
fn pattern(size: u64, byte: u8) -> Vec<u8> {
    (0..size).map(|at| byte.wrapping_add((at / 16) as u8)).collect()
}

fn fill(pool: &Pool, slice: &Slice, size: u64, byte: u8) {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    memory.mapping().write(slice.offset, &pattern(size, byte));
}

fn holds(pool: &Pool, slice: &Slice, size: u64, byte: u8) -> bool {
    let memory = pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
    let mut bytes = vec![!byte; size as usize];
    memory.mapping().read(slice.offset, &mut bytes);
    bytes == pattern(size, byte)
}

/// A slice of the model.
struct Known {
    slice: Slice,
    size: u64,
    byte: u8,
    align: u64,
    pins: u32,
}

/// Makes all moves, or the first `limit`. Drops each begun move for which `keep` returns false.
fn defragment(pool: &Pool, limit: usize, keep: impl FnMut() -> bool) -> Vec<Moved> {
    resume(pool, pool.start_pass().unwrap(), limit, keep)
}

/// The same for a paused pass.
fn resume(pool: &Pool, mut pass: Pass, limit: usize, mut keep: impl FnMut() -> bool) -> Vec<Moved> {
    let mut moves = Vec::new();
    for _ in 0..limit {
        let Some(step) = pool.next_move(&mut pass) else { break };
        if keep() {
            moves.extend(step.commit().unwrap());
        }
    }
    moves
}

/// Updates the model with the moves, and checks the bytes of each moved slice.
fn follow(pool: &Pool, live: &mut HashMap<Handle, Known>, moves: &[Moved]) {
    // A slice may move twice: into a hole, and then down.
    let mut now = HashMap::new();
    for moved in moves {
        let known = live.get(&moved.handle).expect("only live slices move");
        assert_eq!((moved.size, known.pins), (known.size, 0));
        let from = *now.entry(moved.handle).or_insert(known.slice.offset);
        assert!(from == moved.from.offset && moved.from != moved.to, "{moved:?} after {from}");
        now.insert(moved.handle, moved.to.offset);
    }
    for (id, offset) in now {
        let known = live.get_mut(&id).unwrap();
        (known.slice, ..) = pool.movable(id).unwrap();
        assert_eq!(known.slice.offset, offset);
        assert!((known.slice.address as u64).is_multiple_of(known.align), "{:?} for {}", known.slice, known.align);
        assert!(holds(pool, &known.slice, known.size, known.byte), "{:?} lost its bytes", known.slice);
    }
}

fn check(pool: &Pool, live: &HashMap<Handle, Known>, fixed: &[(Slice, u64, u8)]) {
    pool.validate().unwrap();
    for (id, known) in live {
        let (slice, size, _) = pool.movable(*id).unwrap();
        assert_eq!((slice.address, size), (known.slice.address, known.size));
        assert!(holds(pool, &slice, size, known.byte), "{slice:?} lost its bytes");
    }
    for (slice, size, byte) in fixed {
        assert!(holds(pool, slice, *size, *byte), "{slice:?} lost its bytes");
    }
    let stats = pool.stats();
    assert_eq!(stats.live as usize, live.len() + fixed.len());
    let requested: u64 = live.values().map(|known| known.size).chain(fixed.iter().map(|(_, size, _)| *size)).sum();
    assert_eq!(stats.requested, requested);
    assert_eq!(pool.movables(), live.len());
}

#[test]
fn random_programs_keep_every_byte() {
    let all: u64 = std::env::var("COMPACTION_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(8_000);
    for (seed, block) in [(1, None), (2, Some(1000)), (3, None), (4, None)] {
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let pool = pool(Layout { block, ..layout(16 * KIB, 128 * KIB) });
        let mut live: HashMap<Handle, Known> = HashMap::new();
        let mut fixed: Vec<(Slice, u64, u8)> = Vec::new();
        let mut moved = 0;
        let mut begun: Option<Pass> = None;
        for step in 0..all / 4 {
            let some = |live: &HashMap<Handle, Known>, random: &mut Random| {
                let mut ids: Vec<_> = live.keys().copied().collect();
                ids.sort();
                (!ids.is_empty()).then(|| ids[random.below(ids.len() as u64) as usize])
            };
            let most = 1 << random.below(12);
            let size = 1 + random.below(block.unwrap_or(most));
            match random.below(100) {
                0..=39 => {
                    let align = if block.is_some() { 1 } else { 64 << random.below(5) };
                    if let Ok((id, slice)) = pool.allocate_movable(size, align, None) {
                        fill(&pool, &slice, size, step as u8);
                        live.insert(id, Known { slice, size, byte: step as u8, align, pins: 0 });
                    }
                }
                40..=44 => {
                    if let Ok(slice) = pool.allocate(size, 1) {
                        fill(&pool, &slice, size, step as u8);
                        fixed.push((slice, size, step as u8));
                    }
                }
                45..=79 => {
                    if let Some(id) = some(&live, &mut random) {
                        let result = pool.free_movable(id);
                        if live[&id].pins > 0 {
                            assert_eq!(result.unwrap_err().code(), ErrorCode::BufferBusy);
                        } else {
                            result.unwrap();
                            live.remove(&id);
                            assert_eq!(pool.free_movable(id).unwrap_err().code(), ErrorCode::BufferFreed);
                        }
                    }
                }
                80..=83 if !fixed.is_empty() => {
                    let (slice, ..) = fixed.swap_remove(random.below(fixed.len() as u64) as usize);
                    pool.free(slice.chunk, slice.region).unwrap();
                }
                84..=88 => {
                    if let Some(id) = some(&live, &mut random) {
                        pool.pin(id).unwrap();
                        live.get_mut(&id).unwrap().pins += 1;
                    }
                }
                89..=94 => {
                    if let Some(id) = some(&live, &mut random) {
                        let known = live.get_mut(&id).unwrap();
                        assert_eq!(pool.unpin(id).is_ok(), known.pins > 0);
                        known.pins = known.pins.saturating_sub(1);
                    }
                }
                95..=98 => {
                    let limit = if random.below(2) == 0 { usize::MAX } else { random.below(8) as usize };
                    let odds = 1 + random.below(4);
                    let fresh = begun.is_none() || random.below(2) == 0;
                    let pass = if fresh { pool.start_pass().unwrap() } else { begun.take().unwrap() };
                    let moves = resume(&pool, pass, limit, || random.below(4) < odds);
                    moved += moves.len();
                    follow(&pool, &mut live, &moves);
                    pool.trim();
                }
                _ if random.below(20) == 0 => {
                    pool.reset(|_| true).unwrap();
                    live.clear();
                    fixed.clear();
                }
                _ => {}
            }
            // A pass that other operations interrupt, until it ends.
            if random.below(3) == 0 {
                pool.survey(begun.get_or_insert_with(|| pool.start_pass().unwrap()), random.below(3) as usize);
            }
            check(&pool, &live, &fixed);
        }
        check(&pool, &live, &fixed);
        assert!(moved as u64 > all / 100, "only {moved} moves");
    }
}

#[test]
fn every_second_of_ten_thousand_freed_is_one_piece_again_for_the_least_bytes() {
    let size = 4 * KIB;
    for block in [None, Some(size)] {
        let pool = pool(Layout { block, ..layout(10_000 * size, 10_000 * size) });
        let ids: Vec<_> = (0..10_000).map(|_| pool.allocate_movable(size, 64, None).unwrap().0).collect();
        ids.iter().step_by(2).for_each(|id| pool.free_movable(*id).unwrap());
        let moves = defragment(&pool, usize::MAX, || true);
        match block {
            None => assert!(pool.stats().fragmentation() < 0.02, "{}", pool.stats().fragmentation()),
            // A pool of fixed blocks never has its free bytes in one piece: its largest piece is a block.
            Some(_) => assert!(moves.iter().all(|moved| moved.to.offset < 5_000 * size)),
        }
        // The 5,000 live slices fill the lower half; the 2,500 that are already there do not move.
        assert_eq!(moves.iter().map(|moved| moved.size).sum::<u64>(), 2_500 * size);
        pool.validate().unwrap();
    }
}

#[test]
fn a_slice_that_fits_into_no_hole_slides_down_over_its_own_bytes() {
    let pool = pool(layout(MIB, MIB));
    let slices: Vec<_> = (0..)
        .map_while(|at| pool.allocate_movable(if at % 2 == 0 { 2 * KIB } else { 6 * KIB }, 64, None).ok())
        .collect();
    let kept: Vec<_> = slices.iter().skip(1).step_by(2).map(|(id, slice)| (*id, *slice)).collect();
    slices.iter().step_by(2).for_each(|(id, _)| pool.free_movable(*id).unwrap());
    for (at, (_, slice)) in kept.iter().enumerate() {
        fill(&pool, slice, 6 * KIB, at as u8);
    }
    let before = pool.stats();
    assert!(pool.allocate(before.free / 2, 64).is_err(), "half of what is free is in no piece");
    let moves = defragment(&pool, usize::MAX, || true);
    assert_eq!(moves.len(), kept.len());
    for (at, (id, _)) in kept.iter().enumerate() {
        let (slice, size, _) = pool.movable(*id).unwrap();
        assert!(holds(&pool, &slice, size, at as u8), "{at}");
    }
    assert_eq!(pool.stats().fragmentation(), 0.0);
    assert!(pool.allocate(before.free, 64).is_ok());
    pool.validate().unwrap();
}

#[test]
fn empty_chunks_are_freed() {
    let pool = pool(layout(64 * KIB, MIB));
    let ids: Vec<_> = (0..64).map(|_| pool.allocate_movable(16 * KIB, 64, None).unwrap().0).collect();
    assert_eq!(pool.stats().chunks, 16);
    ids.iter().enumerate().filter(|(at, _)| at % 4 != 1).for_each(|(_, id)| pool.free_movable(*id).unwrap());
    assert_eq!(pool.stats().chunks, 16, "one block in each");
    defragment(&pool, usize::MAX, || true);
    pool.trim();
    assert_eq!((pool.stats().chunks, pool.stats().free), (4, 0));
    pool.validate().unwrap();
}

#[test]
fn a_pool_surveyed_in_pieces_is_compacted_like_one_surveyed_at_once() {
    let scattered = || {
        let pool = pool(layout(64 * KIB, 256 * KIB));
        let mut random = Random(99);
        let sizes = (0..).map(|_| 64 + random.below(2 * KIB));
        let ids: Vec<_> =
            sizes.map_while(|size| pool.allocate_movable(size, 64, None).ok()).map(|(id, _)| id).collect();
        ids.iter().step_by(2).for_each(|id| pool.free_movable(*id).unwrap());
        (pool, ids.len().div_ceil(2))
    };
    let (whole, _) = scattered();
    let moves = defragment(&whole, usize::MAX, || true);
    assert!(moves.len() > 50 && whole.stats().chunks == 4);
    for most in [1, 2, 7, 100] {
        let (pool, live) = scattered();
        let mut pass = pool.start_pass().unwrap();
        let looks = 1 + std::iter::repeat_with(|| pool.survey(&mut pass, most)).take_while(|all| !all).count();
        assert!(looks.abs_diff(live.div_ceil(most)) <= 1, "{looks} looks at {most} of {live}");
        let same = |(a, b): (&Moved, &Moved)| (a.from, a.to, a.size) == (b.from, b.to, b.size);
        let sliced = resume(&pool, pass, usize::MAX, || true);
        assert!(sliced.len() == moves.len() && sliced.iter().zip(&moves).all(same), "{most} at a time");
    }
}

#[test]
fn pinned_and_moving_slices_stay() {
    let pool = pool(layout(64 * KIB, 64 * KIB));
    let (low, _) = pool.allocate_movable(KIB, 64, None).unwrap();
    let (high, slice) = pool.allocate_movable(KIB, 64, None).unwrap();
    pool.free_movable(low).unwrap();
    pool.pin(high).unwrap();
    pool.pin(high).unwrap();
    pool.unpin(high).unwrap();
    assert!(pool.next_move(&mut pool.start_pass().unwrap()).is_none());
    assert_eq!(pool.free_movable(high).unwrap_err().code(), ErrorCode::BufferBusy);
    pool.unpin(high).unwrap();
    assert_eq!(pool.unpin(high).unwrap_err().code(), ErrorCode::OutOfRange);
    let mut pass = pool.start_pass().unwrap();
    let step = pool.next_move(&mut pass).unwrap();
    assert_eq!((step.id(), step.address(), step.size()), (high, slice.address, KIB));
    assert_eq!(pool.pin(high).unwrap_err().code(), ErrorCode::BufferBusy);
    assert_eq!(pool.free_movable(high).unwrap_err().code(), ErrorCode::BufferBusy);
    assert!(pool.next_move(&mut pool.start_pass().unwrap()).is_none(), "it is moving already");
    drop(step);
    pool.pin(high).unwrap();
    pool.unpin(high).unwrap();
    assert_eq!(pool.movable(high).unwrap().0.address, slice.address);
    pool.validate().unwrap();
}

#[test]
fn a_pool_that_ends_in_the_middle_of_a_move_takes_it_along() {
    for end in [|pool: &Pool| pool.reset(|_| true).unwrap(), |pool: &Pool| pool.destroy(true).unwrap()] {
        let pool = pool(layout(64 * KIB, 64 * KIB));
        let (low, _) = pool.allocate_movable(KIB, 64, None).unwrap();
        let (high, _) = pool.allocate_movable(KIB, 64, None).unwrap();
        pool.free_movable(low).unwrap();
        let mut pass = pool.start_pass().unwrap();
        let (first, second) = (pool.next_move(&mut pass).unwrap(), pool.movable(high).unwrap());
        end(&pool);
        assert_eq!(first.commit().unwrap(), None);
        assert!(pool.next_move(&mut pass).is_none());
        assert_eq!(pool.movable(high).unwrap_err().code(), ErrorCode::BufferFreed);
        assert_eq!(second.1, KIB);
        assert_eq!((pool.stats().live, pool.stats().allocated), (0, 0));
        pool.validate().unwrap();
    }
}

#[test]
fn a_slide_keeps_its_bytes_while_its_neighbours_are_freed() {
    // Slices a to e with holes between them. The table has the frees while c slides down over its own bytes.
    for mask in 0..16_u32 {
        let pool = pool(layout(64 * KIB, 64 * KIB));
        let sizes = [6, 2, 9, 3, 10, 5].map(|kib| kib * KIB);
        let made = sizes.map(|size| pool.allocate_movable(size, 64, None).unwrap());
        for (at, ((_, slice), size)) in made.iter().zip(sizes).enumerate() {
            fill(&pool, slice, size, at as u8);
        }
        pool.free_movable(made[1].0).unwrap();
        let mut pass = pool.start_pass().unwrap();
        let step =
            std::iter::repeat_with(|| pool.next_slide(&mut pass).unwrap()).find(|step| step.id() == made[2].0).unwrap();
        let freed: Vec<usize> =
            [0, 3, 4, 5].into_iter().enumerate().filter(|(bit, _)| mask & 1 << bit != 0).map(|(_, at)| at).collect();
        for at in &freed {
            pool.free_movable(made[*at].0).unwrap();
        }
        let moved = step.commit().unwrap().unwrap();
        assert_eq!((moved.from.offset, moved.to.offset), (8 * KIB, 6 * KIB), "{freed:?}");
        pool.validate().unwrap();
        for at in [0, 2, 3, 4, 5].into_iter().filter(|at| !freed.contains(at)) {
            let (slice, size, _) = pool.movable(made[at].0).unwrap();
            assert!(holds(&pool, &slice, size, at as u8), "slice {at} after {freed:?}");
            pool.free_movable(made[at].0).unwrap();
        }
        assert_eq!((pool.stats().allocated, pool.stats().largest_free), (0, 64 * KIB));
    }
}

#[test]
fn a_pass_that_stops_at_any_point_leaves_the_pool_valid() {
    let build = || {
        let pool = pool(layout(64 * KIB, 256 * KIB));
        let mut random = Random(4711);
        let mut live = HashMap::new();
        let mut ids = Vec::new();
        while let Ok((id, slice)) = {
            let size = 1 + random.below(6 * KIB);
            pool.allocate_movable(size, 64, None)
        } {
            let size = pool.movable(id).unwrap().1;
            fill(&pool, &slice, size, ids.len() as u8);
            live.insert(id, Known { slice, size, byte: ids.len() as u8, align: 64, pins: 0 });
            ids.push(id);
        }
        for id in ids.iter().step_by(2) {
            pool.free_movable(*id).unwrap();
            live.remove(id);
        }
        (pool, live)
    };
    let (whole, mut live) = build();
    let moves = defragment(&whole, usize::MAX, || true);
    follow(&whole, &mut live, &moves);
    assert!(moves.len() > 10);
    for stop in 0..=moves.len() {
        // Stops after `stop` moves, and after as many with one more begun and dropped.
        for begun in [false, true] {
            let (pool, mut live) = build();
            let mut made = 0;
            let moves = defragment(&pool, stop + usize::from(begun), || {
                made += 1;
                made <= stop
            });
            follow(&pool, &mut live, &moves);
            check(&pool, &live, &[]);
        }
    }
}

#[test]
fn a_driver_that_fails_in_the_middle_of_a_move_costs_no_byte() {
    for nth in 1.. {
        let simulated = Simulated::new(Options::default()).unwrap();
        let faulty = Arc::new(FaultInjecting::new(Arc::new(simulated)));
        let device = Device::new(Arc::clone(&faulty) as Arc<dyn Backend>);
        let source = Source::Npu { device, request: Request::plain(64 * KIB), dirty: true };
        let pool = Pool::new(Some("test".into()), source, layout(64 * KIB, 64 * KIB), None).unwrap();
        // Two slices move into holes, and one slides down over its own bytes.
        let sizes = [2, 6, 2, 6, 1, 1, 2].map(|kib| kib * KIB);
        let made = sizes.map(|size| pool.allocate_movable(size, 64, None).unwrap());
        for (at, ((_, slice), size)) in made.iter().zip(sizes).enumerate() {
            fill(&pool, slice, size, at as u8);
        }
        [0, 2, 4].into_iter().for_each(|at: usize| pool.free_movable(made[at].0).unwrap());
        faulty.fail(Fault::new(Call::Sync, nth, libc::EIO));
        let mut pass = pool.start_pass().unwrap();
        let mut failures = 0;
        while let Some(step) = pool.next_move(&mut pass) {
            failures += usize::from(step.commit().is_err());
        }
        pool.validate().unwrap();
        for at in [1, 3, 5, 6] {
            let (slice, size, _) = pool.movable(made[at].0).unwrap();
            assert!(holds(&pool, &slice, size, at as u8), "slice {at}, sync {nth}");
        }
        defragment(&pool, usize::MAX, || true);
        assert_eq!(pool.stats().fragmentation(), 0.0, "what could not be moved then is moved now");
        if faulty.pending() > 0 {
            assert!(nth > 9 && failures == 0, "{nth}");
            return;
        }
        assert_eq!(failures, 1, "sync {nth}");
    }
}
