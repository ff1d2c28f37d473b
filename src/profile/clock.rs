//! A clock that costs one load where it is looked at all the time.
//!
//! Reading the kernel's takes 25 to 40 ns. That is nothing for somebody who looks a thousand times a second, and a third of what a
//! pool needs to allocate and free for somebody who does that in a loop. So whoever looks asks the kernel, until there were
//! `BUSY` looks within a millisecond: then a thread writes the time down for a while, and sleeps again. It is not there for
//! the others because being woken that often costs more than their looks do.
//!
//! [`now`] is exact below so many looks, and good to `TICK` and what the scheduler makes of that above. [`exact`] is exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};

/// Looks within one millisecond that make a thread write the time down: by then they cost 0.2 % of the time.
const BUSY: u64 = 64;
/// What the time is written down to, then.
const TICK: Duration = Duration::from_millis(4);
/// For so many ticks. Whether somebody still looks cannot be told: it would be a store for each.
const TICKS: u32 = 64;

/// Microseconds since [`EPOCH`]. 0: nobody writes them down.
static STAMP: AtomicU64 = AtomicU64::new(0);
static EPOCH: Lazy<Instant> = Lazy::new(Instant::now);
/// The millisecond of the last looks, and how many there were in it. Looks that happen at once may be counted as one.
static LOOKS: AtomicU64 = AtomicU64::new(0);
const COUNT_BITS: u32 = 8;
/// `None` where there is no thread to be had: then every look asks the kernel.
static TICKER: OnceCell<Option<Thread>> = OnceCell::new();

/// Microseconds since this process first asked, as somebody wrote them down lately or the kernel has them.
#[inline]
pub fn now() -> u64 {
    match STAMP.load(Relaxed) {
        0 => look(),
        stamp => stamp,
    }
}

/// Microseconds since this process first asked, as the kernel has them.
pub fn exact() -> u64 {
    // From 1 on: 0 is no time.
    EPOCH.elapsed().as_micros() as u64 + 1
}

#[cold]
fn look() -> u64 {
    let time = exact();
    let (now, before) = (time / 1000, LOOKS.load(Relaxed));
    let looks = if before >> COUNT_BITS == now { before + 1 } else { now << COUNT_BITS };
    LOOKS.store(looks, Relaxed);
    if looks & ((1 << COUNT_BITS) - 1) >= BUSY {
        write_down(time);
    }
    time
}

fn write_down(time: u64) {
    LOOKS.store(0, Relaxed);
    let ticker = TICKER.get_or_init(|| {
        let started = thread::Builder::new().name("rkllm-clock".into()).spawn(tick);
        started.ok().map(|handle| handle.thread().clone())
    });
    if let Some(ticker) = ticker {
        // Not over what is written down already: time does not go back.
        let _ = STAMP.compare_exchange(0, time, Relaxed, Relaxed);
        ticker.unpark();
    }
}

fn tick() {
    loop {
        while STAMP.load(Relaxed) == 0 {
            thread::park();
        }
        for _ in 0..TICKS {
            thread::sleep(TICK);
            STAMP.store(exact(), Relaxed);
        }
        STAMP.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One test: it is one clock, and whoever looks at it all the time changes it for the others.
    #[test]
    fn the_time_goes_on_whether_anybody_looks_or_not() {
        let mut last = now();
        let mut look = || {
            let time = now();
            assert!(time >= last, "{time} comes before {last}");
            let later = time > last;
            last = time;
            (time, later)
        };
        for round in 0..2 {
            let (began, mut times) = (exact(), 0);
            while exact() - began < 300_000 {
                times += (0..1000).filter(|_| look().1).count();
            }
            assert!(times > 10, "round {round}: {times} times in 300 ms");
            assert_ne!(
                STAMP.load(Relaxed),
                0,
                "round {round}: nobody writes it down for somebody who looks that often"
            );
            thread::sleep(2 * TICK * TICKS);
            for pause in [0, 2, 5, 60] {
                thread::sleep(Duration::from_millis(pause));
                let (before, asleep) = (exact(), STAMP.load(Relaxed) == 0);
                let (time, _) = look();
                assert!(time <= exact(), "{time} has not come yet");
                // Other tests may look all the time.
                assert!(!asleep || before <= time, "{time} is past: it was {before}");
            }
        }
    }
}
