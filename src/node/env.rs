//! Per-environment data: the error constructor, the captured `transfer`, and the hooks that run at the end.
//!
//! An environment is a main thread or a worker of the runtime. [`EnvData`] is its instance data.
//!
//! References to JavaScript values are never deleted: the environment takes them with it. Some runtimes finalize
//! instance data when no environment is left to delete references in (`docs/design/runtimes.md` §2).
#![allow(unsafe_code)]

use std::ffi::{c_void, CStr};
use std::panic::catch_unwind;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};

use crate::error::{Details, Error};
use crate::sync::{Mutex, MutexGuard};

/// Identifies an environment within the process. An integer: an exit hook may run when the environment is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EnvId(usize);

/// Data of one JavaScript environment.
pub struct EnvData {
    id: EnvId,
    /// `(code, message, details) => MemoryError`.
    make_error: sys::napi_ref,
    /// `ArrayBuffer.prototype.transfer`, captured when the addon was loaded; null on Node 20, which has none.
    transfer: sys::napi_ref,
    /// The number of turns of the event loop, which JavaScript counts. Leaked: environments are few.
    turns: &'static AtomicU32,
}

static NEXT_ID: AtomicUsize = AtomicUsize::new(1);

/// Hooks that run at the end of each environment.
static EXIT_HOOKS: Mutex<Vec<fn(EnvId)>> = Mutex::new(Vec::new());

/// True on Deno: a finalizer there runs on another thread only when no ArrayBuffer over the memory is left. On the
/// other runtimes it runs there because its thread has ended, and the bytes may be reachable elsewhere
/// (`docs/design/runtimes.md` §2).
static FINALIZERS_FOLLOW_MEMORY: AtomicBool = AtomicBool::new(false);

/// Returns whether a finalizer proves that no ArrayBuffer is left, whichever thread it runs on.
pub fn finalizers_follow_memory() -> bool {
    FINALIZERS_FOLLOW_MEMORY.load(Ordering::Relaxed)
}

fn exit_hooks() -> MutexGuard<'static, Vec<fn(EnvId)>> {
    EXIT_HOOKS.lock()
}

/// Runs `hook` at the end of each environment from now on, in the reverse order of registration. The hook must not
/// depend on that order, nor on the thread that it runs on.
pub fn at_exit(hook: fn(EnvId)) {
    exit_hooks().push(hook);
}

/// Runs the hooks of an environment that ends: none of its JavaScript runs any more.
unsafe extern "C" fn run_exit_hooks(id: *mut c_void) {
    let id = EnvId(id as usize);
    // A copy, because a hook may register others.
    let hooks = exit_hooks().clone();
    for hook in hooks.into_iter().rev() {
        // A panic must not unwind into the runtime, and no JavaScript is left to report it to.
        let _ = catch_unwind(|| hook(id));
    }
}

impl EnvData {
    /// Captures the built-ins of this environment before user code can replace them. Called once an environment.
    pub fn set_up(env: &Env, make_error: &Unknown<'_>, finalizers_follow_memory: bool) -> Result<()> {
        FINALIZERS_FOLLOW_MEMORY.store(finalizers_follow_memory, Ordering::Relaxed);
        pin_addon();
        let id = EnvId(NEXT_ID.fetch_add(1, Ordering::Relaxed));
        let make_error = reference(env, make_error.raw())?;
        let data = EnvData { id, make_error, transfer: capture_transfer(env)?, turns: Box::leak(Box::default()) };
        env.set_instance_data(data, (), |_| {})?;
        // SAFETY: `run_exit_hooks` takes an integer for its argument and may be called from any thread at any time.
        let status = unsafe { sys::napi_add_env_cleanup_hook(env.raw(), Some(run_exit_hooks), id.0 as *mut c_void) };
        check(status, "napi_add_env_cleanup_hook")
    }

    /// Returns the data of `env`.
    pub fn of(env: &Env) -> Result<&'static EnvData> {
        match env.get_instance_data::<EnvData>()? {
            Some(data) => Ok(data),
            None => Err(napi::Error::from_reason("the native part was not set up in this environment")),
        }
    }

    /// Returns the number of turns of the event loop.
    pub fn turns(&self) -> &'static AtomicU32 {
        self.turns
    }

    /// Returns the environment's id.
    pub fn id(&self) -> EnvId {
        self.id
    }

    /// Returns the captured `transfer`, if this runtime has one.
    pub fn transfer(&self, env: &Env) -> Option<sys::napi_value> {
        if self.transfer.is_null() {
            return None;
        }
        dereference(env, self.transfer)
    }

    /// Makes the `MemoryError` for `error`.
    pub fn error_value<'env>(&self, env: &'env Env, error: &Error) -> Result<Unknown<'env>> {
        let details = error.details();
        let arguments = [
            env.create_string(details.code.as_str())?.raw(),
            env.create_string(&details.message)?.raw(),
            detail_values(env, details)?.raw(),
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

/// Converts an error of the core into the `MemoryError` that JavaScript sees.
pub fn throw(env: &Env) -> impl Fn(Error) -> napi::Error + '_ {
    move |error| match EnvData::of(env).and_then(|data| data.error_value(env, &error)) {
        Ok(value) => napi::Error::from(value),
        Err(failure) => failure,
    }
}

fn detail_values<'env>(env: &'env Env, details: &Details) -> Result<Object<'env>> {
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
    let texts = [("hint", &details.hint), ("scope", &details.scope), ("driverVersion", &details.driver_version)];
    for (name, text) in texts {
        if let Some(text) = text {
            object.set(name, text)?;
        }
    }
    if let Some(path) = &details.path {
        object.set("path", path.to_string_lossy().as_ref())?;
    }
    Ok(object)
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

/// Turns a failed status of the Node-API function `call` into an error.
pub fn check(status: sys::napi_status, call: &str) -> Result<()> {
    match status {
        sys::Status::napi_ok => Ok(()),
        _ => Err(napi::Error::new(Status::from(status), format!("{call} failed with status {status}"))),
    }
}

/// Keeps this shared object mapped forever: a finalizer may run when the last environment that loaded it is gone.
fn pin_addon() {
    static PINNED: AtomicBool = AtomicBool::new(false);
    if PINNED.swap(true, Ordering::Relaxed) {
        return;
    }
    // SAFETY: dladdr reads the address of a function of this object and fills `info` with strings that live as long as
    // the object is loaded; dlopen with RTLD_NOLOAD only raises its count. A failure of either breaks nothing: a
    // runtime that never unloads addons (all known ones) needs none of this.
    unsafe {
        let mut info: libc::Dl_info = std::mem::zeroed();
        if libc::dladdr(pin_addon as *const c_void, &mut info) != 0 && !info.dli_fname.is_null() {
            let path = CStr::from_ptr(info.dli_fname);
            libc::dlopen(path.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD | libc::RTLD_NODELETE);
        }
    }
}
