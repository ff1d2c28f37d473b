//! [`Sink`]: takes what the runtime says on its thread, and hands it to the event loop.
#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::thread::ThreadId;
use std::time::Duration;

use super::embedding::EmbeddingTable;
use super::result::{Event, Pinner, SinkStats, Taken, Target, Wake};
use super::ring::RECORD_BYTES;
use super::state::{full, SinkState};
use crate::abi::rkllm::{answer, state as said, Rows};
use crate::error::{Error, ErrorCode, Result};
use crate::sync::{Condvar, Mutex, MutexGuard};

/// The least bytes of a ring: room for a token, its end, and a failure.
pub const MIN_RING: usize = 1024;

/// The interval at which a blocked thread of the runtime looks again, should a notification be lost.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Takes what the runtime says on its thread, and hands it to the event loop.
pub struct Sink {
    state: Mutex<SinkState>,
    /// Signalled when there is room again, and at the end.
    room: Condvar,
    pin: Pinner,
    /// Answers the embedding callback.
    table: Option<Arc<EmbeddingTable>>,
    /// The event loop's thread, which must not wait for itself.
    reader_thread: ThreadId,
}

impl fmt::Debug for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sink").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Sink {
    /// Makes a sink whose reader is the calling thread, with a ring of `ring` bytes.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` below [`MIN_RING`].
    pub fn new(ring: usize, targets: [Option<Target>; 2], pin: Pinner, table: Option<EmbeddingTable>) -> Result<Self> {
        if ring < MIN_RING {
            let message = format!("a ring of {ring} bytes holds no result; it needs {MIN_RING} bytes or more");
            return Err(Error::new(ErrorCode::OutOfRange, message).requested(ring as u64));
        }
        let state = SinkState::new(ring, targets);
        let reader_thread = std::thread::current().id();
        let table = table.map(Arc::new);
        Ok(Self { state: Mutex::new(state), room: Condvar::new(), pin, table, reader_thread })
    }

    /// The bytes of text that a result may have.
    pub fn max_text(&self) -> usize {
        let state = self.state();
        state.ring.size() - 2 * RECORD_BYTES
    }

    /// The table of embeddings, up to the end of the sink.
    pub(super) fn table(&self) -> Option<Arc<EmbeddingTable>> {
        let ended = self.state().ended;
        self.table.as_ref().filter(|_| !ended).map(Arc::clone)
    }

    /// Ends the results of the run that is under way with `error`. The runtime ends the run itself.
    pub(super) fn fail_run(&self, error: Error) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        (state.running, state.begun) = (true, true);
        state.fail(error);
        let wake = if state.has_news() { state.take_wake() } else { None };
        drop(state);
        wake.into_iter().for_each(|wake| wake());
    }

    /// Takes one call of the runtime. `copy` copies rows to a target that they fit. Returns the callback's answer.
    pub(super) fn take_in(&self, event: &Event<'_>, copy: fn(&Rows, &Target)) -> i32 {
        let over = event.state == said::FINISH || event.state == said::ERROR;
        let mut state = self.state();
        state.stats.calls += 1;
        (state.running, state.begun) = (true, true);
        if state.ended {
            state.stats.late += 1;
        } else if state.held.is_none() {
            match (self.pin)() {
                Ok(pin) => state.held = Some(pin),
                Err(error) => state.fail(error),
            }
        }
        let mut answer = answer::CONTINUE;
        state = match self.prepare(state, event) {
            (state, false) => state,
            (mut state, true) => {
                answer = state.store(event, copy);
                state
            }
        };
        let held = if over { state.end_run() } else { None };
        let wake = if state.has_news() { state.take_wake() } else { None };
        drop(state);
        drop(held);
        wake.into_iter().for_each(|wake| wake());
        answer
    }

    /// Waits until `event` fits. Returns false where it is to be dropped.
    fn prepare<'a>(
        &'a self,
        mut state: MutexGuard<'a, SinkState>,
        event: &Event<'_>,
    ) -> (MutexGuard<'a, SinkState>, bool) {
        let needed = 2 * RECORD_BYTES + event.text.len();
        if needed > state.ring.size() && !state.dropping() {
            state.fail_with_text(event.text.len());
        }
        let has_rows = event.hidden.count > 0 || event.logits.count > 0;
        let mut waited = false;
        while !state.dropping() {
            if state.ring.room() >= needed && !(has_rows && (state.rows_stored || state.rows_read)) {
                return (state, true);
            }
            if std::thread::current().id() == self.reader_thread {
                let error = full(&state.ring);
                state.fail(error);
                break;
            }
            state.stats.waits += u64::from(!waited);
            waited = true;
            if let Some(wake) = state.take_wake() {
                drop(state);
                wake();
                state = self.state();
                continue;
            }
            state = self.room.wait_timeout(state, LOOK_AGAIN).0;
        }
        state.stats.dropped += u64::from(!state.ended);
        (state, false)
    }

    /// Begins to read: from now on the memory is pinned, up to the end of a run.
    ///
    /// Errors: those of the pins, and `ERR_BUFFER_FREED` after the end.
    pub fn attach(&self, may_pause: bool) -> Result<()> {
        let mut state = self.state();
        if state.ended {
            return Err(Error::new(ErrorCode::BufferFreed, "these callbacks were released"));
        }
        // A run that has ended before it is read has let go of the memory.
        if state.ring.is_empty() {
            if state.held.is_none() {
                state.held = Some((self.pin)()?);
            }
            state.running = true;
        }
        // A reader of the next run has read the rows of the last one.
        (state.reader, state.may_pause, state.rows_read) = (true, may_pause, false);
        drop(state);
        self.room.notify_all();
        Ok(())
    }

    /// Ends to read. The rest of a run that has begun is dropped. Rows that came with the end of the run stay until
    /// [`rows_read`](Self::rows_read) or the next [`attach`](Self::attach).
    pub fn detach(&self, at_end: bool) {
        let mut state = self.state();
        (state.reader, state.paused) = (false, false);
        state.rows_read &= at_end;
        let wake = state.take_wake();
        if !at_end {
            state.leave_run();
        }
        drop(state);
        self.room.notify_all();
        wake.into_iter().for_each(|wake| wake());
    }

    /// Lets the next rows overwrite those of the last result.
    pub fn rows_read(&self) {
        self.state().rows_read = false;
        self.room.notify_all();
    }

    /// Takes up to `most` results, up to the first one with rows or the end of a run. The rows of the last call count
    /// as read.
    pub fn take(&self, most: usize) -> Taken {
        let mut taken = Taken::default();
        let mut state = self.state();
        state.rows_read = false;
        state.pop_into(&mut taken, most);
        taken.paused = state.paused && state.ring.is_empty();
        if taken.paused {
            state.paused = false;
        }
        drop(state);
        self.room.notify_all();
        taken
    }

    /// Calls `wake` once when there is something to take, or at the end; at once where there is.
    pub fn wait(&self, wake: Wake) {
        let mut state = self.state();
        let before = state.take_wake();
        let now = if state.has_news() || state.ended || !state.reader {
            Some(wake)
        } else {
            state.wake = Some(wake);
            None
        };
        drop(state);
        self.room.notify_all();
        before.into_iter().chain(now).for_each(|wake| wake());
    }

    /// Directs rows to other arrays.
    pub fn set_targets(&self, targets: [Option<Target>; 2]) {
        self.state().targets = targets;
    }

    /// Returns whether the sink has ended and the runtime has let go.
    pub(super) fn is_over(&self) -> bool {
        let state = self.state();
        state.ended && !state.running
    }

    /// Returns whether a run is under way, as far as it is known here.
    pub fn is_running(&self) -> bool {
        self.state().running
    }

    /// Returns the counters.
    pub fn stats(&self) -> SinkStats {
        self.state().stats
    }

    /// Ends the sink: when this returns, no callback writes to the session's arrays. Returns whether a run is under
    /// way. `released`: the runtime has let go, so the memory is not pinned any longer.
    pub fn end(&self, released: bool) -> bool {
        self.end_locked(self.state(), released)
    }

    /// Ends the sink unless a run is under way, which it returns. No run that begins meanwhile is missed.
    pub(super) fn end_if_idle(&self) -> bool {
        let state = self.state();
        state.running || self.end_locked(state, false)
    }

    fn end_locked(&self, mut state: MutexGuard<'_, SinkState>, released: bool) -> bool {
        state.ended = true;
        state.targets = [None, None];
        state.ring.clear();
        state.rows_stored = false;
        let held = if released || !state.running { state.held.take() } else { None };
        let wake = state.take_wake();
        let running = state.running;
        drop(state);
        self.room.notify_all();
        drop(held);
        wake.into_iter().for_each(|wake| wake());
        running
    }

    fn state(&self) -> MutexGuard<'_, SinkState> {
        self.state.lock()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ptr;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::channel;
    use std::sync::Arc;
    use std::thread;

    use super::super::result::Pin;
    use super::super::table::{abandon, abandon_idle, find, open, release, remove_ended};
    use super::*;
    use crate::abi::rkllm::answer::{CONTINUE, PAUSE, RELEASE_OUTPUT};
    use crate::abi::rkllm::state::{FINISH, NORMAL};

    const NO_ROWS: Rows = Rows { data: ptr::null(), width: 0, count: 0 };

    /// A sink, and the pins of its memory.
    fn sink(ring: usize) -> (Sink, Arc<AtomicUsize>) {
        let pins = Arc::new(AtomicUsize::new(0));
        let of_sink = Arc::clone(&pins);
        let pin = move || {
            of_sink.fetch_add(1, Ordering::SeqCst);
            let pins = Arc::clone(&of_sink);
            Ok(Pin::new(
                |_, write| {
                    write();
                    true
                },
                move || {
                    pins.fetch_sub(1, Ordering::SeqCst);
                },
            ))
        };
        let target = Target { name: "logits", address: 0, width: 4, rows: 2 };
        (Sink::new(ring, [None, Some(target)], Box::new(pin), None).unwrap(), pins)
    }

    fn call(sink: &Sink, state: i32, token: i32, rows: i32) -> i32 {
        let floats = [0.0_f32; 4];
        let logits = Rows { data: floats.as_ptr(), width: 4, count: rows };
        let text = token.to_string();
        let event = Event { state, token, text: text.as_bytes(), hidden: NO_ROWS, logits, perf: None, answers: true };
        sink.take_in(&event, |_, _| {})
    }

    fn tokens(taken: &Taken) -> Vec<i32> {
        taken.rows.iter().map(|row| row[1] as i32).collect()
    }

    #[test]
    fn a_run_is_pinned_from_its_first_call_to_its_end() {
        let (sink, pins) = sink(MIN_RING);
        assert_eq!(call(&sink, NORMAL, 1, 0), CONTINUE);
        assert_eq!((pins.load(Ordering::SeqCst), sink.is_running()), (1, true));
        call(&sink, FINISH, -1, 0);
        assert_eq!((pins.load(Ordering::SeqCst), sink.is_running()), (0, false));
        sink.attach(false).unwrap();
        assert!(!sink.is_running(), "what waits in the ring has ended");
        assert_eq!(tokens(&sink.take(10)), [1, -1]);
        sink.attach(false).unwrap();
        assert_eq!((pins.load(Ordering::SeqCst), sink.is_running()), (1, true));
    }

    #[test]
    fn an_abandoned_run_keeps_its_memory_until_the_runtime_lets_go() {
        let (sink, pins) = sink(MIN_RING);
        let handle = open(sink);
        let sink = find(handle).unwrap();
        call(&sink, NORMAL, 1, 0);
        abandon(handle);
        assert_eq!(call(&sink, NORMAL, 2, 1), CONTINUE);
        assert_eq!(pins.load(Ordering::SeqCst), 1);
        call(&sink, FINISH, -1, 0);
        remove_ended(handle, &sink);
        assert_eq!(pins.load(Ordering::SeqCst), 0);
        assert!(find(handle).is_none());
        assert_eq!((sink.stats().calls, sink.stats().late), (3, 2));
        release(handle);
        let (idle, _) = self::sink(MIN_RING);
        let handle = open(idle);
        abandon(handle);
        assert!(find(handle).is_none());
    }

    #[test]
    fn a_sink_ends_either_idle_or_not_at_all() {
        let (sink, pins) = sink(MIN_RING);
        let handle = open(sink);
        let sink = find(handle).unwrap();
        call(&sink, NORMAL, 1, 0);
        assert!(!abandon_idle(handle), "a run is under way");
        call(&sink, FINISH, -1, 0);
        sink.attach(false).unwrap();
        assert_eq!(tokens(&sink.take(10)), [1, -1], "a refused end changes nothing");
        assert!(abandon_idle(handle));
        assert!(find(handle).is_none());
        // The runtime's thread found the sink before its end.
        call(&sink, NORMAL, 2, 1);
        assert_eq!((sink.stats().late, pins.load(Ordering::SeqCst)), (1, 0));
        assert!(abandon_idle(handle), "an ended sink is idle");
    }

    #[test]
    fn rows_that_came_with_the_end_stay_until_they_were_read() {
        let ways: [fn(&Sink); 2] = [Sink::rows_read, |sink| sink.attach(false).unwrap()];
        for read in ways {
            let (sink, _) = sink(MIN_RING);
            sink.attach(false).unwrap();
            call(&sink, FINISH, 1, 1);
            assert_eq!(sink.take(10).rows[0][2], 1.0);
            sink.detach(true);
            thread::scope(|scope| {
                let next = scope.spawn(|| call(&sink, NORMAL, 2, 1));
                while sink.stats().waits == 0 {
                    thread::yield_now();
                }
                assert_eq!(sink.stats().calls, 2, "the next rows wait");
                read(&sink);
                assert_eq!(next.join().unwrap(), RELEASE_OUTPUT);
            });
        }
    }

    #[test]
    fn rows_are_kept_until_the_reader_goes_on() {
        let (sink, _) = sink(MIN_RING);
        sink.attach(false).unwrap();
        assert_eq!(call(&sink, NORMAL, 1, 2), RELEASE_OUTPUT);
        call(&sink, NORMAL, 2, 0);
        let first = sink.take(10);
        assert_eq!((tokens(&first), first.rows[0][2]), (vec![1], 2.0));
        // This thread reads: it cannot wait for itself.
        call(&sink, NORMAL, 3, 1);
        assert_eq!(tokens(&sink.take(10)), [2]);
        assert_eq!(sink.take(10).failure.unwrap().code(), ErrorCode::BufferBusy);
        call(&sink, NORMAL, 4, 0);
        assert!(sink.take(10).rows.is_empty(), "the rest of a failed run is dropped");
        call(&sink, FINISH, -1, 0);
        sink.attach(false).unwrap();
        for rows in [3, 1] {
            call(&sink, NORMAL, 5, rows);
            call(&sink, FINISH, -1, 0);
        }
        assert_eq!(sink.take(10).failure.unwrap().code(), ErrorCode::OutOfRange);
        assert_eq!(tokens(&sink.take(10)), [5]);
    }

    #[test]
    fn each_failed_run_that_waits_unread_has_its_own_end() {
        let (sink, _) = sink(MIN_RING);
        for rows in [3, 3] {
            call(&sink, NORMAL, 5, 0);
            call(&sink, NORMAL, 6, rows);
            call(&sink, FINISH, -1, 0);
        }
        for _ in 0..2 {
            sink.attach(false).unwrap();
            assert_eq!(tokens(&sink.take(10)), [5]);
            assert_eq!(sink.take(10).failure.unwrap().code(), ErrorCode::OutOfRange);
        }
    }

    #[test]
    fn a_full_ring_pauses_where_the_reader_resumes() {
        let (sink, _) = sink(MIN_RING);
        sink.attach(true).unwrap();
        let stored = (0..).find(|token| call(&sink, NORMAL, *token, 0) == PAUSE).unwrap();
        let taken = sink.take(1000);
        assert_eq!(tokens(&taken), (0..=stored).collect::<Vec<_>>());
        assert!(taken.paused && !sink.take(1).paused);
        assert_eq!(call(&sink, NORMAL, stored + 1, 0), CONTINUE);
    }

    #[test]
    fn every_token_of_a_foreign_thread_arrives_once_whatever_the_ring() {
        const TOKENS: i32 = 20_000;
        for ring in [MIN_RING, 4096, 1 << 16] {
            let (sink, pins) = sink(ring);
            sink.attach(false).unwrap();
            thread::scope(|scope| {
                scope.spawn(|| {
                    (0..TOKENS).for_each(|token| {
                        call(&sink, NORMAL, token, i32::from(token % 1000 == 0));
                    });
                    call(&sink, FINISH, -1, 0);
                });
                let mut found = Vec::new();
                while found.last() != Some(&-1) {
                    let taken = sink.take(16);
                    assert!(taken.failure.is_none());
                    if taken.rows.is_empty() {
                        let (woken, wait) = channel();
                        sink.wait(Box::new(move || woken.send(()).unwrap_or_default()));
                        wait.recv().unwrap();
                    }
                    found.extend(tokens(&taken));
                }
                assert_eq!(found, (0..TOKENS).chain([-1]).collect::<Vec<_>>());
            });
            assert_eq!(pins.load(Ordering::SeqCst), 0);
        }
    }

    #[test]
    fn a_blocked_thread_gets_out_when_the_reader_leaves_and_when_the_sink_ends() {
        let ways: [fn(&Sink); 2] = [|sink| sink.detach(false), |sink| assert!(sink.end(false))];
        for leave in ways {
            let (sink, pins) = sink(MIN_RING);
            sink.attach(false).unwrap();
            thread::scope(|scope| {
                let run = scope.spawn(|| {
                    (0..1000).for_each(|token| {
                        call(&sink, NORMAL, token, 0);
                    });
                    call(&sink, FINISH, -1, 0);
                });
                while sink.stats().waits == 0 {
                    thread::yield_now();
                }
                leave(&sink);
                run.join().unwrap();
            });
            assert_eq!((pins.load(Ordering::SeqCst), sink.is_running()), (0, false));
            assert!(sink.take(10).rows.is_empty());
        }
    }
}
