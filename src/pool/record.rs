//! The events that a pool records when it is profiled, and its map of chunks.
//!
//! Every event of a slice has the slice's id ([`AllocationId`]), which is JavaScript's `block.id`. If a slice has an
//! ArrayBuffer from the start, its holder records its events, under the same id.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::Arc;
use std::time::Instant;

use super::chunk::{key, Chunk};
use super::movable_table::{Movable, SlicePlace};
use super::slice::{EventOwner, Slice, SliceRequest};
use super::state::PoolState;
use super::Pool;
use crate::backend::Request;
use crate::device::memory::Source;
use crate::error::Result;
use crate::handle::Handle;
use crate::id::AllocationId;
use crate::profile::{Action, Key, Profiler, RawRecording, Recorder, Recording};
use crate::suballoc::{regions, Region, RegionId};

/// One allocation in this many is timed: reading the clock twice costs as much as an allocation.
const TIMING_INTERVAL: u32 = 256;

/// A chunk and its regions, by address.
#[derive(Clone, Debug)]
pub struct ChunkMap {
    /// The size in bytes.
    pub size: u64,
    /// The CPU address.
    pub address: usize,
    /// The used and free regions.
    pub blocks: Vec<BlockMap>,
}

/// A region of a chunk.
#[derive(Clone, Debug)]
pub struct BlockMap {
    /// The offset in bytes from the chunk's start.
    pub offset: u64,
    /// The size in bytes, padded.
    pub size: u64,
    /// The slice's id; `None` for a free region, and for one that compaction keeps for a move.
    pub id: Option<AllocationId>,
    /// Whether compaction may move the slice.
    pub movable: bool,
    /// The slice's own tag; `None` without one.
    pub tag: Option<Arc<str>>,
    /// Whether the block was collected, of a pinned slice; `None` unless it is pinned.
    pub pinned: Option<bool>,
    /// The id of its sample; `None` unless sampled.
    pub sample: Option<Handle>,
}

/// A live and sampled block.
#[derive(Clone, Debug)]
pub struct SampledBlock {
    /// The id and the place.
    pub slice: Slice,
    /// The requested bytes.
    pub size: u64,
    /// Free text for accounting; `None` without one of its own.
    pub tag: Option<Arc<str>>,
    /// The id of the sample.
    pub sample: Handle,
}

impl Pool {
    /// Starts to record events for `profiler`; `None` stops. The previous recording goes to its profiler.
    pub fn record(&self, profiler: Option<&Arc<Profiler>>) {
        let tag = self.account.as_ref().and_then(|account| account.tag.as_ref());
        let recorder = profiler.map(|profiler| Box::new(Recorder::new(profiler, self.kind(), tag, self.public_name())));
        self.timer.store(u32::from(recorder.is_some()), Relaxed);
        let before = std::mem::replace(&mut self.state().recorder, recorder);
        if let Some(recorder) = before {
            recorder.profiler().absorb(recorder.copy(true));
        }
    }

    /// The recording since the start; `with_events` includes the events.
    pub fn recording(&self, with_events: bool) -> Option<Recording> {
        let copy = self.state().recorder.as_ref().map(|recorder| recorder.copy(with_events));
        copy.map(RawRecording::read)
    }

    /// Lists the chunks and their regions.
    pub fn map(&self) -> Vec<ChunkMap> {
        let state = self.state();
        let block = |handle: Handle, chunk: &Chunk, region: Region| {
            let place = (handle, region.id);
            let movable = state.movables.at(place);
            let sampled = region.used && chunk.flags.sampled.has(region.id.slot());
            BlockMap {
                offset: region.offset,
                size: region.size,
                id: region.used.then(|| chunk.id_of(region.id)).filter(|id| *id != AllocationId::default()),
                movable: movable.is_some(),
                tag: state.tag_at(place).filter(|_| region.used),
                pinned: state.pins.get(place).map(|pin| pin.dropped),
                sample: state.recorder.as_ref().filter(|_| sampled).and_then(|recorder| recorder.sample(key(place))),
            }
        };
        let mut chunks: Vec<_> = state.chunks.iter().collect();
        chunks.sort_by_key(|(_, chunk)| chunk.number);
        chunks
            .into_iter()
            .map(|(handle, chunk)| ChunkMap {
                size: chunk.arena.capacity(),
                address: chunk.chunk_memory.base(),
                blocks: regions(&*chunk.arena).map(|region| block(handle, chunk, region)).collect(),
            })
            .collect()
    }

    /// Lists the ids of all live slices.
    pub fn live_ids(&self) -> Vec<u64> {
        let state = self.state();
        let chunks = state.chunks.iter();
        let slices =
            chunks.flat_map(|(handle, chunk)| regions(&*chunk.arena).map(move |region| (handle, chunk, region)));
        slices
            .filter(|(handle, _, region)| region.used && !state.is_waiting((*handle, region.id)))
            .map(|(_, chunk, region)| chunk.id_of(region.id).get())
            .collect()
    }

    /// The request for this pool's kernel objects; `None` for pages of this process.
    pub fn facts(&self) -> Option<&Request> {
        match &self.source {
            Source::Npu { request, .. } => Some(request),
            Source::System(_) => None,
        }
    }

    /// The sample of the slice at that place.
    pub fn sample_of(&self, slice: &Slice) -> Option<Handle> {
        let state = self.state();
        state.recorder.as_ref()?.sample(key((slice.chunk, slice.region)))
    }

    /// Lists the live and sampled blocks.
    pub fn sampled(&self) -> Vec<SampledBlock> {
        let state = self.state();
        let Some(recorder) = &state.recorder else { return Vec::new() };
        let block = |((chunk, region), sample): (Key, Handle)| {
            let place = (Handle::from_raw(chunk), RegionId::from_raw(region));
            let of = state.chunks.get(place.0)?;
            let region = of.arena.get(place.1).ok().filter(|region| region.used)?;
            let slice = of.slice(place.0, &region, region.size);
            Some(SampledBlock { slice, size: region.user_data, tag: state.tag_at(place), sample })
        };
        recorder.samples().filter_map(block).collect()
    }

    /// Times one call in [`TIMING_INTERVAL`] while the pool is recorded.
    #[inline]
    pub(super) fn timed<T>(&self, allocate: impl FnOnce() -> Result<T>) -> Result<T> {
        let began = self.start_timing();
        let result = allocate();
        self.end_timing(began, result.is_ok());
        result
    }

    /// Starts to time a call, if it is the one in [`TIMING_INTERVAL`].
    #[inline(always)]
    pub(super) fn start_timing(&self) -> Option<Instant> {
        match self.timer.load(Relaxed) {
            0 => None,
            left => self.count_down(left),
        }
    }

    /// Records the time of a call since `began`.
    #[inline(always)]
    pub(super) fn end_timing(&self, began: Option<Instant>, succeeded: bool) {
        if let Some(began) = began {
            self.record_latency(began, succeeded);
        }
    }

    /// Counts a call of a pool that is recorded. Returns the time if the call is timed.
    #[cold]
    fn count_down(&self, left: u32) -> Option<Instant> {
        // Two threads may count one step together: the interval is approximate.
        let is_timed = left == 1;
        self.timer.store(if is_timed { TIMING_INTERVAL } else { left - 1 }, Relaxed);
        is_timed.then(Instant::now)
    }

    #[cold]
    fn record_latency(&self, began: Instant, succeeded: bool) {
        let took = began.elapsed();
        let profiler = self.state().recorder.as_ref().map(|recorder| Arc::clone(recorder.profiler()));
        match profiler {
            Some(profiler) if succeeded => profiler.record_latency(took.as_nanos() as u64, TIMING_INTERVAL.into()),
            Some(_) => {}
            // The recording stopped in between.
            None => self.timer.store(0, Relaxed),
        }
    }
}

impl PoolState {
    /// Records a new slice. Returns whether it is sampled.
    #[inline(always)]
    pub(super) fn record_slice(&mut self, slice: Slice, request: &SliceRequest) -> bool {
        // The call gets a copy, so that the slice itself has no address and stays in registers.
        self.recorder.is_some() && self.record_new(&{ slice }, request)
    }

    fn record_new(&mut self, slice: &Slice, request: &SliceRequest) -> bool {
        let size = request.size;
        match &mut self.recorder {
            None => false,
            Some(recorder) if request.events == EventOwner::Pool => {
                let tag = request.tag.and_then(|tag| self.tags.name(tag).cloned());
                let label = tag.as_ref().map(|tag| recorder.label_of(Some(tag)));
                recorder.allocated(slice.id.get(), size, label) && self.sample((slice.chunk, slice.region), size, tag)
            }
            Some(_) => {
                if let Some(chunk) = self.chunks.get_mut(slice.chunk) {
                    chunk.flags.silent.put(slice.region.slot());
                }
                false
            }
        }
    }

    /// Records a new movable slice. Returns whether it is sampled.
    pub(super) fn record_movable(&mut self, slice: &Slice, size: u64, tag: Option<Arc<str>>) -> bool {
        let Some(recorder) = &mut self.recorder else { return false };
        let label = recorder.label_of(tag.as_ref());
        let hit = recorder.allocated(slice.id.get(), size, Some(label));
        if let Some(chunk) = self.chunks.get_mut(slice.chunk) {
            chunk.flags.silent.take(slice.region.slot());
        }
        hit && self.sample((slice.chunk, slice.region), size, tag)
    }

    #[cold]
    fn sample(&mut self, place: SlicePlace, size: u64, tag: Option<Arc<str>>) -> bool {
        if let (Some(recorder), Some(chunk)) = (&mut self.recorder, self.chunks.get_mut(place.0)) {
            recorder.sampled(key(place), size, tag);
            chunk.flags.sampled.put(place.1.slot());
        }
        true
    }

    pub(super) fn record_ended(&mut self, handle: Handle, region: &Region, tag: Option<Arc<str>>, how: Action) {
        if let (Some(recorder), Some(chunk)) = (&mut self.recorder, self.chunks.get_mut(handle)) {
            chunk.record_ended(recorder, (handle, region.id), region.user_data, tag, how);
        }
    }

    /// Ends the name and the tag of a slice that starts to wait, and records its end.
    pub(super) fn end_names(&mut self, handle: Handle, region: &Region, how: Action) {
        let name = self.tag_at((handle, region.id));
        self.movables.forget((handle, region.id));
        let tag = self.chunks.get_mut(handle).and_then(|chunk| chunk.tags.take(region.id.slot()));
        self.record_ended(handle, region, name, how);
        if let Some(tag) = tag {
            self.tags.freed(tag, region.size);
        }
    }

    /// The own tag of the slice at that place.
    pub(super) fn tag_at(&self, place: SlicePlace) -> Option<Arc<str>> {
        match self.movables.at(place) {
            Some(id) => self.movables.get(id).ok()?.tag(),
            None => self.tags.name(self.chunks.get(place.0)?.tags.get(place.1.slot())?).cloned(),
        }
    }

    /// Records the end of every slice, before a reset or a destroy.
    pub(super) fn record_all_freed(&mut self) {
        let Some(mut recorder) = self.recorder.take() else { return };
        let places: Vec<(Handle, Region)> = self
            .chunks
            .iter()
            .flat_map(|(handle, chunk)| regions(&*chunk.arena).map(move |region| (handle, region)))
            .filter(|(handle, region)| region.used && !self.is_waiting((*handle, region.id)))
            .collect();
        for (handle, region) in places {
            let tag = self.tag_at((handle, region.id));
            self.movables.forget((handle, region.id));
            if let Some(chunk) = self.chunks.get_mut(handle) {
                chunk.record_ended(&mut recorder, (handle, region.id), region.user_data, tag, Action::Free);
            }
        }
        self.recorder = Some(recorder);
    }

    /// Records a move of the movable slice `handle`, whose id is `id`.
    pub(super) fn record_move(
        &mut self,
        handle: Handle,
        id: AllocationId,
        from: SlicePlace,
        to: SlicePlace,
        size: u64,
    ) {
        let Some(recorder) = &mut self.recorder else { return };
        let tag = self.movables.get(handle).ok().and_then(Movable::tag);
        let label = recorder.label_of(tag.as_ref());
        recorder.note(Action::Move, id.get(), size, Some(label));
        if self.chunks.get_mut(from.0).is_some_and(|chunk| chunk.flags.sampled.take(from.1.slot())) {
            recorder.renamed(key(from), key(to));
            if let Some(chunk) = self.chunks.get_mut(to.0) {
                chunk.flags.sampled.put(to.1.slot());
            }
        }
    }

    /// Counts and records a refused request, under its own tag if it has one.
    pub(super) fn record_refused(&mut self, size: u64, own: Option<&Arc<str>>) {
        self.failures += 1;
        if let Some(recorder) = &mut self.recorder {
            let label = recorder.label_of(own);
            recorder.note(Action::Fail, 0, size, Some(label));
        }
    }

    /// Records an event that has no slice.
    pub(super) fn note(&mut self, action: Action, id: u64, size: u64) {
        if let Some(recorder) = &mut self.recorder {
            recorder.note(action, id, size, None);
        }
    }
}
