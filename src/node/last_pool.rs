//! The pool of an environment's last fast call.
//!
//! Each count of references takes 5 ns, and a pair of calls would take four. So the environment keeps one reference to
//! its last pool, and drops it when a pool or a manager ends ([`forget`]). The thread's end drops it at the latest.

use std::cell::RefCell;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::rc::Rc;
use std::sync::Arc;

use crate::error::Result;
use crate::pool::Pool;

/// The last pool and its handle.
#[derive(Default)]
pub struct LastPool(RefCell<Option<(f64, Arc<Pool>)>>);

/// The last pools of a thread's environments.
struct OfThread(RefCell<Vec<Rc<LastPool>>>);

thread_local! {
    static OF_THREAD: OfThread = const { OfThread(RefCell::new(Vec::new())) };
}

impl LastPool {
    /// Makes the one of an environment, on the environment's thread.
    pub fn of_environment() -> Rc<Self> {
        let made = Rc::default();
        // A thread that is ending forgets by itself.
        let _ = OF_THREAD.try_with(|all| all.0.borrow_mut().push(Rc::clone(&made)));
        made
    }

    /// Calls `body` with the pool of `handle`, which `find` finds unless it was the last one.
    ///
    /// Errors: those of `find` and of `body`.
    #[inline(always)]
    pub fn with<T>(
        &self,
        handle: f64,
        find: impl FnOnce(f64) -> Result<Arc<Pool>>,
        body: impl FnOnce(&Pool) -> Result<T>,
    ) -> Result<T> {
        let last = self.0.borrow();
        match &*last {
            Some((of, pool)) if *of == handle => return body(pool),
            _ => drop(last),
        }
        self.with_other(handle, find(handle)?, body)
    }

    #[cold]
    fn with_other<T>(&self, handle: f64, pool: Arc<Pool>, body: impl FnOnce(&Pool) -> Result<T>) -> Result<T> {
        let result = body(&pool);
        let before = self.0.replace(Some((handle, pool)));
        // Outside the borrow, as in `forget`.
        drop(before);
        result
    }

    fn forget(&self) {
        let last = self.0.try_borrow_mut().ok().and_then(|mut last| last.take());
        // Outside the borrow: the last reference ends the pool's memory.
        drop(last);
    }
}

/// Drops the last pools of this thread's environments, so that a pool that was closed ends.
pub fn forget() {
    // A thread that is ending forgets by itself.
    let _ = OF_THREAD.try_with(OfThread::forget);
}

impl OfThread {
    fn forget(&self) {
        // A copy: no borrow is held while a pool ends.
        let all = self.0.borrow().clone();
        all.iter().for_each(|last| last.forget());
    }
}

impl Drop for OfThread {
    fn drop(&mut self) {
        // A panic must not leave a thread's end.
        let _ = catch_unwind(AssertUnwindSafe(|| self.forget()));
    }
}
