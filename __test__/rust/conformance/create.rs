//! Creating and destroying objects.

use crate::suite::{ensure, not_applicable, told, Case, Check, Owned, Rig, HELD};
use rkllmjs_memory::backend::{Direction, Kind, Placement, Request};
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::handle::Handle;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::{format_bytes, KIB, MIB};

pub const CASES: &[Case] = &[
    Case { name: "the device describes itself", check: describes_itself },
    Case { name: "an object of one page", check: one_page },
    Case { name: "sizes from a page to 1 MiB are whole pages and at least what was asked", check: small_sizes },
    Case { name: "objects of 16 and of 64 MiB", check: large_sizes },
    Case { name: "a size that no object has is an error", check: senseless_sizes },
    Case { name: "an alignment that is none is an error", check: senseless_alignments },
    Case { name: "device addresses are page-aligned and do not overlap", check: addresses },
    Case { name: "memory and addresses come back", check: comes_back },
    Case { name: "an alignment is honoured or refused", check: alignment },
    Case { name: "uncached memory is honoured or refused", check: uncached },
    Case { name: "contiguous memory is honoured or refused", check: contiguous },
    Case { name: "SRAM goes as far as it goes and comes back", check: sram },
    Case { name: "every IOMMU domain the device has can be used", check: domains },
    Case { name: "a domain the device has not is an error", check: senseless_domains },
    Case { name: "any core mask is taken", check: core_masks },
    Case { name: "memory called zeroed is zero", check: zeroed },
    Case { name: "a garbage handle is an error in every call", check: garbage_handles },
    Case { name: "a stale handle is an error in every call", check: stale_handles },
    Case { name: "a second destroy is an error", check: second_destroy },
];

fn describes_itself(rig: &Rig) -> Check {
    let info = rig.backend.info();
    ensure!(info.kind == rig.kind(), "kind {}", info.kind);
    ensure!(
        info.path.as_ref().is_some_and(|path| path.exists()) || info.kind == Kind::Simulated,
        "path {:?}",
        info.path
    );
    ensure!(info.iommu || info.domains == 0, "{} domains without an IOMMU", info.domains);
    ensure!(info.domains <= 16, "{} domains", info.domains);
    let gauges = rig.backend.gauges(0);
    ensure!(gauges.sram_free <= info.sram_total, "{} of {} SRAM free", gauges.sram_free, info.sram_total);
    HELD
}

fn one_page(rig: &Rig) -> Check {
    let live = rig.backend.live();
    let owned = rig.pages(1)?;
    let object = &owned.object;
    ensure!(object.size == page_size(), "size {}", object.size);
    ensure!(!object.imported, "imported");
    ensure!(object.cacheable, "not cacheable");
    ensure!(rig.backend.live() == live + 1, "live() is {} after {live}", rig.backend.live());
    owned.destroy()?;
    ensure!(rig.backend.live() == live, "live() is {} after {live}", rig.backend.live());
    HELD
}

fn small_sizes(rig: &Rig) -> Check {
    let page = page_size();
    for size in [page, 2 * page, 3 * page, 31 * page, 33 * page, MIB, MIB + page] {
        has_its_size(rig.create(&Request::plain(size))?, size)?;
    }
    HELD
}

fn large_sizes(rig: &Rig) -> Check {
    for size in [16 * MIB, 64 * MIB] {
        match rig.try_create(&Request::plain(size)) {
            Ok(owned) => has_its_size(owned, size)?,
            Err(error) if matches!(error.code(), ErrorCode::IovaExhausted | ErrorCode::OutOfMemory) => {
                return not_applicable(format!("this device is too small for {}: {error}", format_bytes(size)));
            }
            Err(error) => return Err(told(error)),
        }
    }
    HELD
}

fn has_its_size(owned: Owned, size: u64) -> Result<(), String> {
    let got = owned.object.size;
    ensure!(got >= size && got.is_multiple_of(page_size()), "{size} became {got}");
    let mapping = owned.map()?;
    ensure!(mapping.len() == got, "{got} are mapped as {}", mapping.len());
    mapping.write(got - 16, &crate::suite::mark(got));
    ensure!(crate::suite::shows(&mapping, got - 16, got), "the last bytes of {got} are missing");
    drop(mapping);
    owned.destroy()
}

fn senseless_sizes(rig: &Rig) -> Check {
    for size in [0, 1 << 41, 1 << 45, 1 << 46, 1 << 62, 1 << 63, u64::MAX - 4095, u64::MAX] {
        ensure!(rig.try_create(&Request::plain(size)).is_err(), "an object of {size} bytes was made");
    }
    // The backend rounds up or refuses sizes that are not whole pages; it never truncates.
    if let Ok(owned) = rig.try_create(&Request::plain(page_size() + 1)) {
        ensure!(owned.object.size >= 2 * page_size(), "cut to {}", owned.object.size);
    }
    HELD
}

fn senseless_alignments(rig: &Rig) -> Check {
    if rig.kind() == Kind::Simulated {
        return not_applicable("the simulated device leaves alignments to its caller");
    }
    for alignment in [0, 3, 4097, 1 << 41, u64::MAX] {
        let request = Request { alignment, ..Request::plain(page_size()) };
        ensure!(rig.try_create(&request).is_err(), "an object aligned to {alignment} was made");
    }
    HELD
}

fn addresses(rig: &Rig) -> Check {
    let page = page_size();
    let objects: Vec<Owned> = (0..32).map(|n| rig.pages(1 + n % 5)).collect::<Result<_, _>>()?;
    let mut ranges = Vec::new();
    for owned in &objects {
        let Some(address) = owned.object.device_address else {
            return not_applicable("this backend gives no device addresses");
        };
        ensure!(address.is_multiple_of(page), "address {address:#x}");
        // rocket's addresses begin at 0, which its driver hands out; the vendor's never uses page 0
        // (`docs/design/rknpu.md` §3.3).
        ensure!(address != 0 || rig.kind() == Kind::Rocket, "address 0");
        ranges.push((address, address + owned.object.size));
    }
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        ensure!(pair[0].1 <= pair[1].0, "{:#x?} and {:#x?} overlap", pair[0], pair[1]);
    }
    HELD
}

fn comes_back(rig: &Rig) -> Check {
    let size = 16 * MIB;
    // 4.5 GiB in all exceed any domain. A real kernel takes a tenth of a second for each object, so 384 MiB there, more
    // than a CMA area has.
    for round in 0..if rig.kind() == Kind::Simulated { 288 } else { 24 } {
        match rig.try_create(&Request::plain(size)) {
            Ok(owned) => owned.destroy()?,
            Err(error) if round == 0 => {
                return not_applicable(format!("too small for {}: {error}", format_bytes(size)))
            }
            Err(error) => return Err(format!("in round {round}: {}", told(error))),
        }
    }
    HELD
}

fn alignment(rig: &Rig) -> Check {
    let mut honoured = 0;
    for alignment in [64 * KIB, MIB, 2 * MIB] {
        // A small object first, so that the next free address is not aligned by chance.
        let _odd = rig.pages(1)?;
        let request = Request { alignment, ..Request::plain(page_size()) };
        let Some(owned) = rig.create_if_supported(&request)? else { continue };
        if let Some(address) = owned.object.device_address {
            ensure!(address.is_multiple_of(alignment), "{address:#x} is no multiple of {}", format_bytes(alignment));
        }
        let mapping = rig.backend.map(owned.handle(), alignment).map_err(told)?;
        ensure!((mapping.address() as u64).is_multiple_of(alignment), "mapped at {:p}", mapping.address());
        honoured += 1;
    }
    match honoured {
        0 => not_applicable("refused: ERR_UNSUPPORTED"),
        _ => HELD,
    }
}

fn uncached(rig: &Rig) -> Check {
    let request = Request { cacheable: false, ..Request::plain(MIB) };
    let Some(owned) = rig.create_if_supported(&request)? else {
        return not_applicable("refused: ERR_UNSUPPORTED");
    };
    ensure!(!owned.object.cacheable, "it says it is cacheable");
    let mapping = owned.map()?;
    // Odd offsets and lengths: Device memory would end in SIGBUS here (`docs/design/rknpu.md` §3.2).
    mapping.fill(1..MIB - 3, 0x5a);
    mapping.write(12_345, &crate::suite::mark(1));
    ensure!(crate::suite::shows(&mapping, 12_345, 1), "its bytes are not there");
    for direction in [Direction::ToDevice, Direction::FromDevice] {
        rig.backend.sync(owned.handle(), direction, 0..MIB).map_err(told)?;
    }
    HELD
}

fn contiguous(rig: &Rig) -> Check {
    let request = Request { contiguous: true, ..Request::plain(MIB) };
    let Some(owned) = rig.create_if_supported(&request)? else {
        return not_applicable("refused: ERR_UNSUPPORTED");
    };
    ensure!(owned.object.contiguous, "it says it is not");
    owned.map()?.fill(0..MIB, 1);
    HELD
}

fn sram(rig: &Rig) -> Check {
    let total = rig.backend.info().sram_total;
    let size = 64 * KIB;
    let request = Request { placement: Placement::TrySram, ..Request::plain(size) };
    let before = rig.backend.gauges(0).sram_free;
    let owned = rig.create(&request)?;
    let got = owned.object.sram;
    ensure!(got <= owned.object.size && got <= total, "{got} of {total} bytes of SRAM");
    owned.map()?.fill(0..size, 7);
    ensure!(got == 0 || !owned.object.zeroed, "SRAM is called zeroed");
    let during = rig.backend.gauges(0).sram_free;
    ensure!(before.checked_sub(during) == Some(got), "{before} bytes were free, {got} taken, {during} are left");
    owned.destroy()?;
    let after = rig.backend.gauges(0).sram_free;
    ensure!(after == before, "{before} bytes were free and {after} are now");
    match total {
        0 => not_applicable("this device has no SRAM to give"),
        _ => HELD,
    }
}

fn domains(rig: &Rig) -> Check {
    let count = rig.domains();
    if count <= 1 {
        return not_applicable(format!("this device has {count} domains to choose from"));
    }
    let mut objects = Vec::new();
    for domain in [0, 1, count / 2, count - 1] {
        let owned = rig.create(&Request { domain, ..Request::plain(MIB) })?;
        ensure!(owned.object.domain == Some(domain), "asked for {domain}, got {:?}", owned.object.domain);
        let mapping = owned.map()?;
        mapping.write(4096, &crate::suite::mark(u64::from(domain)));
        rig.backend.sync(owned.handle(), Direction::ToDevice, 0..MIB).map_err(told)?;
        objects.push((domain, owned, mapping));
    }
    for (domain, owned, mapping) in objects {
        rig.backend.sync(owned.handle(), Direction::FromDevice, 0..MIB).map_err(told)?;
        ensure!(crate::suite::shows(&mapping, 4096, domain.into()), "the bytes of domain {domain} are gone");
        drop(mapping);
        owned.destroy()?;
    }
    HELD
}

fn senseless_domains(rig: &Rig) -> Check {
    for domain in [rig.domains(), 16, 1000, u32::MAX] {
        let refused =
            rig.try_create(&Request { domain, ..Request::plain(page_size()) }).err().map(|error| error.code());
        ensure!(
            matches!(refused, Some(ErrorCode::OutOfRange | ErrorCode::Unsupported)),
            "domain {domain}: {refused:?}"
        );
    }
    HELD
}

fn core_masks(rig: &Rig) -> Check {
    for core_mask in [0, 1, 2, 3, 4, 7] {
        rig.create(&Request { core_mask, ..Request::plain(page_size()) })?.destroy()?;
    }
    HELD
}

fn zeroed(rig: &Rig) -> Check {
    let mut zero = false;
    for size in [page_size(), MIB, 3 * MIB] {
        for _ in 0..4 {
            let owned = rig.create(&Request::plain(size))?;
            let mapping = owned.map()?;
            if owned.object.zeroed {
                zero = true;
                let mut bytes = vec![1; owned.object.size as usize];
                mapping.read(0, &mut bytes);
                let dirty = bytes.iter().position(|byte| *byte != 0);
                ensure!(dirty.is_none(), "byte {dirty:?} of fresh memory is not zero");
            }
            mapping.fill(0..size, 0xa5); // The next object must not show these bytes.
            drop(mapping);
            owned.destroy()?;
        }
    }
    match zero {
        true => HELD,
        false => not_applicable("this device promises no zeroes: its caller writes them"),
    }
}

fn every_call_fails(rig: &Rig, handle: Handle) -> Result<(), String> {
    let failed = [
        ("map", rig.backend.map(handle, 64).err()),
        ("sync", rig.backend.sync(handle, Direction::ToDevice, 0..1).err()),
        ("export", rig.backend.export(handle).err()),
        ("destroy", rig.backend.destroy(handle).err()),
    ];
    for (call, error) in failed {
        let Some(error) = error else { return Err(format!("{call} took {handle:?}")) };
        ensure!(
            (error.code(), error.errno()) == (ErrorCode::DeviceIo, Some(libc::EINVAL)),
            "{call} of {handle:?}: {}",
            told(error)
        );
    }
    Ok(())
}

fn garbage_handles(rig: &Rig) -> Check {
    let _other = rig.pages(1)?;
    for raw in [0, 1, u64::from(u32::MAX), 1 << 40, 0xffff_8000_0000_1000, u64::MAX] {
        if raw != _other.handle().get() {
            every_call_fails(rig, Handle::from_raw(raw))?;
        }
    }
    HELD
}

fn stale_handles(rig: &Rig) -> Check {
    let owned = rig.pages(1)?;
    let stale = owned.handle();
    owned.destroy()?;
    every_call_fails(rig, stale)?;
    // The next object may take the same slot and the same kernel handle.
    let next = rig.pages(1)?;
    every_call_fails(rig, stale)?;
    next.map()?.fill(0..page_size(), 1);
    next.destroy()?;
    HELD
}

fn second_destroy(rig: &Rig) -> Check {
    let kept = rig.pages(1)?;
    let mapping = kept.map()?;
    mapping.write(0, &crate::suite::mark(9));
    let owned = rig.pages(1)?;
    let handle = owned.handle();
    owned.destroy()?;
    for _ in 0..3 {
        ensure!(rig.backend.destroy(handle).is_err(), "it was destroyed twice");
    }
    ensure!(crate::suite::shows(&mapping, 0, 9), "another object was hurt");
    ensure!(rig.backend.sync(kept.handle(), Direction::ToDevice, 0..16).is_ok(), "another object was hurt");
    HELD
}
