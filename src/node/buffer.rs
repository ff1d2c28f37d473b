//! External ArrayBuffers over native memory (`docs/design/safety.md`).
//!
//! - The `sys` function creates them: the wrappers fall back to a silent copy.
//! - The finalizer's hint is an integer: after a failed create, a runtime may run the finalizer or not.
//! - Look-ups go by address: it follows the bytes through `transfer()`, which object identity does not.
//! - The captured `transfer(0)` detaches them. It throws where `napi_detach_arraybuffer` would abort the process,
//!   because `markAsUntransferable` has set a detach key. The buffer is checked afterwards: a runtime may answer with a
//!   copy and leave the original attached.
//! - No lock is held across a detach: on Bun and Deno the finalizer runs inside it.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::hint::black_box;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};

use super::env::{finalizers_follow_memory, throw, EnvData};
use super::registry::{handle, manager};
use super::shared_buffers::unwatch;
use crate::allocation::{this_thread, Allocation, Reachability};
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::units::format_bytes;

/// Number of finalized ArrayBuffers after which [`consolidate_heap`] runs: some ten microseconds.
const FINALIZED_PER_CONSOLIDATION: u32 = 128;

/// Status of a runtime that forbids external ArrayBuffers (Electron).
const NO_EXTERNAL_BUFFERS_ALLOWED: sys::napi_status = 22;

/// Creates the ArrayBuffer of a new allocation: `[buffer, handle]`.
///
/// An array, because the property names of an object would be made into strings at each call.
pub fn expose<'env>(env: &'env Env, allocated: crate::error::Result<Arc<Allocation>>) -> Result<Array<'env>> {
    let allocation = allocated.map_err(throw(env))?;
    let buffer = create(env, &allocation).map_err(throw(env))?;
    let mut pair = env.create_array(2)?;
    pair.set(0, buffer)?;
    pair.set(1, allocation.handle.get() as f64)?;
    Ok(pair)
}

/// Finds the live allocation that `buffer` covers as a whole. Several may share it; the handle `id` selects one.
///
/// Errors: `ERR_INVALID_ARG_TYPE`, `ERR_UNKNOWN_BUFFER`, and those of [`Manager::find`](crate::manager::Manager::find).
pub fn find(env: &Env, manager_handle: f64, buffer: &Unknown<'_>, id: Option<f64>) -> Result<Arc<Allocation>> {
    let found = manager(manager_handle).and_then(|manager| {
        let (address, length) = info(env, buffer)
            .ok_or_else(|| Error::new(ErrorCode::InvalidArgType, "the buffer must be an ArrayBuffer"))?;
        let allocation = manager.find(address, id.map(handle))?;
        if allocation.size == length {
            return Ok(allocation);
        }
        let message = format!("this ArrayBuffer shows {length} bytes of an allocation of {}", allocation.size);
        Err(Error::new(ErrorCode::UnknownBuffer, message))
    });
    found.map_err(throw(env))
}

/// Creates an ArrayBuffer over `allocation`; its finalizer ends the allocation. A failure ends the allocation at once.
fn create<'env>(env: &'env Env, allocation: &Allocation) -> crate::error::Result<Unknown<'env>> {
    let mut value = ptr::null_mut();
    // SAFETY: the address is mapped for `size` bytes and stays mapped, with its memory or with zeros, until after the
    // finalizer has run; the hint is an integer. Were the range unmapped earlier, any view of it would be a wild
    // pointer.
    let status = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            allocation.address as *mut c_void,
            allocation.size as usize,
            Some(finalize),
            allocation.handle.get() as usize as *mut c_void,
            &mut value,
        )
    };
    if status == sys::Status::napi_ok {
        // SAFETY: just made, in this environment and scope.
        return Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) });
    }
    allocation.abandon();
    // Node 20 also throws an error of its own for a length that it does not support.
    clear_exception(env);
    Err(match status {
        NO_EXTERNAL_BUFFERS_ALLOWED => Error::new(
            ErrorCode::ExternalBuffersForbidden,
            "this runtime forbids ArrayBuffers over memory that is not its own",
        )
        .hint("zero-copy is impossible in Electron and other runtimes with the V8 memory cage; use Node, Bun or Deno"),
        _ if allocation.size > u32::MAX.into() => Error::new(
            ErrorCode::OutOfRange,
            format!("this runtime cannot create an ArrayBuffer of {}", format_bytes(allocation.size)),
        )
        .requested(allocation.size)
        .hint("Node 20 and Bun are limited to 4 GiB; use several buffers, or Node 22 or later"),
        _ => Error::new(
            ErrorCode::DeviceIo,
            format!("the runtime failed to create an ArrayBuffer (napi status {status})"),
        ),
    })
}

/// Returns address and length of an ArrayBuffer, (0, 0) if it is detached; `None` for any other value.
pub fn info(env: &Env, value: &Unknown<'_>) -> Option<(usize, u64)> {
    let (mut data, mut length, mut is_buffer) = (ptr::null_mut(), 0, false);
    // SAFETY: `value` belongs to `env` and to the native call that we are in. The first call answers for any value;
    // it stops SharedArrayBuffers, which the second accepts on some runtimes.
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

/// Detaches `buffer`.
///
/// Errors: `ERR_BUFFER_BUSY`; nothing has changed then.
pub fn detach(env: &Env, buffer: &Unknown<'_>, address: usize) -> crate::error::Result<()> {
    let transfer = EnvData::of(env).ok().and_then(|data| data.transfer(env));
    let done = match transfer {
        Some(transfer) => transfer_away(env, buffer, transfer),
        // SAFETY: `buffer` is an external ArrayBuffer of this addon (the caller found it by address). This is Node 20:
        // it has no `transfer`, and no detach keys that would make this call abort.
        None => unsafe { sys::napi_detach_arraybuffer(env.raw(), buffer.raw()) == sys::Status::napi_ok },
    };
    // The status does not suffice: Bun answers for a pinned buffer with a copy and leaves it attached.
    match (done, info(env, buffer)) {
        (true, Some((data, length))) if data != address && length == 0 => Ok(()),
        _ => Err(Error::new(ErrorCode::BufferBusy, "the runtime refused to detach this buffer: it was not freed")
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
        clear_exception(env);
    }
    done
}

/// Clears the exception that a failed call left behind, so that JavaScript sees the caller's error.
fn clear_exception(env: &Env) {
    let (mut pending, mut exception) = (false, ptr::null_mut());
    // SAFETY: both may be called at any time within a native call of `env`, with or without a pending exception.
    unsafe {
        if sys::napi_is_exception_pending(env.raw(), &mut pending) == sys::Status::napi_ok && pending {
            sys::napi_get_and_clear_last_exception(env.raw(), &mut exception);
        }
    }
}

/// Writes rows of numbers into `array`, as many as fit.
pub fn write<const N: usize>(array: &mut Float64ArraySlice<'_>, rows: impl Iterator<Item = [f64; N]>) {
    // SAFETY: nothing else reads or writes the array meanwhile: it belongs to this thread, and no JavaScript runs
    // before this returns. If it were shared with another thread, a number could be torn.
    let room = unsafe { array.as_mut() };
    for (row, place) in rows.zip(room.chunks_exact_mut(N)) {
        place.copy_from_slice(&row);
    }
}

/// Borrows a file descriptor that JavaScript passed. The kernel checks whether it is open.
pub fn borrow_fd(fd: i32) -> BorrowedFd<'static> {
    // SAFETY: `fd` is not -1 (the caller has checked). JavaScript owns it and cannot close it during the synchronous
    // native call that uses it; a descriptor that is not open fails each use with EBADF.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Closes a file descriptor that JavaScript owns.
pub fn close_fd(fd: i32) {
    // SAFETY: the caller has checked that `fd` is an open dma-buf, and JavaScript states that it owns it. A descriptor
    // of another owner would be closed under it, as by `fs.closeSync`.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
}

/// Finalizer of an ArrayBuffer. A runtime runs it early or late, on this thread or another, inside a detach, or never.
unsafe extern "C" fn finalize(env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    let finalize = || {
        if let Some(allocation) = Allocation::by_handle(Handle::from_raw(hint as usize as u64)) {
            unwatch(allocation.handle);
            allocation.finalize(reach(env, &allocation));
        }
        consolidate_heap();
    };
    // A panic must not unwind into the runtime. It leaves the allocation as it is: leaked, and safe.
    let _ = catch_unwind(finalize);
}

/// Makes glibc consolidate its free chunks now and then.
///
/// Each finalized ArrayBuffer leaves small free chunks behind, here and in the runtime. glibc consolidates them when it
/// is asked for more than a KiB: milliseconds for the thousands of one garbage collection. The event loop would pay for
/// that at the next such request, a slice of a compaction for example.
fn consolidate_heap() {
    thread_local! {
        static FINALIZED: Cell<u32> = const { Cell::new(0) };
    }
    let finalized = FINALIZED.get().wrapping_add(1);
    FINALIZED.set(finalized);
    if finalized.is_multiple_of(FINALIZED_PER_CONSOLIDATION) {
        drop(black_box(Vec::<u8>::with_capacity(4096)));
    }
}

/// Returns whether another ArrayBuffer may still reach the bytes.
fn reach(env: sys::napi_env, allocation: &Allocation) -> Reachability {
    if finalizers_follow_memory() {
        // Deno: no ArrayBuffer is left. The environment may be gone, so `env` is not used.
        return Reachability::Unreachable;
    }
    if this_thread() != allocation.thread {
        return Reachability::Unknown;
    }
    let (mut global, mut has) = (ptr::null_mut(), false);
    // SAFETY: this thread made the ArrayBuffer, and the runtime finalizes before it tears the environment down, so
    // `env` is alive. During teardown the second call returns "pending exception" and does nothing else
    // (`docs/design/runtimes.md` §4.1).
    let alive = unsafe {
        sys::napi_get_global(env, &mut global) == sys::Status::napi_ok
            && sys::napi_has_named_property(env, global, c"Object".as_ptr(), &mut has) == sys::Status::napi_ok
    };
    if alive {
        Reachability::Unreachable
    } else {
        Reachability::Unknown
    }
}
