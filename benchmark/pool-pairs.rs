//! Pool benchmark of instruction counts: pairs of allocation and free in a pool with 50 live slices.
//!
//! ```text
//! cargo bench --no-default-features --bench pool-pairs -- --once plain
//! ```
//!
//! Makes 10,000 pairs of one kind (`plain`, `tag`, `seen`), or `none`, for `benchmark/suballoc-instructions.sh`. `seen`
//! frees as the holder of an ArrayBuffer does: each slice waits before its bytes are used again.

use std::sync::Arc;
use std::time::Duration;

use rkllmjs_memory::device::memory::{PageOptions, Source};
use rkllmjs_memory::pool::{Layout, Pool, ReuseDelay, Slice, SliceRequest};
use rkllmjs_memory::profile::Action;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::MIB;
use std::hint::black_box;

const PAIRS: usize = 10_000;

fn pool() -> Pool {
    let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
    let layout = Layout { initial: 64 * MIB, max: 64 * MIB, chunk: 64 * MIB, block: None, alignment: 64, delay: 0 };
    let pool = Pool::new(Some("pairs".into()), source, layout, None).expect("memory for a pool");
    for _ in 0..50 {
        pool.allocate(65_536, 64).expect("room");
    }
    // Longer than the run: a full queue of waits would end them.
    pool.with_reuse(ReuseDelay { after: Duration::from_secs(1000), turns: None })
}

fn free(pool: &Pool, slice: &Slice) {
    pool.free(slice.chunk, slice.region).expect("live");
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let kind = arguments.iter().position(|arg| arg == "--once").and_then(|at| arguments.get(at + 1));
    let pool = pool();
    let tag = pool.tag_id(&Arc::from("kv")).expect("the pool is alive");
    let size = || black_box(4096);
    match kind.map_or("plain", String::as_str) {
        "none" => {}
        "plain" => (0..PAIRS).for_each(|_| free(&pool, &pool.allocate(size(), 64).expect("room"))),
        "tag" => (0..PAIRS).for_each(|_| {
            let mut request = SliceRequest::new(size(), 64);
            request.tag = Some(tag);
            free(&pool, &pool.request(request).expect("room"));
        }),
        "seen" => (0..PAIRS).for_each(|_| {
            let slice = pool.allocate(size(), 64).expect("room");
            pool.free_seen(slice.chunk, slice.region, Action::Free).expect("live");
        }),
        other => panic!("--once takes plain, tag, seen or none, not {other}"),
    }
    black_box(pool.counts());
}
