//! Suballocator benchmark: the longest request beside many holes, and the placement against an exact best fit.
//!
//! ```text
//! cargo bench --no-default-features --bench suballoc-extremes
//! cargo bench --no-default-features --bench suballoc-extremes -- --once served
//! ```
//!
//! `--once` makes the holes and one kind of request beside them (`served`, `refused`, `aligned`), or `none`, for
//! `benchmark/suballoc-instructions.sh`.
//!
//! Apart from `suballoc.rs`: a second user of the suballocator in one program changes what the compiler inlines, and so
//! the instruction counts.

#![allow(clippy::print_stdout)] // printing is what it is for

#[allow(dead_code)] // the trace is for suballoc.rs
#[path = "suballoc/workload.rs"]
mod workload;

use nix::time::{clock_gettime, ClockId};
use rkllmjs_memory::suballoc::{RegionId, SubAllocator, Tlsf};
use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use workload::{random, Step};

const ARENA: u64 = 16 << 30;
const UNIT: u64 = 64;

/// The smallest hole: its bin has holes of up to 1.6 per cent more.
const HOLE: u64 = UNIT << 20;

/// The number of sizes in that bin.
const SIZES: u64 = 1 << 14;

/// An arena with `count` holes of nearly one size in one bin, a used region after each, and nothing else free.
struct Holes {
    arena: Tlsf,
    sizes: BTreeSet<u64>,
}

fn holes(count: u64) -> Holes {
    let size = |n: u64| HOLE + n.wrapping_mul(0x9E37_79B9_7F4A_7C15) % SIZES * UNIT;
    let capacity = (0..count).map(|n| size(n) + UNIT).sum();
    let mut arena = Tlsf::new(capacity, UNIT).expect("valid layout");
    let mut take = |size| arena.allocate(size, UNIT, 0).expect("the arena is large enough").id;
    let ids: Vec<RegionId> = (0..count).map(|n| [take(size(n)), take(UNIT)][0]).collect();
    for id in ids {
        arena.free(id).expect("live");
    }
    Holes { arena, sizes: (0..count).map(size).collect() }
}

fn spread(name: &str, mut times: Vec<f64>) {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize] / 1000.0;
    println!("  {name:38} {:8.2} µs median, {:8.2} p99.9, {:8.2} most", at(0.5), at(0.999), at(1.0));
}

fn time<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = now_ns();
    let result = black_box(work());
    (now_ns() - start, result)
}

/// Returns the processor time of this thread.
fn now_ns() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64
}

/// Times requests that only some of the holes can serve, or none.
fn longest() {
    for count in [40_000, 400_000] {
        println!("{count} holes in one bin:");
        let Holes { mut arena, sizes } = holes(count);
        let needs: Vec<u64> = sizes.iter().rev().copied().take(1000).collect();
        let (mut served, mut freed) = (Vec::new(), Vec::new());
        for turn in 0..20_000 {
            let (took, region) = time(|| arena.allocate(needs[turn % needs.len()], UNIT, 0));
            served.push(took);
            freed.push(time(|| arena.free(region.expect("a hole fits").id)).0);
        }
        spread("a request served", served);
        spread("its free", freed);
        let refused = |arena: &mut Tlsf, size, align| time(|| assert!(arena.allocate(size, align, 0).is_none())).0;
        spread("a request refused", (0..20_000).map(|_| refused(&mut arena, HOLE + SIZES * UNIT, UNIT)).collect());
        println!(
            "  an aligned request refused, at first    {:8.2} µs",
            refused(&mut arena, HOLE + UNIT, 1 << 50) / 1000.0
        );
        spread(
            "an aligned request refused, repeated",
            (0..20_000).map(|_| refused(&mut arena, HOLE + UNIT, 1 << 50)).collect(),
        );
    }
}

/// The highest address of an exact best fit, the lowest of holes of one size first.
fn best_fit(steps: &[Step]) -> u64 {
    let mut holes: BTreeMap<u64, u64> = BTreeMap::from([(0, ARENA)]);
    let mut by_size: BTreeSet<(u64, u64)> = BTreeSet::from([(ARENA, 0)]);
    let mut blocks: BTreeMap<u32, (u64, u64)> = BTreeMap::new();
    let mut top = 0;
    for step in steps {
        match *step {
            Step::Allocate { block, size } => {
                let size = size.next_multiple_of(UNIT);
                let (hole, at) = *by_size.range((size, 0)..).next().expect("the arena is large enough");
                by_size.remove(&(hole, at));
                holes.remove(&at);
                if hole > size {
                    holes.insert(at + size, hole - size);
                    by_size.insert((hole - size, at + size));
                }
                top = top.max(at + size);
                blocks.insert(block, (at, size));
            }
            Step::Free { block } => {
                let (mut at, mut size) = blocks.remove(&block).expect("live");
                if let Some(above) = holes.remove(&(at + size)) {
                    by_size.remove(&(above, at + size));
                    size += above;
                }
                if let Some((&below, &bytes)) =
                    holes.range(..at).next_back().filter(|(&below, &bytes)| below + bytes == at)
                {
                    holes.remove(&below);
                    by_size.remove(&(bytes, below));
                    (at, size) = (below, size + bytes);
                }
                holes.insert(at, size);
                by_size.insert((size, at));
            }
        }
    }
    top
}

/// The highest address of the suballocator.
fn highest(steps: &[Step], blocks: usize) -> u64 {
    let mut arena = Tlsf::new(ARENA, UNIT).expect("valid layout");
    let mut ids = vec![RegionId::from_raw(0); blocks];
    let mut top = 0;
    for step in steps {
        match *step {
            Step::Allocate { block, size } => {
                let region = arena.allocate(size, UNIT, 0).expect("the arena is large enough");
                ids[block as usize] = region.id;
                top = top.max(region.end());
            }
            Step::Free { block } => assert!(arena.free(ids[block as usize]).is_ok()),
        }
    }
    top
}

/// Compares the highest addresses on `count` random workloads.
fn tightness(count: u64) {
    let ratios: Vec<f64> = (1..=count)
        .map(|seed| {
            let workload = random(200_000, seed);
            highest(&workload.steps, workload.blocks) as f64 / best_fit(&workload.steps) as f64
        })
        .collect();
    let average = ratios.iter().sum::<f64>() / ratios.len() as f64;
    let worst = ratios.iter().copied().fold(0.0, f64::max);
    println!(
        "highest address over that of an exact best fit, {count} workloads: {average:.4} on average, {worst:.4} most"
    );
}

/// The holes of a run that is counted, and its requests: enough that a search of every hole would show.
const COUNTED_HOLES: u64 = 100_000;
const COUNTED_REQUESTS: usize = 2_000;

/// Makes one kind of request beside the holes, or none. Returns whether there is such a kind.
fn once(kind: &str) -> bool {
    let Holes { mut arena, sizes } = holes(COUNTED_HOLES);
    let needs: Vec<u64> = sizes.iter().rev().copied().take(COUNTED_REQUESTS).collect();
    for &need in &needs {
        match kind {
            "served" => {
                let region = arena.allocate(need, UNIT, 0).expect("a hole fits");
                arena.free(region.id).expect("live");
            }
            "refused" => assert!(arena.allocate(HOLE + SIZES * UNIT, UNIT, 0).is_none()),
            // One size: the first refusal looks at every hole, and the others remember it.
            "aligned" => assert!(arena.allocate(HOLE + UNIT, 1 << 50, 0).is_none()),
            "none" => {}
            _ => return false,
        }
    }
    black_box(arena);
    true
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if let Some(at) = args.iter().position(|arg| arg == "--once") {
        let kind = args.get(at + 1).map_or("", String::as_str);
        assert!(once(kind), "--once takes served, refused, aligned or none");
        return;
    }
    longest();
    tightness(40);
}
