//! Memory pressure: a thread that waits for the kernel to report a shortage, while there is a subscription and for a
//! second after it.
//!
//! A watch uses the best source that the kernel offers:
//!
//! - PSI triggers (the share of two seconds in which tasks waited for memory), of the machine and of this process's own
//!   cgroup, with the events of the cgroup with the fewest bytes left;
//! - the PSI figures, read every two seconds, where no trigger may be set (before Linux 6.4, a trigger takes
//!   CAP_SYS_RESOURCE);
//! - MemAvailable, read every second, on kernels without PSI.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use once_cell::sync::Lazy;

use super::cgroup::Groups;
use super::proc::{field, Pressure, Proc};
use super::ram::{self, Ram};
use crate::sync::Mutex;

/// The severity of a shortage, in PSI's terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Some tasks wait for memory.
    Some,
    /// All tasks wait for memory; the machine does no other work in that time.
    Full,
}

impl Level {
    /// PSI's name of the level.
    pub const fn as_str(self) -> &'static str {
        match self {
            Level::Some => "some",
            Level::Full => "full",
        }
    }
}

/// A report that memory is short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The severity.
    pub level: Level,
    /// The bytes that could still be taken.
    pub available: u64,
}

/// The thresholds: the time that tasks have waited within [`PSI_WINDOW`], in µs.
const PSI_TRIGGERS: [(Level, &str, u64); 2] = [(Level::Some, "some", 200_000), (Level::Full, "full", 100_000)];
/// The window of a trigger. Without privileges, a process may only set windows that are multiples of two seconds (Linux
/// 6.4, `Documentation/accounting/psi.rst`).
const PSI_WINDOW: Duration = Duration::from_secs(2);
/// The interval between readings of MemAvailable on a kernel without PSI.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The interval between repeated reports while memory stays short.
const REPEAT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a watch without a listener waits for the next one. A program that opens one manager after another would
/// otherwise start a thread and set triggers for each, and the kernel takes some 50 ms to remove a trigger.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// Memory is short when less than one part in this many is available.
const LOW_MEMORY_DIVISORS: [(Level, u64); 2] = [(Level::Full, 32), (Level::Some, 10)];

/// An open PSI trigger.
struct Trigger {
    level: Level,
    file: File,
}

impl Trigger {
    fn set(path: &Path, (level, word, stall): (Level, &str, u64)) -> Option<Self> {
        let open =
            OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(path);
        let mut file = open.ok()?;
        // Files of the kernel have no length, so one that has is a fixture of a test, which takes no triggers.
        if file.metadata().ok()?.len() > 0 {
            return None;
        }
        // The kernel expects one write with the NUL included.
        let text = format!("{word} {stall} {}\0", PSI_WINDOW.as_micros());
        (file.write(text.as_bytes()).ok()? == text.len()).then_some(Self { level, file })
    }
}

/// `memory.events` of the cgroup with the fewest bytes left. Reading the file arms it for the next poll.
struct CgroupEvents {
    file: File,
    /// The number of times that the group met its limit, and that the kernel killed a process of it.
    seen: (u64, u64),
}

impl CgroupEvents {
    fn open(groups: &Groups) -> Option<Self> {
        let file = File::open(groups.binding_folder()?.join("memory.events")).ok()?;
        let mut events = Self { file, seen: (0, 0) };
        events.seen = events.read().ok()?;
        Some(events)
    }

    fn read(&mut self) -> io::Result<(u64, u64)> {
        let mut text = String::new();
        self.file.rewind()?;
        self.file.read_to_string(&mut text)?;
        let sum = |names: &[&str]| names.iter().filter_map(|name| field(&text, name)).sum();
        Ok((sum(&["high", "max"]), sum(&["oom"])))
    }

    /// Compares the counts with the previous ones. A group that is full of page cache meets its limit all the time,
    /// which is no shortage.
    fn new_level(&mut self, ram: Option<Ram>) -> io::Result<Option<Level>> {
        let (met, killed) = self.read()?;
        let before = std::mem::replace(&mut self.seen, (met, killed));
        let short = ram.is_some_and(|ram| ram.available < ram.limit / LOW_MEMORY_DIVISORS[1].1);
        Ok(match () {
            () if killed > before.1 => Some(Level::Full),
            () if met > before.0 && short => Some(Level::Some),
            () => None,
        })
    }
}

/// The figures to read at intervals if the kernel has no trigger.
enum Polled {
    Nothing,
    Stalls { before: Pressure },
    Available { said: Option<(Level, Instant)> },
}

/// The reason for which a wait ended.
enum Wakeup {
    Short(Shortage),
    Woken,
    TimedOut,
    /// The kernel refuses to wait.
    Failed,
}

/// All sources of one watch.
struct Sources {
    proc: Proc,
    groups: Arc<Groups>,
    triggers: Vec<Trigger>,
    events: Option<CgroupEvents>,
    polled: Polled,
}

impl Sources {
    fn open(root: &Path) -> Self {
        let proc = Proc::new(root);
        let groups = if root == Path::new("/") { ram::groups() } else { Arc::new(proc.groups()) };
        let machine = root.join("proc/pressure/memory");
        let own = groups.own().map(|folder| folder.join("memory.pressure"));
        let of_machine = PSI_TRIGGERS.iter().filter_map(|stall| Trigger::set(&machine, *stall));
        let of_group = own.iter().flat_map(|own| PSI_TRIGGERS.iter().filter_map(|stall| Trigger::set(own, *stall)));
        let triggers: Vec<_> = of_machine.chain(of_group).collect();
        let polled = match triggers.is_empty() {
            false => Polled::Nothing,
            true => proc.pressure().map_or(Polled::Available { said: None }, |before| Polled::Stalls { before }),
        };
        let events = CgroupEvents::open(&groups);
        Self { proc, groups, triggers, events, polled }
    }

    fn ram(&self) -> Option<Ram> {
        self.proc.meminfo().map(|memory| Ram::within(&memory, &self.groups))
    }

    /// Waits until memory is short, until `wake` was written to, or at most for `time`.
    fn wait(&mut self, wake: BorrowedFd<'_>, time: Option<Duration>) -> Wakeup {
        let end = time.map(|time| Instant::now() + time);
        loop {
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            let (woken, triggered) = match self.poll(wake, left) {
                Ok(result) => result,
                Err(Errno::EINTR) => continue,
                Err(_) => return Wakeup::Failed,
            };
            if woken {
                return Wakeup::Woken;
            }
            let level = triggered.max(self.poll_memory());
            if let Some(level) = level {
                return Wakeup::Short(Shortage { level, available: self.ram().map_or(0, |ram| ram.available) });
            }
            if left == Some(Duration::ZERO) {
                return Wakeup::TimedOut;
            }
        }
    }

    fn poll(&mut self, wake: BorrowedFd<'_>, time: Option<Duration>) -> nix::Result<(bool, Option<Level>)> {
        let mut all: Vec<PollFd<'_>> = vec![PollFd::new(wake, PollFlags::POLLIN)];
        let urgent = |fd| PollFd::new(fd, PollFlags::POLLPRI);
        let fds: Vec<BorrowedFd<'_>> = self.triggers.iter().map(|trigger| trigger.file.as_fd()).collect();
        all.extend(fds.into_iter().map(urgent));
        all.extend(self.events.as_ref().map(|events| urgent(events.file.as_fd())));
        let interval = match self.polled {
            Polled::Nothing => None,
            Polled::Stalls { .. } => Some(PSI_WINDOW),
            Polled::Available { .. } => Some(POLL_INTERVAL),
        };
        let patience = interval.into_iter().chain(time).min().map_or(PollTimeout::NONE, poll_timeout);
        poll(&mut all, patience)?;
        let seen: Vec<PollFlags> = all.iter().map(|fd| fd.revents().unwrap_or(PollFlags::empty())).collect();
        drop(all);
        if !seen[0].is_empty() {
            return Ok((true, None));
        }
        let (of_triggers, of_events) = seen[1..].split_at(self.triggers.len());
        let mut of_triggers = of_triggers.iter();
        let mut level = None;
        self.triggers.retain(|trigger| {
            let seen = of_triggers.next().copied().unwrap_or(PollFlags::empty());
            if seen.contains(PollFlags::POLLPRI) {
                level = level.max(Some(trigger.level));
            }
            // The kernel reports an error once the trigger's cgroup is gone.
            !seen.intersects(PollFlags::POLLERR | PollFlags::POLLNVAL)
        });
        if of_events.iter().any(|seen| !seen.is_empty()) {
            let ram = self.ram();
            match self.events.as_mut().map(|events| events.new_level(ram)) {
                Some(Ok(news)) => level = level.max(news),
                _ => self.events = None,
            }
        }
        Ok((false, level))
    }

    fn poll_memory(&mut self) -> Option<Level> {
        let Self { proc, groups, polled, .. } = self;
        match polled {
            Polled::Nothing => None,
            Polled::Stalls { before } => {
                let now = proc.pressure()?;
                let last = std::mem::replace(before, now);
                stalled(last, now)
            }
            Polled::Available { said } => {
                let ram = Ram::within(&proc.meminfo()?, groups);
                let level = LOW_MEMORY_DIVISORS
                    .iter()
                    .find(|(_, part)| ram.available < ram.limit / part)
                    .map(|(level, _)| *level);
                let news = match (level, *said) {
                    (Some(level), Some((before, at))) => level > before || at.elapsed() >= REPEAT_INTERVAL,
                    (level, _) => level.is_some(),
                };
                match level {
                    None => *said = None,
                    Some(level) if news => *said = Some((level, Instant::now())),
                    Some(_) => {}
                }
                level.filter(|_| news)
            }
        }
    }
}

fn stalled(last: Pressure, now: Pressure) -> Option<Level> {
    let [(some, _, some_stall), (full, _, full_stall)] = PSI_TRIGGERS;
    match () {
        () if now.full_total.saturating_sub(last.full_total) >= full_stall => Some(full),
        () if now.some_total.saturating_sub(last.some_total) >= some_stall => Some(some),
        () => None,
    }
}

fn poll_timeout(after: Duration) -> PollTimeout {
    PollTimeout::try_from(after).unwrap_or(PollTimeout::MAX)
}

type Listener = Box<dyn Fn(Shortage) + Send>;

/// The listeners of one thread.
struct Watch {
    listeners: Mutex<HashMap<u64, Listener>>,
    /// Wakes the thread when the last listener has gone.
    wake: EventFd,
}

impl Watch {
    /// Starts the thread. Its descriptors are open when this returns, so that a caller that counts descriptors sees
    /// them.
    fn start(root: &Path) -> io::Result<Arc<Self>> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let watch = Arc::new(Self { listeners: Mutex::default(), wake });
        let (running, root, sources) = (Arc::clone(&watch), root.to_owned(), Sources::open(root));
        thread::Builder::new().name("rkllm-pressure".to_owned()).spawn(move || running.run(&root, sources))?;
        Ok(watch)
    }

    fn run(&self, root: &Path, mut sources: Sources) {
        let mut time = None;
        loop {
            match sources.wait(self.wake.as_fd(), time) {
                Wakeup::Short(shortage) => self.listeners.lock().values().for_each(|listener| listener(shortage)),
                Wakeup::Woken => {
                    // Fails only if it was read already.
                    let _ = self.wake.read();
                    time = self.listeners.lock().is_empty().then_some(KEEP_ALIVE);
                }
                Wakeup::TimedOut => {
                    let mut watches = WATCHES.lock();
                    if self.listeners.lock().is_empty() {
                        watches.remove(root);
                        return;
                    }
                    time = None;
                }
                Wakeup::Failed => {
                    WATCHES.lock().remove(root);
                    return;
                }
            }
        }
    }
}

/// Keeps one listener registered until it drops.
#[derive(Debug)]
pub struct Subscription {
    watch: Arc<Watch>,
    id: u64,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

/// The watches of this process, by the root of the tree that they read.
/// Locked before the listeners of a watch.
static WATCHES: Lazy<Mutex<HashMap<PathBuf, Arc<Watch>>>> = Lazy::new(Mutex::default);
/// The id of the next subscription.
static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// Calls `listener`, on the watch's thread, whenever the figures under `root` say that memory is short. The listener
/// must not block and must not drop its own subscription.
///
/// Errors: the system has no thread or no descriptor left.
pub fn watch(root: &Path, listener: impl Fn(Shortage) + Send + 'static) -> io::Result<Subscription> {
    let mut watches = WATCHES.lock();
    let watch = match watches.get(root) {
        Some(watch) => Arc::clone(watch),
        None => {
            let watch = Watch::start(root)?;
            watches.insert(root.to_owned(), Arc::clone(&watch));
            watch
        }
    };
    let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
    watch.listeners.lock().insert(id, Box::new(listener));
    Ok(Subscription { watch, id })
}

impl Drop for Subscription {
    /// Waits for a notification that is under way.
    fn drop(&mut self) {
        let (listener, is_last) = {
            let mut listeners = self.watch.listeners.lock();
            (listeners.remove(&self.id), listeners.is_empty())
        };
        drop(listener);
        if is_last {
            // Fails only if the counter is full: the thread was woken then.
            let _ = self.watch.wake.write(1);
        }
    }
}

#[cfg(test)]
mod tests;
