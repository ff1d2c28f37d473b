//! Numbers in, numbers out: what `pool.allocate` and `block.free` call. No object crosses the border in either
//! direction; results are written into the environment's mailbox, which JavaScript reads as a Float64Array.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

use napi::bindgen_prelude::*;
use napi::sys;
use napi_derive::napi;

use super::realm::{check, pool, throw, Realm, MAILBOX};
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::memory::alignment as checked;
use crate::pool::Slice;
use crate::suballoc::RegionId;
use crate::units::MIN_ALIGNMENT;

thread_local! {
    /// The last environment that called on this thread, and its mailbox.
    static LAST: Cell<(sys::napi_env, *mut f64)> = const { Cell::new((ptr::null_mut(), ptr::null_mut())) };
}

fn mailbox(env: &Env) -> Result<*mut f64> {
    let (last, mailbox) = LAST.get();
    if last == env.raw() {
        return Ok(mailbox);
    }
    let mailbox = Realm::of(env)?.mailbox();
    LAST.set((env.raw(), mailbox));
    Ok(mailbox)
}

/// The environment's mailbox. Asked for once; whoever takes the bytes away from the ArrayBuffer only harms itself.
#[napi(catch_unwind, ts_return_type = "ArrayBuffer")]
pub fn mailbox_buffer(env: &Env) -> Result<Unknown<'_>> {
    unsafe extern "C" fn nothing(_: sys::napi_env, _: *mut c_void, _: *mut c_void) {}
    let mut value = ptr::null_mut();
    let bytes = MAILBOX * size_of::<f64>();
    // SAFETY: the mailbox is leaked, so its bytes are good for as long as the process lives.
    let status = unsafe {
        let mailbox = Realm::of(env)?.mailbox().cast();
        sys::napi_create_external_arraybuffer(env.raw(), mailbox, bytes, Some(nothing), ptr::null_mut(), &mut value)
    };
    check(status, "napi_create_external_arraybuffer")?;
    // SAFETY: just made, in this environment and scope.
    Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
}

/// Takes a slice: chunk, slot, stamp, address, device address (-1: none) and padded size are in the mailbox afterwards.
#[napi(catch_unwind)]
pub fn pool_allocate(env: &Env, handle: f64, size: f64, alignment: f64) -> Result<()> {
    let slice = pool(handle)
        .and_then(|open| open.pool.allocate(size as u64, checked(Some(alignment as u64), MIN_ALIGNMENT)?))
        .map_err(throw(env))?;
    let Slice { chunk, region, padded, address, device_address, .. } = slice;
    let device_address = device_address.map_or(-1.0, |address| address as f64);
    let numbers = [
        chunk.get() as f64,
        f64::from(region.to_raw() as u32),
        (region.to_raw() >> 32) as f64,
        address as f64,
        device_address,
        padded as f64,
        0.0,
        0.0,
    ];
    // SAFETY: the mailbox is `MAILBOX` numbers that are never freed. JavaScript reads them on this very thread, after
    // this call; were it to write them too, it would only read its own numbers back.
    unsafe { ptr::copy_nonoverlapping(numbers.as_ptr(), mailbox(env)?, MAILBOX) };
    Ok(())
}

/// Gives a slice back.
#[napi(catch_unwind)]
pub fn pool_free(env: &Env, handle: f64, chunk: f64, slot: f64, stamp: f64) -> Result<()> {
    pool(handle)
        .map_err(gone)
        .and_then(|open| open.pool.free(Handle::from_raw(chunk as u64), region(slot, stamp)))
        .map_err(throw(env))
}

/// A block whose pool was destroyed went with it.
pub fn gone(_destroyed: Error) -> Error {
    Error::new(ErrorCode::BufferFreed, "this block was freed with its pool")
}

/// What [`pool_allocate`] wrote, back again. Any numbers are safe: those that name nothing find nothing.
pub fn region(slot: f64, stamp: f64) -> RegionId {
    RegionId::from_raw((stamp as u64) << 32 | u64::from(slot as u32))
}
