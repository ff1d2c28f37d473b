//! Pool benchmark: the cost of the lock and the counters over the suballocator, the cost of limits in the accounting,
//! the speed of compaction's copies, and the memory of a million live slices.
//!
//! ```text
//! cargo bench --no-default-features --bench pool
//! ```

#![allow(clippy::print_stdout)] // printing is what it is for

use std::hint::black_box;
use std::sync::Arc;

use nix::time::{clock_gettime, ClockId};
use rkllmjs_memory::accounting::{Account, Accounting, AllocationEvent, Limit, Limits, WARN_AT};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::id::AllocationId;
use rkllmjs_memory::pool::{Layout, Pool, Slice};
use rkllmjs_memory::profile::{Action, Options, Profiler};
use rkllmjs_memory::suballoc::{Fixed, SubAllocator, Tlsf};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::MemoryKind;

const ARENA: u64 = 64 << 20;
const SIZE: u64 = 64 << 10;
const ROUNDS: usize = 101;
const CALLS: u32 = 10_000;
const MANY: usize = 1_000_000;
const BLOCKS: u64 = 10_000;

struct Contestant {
    name: &'static str,
    call: Box<dyn FnMut()>,
    times: Vec<f64>,
}

impl Contestant {
    fn new(name: &'static str, call: impl FnMut() + 'static) -> Self {
        Self { name, call: Box::new(call), times: Vec::new() }
    }
}

fn main() {
    let (tlsf, fixed) = (pool(ARENA, None), pool(ARENA, Some(SIZE)));
    let mut bare_tlsf = Tlsf::new(ARENA, 64).expect("valid layout");
    let mut bare_fixed = Fixed::new(ARENA, SIZE).expect("valid layout");
    for _ in 0..50 {
        take(&tlsf);
        take(&fixed);
        bare_tlsf.allocate(SIZE, 64, 0).expect("room");
        bare_fixed.allocate(SIZE, 64, 0).expect("room");
    }
    let (plain, profiled) = (pool(ARENA, None), pool(ARENA, None));
    profiled.record(Some(&Profiler::new(Options { sample_interval: 512 << 10, event_capacity: 1 << 16 })));
    let mut contestants = [
        Contestant::new("Pool", move || give(&tlsf, &take(&tlsf))),
        Contestant::new("Pool, 4 KiB", move || drop(plain.allocate(4096, 64).map(|slice| give(&plain, &slice)))),
        Contestant::new("the same, profiled", move || {
            drop(profiled.allocate(4096, 64).map(|slice| give(&profiled, &slice)))
        }),
        Contestant::new("Tlsf alone", move || turn(&mut bare_tlsf)),
        Contestant::new("Pool, fixed blocks", move || give(&fixed, &take(&fixed))),
        Contestant::new("Fixed alone", move || turn(&mut bare_fixed)),
    ];
    for round in 0..ROUNDS {
        for at in 0..contestants.len() {
            let count = contestants.len();
            let Contestant { call, times, .. } = &mut contestants[(at + round) % count];
            let start = now_ns();
            for _ in 0..CALLS {
                call();
            }
            times.push((now_ns() - start) / f64::from(CALLS));
        }
    }
    println!("allocate(64 KiB) + free, median of {ROUNDS} rounds");
    for Contestant { name, times, .. } in &mut contestants {
        times.sort_by(f64::total_cmp);
        println!("  {name:20} {:6.1} ns", times[times.len() / 2]);
    }
    drop(contestants);
    let [without, with] = accounting();
    println!("admitted, allocated and freed, by the accounting of a manager, median of {ROUNDS} rounds");
    println!("  without limits       {without:6.1} ns");
    println!("  npu, total, a tag    {with:6.1} ns");

    println!("{BLOCKS} blocks, every second freed, compacted: speed of the pass, and of its copying, to memcpy's");
    for size in [64 << 10, 16 << 10] {
        let [pass, copying] = compaction(size);
        println!("  {:2} KiB               {pass:6.2} {copying:6.2}", size >> 10);
    }

    println!("{MANY} live slices, growth of this process");
    for (name, block) in [("Pool", None), ("Pool, fixed blocks", Some(64))] {
        let before = resident();
        let pool = pool(64 * MANY as u64, block);
        for _ in 0..MANY {
            black_box(pool.allocate(64, 64).expect("room"));
        }
        println!("  {name:20} {:6.1} bytes a slice", (resident() - before) as f64 / MANY as f64);
    }
}

fn pool(bytes: u64, block: Option<u64>) -> Pool {
    let layout = Layout { initial: bytes, max: bytes, chunk: bytes, block, alignment: 64, delay: 0 };
    let pages = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(None, pages, layout, None).expect("memory for a pool")
}

/// Measures one allocation and its free in the accounting, in turn without limits and with limits of every kind.
fn accounting() -> [f64; 2] {
    let tag: Arc<str> = "kv".into();
    let accounts = [false, true].map(|limited| {
        let accounting = Accounting::new(&[]);
        if limited {
            let limit = || Limit::new(Some(1 << 40), &WARN_AT);
            let tags = vec![(Arc::clone(&tag), limit())];
            accounting.set_limits(Limits { npu: Some(limit()), system: None, total: Some(limit()), tags });
        }
        Account { accounting, kind: Some(MemoryKind::Npu), tag: Some(Arc::clone(&tag)) }
    });
    let handle = Handle::from_raw(1);
    let event = Some(AllocationEvent {
        id: AllocationId::next(),
        size: SIZE,
        kind: MemoryKind::Npu,
        tag: Some(&tag),
        pool: None,
    });
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..2 * ROUNDS {
        let (account, times) = (&accounts[round % 2], &mut times[round % 2]);
        let start = now_ns();
        for _ in 0..CALLS {
            black_box(account.admit(black_box(SIZE)).expect("room").allocated(handle, SIZE, event));
            account.freed(handle, SIZE, event.map(|event| (Action::Free, event)));
        }
        times.push((now_ns() - start) / f64::from(CALLS));
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}

/// Measures a pass, and the commits of its moves, against memcpy of as many blocks within an equally large memory.
fn compaction(size: u64) -> [f64; 2] {
    let mut ratios = [Vec::new(), Vec::new()];
    let mut memory = vec![1_u8; (BLOCKS * size) as usize];
    for _ in 0..11 {
        let bytes = BLOCKS * size;
        let layout = Layout { initial: bytes, max: bytes, chunk: bytes, block: None, alignment: 64, delay: 0 };
        let pages = PageOptions { alignment: page_size(), prefault: true, ..PageOptions::default() };
        let pool = Pool::new(None, Source::System(pages), layout, None).expect("memory for a pool");
        let blocks: Vec<_> = (0..BLOCKS).map(|_| pool.allocate_movable(size, 64, None).expect("room").0).collect();
        blocks.iter().step_by(2).for_each(|id| pool.free_movable(*id).expect("live"));
        let (began, mut copying, mut moves) = (now_ns(), 0.0, 0);
        let mut pass = pool.start_pass().expect("a pool");
        while let Some(step) = pool.next_move(&mut pass) {
            let began = now_ns();
            black_box(step.commit().expect("pages can be copied"));
            copying += now_ns() - began;
            moves += 1;
        }
        let pass = now_ns() - began;
        let began = now_ns();
        for at in 0..moves {
            let (from, to) = (memory.len() - (2 * at + 1) * size as usize, 2 * at * size as usize);
            memory.copy_within(from..from + size as usize, to);
        }
        let memcpy = now_ns() - began;
        black_box(&memory);
        ratios[0].push(memcpy / pass);
        ratios[1].push(memcpy / copying);
    }
    ratios.map(|mut ratios| {
        ratios.sort_by(f64::total_cmp);
        ratios[ratios.len() / 2]
    })
}

fn take(pool: &Pool) -> Slice {
    black_box(pool.allocate(black_box(SIZE), 64).expect("room"))
}

fn give(pool: &Pool, slice: &Slice) {
    pool.free(slice.chunk, slice.region).expect("live");
}

fn turn(arena: &mut impl SubAllocator) {
    let region = black_box(arena.allocate(black_box(SIZE), 64, SIZE).expect("room"));
    arena.free(region.id).expect("live");
}

/// Returns the resident bytes of this process. The pool's own pages are not resident, because nothing writes to them.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has this file");
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number");
    pages * page_size()
}

/// Returns the processor time of this thread: other load on the machine counts only through its caches.
fn now_ns() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64
}
