//! A model of CPU caches that are not coherent with the device.
//!
//! An object's memfd has three views of `size` bytes each: the CPU's (mapped), the device's (RAM), and the baseline,
//! which has the bytes of each cache line when the CPU last cleaned or invalidated it. A line is dirty if the CPU's
//! view differs from its baseline. All views lie in one file, so that every process that has the dma-buf sees the same
//! caches.
//!
//! - A clean copies dirty lines to the device's view.
//! - An invalidate copies lines of the device's view to the CPU's. Dirty ones are lost.
//! - The device reads and writes its own view. A line that it writes shows `STALE_LINE` to the CPU until an
//!   invalidate: hardware shows the old or the new bytes there, depending on evictions, so neither may be relied on.
//!
//! The model cannot see that the CPU wrote the bytes that a line already had, and it evicts nothing by itself.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::backend::Direction;
use crate::units::{align_down, align_up};

/// Bytes of a cache line.
pub const LINE: u64 = 64;
/// Word of a line that the device wrote and that the CPU has not invalidated. An improbable number, as text and as a
/// float.
const STALE_WORD: u64 = 0xcdab_e5ad_57a1_e0cd;
const STALE_LINE: [u8; LINE as usize] = {
    let mut line = [0; LINE as usize];
    let mut at = 0;
    while at < line.len() {
        line[at] = STALE_WORD.to_le_bytes()[at % 8];
        at += 1;
    }
    line
};
/// Bytes of a view that are read at once.
const CHUNK: u64 = 64 << 10;

/// A missing sync that the model noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The device read a line that the CPU had written and not cleaned: it read old bytes.
    DeviceReadDirty,
    /// The device wrote a line that the CPU had written and not cleaned: an eviction would undo the device's write.
    DeviceWroteDirty,
    /// An invalidate dropped a line that the CPU had written and not cleaned.
    InvalidatedDirty,
    /// A clean wrote back a line of which the CPU had written a part after the device had written it: the other part
    /// lost the device's bytes.
    CleanedStale,
}

impl Fault {
    /// The name in JavaScript.
    pub const fn as_str(self) -> &'static str {
        match self {
            Fault::DeviceReadDirty => "device-read-dirty",
            Fault::DeviceWroteDirty => "device-wrote-dirty",
            Fault::InvalidatedDirty => "invalidated-dirty",
            Fault::CleanedStale => "cleaned-stale",
        }
    }
}

/// A fault with the lines concerned, from the first to the last.
pub type Found = (Fault, Range<u64>);

/// The views of one object.
#[derive(Clone, Debug)]
pub struct CachedMemory {
    file: Arc<File>,
    size: u64,
}

/// Some lines: the CPU's view and the baseline.
struct Lines {
    /// The offset of the first byte in the object.
    start: u64,
    cpu: Vec<u8>,
    baseline: Vec<u8>,
}

/// One of them.
struct Line<'a> {
    at: u64,
    cpu: &'a [u8],
    baseline: &'a [u8],
}

impl CachedMemory {
    /// Takes the file of an object of `size` bytes. The file has as many for each view.
    pub fn new(file: Arc<File>, size: u64) -> Self {
        Self { file, size }
    }

    /// Maintains the lines of `range`, or all for `None`. Returns the faults of the program in `named`, which is the
    /// range that it asked for.
    pub fn maintain(
        &self,
        direction: Direction,
        range: Option<Range<u64>>,
        named: &Range<u64>,
    ) -> io::Result<Vec<Found>> {
        self.each(range.unwrap_or(0..self.size), |found, lines| match direction {
            Direction::ToDevice => self.clean(found, named, lines),
            Direction::FromDevice => self.invalidate(found, lines),
        })
    }

    fn clean(&self, found: &mut Vec<Found>, named: &Range<u64>, lines: &Lines) -> io::Result<()> {
        note(found, Fault::CleanedStale, lines, |line| is_dirty(line) && line.keeps_stale_bytes(named));
        for run in runs(lines, is_dirty) {
            self.write(1, lines.start + run.start as u64, &lines.cpu[run.clone()])?;
            self.write(2, lines.start + run.start as u64, &lines.cpu[run])?;
        }
        Ok(())
    }

    fn invalidate(&self, found: &mut Vec<Found>, lines: &Lines) -> io::Result<()> {
        note(found, Fault::InvalidatedDirty, lines, is_dirty);
        // Other lines show the device's bytes already.
        for run in runs(lines, |line| is_dirty(line) || is_stale(line)) {
            let mut device = vec![0; run.len()];
            self.file.read_exact_at(&mut device, self.size + lines.start + run.start as u64)?;
            self.write(0, lines.start + run.start as u64, &device)?;
            self.write(2, lines.start + run.start as u64, &device)?;
        }
        Ok(())
    }

    /// Reads bytes as the device sees them.
    pub fn device_read(&self, offset: u64, bytes: &mut [u8]) -> io::Result<Vec<Found>> {
        self.file.read_exact_at(bytes, self.size + offset)?;
        self.each(offset..offset + bytes.len() as u64, |found, lines| {
            note(found, Fault::DeviceReadDirty, lines, is_dirty);
            Ok(())
        })
    }

    /// Writes bytes as the device does, past the CPU's caches.
    pub fn device_write(&self, offset: u64, bytes: &[u8]) -> io::Result<Vec<Found>> {
        self.write(1, offset, bytes)?;
        self.each(offset..offset + bytes.len() as u64, |found, lines| {
            note(found, Fault::DeviceWroteDirty, lines, is_dirty);
            let stale = STALE_LINE.repeat(lines.cpu.len() / LINE as usize);
            for run in runs(lines, |line| !is_dirty(line)) {
                self.write(0, lines.start + run.start as u64, &stale[..run.len()])?;
            }
            self.write(2, lines.start, &stale)
        })
    }

    /// Counts the bytes of lines in `range` that the device wrote and that the CPU has neither invalidated nor written.
    pub fn stale_bytes(&self, range: Range<u64>) -> io::Result<u64> {
        let mut stale = 0;
        self.each(range, |_, lines| {
            let runs = runs(lines, |line| is_stale(line) && !is_dirty(line));
            stale += runs.map(|run| run.len() as u64).sum::<u64>();
            Ok(())
        })?;
        Ok(stale)
    }

    /// Calls `act` with the lines of `range`, rounded outwards, a chunk at a time.
    fn each(
        &self,
        range: Range<u64>,
        mut act: impl FnMut(&mut Vec<Found>, &Lines) -> io::Result<()>,
    ) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        let end = align_up(range.end, LINE).unwrap_or(self.size).min(self.size);
        let mut lines = Lines { start: align_down(range.start, LINE), cpu: Vec::new(), baseline: Vec::new() };
        while lines.start < end {
            let count = (end - lines.start).min(CHUNK);
            for (view, bytes) in [(0, &mut lines.cpu), (2, &mut lines.baseline)] {
                bytes.resize(count as usize, 0);
                self.file.read_exact_at(bytes, view * self.size + lines.start)?;
            }
            act(&mut found, &lines)?;
            lines.start += count;
        }
        Ok(found)
    }

    fn write(&self, view: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, view * self.size + at)
    }
}

impl Lines {
    fn line(&self, at: usize) -> Line<'_> {
        let bytes = at..at + LINE as usize;
        Line { at: self.start + at as u64, cpu: &self.cpu[bytes.clone()], baseline: &self.baseline[bytes] }
    }
}

impl Line<'_> {
    /// Whether the CPU left bytes of `range` alone in a line that the device had written. Bytes outside share the line
    /// as padding.
    fn keeps_stale_bytes(&self, range: &Range<u64>) -> bool {
        let is_left = |(at, word): (u64, &[u8])| {
            word == STALE_WORD.to_le_bytes() && at >= range.start && at + word.len() as u64 <= range.end
        };
        is_stale(self) && (self.at..).step_by(8).zip(self.cpu.chunks_exact(8)).any(is_left)
    }
}

fn is_dirty(line: &Line<'_>) -> bool {
    line.cpu != line.baseline
}

/// Whether the device wrote the line since the CPU last cleaned or invalidated it.
fn is_stale(line: &Line<'_>) -> bool {
    line.baseline == STALE_LINE
}

/// Finds the runs of neighbouring lines that `wanted` accepts, as ranges of bytes of `lines`.
fn runs<'a>(lines: &'a Lines, wanted: impl Fn(&Line<'_>) -> bool + 'a) -> impl Iterator<Item = Range<usize>> + 'a {
    let (size, step) = (lines.cpu.len(), LINE as usize);
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < size && !wanted(&lines.line(at)) {
            at += step;
        }
        let start = at;
        while at < size && wanted(&lines.line(at)) {
            at += step;
        }
        (start < at).then_some(start..at)
    })
}

/// Adds the lines that `wanted` accepts to the fault of this kind, so that a call reports each kind once.
fn note(found: &mut Vec<Found>, fault: Fault, lines: &Lines, wanted: impl Fn(&Line<'_>) -> bool) {
    for run in runs(lines, wanted) {
        let run = lines.start + run.start as u64..lines.start + run.end as u64;
        match found.iter_mut().find(|(known, _)| *known == fault) {
            Some((_, all)) => *all = all.start.min(run.start)..all.end.max(run.end),
            None => found.push((fault, run)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::sys::dma_buf::INCOHERENT_VIEWS;

    const SIZE: u64 = 4096;

    fn memory() -> CachedMemory {
        let name = format!("rkllm-caches-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        let file = File::options().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.set_len(SIZE * INCOHERENT_VIEWS).unwrap();
        CachedMemory::new(Arc::new(file), SIZE)
    }

    impl CachedMemory {
        fn sync(&self, direction: Direction, range: Range<u64>) -> io::Result<Vec<Found>> {
            self.maintain(direction, Some(range.clone()), &range)
        }

        fn cpu_write(&self, at: u64, bytes: &[u8]) {
            self.write(0, at, bytes).unwrap();
        }

        fn cpu(&self, at: u64, count: usize) -> Vec<u8> {
            let mut bytes = vec![0; count];
            self.file.read_exact_at(&mut bytes, at).unwrap();
            bytes
        }

        fn device(&self, at: u64, count: usize) -> (Vec<u8>, Vec<Found>) {
            let mut bytes = vec![0; count];
            let found = self.device_read(at, &mut bytes).unwrap();
            (bytes, found)
        }
    }

    #[test]
    fn writes_of_the_cpu_reach_the_device_at_a_clean_in_whole_lines() {
        let memory = memory();
        memory.cpu_write(60, b"abcdefgh");
        assert_eq!(memory.device(60, 8), (vec![0; 8], vec![(Fault::DeviceReadDirty, 0..128)]));
        assert_eq!(memory.sync(Direction::ToDevice, 0..1).unwrap(), []);
        assert_eq!(memory.device(60, 4), (b"abcd".to_vec(), vec![]));
        assert_eq!(memory.device(64, 1), (vec![0], vec![(Fault::DeviceReadDirty, 64..128)]), "the next line is dirty");
        memory.sync(Direction::ToDevice, 67..68).unwrap();
        assert_eq!(memory.device(60, 8), (b"abcdefgh".to_vec(), vec![]));
    }

    #[test]
    fn an_invalidate_shows_the_devices_bytes_and_drops_dirty_lines() {
        let memory = memory();
        assert_eq!(memory.device_write(0, &[7; 64]).unwrap(), []);
        assert_ne!(memory.cpu(0, 64), [7; 64], "the CPU sees nothing of it yet");
        memory.cpu_write(100, b"lost");
        let found = memory.sync(Direction::FromDevice, 0..65).unwrap();
        assert_eq!(found, [(Fault::InvalidatedDirty, 64..128)]);
        assert_eq!((memory.cpu(0, 64), memory.cpu(100, 4)), (vec![7; 64], vec![0; 4]));
        assert_eq!(memory.sync(Direction::FromDevice, 0..SIZE).unwrap(), []);
    }

    #[test]
    fn a_clean_does_not_write_back_lines_that_the_cpu_left_alone() {
        let memory = memory();
        memory.device_write(64, &[9; 64]).unwrap();
        memory.cpu_write(0, &[1; 64]);
        assert_eq!(memory.sync(Direction::ToDevice, 0..SIZE).unwrap(), []);
        assert_eq!(memory.device(0, 128).0, [[1; 64], [9; 64]].concat());
    }

    #[test]
    fn a_line_that_both_wrote_is_a_fault() {
        let memory = memory();
        memory.cpu_write(0, &[1; 8]);
        assert_eq!(memory.device_write(8, &[2; 8]).unwrap(), [(Fault::DeviceWroteDirty, 0..64)]);
        // The device wrote first: the CPU may overwrite the whole line, but not a part of it.
        memory.device_write(128, &[2; 128]).unwrap();
        memory.cpu_write(128, &[3; 64]);
        memory.cpu_write(192, &[3; 32]);
        assert_eq!(memory.sync(Direction::ToDevice, 128..256).unwrap(), [(Fault::CleanedStale, 192..256)]);
    }

    #[test]
    fn a_buffer_of_many_lines_is_one_fault_of_a_kind() {
        let memory = memory();
        for at in (0..SIZE).step_by(512) {
            memory.cpu_write(at, &[1]);
        }
        assert_eq!(memory.device(0, 4096).1, [(Fault::DeviceReadDirty, 0..SIZE - 448)]);
    }
}
