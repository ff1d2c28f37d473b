//! Interprets arbitrary bytes as operations, and compares each suballocator with the naive model of the property tests.

#![no_main]

#[path = "../../rust/suballoc/model.rs"]
mod model;

use libfuzzer_sys::fuzz_target;
use model::{Model, Op, Rules};
use rkllmjs_memory::suballoc::{Fixed, SubAllocator, Tlsf};

/// Runs the input: two bytes of header, then four bytes an operation: verb, size (two), alignment.
fn run(data: &[u8]) {
    let [kind, units, steps @ ..] = data else { return };
    let units = u64::from(*units) + 1;
    let unit = 1 << (kind >> 1 & 7);
    let rules = Rules { capacity: units * unit, unit, fixed: kind & 1 == 1 };
    let mut arena: Box<dyn SubAllocator> = if rules.fixed {
        Box::new(Fixed::new(rules.capacity, unit).expect("valid layout"))
    } else {
        Box::new(Tlsf::new(rules.capacity, unit).expect("valid layout"))
    };
    let mut model = Model::new(rules);
    for step in steps.chunks_exact(4) {
        let argument = u16::from_le_bytes([step[1], step[2]]);
        let (nth, size, align_log2) = (usize::from(argument), u64::from(argument), u32::from(step[3] & 63));
        let op = match step[0] % 16 {
            0..7 => Op::Allocate { size, align_log2: align_log2 % 12 },
            7 => Op::Allocate { size, align_log2 },
            8 => Op::AllocateAt { nth_free: usize::from(step[3]), size, align_log2: u32::from(step[0] >> 4) },
            9..13 => Op::Free { nth },
            13 => Op::FreeStale { nth },
            14 => Op::SetUserData { nth, user_data: size },
            _ => Op::Reset,
        };
        model.step(arena.as_mut(), op);
        model.compare(arena.as_ref());
    }
}

fuzz_target!(|data: &[u8]| run(data));
