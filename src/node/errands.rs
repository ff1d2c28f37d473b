//! Calls that wait for a driver off the JavaScript thread, and promises for what comes of them.
//!
//! An errand has a slot for its result, by a number. The promise's end takes the result out of it; when the slot is gone by
//! then, because the caller aborted, the manager was disposed or the environment ended, the result is dropped where it
//! is, and memory that came too late goes back. Nothing of an environment is touched from another thread.
#![allow(unsafe_code)]

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::api::{find, handed_out};
use super::realm::{manager, throw, Realm};
use super::types;
use crate::allocation::Allocation;
use crate::backend::Direction;
use crate::error::{Error, ErrorCode};
use crate::handle::{Handle, Table};
use crate::manager::Prepared;
use crate::sys::thread_pool::ThreadPool;

/// Errands of one process that wait for drivers side by side; more wait for these.
static DRIVERS: ThreadPool = ThreadPool::new("rkllm-driver", 4);

/// What comes of an errand.
pub enum Outcome {
    Memory(Box<Prepared>),
    Done,
}

struct Slot {
    realm: Handle,
    result: Option<crate::error::Result<Outcome>>,
}

static SLOTS: Lazy<Mutex<Table<Slot>>> = Lazy::new(Mutex::default);

fn slots() -> MutexGuard<'static, Table<Slot>> {
    SLOTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A value that was made in the environment whose promise it is for.
struct Delivered(sys::napi_value);

impl ToNapiValue for Delivered {
    unsafe fn to_napi_value(_env: sys::napi_env, value: Self) -> Result<sys::napi_value> {
        Ok(value.0)
    }
}

/// Nobody of that environment waits for anything any more.
pub fn abandon(realm: Handle) {
    let orphans: Vec<_> = {
        let mut slots = slots();
        let of_realm: Vec<_> = slots.iter().filter(|(_, slot)| slot.realm == realm).map(|(id, _)| id).collect();
        of_realm.into_iter().filter_map(|id| slots.remove(id)).collect()
    };
    drop(orphans); // the driver's turn, outside the lock
}

/// Has `work` done by `crew`: the promise, and the errand's number.
pub fn send<'env>(
    env: &'env Env,
    crew: &'static ThreadPool,
    work: impl FnOnce() -> crate::error::Result<Outcome> + Send + 'static,
) -> Result<Errand<'env>> {
    let (deferred, promise) = env.create_deferred()?;
    let id = slots().insert(Slot { realm: Realm::of(env)?.id(), result: None });
    crew.run(move || {
        let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
            Err(Error::new(ErrorCode::DeviceIo, "the native part panicked: please report it"))
        });
        let late = {
            let mut slots = slots();
            match slots.get_mut(id) {
                Some(slot) => {
                    slot.result = Some(result);
                    None
                }
                None => Some(result),
            }
        };
        drop(late);
        deferred.resolve(move |env| deliver(&env, id));
    });
    Ok(Errand { promise, errand: id.get() as f64 })
}

/// On the JavaScript thread: the end of an errand's promise.
fn deliver(env: &Env, id: Handle) -> Result<Delivered> {
    let slot = slots().remove(id);
    match slot.and_then(|slot| slot.result) {
        Some(Ok(Outcome::Memory(prepared))) => {
            let pair = handed_out(env, prepared.enter())?;
            Ok(Delivered(pair.raw()))
        }
        Some(Err(error)) => Err(throw(env)(error)),
        // Done, or nobody wants to know.
        Some(Ok(Outcome::Done)) | None => {
            let mut undefined = ptr::null_mut();
            // SAFETY: we are in a call that the runtime made into `env`.
            unsafe { sys::napi_get_undefined(env.raw(), &mut undefined) };
            Ok(Delivered(undefined))
        }
    }
}

/// A promise, and the number by which it can be called off.
#[napi(object, object_from_js = false)]
pub struct Errand<'env> {
    #[napi(ts_type = "Promise<any>")]
    pub promise: Object<'env>,
    pub errand: f64,
}

/// As `allocateNpu`, on another thread: a promise of `[buffer, id]`, or of nothing once it was called off.
#[napi(catch_unwind)]
pub fn allocate_npu_async(env: &Env, handle: f64, size: f64, options: Option<types::Npu>) -> Result<Errand<'_>> {
    let options = options.unwrap_or_default().into();
    let manager = manager(handle).map_err(throw(env))?;
    let work = move || Ok(Outcome::Memory(Box::new(manager.prepare_npu(size as u64, &options)?)));
    send(env, &DRIVERS, work)
}

/// As `sync`, on another thread. The memory stays until it is done, whoever frees it meanwhile.
#[napi(catch_unwind)]
pub fn sync_async<'env>(
    env: &'env Env,
    handle: f64,
    buffer: Unknown<'_>,
    to_device: bool,
    offset: f64,
    length: Option<f64>,
) -> Result<Errand<'env>> {
    let allocation: std::sync::Arc<Allocation> = find(env, handle, &buffer, None)?;
    let direction = if to_device { Direction::ToDevice } else { Direction::FromDevice };
    let manager = manager(handle).map_err(throw(env))?;
    let job =
        manager.prepare_sync(&allocation, direction, offset as u64, length.map(|n| n as u64)).map_err(throw(env))?;
    send(env, &DRIVERS, move || job().map(|()| Outcome::Done))
}

/// Nobody waits for that errand any more.
#[napi(catch_unwind)]
pub fn call_off(errand: f64) {
    let slot = slots().remove(Handle::from_raw(errand as u64));
    drop(slot); // the driver's turn, outside the lock
}
