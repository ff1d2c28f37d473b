//! Operations beside many tags, chunks and slices, each at the full size and at a tenth of it, in one run.
//!
//! `cargo bench --no-default-features --bench scans`
#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rkllmjs_memory::accounting::{Account, Accounting};
use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::pool::{Layout, Pool, SearchStep};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::MemoryKind;

/// The slices that one survey step visits, as in a compaction.
const SURVEY_STEP: usize = 256;

fn pool(initial: u64, max: u64, chunk: u64) -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    Pool::new(None, source, Layout { initial, max, chunk, block: None, alignment: 64, delay: 0 }, None).unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

/// Prints the median and the maximum of the times, which the operation had at that size.
fn print(what: &str, size: u64, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (median, most) = (times[times.len() / 2], times[times.len() - 1]);
    println!("{what:<44} {size:>8} {median:>12?} {most:>12?}");
}

/// New tags beside `live` ones that hold memory.
fn tags(live: u64) {
    let accounting = Accounting::new(&[]);
    let admit = |tag: String| {
        let account =
            Account { accounting: Arc::clone(&accounting), kind: Some(MemoryKind::Npu), tag: Some(tag.into()) };
        account.admit(4096).unwrap().commit()
    };
    let _held: Vec<_> = (0..live).map(|number| admit(format!("session {number}"))).collect();
    print("a new tag", live, (0..1000).map(|number| timed(|| admit(format!("new {number}"))).1).collect());
}

/// A pool of `chunks` chunks of one slice each.
fn chunks(chunks: u64) {
    let page = page_size();
    let pool = pool(0, page * chunks, page);
    let slices: Vec<_> = (0..chunks).map(|_| pool.allocate(page, 64).unwrap()).collect();
    let refused = || (0..1000).map(|_| timed(|| pool.allocate(page, 64).unwrap_err()).1).collect();
    print("a refused request, chunks", chunks, refused());
    let pairs = slices.iter().rev().step_by((chunks / 500) as usize).map(|slice| {
        timed(|| {
            pool.free(slice.chunk, slice.region).unwrap();
            pool.allocate(page, 64).unwrap()
        })
        .1
    });
    print("a free and a request, chunks", chunks, pairs.collect());
}

/// The steps of a compaction among `fixed` slices that it does not move.
fn compaction(fixed: u64) {
    let size = (fixed * 64 * 2).next_multiple_of(page_size());
    let pool = pool(size, size, size);
    let slices: Vec<_> = (0..fixed).map(|_| pool.allocate(64, 64).unwrap()).collect();
    pool.allocate_movable(6400, 64, None).unwrap();
    slices.iter().step_by(2).for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
    let mut pass = pool.start_pass().unwrap();
    let mut times = Vec::new();
    loop {
        let (done, time) = timed(|| pool.survey(&mut pass, SURVEY_STEP));
        if done {
            // The last step builds the index of holes, outside the lock.
            break;
        }
        times.push(time);
    }
    print("a survey step, slices", fixed, std::mem::take(&mut times));
    while let SearchStep::Paused = pool.search_fill(&mut pass) {}
    loop {
        let (step, time) = timed(|| matches!(pool.search_slide(&mut pass), SearchStep::Paused));
        times.push(time);
        if !step {
            break;
        }
    }
    print("a search step, slices", fixed, times);
}

fn main() {
    println!("{:<44} {:>8} {:>12} {:>12}", "", "beside", "median", "most");
    [1_600, 16_000].into_iter().for_each(tags);
    [2_000, 20_000].into_iter().for_each(chunks);
    [50_000, 500_000].into_iter().for_each(compaction);
}
