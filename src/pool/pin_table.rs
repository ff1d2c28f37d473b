//! The pinned slices of a pool, by place.

use std::collections::HashMap;
use std::time::SystemTime;

use super::movable_table::SlicePlace;
use crate::error::{Error, ErrorCode, Result};

/// Counts and bytes (padded) of pinned slices.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PinStats {
    /// The number of pinned slices.
    pub blocks: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The number of pinned slices whose block was collected.
    pub dropped_blocks: u64,
    /// Their bytes.
    pub dropped_bytes: u64,
}

impl PinStats {
    /// Adds the figures of another pool.
    pub fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.dropped_blocks += other.dropped_blocks;
        self.dropped_bytes += other.dropped_bytes;
    }
}

/// The pins of one slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) count: u32,
    /// The time of the first pin.
    pub(super) since: SystemTime,
    bytes: u64,
    /// Set once the slice's block was collected: no object of JavaScript can unpin it.
    pub(super) dropped: bool,
    /// Set once no ArrayBuffer over the slice is left, or if there never was one when the block was collected.
    pub(super) unseen: bool,
}

/// The pinned slices of a pool, by place. A pinned slice does not move.
#[derive(Debug, Default)]
pub(super) struct Pins {
    by_place: HashMap<SlicePlace, Pin>,
    stats: PinStats,
    /// The slices that [`while_pinned`](super::Pool::while_pinned) writes now: a few at most. Their pins stay.
    written: Vec<SlicePlace>,
}

impl Pins {
    #[inline]
    pub(super) fn get(&self, place: SlicePlace) -> Option<&Pin> {
        // Most pools have no pinned slices.
        match self.by_place.is_empty() {
            true => None,
            false => self.by_place.get(&place),
        }
    }

    pub(super) fn stats(&self) -> PinStats {
        self.stats
    }

    pub(super) fn places(&self) -> impl Iterator<Item = (SlicePlace, &Pin)> {
        self.by_place.iter().map(|(place, pin)| (*place, pin))
    }

    /// Refuses to free a pinned slice.
    ///
    /// Errors: `ERR_BUFFER_BUSY`.
    #[inline]
    pub(super) fn check(&self, place: SlicePlace) -> Result<()> {
        self.get(place).map_or(Ok(()), |pin| Err(pinned(pin.count)))
    }

    /// Adds a pin to a slice of `bytes`.
    pub(super) fn pin(&mut self, place: SlicePlace, bytes: u64) -> Result<()> {
        let stats = &mut self.stats;
        let pin = self.by_place.entry(place).or_insert_with(|| {
            (stats.blocks, stats.bytes) = (stats.blocks + 1, stats.bytes + bytes);
            Pin { count: 0, since: SystemTime::now(), bytes, dropped: false, unseen: false }
        });
        pin.count = pin.count.checked_add(1).ok_or_else(|| {
            Error::new(ErrorCode::OutOfRange, format!("this block is pinned {} times already", u32::MAX))
        })?;
        Ok(())
    }

    /// Reports whether the removal of one pin, or of all, ends the slice's last.
    pub(super) fn is_last(&self, place: SlicePlace, all: bool) -> bool {
        self.get(place).is_some_and(|pin| all || pin.count == 1)
    }

    /// Removes one pin, or all of them. Returns the slice's last pin.
    pub(super) fn unpin(&mut self, place: SlicePlace, all: bool) -> Result<Option<Pin>> {
        let pin = self.by_place.get_mut(&place);
        let pin = pin.ok_or_else(|| Error::new(ErrorCode::OutOfRange, "this block is not pinned"))?;
        pin.count -= 1;
        if pin.count > 0 && !all {
            return Ok(None);
        }
        let last = *pin;
        self.by_place.remove(&place);
        self.stats.blocks -= 1;
        self.stats.bytes -= last.bytes;
        if last.dropped {
            self.stats.dropped_blocks -= 1;
            self.stats.dropped_bytes -= last.bytes;
        }
        Ok(Some(last))
    }

    /// Records that the slice's block was collected, and whether no ArrayBuffer shows the slice. Returns false if the
    /// slice is not pinned.
    pub(super) fn set_dropped(&mut self, place: SlicePlace, unseen: bool) -> bool {
        let Some(pin) = self.by_place.get_mut(&place) else { return false };
        if !std::mem::replace(&mut pin.dropped, true) {
            self.stats.dropped_blocks += 1;
            self.stats.dropped_bytes += pin.bytes;
        }
        pin.unseen |= unseen;
        true
    }

    /// Records that the slice's last ArrayBuffer is gone.
    pub(super) fn set_unseen(&mut self, place: SlicePlace) {
        if let Some(pin) = self.by_place.get_mut(&place) {
            pin.unseen = true;
        }
    }

    /// Records that an ArrayBuffer over the slice was made.
    pub(super) fn set_seen(&mut self, place: SlicePlace) {
        if let Some(pin) = self.by_place.get_mut(&place) {
            pin.unseen = false;
        }
    }

    /// Starts a write to a slice. Returns false if the slice is not pinned.
    pub(super) fn begin_write(&mut self, place: SlicePlace) -> bool {
        let pinned = self.get(place).is_some();
        if pinned {
            self.written.push(place);
        }
        pinned
    }

    /// Ends one write to a slice.
    pub(super) fn end_write(&mut self, place: SlicePlace) {
        if let Some(at) = self.written.iter().position(|written| *written == place) {
            self.written.swap_remove(at);
        }
    }

    /// Reports whether a slice is being written.
    pub(super) fn is_written(&self, place: SlicePlace) -> bool {
        self.written.contains(&place)
    }

    /// Reports whether any slice is being written.
    pub(super) fn is_any_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// Ends all pins. The caller has waited for the writes.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Checks the counts against the pins.
    pub(super) fn check_stats(&self) -> Result<(), String> {
        let mut counted = PinStats::default();
        for pin in self.by_place.values() {
            let dropped = u64::from(pin.dropped);
            counted.add(PinStats {
                blocks: 1,
                bytes: pin.bytes,
                dropped_blocks: dropped,
                dropped_bytes: dropped * pin.bytes,
            });
        }
        match counted == self.stats {
            true => Ok(()),
            false => Err(format!("{:?} are counted, but the pins have {counted:?}", self.stats)),
        }
    }
}

fn pinned(pins: u32) -> Error {
    Error::new(ErrorCode::BufferBusy, format!("this block is pinned {pins} times: it was not freed"))
        .hint("unpin it as often as it was pinned")
}
