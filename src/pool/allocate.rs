//! Requests for slices: from the chunks as they are, or after a pool ended waits or grew.

use std::sync::Arc;

use super::owners::Owner;
use super::slice::{freed, EventOwner, Slice, SliceRequest};
use super::slice_tags::TagId;
use super::state::{PoolState, ToClear};
use super::Pool;
use crate::accounting::{notify, Account, Scope, Warning};
use crate::device::memory::Source;
use crate::error::{Error, ErrorCode, Result};
use crate::handle::Handle;
use crate::sync::MutexGuard;
use crate::sys::page::page_size;
use crate::units::format_bytes;

/// The work that a new slice leaves for outside the lock. Mostly there is none.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// The bytes in use, for a warning that little of the maximum is left.
    near: Option<u64>,
    /// The bytes in use with a tag, and the tag's limit, for a warning.
    near_tag: Option<(TagId, (u64, u64))>,
    /// Whether JavaScript takes a sample.
    sampled: bool,
    /// Whether the pool grows ahead.
    ahead: bool,
    /// The previous owner's bytes.
    stale: Option<ToClear>,
}

impl Later {
    #[inline(always)]
    fn is_nothing(&self) -> bool {
        self.near.is_none() && self.near_tag.is_none() && !self.sampled && !self.ahead && self.stale.is_none()
    }
}

impl Pool {
    /// Allocates `size` bytes at a multiple of `alignment`. Bytes of owners with a tag are cleared; others are as their
    /// previous owner left them.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` beyond the pool's maximum, `ERR_POOL_EXHAUSTED`, `ERR_POOL_DESTROYED`, and those of
    /// [`Source::allocate`] if the pool has to grow.
    pub fn allocate(&self, size: u64, alignment: u64) -> Result<Slice> {
        self.request(SliceRequest::new(size, alignment))
    }

    /// Like [`allocate`](Self::allocate), with a tag or zeroed.
    ///
    /// Errors: those of [`allocate`](Self::allocate) and [`zero`](Self::zero); `ERR_MEMORY_LIMIT` beyond the tag's
    /// limit.
    #[inline]
    pub fn request(&self, request: SliceRequest) -> Result<Slice> {
        self.timed(|| self.place(&request)).map_err(|error| {
            let own = request.tag.and_then(|tag| self.state().tags.name(tag).cloned());
            self.refused(request.size, own.as_ref(), error)
        })
    }

    /// Like [`request`](Self::request), for a holder that records the slice's events itself. It counts a refusal
    /// ([`refused`](Self::refused)), of this call or of one of its own after it.
    ///
    /// Errors: those of [`request`](Self::request).
    pub fn request_held(&self, request: SliceRequest) -> Result<Slice> {
        let request = SliceRequest { events: EventOwner::Holder, ..request };
        self.timed(|| self.place(&request))
    }

    fn place(&self, request: &SliceRequest) -> Result<Slice> {
        let alignment = self.aligned(request.size, request.alignment)?;
        let mut later = Later::default();
        match self.take(request, alignment, None, false, &mut later)? {
            Some(slice) if later.is_nothing() => Ok(slice),
            Some(slice) => self.finish(slice, later),
            None => self.make_room(request, alignment),
        }
    }

    /// Counts that a request for `size` bytes was refused with `error`, unless the caller counts it. Returns the error.
    #[cold]
    pub fn refused(&self, size: u64, own: Option<&Arc<str>>, error: Error) -> Error {
        if !self.account.as_ref().is_some_and(|account| account.accounting.caller_counts(&error)) {
            self.count_refused(size, own);
        }
        // The driver's error may have a chunk's size.
        error.requested(size)
    }

    /// Counts and records a refused request for `size` bytes: for the pool, and for the tag of the request or else of
    /// the pool.
    pub fn count_refused(&self, size: u64, own: Option<&Arc<str>>) {
        self.state().record_refused(size, own);
        if let Some(account) = &self.account {
            let tag = own.or(account.tag.as_ref()).cloned();
            // The manager adds the pool's count to that of its kind of memory.
            Account { kind: None, tag, accounting: Arc::clone(&account.accounting) }.failed(size);
        }
    }

    /// Raises `alignment` to the pool's own. Refuses one beyond that of the chunks.
    pub(super) fn aligned(&self, size: u64, alignment: u64) -> Result<u64> {
        let coarsest = self.layout.alignment.max(page_size());
        if !alignment.is_power_of_two() {
            let message = format!("alignment is {alignment}; it must be a power of two");
            return Err(Error::new(ErrorCode::OutOfRange, message).requested(size));
        }
        if alignment <= coarsest {
            return Ok(alignment.max(self.layout.alignment));
        }
        let message = format!(
            "pool \"{}\" aligns to at most {}, not to {}",
            self.name(),
            format_bytes(coarsest),
            format_bytes(alignment)
        );
        Err(Error::new(ErrorCode::OutOfRange, message).requested(size).hint("give the pool that alignment"))
    }

    /// Takes a slice of the chunks, of `grown` first. `None` if none has room, or if `resident` and the slice might
    /// have to be cleared.
    ///
    /// The slice is written once, outside the lock's scope: a wide copy of fields that were just written makes the
    /// processor wait, a tenth of an allocation's time.
    #[inline(always)]
    pub(super) fn take(
        &self,
        request: &SliceRequest,
        alignment: u64,
        grown: Option<Handle>,
        resident: bool,
        later: &mut Later,
    ) -> Result<Option<Slice>> {
        let size = request.size;
        let mut state = self.state();
        state.alive(self.name())?;
        if state.waiting.is_due(&self.reuse) && self.layout.delay == 0 {
            state = self.end_due_waits(state)?;
        }
        if resident && state.may_clear(request) {
            return Ok(None);
        }
        let peak = state.chunks.peak_allocated;
        let slice = match grown.and_then(|chunk| state.take_from(chunk, size, alignment)) {
            None => state.take(size, alignment),
            slice => slice,
        };
        let Some(slice) = slice else { return Ok(None) };
        let mut owner = request.owner;
        if let Some(tag) = request.tag {
            let counted = state.count_tag(tag, &slice, peak)?;
            owner = counted.owner;
            later.near_tag = counted.near.map(|near| (tag, near));
        }
        later.sampled = state.record_slice(&slice, request);
        if state.must_clear(&slice, owner, request.clearing) {
            later.stale = self.stale(&slice).and_then(|bytes| state.begin_clearing(&slice, bytes));
        }
        let used = state.chunks.allocated;
        later.near = state.near.observe(used).then_some(used);
        later.ahead = self.ahead.is_due(&state, &self.layout);
        Ok(Some(slice))
    }

    /// Ends waits for a request of `size`; returns whether there were any. Slices whose wait is not over end it only
    /// where the pool would fail without them. A refused growth is not asked for again.
    fn end_waits_for(&self, size: u64, refused: bool) -> bool {
        if self.end_wait_when_full(size) {
            return true;
        }
        let is_bounded = || refused || self.cannot_grow(size) || self.has_waiting_enough();
        self.end_waits() || is_bounded() && self.end_oldest_wait()
    }

    /// Does what a new slice left for outside the lock.
    pub(super) fn finish(&self, slice: Slice, later: Later) -> Result<Slice> {
        later.near.into_iter().for_each(|used| self.warn(used));
        later.near_tag.into_iter().for_each(|(tag, (used, max))| self.warn_tag(tag, used, max));
        if later.sampled {
            notify();
        }
        if later.ahead {
            self.start_growth_ahead();
        }
        match later.stale {
            Some(stale) => self.clear(slice, stale),
            None => Ok(slice),
        }
    }

    /// Ends the waits that are over, before a request looks for room.
    #[cold]
    fn end_due_waits<'a>(&'a self, mut state: MutexGuard<'a, PoolState>) -> Result<MutexGuard<'a, PoolState>> {
        let empty = state.end_waits(&self.reuse, self.reuse.now(), &self.layout);
        if empty.is_empty() {
            return Ok(state);
        }
        drop(state);
        self.end(empty);
        let state = self.state();
        state.alive(self.name()).map(|()| state)
    }

    /// Allocates where no chunk has room: ends waits, takes waiting slices, or grows.
    #[cold]
    fn make_room(&self, request: &SliceRequest, alignment: u64) -> Result<Slice> {
        let SliceRequest { size, tag, .. } = *request;
        let mut refused = None;
        loop {
            self.check_tag(tag, size)?;
            let mut grown = None;
            if !self.end_waits_for(size, refused.is_some()) {
                if let Some(refused) = refused {
                    return Err(refused);
                }
                // The loop repeats if other threads use up the new chunk first; the pool's maximum ends it.
                match self.grow_for(size) {
                    Ok(chunk) => grown = Some(chunk),
                    Err(error) if error.code().is_exhaustion() => refused = Some(error),
                    Err(error) => return Err(error),
                }
            }
            let mut later = Later::default();
            if let Some(slice) = self.take(request, alignment, grown, false, &mut later)? {
                return self.finish(slice, later);
            }
        }
    }

    /// Writes zeros where a slice may hold a previous owner's bytes.
    ///
    /// Errors: `ERR_BUFFER_FREED`, and those of [`Memory::zero`](crate::device::memory::Memory::zero).
    pub fn zero(&self, slice: &Slice) -> Result<()> {
        let Some(stale) = self.stale(slice) else { return Ok(()) };
        let memory = self.chunk_memory(slice.chunk)?.memory().ok_or_else(freed)?;
        memory.zero(slice.offset..slice.offset + stale)
    }

    /// Clears a new slice. A reset meanwhile ends the chunk, so that the slice gets no other owner.
    fn clear(&self, slice: Slice, stale: ToClear) -> Result<Slice> {
        let cleared = stale.memory.memory.zero(slice.offset..slice.offset + stale.bytes);
        drop(stale);
        match cleared {
            Ok(()) => Ok(slice),
            Err(error) => {
                self.free(slice.chunk, slice.region)?;
                Err(error)
            }
        }
    }

    /// The owner of slices with that tag, for [`SliceRequest::owner`].
    pub fn owner(&self, tag: Option<&Arc<str>>) -> Owner {
        tag.map_or(Owner::UNTAGGED, |tag| self.state().owners.of(tag))
    }

    /// The bytes at the start of a slice that may hold a previous owner's bytes; `None` if there are none.
    #[inline]
    fn stale(&self, slice: &Slice) -> Option<u64> {
        // A source that keeps the driver's bytes leaves stale ones in the whole slice.
        let stale = match self.source {
            Source::Npu { dirty: true, .. } => slice.padded,
            _ => slice.used_before,
        };
        (stale > 0).then_some(stale)
    }

    /// Warns that `used` bytes, nearly the whole maximum, are allocated.
    #[cold]
    fn warn(&self, used: u64) {
        if let (Some(account), Some(name)) = (&self.account, &self.name) {
            let scope = Scope::Pool(Arc::clone(name));
            account.accounting.warn(Warning { scope, used, max: self.layout.max });
        }
    }
}
