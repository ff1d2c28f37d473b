//! [`Poller`]: one thread that waits for any number of sockets.
//!
//! The thread starts with the first wait and ends with the last one, as do its two descriptors (an epoll instance and
//! an eventfd that interrupts it).
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::mem::take;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use once_cell::sync::Lazy;

use crate::sync::Mutex;
use crate::sys::thread_pool::ThreadPool;

/// Runs once, on the poller's thread, when the wait is over. Dropped without running if no thread can be had.
pub type Waiter = Box<dyn FnOnce() + Send>;

/// Waits for sockets on one thread. See the [module](self).
#[derive(Debug)]
pub struct Poller {
    thread: ThreadPool,
    state: Lazy<Mutex<PollerState>>,
}

#[derive(Default)]
struct PollerState {
    /// The sockets of waits, by descriptor. Each is in the epoll instance.
    watches: HashMap<RawFd, Watch>,
    /// Waiters that were woken.
    woken: Vec<Waiter>,
    /// Present while the thread runs, or is about to.
    queue: Option<Arc<EventQueue>>,
}

impl std::fmt::Debug for PollerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} sockets", self.watches.len())
    }
}

struct Watch {
    /// Keeps the descriptor open while epoll knows it.
    socket: Arc<OwnedFd>,
    waiters: Vec<Waiter>,
}

/// The kernel's side: an epoll instance, and an eventfd in it.
#[derive(Debug)]
struct EventQueue {
    epoll: Epoll,
    interrupt: EventFd,
}

/// The event of the eventfd. Descriptors are not negative.
const INTERRUPT: u64 = u64::MAX;

/// How many events one call of epoll takes.
const EVENTS: usize = 64;

impl EventQueue {
    fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let interrupt = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        epoll.add(&interrupt, EpollEvent::new(EpollFlags::EPOLLIN, INTERRUPT))?;
        Ok(Self { epoll, interrupt })
    }

    fn interrupt(&self) {
        // Fails only if the counter is full: the thread has been interrupted then.
        let _ = self.interrupt.write(1);
    }

    /// Waits for events.
    fn wait(&self) -> Vec<u64> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let count = loop {
            match self.epoll.wait(&mut events, EpollTimeout::NONE) {
                Err(Errno::EINTR) => {}
                // No other error is possible. The waiters would be told nothing.
                result => break result.unwrap_or(0),
            }
        };
        events[..count].iter().map(EpollEvent::data).collect()
    }
}

impl Poller {
    /// Makes a poller whose thread is called `name`; starts nothing.
    pub const fn new(name: &'static str) -> Self {
        Self { thread: ThreadPool::new(name, 1), state: Lazy::new(Mutex::default) }
    }

    /// Calls `waiter` when `socket` is readable, or woken ([`wake`](Self::wake)).
    ///
    /// Errors: EMFILE and ENFILE, and those of a thread's start. `waiter` is then dropped, with every other one that
    /// waits if there is no thread.
    pub fn when_readable(&'static self, socket: &Arc<OwnedFd>, waiter: Waiter) -> io::Result<()> {
        // None of the system calls under this lock waits. Without it, a wait that ends could take the socket out of
        // epoll after another has put it in.
        let mut state = self.state.lock();
        let starting = state.queue.is_none();
        let queue = match &state.queue {
            Some(queue) => Arc::clone(queue),
            None => Arc::clone(state.queue.insert(Arc::new(EventQueue::new()?))),
        };
        let fd = socket.as_raw_fd();
        match state.watches.get_mut(&fd) {
            Some(watch) => watch.waiters.push(waiter),
            None => {
                if let Err(errno) = queue.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, fd as u64)) {
                    if starting {
                        state.queue = None;
                    }
                    drop(state);
                    drop(waiter);
                    return Err(errno.into());
                }
                state.watches.insert(fd, Watch { socket: Arc::clone(socket), waiters: vec![waiter] });
            }
        }
        drop(state);
        if !starting {
            return Ok(());
        }
        self.thread.run(move || self.poll(&queue)).inspect_err(|_| {
            let ended = take(&mut *self.state.lock());
            // Outside the lock: a waiter's drop may wait again.
            drop(ended);
        })
    }

    /// Ends every wait for `socket`.
    pub fn wake(&self, socket: &Arc<OwnedFd>) {
        let mut state = self.state.lock();
        if let Some(watch) = state.end_watch(socket.as_raw_fd()) {
            state.woken.extend(watch.waiters);
        }
        if let Some(queue) = state.queue.clone() {
            drop(state);
            queue.interrupt();
        }
    }

    /// The number of sockets that are waited for.
    pub fn len(&self) -> usize {
        self.state.lock().watches.len()
    }

    /// Reports whether no socket is waited for.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Serves waits until none is left.
    fn poll(&self, queue: &EventQueue) {
        loop {
            let events = queue.wait();
            let (due, last) = {
                let mut state = self.state.lock();
                let mut due = take(&mut state.woken);
                for event in events {
                    if event == INTERRUPT {
                        let _ = queue.interrupt.read();
                    } else if let Some(watch) = state.end_watch(event as RawFd) {
                        due.extend(watch.waiters);
                    }
                }
                let last = state.watches.is_empty();
                // Later waits start a thread of their own.
                let ended = if last { state.queue.take() } else { None };
                (due, ended)
            };
            for waiter in due {
                // A panic ends its own wait only; the waiter's owner notices the drop.
                let _ = catch_unwind(AssertUnwindSafe(waiter));
            }
            if last.is_some() {
                return;
            }
        }
    }
}

impl PollerState {
    /// Takes a socket out of epoll.
    fn end_watch(&mut self, fd: RawFd) -> Option<Watch> {
        let watch = self.watches.remove(&fd)?;
        if let Some(queue) = &self.queue {
            // Fails only for a socket that is not in it.
            let _ = queue.epoll.delete(&watch.socket);
        }
        Some(watch)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::sync::mpsc::{channel, Sender};

    use super::*;

    fn pair() -> (Arc<OwnedFd>, UnixDatagram) {
        let (socket, other) = UnixDatagram::pair().unwrap();
        (Arc::new(socket.into()), other)
    }

    fn tell(told: &Sender<usize>, what: usize) -> Waiter {
        let told = told.clone();
        Box::new(move || told.send(what).unwrap())
    }

    #[test]
    fn a_thousand_sockets_have_one_thread_and_each_is_told() {
        static POLLER: Poller = Poller::new("test poller");
        let (told, heard) = channel();
        let pairs: Vec<_> = (0..300).map(|_| pair()).collect();
        for (at, (socket, _)) in pairs.iter().enumerate() {
            POLLER.when_readable(socket, tell(&told, at)).unwrap();
        }
        // The last first: none waits for another.
        for (at, (_, other)) in pairs.iter().enumerate().rev() {
            other.send(b"x").unwrap();
            assert_eq!(heard.recv().unwrap(), at);
        }
        assert!(POLLER.is_empty());
        // The message was not taken: a new wait ends at once, also after the thread has ended.
        POLLER.when_readable(&pairs[7].0, tell(&told, 7)).unwrap();
        assert_eq!(heard.recv().unwrap(), 7);
    }

    #[test]
    fn a_wake_ends_all_waits_of_its_socket_in_their_order_and_no_other() {
        static POLLER: Poller = Poller::new("woken poller");
        let (told, heard) = channel();
        let ((one, _one), (two, other)) = (pair(), pair());
        POLLER.when_readable(&two, tell(&told, 100)).unwrap();
        for at in 0..3 {
            POLLER.when_readable(&one, tell(&told, at)).unwrap();
        }
        POLLER.wake(&one);
        assert_eq!(heard.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(POLLER.len(), 1);
        other.send(b"x").unwrap();
        assert_eq!(heard.recv().unwrap(), 100);
        POLLER.wake(&one);
        assert!(heard.try_recv().is_err() && POLLER.is_empty());
    }

    #[test]
    fn a_waiter_that_panics_ends_no_other_wait() {
        static POLLER: Poller = Poller::new("panicking poller");
        let (told, heard) = channel();
        let (socket, other) = pair();
        POLLER.when_readable(&socket, Box::new(|| panic!("on purpose"))).unwrap();
        POLLER.when_readable(&socket, tell(&told, 1)).unwrap();
        other.send(b"x").unwrap();
        assert_eq!(heard.recv().unwrap(), 1);
    }
}
