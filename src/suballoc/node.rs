//! [`Node`]: one region of a [`Tlsf`](super::Tlsf) arena, and its links.

/// Bits of a node's words that count granules; the 16 above hold half a stamp each.
const COUNT_BITS: u32 = 48;
pub(super) const COUNT: u64 = (1 << COUNT_BITS) - 1;
pub(super) const USED: u64 = 1 << 63;

/// The boundary node, and the end of every list.
pub(super) const NIL: u32 = 0;

/// One region. Two fit into a cache line and none straddles two.
///
/// `start` and `extent` are offset and size in granules. Above their 48 bits, `start` holds the stamp's low half and
/// `extent` its high half, whose top bit says used.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Node {
    pub(super) start: u64,
    pub(super) extent: u64,
    /// Neighbours by address.
    pub(super) before: u32,
    pub(super) after: u32,
    /// Free: the bin's list, towards its head and towards its tail. Used: the tag, low half and high half. Spare:
    /// `towards_tail` is the next spare node.
    pub(super) towards_head: u32,
    pub(super) towards_tail: u32,
}

impl Node {
    pub(super) const BOUNDARY: Node =
        Node { start: 0, extent: USED, before: NIL, after: NIL, towards_head: NIL, towards_tail: NIL };

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
    pub(super) fn stamp(&self) -> u32 {
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

    /// Ends the node's present use: ids to it go stale, and it is free.
    #[inline(always)]
    pub(super) fn retire(&mut self) {
        let (start, carry) = self.start.overflowing_add(1 << COUNT_BITS);
        self.start = start;
        self.extent = (self.extent & !USED).wrapping_add(u64::from(carry) << COUNT_BITS) & !USED;
    }

    #[inline(always)]
    pub(super) fn tag(&self) -> u64 {
        u64::from(self.towards_tail) << 32 | u64::from(self.towards_head)
    }

    #[inline(always)]
    pub(super) fn set_tag(&mut self, tag: u64) {
        self.towards_head = tag as u32;
        self.towards_tail = (tag >> 32) as u32;
    }
}
