//! Dma-bufs from process to process, and closing descriptors where the runtime's `fs` cannot.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, IntoRawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::buffer::borrowed;
use super::errands::{send, Errand, Outcome};
use super::realm::{throw, Realm};
use crate::error::{Error, ErrorCode};
use crate::handle::{Handle, Table};
use crate::sys::fd_socket::{self, Inbox, Letter, LONGEST};
use crate::sys::thread_pool::ThreadPool;

/// An open inbox, and the environment that it is of.
type Owned = (Handle, Arc<Inbox>);

static INBOXES: Lazy<Mutex<Table<Owned>>> = Lazy::new(Mutex::default);

/// Those who wait for letters: each has a thread for as long as it waits.
static WAITING: ThreadPool = ThreadPool::new("rkllm-inbox", 64);
/// Those who wait for receivers to make room.
static SENDING: ThreadPool = ThreadPool::new("rkllm-sender", 4);

fn inboxes() -> MutexGuard<'static, Table<Owned>> {
    INBOXES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn inbox(handle: f64) -> crate::error::Result<Arc<Inbox>> {
    let found = inboxes().get(Handle::from_raw(handle as u64)).map(|(_, inbox)| Arc::clone(inbox));
    found.ok_or_else(|| Error::new(ErrorCode::BufferFreed, "this inbox was closed"))
}

/// That environment is gone, and its inboxes with it.
pub fn abandon(realm: Handle) {
    let orphans: Vec<_> = inboxes().iter().filter(|(_, (of, _))| *of == realm).map(|(id, _)| id).collect();
    orphans.into_iter().for_each(close);
}

fn close(id: Handle) {
    let closed = inboxes().remove(id);
    // Those who wait for it keep it until they have heard.
    closed.into_iter().for_each(|(_, inbox)| inbox.close());
}

/// Binds a Unix socket.
#[napi(catch_unwind)]
pub fn open_inbox(env: &Env, path: String) -> Result<f64> {
    let inbox = Inbox::bind(Path::new(&path)).map_err(|error| throw(env)(failed(&error, "bind", Path::new(&path))))?;
    let realm = Realm::of(env)?.id();
    Ok(inboxes().insert((realm, Arc::new(inbox))).get() as f64)
}

/// Nothing happens the second time.
#[napi(catch_unwind)]
pub fn close_inbox(handle: f64) {
    close(Handle::from_raw(handle as u64));
}

/// Wakes all who wait for letters: one has changed its mind.
#[napi(catch_unwind)]
pub fn nudge_inbox(handle: f64) {
    if let Ok(inbox) = inbox(handle) {
        inbox.nudge();
    }
}

/// A dma-buf that arrived.
#[napi(object)]
pub struct Arrived {
    pub fd: i32,
    pub message: String,
}

/// The next letter, if there is one.
#[napi(catch_unwind)]
pub fn take_letter(env: &Env, handle: f64) -> Result<Option<Arrived>> {
    let taken = inbox(handle).and_then(|inbox| inbox.take().map_err(|error| failed(&error, "recvmsg", inbox.path())));
    Ok(taken.map_err(throw(env))?.map(|Letter { fd, words }| Arrived {
        fd: fd.into_raw_fd(),
        message: String::from_utf8_lossy(&words).into_owned(),
    }))
}

/// A promise for when a letter may be there.
#[napi(catch_unwind)]
pub fn await_letter(env: &Env, handle: f64) -> Result<Errand<'_>> {
    let inbox = inbox(handle).map_err(throw(env))?;
    let wait = move || inbox.wait().map(|()| Outcome::Done).map_err(|error| failed(&error, "poll", inbox.path()));
    send(env, &WAITING, wait)
}

/// Sends a dma-buf, with a few words; a promise.
#[napi(catch_unwind)]
pub fn send_dma_buf(env: &Env, path: String, fd: i32, message: String) -> Result<Errand<'_>> {
    // A duplicate: its owner may close the original as soon as this returns.
    let copy = dma_buf(fd)
        .and_then(|fd| fd.try_clone_to_owned().map_err(|error| failed(&error, "fcntl", Path::new(&path))))
        .map_err(throw(env))?;
    if message.len() > LONGEST {
        let text = format!("the message has {} bytes; at most {LONGEST} can be sent", message.len());
        return Err(throw(env)(Error::new(ErrorCode::OutOfRange, text).requested(message.len() as u64)));
    }
    let work = move || {
        let path = Path::new(&path);
        let sent = fd_socket::send(path, copy.as_fd(), message.as_bytes());
        sent.map(|()| Outcome::Done).map_err(|error| failed(&error, "sendmsg", path))
    };
    send(env, &SENDING, work)
}

/// Closes a dma-buf's descriptor.
#[napi(catch_unwind)]
pub fn close_dma_buf(env: &Env, fd: i32) -> Result<()> {
    dma_buf(fd).map_err(throw(env))?;
    super::buffer::close(fd);
    Ok(())
}

fn dma_buf(fd: i32) -> crate::error::Result<BorrowedFd<'static>> {
    match fd >= 0 && fd_socket::is_dma_buf(fd) {
        true => Ok(borrowed(fd)),
        false => Err(Error::new(ErrorCode::InvalidArgType, format!("descriptor {fd} is not an open dma-buf"))
            .hint("pass an fd of exportDmaBuf or of a DmaBufInbox that was not closed")),
    }
}

fn failed(error: &io::Error, call: &'static str, path: &Path) -> Error {
    let hint = match error.raw_os_error().unwrap_or(0) {
        libc::ENOENT | libc::ECONNREFUSED => Some("nobody has opened a DmaBufInbox there"),
        libc::EADDRINUSE => Some("somebody listens there, or it is a file of another kind"),
        libc::EAGAIN => Some("whoever has opened the DmaBufInbox does not receive"),
        libc::EACCES => Some("sending needs write permission on the socket, receiving on its directory"),
        _ => None,
    };
    let said = Error::new(ErrorCode::DeviceIo, format!("{call}: {error}: {}", path.display()))
        .syscall(call, error.raw_os_error().unwrap_or(0))
        .path(path);
    match hint {
        Some(hint) => said.hint(hint),
        None => said,
    }
}
