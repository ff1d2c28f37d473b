//! Other processes: one that ends with its parent, and the end of one that may have ended already.
//!
//! A process id is used again. The start, field 22 of `/proc/PID/stat`, tells a process from a later one with its id.
#![allow(unsafe_code)]

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::unistd::{getpgrp, getpid, getppid, setpgid, Pid};

/// The process that started this one, for the signal handler.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// Signals from the end of the real-time range: runtimes take theirs from its start.
fn parent_signal() -> i32 {
    libc::SIGRTMAX() - 2
}

/// Returns when a process started, in clock ticks since boot; `None` if it does not exist.
pub fn start_of(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name is in parentheses, and may have any character.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Kills the process `pid` if it is the one that started at `start`. Returns whether it was killed.
///
/// The descriptor of a process (Linux 5.3) keeps its meaning between the look at the start and the signal. Older
/// kernels have none, and leave microseconds in which the id could be used again.
pub fn kill_started(pid: i32, start: u64) -> io::Result<bool> {
    let descriptor = match pidfd_open(pid) {
        Ok(descriptor) => Some(descriptor),
        Err(Errno::ESRCH) => return Ok(false),
        Err(_) => None,
    };
    if start_of(pid) != Some(start) {
        return Ok(false);
    }
    let sent = match descriptor {
        Some(descriptor) => pidfd_kill(descriptor.as_fd()),
        // SAFETY: `kill` takes numbers. The wrong one would end another process of this user: the start was compared.
        None => Errno::result(unsafe { libc::kill(pid, libc::SIGKILL) }).map(drop),
    };
    match sent {
        Ok(()) => Ok(true),
        Err(Errno::ESRCH) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

fn pidfd_open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the call takes numbers, and returns a new descriptor or fails.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    // SAFETY: the kernel just made this descriptor, and no other code has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn pidfd_kill(descriptor: BorrowedFd<'_>) -> nix::Result<()> {
    let (fd, signal) = (descriptor.as_raw_fd(), libc::SIGKILL);
    let no_info = std::ptr::null::<libc::siginfo_t>();
    // SAFETY: a null pointer asks for the default information; the descriptor is open during the call.
    Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, no_info, 0) }).map(drop)
}

/// Makes this process a group of its own, which ends when its parent does: also if JavaScript is blocked in a driver,
/// and with the processes that it started meanwhile.
///
/// Two ways, of which each suffices. A thread waits until standard input, a pipe of the parent, is closed. And the
/// kernel signals the end of the parent: of the *thread* that started this process, so that the handler looks whether
/// the parent is there.
pub fn end_with_parent() -> io::Result<()> {
    // Fails where it leads a session, and then it has its own group.
    let _ = setpgid(Pid::from_raw(0), Pid::from_raw(0));
    let parent = getppid();
    PARENT.store(parent.as_raw(), Ordering::Relaxed);
    signal_at_end_of_parent()?;
    // The parent may have ended before the kernel knew of the signal.
    if getppid() != parent {
        end_group();
    }
    thread::Builder::new().name("rkllm-parent".to_owned()).spawn(await_end_of_input).map(drop)
}

fn signal_at_end_of_parent() -> io::Result<()> {
    // SAFETY: all fields of the struct may be zero.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = on_parent_signal as *const () as usize;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: the struct is initialized; the handler calls only functions that signal handlers may call.
    Errno::result(unsafe { libc::sigaction(parent_signal(), &action, std::ptr::null_mut()) })?;
    // SAFETY: this option takes a number.
    Errno::result(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, parent_signal()) })?;
    Ok(())
}

extern "C" fn on_parent_signal(_: i32) {
    if getppid().as_raw() != PARENT.load(Ordering::Relaxed) {
        end_group();
    }
}

/// Kills the processes of this group, this one among them. Never those of another group.
fn end_group() {
    let target = if getpgrp() == getpid() { 0 } else { getpid().as_raw() };
    // SAFETY: `kill` takes numbers; 0 is the own group, which this process leads.
    unsafe { libc::kill(target, libc::SIGKILL) };
}

fn await_end_of_input() {
    // SAFETY: no code of a worker closes standard input. A closed descriptor would show as NVAL, and end the wait.
    let input = unsafe { BorrowedFd::borrow_raw(0) };
    loop {
        let mut fds = [PollFd::new(input, PollFlags::empty())];
        if poll(&mut fds, PollTimeout::NONE).is_err() {
            continue; // a signal
        }
        match fds[0].revents() {
            Some(events) if events.contains(PollFlags::POLLHUP) => end_group(),
            Some(events) if events.intersects(PollFlags::POLLNVAL | PollFlags::POLLERR) => return,
            _ => {}
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    fn sleeper() -> std::process::Child {
        Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().unwrap()
    }

    #[test]
    fn a_process_is_killed_by_its_id_and_its_start() {
        let mut child = sleeper();
        let pid = child.id() as i32;
        let start = start_of(pid).unwrap();
        assert!(!kill_started(pid, start + 1).unwrap(), "a later process with its id stays");
        assert_eq!(start_of(pid), Some(start));
        assert!(kill_started(pid, start).unwrap());
        assert!(!child.wait().unwrap().success());
        assert!(!kill_started(pid, start).unwrap(), "it has ended");
    }

    #[test]
    fn a_process_without_an_id_has_no_start() {
        assert_eq!(start_of(i32::MAX), None);
        assert!(!kill_started(i32::MAX, 1).unwrap());
        assert!(start_of(getpid().as_raw()).is_some());
    }
}
