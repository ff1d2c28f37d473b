//! [`ThreadPool`]: a few threads for calls that may block for seconds. They start with the work and end soon after it.
//!
//! A runtime's own thread pool does not serve: a driver that blocks four callers would block every `fs` and `dns` call
//! of the process with them.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::thread;
use std::time::Duration;

use crate::sync::{Condvar, Mutex, MutexGuard};

type Job = Box<dyn FnOnce() + Send>;

/// A named pool with a maximum of threads; see the [module](self).
#[derive(Debug)]
pub struct ThreadPool {
    name: &'static str,
    max_threads: usize,
    state: Mutex<JobQueue>,
    work: Condvar,
}

#[derive(Default)]
struct JobQueue {
    jobs: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl std::fmt::Debug for JobQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} jobs, {} threads, {} idle", self.jobs.len(), self.threads, self.idle)
    }
}

/// How long an idle thread waits for another job.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

impl ThreadPool {
    /// Creates a pool of up to `max_threads` threads called `name`; starts none.
    pub const fn new(name: &'static str, max_threads: usize) -> Self {
        let state = JobQueue { jobs: VecDeque::new(), threads: 0, idle: 0 };
        Self { name, max_threads, state: Mutex::new(state), work: Condvar::new() }
    }

    /// Queues `job`. Jobs start in the order of their calls. If the system cannot start a thread, the caller's thread
    /// runs the job. A panic ends its own job only.
    pub fn run(&'static self, job: impl FnOnce() + Send + 'static) {
        let mut state = self.state();
        state.jobs.push_back(Box::new(job));
        if state.idle >= state.jobs.len() {
            drop(state);
            self.work.notify_one();
            return;
        }
        if state.threads >= self.max_threads {
            return;
        }
        state.threads += 1;
        drop(state);
        let started = thread::Builder::new().name(self.name.to_owned()).spawn(|| self.worker());
        if started.is_err() {
            let mut state = self.state();
            state.threads -= 1;
            // Running threads will take the jobs; without any, this thread must.
            let alone = state.threads == 0;
            let left: Vec<Job> = if alone { state.jobs.drain(..).collect() } else { Vec::new() };
            drop(state);
            left.into_iter().for_each(run_job);
        }
    }

    fn worker(&self) {
        let mut state = self.state();
        loop {
            if let Some(job) = state.jobs.pop_front() {
                drop(state);
                run_job(job);
                state = self.state();
                continue;
            }
            state.idle += 1;
            let (woken, timed_out) = self.work.wait_timeout(state, KEEP_ALIVE);
            state = woken;
            state.idle -= 1;
            if timed_out && state.jobs.is_empty() {
                state.threads -= 1;
                return;
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, JobQueue> {
        self.state.lock()
    }
}

/// Catches a panic, which is a bug of ours. The thread continues; the job's owner sees the missing result.
fn run_job(job: Job) {
    let _ = catch_unwind(AssertUnwindSafe(job));
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::mpsc::{channel, sync_channel};

    use super::*;

    #[test]
    fn every_job_runs_also_after_one_that_panics() {
        static POOL: ThreadPool = ThreadPool::new("test pool", 2);
        let (done, doing) = channel();
        for at in 0..100 {
            let done = done.clone();
            POOL.run(move || {
                assert!(at % 10 != 3, "this one panics");
                done.send(at).unwrap();
            });
        }
        drop(done);
        let mut all: Vec<_> = doing.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).filter(|at| at % 10 != 3).collect::<Vec<_>>());
    }

    #[test]
    fn as_many_jobs_as_threads_block_at_the_same_time() {
        static POOL: ThreadPool = ThreadPool::new("waiting pool", 3);
        // Each job waits until the others have started; with fewer threads none would end.
        let (begun, all) = channel();
        let gates: Vec<_> = (0..3)
            .map(|at| {
                let (open, gate) = sync_channel::<()>(1);
                let begun = begun.clone();
                POOL.run(move || {
                    begun.send(at).unwrap();
                    gate.recv().unwrap();
                });
                open
            })
            .collect();
        assert_eq!(all.iter().take(3).count(), 3);
        gates.iter().for_each(|gate| gate.send(()).unwrap());
    }
}
