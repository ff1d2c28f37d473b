//! Registries: native objects that JavaScript refers to by a number.
//!
//! An entry has an owner: an environment or a manager. When the owner ends, its entries are removed. A worker that is
//! terminated disposes of nothing by itself, so a registry of environments registers an exit hook.
//!
//! No lock is held while a removed value is dropped: its drop may wait for a driver.

use std::hash::Hash;
use std::sync::Arc;

use once_cell::sync::Lazy;

use super::env::{at_exit, EnvId};
use super::last_pool;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::manager::Manager;
use crate::owned_table::OwnedTable;
use crate::pool::{Compactor, Pool};
use crate::sync::{Mutex, MutexGuard};
use crate::sys::pressure::Subscription;

/// Values by generation-checked handle, each with its owner.
pub struct Registry<O, T> {
    entries: Mutex<OwnedTable<O, T>>,
}

impl<T> Registry<EnvId, T> {
    /// Makes a registry of values that belong to environments. `on_exit` runs at the end of each environment.
    pub fn with_exit_hook(on_exit: fn(EnvId)) -> Self {
        at_exit(on_exit);
        Self::new()
    }
}

impl<O: Copy + Eq + Hash, T> Registry<O, T> {
    fn new() -> Self {
        Self { entries: Mutex::default() }
    }

    fn entries(&self) -> MutexGuard<'_, OwnedTable<O, T>> {
        self.entries.lock()
    }

    /// Adds `value` and returns its handle.
    pub fn insert(&self, owner: O, value: T) -> Handle {
        self.entries().insert(owner, value)
    }

    /// Calls `use_value` with the value of `handle`, under the lock; `None` when it was removed.
    pub fn with<R>(&self, handle: Handle, use_value: impl FnOnce(&mut T) -> R) -> Option<R> {
        self.entries().get_mut(handle).map(use_value)
    }

    /// Removes and returns the value of `handle`.
    pub fn remove(&self, handle: Handle) -> Option<T> {
        self.entries().remove(handle)
    }

    /// Maps all values, under the lock.
    fn map<R>(&self, of: impl Fn(&T) -> R) -> Vec<R> {
        self.entries().values().map(of).collect()
    }

    /// Removes and returns every value of `owner`, with its handle. Visits those alone.
    pub fn remove_of(&self, owner: O) -> Vec<(Handle, T)> {
        self.entries().remove_of(owner)
    }
}

/// A manager that JavaScript has opened.
struct OpenManager {
    manager: Arc<Manager>,
    /// Notifies JavaScript of memory pressure until the manager is closed.
    pressure: Option<Subscription>,
}

/// A pool that JavaScript has created.
#[derive(Clone)]
pub struct OpenPool {
    manager: Handle,
    pub pool: Arc<Pool>,
    pub compactor: Arc<Compactor>,
}

impl OpenPool {
    /// Returns the manager that the pool belongs to.
    ///
    /// Errors: `ERR_MANAGER_DISPOSED`.
    pub fn manager(&self) -> Result<Arc<Manager>> {
        find_manager(self.manager)
    }
}

static MANAGERS: Lazy<Registry<EnvId, OpenManager>> = Lazy::new(|| Registry::with_exit_hook(dispose_managers_of));
/// Pools by the manager that owns them.
static POOLS: Lazy<Registry<Handle, OpenPool>> = Lazy::new(Registry::new);

/// Converts a number from JavaScript into a handle. Any number is safe: one that names nothing finds nothing.
pub fn handle(number: f64) -> Handle {
    Handle::from_raw(number as u64)
}

/// Keeps `manager` until it is closed or the environment ends.
pub fn open_manager(env: EnvId, manager: Manager) -> f64 {
    MANAGERS.insert(env, OpenManager { manager: Arc::new(manager), pressure: None }).get() as f64
}

/// Returns an open manager.
///
/// Errors: `ERR_MANAGER_DISPOSED`.
pub fn manager(number: f64) -> Result<Arc<Manager>> {
    find_manager(handle(number))
}

/// Returns all open managers of the process.
pub fn managers() -> Vec<Arc<Manager>> {
    MANAGERS.map(|open| Arc::clone(&open.manager))
}

fn find_manager(handle: Handle) -> Result<Arc<Manager>> {
    MANAGERS
        .with(handle, |open| Arc::clone(&open.manager))
        .ok_or_else(|| Error::new(ErrorCode::ManagerDisposed, "this MemoryManager was disposed"))
}

/// Keeps `subscription` until the manager is closed. A manager that was closed drops it at once.
pub fn set_pressure_subscription(number: f64, subscription: Subscription) {
    let mut subscription = Some(subscription);
    MANAGERS.with(handle(number), |open| std::mem::swap(&mut open.pressure, &mut subscription));
    // Outside the lock: dropping the last subscription waits for its thread.
    drop(subscription);
}

/// Closes a manager and its pools, and returns it if it was open.
pub fn close_manager(number: f64) -> Option<Arc<Manager>> {
    let handle = handle(number);
    MANAGERS.remove(handle).map(|open| end_manager(handle, open))
}

fn end_manager(handle: Handle, open: OpenManager) -> Arc<Manager> {
    drop(open.pressure);
    drop(POOLS.remove_of(handle));
    last_pool::forget();
    open.manager
}

/// Removes the pools of a manager.
pub fn close_pools_of(manager: f64) {
    drop(POOLS.remove_of(handle(manager)));
    last_pool::forget();
}

fn dispose_managers_of(env: EnvId) {
    for (handle, open) in MANAGERS.remove_of(env) {
        end_manager(handle, open).leave();
    }
}

/// Keeps `pool` until it or its manager is closed.
pub fn open_pool(manager: f64, pool: Arc<Pool>) -> f64 {
    let manager = handle(manager);
    let compactor = Arc::new(Compactor::new(Arc::clone(&pool)));
    POOLS.insert(manager, OpenPool { manager, pool, compactor }).get() as f64
}

/// Returns an open pool.
///
/// Errors: `ERR_POOL_DESTROYED`.
pub fn pool(number: f64) -> Result<OpenPool> {
    POOLS
        .with(handle(number), |open| open.clone())
        .ok_or_else(|| Error::new(ErrorCode::PoolDestroyed, "this pool was destroyed"))
}

/// Returns the pool of a block.
///
/// Errors: `ERR_BUFFER_FREED`: a block is freed with its pool.
pub fn pool_of_block(number: f64) -> Result<OpenPool> {
    pool(number).map_err(|_| Error::new(ErrorCode::BufferFreed, "this block was freed with its pool"))
}

/// Removes a pool.
pub fn close_pool(number: f64) {
    drop(POOLS.remove(handle(number)));
    last_pool::forget();
}
