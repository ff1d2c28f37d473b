//! External ArrayBuffers over memory that is ours (`runtimes.md`, "Recommended protocol").
//!
//! - Created by the `sys` function: the wrappers fall back to a silent copy.
//! - The finalizer's hint is an integer: after a failed create nobody can say whether a finalizer will come.
//! - Found by address: it follows the bytes through `transfer()`, which object identity does not.
//! - Detached by the captured `transfer(0)`, which throws where `napi_detach_arraybuffer` would abort the process
//!   (a detach key was set by `markAsUntransferable`), and looked at again afterwards: a runtime may answer with a copy
//!   and leave the original attached.
//! - No lock is held across a detach: on Bun and Deno the finalizer runs inside it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};

use super::realm::{finalizers_follow_memory, Realm};
use crate::allocation::{this_thread, Allocation, Reach};
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::units::human;

/// After as many ends of ArrayBuffers the heap is [tidied](tidy): some ten microseconds.
const ENDS_BETWEEN: u32 = 128;

/// What the runtime says when it forbids external ArrayBuffers (Electron).
const NO_EXTERNAL_BUFFERS_ALLOWED: sys::napi_status = 22;

/// An ArrayBuffer over `allocation`; its finalizer ends the allocation. On failure the allocation is over.
pub fn expose<'env>(env: &'env Env, allocation: &Allocation) -> Result<Unknown<'env>> {
    let mut value = ptr::null_mut();
    // SAFETY: the address is mapped for `size` bytes and stays mapped, with its memory or with zeros, until after the
    // finalizer has run; the hint is an integer. Were the range unmapped earlier, any view of it would be a wild pointer.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            allocation.address as *mut c_void,
            allocation.size as usize,
            Some(finalize),
            allocation.id.get() as usize as *mut c_void,
            &mut value,
        )
    };
    if status == sys::Status::napi_ok {
        // SAFETY: just made, in this environment and scope.
        return Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) });
    }
    allocation.unseen();
    // Node 20 throws an error of its own for a length that it does not make, beside the status.
    forget_exception(env);
    Err(match status {
        NO_EXTERNAL_BUFFERS_ALLOWED => Error::new(
            ErrorCode::ExternalBuffersForbidden,
            "this runtime forbids ArrayBuffers over memory that is not its own",
        )
        .hint("zero-copy is impossible in Electron and other runtimes with the V8 memory cage; use Node, Bun or Deno"),
        _ if allocation.size > u32::MAX.into() => Error::new(
            ErrorCode::OutOfRange,
            format!("this runtime makes no ArrayBuffer of {}", human(allocation.size)),
        )
        .requested(allocation.size)
        .hint("Node 20 and Bun end at 4 GiB; use several buffers, or Node 22 or later"),
        _ => Error::new(ErrorCode::DeviceIo, format!("the runtime made no ArrayBuffer (napi status {status})")),
    })
}

/// Data pointer and length of an ArrayBuffer; `None` for anything else. A detached one is (0, 0).
pub fn info(env: &Env, value: &Unknown<'_>) -> Option<(usize, u64)> {
    let (mut data, mut length, mut is_buffer) = (ptr::null_mut(), 0, false);
    // SAFETY: `value` belongs to `env` and to the native call that we are in. The first call answers for any value;
    // SharedArrayBuffers, which some runtimes let pass in the second, stop there.
    let status = unsafe {
        match sys::napi_is_arraybuffer(env.raw(), value.raw(), &mut is_buffer) {
            sys::Status::napi_ok if is_buffer => {
                sys::napi_get_arraybuffer_info(env.raw(), value.raw(), &mut data, &mut length)
            }
            _ => return None,
        }
    };
    (status == sys::Status::napi_ok).then_some((data as usize, length as u64))
}

/// Takes the bytes away from `buffer`, or refuses: `ERR_BUFFER_BUSY`, and everything is as it was.
pub fn detach(env: &Env, buffer: &Unknown<'_>, address: usize) -> Result<()> {
    let transfer = Realm::of(env).ok().and_then(|realm| realm.transfer(env));
    let done = match transfer {
        Some(transfer) => transfer_away(env, buffer, transfer),
        // SAFETY: `buffer` is an ArrayBuffer of ours (the caller found it by address). Node 20 only: it has no
        // `transfer`, and no detach keys that would make this abort.
        None => unsafe { sys::napi_detach_arraybuffer(env.raw(), buffer.raw()) == sys::Status::napi_ok },
    };
    // The runtime's word is not enough: Bun answers a pinned buffer with a copy and leaves it attached.
    match (done, info(env, buffer)) {
        (true, Some((data, length))) if data != address && length == 0 => Ok(()),
        _ => Err(Error::new(ErrorCode::BufferBusy, "the runtime does not let go of this buffer: it was not freed")
            .hint("wait for the operation that uses it, and do not mark it with markAsUntransferable")),
    }
}

fn transfer_away(env: &Env, buffer: &Unknown<'_>, transfer: sys::napi_value) -> bool {
    let (mut zero, mut result) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: all values belong to `env` and to this native call; `transfer` is the built-in, which runs no user code
    // for a length of 0.
    let done = unsafe {
        sys::napi_create_uint32(env.raw(), 0, &mut zero) == sys::Status::napi_ok
            && sys::napi_call_function(env.raw(), buffer.raw(), transfer, 1, &zero, &mut result) == sys::Status::napi_ok
    };
    if !done {
        forget_exception(env);
    }
    done
}

/// Takes an exception that a failed call left behind away, so that the caller's error is the one that is seen.
fn forget_exception(env: &Env) {
    let (mut pending, mut exception) = (false, ptr::null_mut());
    // SAFETY: both may be called at any time, exception or not, within a native call of `env`.
    unsafe {
        if sys::napi_is_exception_pending(env.raw(), &mut pending) == sys::Status::napi_ok && pending {
            sys::napi_get_and_clear_last_exception(env.raw(), &mut exception);
        }
    }
}

/// Writes rows of numbers into an array of ours, as many as have room there.
pub fn write<const N: usize>(array: &mut Float64ArraySlice<'_>, rows: impl Iterator<Item = [f64; N]>) {
    // SAFETY: nobody else reads or writes it meanwhile: it is this thread's, and no JavaScript runs before we return. Were it shared with
    // another thread, a number could be torn.
    let room = unsafe { array.as_mut() };
    for (row, place) in rows.zip(room.chunks_exact_mut(N)) {
        place.copy_from_slice(&row);
    }
}

/// A number that JavaScript calls a file descriptor. Whether it is an open one, the kernel says.
pub fn borrowed(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: `fd` is not -1 (the caller has checked). It is the caller's and is only used within one synchronous native
    // call, during which JavaScript cannot close it; were it no open file, each use is EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Closes a descriptor that JavaScript owns.
pub fn close(fd: i32) {
    // SAFETY: the caller has looked that it is an open dma-buf, and JavaScript says that it is its own; somebody else's would be
    // closed under them, as by `fs.closeSync`.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// The runtime is done with an ArrayBuffer: soon or late, on this thread or another, inside a detach, or never.
unsafe extern "C" fn finalize(env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    let end = || {
        if let Some(allocation) = Allocation::by_id(Handle::from_raw(hint as usize as u64)) {
            allocation.finalize(reach(env, &allocation));
        }
        tidy();
    };
    // A panic must not unwind into the runtime. The allocation stays as it is then: leaked, and safe.
    let _ = std::panic::catch_unwind(end);
}

/// Keeps small what glibc has to put together at some later allocation above a KiB: the small pieces that each ArrayBuffer's end
/// leaves behind, here and in the runtime. For the thousands of one collection that takes milliseconds, of which the event loop knows
/// nothing until somebody asks for memory, a slice of a compaction for example.
fn tidy() {
    thread_local! {
        static ENDED: Cell<u32> = const { Cell::new(0) };
    }
    let ended = ENDED.get().wrapping_add(1);
    ENDED.set(ended);
    if ended.is_multiple_of(ENDS_BETWEEN) {
        drop(black_box(Vec::<u8>::with_capacity(4096)));
    }
}

/// Whether an ArrayBuffer over the same bytes may be left somewhere.
fn reach(env: sys::napi_env, allocation: &Allocation) -> Reach {
    if finalizers_follow_memory() {
        // Deno: there is none left, and perhaps no environment either, so nothing of it is touched.
        return Reach::Nobody;
    }
    if this_thread() != allocation.thread {
        return Reach::Unknown;
    }
    let (mut global, mut has) = (ptr::null_mut(), false);
    // SAFETY: we are on the thread that made the ArrayBuffer, on a runtime that finalizes before it takes the
    // environment down, so `env` is alive. In teardown the second call answers "pending exception" instead of ok, and
    // does nothing else (`runtimes.md` §4).
    let alive = unsafe {
        sys::napi_get_global(env, &mut global) == sys::Status::napi_ok
            && sys::napi_has_named_property(env, global, c"Object".as_ptr(), &mut has) == sys::Status::napi_ok
    };
    if alive {
        Reach::Nobody
    } else {
        Reach::Unknown
    }
}
