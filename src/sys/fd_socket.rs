//! Sends dma-bufs between processes: datagrams on a Unix socket, each with one descriptor and a short payload
//! (`SCM_RIGHTS`, unix(7)). Node, Bun and Deno have no API for this.
//!
//! # Payload
//!
//! The payload is the message's text, UTF-8. A part of a dma-buf has a header before it, of [`HEADER_LEN`] bytes: a
//! mark, then offset and size, 64 bits each, little-endian. Without a header the part is the whole dma-buf. So senders
//! and receivers from before the header work with later ones as long as whole dma-bufs are sent. An earlier receiver of
//! a part sees a text that no program sends (the mark is not UTF-8), in place of the part's neighbours in silence.
#![allow(unsafe_code)]

use std::fs;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

use nix::errno::Errno;
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    bind, connect, sendmsg, setsockopt, socket, AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr,
};
use nix::sys::time::TimeVal;

use crate::error::{Error, ErrorCode, Result};
use crate::sys::dma_buf::{link, DmaBuf};
use crate::sys::poller::{Poller, Waiter};

/// The maximum bytes of a message's text. The kernel limits a datagram by the socket's buffer, 200 KiB by default.
pub const MAX_MESSAGE_LEN: usize = 64 << 10;

/// The bytes of a part's header.
pub const HEADER_LEN: usize = 24;

/// Opens a header: no UTF-8 text contains 0xff. The last byte is the version.
const MARK: [u8; 8] = *b"\xffrkdmab\x01";

/// The kernel's maximum of descriptors in one message (SCM_MAX_FD).
const MAX_DESCRIPTORS: usize = 253;

/// The bytes of control data with that many descriptors.
// SAFETY: CMSG_SPACE only computes.
const CONTROL_LEN: usize = unsafe { libc::CMSG_SPACE((MAX_DESCRIPTORS * size_of::<RawFd>()) as u32) } as usize;

/// The seconds that [`send`] waits for a receiver with a full queue (ten messages by default).
const SEND_TIMEOUT_S: i64 = 5;

/// Waits for the messages of every inbox of the process.
static POLLER: Poller = Poller::new("rkllm-inbox");

/// A received dma-buf.
#[derive(Debug)]
pub struct Message {
    /// The descriptor, close-on-exec and owned by the receiver.
    pub fd: OwnedFd,
    /// The part of the dma-buf that was sent, within its size.
    pub part: Range<u64>,
    /// The bytes that the sender attached.
    pub text: Vec<u8>,
}

/// A Unix socket bound to a path. Dropping it removes the path.
#[derive(Debug)]
pub struct Inbox {
    socket: Arc<OwnedFd>,
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
        Ok(Self { socket: Arc::new(socket), path: path.to_owned(), closed: AtomicBool::new(false) })
    }

    /// The path that this inbox is bound to.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the next message, if one is queued; never waits. Skips datagrams without a descriptor. Of several
    /// descriptors in one message the first counts. Every descriptor that is not in the result is closed.
    ///
    /// Errors: `ERR_TOO_MANY_FDS` while the process can take no descriptor, and the message stays queued;
    /// `ERR_INVALID_ARG_TYPE` for a file that is no dma-buf, `ERR_OUT_OF_RANGE` for a part beyond the dma-buf's end and
    /// for a text that is too long, and the message is gone; `ERR_DEVICE_IO`.
    pub fn take(&self) -> Result<Option<Message>> {
        let mut payload = vec![0; HEADER_LEN + MAX_MESSAGE_LEN];
        while self.is_readable() {
            self.check_room()?;
            let Some(datagram) = self.receive(&mut payload)? else { continue };
            let fd = match datagram.descriptors.into_iter().next() {
                Some(fd) => fd,
                // Another thread took the last descriptor meanwhile, so the kernel delivered none.
                None if datagram.flags.contains(MsgFlags::MSG_CTRUNC) => return Err(self.lost()),
                None => continue,
            };
            if datagram.flags.contains(MsgFlags::MSG_TRUNC) {
                let text = format!("a message to {} had more than {MAX_MESSAGE_LEN} bytes", self.path.display());
                return Err(self.refused(ErrorCode::OutOfRange, text));
            }
            return self.opened(fd, &payload[..datagram.length]).map(Some);
        }
        Ok(None)
    }

    /// Checks what a stranger may have sent.
    fn opened(&self, fd: OwnedFd, payload: &[u8]) -> Result<Message> {
        let Ok(buffer) = DmaBuf::inspect_any(fd.as_fd()) else {
            let text = format!("a message to {} carried {:?}, no dma-buf", self.path.display(), link(fd.as_fd()));
            return Err(self.refused(ErrorCode::InvalidArgType, text));
        };
        let (part, text) = split(payload);
        let part = part.map_or(Some(0..buffer.size), |(offset, size)| {
            let end = offset.checked_add(size).filter(|end| size > 0 && *end <= buffer.size)?;
            Some(offset..end)
        });
        let Some(part) = part else {
            let text = format!(
                "a message to {} named bytes beyond the {} that its dma-buf has",
                self.path.display(),
                buffer.size
            );
            return Err(self.refused(ErrorCode::OutOfRange, text).available(buffer.size));
        };
        Ok(Message { fd, part, text: text.to_vec() })
    }

    fn is_readable(&self) -> bool {
        let mut this = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        poll(&mut this, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Checks that the kernel can give this process a descriptor: it would drop that of the message otherwise.
    fn check_room(&self) -> Result<()> {
        match self.socket.try_clone() {
            Ok(_) => Ok(()),
            Err(error) => Err(self.no_descriptor(&error, "its message stays queued")),
        }
    }

    fn lost(&self) -> Error {
        self.no_descriptor(&Errno::EMFILE.into(), "a message of it was lost")
    }

    fn no_descriptor(&self, error: &io::Error, outcome: &str) -> Error {
        let text = format!("{} can deliver no descriptor: {error}; {outcome}", self.path.display());
        Error::new(ErrorCode::TooManyFds, text)
            .syscall("recvmsg", error.raw_os_error().unwrap_or(0))
            .path(&self.path)
            .hint("close descriptors (closeDmaBuf), or raise RLIMIT_NOFILE (ulimit -n)")
    }

    fn refused(&self, code: ErrorCode, text: String) -> Error {
        Error::new(code, format!("{text}; its descriptors were closed"))
            .path(&self.path)
            .hint("the permissions of the socket's directory decide which processes can send")
    }

    fn receive(&self, payload: &mut [u8]) -> Result<Option<Datagram>> {
        match receive(self.socket.as_fd(), payload) {
            Ok(datagram) => Ok(Some(datagram)),
            Err(Errno::EAGAIN | Errno::EINTR) => Ok(None),
            Err(errno) => Err(Error::new(ErrorCode::DeviceIo, format!("recvmsg: {errno}: {}", self.path.display()))
                .syscall("recvmsg", errno as i32)
                .path(&self.path)),
        }
    }

    /// Calls `waiter` when a message may be there, or after [`wake`](Self::wake).
    ///
    /// Errors: those of [`Poller::when_readable`].
    pub fn when_readable(&self, waiter: Waiter) -> io::Result<()> {
        POLLER.when_readable(&self.socket, waiter)
    }

    /// Ends every wait.
    pub fn wake(&self) {
        POLLER.wake(&self.socket);
    }

    /// Ends every wait and removes the path. The socket closes with the last of them.
    pub fn close(&self) {
        self.wake();
        self.remove();
    }

    fn remove(&self) {
        if !self.closed.swap(true, Ordering::Relaxed) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.remove();
    }
}

/// The delivery of one recvmsg(2).
struct Datagram {
    length: usize,
    flags: MsgFlags,
    descriptors: Vec<OwnedFd>,
}

/// Splits a payload into the part's offset and size, if it has a header, and the text.
fn split(payload: &[u8]) -> (Option<(u64, u64)>, &[u8]) {
    let word = |at: usize| payload.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(u64::from_le_bytes);
    match (payload.starts_with(&MARK), word(8), word(16)) {
        (true, Some(offset), Some(size)) => (Some((offset, size)), &payload[HEADER_LEN..]),
        _ => (None, payload),
    }
}

/// Makes the header of a part.
fn header(part: &Range<u64>) -> Vec<u8> {
    [&MARK[..], &part.start.to_le_bytes(), &(part.end - part.start).to_le_bytes()].concat()
}

/// Sends `fd` with `text` to the process that bound `path`. Waits some seconds for room in its queue. `part` names the
/// bytes of the dma-buf that are meant; `None` means all of them.
///
/// Errors: ENOENT and ECONNREFUSED if no process has bound `path`, EAGAIN if the receiver's queue stays full, and those
/// of sendmsg(2).
pub fn send(path: &Path, fd: BorrowedFd<'_>, part: Option<&Range<u64>>, text: &[u8]) -> io::Result<()> {
    let socket = datagrams(SockFlag::empty())?;
    setsockopt(&socket, SendTimeout, &TimeVal::new(SEND_TIMEOUT_S, 0))?;
    let to = UnixAddr::new(path)?;
    let fds = [fd.as_raw_fd()];
    let header = part.map(header).unwrap_or_default();
    let payload = [IoSlice::new(&header), IoSlice::new(text)];
    loop {
        let rights = [ControlMessage::ScmRights(&fds)];
        match sendmsg(socket.as_raw_fd(), &payload, &rights, MsgFlags::MSG_NOSIGNAL, Some(&to)) {
            Ok(_) => return Ok(()),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
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

/// Receives a datagram with all of its descriptors. nix gives none of them if control data was cut short, which the
/// kernel reports when it could install only some: they would stay open.
fn receive(socket: BorrowedFd<'_>, payload: &mut [u8]) -> nix::Result<Datagram> {
    #[repr(C, align(8))]
    struct Control([u8; CONTROL_LEN]);
    let mut control = Control([0; CONTROL_LEN]);
    let mut part = libc::iovec { iov_base: payload.as_mut_ptr().cast(), iov_len: payload.len() };
    // SAFETY: a header of zeros is valid: it names no buffer.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = CONTROL_LEN;
    let flags = libc::MSG_CMSG_CLOEXEC | libc::MSG_DONTWAIT;
    // SAFETY: the header names `payload` and `control` with their lengths, and both outlive the call. With a wrong
    // length, the kernel would write over other memory.
    let length = Errno::result(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut header, flags) })?;
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled `control` with whole control messages, up to `msg_controllen`, and CONTROL_LEN is
    // that of an aligned buffer. The macros read within it. A descriptor among them is new in this process, and no
    // other code knows it: taking none would leak it, taking one twice would close a stranger's.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(&header);
        while let Some(found) = message.as_ref() {
            if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
                let count = found.cmsg_len.saturating_sub(libc::CMSG_LEN(0) as usize) / size_of::<RawFd>();
                let first = libc::CMSG_DATA(message).cast::<RawFd>();
                descriptors.extend((0..count).map(|at| OwnedFd::from_raw_fd(first.add(at).read_unaligned())));
            }
            message = libc::CMSG_NXTHDR(&header, message);
        }
    }
    Ok(Datagram { length: length as usize, flags: MsgFlags::from_bits_truncate(header.msg_flags), descriptors })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::FileExt;
    use std::sync::mpsc::channel;

    use nix::fcntl::{fcntl, FcntlArg, SealFlag};
    use nix::sys::memfd::{memfd_create, MFdFlags};
    use nix::unistd::ftruncate;

    use super::*;

    fn path(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("rkllm-inbox-{}-{name}", std::process::id()))
    }

    /// An export of the simulated device.
    fn export() -> File {
        let fd = memfd_create(c"rkllm-simulated-npu", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&fd, 8192).unwrap();
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        fd.into()
    }

    /// Sends what a stranger might.
    fn send_raw(path: &Path, fds: &[RawFd], payload: &[u8]) -> nix::Result<usize> {
        // A non-blocking socket fails at once when the queue is full.
        let socket = datagrams(SockFlag::SOCK_NONBLOCK).unwrap();
        let rights = [ControlMessage::ScmRights(fds)];
        let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
        let to = UnixAddr::new(path).unwrap();
        sendmsg(socket.as_raw_fd(), &[IoSlice::new(payload)], rights, MsgFlags::empty(), Some(&to))
    }

    /// The descriptors of this process that show `file`. Other tests open and close theirs meanwhile.
    fn count(file: &File) -> usize {
        let inode = |fd: &Path| {
            let stat = nix::sys::stat::stat(fd).ok()?;
            Some((stat.st_dev, stat.st_ino))
        };
        let wanted = inode(Path::new(&format!("/proc/self/fd/{}", file.as_raw_fd())));
        let open = fs::read_dir("/proc/self/fd").unwrap().flatten();
        open.filter(|entry| inode(&entry.path()) == wanted).count()
    }

    #[test]
    fn a_dma_buf_and_its_text_arrive_and_the_path_goes_with_the_inbox() {
        let path = path("arrive");
        let inbox = Inbox::bind(&path).unwrap();
        assert!(inbox.take().unwrap().is_none());
        let file = export();
        let (told, heard) = channel();
        inbox.when_readable(Box::new(move || told.send(()).unwrap())).unwrap();
        send(&path, file.as_fd(), None, b"seven").unwrap();
        heard.recv().unwrap();
        let message = inbox.take().unwrap().unwrap();
        assert_eq!((message.text.as_slice(), message.part), (&b"seven"[..], 0..8192));
        File::from(message.fd).write_all_at(b"through", 5).unwrap();
        let mut through = [0; 7];
        file.read_exact_at(&mut through, 5).unwrap();
        assert_eq!(&through, b"through");
        assert_eq!(Inbox::bind(&path).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
        drop(inbox);
        let unbound = send(&path, file.as_fd(), None, b"").unwrap_err();
        assert_eq!(unbound.raw_os_error(), Some(libc::ENOENT));
    }

    #[test]
    fn a_part_arrives_as_itself_and_one_beyond_the_end_is_refused() {
        let path = path("part");
        let inbox = Inbox::bind(&path).unwrap();
        let file = export();
        send(&path, file.as_fd(), Some(&(64..100)), "früh".as_bytes()).unwrap();
        let message = inbox.take().unwrap().unwrap();
        assert_eq!((message.part, message.text.as_slice()), (64..100, "früh".as_bytes()));
        drop(message.fd);
        for beyond in [0..8193, 8192..8193, 8192..8192, 100..100, u64::MAX - 1..u64::MAX] {
            send(&path, file.as_fd(), Some(&beyond), b"").unwrap();
            assert_eq!(inbox.take().unwrap_err().code(), ErrorCode::OutOfRange, "{beyond:?}");
        }
        let wrapping = [&MARK[..], &u64::MAX.to_le_bytes(), &2u64.to_le_bytes()].concat();
        send_raw(&path, &[file.as_raw_fd()], &wrapping).unwrap();
        assert_eq!(inbox.take().unwrap_err().code(), ErrorCode::OutOfRange);
        assert_eq!(count(&file), 1, "the descriptor of a refused message is open");
    }

    #[test]
    fn whole_dma_bufs_have_the_payload_of_before_parts() {
        let path = path("old");
        let inbox = Inbox::bind(&path).unwrap();
        let file = export();
        // An earlier sender's datagram is the text alone.
        send_raw(&path, &[file.as_raw_fd()], b"frame 7").unwrap();
        let message = inbox.take().unwrap().unwrap();
        assert_eq!((message.part, message.text.as_slice()), (0..8192, &b"frame 7"[..]));
        drop(message.fd);
        // And so is that of this sender, which an earlier receiver takes as it is.
        send(&path, file.as_fd(), None, b"frame 8").unwrap();
        let mut payload = [0; 32];
        assert_eq!(inbox.receive(&mut payload).unwrap().unwrap().length, 7);
        assert_eq!(&payload[..7], b"frame 8");
        // The header of a part cannot be taken for a text.
        assert!(std::str::from_utf8(&header(&(0..64))).is_err());
        assert_eq!(header(&(0..64)).len(), HEADER_LEN);
        for text in [&b""[..], &MARK[..], &header(&(0..1))[..23]] {
            assert_eq!(split(text), (None, text));
        }
    }

    #[test]
    fn every_descriptor_that_is_not_handed_out_is_closed() {
        let path = path("closed");
        let inbox = Inbox::bind(&path).unwrap();
        let (good, null) = (export(), File::open("/proc/self/exe").unwrap());
        let stranger = |fds: &[RawFd], payload: &[u8]| {
            send_raw(&path, fds, payload).unwrap();
            inbox.take().map(|message| message.map(|message| message.part)).map_err(|error| error.code())
        };
        let refused = Err(ErrorCode::InvalidArgType);
        for _ in 0..3 {
            assert_eq!(stranger(&[null.as_raw_fd()], b"a file"), refused);
            assert_eq!(stranger(&[null.as_raw_fd(); 3], b"three files"), refused);
            assert_eq!(stranger(&[null.as_raw_fd(); 253], b"as many as the kernel allows"), refused);
            assert_eq!(stranger(&[null.as_raw_fd(), good.as_raw_fd()], b"the first counts"), refused);
            assert_eq!(stranger(&[good.as_raw_fd(); 3], b"the first is handed out"), Ok(Some(0..8192)));
            assert_eq!(stranger(&[good.as_raw_fd(), null.as_raw_fd()], b""), Ok(Some(0..8192)));
            assert_eq!(stranger(&[], b"no descriptor"), Ok(None));
            let long = vec![b'x'; MAX_MESSAGE_LEN + HEADER_LEN + 1];
            assert_eq!(stranger(&[good.as_raw_fd()], &long), Err(ErrorCode::OutOfRange));
        }
        assert_eq!((count(&null), count(&good)), (1, 1));
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
    fn a_close_ends_the_waits_and_a_full_inbox_is_an_error() {
        let path = path("full");
        let inbox = Inbox::bind(&path).unwrap();
        let file = export();
        let mut sent = 0;
        // The queue holds about ten (net.unix.max_dgram_qlen).
        while send_raw(&path, &[file.as_raw_fd()], b"x").is_ok() {
            sent += 1;
        }
        let mut taken = 0;
        while inbox.take().unwrap().is_some() {
            taken += 1;
        }
        assert!(sent > 0 && sent == taken);
        let (told, heard) = channel();
        inbox.when_readable(Box::new(move || told.send(()).unwrap())).unwrap();
        inbox.close();
        heard.recv().unwrap();
        assert!(!path.exists());
    }
}
