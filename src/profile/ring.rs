//! A ring of the latest events, three words each, and a count of the dropped ones.

use std::collections::HashMap;
use std::sync::Arc;

use crate::units::MemoryKind;

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Action {
    /// An allocation succeeded.
    Allocate,
    /// The program freed an allocation.
    Free,
    /// A request was refused.
    Fail,
    /// A pool allocated a chunk.
    Grow,
    /// A pool freed a chunk.
    Trim,
    /// Compaction moved a block.
    Move,
    /// The garbage collector, or the end of its thread, freed an allocation.
    Collect,
}

impl Action {
    const ALL: [Self; 7] = [Self::Allocate, Self::Free, Self::Fail, Self::Grow, Self::Trim, Self::Move, Self::Collect];

    /// Returns the name that JavaScript uses.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allocate => "allocate",
            Self::Free => "free",
            Self::Fail => "fail",
            Self::Grow => "grow",
            Self::Trim => "trim",
            Self::Move => "move",
            Self::Collect => "collect",
        }
    }
}

/// The number of a string in an [`Interner`]; 0 stands for no string.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StringId(u16);

/// Stores each tag and each pool's name once.
#[derive(Clone, Debug, Default)]
pub struct Interner {
    list: Vec<Arc<str>>,
    index: HashMap<Arc<str>, StringId>,
}

impl Interner {
    /// Returns the number of `text`, or 0 once there are 65,535 other strings.
    pub fn of(&mut self, text: Option<&Arc<str>>) -> StringId {
        let Some(text) = text else { return StringId::default() };
        if let Some(name) = self.index.get(text) {
            return *name;
        }
        let Ok(next) = u16::try_from(self.list.len() + 1) else { return StringId::default() };
        self.list.push(Arc::clone(text));
        self.index.insert(Arc::clone(text), StringId(next));
        StringId(next)
    }

    /// Returns the string with the number `name`.
    pub fn text(&self, name: StringId) -> Option<&Arc<str>> {
        self.list.get(usize::from(name.0).checked_sub(1)?)
    }
}

/// An event in the ring, of 24 bytes.
#[derive(Clone, Copy, Debug)]
struct PackedEvent {
    /// The time in µs (48 bits: nine years), and the tag.
    time_tag: u64,
    /// The bytes (48 bits), and the pool.
    size_pool: u64,
    /// A handle or an address (both below 2^53), the action and the kind.
    id_action: u64,
}

const LOW_48_BITS: u64 = (1 << 48) - 1;
const LOW_53_BITS: u64 = (1 << 53) - 1;

/// A decoded event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The kind of the event.
    pub action: Action,
    /// The time, in µs of the profile's clock.
    pub time: u64,
    /// The id of the allocation or block, or the chunk's number; 0 for a refused request.
    pub id: u64,
    /// Bytes requested, or the bytes of the chunk.
    pub size: u64,
    /// The kind of memory.
    pub kind: MemoryKind,
    /// The allocation's tag.
    pub tag: Option<Arc<str>>,
    /// The pool's name.
    pub pool: Option<Arc<str>>,
}

/// The latest events, up to a capacity.
#[derive(Clone, Debug)]
pub struct Ring {
    events: Vec<PackedEvent>,
    capacity: usize,
    full: bool,
    /// The index of the oldest event once the ring is full: the next event replaces it.
    next: usize,
    /// Events dropped in completed rounds of the ring.
    dropped_before: u64,
}

/// The tag, pool and kind of an event, as packed in the event. Constant for most events of one source.
#[derive(Clone, Copy, Debug)]
pub struct Label {
    tag: u64,
    pool: u64,
    kind: u64,
}

impl Label {
    /// Packs a tag, a pool and a kind.
    pub(super) fn new(tag: StringId, pool: StringId, kind: MemoryKind) -> Self {
        let kind = u64::from(kind == MemoryKind::Npu) << 56;
        Self { tag: u64::from(tag.0) << 48, pool: u64::from(pool.0) << 48, kind }
    }

    /// Replaces the tag.
    pub(super) fn tagged(self, tag: StringId) -> Self {
        Self { tag: u64::from(tag.0) << 48, ..self }
    }

    /// Returns the tag.
    pub(super) fn tag(self) -> StringId {
        StringId((self.tag >> 48) as u16)
    }
}

impl Ring {
    /// Makes a ring for `capacity` events. Its memory grows on demand.
    pub fn new(capacity: usize) -> Self {
        Self { events: Vec::new(), capacity, full: false, next: 0, dropped_before: 0 }
    }

    /// Adds an event. A full ring drops the oldest one.
    #[inline(always)]
    pub fn push(&mut self, action: Action, time: u64, id: u64, size: u64, label: &Label) {
        let time_tag = time & LOW_48_BITS | label.tag;
        let size_pool = size.min(LOW_48_BITS) | label.pool;
        let id_action = id & LOW_53_BITS | (action as u64) << 53 | label.kind;
        match self.events.get_mut(self.next) {
            Some(oldest) if self.full => {
                // Word by word: a copy of a struct made elsewhere would wait for the struct's stores before it loads.
                oldest.time_tag = time_tag;
                oldest.size_pool = size_pool;
                oldest.id_action = id_action;
                self.next += 1;
                if self.next == self.capacity {
                    self.next = 0;
                    self.dropped_before += self.capacity as u64;
                }
            }
            _ => self.fill(PackedEvent { time_tag, size_pool, id_action }),
        }
    }

    /// Adds an event to a ring that is not full, or whose capacity is 0.
    #[cold]
    fn fill(&mut self, event: PackedEvent) {
        if self.capacity == 0 {
            self.dropped_before += 1;
            return;
        }
        self.events.push(event);
        self.full = self.events.len() == self.capacity;
    }

    /// Returns the number of events in the ring.
    pub fn kept(&self) -> u64 {
        self.events.len() as u64
    }

    /// Returns the number of dropped events.
    pub fn dropped(&self) -> u64 {
        self.dropped_before + self.next as u64
    }

    /// Decodes the events, oldest first, with the strings of `names`.
    pub fn read<'a>(&'a self, names: &'a Interner) -> impl Iterator<Item = Event> + 'a {
        let (newer, older) = self.events.split_at(self.next);
        older.iter().chain(newer).map(|event| Event {
            action: Action::ALL[(event.id_action >> 53 & 7) as usize % Action::ALL.len()],
            time: event.time_tag & LOW_48_BITS,
            id: event.id_action & LOW_53_BITS,
            size: event.size_pool & LOW_48_BITS,
            kind: if event.id_action >> 56 & 1 == 1 { MemoryKind::Npu } else { MemoryKind::System },
            tag: names.text(StringId((event.time_tag >> 48) as u16)).cloned(),
            pool: names.text(StringId((event.size_pool >> 48) as u16)).cloned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_as_written_and_the_oldest_is_dropped() {
        let mut names = Interner::default();
        let mut ring = Ring::new(5);
        let event = |at: u64| Event {
            action: Action::ALL[at as usize % 7],
            time: at * 1_000_003,
            id: (1 << 53) - 1 - at,
            size: (1 << 48) - 1 - at,
            kind: if at.is_multiple_of(2) { MemoryKind::Npu } else { MemoryKind::System },
            tag: (!at.is_multiple_of(3)).then(|| Arc::from(format!("tag {}", at % 4))),
            pool: (at % 3 != 1).then(|| Arc::from("pool")),
        };
        for at in 0..23 {
            let Event { action, time, id, size, kind, tag, pool } = event(at);
            let label = Label::new(names.of(tag.as_ref()), names.of(pool.as_ref()), kind);
            ring.push(action, time, id, size, &label);
            let expected: Vec<_> = ((at + 1).saturating_sub(5)..=at).map(event).collect();
            assert_eq!(ring.read(&names).collect::<Vec<_>>(), expected);
            assert_eq!(ring.dropped(), (at + 1).saturating_sub(5));
        }
    }

    #[test]
    fn a_ring_of_capacity_zero_counts_its_events_as_dropped() {
        let mut ring = Ring::new(0);
        let label = Label::new(StringId::default(), StringId::default(), MemoryKind::Npu);
        ring.push(Action::Fail, 1, 2, 3, &label);
        assert_eq!((ring.read(&Interner::default()).count(), ring.dropped()), (0, 1));
    }

    #[test]
    fn strings_beyond_the_last_number_have_none() {
        let mut names = Interner::default();
        for at in 0..70_000 {
            names.of(Some(&Arc::from(at.to_string())));
        }
        let text = |names: &mut Interner, text: &str| {
            let name = names.of(Some(&Arc::from(text)));
            names.text(name).map(|text| text.to_string())
        };
        assert_eq!(text(&mut names, "65534").as_deref(), Some("65534"));
        assert_eq!(text(&mut names, "69999"), None);
    }
}
