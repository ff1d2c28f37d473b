//! ArrayBuffers over shared memory, watched up to the end of their environment.
//!
//! A finalizer that runs in a teardown cannot tell whether the bytes were moved to another thread before
//! (`docs/design/runtimes.md` §4.1): the ArrayBuffer is empty by then in either case. It is looked at earlier, when no
//! script of the environment runs any more:
//!
//! - Node finalizes ArrayBuffers last in, first out. So a *sentinel*, a small ArrayBuffer that is made after the
//!   watched one and kept, is finalized before it, and its finalizer looks.
//! - Bun runs cleanup hooks first.
//!
//! An ArrayBuffer that has its bytes then is the only one that has them.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::ffi::c_void;
use std::panic::catch_unwind;
use std::ptr;

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};
use once_cell::sync::Lazy;

use super::env::{at_exit, finalizers_follow_memory, EnvData, EnvId};
use crate::allocation::{this_thread, Allocation};
use crate::handle::Handle;
use crate::sync::Mutex;

/// A watched ArrayBuffer. Only the thread of its environment uses it.
struct Watch {
    env: sys::napi_env,
    id: EnvId,
    thread: u64,
    /// A weak reference to the ArrayBuffer.
    buffer: sys::napi_ref,
    /// A strong reference to the sentinel.
    sentinel: sys::napi_ref,
}

// SAFETY: a `Watch` is used on the thread that made it, which `thread` is compared with. Elsewhere its pointers are
// only moved.
unsafe impl Send for Watch {}

static WATCHES: Lazy<Mutex<HashMap<Handle, Watch>>> = Lazy::new(|| {
    at_exit(look_at_all_of);
    Mutex::default()
});

/// The bytes of every sentinel, which no script sees.
static SENTINEL: [u64; 1] = [0];

/// Watches the ArrayBuffer of an allocation that this thread made. A second call does nothing, and a failure only means
/// that nothing will be known.
pub fn watch(env: &Env, buffer: &Unknown<'_>, allocation: &Allocation) {
    let (handle, thread) = (allocation.handle, this_thread());
    let known = || WATCHES.lock().contains_key(&handle);
    if finalizers_follow_memory() || allocation.thread != thread || known() {
        return;
    }
    let Ok(id) = EnvData::of(env).map(EnvData::id) else { return };
    let (mut weak, mut strong, mut sentinel) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut());
    let (data, hint) = (SENTINEL.as_ptr() as *mut c_void, handle.get() as usize as *mut c_void);
    // SAFETY: the values belong to `env` and to this native call. The sentinel's bytes live as long as the process, and
    // no script gets the sentinel, so none writes them. Its hint is an integer. A reference of count 0 is weak.
    let made = unsafe {
        sys::napi_create_external_arraybuffer(
            env.raw(),
            data,
            size_of_val(&SENTINEL),
            Some(at_end),
            hint,
            &mut sentinel,
        ) == sys::Status::napi_ok
            && sys::napi_create_reference(env.raw(), sentinel, 1, &mut strong) == sys::Status::napi_ok
            && sys::napi_create_reference(env.raw(), buffer.raw(), 0, &mut weak) == sys::Status::napi_ok
    };
    if made {
        let watch = Watch { env: env.raw(), id, thread, buffer: weak, sentinel: strong };
        WATCHES.lock().insert(handle, watch);
    }
}

/// Ends the watch of an allocation whose finalizer runs.
pub fn unwatch(handle: Handle) {
    let watch = WATCHES.lock().remove(&handle);
    if let Some(watch) = watch.filter(|watch| watch.thread == this_thread()) {
        forget(&watch);
    }
}

/// Deletes the references of a watch, on its thread.
fn forget(watch: &Watch) {
    // SAFETY: this is the environment's thread, and the environment lives: the watch is taken out at its end.
    unsafe {
        sys::napi_delete_reference(watch.env, watch.buffer);
        sys::napi_delete_reference(watch.env, watch.sentinel);
    }
}

/// Finalizer of a sentinel. While its watch exists the sentinel is referenced, so this is a teardown.
unsafe extern "C" fn at_end(_env: sys::napi_env, _data: *mut c_void, hint: *mut c_void) {
    // A panic must not unwind into the runtime.
    let _ = catch_unwind(|| look(Handle::from_raw(hint as usize as u64)));
}

fn look_at_all_of(env: EnvId) {
    let of_env: Vec<Handle> =
        WATCHES.lock().iter().filter(|(_, watch)| watch.id == env).map(|(handle, _)| *handle).collect();
    of_env.into_iter().for_each(look);
}

/// Looks whether a watched ArrayBuffer has its bytes, at the end of its environment.
fn look(handle: Handle) {
    let watch = WATCHES.lock().remove(&handle);
    let Some(watch) = watch.filter(|watch| watch.thread == this_thread()) else { return };
    let Some(allocation) = Allocation::by_handle(handle) else { return };
    if address_of(&watch) == Some((allocation.address, allocation.size)) {
        allocation.set_unreachable();
    }
}

/// Returns the address and length of a watched ArrayBuffer, unless it was collected.
fn address_of(watch: &Watch) -> Option<(usize, u64)> {
    let (mut scope, mut value, mut data, mut length) = (ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), 0);
    // SAFETY: this is the environment's thread, in its teardown: `env` and its references live. None of these calls
    // runs a script. The value is used within the scope.
    unsafe {
        if sys::napi_open_handle_scope(watch.env, &mut scope) != sys::Status::napi_ok {
            return None;
        }
        let found = sys::napi_get_reference_value(watch.env, watch.buffer, &mut value) == sys::Status::napi_ok
            && !value.is_null()
            && sys::napi_get_arraybuffer_info(watch.env, value, &mut data, &mut length) == sys::Status::napi_ok;
        sys::napi_close_handle_scope(watch.env, scope);
        found.then_some((data as usize, length as u64))
    }
}
