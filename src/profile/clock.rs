//! A clock that costs one load.
//!
//! Reading the kernel's takes 25 to 40 ns, as much as a third of what a pool needs to allocate and free. So a thread writes
//! the time down every millisecond for as long as somebody reads it, and sleeps when nobody does; the first to read it then
//! asks the kernel and wakes the thread.
//!
//! [`now`] is good to about a millisecond, and to what the scheduler makes of that. [`exact`] asks the kernel.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};

/// What the time is written down to.
const TICK: Duration = Duration::from_millis(1);
/// Ticks that nobody looked at before the thread sleeps.
const IDLE: u32 = 16;

/// Microseconds since [`EPOCH`], shifted; the low bit is set once somebody has looked. 0: nobody writes it down.
static STAMP: AtomicU64 = AtomicU64::new(0);
static EPOCH: Lazy<Instant> = Lazy::new(Instant::now);
/// `None` where there is no thread to be had: then every look asks the kernel.
static TICKER: OnceCell<Option<Thread>> = OnceCell::new();

/// Microseconds since this process first asked, as somebody wrote them down lately.
#[inline]
pub fn now() -> u64 {
    let stamp = STAMP.load(Relaxed);
    match stamp & 1 {
        1 => stamp >> 1,
        _ => look(stamp),
    }
}

/// Microseconds since this process first asked, as the kernel has them.
pub fn exact() -> u64 {
    // From 1 on: 0 is no time.
    EPOCH.elapsed().as_micros() as u64 + 1
}

#[cold]
fn look(stamp: u64) -> u64 {
    if stamp != 0 {
        STAMP.fetch_or(1, Relaxed);
        return stamp >> 1;
    }
    let time = exact();
    let ticker = TICKER.get_or_init(|| {
        let started = thread::Builder::new().name("rkllm-clock".into()).spawn(tick);
        started.ok().map(|handle| handle.thread().clone())
    });
    if let Some(ticker) = ticker {
        STAMP.store(time << 1 | 1, Relaxed);
        ticker.unpark();
    }
    time
}

fn tick() {
    let mut idle = 0;
    loop {
        thread::sleep(TICK);
        idle = if STAMP.load(Relaxed) & 1 == 1 { 0 } else { idle + 1 };
        if idle < IDLE {
            STAMP.store(exact() << 1, Relaxed);
            continue;
        }
        // Whoever looks from here on wakes this thread, perhaps before it sleeps: then it does not.
        STAMP.store(0, Relaxed);
        thread::park();
        idle = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_goes_on_whether_anybody_looks_or_not() {
        let mut last = now();
        for pause in [0, 2, 60, 5, 60] {
            thread::sleep(Duration::from_millis(pause));
            let before = exact();
            let time = now();
            assert!(time >= last, "{time} comes before {last}");
            assert!(time <= exact(), "{time} has not come yet");
            if pause > 50 {
                // The thread slept: this is the kernel's word.
                assert!(time + 20_000 >= before, "{time} is long past: it is {before}");
            }
            last = time;
        }
    }
}
