//! [`Node`]: one region of a [`Tlsf`](super::Tlsf) arena, and its links.

/// The low bits of a node's words, which count granules; the 16 bits above hold half a generation each.
const COUNT_BITS: u32 = 48;
pub(super) const COUNT: u64 = (1 << COUNT_BITS) - 1;
pub(super) const USED: u64 = 1 << 63;

/// The boundary node, and the end of every list.
pub(super) const NIL: u32 = 0;

/// One region. Two nodes fit into a cache line, and no node straddles two lines.
///
/// `start` and `extent` are offset and size in granules. Above their 48 bits, `start` holds the generation's low half
/// and `extent` the high half, whose top bit is set for a used region.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Node {
    pub(super) start: u64,
    pub(super) extent: u64,
    /// The neighbours by address.
    pub(super) prev_phys: u32,
    pub(super) next_phys: u32,
    /// Free node: the neighbours in the bin's list. Used node: the user data, low half and high half. Unused node:
    /// `next_free` is the next unused node.
    pub(super) prev_free: u32,
    pub(super) next_free: u32,
}

impl Node {
    pub(super) const BOUNDARY: Node =
        Node { start: 0, extent: USED, prev_phys: NIL, next_phys: NIL, prev_free: NIL, next_free: NIL };

    #[inline(always)]
    pub(super) fn offset(&self) -> u64 {
        self.start & COUNT
    }

    #[inline(always)]
    pub(super) fn size(&self) -> u64 {
        self.extent & COUNT
    }

    #[inline(always)]
    pub(super) fn used(&self) -> bool {
        self.extent & USED != 0
    }

    #[inline(always)]
    pub(super) fn generation(&self) -> u32 {
        ((self.extent >> COUNT_BITS) << 16 | self.start >> COUNT_BITS) as u32
    }

    #[inline(always)]
    pub(super) fn set_offset(&mut self, granules: u64) {
        self.start = self.start & !COUNT | granules;
    }

    #[inline(always)]
    pub(super) fn set_size(&mut self, granules: u64) {
        self.extent = self.extent & !COUNT | granules;
    }

    /// Marks the node free and advances its generation, so that earlier ids are stale.
    #[inline(always)]
    pub(super) fn retire(&mut self) {
        let (start, carry) = self.start.overflowing_add(1 << COUNT_BITS);
        self.start = start;
        self.extent = (self.extent & !USED).wrapping_add(u64::from(carry) << COUNT_BITS) & !USED;
    }

    #[inline(always)]
    pub(super) fn user_data(&self) -> u64 {
        u64::from(self.next_free) << 32 | u64::from(self.prev_free)
    }

    #[inline(always)]
    pub(super) fn set_user_data(&mut self, user_data: u64) {
        self.prev_free = user_data as u32;
        self.next_free = (user_data >> 32) as u32;
    }
}
