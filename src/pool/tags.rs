//! Slices that have a tag of their own.

use std::sync::Arc;

use super::slice::{freed, Slice};
use super::slice_tags::{Counted, TagId};
use super::state::PoolState;
use super::Pool;
use crate::accounting::{Scope, TagRefused, Warning};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::suballoc::RegionId;

impl Pool {
    /// Returns the number of a tag, for [`SliceRequest::tag`](super::SliceRequest::tag). The pool keeps it until
    /// [`forget_tags`](Self::forget_tags).
    pub fn tag_id(&self, name: &Arc<str>) -> Result<TagId> {
        let account = self.account.as_ref().map(|account| account.accounting.tag(name)).unwrap_or_default();
        let mut state = self.state();
        state.alive(self.name())?;
        let owner = state.owners.of(name);
        Ok(state.tags.insert(name, account, owner))
    }

    /// Takes back the numbers of all tags.
    pub fn forget_tags(&self) {
        self.state().tags.forget();
    }

    /// The tag of a slice that is not movable.
    ///
    /// Errors: `ERR_BUFFER_FREED`.
    pub fn tag_of(&self, chunk: Handle, region: RegionId) -> Result<Option<Arc<str>>> {
        let state = self.state();
        let tag = state.chunks.get(chunk).ok_or_else(freed)?.tags.get(region.slot());
        Ok(tag.and_then(|tag| state.tags.name(tag).cloned()))
    }

    /// Warns that `used` bytes, nearly the whole limit of a tag, are allocated.
    #[cold]
    pub(super) fn warn_tag(&self, tag: TagId, used: u64, max: u64) {
        let name = self.state().tags.name(tag).cloned();
        if let (Some(account), Some(name)) = (&self.account, name) {
            account.accounting.warn(Warning { scope: Scope::Tag(name), used, max });
        }
    }

    /// Checks that `size` bytes fit under a tag's limit, before the pool grows for them.
    #[cold]
    pub(super) fn check_tag(&self, tag: Option<TagId>, size: u64) -> Result<()> {
        let state = self.state();
        let Some(tag) = tag.and_then(|tag| state.tags.get(tag)) else { return Ok(()) };
        tag.account.check(size).map_err(|refused| refused.error(&tag.name, size))
    }
}

impl PoolState {
    /// Counts a new slice under its tag. A refusal frees the slice again.
    #[inline(always)]
    pub(super) fn count_tag(&mut self, id: TagId, slice: Slice, peak_before: u64) -> Result<Counted> {
        match self.tags.add(id, slice.padded) {
            Ok(counted) => {
                if let Some(chunk) = self.chunks.get_mut(slice.chunk) {
                    chunk.tags.put(slice.region.slot(), id);
                }
                Ok(counted)
            }
            Err(refused) => Err(self.untake(id, &{ slice }, peak_before, refused)),
        }
    }

    #[cold]
    fn untake(&mut self, id: TagId, slice: &Slice, peak: u64, refused: TagRefused) -> Error {
        // The slice was taken under this lock: it is live.
        let _ = self.chunks.free(slice.chunk, slice.region);
        self.chunks.allocations -= 1;
        self.chunks.peak_allocated = peak;
        match self.tags.name(id) {
            Some(name) => refused.error(name, slice.padded),
            None => freed(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::device::memory::{PageOptions, Source};
    use crate::pool::{visits, Layout, SliceRequest};
    use crate::sys::page::page_size;
    use crate::units::MIB;

    /// Counts chunks, not time.
    #[test]
    fn the_second_owner_of_a_pool_does_not_pay_for_all_chunks_and_meets_no_byte_of_the_first() {
        const CHUNKS: u64 = 40;
        let source = Source::System(PageOptions { alignment: page_size(), ..PageOptions::default() });
        let layout = Layout { initial: 0, max: CHUNKS * MIB, chunk: MIB, block: None, alignment: 64, delay: 0 };
        let pool = Pool::new(None, source, layout, None).unwrap();
        let slices: Vec<_> = (0..2 * CHUNKS).map(|_| pool.allocate(MIB / 2, 64).unwrap()).collect();
        for slice in &slices {
            pool.memory_of(slice).unwrap().mapping().fill(slice.offset..slice.offset + slice.padded, 7);
        }
        // A half of each chunk is free, the upper and the lower one in turn.
        slices.iter().step_by(3).for_each(|slice| pool.free(slice.chunk, slice.region).unwrap());
        let tag = pool.tag_id(&"kv".into()).unwrap();
        let mut request = SliceRequest::new(MIB / 4, 64);
        request.tag = Some(tag);
        visits::take();
        let mut found = Vec::new();
        while let Ok(slice) = pool.request(request) {
            assert!(visits::take() <= 2, "of {CHUNKS} chunks");
            let mut bytes = vec![1; slice.padded as usize];
            pool.memory_of(&slice).unwrap().mapping().read(slice.offset, &mut bytes);
            assert!(bytes.iter().all(|byte| *byte == 0), "bytes of the first owner in {slice:?}");
            found.push(slice);
        }
        assert_eq!(found.len() as u64, 2 * (2 * CHUNKS).div_ceil(3));
        assert_eq!(pool.validate(), Ok(()));
    }
}
