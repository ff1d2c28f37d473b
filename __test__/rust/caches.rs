//! Memory management under caches that are not coherent with the device: what the CPU and the device wrote stays, with
//! maintenance of ranges and of whole objects.

#![allow(clippy::unwrap_used)]

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;

use rkllmjs_memory::allocation::{Allocation, Reachability};
use rkllmjs_memory::backend::simulated::caches::Fault;
use rkllmjs_memory::backend::simulated::{Options, Simulated};
use rkllmjs_memory::backend::{Direction, Maintenance, Request};
use rkllmjs_memory::device::memory::{Memory, Source};
use rkllmjs_memory::device::Device;
use rkllmjs_memory::manager::{Manager, NpuOptions};
use rkllmjs_memory::pool::{Layout, Pool, SlabOptions, Slice};
use rkllmjs_memory::units::KIB;

use random::Random;

const BOTH: [Maintenance; 2] = [Maintenance::Ranges, Maintenance::Objects];

fn device(maintenance: Maintenance) -> Arc<Device> {
    // A board without an IOMMU, whose objects have the previous user's bytes at first.
    let options =
        Options { soc: Some("rk3566".into()), incoherent: true, check_sync: true, maintenance, ..Options::default() };
    Device::new(Arc::new(Simulated::new(options).unwrap()))
}

fn simulated(memory: &Memory) -> &Simulated {
    memory.device().unwrap().backend().simulated().unwrap()
}

fn device_writes(memory: &Memory, at: u64, bytes: &[u8]) {
    simulated(memory).device_write(memory.object().unwrap().handle, at, bytes).unwrap();
}

fn device_sees(memory: &Memory, at: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    simulated(memory).device_read(memory.object().unwrap().handle, at, &mut bytes).unwrap();
    bytes
}

fn cpu_sees(memory: &Memory, at: u64, size: u64) -> Vec<u8> {
    let mut bytes = vec![0; size as usize];
    memory.mapping().read(at, &mut bytes);
    bytes
}

fn faults(device: &Device) -> Vec<Fault> {
    let missing = device.backend().simulated().unwrap().take_missing_syncs();
    missing.into_iter().map(|missing| missing.fault).collect()
}

fn end(allocation: &Allocation) {
    allocation.release().unwrap();
    allocation.finalize(Reachability::Unreachable);
}

#[test]
fn a_sync_of_one_slice_keeps_its_neighbours_writes() {
    for maintenance in BOTH {
        let device = device(maintenance);
        let manager = Manager::new(Arc::clone(&device), SlabOptions::default());
        let [a, b] = [(); 2].map(|()| manager.allocate_npu(4096, &NpuOptions::default()).unwrap());
        let ((memory, of_a), (same, of_b)) = (a.memory().unwrap(), b.memory().unwrap());
        assert!(Arc::ptr_eq(&memory, &same), "one slab");
        // A job on `a` has ended, while the CPU prepares `b`.
        device_writes(&memory, of_a, &[7; 4096]);
        memory.mapping().write(of_b, b"not yet synced to the device");
        manager.sync(&a, Direction::FromDevice, 0, None).unwrap();
        assert_eq!(cpu_sees(&memory, of_b, 28), b"not yet synced to the device", "{maintenance:?}");
        assert_eq!(cpu_sees(&memory, of_a, 4096), [7; 4096], "{maintenance:?}");
        // The result of a job on `b` stays when `a` is synced in either direction.
        manager.sync(&b, Direction::ToDevice, 0, None).unwrap();
        device_writes(&memory, of_b, &[9; 4096]);
        memory.mapping().write(of_a, &[8; 4096]);
        manager.sync(&a, Direction::ToDevice, 0, None).unwrap();
        assert_eq!(device_sees(&memory, of_b, 4096), [9; 4096], "{maintenance:?}");
        assert_eq!(device_sees(&memory, of_a, 4096), [8; 4096], "{maintenance:?}");
        assert_eq!(faults(&device), [], "{maintenance:?}");
        end(&a);
        end(&b);
    }
}

#[test]
fn another_thread_never_invalidates_a_shared_object() {
    let device = device(Maintenance::Objects);
    let manager = Manager::new(device, SlabOptions::default());
    let [a, b] = [(); 2].map(|()| manager.allocate_npu(4096, &NpuOptions::default()).unwrap());
    let (memory, of_b) = b.memory().unwrap();
    let job = manager.prepare_sync(&a, Direction::FromDevice, 0, None).unwrap();
    // The event loop's thread goes on while the other thread runs the job.
    memory.mapping().write(of_b, b"written meanwhile");
    job.run().unwrap();
    assert_eq!(cpu_sees(&memory, of_b, 17), b"written meanwhile");
    end(&a);
    end(&b);
}

#[test]
fn cleared_memory_is_clear_for_the_device_too() {
    for maintenance in BOTH {
        let manager = Manager::new(device(maintenance), SlabOptions::default());
        for dedicated in [false, true] {
            let options = NpuOptions { dedicated, ..NpuOptions::default() };
            let first = manager.allocate_npu(5000, &options).unwrap();
            let (memory, at) = first.memory().unwrap();
            assert_eq!(device_sees(&memory, at, 5000), [0; 5000]);
            device_writes(&memory, at, &[5; 5000]);
            drop(memory);
            end(&first);
            let second = manager.allocate_npu(5000, &options).unwrap();
            let (memory, at) = second.memory().unwrap();
            assert_eq!((cpu_sees(&memory, at, 5000), device_sees(&memory, at, 5000)), (vec![0; 5000], vec![0; 5000]));
            end(&second);
        }
    }
}

#[test]
fn uncached_memory_needs_no_syncs() {
    let manager = Manager::new(device(Maintenance::Ranges), SlabOptions::default());
    let options = NpuOptions { uncached: true, ..NpuOptions::default() };
    let buffer = manager.allocate_npu(4096, &options).unwrap();
    let (memory, at) = buffer.memory().unwrap();
    memory.mapping().write(at, b"seen");
    assert_eq!(device_sees(&memory, at, 4), b"seen");
    device_writes(&memory, at, b"both");
    assert_eq!(cpu_sees(&memory, at, 4), b"both");
    end(&buffer);
}

#[test]
fn another_device_sees_the_same_caches() {
    let (one, other) = (device(Maintenance::Ranges), device(Maintenance::Ranges));
    let object = one.backend().create(&Request::plain(4096)).unwrap();
    let fd = one.backend().export(object.handle).unwrap();
    let imported = other.backend().import(std::os::fd::AsFd::as_fd(&fd), None).unwrap();
    assert_eq!(imported.size, object.size);
    let (cpu, elsewhere) = (one.backend().map(object.handle, 64).unwrap(), other.backend().map(imported.handle, 64));
    cpu.write(0, b"frame");
    one.backend().sync(object.handle, Direction::ToDevice, 0..64).unwrap();
    let mut bytes = [0; 5];
    other.backend().simulated().unwrap().device_read(imported.handle, 0, &mut bytes).unwrap();
    assert_eq!(&bytes, b"frame");
    other.backend().simulated().unwrap().device_write(imported.handle, 0, b"boxes").unwrap();
    one.backend().sync(object.handle, Direction::FromDevice, 0..64).unwrap();
    elsewhere.unwrap().read(0, &mut bytes);
    assert_eq!(&bytes, b"boxes");
    other.backend().destroy(imported.handle).unwrap();
    one.backend().destroy(object.handle).unwrap();
}

/// A slice of the random program. `cpu` says that the last writer was the CPU, and not yet synced.
struct Known {
    slice: Slice,
    byte: u8,
    cpu: bool,
}

/// Both sides write slices, and compaction moves them with writes of either side that no sync has followed yet.
#[test]
fn compaction_carries_the_writes_of_the_cpu_and_of_the_device() {
    for (seed, maintenance) in [(1, Maintenance::Ranges), (2, Maintenance::Objects)] {
        let device = device(maintenance);
        let source = Source::Npu { device: Arc::clone(&device), request: Request::plain(1), dirty: seed == 1 };
        let layout =
            Layout { initial: 16 * KIB, max: 128 * KIB, chunk: 16 * KIB, block: None, alignment: 64, delay: 0 };
        let pool = Pool::new(Some("test".into()), source, layout, None).unwrap();
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let mut live = std::collections::BTreeMap::new();
        let mut moved = 0;
        for step in 0..1500_u64 {
            let byte = step as u8;
            let memory_of = |slice: &Slice| pool.chunk_memory(slice.chunk).unwrap().memory().unwrap();
            let ids: Vec<_> = live.keys().copied().collect();
            let some = ids.get(random.below(ids.len().max(1) as u64) as usize).copied();
            match (random.below(100), some) {
                (0..=39, _) => {
                    let most = 1 << random.below(12);
                    let size = 1 + random.below(most);
                    if let Ok((id, slice)) = pool.allocate_movable(size, 64, None) {
                        memory_of(&slice).mapping().fill(slice.offset..slice.offset + size, byte);
                        live.insert(id, (size, Known { slice, byte, cpu: true }));
                    }
                }
                (40..=59, Some(id)) => {
                    let (size, known) = live.get_mut(&id).unwrap();
                    let (memory, range) = (memory_of(&known.slice), known.slice.offset..known.slice.offset + *size);
                    // A job follows the rules: its memory is cleaned before, also what it only writes.
                    memory.sync(Direction::ToDevice, range.clone()).unwrap();
                    device_writes(&memory, range.start, &vec![byte; *size as usize]);
                    (known.byte, known.cpu) = (byte, false);
                }
                (60..=69, Some(id)) => {
                    let (size, known) = live.get_mut(&id).unwrap();
                    let (memory, range) = (memory_of(&known.slice), known.slice.offset..known.slice.offset + *size);
                    memory.sync(Direction::ToDevice, range.clone()).unwrap();
                    memory.sync(Direction::FromDevice, range.clone()).unwrap();
                    memory.mapping().fill(range, byte);
                    (known.byte, known.cpu) = (byte, true);
                }
                (70..=89, Some(id)) => {
                    pool.free_movable(id).unwrap();
                    live.remove(&id);
                }
                _ => {
                    let mut pass = pool.start_pass().unwrap();
                    while let Some(step) = pool.next_move(&mut pass) {
                        moved += step.commit().unwrap().into_iter().count();
                    }
                    for (id, (_, known)) in &mut live {
                        (known.slice, ..) = pool.movable(*id).unwrap();
                    }
                    pool.trim();
                }
            }
            for (id, (size, known)) in &live {
                let (memory, at) = (memory_of(&known.slice), known.slice.offset);
                let expected = vec![known.byte; *size as usize];
                if known.cpu {
                    assert_eq!(cpu_sees(&memory, at, *size), expected, "{maintenance:?}, step {step}: {id:?}");
                } else {
                    assert_eq!(device_sees(&memory, at, *size), expected, "{maintenance:?}, step {step}: {id:?}");
                }
            }
            assert_eq!(faults(&device), [], "{maintenance:?}, step {step}");
        }
        assert!(moved > 100, "only {moved} moves");
        for (size, known) in live.values() {
            let (memory, range) = (
                pool.chunk_memory(known.slice.chunk).unwrap().memory().unwrap(),
                known.slice.offset..known.slice.offset + size,
            );
            memory.sync(Direction::ToDevice, range.clone()).unwrap();
            memory.sync(Direction::FromDevice, range.clone()).unwrap();
            let expected = vec![known.byte; *size as usize];
            let both = (cpu_sees(&memory, range.start, *size), device_sees(&memory, range.start, *size));
            assert_eq!(both, (expected.clone(), expected));
        }
    }
}
