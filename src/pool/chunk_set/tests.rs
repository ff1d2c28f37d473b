//! Tests of the set of chunks: the chunks that a request tries, the empty chunk that is kept, and `check`.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::suballoc::Tlsf;

const CHUNK: u64 = 4096;

type Set = ChunkSet<Box<dyn SubAllocator>>;

fn set(count: u64) -> Set {
    let mut set = Set::new(64);
    for _ in 0..count {
        set.reserved += CHUNK;
        set.add(Box::new(Tlsf::new(CHUNK, 64).unwrap()));
    }
    set
}

fn take(set: &mut Set, size: u64, alignment: u64) -> Option<(Handle, RegionId)> {
    set.take(size, alignment, |handle, _, region| (handle, region.id))
}

/// The tries of `work`.
fn tries<T>(set: &mut Set, work: impl FnOnce(&mut Set) -> T) -> (T, usize) {
    let before = set.tries;
    let result = work(set);
    (result, set.tries - before)
}

/// Counts tries, not time.
#[test]
fn a_request_tries_two_chunks_of_twenty_thousand() {
    let mut set = set(20_000);
    let slices: Vec<_> = (0..20_000).map(|_| take(&mut set, CHUNK, 64).unwrap()).collect();
    assert!(set.tries <= 2 * slices.len(), "{} tries", set.tries);
    for size in [64, 128, CHUNK] {
        let (refused, tries) = tries(&mut set, |set| take(set, size, 64));
        assert!(refused.is_none() && tries <= 1, "{tries} tries of a refused request");
    }
    assert_eq!((set.largest_free(), set.check()), (0, Ok(())));
    for (number, (handle, region)) in slices.iter().enumerate().step_by(1999) {
        set.free(*handle, *region).unwrap();
        assert_eq!(set.largest_free(), CHUNK);
        let (taken, tries) = tries(&mut set, |set| take(set, CHUNK, 64).unwrap());
        assert!(taken.0 == *handle && tries <= 2, "chunk {number}: {tries} tries");
    }
}

/// The first refusal of an alignment looks at every chunk that is large enough, the next ones at none.
#[test]
fn a_refused_alignment_is_remembered_for_each_chunk() {
    let mut set = set(500);
    // Each chunk is free but for its middle, and no half has room for an aligned 2048.
    for handle in set.handles().collect::<Vec<_>>() {
        let taken = [64, 1984, 64, 1984].map(|size| set.take_from(handle, size, 64, |_, _, region| region.id));
        for region in [taken[1], taken[3]] {
            set.free(handle, region.unwrap()).unwrap();
        }
    }
    assert!(take(&mut set, 1024, 1024).is_some() && take(&mut set, 1984, 2048).is_none());
    let (refused, tries_of_next) = tries(&mut set, |set| take(set, 1984, 2048));
    assert!(refused.is_none() && tries_of_next <= 1, "{tries_of_next} tries");
    assert_eq!(set.check(), Ok(()));
}

#[test]
fn one_empty_chunk_is_kept_and_a_free_visits_no_other() {
    let mut set = set(0);
    // As a pool grows.
    let grow = |_| {
        set.reserved += CHUNK;
        let handle = set.add(Box::new(Tlsf::new(CHUNK, 64).unwrap()));
        set.take_from(handle, CHUNK, 64, |handle, _, region| (handle, region.id)).unwrap()
    };
    let slices: Vec<_> = (0..1000).map(grow).collect();
    for (number, (handle, region)) in slices.iter().enumerate() {
        let (_, _, idle) = set.free(*handle, *region).unwrap();
        assert!(idle && set.empty.len() <= 2, "{} chunks are listed", set.empty.len());
        assert_eq!(set.take_leftover(0).len(), usize::from(number > 0));
    }
    assert_eq!((set.len(), set.reserved, set.capacity, set.check()), (1, CHUNK, CHUNK, Ok(())));
    let listed = set.take_listed();
    let idle = set.idle_of(&listed);
    assert_eq!((set.remove_idle(&idle, 0).len(), set.len(), set.check()), (1, 0, Ok(())));
}

/// Between the steps of a trim the lock is free.
#[test]
fn a_chunk_that_is_used_again_while_a_trim_pauses_stays() {
    let mut set = set(3);
    let listed = set.take_listed();
    let idle = set.idle_of(&listed);
    let (used, region) = take(&mut set, 64, 64).unwrap();
    assert_eq!((set.remove_idle(&idle, 0).len(), set.len(), set.reserved), (2, 1, CHUNK));
    set.free(used, region).unwrap();
    let listed = set.take_listed();
    assert_eq!(listed, [used]);
    let idle = set.idle_of(&listed);
    set.take_leftover(0);
    assert_eq!((set.remove_idle(&idle, CHUNK).len(), set.check()), (0, Ok(())), "the initial size stays");
    assert_eq!((set.remove_idle(&[idle[0], idle[0]], 0).len(), set.reserved), (1, 0), "a chunk goes once");
}

/// Requests of one alignment leave no bound of another too high. Counts visits, not time.
#[test]
fn the_largest_free_region_is_found_without_a_look_at_each_chunk() {
    let mut set = set(2_000);
    while take(&mut set, 1024, 1024).is_some() {}
    for handle in set.handles().collect::<Vec<_>>() {
        assert!(set.get(handle).unwrap().arena().largest_free() < 1024);
    }
    visits::take();
    assert_eq!((set.largest_free(), set.check()), (0, Ok(())));
    let visits = visits::take();
    assert!(visits < 4, "{visits} chunks");
}

/// A chunk whose slices wait.
struct Waiting(Box<dyn SubAllocator>);

impl HasArena for Waiting {
    fn arena(&self) -> &dyn SubAllocator {
        &*self.0
    }
    fn arena_mut(&mut self) -> &mut dyn SubAllocator {
        &mut *self.0
    }
    fn is_idle(&self) -> bool {
        true
    }
}

/// A pool that grows and shrinks for days is never trimmed.
#[test]
fn the_lists_forget_chunks_that_went_after_a_wait() {
    let mut set = ChunkSet::new(64);
    for _ in 0..1000 {
        set.reserved += CHUNK;
        let handle = set.add(Waiting(Box::new(Tlsf::new(CHUNK, 64).unwrap())));
        let region = set.take_from(handle, CHUNK, 64, |_, _, region| region.id).unwrap();
        set.list(handle);
        set.free(handle, region).unwrap();
        set.take_leftover(0);
    }
    assert_eq!((set.len(), set.check()), (1, Ok(())));
    assert!(set.idle.len() + set.empty.len() < 100, "{} and {}", set.idle.len(), set.empty.len());
}

/// Each line breaks one invariant; a check that cannot fail proves nothing.
#[test]
fn check_finds_damage() {
    let damages: &[fn(&mut Set)] = &[
        |set| set.capacity += 64,
        |set| set.empty.clear(),
        |set| set.order.set(0, 64),
        |set| set.chunks.iter_mut().for_each(|(_, member)| member.at ^= 1),
        |set| {
            let first = set.handles().next().unwrap();
            set.chunks.get_mut(first).unwrap().in_idle = true;
        },
    ];
    for (number, damage) in damages.iter().enumerate() {
        let mut set = set(2);
        assert_eq!(set.check(), Ok(()));
        damage(&mut set);
        assert!(set.check().is_err(), "damage {number} went unnoticed");
    }
}

/// Random steps: the index stays right, and a request is refused only if no chunk has room.
#[test]
fn a_request_is_refused_only_if_no_chunk_has_room() {
    let mut set = set(40);
    let (mut live, mut seed) = (Vec::new(), 7_u64);
    for step in 0..4_000 {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let random = seed >> 33;
        if random % 5 < 3 || live.is_empty() {
            let (size, alignment) = (64 + random % 2000, 64 << ((random >> 8) % 4));
            match take(&mut set, size, alignment) {
                Some(taken) => live.push(taken),
                None => {
                    let handles: Vec<_> = set.handles().collect();
                    let mut fits = |handle: &Handle| set.take_from(*handle, size, alignment, |_, _, _| ()).is_some();
                    assert!(!handles.iter().any(&mut fits), "step {step}: a chunk has room");
                }
            }
        } else {
            let (handle, region) = live.swap_remove(random as usize % live.len());
            set.free(handle, region).unwrap();
            set.take_leftover(0);
        }
        if step % 50 == 0 {
            assert_eq!(set.check(), Ok(()), "step {step}");
        }
    }
}
