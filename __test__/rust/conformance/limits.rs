//! Exhaustion of memory and file descriptors, and concurrent threads.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{getrlimit, setrlimit, Resource};

use crate::suite::{ensure, mark, not_applicable, open_fds, shows, told, Case, Check, Owned, Rig, HELD, NO_IMPORT};
use rkllmjs_memory::backend::{Direction, Kind, Request};
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::sys::proc::Proc;
use rkllmjs_memory::units::{format_bytes, MIB};

pub const CASES: &[Case] = &[
    Case { name: "four threads make, map, sync, export and end objects", check: threads },
    Case { name: "two threads import and end the same dma-buf", check: threads_share },
    Case { name: "a sync meets a destroy on another thread", check: sync_meets_destroy },
    Case { name: "no free file descriptor is ERR_TOO_MANY_FDS", check: out_of_fds },
    Case { name: "the end of memory is a typed error, and everything is back afterwards", check: exhaustion },
];

/// Up to `count` rounds. A slow driver stops after a few seconds, but not before five rounds.
fn rounds(count: u64) -> impl Iterator<Item = u64> {
    let end = Instant::now() + Duration::from_secs(4);
    (0..count).take_while(move |round| *round < 5 || Instant::now() < end)
}

/// Runs `work` on `count` threads. Returns the first failure.
fn on_threads(count: u64, work: impl Fn(u64) -> Result<(), String> + Sync) -> Result<(), String> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..count)
            .map(|n| {
                scope.spawn({
                    let work = &work;
                    move || work(n)
                })
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a thread panicked".into())))
    })
}

fn threads(rig: &Rig) -> Check {
    let domains = rig.domains();
    on_threads(4, |n| {
        for round in rounds(50) {
            let request = Request { domain: n as u32 % domains, ..Request::plain(page_size() * (1 + round % 7)) };
            let owned = rig.create(&request)?;
            let mapping = owned.map()?;
            mapping.fill(0..mapping.len(), n as u8);
            mapping.write(0, &mark(n << 32 | round));
            rig.backend.sync(owned.handle(), Direction::ToDevice, 0..page_size()).map_err(told)?;
            drop(owned.export()?);
            ensure!(shows(&mapping, 0, n << 32 | round), "thread {n} reads another's bytes in round {round}");
            drop(mapping);
            owned.destroy()?;
        }
        Ok(())
    })?;
    HELD
}

fn threads_share(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let owned = rig.pages(1)?;
    let fd = owned.export()?;
    owned.map()?.write(0, &mark(11));
    rig.backend.sync(owned.handle(), Direction::ToDevice, 0..64).map_err(told)?;
    // Without another reference, one thread's last destroy races the other's import: the kernel gives both the same
    // handle (`docs/design/rknpu.md` §2.5).
    owned.destroy()?;
    on_threads(4, |n| {
        for round in rounds(100) {
            let again = rig.own(rig.backend.import(fd.as_fd(), None).map_err(told)?);
            ensure!(shows(&again.map()?, 0, 11), "thread {n} sees other bytes in round {round}");
            rig.backend.sync(again.handle(), Direction::FromDevice, 0..64).map_err(told)?;
            again.destroy()?;
            // Another object takes the freed kernel handle.
            rig.pages(1)?.destroy()?;
        }
        Ok(())
    })?;
    HELD
}

fn sync_meets_destroy(rig: &Rig) -> Check {
    for _ in rounds(100) {
        let owned = rig.pages(16)?;
        let (handle, size) = (owned.handle(), owned.object.size);
        thread::scope(|scope| {
            let syncs = scope.spawn(|| {
                // Stops at the first error, when the handle is stale.
                (0..1000).find(|_| rig.backend.sync(handle, Direction::ToDevice, 0..size).is_err())
            });
            let ended = owned.destroy();
            let _ = syncs.join();
            ended
        })?;
        ensure!(rig.backend.sync(handle, Direction::ToDevice, 0..size).is_err(), "a stale handle was taken");
    }
    HELD
}

/// Lowers RLIMIT_NOFILE while it lives.
struct FewFds(u64);

impl FewFds {
    fn more_than_now(more: u64) -> Result<Self, String> {
        let words = |error: nix::errno::Errno| format!("RLIMIT_NOFILE: {error}");
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(words)?;
        setrlimit(Resource::RLIMIT_NOFILE, open_fds() as u64 + more, hard).map_err(words)?;
        Ok(Self(soft))
    }
}

impl Drop for FewFds {
    fn drop(&mut self) {
        if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
            let _ = setrlimit(Resource::RLIMIT_NOFILE, self.0, hard);
        }
    }
}

fn out_of_fds(rig: &Rig) -> Check {
    let owned = rig.pages(1)?;
    let mut fds: Vec<OwnedFd> = Vec::new();
    {
        let _few = FewFds::more_than_now(8)?;
        let refused = loop {
            match rig.backend.export(owned.handle()) {
                Ok(fd) if fds.len() < 64 => fds.push(fd),
                Ok(_) => return Err("64 exports fit where 8 should".into()),
                Err(error) => break error,
            }
        };
        ensure!(refused.code() == ErrorCode::TooManyFds, "export: {}", told(refused));
        ensure!(refused.details().hint.is_some(), "it has no remedy");
        match rig.try_create(&Request::plain(page_size())) {
            Ok(other) => other.destroy()?, // This backend's objects are no fds.
            Err(error) => ensure!(error.code() == ErrorCode::TooManyFds, "create: {}", told(error)),
        }
        fds.clear();
        drop(owned.export()?);
    }
    HELD
}

fn exhaustion(rig: &Rig) -> Check {
    let simulated = rig.kind() == Kind::Simulated;
    let info = rig.backend.info();
    let chunk = match info.domain_bytes {
        total if simulated && total > 0 => (total / 64).clamp(page_size(), 64 * MIB) & !(page_size() - 1),
        _ => 8 * MIB,
    };
    // Where shmem is behind it, the OOM killer comes before the errno (`docs/design/drivers.md` §1.2).
    let available = Proc::default().meminfo().map_or(0, |memory| memory.available);
    let bound = if simulated { u64::MAX } else { (512 * MIB).min(available / 2) };
    let mut counts = Vec::new();
    for _ in 0..2 {
        let mut objects: Vec<Owned> = Vec::new();
        let refused = loop {
            if objects.len() as u64 * chunk >= bound {
                let held = format_bytes(bound);
                return not_applicable(format!("it holds more than the {held} that are safe to take here"));
            }
            match rig.try_create(&Request::plain(chunk)) {
                Ok(owned) => objects.push(owned),
                Err(error) => break error,
            }
        };
        ensure!(
            matches!(refused.code(), ErrorCode::IovaExhausted | ErrorCode::OutOfMemory | ErrorCode::TooManyFds),
            "after {} objects: {}",
            objects.len(),
            told(refused)
        );
        let details = refused.details();
        // A CMA area that cannot have the room is not asked.
        let is_answer = details.errno.is_some() || details.scope.as_deref() == Some("cma");
        ensure!(is_answer && details.requested == Some(chunk), "without its figures: {details:?}");
        ensure!(details.hint.is_some(), "it has no remedy");
        counts.push(objects.len());
        // Existing objects still work.
        let last = objects.last().ok_or("not one object fits")?;
        last.map()?.write(0, &mark(12));
        rig.backend.sync(last.handle(), Direction::ToDevice, 0..chunk).map_err(told)?;
        for owned in objects {
            owned.destroy()?;
        }
    }
    // The counts may differ by a few: a CMA area has other users.
    ensure!(counts[1] + 1 + counts[0] / 16 >= counts[0], "{} fitted, and then only {}", counts[0], counts[1]);
    HELD
}
