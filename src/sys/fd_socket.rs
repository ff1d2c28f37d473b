//! Sends file descriptors between processes: datagrams on a Unix socket, each with one descriptor and a short payload
//! (`SCM_RIGHTS`, unix(7)). Node, Bun and Deno have no API for this.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    bind, connect, recvmsg, sendmsg, setsockopt, socket, AddressFamily, ControlMessage, ControlMessageOwned, MsgFlags,
    SockFlag, SockType, UnixAddr,
};
use nix::sys::time::TimeVal;

/// The maximum bytes of a payload. The kernel limits a datagram by the socket's buffer, 200 KiB by default.
pub const MAX_MESSAGE_LEN: usize = 64 << 10;

/// The seconds that [`send`] waits for a receiver with a full queue (ten messages by default).
const SEND_TIMEOUT_S: i64 = 5;

/// A received descriptor and its payload.
#[derive(Debug)]
pub struct Message {
    /// The descriptor, close-on-exec and owned by the receiver.
    pub fd: OwnedFd,
    /// The bytes that the sender attached.
    pub payload: Vec<u8>,
}

/// A Unix socket bound to a path. Dropping it removes the path.
#[derive(Debug)]
pub struct Inbox {
    socket: OwnedFd,
    path: PathBuf,
    /// Set once the path was removed: another process may have bound the same path since.
    closed: AtomicBool,
}

impl Inbox {
    /// Binds `path` and replaces a socket that a dead process left there.
    ///
    /// Errors: those of socket(2) and bind(2); EADDRINUSE if another process listens there.
    pub fn bind(path: &Path) -> io::Result<Self> {
        let socket = datagrams(SockFlag::SOCK_NONBLOCK)?;
        let address = UnixAddr::new(path)?;
        let mut bound = bind(socket.as_raw_fd(), &address);
        if bound == Err(Errno::EADDRINUSE) && is_left_over(path, &address)? {
            fs::remove_file(path)?;
            bound = bind(socket.as_raw_fd(), &address);
        }
        bound?;
        Ok(Self { socket, path: path.to_owned(), closed: AtomicBool::new(false) })
    }

    /// The path that this inbox is bound to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next message, if one is queued; never waits. Skips datagrams without a descriptor.
    ///
    /// Errors: those of recvmsg(2).
    pub fn take(&self) -> io::Result<Option<Message>> {
        let mut payload = vec![0; MAX_MESSAGE_LEN];
        loop {
            let (length, fds) = {
                let mut room = cmsg_space!([RawFd; 1]);
                let mut parts = [IoSliceMut::new(&mut payload)];
                let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
                let message = match recvmsg::<()>(self.socket.as_raw_fd(), &mut parts, Some(&mut room), flags) {
                    Ok(message) => message,
                    Err(Errno::EAGAIN) => return Ok(None),
                    Err(Errno::EINTR) => continue,
                    Err(errno) => return Err(errno.into()),
                };
                let fds: Vec<OwnedFd> = message.cmsgs()?.flat_map(descriptors).collect();
                (message.bytes, fds)
            };
            // The kernel closed any second descriptor that did not fit the buffer. Alignment may leave room for one
            // more, which drops here.
            if let Some(fd) = fds.into_iter().next() {
                payload.truncate(length);
                return Ok(Some(Message { fd, payload }));
            }
        }
    }

    /// Waits for a datagram, a [`wake`](Self::wake) included.
    ///
    /// Errors: those of poll(2).
    pub fn wait(&self) -> io::Result<()> {
        loop {
            match poll(&mut [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Ends every [`wait`](Self::wait) and removes the path. The socket closes when the last of those calls has
    /// returned.
    pub fn close(&self) {
        self.wake();
        self.remove();
    }

    fn remove(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }

    /// Ends every [`wait`](Self::wait) by sending an empty datagram.
    pub fn wake(&self) {
        // A full queue holds messages already, so no thread is waiting.
        let _ = UnixAddr::new(&self.path).map_err(io::Error::from).and_then(|to| {
            let socket = datagrams(SockFlag::SOCK_NONBLOCK)?;
            Ok(sendmsg(socket.as_raw_fd(), &[IoSlice::new(&[0])], &[], MsgFlags::MSG_NOSIGNAL, Some(&to))?)
        });
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Sends `fd` with `payload` to the process that bound `path`. Waits some seconds for room in its queue.
///
/// Errors: ENOENT and ECONNREFUSED if no process has bound `path`, EAGAIN if the receiver's queue stays full, and those
/// of sendmsg(2).
pub fn send(path: &Path, fd: BorrowedFd<'_>, payload: &[u8]) -> io::Result<()> {
    let socket = datagrams(SockFlag::empty())?;
    setsockopt(&socket, SendTimeout, &TimeVal::new(SEND_TIMEOUT_S, 0))?;
    let to = UnixAddr::new(path)?;
    let fds = [fd.as_raw_fd()];
    loop {
        let rights = [ControlMessage::ScmRights(&fds)];
        match sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], &rights, MsgFlags::MSG_NOSIGNAL, Some(&to)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Reports whether `fd` is a file by which devices share memory, rather than an unrelated file of this process.
pub fn is_dma_buf(fd: RawFd) -> bool {
    let link = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    let name = link.to_string_lossy();
    // The simulated device exports memfds.
    name.starts_with("/dmabuf:") || name.starts_with("anon_inode:dmabuf") || name.starts_with("/memfd:")
}

fn datagrams(flags: SockFlag) -> nix::Result<OwnedFd> {
    socket(AddressFamily::Unix, SockType::Datagram, flags | SockFlag::SOCK_CLOEXEC, None)
}

/// Reports whether `path` is a socket that no process has bound any more. A regular file is never one.
fn is_left_over(path: &Path, address: &UnixAddr) -> io::Result<bool> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Ok(false);
    }
    let probe = datagrams(SockFlag::empty())?;
    Ok(connect(probe.as_raw_fd(), address) == Err(Errno::ECONNREFUSED))
}

fn descriptors(message: ControlMessageOwned) -> Vec<OwnedFd> {
    match message {
        // SAFETY: the kernel has just created these descriptors for this process, and no other code knows them. Taking
        // none would leak them; taking one twice would close a stranger's descriptor.
        ControlMessageOwned::ScmRights(fds) => fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};
    use std::sync::Arc;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rkllm-inbox-{}-{name}", std::process::id()))
    }

    #[test]
    fn a_descriptor_and_its_payload_arrive_and_the_path_goes_with_the_inbox() {
        let path = path("arrive");
        let inbox = Arc::new(Inbox::bind(&path).unwrap());
        assert!(inbox.take().unwrap().is_none());
        let (read, write) = nix::unistd::pipe().unwrap();
        let waiter = {
            let inbox = Arc::clone(&inbox);
            std::thread::spawn(move || inbox.wait().unwrap())
        };
        send(&path, write.as_fd(), b"seven").unwrap();
        waiter.join().unwrap();
        drop(write);
        let message = inbox.take().unwrap().unwrap();
        assert_eq!(message.payload, b"seven");
        File::from(message.fd).write_all(b"through").unwrap();
        let mut through = String::new();
        File::from(read).read_to_string(&mut through).unwrap();
        assert_eq!(through, "through");
        assert_eq!(Inbox::bind(&path).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        drop(inbox);
        let unbound = send(&path, File::open("/dev/null").unwrap().as_fd(), b"").unwrap_err();
        assert_eq!(unbound.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_dead_process_s_socket_is_replaced_and_a_file_is_not() {
        let path = path("stale");
        let dead = datagrams(SockFlag::empty()).unwrap();
        bind(dead.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        drop(dead);
        assert!(Inbox::bind(&path).unwrap().take().unwrap().is_none());
        fs::write(&path, "a file").unwrap();
        assert!(Inbox::bind(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "a file");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn wakes_are_no_messages_and_a_full_inbox_is_an_error() {
        let path = path("full");
        let inbox = Inbox::bind(&path).unwrap();
        inbox.wake();
        inbox.wait().unwrap();
        assert!(inbox.take().unwrap().is_none());
        let fd = File::open("/dev/null").unwrap();
        let mut sent = 0;
        // The queue holds about ten (net.unix.max_dgram_qlen). A non-blocking socket fails at once when it is full.
        let socket = datagrams(SockFlag::SOCK_NONBLOCK).unwrap();
        let to = UnixAddr::new(&path).unwrap();
        let fds = [fd.as_raw_fd()];
        while sendmsg(
            socket.as_raw_fd(),
            &[IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::empty(),
            Some(&to),
        )
        .is_ok()
        {
            sent += 1;
        }
        let mut taken = 0;
        while inbox.take().unwrap().is_some() {
            taken += 1;
        }
        assert!(sent > 0 && sent == taken);
    }
}
