//! Sharing: dma-bufs, their transport between processes, and allocations that share memory.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::path::Path;
use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::async_task::{spawn, AsyncTask, Outcome};
use super::buffer::{borrow_fd, close_fd, expose, find};
use super::env::{throw, EnvData, EnvId};
use super::registry::{self, manager, Registry};
use crate::error::{Error, ErrorCode};
use crate::sys::fd_socket::{self, Inbox, Message, MAX_MESSAGE_LEN};
use crate::sys::thread_pool::ThreadPool;

static INBOXES: Lazy<Registry<EnvId, Arc<Inbox>>> = Lazy::new(|| Registry::with_exit_hook(close_inboxes_of));

/// Threads that wait for messages: one for each call that waits.
static RECEIVER_THREADS: ThreadPool = ThreadPool::new("rkllm-inbox", 64);
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

/// Maps a dma-buf: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn import_dma_buf<'env>(
    env: &'env Env,
    handle: f64,
    fd: i32,
    size: Option<f64>,
    tag: Option<String>,
) -> Result<Array<'env>> {
    let imported = manager(handle).and_then(|manager| {
        let fd = checked_fd(fd)?;
        manager.import(fd, size.map(|size| size as u64), tag.map(Into::into))
    });
    expose(env, imported)
}

/// Shares a buffer's memory. Returns a token for [`adopt`].
#[napi(catch_unwind)]
pub fn share(env: &Env, handle: f64, buffer: Unknown<'_>, id: Option<f64>) -> Result<String> {
    find(env, handle, &buffer, id)?.share().map(|share| share.token()).map_err(throw(env))
}

/// Creates another ArrayBuffer over shared memory: `[buffer, handle]`.
#[napi(catch_unwind, ts_return_type = "[buffer: ArrayBuffer, handle: number]")]
pub fn adopt<'env>(env: &'env Env, handle: f64, token: String) -> Result<Array<'env>> {
    expose(env, manager(handle).and_then(|manager| manager.adopt(&token)))
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
    // Threads that wait for the inbox keep it until they have noticed.
    if let Some(inbox) = INBOXES.remove(registry::handle(handle)) {
        inbox.close();
    }
}

/// Wakes every thread that waits for a message: one of the waits was aborted.
#[napi(catch_unwind)]
pub fn wake_inbox(handle: f64) {
    if let Ok(inbox) = inbox(handle) {
        inbox.wake();
    }
}

/// A dma-buf that was received.
#[napi(object)]
pub struct ReceivedDmaBuf {
    pub fd: i32,
    pub message: String,
}

/// Takes the next message, if there is one.
#[napi(catch_unwind)]
pub fn take_message(env: &Env, handle: f64) -> Result<Option<ReceivedDmaBuf>> {
    let taken =
        inbox(handle).and_then(|inbox| inbox.take().map_err(|error| socket_error(&error, "recvmsg", inbox.path())));
    Ok(taken.map_err(throw(env))?.map(|Message { fd, payload }| ReceivedDmaBuf {
        fd: fd.into_raw_fd(),
        message: String::from_utf8_lossy(&payload).into_owned(),
    }))
}

/// Waits for a message: the promise resolves when one may be there.
#[napi(catch_unwind)]
pub fn await_message(env: &Env, handle: f64) -> Result<AsyncTask<'_>> {
    let inbox = inbox(handle).map_err(throw(env))?;
    let work = move || inbox.wait().map(|()| Outcome::Done).map_err(|error| socket_error(&error, "poll", inbox.path()));
    spawn(env, &RECEIVER_THREADS, work)
}

/// Sends a dma-buf with a message: a promise.
#[napi(catch_unwind)]
pub fn send_dma_buf(env: &Env, path: String, fd: i32, message: String) -> Result<AsyncTask<'_>> {
    // A duplicate, because JavaScript may close the original as soon as this returns.
    let copy = dma_buf(fd)
        .and_then(|fd| fd.try_clone_to_owned().map_err(|error| socket_error(&error, "fcntl", Path::new(&path))))
        .map_err(throw(env))?;
    if message.len() > MAX_MESSAGE_LEN {
        let text = format!("the message has {} bytes; at most {MAX_MESSAGE_LEN} can be sent", message.len());
        return Err(throw(env)(Error::new(ErrorCode::OutOfRange, text).requested(message.len() as u64)));
    }
    let work = move || {
        let path = Path::new(&path);
        let sent = fd_socket::send(path, copy.as_fd(), message.as_bytes());
        sent.map(|()| Outcome::Done).map_err(|error| socket_error(&error, "sendmsg", path))
    };
    spawn(env, &SENDER_THREADS, work)
}

/// Closes a dma-buf's descriptor. Not every runtime's `fs` can.
#[napi(catch_unwind)]
pub fn close_dma_buf(env: &Env, fd: i32) -> Result<()> {
    dma_buf(fd).map_err(throw(env))?;
    close_fd(fd);
    Ok(())
}

fn dma_buf(fd: i32) -> crate::error::Result<BorrowedFd<'static>> {
    match fd >= 0 && fd_socket::is_dma_buf(fd) {
        true => Ok(borrow_fd(fd)),
        false => Err(Error::new(ErrorCode::InvalidArgType, format!("descriptor {fd} is not an open dma-buf"))
            .hint("pass an fd of exportDmaBuf or of a DmaBufInbox that was not closed")),
    }
}

fn socket_error(error: &io::Error, call: &'static str, path: &Path) -> Error {
    let hint = match error.raw_os_error().unwrap_or(0) {
        libc::ENOENT | libc::ECONNREFUSED => Some("no DmaBufInbox is open at this path"),
        libc::EADDRINUSE => Some("another process listens at this path, or it is not a socket"),
        libc::EAGAIN => Some("the DmaBufInbox at this path does not receive: its queue is full"),
        libc::EACCES => Some("sending needs write permission on the socket, receiving on its directory"),
        _ => None,
    };
    let error = Error::new(ErrorCode::DeviceIo, format!("{call}: {error}: {}", path.display()))
        .syscall(call, error.raw_os_error().unwrap_or(0))
        .path(path);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn checked_fd(fd: i32) -> crate::error::Result<BorrowedFd<'static>> {
    if fd < 0 {
        return Err(Error::new(ErrorCode::OutOfRange, format!("fd is {fd}; it must be 0 or more")));
    }
    Ok(borrow_fd(fd))
}
