//! Tasks that wait for a driver off the JavaScript thread, and the promises of their results.
//!
//! A task has an entry for its result. The promise takes the result out of the entry when it settles. The entry is gone
//! by then if the task was cancelled, its manager disposed or its environment ended: the result is dropped on the
//! task's thread, and memory that was allocated too late is freed. No other thread uses the environment.
#![allow(unsafe_code)]

use std::panic::{catch_unwind, AssertUnwindSafe};
use std::ptr;

use napi::bindgen_prelude::*;
use napi::{sys, JsValue};
use napi_derive::napi;
use once_cell::sync::Lazy;

use super::buffer::expose;
use super::env::{check, throw, EnvData, EnvId};
use super::registry::{handle, Registry};
use crate::error::{Error, ErrorCode};
use crate::handle::Handle;
use crate::manager::Prepared;
use crate::sys::thread_pool::ThreadPool;

/// Result of a task that succeeded: makes the promise's value, on the JavaScript thread. Dropped, it gives back what it
/// holds.
pub struct Outcome(Option<MakeValue>);

type MakeValue = Box<dyn FnOnce(&Env) -> Result<sys::napi_value> + Send>;

impl Outcome {
    /// The promise resolves to nothing.
    pub const DONE: Self = Self(None);

    /// The promise resolves to the value that `make` returns.
    pub fn new(make: impl FnOnce(&Env) -> Result<sys::napi_value> + Send + 'static) -> Self {
        Self(Some(Box::new(make)))
    }

    /// The promise resolves to the figures that the task found. The JavaScript thread makes objects of them.
    pub fn value<T: ToNapiValue + Send + 'static>(value: T) -> Self {
        // SAFETY: `settle` alone calls this, with an environment that is calling into this library.
        Self::new(move |env| unsafe { T::to_napi_value(env.raw(), value) })
    }

    /// The promise resolves to `[buffer, handle]`, or to nothing if a reset has freed the memory.
    pub fn memory(prepared: Prepared) -> Self {
        Self::new(move |env| match prepared.is_stale() {
            true => undefined(env),
            false => Ok(expose(env, prepared.enter())?.raw()),
        })
    }

    /// The promise resolves to the array that `numbers` returns on the JavaScript thread, or to nothing for `None`.
    pub fn numbers(numbers: impl FnOnce() -> Option<Vec<f64>> + Send + 'static) -> Self {
        Self::new(move |env| match numbers() {
            Some(numbers) => Ok(Array::from_vec(env, numbers)?.raw()),
            None => undefined(env),
        })
    }

    /// Takes a reset of the pool for no error: the promise resolves to nothing, and JavaScript asks again.
    pub fn unless_reset(result: TaskResult) -> TaskResult {
        match result {
            Err(error) if error.code() == ErrorCode::BufferFreed => Ok(Self::DONE),
            other => other,
        }
    }
}

type TaskResult = crate::error::Result<Outcome>;

/// Results of tasks; `None` while a task runs.
static TASKS: Lazy<Registry<EnvId, Option<TaskResult>>> = Lazy::new(|| Registry::with_exit_hook(cancel_tasks_of));

fn cancel_tasks_of(env: EnvId) {
    drop(TASKS.remove_of(env));
}

/// A promise, and the number that cancels its task.
#[napi(object, object_from_js = false)]
pub struct AsyncTask<'env> {
    #[napi(ts_type = "Promise<any>")]
    pub promise: Object<'env>,
    pub task: f64,
}

/// A JavaScript value that was created in the environment of the promise.
struct Settled(sys::napi_value);

impl ToNapiValue for Settled {
    unsafe fn to_napi_value(_env: sys::napi_env, value: Self) -> Result<sys::napi_value> {
        Ok(value.0)
    }
}

/// Settles a task's promise, from any thread. Dropped without a result, it rejects the promise: the task found no
/// thread.
pub struct Completer(Option<Box<dyn FnOnce(TaskResult) + Send>>);

impl Completer {
    /// Settles the promise.
    pub fn complete(mut self, result: TaskResult) {
        if let Some(settle) = self.0.take() {
            settle(result);
        }
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        if let Some(settle) = self.0.take() {
            settle(Err(no_thread()));
        }
    }
}

/// The error for a task that no thread ran. The caller's thread is an event loop, which the task would block.
pub fn no_thread() -> Error {
    Error::new(ErrorCode::DeviceIo, "the system started no thread for this call, so it was not made")
        .syscall("clone", libc::EAGAIN)
        .hint("raise RLIMIT_NPROC (ulimit -u) or the pids.max of the container, or end other threads")
}

/// Makes a promise, and the value that settles it.
pub fn start(env: &Env) -> Result<(AsyncTask<'_>, Completer)> {
    let (deferred, promise) = env.create_deferred()?;
    let id = TASKS.insert(EnvData::of(env)?.id(), None);
    let complete = move |result| {
        let mut result = Some(result);
        TASKS.with(id, |entry| *entry = result.take());
        // Outside the lock: the drop of a cancelled task's memory calls the driver.
        drop(result);
        deferred.resolve(move |env| settle(&env, id));
    };
    Ok((AsyncTask { promise, task: id.get() as f64 }, Completer(Some(Box::new(complete)))))
}

/// Runs `work` on a thread of `threads`.
pub fn spawn<'env>(
    env: &'env Env,
    threads: &'static ThreadPool,
    work: impl FnOnce() -> TaskResult + Send + 'static,
) -> Result<AsyncTask<'env>> {
    let (task, completer) = start(env)?;
    let queued = threads.run(move || {
        completer.complete(catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_panic| {
            Err(Error::new(ErrorCode::DeviceIo, "the native part panicked: please report it"))
        }));
    });
    // Without a thread the completer was dropped, which rejects the promise.
    drop(queued);
    Ok(task)
}

/// Settles the promise of a task, on the JavaScript thread.
fn settle(env: &Env, id: Handle) -> Result<Settled> {
    match TASKS.remove(id).flatten() {
        Some(Ok(Outcome(Some(make)))) => make(env).map(Settled),
        Some(Err(error)) => Err(throw(env)(error)),
        // Done, or cancelled.
        Some(Ok(Outcome(None))) | None => undefined(env).map(Settled),
    }
}

fn undefined(env: &Env) -> Result<sys::napi_value> {
    let mut undefined = ptr::null_mut();
    // SAFETY: the runtime has called into `env`, and that call is still running.
    let status = unsafe { sys::napi_get_undefined(env.raw(), &mut undefined) };
    check(status, "napi_get_undefined")?;
    Ok(undefined)
}

/// Cancels a task: its promise resolves to nothing, and its result is dropped.
#[napi(catch_unwind)]
pub fn cancel_task(task: f64) {
    drop(TASKS.remove(handle(task)));
}
