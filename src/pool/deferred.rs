//! The requests of asynchronous allocations.
//!
//! The caller's thread serves a request if no driver has to: from the chunks that the pool has, without a clear. It
//! leaves others to another thread, as a [`DeferredRequest`]. Its result is unclaimed until the caller's thread takes
//! it; dropped before, it is freed.

use std::sync::Arc;

use super::slice::{EventOwner, Slice, SliceRequest};
use super::Pool;
use crate::accounting::Account;
use crate::error::Result;
use crate::handle::Handle;

impl Pool {
    /// Like [`request`](Self::request), from the chunks that the pool has. Returns `None` if the request may have to
    /// wait for a driver.
    ///
    /// Errors: those of [`request`](Self::request), but for those of a growth.
    pub fn request_resident(&self, request: SliceRequest) -> Result<Option<Slice>> {
        self.timed(|| self.place_resident(request)).map_err(|error| self.request_refused(&request, error))
    }

    /// Like [`request_resident`](Self::request_resident), for a holder that records the slice's events, and its
    /// refusal, itself.
    ///
    /// Errors: those of [`request_resident`](Self::request_resident).
    pub fn request_resident_held(&self, request: SliceRequest) -> Result<Option<Slice>> {
        let request = SliceRequest { events: EventOwner::Holder, ..request };
        self.timed(|| self.place_resident(request))
    }

    /// Frees a slice that its caller no longer takes, and empty chunks: the pool may have grown for the slice.
    pub fn free_unclaimed(&self, slice: &Slice) {
        // Fails if the pool's end or a reset has freed the slice.
        if self.free(slice.chunk, slice.region).is_ok() {
            self.free_idle_chunks();
        }
    }

    fn place_resident(&self, request: SliceRequest) -> Result<Option<Slice>> {
        let alignment = self.aligned(request.size, request.alignment)?;
        match self.take(&request, alignment, true)? {
            Some((slice, Some(later))) => self.finish(slice, later).map(Some),
            taken => Ok(taken.map(|(slice, _)| slice)),
        }
    }
}

/// A request that another thread will make. Its tag keeps its number until then.
#[derive(Debug)]
pub struct DeferredRequest {
    pool: Arc<Pool>,
    request: SliceRequest,
}

impl DeferredRequest {
    /// Prepares a request for another thread.
    pub fn new(pool: Arc<Pool>, request: SliceRequest) -> Self {
        if let Some(tag) = request.tag {
            pool.state().tags.begin_request(tag);
        }
        Self { pool, request }
    }

    /// Makes the request; waits for the driver if the pool has to grow.
    ///
    /// Errors: those of [`Pool::request`].
    pub fn run(self) -> Result<UnclaimedSlice> {
        let slice = self.pool.request(self.request)?;
        Ok(UnclaimedSlice { pool: Arc::clone(&self.pool), slice: Some(slice) })
    }
}

impl Drop for DeferredRequest {
    fn drop(&mut self) {
        if let Some(tag) = self.request.tag {
            self.pool.state().tags.end_request(tag);
        }
    }
}

/// A slice that no caller has yet. Dropping it frees the slice.
#[derive(Debug)]
pub struct UnclaimedSlice {
    pool: Arc<Pool>,
    /// `None` once claimed.
    slice: Option<Slice>,
}

impl UnclaimedSlice {
    /// Hands the slice out. Returns `None` if a reset of the pool, or its end, has freed it meanwhile.
    pub fn claim(mut self) -> Option<Slice> {
        let slice = self.slice.take()?;
        self.pool.slice(slice.chunk, slice.region).is_ok().then_some(slice)
    }
}

impl Drop for UnclaimedSlice {
    fn drop(&mut self) {
        if let Some(slice) = self.slice.take() {
            self.pool.free_unclaimed(&slice);
        }
    }
}

/// A movable slice that no caller has yet. Dropping it frees the slice.
#[derive(Debug)]
pub struct UnclaimedMovable {
    pool: Arc<Pool>,
    /// The handle and the id; `None` once claimed.
    made: Option<(Handle, u64)>,
}

impl UnclaimedMovable {
    /// Allocates a movable slice; waits for the driver if the pool has to grow.
    ///
    /// Errors: those of [`Pool::request_movable`]; `ERR_BUFFER_FREED` if a reset came in between.
    pub fn allocate(pool: &Arc<Pool>, request: SliceRequest, account: Option<&Account>) -> Result<Self> {
        let (handle, slice) = pool.request_movable(request, account)?;
        Ok(Self { pool: Arc::clone(pool), made: Some((handle, slice.id.get())) })
    }

    /// Hands the slice out: its handle and its id. Returns `None` if a reset of the pool, or its end, has freed it
    /// meanwhile.
    pub fn claim(mut self) -> Option<(Handle, u64)> {
        let (handle, id) = self.made.take()?;
        self.pool.movable(handle).is_ok().then_some((handle, id))
    }
}

impl Drop for UnclaimedMovable {
    fn drop(&mut self) {
        if let Some((handle, _)) = self.made.take() {
            if self.pool.free_movable(handle).is_ok() {
                self.pool.free_idle_chunks();
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::error::ErrorCode;
    use crate::pool::testing::{pool_of, ONE_MIB};
    use crate::pool::{Clearing, Layout};
    use crate::units::MIB;

    /// An empty pool that grows by chunks of 1 MiB.
    fn pool() -> Arc<Pool> {
        Arc::new(pool_of(Layout { initial: 0, max: 8 * MIB, ..ONE_MIB }))
    }

    fn tagged(pool: &Pool, tag: &str) -> SliceRequest {
        let mut request = SliceRequest::new(100, 64);
        request.tag = Some(pool.tag_id(&tag.into()).unwrap());
        request
    }

    #[test]
    fn a_request_that_needs_no_driver_is_served_at_once_and_no_other() {
        let pool = pool();
        let request = SliceRequest::new(100, 64);
        assert!(pool.request_resident(request).unwrap().is_none(), "the pool would grow");
        assert_eq!((pool.stats().failures, pool.stats().allocations), (0, 0), "that is no refusal");
        let first = DeferredRequest::new(Arc::clone(&pool), request).run().unwrap().claim().unwrap();
        let second = pool.request_resident(request).unwrap().unwrap();
        assert_eq!(second.chunk, first.chunk);
        assert!(pool.request_movable_resident(request, None).unwrap().is_some());
        let zeroed = SliceRequest { clearing: Clearing::All, ..request };
        let other = tagged(&pool, "other");
        for may_clear in [zeroed, other] {
            assert!(pool.request_resident(may_clear).unwrap().is_none());
        }
        assert!(pool.request_resident(SliceRequest { clearing: Clearing::None, ..other }).unwrap().is_some());
        assert_eq!(pool.request_resident(SliceRequest::new(100, 3)).unwrap_err().code(), ErrorCode::OutOfRange);
        assert_eq!((pool.validate(), pool.stats().failures), (Ok(()), 1));
    }

    #[test]
    fn a_result_without_a_taker_is_freed_with_the_chunk_that_it_needed() {
        let pool = pool();
        let request = SliceRequest::new(100, 64);
        drop(DeferredRequest::new(Arc::clone(&pool), request).run().unwrap());
        drop(UnclaimedMovable::allocate(&pool, request, None).unwrap());
        assert_eq!((pool.stats().live, pool.stats().reserved), (0, 0));
        let kept = DeferredRequest::new(Arc::clone(&pool), request).run().unwrap().claim().unwrap();
        drop(DeferredRequest::new(Arc::clone(&pool), request).run().unwrap());
        assert_eq!((pool.stats().live, pool.stats().reserved), (1, MIB));
        pool.free(kept.chunk, kept.region).unwrap();
        assert_eq!(pool.validate(), Ok(()));
    }

    #[test]
    fn a_result_that_a_reset_has_freed_is_not_handed_out() {
        let pool = pool();
        let request = SliceRequest::new(100, 64);
        let slice = DeferredRequest::new(Arc::clone(&pool), request).run().unwrap();
        let movable = UnclaimedMovable::allocate(&pool, request, None).unwrap();
        pool.reset(|_| true).unwrap();
        let next = pool.allocate(100, 64).unwrap();
        assert_eq!((slice.claim(), movable.claim()), (None, None));
        assert!(pool.slice(next.chunk, next.region).is_ok(), "the place has another owner");
        assert_eq!(pool.validate(), Ok(()));
    }

    #[test]
    fn a_tag_keeps_its_number_until_the_request_was_made() {
        let pool = pool();
        let deferred = DeferredRequest::new(Arc::clone(&pool), tagged(&pool, "mine"));
        pool.forget_tags();
        let other = pool.tag_id(&"other".into()).unwrap();
        assert_ne!(Some(other), deferred.request.tag);
        let slice = deferred.run().unwrap().claim().unwrap();
        assert_eq!(pool.tag_of(slice.chunk, slice.region).unwrap().as_deref(), Some("mine"));
        pool.free(slice.chunk, slice.region).unwrap();
        // A request that no thread took gives the number back.
        let number = pool.tag_id(&"unused".into()).unwrap();
        let unused = DeferredRequest::new(Arc::clone(&pool), tagged(&pool, "unused"));
        pool.forget_tags();
        drop(unused);
        assert_eq!(pool.tag_id(&"next".into()).unwrap(), number);
    }
}
