//! Suballocator benchmark: nanoseconds an operation, and the highest address of the arena in use.
//!
//! ```text
//! cargo bench --no-default-features --bench suballoc
//! cargo bench --no-default-features --bench suballoc -- --trace AzureLLMInferenceTrace_code.csv --rounds 21 --check
//! cargo bench --no-default-features --bench suballoc -- --once tlsf --workload random
//! ```
//!
//! Two workloads, each recorded once and then replayed on every suballocator, interleaved, on the same operations:
//!
//! - `trace`: an LLM server with 8 requests at a time. The lengths come from a CSV with the columns of Azure's LLM
//!   inference traces (`TIMESTAMP,ContextTokens,GeneratedTokens`; Azure/AzurePublicDataset, CC-BY), or by default from
//!   a generator with the same marginal distributions (see [`workload::lengths`]), whose peaks are rarer and therefore
//!   leave every allocator less well packed: the target for `reach` is for the real trace only;
//! - `random`: 2,000,000 operations, log-uniform 64 B..1 MiB, 20,000 live.
//!
//! offset-allocator counts in units of 64 bytes here: its sizes are 32 bits. `reach` is the highest address ever used
//! over the peak of requested live bytes: 1 would be perfect packing. Times are processor time of the one thread; the
//! ratio is the median over rounds of each round's ratio.
//!
//! `--check` makes the exit status 1 when a figure misses its target. `--once` replays a quarter of a workload once on
//! one suballocator, or on `none`, for `benchmark/suballoc-instructions.sh`.

#![allow(clippy::print_stdout)] // printing is what it is for

#[path = "suballoc/workload.rs"]
mod workload;

use nix::time::{clock_gettime, ClockId};
use rkllmjs_memory::suballoc::{RegionId, SubAllocator, Tlsf};
use std::hint::black_box;
use workload::{Step, Workload};

const ARENA: u64 = 16 << 30;
const UNIT: u64 = 64;

/// Replays steps. A block is known by its number in the workload.
trait Player {
    /// Returns the highest address used.
    fn play(&mut self, steps: &[Step]) -> u64;
}

struct Ours {
    arena: Tlsf,
    ids: Vec<RegionId>,
}

impl Ours {
    fn new(blocks: usize) -> Self {
        let arena = Tlsf::new(ARENA, UNIT).expect("valid layout");
        Self { arena, ids: vec![RegionId::from_raw(0); blocks] }
    }
}

impl Player for Ours {
    #[inline(never)]
    fn play(&mut self, steps: &[Step]) -> u64 {
        let mut top = 0;
        for step in steps {
            match *step {
                Step::Allocate { block, size } => {
                    let region = self.arena.allocate(size, UNIT, u64::from(block)).expect("the arena is large enough");
                    top = top.max(region.end());
                    self.ids[block as usize] = region.id;
                }
                Step::Free { block } => {
                    self.arena.free(self.ids[block as usize]).expect("live");
                }
            }
        }
        top
    }
}

struct Theirs {
    arena: offset_allocator::Allocator,
    blocks: Vec<Option<offset_allocator::Allocation>>,
}

impl Theirs {
    fn new(blocks: usize) -> Self {
        let arena = offset_allocator::Allocator::with_max_allocs((ARENA / UNIT) as u32, 128 * 1024);
        Self { arena, blocks: vec![None; blocks] }
    }
}

impl Player for Theirs {
    #[inline(never)]
    fn play(&mut self, steps: &[Step]) -> u64 {
        let mut top = 0;
        for step in steps {
            match *step {
                Step::Allocate { block, size } => {
                    let units = size.div_ceil(UNIT) as u32;
                    let allocation = self.arena.allocate(units).expect("the arena is large enough");
                    top = top.max(u64::from(allocation.offset) + u64::from(units));
                    self.blocks[block as usize] = Some(allocation);
                }
                Step::Free { block } => {
                    self.arena.free(self.blocks[block as usize].expect("live"));
                }
            }
        }
        top * UNIT
    }
}

/// Does nothing, so that the cost of the preparation can be subtracted.
struct NoPlayer;

impl Player for NoPlayer {
    fn play(&mut self, _: &[Step]) -> u64 {
        0
    }
}

fn player(name: &str, blocks: usize) -> Box<dyn Player> {
    match name {
        "tlsf" => Box::new(Ours::new(blocks)),
        "offset-allocator" => Box::new(Theirs::new(blocks)),
        "none" => Box::new(NoPlayer),
        other => panic!("no suballocator {other}: tlsf, offset-allocator or none"),
    }
}

/// Returns the processor time of this thread: other load on the machine counts only through its caches.
fn now_ns() -> f64 {
    let now = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("Linux has this clock");
    now.tv_sec() as f64 * 1e9 + now.tv_nsec() as f64
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Targets of a workload: time as a fraction of offset-allocator's, and the highest address.
struct Targets {
    time: f64,
    reach: f64,
}

/// Prints the figures; returns whether they meet the targets.
fn measure(workload: &Workload, rounds: usize, targets: &Targets) -> bool {
    const NAMES: [&str; 2] = ["tlsf", "offset-allocator"];
    let mut times = [vec![], vec![]];
    let mut reach = [0.0; 2];
    for round in 0..rounds {
        // The order alternates, so that neither always runs on the warmer machine.
        for turn in 0..2 {
            let which = (turn + round) % 2;
            let mut player = player(NAMES[which], workload.blocks);
            let start = now_ns();
            let top = black_box(player.play(black_box(&workload.steps)));
            times[which].push((now_ns() - start) / workload.steps.len() as f64);
            reach[which] = top as f64 / workload.peak_live as f64;
        }
    }
    let (count, peak) = (workload.steps.len(), workload.peak_live >> 20);
    println!("{}: {count} operations, {rounds} rounds, peak live {peak} MiB", workload.name);
    let mut ratios: Vec<f64> = times[0].iter().zip(&times[1]).map(|(ours, theirs)| ours / theirs).collect();
    for which in 0..2 {
        let least = times[which].iter().copied().fold(f64::INFINITY, f64::min);
        let (name, middle, reach) = (NAMES[which], median(&mut times[which]), reach[which]);
        println!("  {name:17} {middle:6.1} ns/op median, {least:6.1} least; reach {reach:.4}");
    }
    let (ratio, ours) = (median(&mut ratios), reach[0]);
    let met = ratio <= targets.time && ours <= targets.reach;
    let verdict = if met { "met" } else { "MISSED" };
    println!(
        "  time ratio {ratio:.3} (target {}), reach {ours:.4} (target {}): {verdict}",
        targets.time, targets.reach
    );
    met
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| arguments.iter().position(|a| a == name).and_then(|at| arguments.get(at + 1));
    let only = value("--workload").map(String::as_str);
    if let Some(name) = value("--once") {
        let workload = match only {
            Some("random") => workload::random(500_000, 1),
            _ => workload::serve(&workload::lengths(2_200)),
        };
        println!("{}", black_box(player(name, workload.blocks).play(black_box(&workload.steps))));
        return;
    }
    let rounds = value("--rounds").map_or(7, |n| n.parse().expect("--rounds takes a number"));
    let mut met = true;
    if only != Some("random") {
        let (lengths, reach) = match value("--trace") {
            Some(path) => (workload::read_lengths(path).unwrap_or_else(|error| panic!("{path}: {error}")), 1.008),
            None => (workload::lengths(8819), f64::INFINITY),
        };
        met &= measure(&workload::serve(&lengths), rounds, &Targets { time: 0.85, reach });
    }
    if only != Some("trace") {
        met &= measure(&workload::random(2_000_000, 1), rounds, &Targets { time: 0.9, reach: 1.070 });
    }
    if arguments.iter().any(|a| a == "--check") && !met {
        std::process::exit(1);
    }
}
