//! The tags of a pool's slices.
//!
//! JavaScript names a tag by a small number, because a string would cost more than an allocation. The number holds
//! until JavaScript gives all numbers back; a tag with live slices stays until they end.

use std::collections::HashMap;
use std::sync::Arc;

use super::owners::Owner;
use crate::accounting::{TagAccount, TagRefused};

/// The number of a tag in its pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagId(u32);

impl TagId {
    /// Makes an id from a number. Any number is safe: one that names no tag is refused.
    pub fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    /// Returns the id as a number.
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A tag with its live slices.
#[derive(Debug)]
pub(super) struct Tag {
    pub(super) name: Arc<str>,
    pub(super) account: Arc<TagAccount>,
    pub(super) owner: Owner,
    live: u64,
    bytes: u64,
    /// Whether JavaScript may still use the number.
    held: bool,
    /// The number of requests on other threads that use the number.
    requests: u64,
}

impl Tag {
    fn is_unused(&self) -> bool {
        self.live == 0 && self.requests == 0 && !self.held
    }
}

/// The tags of a pool, by number and by name.
#[derive(Debug, Default)]
pub(super) struct SliceTags {
    tags: Vec<Option<Tag>>,
    vacant: Vec<u32>,
    by_name: HashMap<Arc<str>, TagId>,
    /// The tags whose numbers JavaScript may still use.
    held: Vec<TagId>,
}

/// A slice was counted under its tag.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) owner: Owner,
    /// The bytes in use and the tag's limit, if a warning is due.
    pub(super) near: Option<(u64, u64)>,
}

impl SliceTags {
    pub(super) fn get(&self, id: TagId) -> Option<&Tag> {
        self.tags.get(id.0 as usize)?.as_ref()
    }

    pub(super) fn name(&self, id: TagId) -> Option<&Arc<str>> {
        self.get(id).map(|tag| &tag.name)
    }

    /// Counts a new slice of `bytes`; a number that names no tag counts nothing.
    #[inline]
    pub(super) fn add(&mut self, id: TagId, bytes: u64) -> std::result::Result<Counted, TagRefused> {
        let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) else {
            return Ok(Counted { owner: Owner::UNTAGGED, near: None });
        };
        let near = tag.account.allocated(bytes)?;
        (tag.live, tag.bytes) = (tag.live + 1, tag.bytes + bytes);
        Ok(Counted { owner: tag.owner, near })
    }

    /// Counts the end of a slice of `bytes`.
    #[inline]
    pub(super) fn freed(&mut self, id: TagId, bytes: u64) {
        let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) else { return };
        tag.account.freed(bytes);
        (tag.live, tag.bytes) = (tag.live - 1, tag.bytes - bytes);
        if tag.is_unused() {
            self.remove(id);
        }
    }

    /// Counts the end of all slices.
    pub(super) fn all_freed(&mut self) {
        for id in 0..self.tags.len() {
            let Some(tag) = &mut self.tags[id] else { continue };
            tag.account.all_freed(tag.live, tag.bytes);
            (tag.live, tag.bytes) = (0, 0);
            if tag.is_unused() {
                self.remove(TagId(id as u32));
            }
        }
    }

    fn remove(&mut self, id: TagId) {
        if let Some(tag) = self.tags[id.0 as usize].take() {
            self.by_name.remove(&tag.name);
            self.vacant.push(id.0);
        }
    }

    pub(super) fn insert(&mut self, name: &Arc<str>, account: Arc<TagAccount>, owner: Owner) -> TagId {
        if let Some(id) = self.by_name.get(name) {
            let id = *id;
            if let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) {
                if !std::mem::replace(&mut tag.held, true) {
                    self.held.push(id);
                }
            }
            return id;
        }
        let tag = Some(Tag { name: Arc::clone(name), account, owner, live: 0, bytes: 0, held: true, requests: 0 });
        let id = match self.vacant.pop() {
            Some(id) => {
                self.tags[id as usize] = tag;
                TagId(id)
            }
            None => {
                self.tags.push(tag);
                TagId(self.tags.len() as u32 - 1)
            }
        };
        self.by_name.insert(Arc::clone(name), id);
        self.held.push(id);
        id
    }

    /// Takes back all numbers. Visits the tags that have one, not those whose slices alone are left.
    pub(super) fn forget(&mut self) {
        for id in std::mem::take(&mut self.held) {
            let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) else { continue };
            tag.held = false;
            if tag.is_unused() {
                self.remove(id);
            }
        }
    }

    /// Keeps a number for a request on another thread, until [`end_request`](Self::end_request).
    pub(super) fn begin_request(&mut self, id: TagId) {
        if let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) {
            tag.requests += 1;
        }
    }

    pub(super) fn end_request(&mut self, id: TagId) {
        let Some(Some(tag)) = self.tags.get_mut(id.0 as usize) else { return };
        tag.requests = tag.requests.saturating_sub(1);
        if tag.is_unused() {
            self.remove(id);
        }
    }

    /// Ends all tags with their pool.
    pub(super) fn clear(&mut self) {
        self.all_freed();
        *self = Self::default();
    }
}
