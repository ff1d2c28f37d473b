//! A [`Realm`]: what one JavaScript environment (a main thread, a worker) lends us, and what we owe it at its end.
//!
//! References to its values are never deleted: the environment takes them with it, and by the time instance data is
//! finalized some runtimes have no environment left to delete them in (`runtimes.md` §2).
#![allow(unsafe_code)]

use std::collections::HashSet;
use std::ffi::{c_void, CStr};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};
use once_cell::sync::Lazy;

use super::defragment::Compacting;
use crate::error::{Details, Error, ErrorCode};
use crate::handle::{Handle, Table};
use crate::manager::Manager;
use crate::pool::Pool;

/// See the module's header.
pub struct Realm {
    id: Handle,
    /// `(code, message, details) => MemoryError`.
    make_error: sys::napi_ref,
    /// `ArrayBuffer.prototype.transfer` as it was when we were loaded; null where there is none (Node 20).
    transfer: sys::napi_ref,
}

/// The managers of each living realm: a worker that is terminated disposes of none by itself.
static REALMS: Lazy<Mutex<Table<HashSet<Handle>>>> = Lazy::new(Mutex::default);
/// Every open manager of this process.
static MANAGERS: Lazy<Mutex<Table<Arc<Manager>>>> = Lazy::new(Mutex::default);

/// On this runtime a finalizer that comes from another thread comes for the last ArrayBuffer there was (Deno); on the
/// others it comes because a thread died, and the bytes may live on elsewhere (`runtimes.md` §2).
static FINALIZERS_FOLLOW_MEMORY: AtomicBool = AtomicBool::new(false);

pub fn finalizers_follow_memory() -> bool {
    FINALIZERS_FOLLOW_MEMORY.load(Ordering::Relaxed)
}

fn realms() -> MutexGuard<'static, Table<HashSet<Handle>>> {
    REALMS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn managers() -> MutexGuard<'static, Table<Arc<Manager>>> {
    MANAGERS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Realm {
    /// Captures what this environment has before any user code can replace it. Once an environment.
    pub fn enter(env: &Env, make_error: &Unknown<'_>, follow: bool) -> Result<()> {
        FINALIZERS_FOLLOW_MEMORY.store(follow, Ordering::Relaxed);
        pin_addon();
        let id = realms().insert(HashSet::new());
        let make_error = reference(env, make_error.raw())?;
        let realm = Realm { id, make_error, transfer: capture_transfer(env)? };
        env.set_instance_data(realm, (), |_| {})?;
        // SAFETY: `leave` takes an integer for its argument and may be called from any thread at any time.
        let status =
            unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(leave), id.get() as usize as *mut c_void) };
        check(status, "napi_add_env_cleanup_hook")
    }

    /// Its name in this process.
    pub fn id(&self) -> Handle {
        self.id
    }

    /// This environment's realm.
    pub fn of(env: &Env) -> Result<&'static Realm> {
        match env.get_instance_data::<Realm>()? {
            Some(realm) => Ok(realm),
            None => Err(napi::Error::from_reason("the native part was not set up in this environment")),
        }
    }

    /// Keeps `manager` until it is closed, or until this environment ends.
    pub fn open(&self, manager: Manager) -> Handle {
        let handle = managers().insert(Arc::new(manager));
        if let Some(owned) = realms().get_mut(self.id) {
            owned.insert(handle);
        }
        handle
    }

    /// Takes the manager out; the caller is the last to hold it.
    pub fn close(&self, handle: Handle) -> Option<Arc<Manager>> {
        if let Some(owned) = realms().get_mut(self.id) {
            owned.remove(&handle);
        }
        super::pressure::unwatch(handle);
        close_pools_of(handle);
        managers().remove(handle)
    }

    /// The captured `transfer`, if this runtime has one.
    pub fn transfer(&self, env: &Env) -> Option<sys::napi_value> {
        if self.transfer.is_null() {
            return None;
        }
        dereference(env, self.transfer)
    }

    /// The `MemoryError` for `error`, as a value.
    pub fn error_value<'env>(&self, env: &'env Env, error: &Error) -> Result<Unknown<'env>> {
        let details = error.details();
        let arguments = [
            env.create_string(details.code.as_str())?.raw(),
            env.create_string(&details.message)?.raw(),
            figures(env, details)?.raw(),
        ];
        let make_error = dereference(env, self.make_error)
            .ok_or_else(|| napi::Error::from_reason("this environment is being torn down"))?;
        let mut undefined = ptr::null_mut();
        let mut value = ptr::null_mut();
        // SAFETY: all values belong to `env` and to the scope of the native call that we are in.
        let status = unsafe {
            sys::napi_get_undefined(env.raw(), &mut undefined);
            let (count, values) = (arguments.len(), arguments.as_ptr());
            sys::napi_call_function(env.raw(), undefined, make_error, count, values, &mut value)
        };
        check(status, "napi_call_function")?;
        // SAFETY: `value` was made by the call above, in the same environment and scope.
        Ok(unsafe { Unknown::from_raw_unchecked(env.raw(), value) })
    }
}

/// A pool that JavaScript holds, and the manager it belongs to.
#[derive(Clone)]
pub struct OpenPool {
    pub manager: Handle,
    pub pool: Arc<Pool>,
    /// A compaction that goes on with the next slice.
    pub compacting: Arc<Mutex<Compacting>>,
}

/// Pools of open managers.
static POOLS: Lazy<Mutex<Table<OpenPool>>> = Lazy::new(Mutex::default);

fn pools() -> MutexGuard<'static, Table<OpenPool>> {
    POOLS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Names a pool for JavaScript, until it or its manager is closed.
pub fn open_pool(manager: f64, pool: Arc<Pool>) -> f64 {
    pools().insert(OpenPool { manager: Handle::from_raw(manager as u64), pool, compacting: Arc::default() }).get()
        as f64
}

/// The pool of that handle.
pub fn pool(handle: f64) -> crate::error::Result<OpenPool> {
    pools()
        .get(Handle::from_raw(handle as u64))
        .cloned()
        .ok_or_else(|| Error::new(ErrorCode::PoolDestroyed, "this pool was destroyed"))
}

/// Forgets a pool.
pub fn close_pool(handle: f64) {
    pools().remove(Handle::from_raw(handle as u64));
}

fn close_pools_of(manager: Handle) {
    let mut pools = pools();
    let of_manager: Vec<_> =
        pools.iter().filter(|(_, open)| open.manager == manager).map(|(handle, _)| handle).collect();
    let closed: Vec<_> = of_manager.into_iter().filter_map(|handle| pools.remove(handle)).collect();
    drop(pools);
    drop(closed); // the driver's turn, outside the lock
}

/// The open manager of that handle.
pub fn manager(handle: f64) -> crate::error::Result<Arc<Manager>> {
    managers()
        .get(Handle::from_raw(handle as u64))
        .cloned()
        .ok_or_else(|| Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed"))
}

/// Turns a refusal into the `MemoryError` that JavaScript sees.
pub fn throw(env: &Env) -> impl Fn(Error) -> napi::Error + '_ {
    move |error| match Realm::of(env).and_then(|realm| realm.error_value(env, &error)) {
        Ok(value) => napi::Error::from(value),
        Err(failure) => failure,
    }
}

fn figures<'env>(env: &'env Env, details: &Details) -> Result<Object<'env>> {
    let mut object = Object::new(env)?;
    let numbers = [
        ("requested", details.requested),
        ("available", details.available),
        ("largestFree", details.largest_free),
        ("limit", details.limit),
    ];
    for (name, value) in numbers {
        if let Some(value) = value {
            object.set(name, value as f64)?;
        }
    }
    if let Some(errno) = details.errno {
        object.set("errno", errno)?;
    }
    if let Some(syscall) = details.syscall {
        object.set("syscall", syscall)?;
    }
    for (name, text) in [("hint", &details.hint), ("scope", &details.scope)] {
        if let Some(text) = text {
            object.set(name, text)?;
        }
    }
    if let Some(path) = &details.path {
        object.set("path", path.to_string_lossy().as_ref())?;
    }
    Ok(object)
}

/// The environment ends: nothing of it runs any more, so everything it still holds goes back.
unsafe extern "C" fn leave(realm: *mut c_void) {
    let end = || {
        let realm = Handle::from_raw(realm as usize as u64);
        super::errands::abandon(realm);
        super::inbox::abandon(realm);
        let owned = realms().remove(realm);
        for handle in owned.into_iter().flatten() {
            super::pressure::unwatch(handle);
            close_pools_of(handle);
            let manager = managers().remove(handle);
            if let Some(manager) = manager {
                manager.dispose();
            }
        }
    };
    // A panic must not unwind into the runtime; there is nobody left to tell.
    let _ = std::panic::catch_unwind(end);
}

fn capture_transfer(env: &Env) -> Result<sys::napi_ref> {
    let global: Object<'_> = env.get_global()?.into_unknown(env)?.coerce_to_object()?;
    let constructor: Object<'_> = global.get_named_property::<Unknown<'_>>("ArrayBuffer")?.coerce_to_object()?;
    let prototype: Object<'_> = constructor.get_named_property("prototype")?;
    let transfer: Unknown<'_> = prototype.get_named_property("transfer")?;
    match transfer.get_type()? {
        ValueType::Function => reference(env, transfer.raw()),
        _ => Ok(ptr::null_mut()),
    }
}

fn reference(env: &Env, value: sys::napi_value) -> Result<sys::napi_ref> {
    let mut reference = ptr::null_mut();
    // SAFETY: `value` belongs to `env` and to the scope of the native call that we are in.
    let status = unsafe { sys::napi_create_reference(env.raw(), value, 1, &mut reference) };
    check(status, "napi_create_reference").map(|()| reference)
}

fn dereference(env: &Env, reference: sys::napi_ref) -> Option<sys::napi_value> {
    let mut value = ptr::null_mut();
    // SAFETY: `reference` was made in this environment, is strong, and is never deleted.
    let status = unsafe { sys::napi_get_reference_value(env.raw(), reference, &mut value) };
    (status == sys::Status::napi_ok && !value.is_null()).then_some(value)
}

pub fn check(status: sys::napi_status, call: &str) -> Result<()> {
    match status {
        sys::Status::napi_ok => Ok(()),
        _ => Err(napi::Error::new(Status::from(status), format!("{call} failed with status {status}"))),
    }
}

/// Keeps this shared object mapped for good: a finalizer may come after the last environment that loaded it is gone.
fn pin_addon() {
    static PINNED: AtomicBool = AtomicBool::new(false);
    if PINNED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: dladdr reads the address of a function of ours and fills `info` with strings that live as long as this
    // object is loaded; dlopen with RTLD_NOLOAD only raises its count. Nothing breaks where either fails: a runtime
    // that never unloads addons (all we know) needs none of this.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(pin_addon as *const c_void, &mut info) != 0 && !info.dli_fname.is_null() {
            let path = CStr::from_ptr(info.dli_fname);
            libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}
