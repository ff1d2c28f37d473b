//! What `pool.allocate` and `block.free` call: no object crosses the border, and no argument either. A request lies in
//! the environment's mailbox, which JavaScript sees as typed arrays, and so does the answer.
//!
//! These are callbacks of N-API itself: an argument costs 10 ns to read, and what `#[napi]` keeps around a call with
//! arguments 75 ns (`runtimes.md` §6), which is more than the pool's whole work.
//!
//! The mailbox:
//!
//! | bytes | what |
//! |---|---|
//! | 0, 8, 16 | f64: pool, size, alignment |
//! | 24, 32 | f64: CPU address, device address (-1: none) |
//! | 40, 44, 48, 52 | i32: chunk (index, generation) and region (slot, stamp): a slice's name |
//!
//! Any bytes are a safe request: numbers that name nothing find nothing.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::{c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Arc, Weak};

use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;

use super::realm::{check, pool, Realm};
use crate::accounting::notifications;
use crate::device::memory::alignment as checked;
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::pool::{Pool, Slice};
use crate::suballoc::RegionId;
use crate::units::MIN_ALIGNMENT;

/// What the calls of one environment share. Leaked: an environment is a rare thing.
struct Desk {
    mailbox: *mut Letter,
    /// The pool that was asked for last, so that the next call need not look it up. Weak: it keeps nothing open.
    last: RefCell<(f64, Weak<Pool>)>,
}

/// The mailbox as the header's table says.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Letter {
    pool: f64,
    size: f64,
    alignment: f64,
    address: f64,
    device_address: f64,
    chunk: [i32; 2],
    region: [i32; 2],
}

impl Desk {
    // Word by word, as JavaScript writes and reads them: where several words that were just written are read as one, the processor
    // waits until they have reached its cache, a tenth of all that an allocation takes. Volatile, or the compiler makes one of them.

    /// What `allocate` is asked for: pool, size, alignment.
    fn request(&self) -> (f64, u64, u64) {
        let letter = self.mailbox;
        // SAFETY: the mailbox is as large as a letter, aligned for it, never freed, and any bytes are a letter. It is read
        // and written by this environment's thread only: by JavaScript, and by its native calls.
        unsafe {
            (
                (&raw const (*letter).pool).read_volatile(),
                (&raw const (*letter).size).read_volatile() as u64,
                (&raw const (*letter).alignment).read_volatile() as u64,
            )
        }
    }

    /// What `free` is asked for: pool, chunk, region.
    fn named(&self) -> (f64, Handle, RegionId) {
        let letter = self.mailbox;
        // SAFETY: as in `request`.
        unsafe {
            let pool = (&raw const (*letter).pool).read_volatile();
            let half = |of: *const [i32; 2], at: usize| of.cast::<i32>().add(at).read_volatile();
            let (chunk, region) = (&raw const (*letter).chunk, &raw const (*letter).region);
            let (chunk, region) = name(half(chunk, 0), half(chunk, 1), half(region, 0), half(region, 1));
            (pool, chunk, region)
        }
    }

    /// The answer of `allocate`.
    fn answer(&self, slice: &Slice) {
        let letter = self.mailbox;
        // SAFETY: as in `request`. No Rust reference to the mailbox exists.
        unsafe {
            (&raw mut (*letter).address).write(slice.address as f64);
            (&raw mut (*letter).device_address).write(slice.device_address.map_or(-1.0, |address| address as f64));
            (&raw mut (*letter).chunk).write(halves(slice.chunk.get()));
            (&raw mut (*letter).region).write(halves(slice.region.to_raw()));
        }
    }

    fn pool(&self, handle: f64) -> crate::error::Result<Arc<Pool>> {
        let mut last = self.last.borrow_mut();
        if last.0 == handle {
            if let Some(pool) = last.1.upgrade() {
                return Ok(pool);
            }
        }
        let pool = pool(handle)?.pool;
        *last = (handle, Arc::downgrade(&pool));
        Ok(pool)
    }
}

/// The hot functions of this environment; `mailbox` is what they read and write, `raised` counts warnings.
#[napi(
    catch_unwind,
    ts_return_type = "{ mailbox: ArrayBuffer, raised: ArrayBuffer, allocate(): void, free(): void, idle(...numbers: number[]): void }"
)]
pub fn hot_functions(env: &Env) -> Result<Object<'_>> {
    let mailbox: *mut Letter = Box::leak(Box::default());
    let desk = Desk { mailbox, last: RefCell::default() };
    let desk: *const Desk = Box::leak(Box::new(desk));
    let mut object = Object::new(env)?;
    object.set("mailbox", lent(env, mailbox)?)?;
    object.set("raised", lent(env, notifications().as_ptr())?)?;
    object.set("allocate", function(env, c"allocate", allocate, desk)?)?;
    object.set("free", function(env, c"free", free, desk)?)?;
    object.set("idle", function(env, c"idle", idle_raw, desk)?)?;
    Ok(object)
}

/// Takes a slice of `size` bytes at `alignment`: its name and its place are in the mailbox afterwards.
unsafe extern "C" fn allocate(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        answer(env, info, |desk| {
            let (pool, size, alignment) = desk.request();
            let alignment = checked(Some(alignment), MIN_ALIGNMENT)?;
            desk.answer(&desk.pool(pool)?.allocate(size, alignment)?);
            Ok(())
        })
    }
}

/// Gives the slice back whose name is in the mailbox.
unsafe extern "C" fn free(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        answer(env, info, |desk| {
            let (pool, chunk, region) = desk.named();
            desk.pool(pool).map_err(gone)?.free(chunk, region)
        })
    }
}

/// The yardstick of `benchmark/pools.mjs`: reads three numbers and does nothing.
unsafe extern "C" fn idle_raw(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let (mut count, mut arguments, mut number) = (3, [ptr::null_mut(); 3], 0.0);
    // SAFETY: `env` and `info` are those of this call; there is room for as many arguments as `count` says, and the
    // missing ones are undefined, which is no number and changes nothing.
    unsafe {
        sys::napi_get_cb_info(env, info, &mut count, arguments.as_mut_ptr(), ptr::null_mut(), ptr::null_mut());
        for argument in arguments {
            sys::napi_get_value_double(env, argument, &mut number);
        }
    }
    ptr::null_mut()
}

/// The other yardstick: the same as this package's other functions are made.
#[napi(catch_unwind)]
pub fn idle(_first: f64, _second: f64, _third: f64) {}

/// Runs the body of a callback: a refusal is thrown as the `MemoryError` it is, and a panic as an error.
///
/// # Safety
///
/// `env` and `info` are those of a call of a function that [`function`] made.
unsafe fn answer(
    env: sys::napi_env,
    info: sys::napi_callback_info,
    body: impl FnOnce(&Desk) -> crate::error::Result<()>,
) -> sys::napi_value {
    let mut desk = ptr::null_mut();
    // SAFETY: the caller's word; no argument is asked for.
    let status =
        unsafe { sys::napi_get_cb_info(env, info, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), &mut desk) };
    if status != sys::Status::napi_ok || desk.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: `function` registered a leaked desk; it is used by this environment's thread only.
    let desk = unsafe { &*desk.cast::<Desk>() };
    match catch_unwind(AssertUnwindSafe(|| body(desk))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => throw(env, Some(&error)),
        Err(_panic) => throw(env, None),
    }
    ptr::null_mut() // undefined
}

/// Throws `error`; without one, a panic was caught.
#[cold]
fn throw(raw: sys::napi_env, error: Option<&Error>) {
    let env = Env::from_raw(raw);
    let value = match error {
        Some(error) => Realm::of(&env).and_then(|realm| realm.error_value(&env, error)),
        None => Err(napi::Error::from_reason("the native part panicked: please report it")),
    };
    // SAFETY: `raw` is the environment of the call that we are in, and `value` was made in its scope.
    unsafe {
        match value {
            Ok(value) => drop(sys::napi_throw(raw, value.raw())),
            Err(failure) => napi::JsError::from(failure).throw_into(raw),
        }
    }
}

/// A function of this environment that is called with `desk`.
fn function<'env>(
    env: &'env Env,
    name: &CStr,
    callback: unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value,
    desk: *const Desk,
) -> Result<Unknown<'env>> {
    let mut value = ptr::null_mut();
    let length = name.to_bytes().len() as isize;
    // SAFETY: name, callback and desk live as long as the process does.
    let status = unsafe {
        let data = desk.cast_mut().cast();
        sys::napi_create_function(env.raw(), name.as_ptr(), length, Some(callback), data, &mut value)
    };
    check(status, "napi_create_function")?;
    // SAFETY: just made, in this environment and scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// Memory of ours that JavaScript looks into. Whoever takes the bytes away from the ArrayBuffer only harms itself.
///
/// `data` lives as long as the process does.
fn lent<T>(env: &Env, data: *mut T) -> Result<Unknown<'_>> {
    unsafe extern "C" fn nothing(_: sys::napi_env, _: *mut c_void, _: *mut c_void) {}
    let mut value = ptr::null_mut();
    // SAFETY: what `data` points to is leaked or static, and is plain numbers: JavaScript may write any bytes there.
    let status = unsafe {
        let (data, hint) = (data.cast(), ptr::null_mut());
        sys::napi_create_external_arraybuffer(env.raw(), data, size_of::<T>(), Some(nothing), hint, &mut value)
    };
    check(status, "napi_create_external_arraybuffer")?;
    // SAFETY: just made, in this environment and scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// A block whose pool was destroyed went with it.
pub fn gone(_destroyed: Error) -> Error {
    Error::new(ErrorCode::BufferFreed, "this block was freed with its pool")
}

/// 64 bits as two numbers that a runtime keeps without allocating.
fn halves(raw: u64) -> [i32; 2] {
    [raw as i32, (raw >> 32) as i32]
}

/// A slice's name, out of its [`halves`].
pub fn name(index: i32, generation: i32, slot: i32, stamp: i32) -> (Handle, RegionId) {
    let whole = |low: i32, high: i32| u64::from(high as u32) << 32 | u64::from(low as u32);
    (Handle::from_raw(whole(index, generation)), RegionId::from_raw(whole(slot, stamp)))
}
