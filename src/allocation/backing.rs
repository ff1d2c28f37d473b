//! What an allocation is over: memory of its own, a slice of a pool's, or either of them together with others.
//!
//! # Sharing
//!
//! Each holder has an ArrayBuffer of its own over the same addresses, perhaps in another thread, and an
//! [`Allocation`](crate::allocation::Allocation) of its own with its manager's accounting. Two things are counted:
//!
//! - *Holders* have not let go yet. When the last one does, the memory goes back and its addresses hold zeros.
//! - *Viewers* are allocations whose finalizer has not run. When the last one is gone, so is the [`Share`], and the
//!   addresses may be used again.
//!
//! A slice's place is used again without zeros in between. Which of several ArrayBuffers over one address a caller holds
//! cannot always be told, so for a slice that was adopted only finalizers prove that nobody reaches it: its place waits
//! for the last of them.
#![forbid(unsafe_code)]

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use once_cell::sync::Lazy;

use crate::device::memory::Memory;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::{Handle, Table};
use crate::pool::{Extent, Pool, Slice};
use crate::sys::mapping::Retired;

/// See the module's header.
#[derive(Clone, Debug)]
pub enum Body {
    /// Memory of its own.
    Whole(Arc<Memory>),
    /// A part of a pool's.
    Slice {
        /// The pool it goes back to.
        pool: Arc<Pool>,
        /// Its place there.
        slice: Slice,
        /// The chunk's memory and addresses.
        extent: Arc<Extent>,
    },
    /// Either, held by others as well.
    Shared(Arc<Share>),
}

/// The facts of a body that never change.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Bytes it really takes.
    pub reserved: u64,
    /// The pool it is a slice of. The manager's own slabs are nameless.
    pub pool: Option<Arc<str>>,
    /// It is all of its memory.
    pub dedicated: bool,
}

impl Body {
    /// The memory and where in it this starts; `None` when it was given back, or the pool took it away (a reset, a destroy).
    pub fn memory(&self) -> Option<(Arc<Memory>, u64)> {
        match self {
            Body::Whole(memory) => Some((Arc::clone(memory), 0)),
            Body::Slice { slice, extent, .. } => extent.memory().map(|memory| (memory, slice.offset)),
            Body::Shared(share) => share.state().body.as_ref().and_then(Body::memory),
        }
    }

    /// See [`Facts`].
    pub fn facts(&self) -> Facts {
        match self {
            Body::Whole(memory) => Facts { reserved: memory.reserved(), pool: None, dedicated: true },
            Body::Slice { pool, slice, .. } => {
                Facts { reserved: slice.padded, pool: pool.public_name().cloned(), dedicated: false }
            }
            Body::Shared(share) => share.facts.clone(),
        }
    }

    /// Its pool and its place there, and the chunk it is in.
    pub fn place(&self) -> Option<(Arc<Pool>, Slice, Arc<Extent>)> {
        match self {
            Body::Whole(_) => None,
            Body::Slice { pool, slice, extent } => Some((Arc::clone(pool), *slice, Arc::clone(extent))),
            Body::Shared(share) => share.state().body.as_ref().and_then(Body::place),
        }
    }

    /// The same for several holders, of whom the caller is the first.
    ///
    /// Errors: `ERR_UNSUPPORTED` for a slice that compaction may move.
    pub fn share(&self, size: u64, tag: Option<Arc<str>>) -> Result<Arc<Share>> {
        match self {
            Body::Shared(share) => return Ok(Arc::clone(share)),
            Body::Slice { pool, slice, .. } if pool.is_movable(slice) => {
                let message = "a movable block cannot be shared: compaction gives it other addresses";
                return Err(Error::new(ErrorCode::Unsupported, message).hint("allocate it without `movable`"));
            }
            _ => {}
        }
        // Its name first: it is to know it.
        let id = shares().insert(Weak::new());
        let state = State { body: Some(self.clone()), holders: 1, adopted: false, retired: None };
        let share = Arc::new(Share {
            id,
            size,
            tag,
            facts: self.facts(),
            reachable: AtomicBool::new(false),
            state: Mutex::new(state),
        });
        if let Some(place) = shares().get_mut(id) {
            *place = Arc::downgrade(&share);
        }
        Ok(share)
    }
}

/// Memory with several holders. See the module's header.
#[derive(Debug)]
pub struct Share {
    id: Handle,
    /// Bytes that were asked for.
    pub size: u64,
    /// Free text for accounting, as the first holder gave it.
    pub tag: Option<Arc<str>>,
    facts: Facts,
    /// A finalizer could not say whether somebody still reaches it.
    reachable: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// `None` once the last holder has let go.
    body: Option<Body>,
    holders: usize,
    /// There was more than one holder.
    adopted: bool,
    /// The addresses, between the last holder and the last viewer.
    retired: Option<Retired>,
}

/// Every share of this process that has a viewer.
static SHARES: Lazy<Mutex<Table<Weak<Share>>>> = Lazy::new(Mutex::default);

fn shares() -> MutexGuard<'static, Table<Weak<Share>>> {
    SHARES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Share {
    /// Names it within this process, for [`find`](Self::find).
    pub fn token(&self) -> String {
        format!("{}:{:x}", process(), self.id.get())
    }

    /// The share that `token` names.
    ///
    /// Errors: `ERR_BUFFER_FREED` when its last holder has let go, `ERR_UNKNOWN_BUFFER` for what is no token of this process.
    pub fn find(token: &str) -> Result<Arc<Self>> {
        let id = token.split_once(':').filter(|(of, _)| *of == process());
        let id = id.and_then(|(_, id)| u64::from_str_radix(id, 16).ok()).ok_or_else(|| {
            Error::new(ErrorCode::UnknownBuffer, "this is no token of a buffer that this process shares")
                .hint("share() and adopt() are for threads of one process; others take a dma-buf: exportDmaBuf")
        })?;
        // Not within the look-up: where this is the last to hold it, its end takes the same lock.
        let found = shares().get(Handle::from_raw(id)).and_then(Weak::upgrade);
        found.ok_or_else(freed)
    }

    /// One holder more, who lets go with [`let_go`](Self::let_go).
    ///
    /// Errors: `ERR_BUFFER_FREED` when the last holder has let go, or the pool took the memory away.
    pub fn join(&self) -> Result<()> {
        let mut state = self.state();
        let Some(body) = state.body.as_ref().filter(|_| state.holders > 0) else { return Err(freed()) };
        if let (Body::Slice { pool, slice, extent }, false) = (body, state.adopted) {
            // In this order: a reset that comes in between has seen the hold, or is seen here.
            if !extent.hold() {
                return Err(freed());
            }
            if let Err(error) = pool.slice(slice.chunk, slice.region) {
                extent.unhold();
                return Err(error);
            }
        }
        state.holders += 1;
        state.adopted = true;
        Ok(())
    }

    /// One holder less. The last one gives the memory back.
    ///
    /// Errors: those of [`Mapping::retire`](crate::sys::mapping::Mapping::retire); the caller still holds it then.
    pub fn let_go(&self) -> io::Result<()> {
        let body = {
            let mut state = self.state();
            state.holders = state.holders.saturating_sub(1);
            match (state.holders, &state.body) {
                (0, Some(Body::Slice { .. })) if state.adopted => None,
                (0, _) => state.body.take(),
                _ => None,
            }
        };
        let Some(Body::Whole(memory)) = body else {
            // A slice that nobody adopted: the only ArrayBuffer there was is gone.
            body.into_iter().for_each(|body| self.vacate(body));
            return Ok(());
        };
        match memory.mapping().retire() {
            Ok(retired) => {
                self.state().retired = retired;
                Ok(())
            }
            Err(error) => {
                let mut state = self.state();
                (state.holders, state.body) = (1, Some(Body::Whole(memory)));
                Err(error)
            }
        }
    }

    /// Whether there ever was a second holder.
    pub fn is_adopted(&self) -> bool {
        self.state().adopted
    }

    /// Somebody may reach it for as long as the process lives.
    pub fn keep_addresses(&self) {
        self.reachable.store(true, Ordering::Relaxed);
    }

    /// Gives a slice's place back, or leaves it out of use for good.
    fn vacate(&self, body: Body) {
        let Body::Slice { pool, slice, extent } = body else { return };
        match self.reachable.load(Ordering::Relaxed) {
            true => extent.keep_addresses(),
            // A pool that was reset or destroyed has taken it back already.
            false => drop(pool.free(slice.chunk, slice.region)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        shares().remove(self.id);
        let (body, retired, adopted) = {
            let mut state = self.state();
            (state.body.take(), state.retired.take(), state.adopted)
        };
        if let Some(body) = body {
            let extent = body.place().map(|(_, _, extent)| extent);
            self.vacate(body);
            extent.filter(|_| adopted).into_iter().for_each(|extent| extent.unhold());
        }
        // A range that somebody may still reach is dropped, which keeps it out of use for ever.
        if let (Some(range), false) = (retired, self.reachable.load(Ordering::Relaxed)) {
            range.give_back();
        }
    }
}

fn freed() -> Error {
    Error::new(ErrorCode::BufferFreed, "the last holder of this buffer has let go of it")
        .hint("keep the buffer until the other thread has adopted it")
}

/// What tells tokens of this process from those of others.
fn process() -> &'static str {
    static NAME: Lazy<String> = Lazy::new(|| {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        format!("rkllm-{}-{:x}", std::process::id(), since.as_nanos())
    });
    &NAME
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::backend::simulated::{Options, Simulated};
    use crate::device::memory::{PageOptions, Source};
    use crate::device::Device;
    use crate::pool::Layout;
    use crate::sys::page::page_size;

    fn pool() -> Arc<Pool> {
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        let layout = Layout { initial: 1 << 16, max: 1 << 20, chunk: 1 << 16, block: None, alignment: 64, delay: 0 };
        Arc::new(Pool::new(Some("p".into()), source, layout, None).unwrap())
    }

    fn slice(pool: &Arc<Pool>) -> Body {
        let slice = pool.allocate(4096, 64).unwrap();
        Body::Slice { pool: Arc::clone(pool), slice, extent: pool.extent(slice.chunk).unwrap() }
    }

    fn whole() -> Body {
        let device = Device::new(Arc::new(Simulated::new(Options::default()).unwrap()));
        let request = crate::backend::Request::plain(1 << 16);
        let source = Source::Npu { device, request, dirty: false };
        Body::Whole(Arc::new(source.allocate(1 << 16).unwrap()))
    }

    fn first_byte(body: &Body) -> Option<u8> {
        let (memory, start) = body.memory()?;
        let mut byte = [0];
        memory.mapping().read(start, &mut byte);
        Some(byte[0])
    }

    #[test]
    fn the_last_holder_gives_the_memory_back_and_nobody_joins_after() {
        let pool = pool();
        for body in [whole(), slice(&pool)] {
            let share = body.share(4096, None).unwrap();
            drop(body);
            let token = share.token();
            share.join().unwrap();
            share.let_go().unwrap();
            assert!(Share::find(&token).is_ok());
            assert_eq!(first_byte(&Body::Shared(Arc::clone(&share))), Some(0));
            share.let_go().unwrap();
            assert_eq!(share.join().unwrap_err().code(), ErrorCode::BufferFreed);
            drop(share);
            assert_eq!(Share::find(&token).unwrap_err().code(), ErrorCode::BufferFreed);
        }
        assert_eq!(pool.stats().live, 0);
        assert_eq!(Share::find("rkllm-1-1:1").unwrap_err().code(), ErrorCode::UnknownBuffer);
    }

    #[test]
    fn an_adopted_place_waits_for_the_last_viewer_and_another_does_not() {
        let pool = pool();
        let alone = slice(&pool).share(4096, None).unwrap();
        alone.let_go().unwrap();
        assert_eq!(pool.stats().live, 0);
        let adopted = slice(&pool).share(4096, None).unwrap();
        adopted.join().unwrap();
        adopted.let_go().unwrap();
        adopted.let_go().unwrap();
        assert_eq!(pool.stats().live, 1);
        drop(adopted);
        assert_eq!(pool.stats().live, 0);
        pool.validate().unwrap();
    }

    #[test]
    fn a_place_that_somebody_may_still_reach_is_never_used_again() {
        let pool = pool();
        let share = slice(&pool).share(4096, None).unwrap();
        share.join().unwrap();
        share.keep_addresses();
        drop(share);
        assert_eq!(pool.stats().live, 1);
    }

    #[test]
    fn adopted_slices_outlive_their_pool_and_others_do_not() {
        for end in [|pool: &Pool| pool.destroy(true).unwrap(), |pool: &Pool| pool.reset(|_| true).unwrap()] {
            let pool = pool();
            let (adopted, alone) = (slice(&pool).share(4096, None).unwrap(), slice(&pool).share(4096, None).unwrap());
            adopted.join().unwrap();
            end(&pool);
            assert_eq!(alone.join().unwrap_err().code(), ErrorCode::BufferFreed);
            assert_eq!(first_byte(&Body::Shared(Arc::clone(&adopted))), Some(0));
            let extent = Arc::downgrade(&Body::Shared(Arc::clone(&adopted)).place().unwrap().2);
            adopted.let_go().unwrap();
            adopted.let_go().unwrap();
            drop(adopted);
            drop(alone);
            assert!(extent.upgrade().is_none());
        }
    }

    /// Threads join and let go while others end the pool: memory that somebody holds has its bytes.
    #[test]
    fn whoever_joins_in_time_has_the_bytes() {
        for round in 0..200 {
            let pool = pool();
            let body = if round % 2 == 0 { slice(&pool) } else { whole() };
            let share = body.share(4096, None).unwrap();
            drop(body);
            let token = share.token();
            let hold = |share: Arc<Share>| {
                if share.join().is_ok() {
                    assert_eq!(first_byte(&Body::Shared(Arc::clone(&share))), Some(0));
                    share.let_go().unwrap();
                }
            };
            std::thread::scope(|scope| {
                for _ in 0..3 {
                    scope.spawn(|| (0..20).for_each(|_| Share::find(&token).map_or((), hold)));
                }
                scope.spawn(|| match round % 3 {
                    0 => drop(pool.destroy(true)),
                    1 => drop(pool.reset(|_| true)),
                    _ => {}
                });
                scope.spawn(move || share.let_go().unwrap());
            });
            assert_eq!(Share::find(&token).unwrap_err().code(), ErrorCode::BufferFreed);
            pool.validate().unwrap();
            assert_eq!(pool.stats().live, 0);
        }
    }
}
