//! Mappings and cache maintenance.

use crate::suite::{ensure, mark, not_applicable, shows, told, Case, Check, Rig, HELD};
use rkllmjs_memory::backend::{Direction, Request};
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::MIB;

pub const CASES: &[Case] = &[
    Case { name: "bytes survive an unmap", check: bytes_survive },
    Case { name: "two mappings show the same bytes", check: two_mappings },
    Case { name: "a mapping reaches from the first byte to the last", check: whole_object },
    Case { name: "two objects share no byte", check: no_shared_bytes },
    Case { name: "a mapping is aligned as asked", check: alignment },
    Case { name: "an object can be mapped and unmapped many times", check: many_times },
    Case { name: "memory that was mapped outlives its object", check: outlives },
    Case { name: "sync of everything, both ways", check: sync_all },
    Case { name: "sync of odd ranges", check: sync_odd },
    Case { name: "sync of nothing does nothing", check: sync_empty },
    Case { name: "sync beyond the object is an error", check: sync_outside },
    Case { name: "bytes are what they were after a sync", check: sync_keeps },
    Case { name: "a sync of a range keeps writes elsewhere in the object", check: sync_keeps_others },
    Case { name: "what either side wrote reaches the other one by a sync", check: sync_reaches },
];

fn bytes_survive(rig: &Rig) -> Check {
    let owned = rig.create(&Request::plain(4 * MIB))?;
    let mapping = owned.map()?;
    for n in 0..1024 {
        mapping.write(n * page_size().min(4096), &mark(n));
    }
    rig.backend.sync(owned.handle(), Direction::ToDevice, 0..4 * MIB).map_err(told)?;
    drop(mapping);
    let mapping = owned.map()?;
    for n in 0..1024 {
        ensure!(shows(&mapping, n * page_size().min(4096), n), "place {n} is not as it was left");
    }
    HELD
}

fn two_mappings(rig: &Rig) -> Check {
    let owned = rig.pages(3)?;
    let (one, two) = (owned.map()?, owned.map()?);
    ensure!(one.address() != two.address(), "both are at {:p}", one.address());
    one.write(page_size(), &mark(1));
    two.write(2 * page_size(), &mark(2));
    ensure!(shows(&two, page_size(), 1) && shows(&one, 2 * page_size(), 2), "they show different bytes");
    drop(one);
    ensure!(shows(&two, page_size(), 1), "one took the other with it");
    HELD
}

fn whole_object(rig: &Rig) -> Check {
    for pages in [1, 2, 17, 257] {
        let owned = rig.pages(pages)?;
        let size = owned.object.size;
        let mapping = owned.map()?;
        ensure!(mapping.len() == size, "{} of {size} bytes", mapping.len());
        mapping.write(0, &mark(3));
        mapping.write(size - 16, &mark(4));
        ensure!(shows(&mapping, 0, 3) && shows(&mapping, size - 16, 4), "an end of {size} bytes is missing");
    }
    HELD
}

fn no_shared_bytes(rig: &Rig) -> Check {
    let objects = (0..16).map(|_| rig.pages(2)).collect::<Result<Vec<_>, _>>()?;
    let mappings = objects.iter().map(|owned| owned.map()).collect::<Result<Vec<_>, _>>()?;
    for (n, mapping) in mappings.iter().enumerate() {
        mapping.fill(0..mapping.len(), 0xee);
        mapping.write(100, &mark(n as u64));
    }
    for (n, mapping) in mappings.iter().enumerate() {
        ensure!(shows(mapping, 100, n as u64), "object {n} has another's bytes");
    }
    drop(mappings);
    HELD
}

fn alignment(rig: &Rig) -> Check {
    let owned = rig.pages(5)?;
    for alignment in [1, 64, page_size(), 1 << 16, 1 << 21] {
        let mapping = rig.backend.map(owned.handle(), alignment).map_err(told)?;
        let address = mapping.address() as u64;
        ensure!(address.is_multiple_of(alignment.max(page_size())), "{address:#x} for {alignment}");
        ensure!(mapping.len() == owned.object.size, "{} bytes", mapping.len());
        mapping.fill(0..mapping.len(), 1);
    }
    HELD
}

fn many_times(rig: &Rig) -> Check {
    let owned = rig.pages(1)?;
    for n in 0..500 {
        let mapping = owned.map()?;
        mapping.write(0, &mark(n));
    }
    ensure!(shows(&owned.map()?, 0, 499), "the last bytes are not there");
    HELD
}

fn outlives(rig: &Rig) -> Check {
    // The manager retires its mapping before the destroy; another mapping must still not fault.
    let owned = rig.pages(4)?;
    let mapping = owned.map()?;
    mapping.write(0, &mark(5));
    owned.destroy()?;
    ensure!(shows(&mapping, 0, 5), "its bytes are gone");
    mapping.fill(0..mapping.len(), 6);
    HELD
}

fn sync_all(rig: &Rig) -> Check {
    for size in [page_size(), MIB, 16 * MIB] {
        let owned = rig.create(&Request::plain(size))?;
        let mapping = owned.map()?;
        mapping.fill(0..size, 2);
        for direction in [Direction::ToDevice, Direction::FromDevice, Direction::FromDevice, Direction::ToDevice] {
            rig.backend.sync(owned.handle(), direction, 0..owned.object.size).map_err(told)?;
        }
        drop(mapping);
    }
    HELD
}

fn sync_odd(rig: &Rig) -> Check {
    let owned = rig.pages(3)?;
    let size = owned.object.size;
    for range in [0..1, 1..2, 63..65, 64..128, 4095..4097, size - 1..size, 1..size - 1, size - 65..size] {
        for direction in [Direction::ToDevice, Direction::FromDevice] {
            rig.backend
                .sync(owned.handle(), direction, range.clone())
                .map_err(|error| format!("{range:?}: {}", told(error)))?;
        }
    }
    HELD
}

fn sync_empty(rig: &Rig) -> Check {
    let owned = rig.pages(1)?;
    let size = owned.object.size;
    for range in [0..0, 5..5, size..size] {
        rig.backend.sync(owned.handle(), Direction::ToDevice, range).map_err(told)?;
    }
    HELD
}

fn sync_outside(rig: &Rig) -> Check {
    let owned = rig.pages(2)?;
    let size = owned.object.size;
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..size + 1, size..size + 64, size + 1..size + 1, 64..32, 0..u64::MAX, u64::MAX - 64..u64::MAX] {
        for direction in [Direction::ToDevice, Direction::FromDevice] {
            ensure!(
                rig.backend.sync(owned.handle(), direction, range.clone()).is_err(),
                "{range:?} of {size} was taken"
            );
        }
    }
    HELD
}

fn sync_keeps(rig: &Rig) -> Check {
    let owned = rig.pages(4)?;
    let mapping = owned.map()?;
    for (n, at) in [0, 48, 64, 4096, 4 * page_size() - 16].into_iter().enumerate() {
        mapping.write(at, &mark(n as u64));
    }
    // Clean, then invalidate a range that shares cache lines with its neighbours.
    rig.backend.sync(owned.handle(), Direction::ToDevice, 0..owned.object.size).map_err(told)?;
    rig.backend.sync(owned.handle(), Direction::FromDevice, 50..4100).map_err(told)?;
    for (n, at) in [0, 48, 64, 4096, 4 * page_size() - 16].into_iter().enumerate() {
        ensure!(shows(&mapping, at, n as u64), "the bytes at {at} changed");
    }
    HELD
}

fn sync_keeps_others(rig: &Rig) -> Check {
    let owned = rig.pages(4)?;
    let mapping = owned.map()?;
    mapping.write(page_size(), &mark(1));
    mapping.write(2 * page_size() - 64, &mark(2));
    for range in [0..page_size(), 2 * page_size()..owned.object.size] {
        for direction in [Direction::FromDevice, Direction::ToDevice, Direction::FromDevice] {
            rig.backend.sync(owned.handle(), direction, range.clone()).map_err(told)?;
        }
    }
    ensure!(
        shows(&mapping, page_size(), 1) && shows(&mapping, 2 * page_size() - 64, 2),
        "the page between lost writes"
    );
    HELD
}

fn sync_reaches(rig: &Rig) -> Check {
    let Some(device) = rig.backend.simulated() else { return not_applicable("only a simulated NPU runs jobs here") };
    for cacheable in [true, false] {
        let owned = rig.create(&Request { cacheable, ..Request::plain(4 * page_size()) })?;
        let mapping = owned.map()?;
        let mut bytes = [0; 16];
        mapping.write(page_size() + 8, &mark(1));
        rig.backend.sync(owned.handle(), Direction::ToDevice, page_size()..page_size() + 64).map_err(told)?;
        device.device_read(owned.handle(), page_size() + 8, &mut bytes).map_err(told)?;
        ensure!(bytes == mark(1), "the device reads {bytes:?}");
        device.device_write(owned.handle(), 3 * page_size(), &mark(2)).map_err(told)?;
        rig.backend.sync(owned.handle(), Direction::FromDevice, 3 * page_size()..owned.object.size).map_err(told)?;
        ensure!(shows(&mapping, 3 * page_size(), 2), "the CPU does not see what the device wrote");
    }
    HELD
}
