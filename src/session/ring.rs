//! A ring of results: records with their text, in a fixed number of bytes.
#![forbid(unsafe_code)]

use crate::abi::rkllm::PerfStat;

/// The numbers of a result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Record {
    /// A value of `LLMCallState`, or [`FAILED`].
    pub state: u8,
    pub token: i32,
    /// Rows that were written to the session's arrays.
    pub rows: u32,
    pub perf: Option<PerfStat>,
}

/// The state of a record that stands for a failure of the sink.
pub(super) const FAILED: u8 = 4;

/// Bytes of a record without its text.
pub(super) const RECORD_BYTES: usize = 36;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Ring {
    bytes: Box<[u8]>,
    /// The first byte in use.
    start: usize,
    /// Bytes in use.
    used: usize,
}

impl Ring {
    /// Makes a ring of `size` bytes, which are allocated here.
    pub(super) fn new(size: usize) -> Self {
        Self { bytes: vec![0; size].into_boxed_slice(), start: 0, used: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// The bytes that are free.
    pub(super) fn room(&self) -> usize {
        self.bytes.len() - self.used
    }

    /// The bytes of the ring.
    pub(super) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn clear(&mut self) {
        (self.start, self.used) = (0, 0);
    }

    /// Adds a record; returns false, and adds nothing, if there is no room.
    pub(super) fn push(&mut self, record: &Record, text: &[u8]) -> bool {
        let Ok(length) = u32::try_from(text.len()) else { return false };
        if self.room() < RECORD_BYTES + text.len() {
            return false;
        }
        let perf = record.perf.unwrap_or_default();
        let mut head = [0; RECORD_BYTES];
        head[0] = record.state;
        head[1] = record.perf.is_some().into();
        head[4..8].copy_from_slice(&record.token.to_ne_bytes());
        head[8..12].copy_from_slice(&record.rows.to_ne_bytes());
        head[12..16].copy_from_slice(&length.to_ne_bytes());
        head[16..20].copy_from_slice(&perf.prefill_time_ms.to_ne_bytes());
        head[20..24].copy_from_slice(&perf.prefill_tokens.to_ne_bytes());
        head[24..28].copy_from_slice(&perf.generate_time_ms.to_ne_bytes());
        head[28..32].copy_from_slice(&perf.generate_tokens.to_ne_bytes());
        head[32..36].copy_from_slice(&perf.memory_usage_mb.to_ne_bytes());
        self.write(&head);
        self.write(text);
        true
    }

    /// The state of the oldest record.
    pub(super) fn next_state(&self) -> Option<u8> {
        (!self.is_empty()).then(|| self.bytes[self.start])
    }

    /// Takes the oldest record. `text` gets the two pieces of its text.
    pub(super) fn pop(&mut self, mut text: impl FnMut(&[u8])) -> Option<Record> {
        if self.used < RECORD_BYTES {
            return None;
        }
        let mut head = [0; RECORD_BYTES];
        let mut filled = 0;
        self.read(RECORD_BYTES, |piece| {
            head[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        });
        let word = |at: usize| [head[at], head[at + 1], head[at + 2], head[at + 3]];
        let perf = (head[1] != 0).then(|| PerfStat {
            prefill_time_ms: f32::from_ne_bytes(word(16)),
            prefill_tokens: i32::from_ne_bytes(word(20)),
            generate_time_ms: f32::from_ne_bytes(word(24)),
            generate_tokens: i32::from_ne_bytes(word(28)),
            memory_usage_mb: f32::from_ne_bytes(word(32)),
        });
        self.read(u32::from_ne_bytes(word(12)) as usize, &mut text);
        Some(Record { state: head[0], token: i32::from_ne_bytes(word(4)), rows: u32::from_ne_bytes(word(8)), perf })
    }

    /// Appends bytes for which there is room.
    fn write(&mut self, bytes: &[u8]) {
        let at = (self.start + self.used) % self.bytes.len();
        let first = bytes.len().min(self.bytes.len() - at);
        self.bytes[at..at + first].copy_from_slice(&bytes[..first]);
        self.bytes[..bytes.len() - first].copy_from_slice(&bytes[first..]);
        self.used += bytes.len();
    }

    /// Takes `length` bytes, which are in use, in at most two pieces.
    fn read(&mut self, length: usize, mut piece: impl FnMut(&[u8])) {
        let first = length.min(self.bytes.len() - self.start);
        piece(&self.bytes[self.start..self.start + first]);
        if length > first {
            piece(&self.bytes[..length - first]);
        }
        self.start = (self.start + length) % self.bytes.len();
        self.used -= length;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn record(token: i32, perf: bool) -> Record {
        let perf = perf.then_some(PerfStat {
            prefill_time_ms: 1.5,
            prefill_tokens: token,
            generate_time_ms: 2.5,
            generate_tokens: 7,
            memory_usage_mb: 1e3,
        });
        Record { state: (token % 5).unsigned_abs() as u8, token, rows: token.unsigned_abs() / 3, perf }
    }

    fn pop(ring: &mut Ring) -> Option<(Record, Vec<u8>)> {
        let mut text = Vec::new();
        let record = ring.pop(|piece| text.extend_from_slice(piece))?;
        Some((record, text))
    }

    #[test]
    fn a_record_that_does_not_fit_changes_nothing() {
        let mut ring = Ring::new(2 * RECORD_BYTES + 3);
        assert!(ring.push(&record(1, false), b"ab"));
        assert!(!ring.push(&record(2, true), b"cd"));
        assert!(ring.push(&record(3, true), b"e"));
        assert_eq!(ring.room(), 0);
        assert_eq!(pop(&mut ring), Some((record(1, false), b"ab".to_vec())));
        assert_eq!(pop(&mut ring), Some((record(3, true), b"e".to_vec())));
        assert_eq!((pop(&mut ring), ring.room()), (None, ring.size()));
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            size in RECORD_BYTES..400,
            steps in prop::collection::vec(prop::option::of((any::<i32>(), 0..60_usize)), 0..300),
        ) {
            let (mut ring, mut model) = (Ring::new(size), VecDeque::new());
            for step in steps {
                match step {
                    Some((token, length)) => {
                        let (item, text) = (record(token, token % 2 == 0), vec![token as u8; length]);
                        let bytes = |(_, text): &(Record, Vec<u8>)| RECORD_BYTES + text.len();
                        let used: usize = model.iter().map(bytes).sum();
                        let fits = used + RECORD_BYTES + length <= size;
                        prop_assert_eq!(ring.push(&item, &text), fits);
                        if fits {
                            model.push_back((item, text));
                        }
                    }
                    None => prop_assert_eq!(pop(&mut ring), model.pop_front()),
                }
            }
        }
    }
}
