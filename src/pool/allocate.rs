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

/// The work that a new slice leaves for outside the lock.
#[derive(Debug)]
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

impl Pool {
    /// Allocates `size` bytes at a multiple of `alignment`. Bytes of owners with a tag are cleared; others are as their
    /// previous owner left them.
    ///
    /// Errors: `ERR_OUT_OF_RANGE` beyond the pool's maximum, `ERR_POOL_EXHAUSTED`, `ERR_POOL_DESTROYED`, and those of
    /// [`Source::allocate`] if the pool has to grow.
    #[inline]
    pub fn allocate(&self, size: u64, alignment: u64) -> Result<Slice> {
        self.request(SliceRequest::new(size, alignment))
    }

    /// Like [`allocate`](Self::allocate), with a tag or zeroed.
    ///
    /// Errors: those of [`allocate`](Self::allocate) and [`zero`](Self::zero); `ERR_MEMORY_LIMIT` beyond the tag's
    /// limit.
    #[inline(always)]
    pub fn request(&self, request: SliceRequest) -> Result<Slice> {
        let began = self.start_timing();
        match self.place(&request) {
            Ok(slice) => {
                self.end_timing(began, true);
                Ok(slice)
            }
            Err(error) => {
                self.end_timing(began, false);
                Err(self.request_refused(&request, error))
            }
        }
    }

    /// Like [`request`](Self::request), for a holder that records the slice's events itself. It counts a refusal
    /// ([`refused`](Self::refused)), of this call or of one of its own after it.
    ///
    /// Errors: those of [`request`](Self::request).
    pub fn request_held(&self, request: SliceRequest) -> Result<Slice> {
        let request = SliceRequest { events: EventOwner::Holder, ..request };
        self.timed(|| self.place(&request))
    }

    /// Allocates from the chunk of the last allocation, where nearly all requests end, unless runs are kept. Inlined
    /// with its parts, so that the slice is never passed through memory: a wide copy of fields that were just written
    /// makes the processor wait.
    #[inline(always)]
    fn place(&self, request: &SliceRequest) -> Result<Slice> {
        let alignment = self.aligned(request.size, request.alignment)?;
        {
            let mut state = self.state.lock();
            let peak = state.chunks.peak_allocated;
            if !state.destroyed && state.runs.is_none() && !state.waiting.is_due(&self.reuse) {
                if let Some(slice) = state.take_front(request.size, alignment) {
                    let later = self.taken(&mut state, request, slice, peak)?;
                    drop(state);
                    return match later {
                        None => Ok(slice),
                        Some(later) => self.finish(slice, later),
                    };
                }
            }
        }
        self.place_anywhere(request, alignment)
    }

    /// Allocates from any chunk, or makes room.
    #[inline(never)]
    fn place_anywhere(&self, request: &SliceRequest, alignment: u64) -> Result<Slice> {
        match self.take(request, alignment, false)? {
            Some((slice, None)) => Ok(slice),
            Some((slice, Some(later))) => self.finish(slice, later),
            None => self.make_room(request, alignment),
        }
    }

    /// Like [`refused`](Self::refused), for a request of the pool's own.
    #[cold]
    pub(super) fn request_refused(&self, request: &SliceRequest, error: Error) -> Error {
        let own = request.tag.and_then(|tag| self.state().tags.name(tag).cloned());
        self.refused(request.size, own.as_ref(), error)
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
    #[inline(always)]
    pub(super) fn aligned(&self, size: u64, alignment: u64) -> Result<u64> {
        match alignment == self.layout.alignment {
            true => Ok(alignment),
            false => self.aligned_other(size, alignment),
        }
    }

    fn aligned_other(&self, size: u64, alignment: u64) -> Result<u64> {
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

    /// Takes a slice of the chunks, with what it leaves for outside the lock. `None` if none has room, or if `resident`
    /// and the slice might have to be cleared.
    pub(super) fn take(
        &self,
        request: &SliceRequest,
        alignment: u64,
        resident: bool,
    ) -> Result<Option<(Slice, Option<Later>)>> {
        let mut state = self.state();
        state.alive(self.name())?;
        if state.waiting.is_due(&self.reuse) && self.layout.delay == 0 {
            state = self.end_due_waits(state)?;
        }
        if resident && state.may_clear(request) {
            return Ok(None);
        }
        let peak = state.chunks.peak_allocated;
        let Some(slice) = state.take(request.size, alignment) else { return Ok(None) };
        let later = self.taken(&mut state, request, slice, peak)?;
        state.run_taken(slice);
        Ok(Some((slice, later)))
    }

    /// Like [`take`](Self::take), of a chunk that was just added first.
    fn take_grown(
        &self,
        request: &SliceRequest,
        alignment: u64,
        grown: Handle,
    ) -> Result<Option<(Slice, Option<Later>)>> {
        let mut state = self.state();
        state.alive(self.name())?;
        let peak = state.chunks.peak_allocated;
        let slice = match state.take_from(grown, request.size, alignment) {
            None => state.take(request.size, alignment),
            slice => slice,
        };
        let Some(slice) = slice else { return Ok(None) };
        let later = self.taken(&mut state, request, slice, peak)?;
        state.run_taken(slice);
        Ok(Some((slice, later)))
    }

    /// Counts and records a new slice. Returns the work that is left for outside the lock; mostly there is none.
    #[inline(always)]
    fn taken(&self, state: &mut PoolState, request: &SliceRequest, slice: Slice, peak: u64) -> Result<Option<Later>> {
        let (mut owner, mut near_tag) = (request.owner, None);
        if let Some(tag) = request.tag {
            let counted = state.count_tag(tag, slice, peak)?;
            owner = counted.owner;
            near_tag = counted.near.map(|near| (tag, near));
        }
        let sampled = state.record_slice(slice, request);
        let mut stale = None;
        if state.must_clear(slice, owner, request.clearing) {
            stale = self.stale(&slice).and_then(|bytes| state.begin_clearing(&slice, bytes));
        }
        let used = state.chunks.allocated;
        let is_near = state.near.observe(used);
        let ahead = self.ahead.is_due(state, &self.layout);
        let nothing = !(is_near | sampled | ahead) && near_tag.is_none() && stale.is_none();
        Ok((!nothing).then(|| Later { near: is_near.then_some(used), near_tag, sampled, ahead, stale }))
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
            let taken = match grown {
                Some(grown) => self.take_grown(request, alignment, grown)?,
                None => self.take(request, alignment, false)?,
            };
            match taken {
                Some((slice, None)) => return Ok(slice),
                Some((slice, Some(later))) => return self.finish(slice, later),
                None => {}
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
    #[inline(always)]
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
