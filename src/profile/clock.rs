//! A coarse clock that costs one load while it is read often.
//!
//! Reading the kernel's clock takes 25 to 40 ns. That is negligible at a thousand reads a second, and a third of the
//! time of a pool's allocate and free in a loop. So a read asks the kernel, until there were `BUSY_READS` reads
//! within a millisecond. Then a thread caches the time for a while and sleeps again. The thread does not run for rare
//! reads, because its wake-ups would cost more than the reads.
//!
//! [`now`] is exact below that rate. Above it, it lags by up to `TICK` and the scheduler's delay. [`exact`] is exact.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use once_cell::sync::{Lazy, OnceCell};

/// Reads within one millisecond that start the ticker: by then they cost 0.2 % of the time.
const BUSY_READS: u64 = 64;
/// The interval at which the ticker caches the time.
const TICK: Duration = Duration::from_millis(4);
/// The number of ticks after a start. The ticker cannot tell whether reads go on: that would cost each read a store.
const TICKS_PER_START: u32 = 64;

/// The low bits of `CoarseClock::reads`, which count the reads within the millisecond that the high bits hold.
const COUNT_BITS: u32 = 8;

/// The state that readers and the ticker share. Times are microseconds, and never 0.
struct CoarseClock {
    /// The time that the ticker cached last, or 0 while it sleeps.
    cached: AtomicU64,
    /// The millisecond of the last reads and their number. Reads at the same moment may be counted as one.
    reads: AtomicU64,
}

/// A time, and whether reads have become frequent enough for the ticker.
struct Reading {
    time: u64,
    busy: bool,
}

impl CoarseClock {
    const fn new() -> Self {
        Self { cached: AtomicU64::new(0), reads: AtomicU64::new(0) }
    }

    #[inline]
    fn cached(&self) -> Option<u64> {
        match self.cached.load(Relaxed) {
            0 => None,
            time => Some(time),
        }
    }

    /// Counts a read at `time`, the kernel's.
    fn count(&self, time: u64) -> Reading {
        let (now, before) = (time / 1000, self.reads.load(Relaxed));
        let reads = if before >> COUNT_BITS == now { before + 1 } else { now << COUNT_BITS };
        let busy = reads & ((1 << COUNT_BITS) - 1) >= BUSY_READS;
        self.reads.store(if busy { 0 } else { reads }, Relaxed);
        Reading { time, busy }
    }

    /// Caches the time before the ticker's first tick. Keeps a time that is cached already, so that time does not go
    /// back.
    fn start(&self, time: u64) {
        let _ = self.cached.compare_exchange(0, time, Relaxed, Relaxed);
    }

    fn tick(&self, time: u64) {
        self.cached.store(time, Relaxed);
    }

    fn stop(&self) {
        self.cached.store(0, Relaxed);
    }
}

static CLOCK: CoarseClock = CoarseClock::new();
static EPOCH: Lazy<Instant> = Lazy::new(Instant::now);
/// `None` if the thread could not be started; then every read asks the kernel.
static TICKER: OnceCell<Option<Thread>> = OnceCell::new();

/// Returns the microseconds since the first read in this process: a cached time while reads are frequent, else the
/// kernel's.
#[inline]
pub fn now() -> u64 {
    match CLOCK.cached() {
        Some(time) => time,
        None => read(),
    }
}

/// Returns the microseconds since the first read in this process, from the kernel.
pub fn exact() -> u64 {
    // Starts at 1: 0 means that no time is cached.
    EPOCH.elapsed().as_micros() as u64 + 1
}

#[cold]
fn read() -> u64 {
    let Reading { time, busy } = CLOCK.count(exact());
    if busy {
        wake_ticker(time);
    }
    time
}

fn wake_ticker(time: u64) {
    let ticker = TICKER.get_or_init(|| {
        let started = thread::Builder::new().name("rkllm-clock".into()).spawn(run_ticker);
        started.ok().map(|handle| handle.thread().clone())
    });
    if let Some(ticker) = ticker {
        CLOCK.start(time);
        ticker.unpark();
    }
}

fn run_ticker() {
    loop {
        while CLOCK.cached().is_none() {
            thread::park();
        }
        for _ in 0..TICKS_PER_START {
            thread::sleep(TICK);
            CLOCK.tick(exact());
        }
        CLOCK.stop();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rare_reads_never_ask_for_the_ticker() {
        let clock = CoarseClock::new();
        for millisecond in 1..1000 {
            for read in 0..BUSY_READS {
                assert!(!clock.count(millisecond * 1000 + read).busy, "read {read} of millisecond {millisecond}");
            }
        }
    }

    #[test]
    fn frequent_reads_ask_for_the_ticker_once_and_then_count_afresh() {
        let clock = CoarseClock::new();
        let asked: Vec<u64> = (0..=BUSY_READS).filter(|read| clock.count(7000 + read).busy).collect();
        assert_eq!(asked, [BUSY_READS]);
        assert!(!clock.count(7999).busy);
    }

    #[test]
    fn a_cached_time_stands_until_the_next_tick_and_none_after_the_last() {
        let clock = CoarseClock::new();
        assert_eq!(clock.cached(), None);
        clock.start(5);
        assert_eq!(clock.cached(), Some(5));
        clock.tick(9);
        assert_eq!(clock.cached(), Some(9));
        clock.stop();
        assert_eq!(clock.cached(), None);
    }

    /// A step of a reader or of the ticker. The kernel's time goes on before each.
    #[derive(Debug, Clone, Copy)]
    enum Step {
        Read,
        /// A reader that found reads frequent at an earlier time caches that time only now.
        StartLate(u64),
        Tick,
        Stop,
    }

    fn step() -> impl Strategy<Value = (Step, u64)> {
        let step = prop_oneof![
            4 => Just(Step::Read),
            2 => (0..3_u64).prop_map(Step::StartLate),
            2 => Just(Step::Tick),
            1 => Just(Step::Stop),
        ];
        (step, 1..50_u64)
    }

    proptest! {
        #[test]
        fn a_time_that_is_read_is_never_before_the_last_start_or_tick(steps in prop::collection::vec(step(), 1..200)) {
            let clock = CoarseClock::new();
            let (mut kernel, mut least) = (1, 0);
            for (step, passes) in steps {
                kernel += passes;
                match step {
                    Step::Read => {
                        let time = clock.cached().unwrap_or_else(|| clock.count(kernel).time);
                        prop_assert!(time <= kernel, "{time} has not come yet");
                        prop_assert!(time >= least, "{time} is before {least}");
                    }
                    Step::StartLate(by) => {
                        let running = clock.cached();
                        clock.start(kernel - by.min(kernel - 1));
                        match running {
                            Some(time) => prop_assert_eq!(clock.cached(), Some(time), "time went back"),
                            None => least = kernel - by.min(kernel - 1),
                        }
                    }
                    Step::Tick => {
                        clock.tick(kernel);
                        least = kernel;
                    }
                    Step::Stop => clock.stop(),
                }
            }
        }
    }

    /// Waits for the scheduler as long as it takes: a loop that ends only when the ticker caches times.
    #[test]
    fn the_ticker_caches_times_while_reads_are_frequent() {
        let mut last = now();
        let mut cached = 0;
        while cached < 3 {
            let time = now();
            if CLOCK.cached().is_some_and(|cached| cached > last) {
                cached += 1;
            }
            last = last.max(time);
        }
        assert!(last <= exact());
    }
}
