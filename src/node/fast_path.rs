//! The fast path of `pool.allocate` and `block.free`: no argument and no object crosses the border.
//!
//! JavaScript and native code share the environment's aliased buffer: JavaScript writes the request there and reads the
//! response from there, through typed arrays.
//!
//! The functions are raw Node-API callbacks: reading an argument costs 10 ns, and the wrapper of `#[napi]` around a
//! call with arguments 75 ns (`docs/design/runtimes.md` §6), which is more than the pool's whole work.
//!
//! The aliased buffer:
//!
//! | bytes | content |
//! |---|---|
//! | 0, 8, 16 | f64: pool, size, alignment |
//! | 24, 32 | f64: CPU address, device address (-1: none) |
//! | 40, 44, 48, 52 | i32: chunk (index, generation) and region (slot, generation), which name a slice |
//! | 56 | f64: the slice's id |
//! | 64 | i32: tag (-1: none) |
//! | 68 | i32: flags (1: zeroed, 2: not cleared, 4: without a driver); the answers of `isLive` and of flag 4 |
//!
//! Any bytes are a safe request: numbers that name nothing find nothing.
#![allow(unsafe_code)]

use std::ffi::{c_void, CStr};
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;

use super::env::{check, EnvData};
use super::last_pool::LastPool;
use super::registry;
use crate::accounting::notifications;
use crate::device::memory::alignment as checked;
use crate::error::Error;
use crate::handle::Handle;
use crate::pool::{Clearing, Pool, Slice, SliceRequest, TagId};
use crate::suballoc::RegionId;
use crate::units::MIN_ALIGNMENT;

/// The flag of a zeroed slice.
const ZEROED: i32 = 1;
/// The flag of a slice whose bytes stay as they are.
const UNCLEARED: i32 = 2;
/// The flag of a request that may not wait for a driver. The answer says whether it was served.
const RESIDENT: i32 = 4;

/// State that the fast calls of one environment share. Leaked: environments are few.
struct FastCalls {
    buffer: *mut AliasedBuffer,
    /// The pool of the last call, which saves the next call the look-up.
    last: Rc<LastPool>,
}

/// Layout of the aliased buffer, as in the module's table.
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct AliasedBuffer {
    pool: f64,
    size: f64,
    alignment: f64,
    address: f64,
    device_address: f64,
    chunk: [i32; 2],
    region: [i32; 2],
    id: f64,
    tag: i32,
    flags: i32,
}

impl FastCalls {
    // One field at a time, as JavaScript writes and reads them. A wide load of several fields that were just written
    // stalls until they have reached the cache, a tenth of an allocation's time. Volatile keeps the compiler from
    // merging them.

    /// Reads the request of `allocate`: pool, size, alignment.
    #[inline(always)]
    fn allocate_request(&self) -> crate::error::Result<(f64, u64, u64)> {
        let buffer = self.buffer;
        // SAFETY: the aliased buffer has the size and alignment of its type, is never freed, and any bytes are valid.
        // Only this environment's thread reads and writes it: its JavaScript, and its native calls.
        let (pool, size, alignment) = unsafe {
            (
                (&raw const (*buffer).pool).read_volatile(),
                (&raw const (*buffer).size).read_volatile(),
                (&raw const (*buffer).alignment).read_volatile(),
            )
        };
        // The alignment of nearly all requests needs no conversion and no check. A negative size becomes one that no
        // pool has.
        let alignment = match alignment == MIN_ALIGNMENT as f64 {
            true => MIN_ALIGNMENT,
            false => checked(Some(alignment as u64), MIN_ALIGNMENT)?,
        };
        Ok((pool, size as i64 as u64, alignment))
    }

    /// Reads the tag and the flags of `allocateWith`.
    fn options(&self) -> (Option<TagId>, Clearing, bool) {
        let buffer = self.buffer;
        // SAFETY: as in `allocate_request`.
        unsafe {
            let tag = (&raw const (*buffer).tag).read_volatile();
            let flags = (&raw const (*buffer).flags).read_volatile();
            let clearing = match () {
                () if flags & ZEROED != 0 => Clearing::All,
                () if flags & UNCLEARED != 0 => Clearing::None,
                () => Clearing::OtherTags,
            };
            (u32::try_from(tag).ok().map(TagId::from_raw), clearing, flags & RESIDENT != 0)
        }
    }

    /// Writes the answer of `isLive`, or of a request with the flag `RESIDENT`.
    fn answer(&self, yes: bool) {
        // SAFETY: as in `allocate_request`.
        unsafe { (&raw mut (*self.buffer).flags).write(i32::from(yes)) }
    }

    /// Reads the request of `free`: pool, chunk, region.
    fn free_request(&self) -> (f64, Handle, RegionId) {
        let buffer = self.buffer;
        // SAFETY: as in `allocate_request`.
        unsafe {
            let pool = (&raw const (*buffer).pool).read_volatile();
            let half = |of: *const [i32; 2], at: usize| of.cast::<i32>().add(at).read_volatile();
            let (chunk, region) = (&raw const (*buffer).chunk, &raw const (*buffer).region);
            let (chunk, region) = slice_name(half(chunk, 0), half(chunk, 1), half(region, 0), half(region, 1));
            (pool, chunk, region)
        }
    }

    /// Writes the response of `allocate`.
    #[inline(always)]
    fn respond(&self, slice: &Slice) {
        let buffer = self.buffer;
        // Addresses and ids are below 2^63, and a signed conversion is one instruction.
        let number = |number: u64| number as i64 as f64;
        // SAFETY: as in `allocate_request`. No Rust reference to the aliased buffer exists.
        unsafe {
            (&raw mut (*buffer).address).write(number(slice.address as u64));
            (&raw mut (*buffer).device_address).write(slice.device_address.map_or(-1.0, number));
            (&raw mut (*buffer).chunk).write(halves(slice.chunk.get()));
            (&raw mut (*buffer).region).write(halves(slice.region.to_raw()));
            (&raw mut (*buffer).id).write(number(slice.id.get()));
        }
    }
}

/// Makes the fast functions of this environment, with the `buffer` that they share and `notifications`, the count of
/// warnings, and `turns`, the count of the event loop's turns.
#[napi(
    catch_unwind,
    ts_return_type = "{ buffer: ArrayBuffer, notifications: ArrayBuffer, turns: ArrayBuffer, \
        allocate(): void, allocateWith(): void, free(): void, isLive(): void, idle(...numbers: number[]): void }"
)]
pub fn fast_calls(env: &Env) -> Result<Object<'_>> {
    let buffer: *mut AliasedBuffer = Box::leak(Box::default());
    let calls = FastCalls { buffer, last: LastPool::of_environment() };
    let calls: *const FastCalls = Box::leak(Box::new(calls));
    let mut object = Object::new(env)?;
    object.set("buffer", alias(env, buffer)?)?;
    object.set("notifications", alias(env, notifications().as_ptr())?)?;
    object.set("turns", alias(env, EnvData::of(env)?.turns().as_ptr())?)?;
    object.set("allocate", function(env, c"allocate", allocate, calls)?)?;
    object.set("allocateWith", function(env, c"allocateWith", allocate_with, calls)?)?;
    object.set("free", function(env, c"free", free, calls)?)?;
    object.set("isLive", function(env, c"isLive", is_live, calls)?)?;
    object.set("idle", function(env, c"idle", idle_raw, calls)?)?;
    Ok(object)
}

/// Allocates a slice and writes its name and its addresses to the aliased buffer.
unsafe extern "C" fn allocate(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        run(env, info, |calls| {
            let (pool, size, alignment) = calls.allocate_request()?;
            calls.last.with(pool, open, |pool| {
                calls.respond(&pool.allocate(size, alignment)?);
                Ok(())
            })
        })
    }
}

/// Like [`allocate`], with a tag or zeroed.
unsafe extern "C" fn allocate_with(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        run(env, info, |calls| {
            let (pool, size, alignment) = calls.allocate_request()?;
            let (tag, clearing, resident) = calls.options();
            let mut request = SliceRequest::new(size, alignment);
            (request.tag, request.clearing) = (tag, clearing);
            calls.last.with(pool, open, |pool| {
                let slice = match resident {
                    true => pool.request_resident(request)?,
                    false => Some(pool.request(request)?),
                };
                slice.iter().for_each(|slice| calls.respond(slice));
                if resident {
                    calls.answer(slice.is_some());
                }
                Ok(())
            })
        })
    }
}

/// Answers whether the slice that the aliased buffer names is still allocated.
unsafe extern "C" fn is_live(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        run(env, info, |calls| {
            let (pool, chunk, region) = calls.free_request();
            let found = calls.last.with(pool, open, |pool| pool.slice(chunk, region));
            calls.answer(found.is_ok());
            Ok(())
        })
    }
}

/// Frees the slice that the aliased buffer names.
unsafe extern "C" fn free(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    // SAFETY: this is a callback that `function` registered, called with its `env` and `info`.
    unsafe {
        run(env, info, |calls| {
            let (pool, chunk, region) = calls.free_request();
            calls.last.with(pool, open_of_block, |pool| pool.free(chunk, region))
        })
    }
}

/// Baseline of `benchmark/pools.mjs`: reads three numbers and does nothing.
unsafe extern "C" fn idle_raw(env: sys::napi_env, info: sys::napi_callback_info) -> sys::napi_value {
    let (mut count, mut arguments, mut number) = (3, [ptr::null_mut(); 3], 0.0);
    // SAFETY: `env` and `info` belong to this call. `arguments` has room for `count` of them; missing arguments are
    // undefined, which is no number and changes nothing.
    unsafe {
        sys::napi_get_cb_info(env, info, &mut count, arguments.as_mut_ptr(), ptr::null_mut(), ptr::null_mut());
        for argument in arguments {
            sys::napi_get_value_double(env, argument, &mut number);
        }
    }
    ptr::null_mut()
}

/// Baseline of `benchmark/pools.mjs`: the same through the wrapper of `#[napi]`.
#[napi(catch_unwind)]
pub fn idle(_first: f64, _second: f64, _third: f64) {}

fn open(pool: f64) -> crate::error::Result<Arc<Pool>> {
    registry::pool(pool).map(|open| open.pool)
}

fn open_of_block(pool: f64) -> crate::error::Result<Arc<Pool>> {
    registry::pool_of_block(pool).map(|open| open.pool)
}

/// Runs the body of a callback. Throws its error as a `MemoryError`, and a panic as an `Error`.
///
/// # Safety
///
/// `env` and `info` belong to a call of a function that [`function`] made.
unsafe fn run(
    env: sys::napi_env,
    info: sys::napi_callback_info,
    body: impl FnOnce(&FastCalls) -> crate::error::Result<()>,
) -> sys::napi_value {
    let mut data = ptr::null_mut();
    // SAFETY: the caller guarantees that both belong to this call; no argument is read.
    let status =
        unsafe { sys::napi_get_cb_info(env, info, ptr::null_mut(), ptr::null_mut(), ptr::null_mut(), &mut data) };
    if status != sys::Status::napi_ok || data.is_null() {
        return ptr::null_mut();
    }
    // SAFETY: `function` registered leaked `FastCalls` as the data; only this environment's thread uses them.
    let calls = unsafe { &*data.cast::<FastCalls>() };
    match catch_unwind(AssertUnwindSafe(|| body(calls))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => throw(env, Some(&error)),
        Err(_panic) => throw(env, None),
    }
    ptr::null_mut() // undefined
}

/// Throws `error`, or the error of a panic where there is none.
#[cold]
fn throw(raw: sys::napi_env, error: Option<&Error>) {
    let env = Env::from_raw(raw);
    let value = match error {
        Some(error) => EnvData::of(&env).and_then(|data| data.error_value(&env, error)),
        None => Err(napi::Error::from_reason("the native part panicked: please report it")),
    };
    // SAFETY: `raw` is the environment of the current call, and `value` was made in its scope.
    unsafe {
        match value {
            Ok(value) => drop(sys::napi_throw(raw, value.raw())),
            Err(failure) => napi::JsError::from(failure).throw_into(raw),
        }
    }
}

/// Creates a JavaScript function whose calls get `calls` as their data.
fn function<'env>(
    env: &'env Env,
    name: &CStr,
    callback: unsafe extern "C" fn(sys::napi_env, sys::napi_callback_info) -> sys::napi_value,
    calls: *const FastCalls,
) -> Result<Unknown<'env>> {
    let mut value = ptr::null_mut();
    let length = name.to_bytes().len() as isize;
    // SAFETY: name, callback and `calls` live as long as the process.
    let status = unsafe {
        let data = calls.cast_mut().cast();
        sys::napi_create_function(env.raw(), name.as_ptr(), length, Some(callback), data, &mut value)
    };
    check(status, "napi_create_function")?;
    // SAFETY: just made, in this environment and scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// Creates an ArrayBuffer over native memory that JavaScript and native code share. A script that transfers it breaks
/// only its own environment.
///
/// `data` lives as long as the process.
fn alias<T>(env: &Env, data: *mut T) -> Result<Unknown<'_>> {
    unsafe extern "C" fn no_finalizer(_: sys::napi_env, _: *mut c_void, _: *mut c_void) {}
    let mut value = ptr::null_mut();
    // SAFETY: `data` points to leaked or static memory of plain numbers: JavaScript may write any bytes there.
    let status = unsafe {
        let (data, hint) = (data.cast(), ptr::null_mut());
        sys::napi_create_external_arraybuffer(env.raw(), data, size_of::<T>(), Some(no_finalizer), hint, &mut value)
    };
    check(status, "napi_create_external_arraybuffer")?;
    // SAFETY: just made, in this environment and scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// The numbers of a slice that another thread allocated: CPU address, device address (-1: none), chunk, region and id,
/// as in the aliased buffer.
pub fn slice_numbers(slice: &Slice) -> Vec<f64> {
    let [chunk, chunk_generation] = halves(slice.chunk.get()).map(f64::from);
    let [slot, slot_generation] = halves(slice.region.to_raw()).map(f64::from);
    let device_address = slice.device_address.map_or(-1.0, |address| address as f64);
    let id = slice.id.get() as f64;
    vec![slice.address as f64, device_address, chunk, chunk_generation, slot, slot_generation, id]
}

/// Splits 64 bits into two numbers that a runtime represents without allocating.
fn halves(raw: u64) -> [i32; 2] {
    [raw as i32, (raw >> 32) as i32]
}

/// Joins the [`halves`] of a slice's name.
pub fn slice_name(index: i32, generation: i32, slot: i32, region_generation: i32) -> (Handle, RegionId) {
    let whole = |low: i32, high: i32| u64::from(high as u32) << 32 | u64::from(low as u32);
    (Handle::from_raw(whole(index, generation)), RegionId::from_raw(whole(slot, region_generation)))
}
