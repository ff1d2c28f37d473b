//! Sharing: dma-bufs, their transport between processes, and allocations that share memory.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::async_task::{no_thread, spawn, start, AsyncTask, Completer, Outcome};
use super::buffer::{borrow_fd, close_fd, expose, find};
use super::env::{throw, EnvData, EnvId};
use super::memory::DRIVER_THREADS;
use super::registry::{self, manager, Registry};
use super::shared_buffers::watch;
use crate::device::block::ImportRange;
use crate::error::{Error, ErrorCode};
use crate::sync::Mutex;
use crate::sys::dma_buf;
use crate::sys::fd_socket::{self, Inbox, Message, MAX_MESSAGE_LEN};
use crate::sys::thread_pool::ThreadPool;

static INBOXES: Lazy<Registry<EnvId, Arc<Inbox>>> = Lazy::new(|| Registry::with_exit_hook(close_inboxes_of));

/// Threads that wait until a receiver has room.
static SENDER_THREADS: ThreadPool = ThreadPool::new("rkllm-sender", 4);

fn inbox(handle: f64) -> crate::error::Result<Arc<Inbox>> {
    INBOXES
        .with(registry::handle(handle), |inbox| Arc::clone(inbox))
        .ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this inbox was closed"))
}

fn close_inboxes_of(env: EnvId) {
    INBOXES.remove_of(env).iter().for_each(|(_, inbox)| inbox.close());
}

/// A dma-buf of the kernel object under a buffer.
#[napi(object)]
pub struct DmaBuf {
    pub fd: i32,
    pub offset: f64,
    pub size: f64,
}

/// Exports a buffer's kernel object as a dma-buf. The caller owns the descriptor.
#[napi(catch_unwind)]
pub fn export_dma_buf(env: &Env, handle: f64, buffer: Unknown<'_>) -> Result<DmaBuf> {
    let allocation = find(env, handle, &buffer, None)?;
    let fd = manager(handle).and_then(|manager| manager.export(&allocation)).map_err(throw(env))?;
    Ok(DmaBuf { fd: fd.into_raw_fd(), offset: allocation.offset as f64, size: allocation.size as f64 })
}

/// Maps a part of a dma-buf, from `offset` on, by default up to its end: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn import_dma_buf<'env>(
    env: &'env Env,
    handle: f64,
    fd: i32,
    offset: f64,
    size: Option<f64>,
    tag: Option<String>,
) -> Result<Array<'env>> {
    let range = ImportRange { offset: offset as u64, size: size.map(|size| size as u64) };
    let imported = manager(handle).and_then(|manager| {
        let fd = checked_fd(fd)?;
        manager.import(fd, range, tag.map(Into::into))
    });
    expose(env, imported)
}

/// Maps a part of a dma-buf on another thread: a promise of `[buffer, handle]`, or of nothing after `cancelTask`.
#[napi(catch_unwind)]
pub fn import_dma_buf_async(
    env: &Env,
    handle: f64,
    fd: i32,
    offset: f64,
    size: Option<f64>,
    tag: Option<String>,
) -> Result<AsyncTask<'_>> {
    let range = ImportRange { offset: offset as u64, size: size.map(|size| size as u64) };
    let manager = manager(handle).map_err(throw(env))?;
    // A duplicate, because JavaScript may close the original as soon as this returns.
    let copy = checked_fd(fd).and_then(duplicate).map_err(throw(env))?;
    let work = move || manager.prepare_import(copy.as_fd(), range, tag.map(Into::into)).map(Outcome::memory);
    spawn(env, &DRIVER_THREADS, work)
}

/// Shares a buffer's memory. Returns a token for [`adopt`].
#[napi(catch_unwind)]
pub fn share(env: &Env, handle: f64, buffer: Unknown<'_>, id: Option<f64>) -> Result<String> {
    let allocation = find(env, handle, &buffer, id)?;
    let share = allocation.share().map_err(throw(env))?;
    watch(env, &buffer, &allocation);
    Ok(share.token())
}

/// Creates another ArrayBuffer over shared memory: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn adopt<'env>(env: &'env Env, handle: f64, token: String) -> Result<Array<'env>> {
    let allocation = manager(handle).and_then(|manager| manager.adopt(&token)).map_err(throw(env))?;
    let pair = expose(env, Ok(Arc::clone(&allocation)))?;
    if let Some(buffer) = pair.get(0)? {
        watch(env, &buffer, &allocation);
    }
    Ok(pair)
}

/// Opens an inbox: binds a Unix socket at `path`.
#[napi(catch_unwind)]
pub fn open_inbox(env: &Env, path: String) -> Result<f64> {
    let inbox =
        Inbox::bind(Path::new(&path)).map_err(|error| throw(env)(socket_error(&error, "bind", Path::new(&path))))?;
    Ok(INBOXES.insert(EnvData::of(env)?.id(), Arc::new(inbox)).get() as f64)
}

/// Closes an inbox. A second call does nothing.
#[napi(catch_unwind)]
pub fn close_inbox(handle: f64) {
    if let Some(inbox) = INBOXES.remove(registry::handle(handle)) {
        inbox.close();
    }
}

/// Ends every wait for a message of an inbox: one of the waits was aborted.
#[napi(catch_unwind)]
pub fn wake_inbox(handle: f64) {
    if let Ok(inbox) = inbox(handle) {
        inbox.wake();
    }
}

/// A dma-buf that was received, or the part of one.
#[napi(object)]
pub struct ReceivedDmaBuf {
    pub fd: i32,
    pub offset: f64,
    pub size: f64,
    pub message: String,
}

/// Takes the next message, if there is one.
#[napi(catch_unwind)]
pub fn take_message(env: &Env, handle: f64) -> Result<Option<ReceivedDmaBuf>> {
    let taken = inbox(handle).and_then(|inbox| inbox.take()).map_err(throw(env))?;
    Ok(taken.map(|Message { fd, part, text }| ReceivedDmaBuf {
        fd: fd.into_raw_fd(),
        offset: part.start as f64,
        size: (part.end - part.start) as f64,
        message: String::from_utf8_lossy(&text).into_owned(),
    }))
}

/// Waits for a message: the promise resolves when one may be there.
#[napi(catch_unwind)]
pub fn await_message(env: &Env, handle: f64) -> Result<AsyncTask<'_>> {
    let inbox = inbox(handle).map_err(throw(env))?;
    let (task, completer) = start(env)?;
    let completer = Arc::new(Mutex::new(Some(completer)));
    let complete = move |completer: &Mutex<Option<Completer>>, result| {
        let completer = completer.lock().take();
        if let Some(completer) = completer {
            completer.complete(result);
        }
    };
    let waiter = Arc::clone(&completer);
    let waits = inbox.when_readable(Box::new(move || complete(&waiter, Ok(Outcome::DONE))));
    if let Err(error) = waits {
        let error = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => socket_error(&error, "epoll_create1", inbox.path()),
            _ => no_thread(),
        };
        complete(&completer, Err(error));
    }
    Ok(task)
}

/// Sends the `size` bytes at `offset` of a dma-buf, by default all up to its end, with a message: a promise.
#[napi(catch_unwind)]
pub fn send_dma_buf(
    env: &Env,
    path: String,
    fd: i32,
    offset: f64,
    size: Option<f64>,
    message: String,
) -> Result<AsyncTask<'_>> {
    let (fd, buffer) = dma_buf(fd).map_err(throw(env))?;
    let part = part(offset as u64, size.map(|size| size as u64), buffer.size).map_err(throw(env))?;
    if message.len() > MAX_MESSAGE_LEN {
        let text = format!("the message has {} bytes; at most {MAX_MESSAGE_LEN} can be sent", message.len());
        return Err(throw(env)(Error::new(ErrorCode::OutOfRange, text).requested(message.len() as u64)));
    }
    // A duplicate, because JavaScript may close the original as soon as this returns.
    let copy = fd.try_clone_to_owned().map_err(|error| throw(env)(socket_error(&error, "fcntl", Path::new(&path))))?;
    let work = move || {
        let path = Path::new(&path);
        let sent = fd_socket::send(path, copy.as_fd(), part.as_ref(), message.as_bytes());
        sent.map(|()| Outcome::DONE).map_err(|error| socket_error(&error, "sendmsg", path))
    };
    spawn(env, &SENDER_THREADS, work)
}

/// The part of a dma-buf to name in a message; `None` for all of its `available` bytes.
fn part(offset: u64, size: Option<u64>, available: u64) -> crate::error::Result<Option<Range<u64>>> {
    let end = size.map_or(Some(available), |size| offset.checked_add(size));
    match end {
        Some(end) if offset == 0 && end == available => Ok(None),
        Some(end) if offset < end && end <= available => Ok(Some(offset..end)),
        _ => {
            let bytes = size.map_or("the bytes".to_owned(), |size| format!("{size} bytes"));
            let message = format!("{bytes} at offset {offset} are not inside the dma-buf, which has {available}");
            let needed = offset.saturating_add(size.unwrap_or(1));
            Err(Error::new(ErrorCode::OutOfRange, message).requested(needed).available(available))
        }
    }
}

/// Closes a dma-buf's descriptor. Not every runtime's `fs` can.
#[napi(catch_unwind)]
pub fn close_dma_buf(env: &Env, fd: i32) -> Result<()> {
    dma_buf(fd).map_err(throw(env))?;
    close_fd(fd);
    Ok(())
}

fn dma_buf(fd: i32) -> crate::error::Result<(BorrowedFd<'static>, dma_buf::DmaBuf)> {
    let found = (fd >= 0).then(|| borrow_fd(fd)).and_then(|fd| Some((fd, dma_buf::DmaBuf::inspect_any(fd).ok()?)));
    found.ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgType, format!("descriptor {fd} is not an open dma-buf"))
            .hint("pass an fd of exportDmaBuf or of a DmaBufInbox that was not closed")
    })
}

fn socket_error(error: &io::Error, call: &'static str, path: &Path) -> Error {
    let hint = match error.raw_os_error().unwrap_or(0) {
        libc::ENOENT | libc::ECONNREFUSED => Some("no DmaBufInbox is open at this path"),
        libc::EADDRINUSE => Some("another process listens at this path, or it is not a socket"),
        libc::EAGAIN => Some("the DmaBufInbox at this path does not receive: its queue is full"),
        libc::EMFILE | libc::ENFILE => Some("close descriptors, or raise RLIMIT_NOFILE (ulimit -n)"),
        libc::EACCES => Some("sending needs write permission on the socket, receiving on its directory"),
        _ => None,
    };
    let code = match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => ErrorCode::TooManyFds,
        _ => ErrorCode::DeviceIo,
    };
    let error = Error::new(code, format!("{call}: {error}: {}", path.display()))
        .syscall(call, error.raw_os_error().unwrap_or(0))
        .path(path);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn duplicate(fd: BorrowedFd<'_>) -> crate::error::Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| {
        let code = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE) => ErrorCode::TooManyFds,
            _ => ErrorCode::InvalidArgType,
        };
        Error::new(code, format!("the fd cannot be imported: {error}"))
            .syscall("fcntl(F_DUPFD_CLOEXEC)", error.raw_os_error().unwrap_or(0))
    })
}

fn checked_fd(fd: i32) -> crate::error::Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Error::new(ErrorCode::OutOfRange, format!("fd is {fd}; it must be 0 or more")));
    }
    Ok(borrow_fd(fd))
}
