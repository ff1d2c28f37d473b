//! [`ThreadPool`]: a few threads for calls that may block for seconds. They start with the work and end soon after it.
//!
//! A runtime's own thread pool does not serve: a driver that blocks four callers would block every `fs` and `dns` call
//! of the process with them.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
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

    /// Queues `job`. Jobs start in the order of their calls. A panic ends its own job only.
    ///
    /// Errors: that of a thread's start (EAGAIN at RLIMIT_NPROC or `pids.max`) if the pool has no thread to run the
    /// job. All waiting jobs are then dropped without running, those of other callers too: the owner of a job that may
    /// be dropped notices it by the drop of what the job holds. No job runs on the caller's thread, which may be an
    /// event loop.
    pub fn run(&'static self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.run_with(Box::new(job), |pool| {
            thread::Builder::new().name(pool.name.to_owned()).spawn(|| pool.worker()).map(drop)
        })
    }

    fn run_with(&'static self, job: Job, start: impl FnOnce(&'static Self) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state();
        state.jobs.push_back(job);
        if state.idle >= state.jobs.len() {
            drop(state);
            self.work.notify_one();
            return Ok(());
        }
        if state.threads >= self.max_threads {
            return Ok(());
        }
        state.threads += 1;
        drop(state);
        let Err(error) = start(self) else { return Ok(()) };
        let mut state = self.state();
        state.threads -= 1;
        if state.threads > 0 {
            return Ok(()); // the running threads take the job
        }
        let dropped = std::mem::take(&mut state.jobs);
        drop(state);
        // Outside the lock: the drop of a job may call this pool.
        drop(dropped);
        Err(error)
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
            let queued = POOL.run(move || {
                assert!(at % 10 != 3, "this one panics");
                done.send(at).unwrap();
            });
            queued.unwrap();
        }
        drop(done);
        let mut all: Vec<_> = doing.iter().collect();
        all.sort_unstable();
        assert_eq!(all, (0..100).filter(|at| at % 10 != 3).collect::<Vec<_>>());
    }

    #[test]
    fn a_job_that_finds_no_thread_is_dropped_and_its_caller_is_told() {
        static POOL: ThreadPool = ThreadPool::new("no threads", 2);
        let refused = || io::Error::from_raw_os_error(libc::EAGAIN);
        let (told, heard) = channel();
        let job = || {
            let told = told.clone();
            Box::new(move || told.send(std::thread::current().id()).unwrap())
        };
        let error = POOL.run_with(job(), |_| Err(refused())).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EAGAIN));
        assert!(heard.try_recv().is_err(), "a job ran on the caller's thread");
        // A job that waits for another caller's thread goes with it.
        let error = POOL.run_with(job(), |pool| {
            assert!(pool.run_with(job(), |_| Err(refused())).is_ok(), "the other thread may still start");
            Err(refused())
        });
        assert!(error.is_err() && heard.try_recv().is_err());
        // A running thread takes the job of a caller that cannot start another.
        let (open, gate) = sync_channel::<()>(1);
        POOL.run(move || gate.recv().unwrap()).unwrap();
        POOL.run_with(job(), |_| Err(refused())).unwrap();
        open.send(()).unwrap();
        assert_ne!(heard.recv().unwrap(), std::thread::current().id());
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
                let queued = POOL.run(move || {
                    begun.send(at).unwrap();
                    gate.recv().unwrap();
                });
                queued.unwrap();
                open
            })
            .collect();
        assert_eq!(all.iter().take(3).count(), 3);
        gates.iter().for_each(|gate| gate.send(()).unwrap());
    }
}
