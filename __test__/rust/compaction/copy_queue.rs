//! Compaction with a second thread that copies: `CopyQueue`.

use rkllmjs_memory::pool::CopyQueue;

use super::*;

/// Makes all moves, or the first `limit`, with a second thread that copies. Drops each move for which `keep` returns
/// false. Returns the moves and the number of failures.
fn defragment_aided(pool: &Pool, limit: usize, mut keep: impl FnMut() -> bool) -> (Vec<Moved>, usize) {
    let mut pass = pool.start_pass().unwrap();
    let (mut queue, mut moves, mut failures) = (CopyQueue::new(true), Vec::new(), 0);
    let mut arrived = |queue: &mut CopyQueue<'_>| {
        while let Some(result) = queue.next_result() {
            match result {
                Ok(moved) => moves.extend(moved),
                Err(_) => failures += 1,
            }
        }
    };
    for _ in 0..limit {
        let step = pool.next_fill(&mut pass).or_else(|| {
            queue.finish();
            pool.next_slide(&mut pass)
        });
        let Some(step) = step else { break };
        if keep() {
            queue.add(step);
        }
        arrived(&mut queue);
    }
    queue.finish();
    arrived(&mut queue);
    assert_eq!((queue.moves(), queue.bytes()), (moves.len() as u64, moves.iter().map(|moved| moved.size).sum()));
    (moves, failures)
}

/// A pool of 4 MiB chunks with slices of up to 300 KiB, every second freed: enough work for a second thread.
fn large() -> (Pool, HashMap<Handle, Known>) {
    let pool = pool(layout(4 * MIB, 16 * MIB));
    let mut random = Random(31);
    let mut live = HashMap::new();
    let mut made = 0_usize;
    while let Ok((id, slice)) = pool.allocate_movable(1 + random.below(300 * KIB), 64, None) {
        let (size, byte) = (pool.movable(id).unwrap().1, made as u8);
        fill(&pool, &slice, size, byte);
        live.insert(id, Known { slice, size, byte, align: 64, pins: 0 });
        made += 1;
    }
    let mut ids: Vec<_> = live.keys().copied().collect();
    ids.sort_unstable_by_key(|id| id.get());
    for id in ids.iter().step_by(2) {
        pool.free_movable(*id).unwrap();
        live.remove(id);
    }
    (pool, live)
}

#[test]
fn with_a_second_thread_everything_goes_to_the_same_places() {
    let (alone, mut live) = large();
    let moves = defragment(&alone, usize::MAX, || true);
    follow(&alone, &mut live, &moves);
    let (pool, mut live) = large();
    let (aided, failures) = defragment_aided(&pool, usize::MAX, || true);
    follow(&pool, &mut live, &aided);
    check(&pool, &live, &[]);
    let bytes: u64 = aided.iter().map(|moved| moved.size).sum();
    assert!(bytes > 3 * MIB, "{bytes} bytes are hardly worth a second thread");
    let spots = |moves: &[Moved]| {
        let mut spots: Vec<_> = moves.iter().map(|moved| (moved.from, moved.to, moved.size)).collect();
        spots.sort_unstable_by_key(|(from, to, _)| (from.chunk, from.offset, to.chunk, to.offset));
        spots
    };
    assert_eq!((spots(&aided), failures), (spots(&moves), 0));
}

#[test]
fn with_a_second_thread_a_pass_can_stop_and_moves_can_be_dropped_at_any_point() {
    let mut random = Random(77);
    for stop in (0..60).chain([usize::MAX]) {
        let (pool, mut live) = large();
        let (moves, _) = defragment_aided(&pool, stop, || random.below(5) > 0);
        follow(&pool, &mut live, &moves);
        check(&pool, &live, &[]);
        // A second pass makes the moves that were left.
        let (moves, _) = defragment_aided(&pool, usize::MAX, || true);
        follow(&pool, &mut live, &moves);
        check(&pool, &live, &[]);
    }
}

#[test]
fn a_dropped_batch_has_moved_each_slice_or_left_it_alone() {
    for taken in [1, 5, 20, 40, usize::MAX] {
        let (pool, live) = large();
        let mut pass = pool.start_pass().unwrap();
        let mut queue = CopyQueue::new(true);
        while queue.moves() < taken as u64 {
            let Some(step) = pool.next_move(&mut pass) else { break };
            queue.add(step);
        }
        drop(queue);
        pool.validate().unwrap();
        for (id, known) in &live {
            let (slice, size, _) = pool.movable(*id).unwrap();
            assert!(size == known.size && holds(&pool, &slice, size, known.byte), "{slice:?} lost its bytes");
            pool.free_movable(*id).unwrap();
        }
        assert_eq!((pool.stats().live, pool.stats().allocated), (0, 0), "nothing is reserved any more");
    }
}

#[test]
fn with_a_second_thread_a_pool_that_ends_takes_its_moves_along() {
    for end in [|pool: &Pool| pool.reset(|_| true).unwrap(), |pool: &Pool| pool.destroy(true).unwrap()] {
        let (pool, _) = large();
        let mut pass = pool.start_pass().unwrap();
        let mut queue = CopyQueue::new(true);
        while let Some(step) = pool.next_fill(&mut pass) {
            queue.add(step);
            if queue.bytes() > 2 * MIB {
                break;
            }
        }
        end(&pool);
        queue.finish();
        assert!(queue.moves() > 0, "those that had arrived before");
        while let Some(result) = queue.next_result() {
            result.unwrap();
        }
        assert_eq!((pool.stats().live, pool.stats().allocated), (0, 0));
        pool.validate().unwrap();
    }
}

#[test]
fn with_a_second_thread_others_use_the_pool_meanwhile() {
    let (pool, mut live) = large();
    let over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| {
            let mut random = Random(5);
            let mut mine: Vec<(Handle, u64, u8)> = Vec::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                if mine.len() < 20 && random.below(2) == 0 {
                    let (size, byte) = (1 + random.below(40 * KIB), random.next() as u8);
                    let Ok((id, slice)) = pool.allocate_movable(size, 64, None) else { continue };
                    // The pin keeps it in place during the write.
                    if pool.pin(id).is_ok() {
                        let (slice, ..) = pool.movable(id).map_or((slice, 0, None), |found| found);
                        fill(&pool, &slice, size, byte);
                        pool.unpin(id).unwrap();
                        mine.push((id, size, byte));
                    } else {
                        while pool.free_movable(id).is_err() {
                            std::thread::yield_now();
                        }
                    }
                } else if let Some(at) = (!mine.is_empty()).then(|| random.below(mine.len() as u64) as usize) {
                    let (id, size, byte) = mine[at];
                    if pool.pin(id).is_err() {
                        continue;
                    }
                    let (slice, ..) = pool.movable(id).unwrap();
                    assert!(holds(&pool, &slice, size, byte), "{slice:?} lost its bytes");
                    pool.unpin(id).unwrap();
                    if pool.free_movable(id).is_ok() {
                        mine.swap_remove(at);
                    }
                }
            }
            mine
        });
        for _ in 0..8 {
            let (moves, _) = defragment_aided(&pool, usize::MAX, || true);
            for moved in moves {
                if let Some(known) = live.get_mut(&moved.handle) {
                    (known.slice, ..) = pool.movable(moved.handle).unwrap();
                }
            }
            // Leaves moves for the next pass.
            let lowest: Vec<_> = live.keys().copied().take(live.len() / 8).collect();
            for id in lowest {
                pool.free_movable(id).unwrap();
                live.remove(&id);
            }
        }
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        for (id, ..) in other.join().unwrap() {
            pool.free_movable(id).unwrap();
        }
    });
    check(&pool, &live, &[]);
}

#[test]
fn a_driver_that_fails_a_second_thread_costs_no_byte() {
    for nth in [1, 95, 96, 97, 98, 120, 150, 200, 250] {
        let simulated = Simulated::new(Options::default()).unwrap();
        let faulty = Arc::new(FaultInjecting::new(Arc::new(simulated)));
        let device = Device::new(Arc::clone(&faulty) as Arc<dyn Backend>);
        let source = Source::Npu { device, request: Request::plain(12 * MIB), dirty: true };
        let pool = Pool::new(Some("test".into()), source, layout(12 * MIB, 12 * MIB), None).unwrap();
        let made: Vec<_> = std::iter::from_fn(|| pool.allocate_movable(32 * KIB, 64, None).ok()).collect();
        for (at, (_, slice)) in made.iter().enumerate() {
            fill(&pool, slice, 32 * KIB, at as u8);
        }
        made.iter().step_by(2).for_each(|(id, _)| pool.free_movable(*id).unwrap());
        faulty.fail(Fault::new(Call::Sync, nth, libc::EIO));
        let (_, failures) = defragment_aided(&pool, usize::MAX, || true);
        assert_eq!(failures, 1, "sync {nth}");
        pool.validate().unwrap();
        for (at, (id, _)) in made.iter().enumerate().skip(1).step_by(2) {
            let (slice, size, _) = pool.movable(*id).unwrap();
            assert!(holds(&pool, &slice, size, at as u8), "slice {at}, sync {nth}");
        }
    }
}
