//! Export and import.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::{fcntl, open, FcntlArg, FdFlag, OFlag};
use nix::sys::memfd::{memfd_create, MFdFlags};
use nix::sys::stat::Mode;
use nix::unistd::{ftruncate, lseek, pipe, Whence};

use crate::suite::{ensure, mark, not_applicable, shows, told, Case, Check, Outcome, Owned, Rig, HELD, NO_IMPORT};
use rkllmjs_memory::backend::{Direction, Request};
use rkllmjs_memory::error::ErrorCode;
use rkllmjs_memory::sys::mapping::Mapping;
use rkllmjs_memory::sys::page::page_size;
use rkllmjs_memory::units::MIB;

pub const CASES: &[Case] = &[
    Case { name: "an export is a close-on-exec fd of the object's size", check: export_is_an_fd },
    Case { name: "an export shows the object's bytes and takes writes", check: export_shows_bytes },
    Case { name: "an export survives the object", check: export_survives },
    Case { name: "every export is an fd of its own", check: exports_are_apart },
    Case { name: "an import of our own export is the object itself", check: own_import },
    Case { name: "each import needs its own destroy", check: imports_are_counted },
    Case { name: "an import survives the destroy of the original", check: import_survives },
    Case { name: "an import works after its fd was closed", check: import_keeps_the_buffer },
    Case { name: "a foreign dma-buf shows its bytes both ways", check: foreign },
    Case { name: "a foreign dma-buf imported twice is one object", check: foreign_twice },
    Case { name: "an import can be exported again", check: reexport },
    Case { name: "an import takes its size bound", check: size_bound },
    Case { name: "what is no dma-buf is refused and left alone", check: no_dma_buf },
    Case { name: "a device that imports nothing says so", check: refuses_imports },
];

fn mapped(fd: BorrowedFd<'_>, size: u64) -> Result<Mapping, String> {
    Mapping::shared(fd, 0, size, page_size()).map_err(|error| format!("mapping an export: {error}"))
}

fn import(rig: &Rig, fd: &OwnedFd) -> Result<Owned, String> {
    Ok(rig.own(rig.backend.import(fd.as_fd(), None).map_err(told)?))
}

fn export_is_an_fd(rig: &Rig) -> Check {
    let owned = rig.pages(5)?;
    let fd = owned.export()?;
    let flags = fcntl(&fd, FcntlArg::F_GETFD).map(FdFlag::from_bits_retain).map_err(|error| error.to_string())?;
    ensure!(flags.contains(FdFlag::FD_CLOEXEC), "a child would inherit it");
    let size = lseek(&fd, 0, Whence::SeekEnd).map_err(|error| error.to_string())?;
    // The file of a simulated object has the views of its model of the caches behind the bytes.
    let views = rig.backend.simulated().map_or(1, |device| device.views_of(owned.handle()));
    ensure!(size as u64 == owned.object.size * views, "{size} bytes for an object of {}", owned.object.size);
    HELD
}

fn export_shows_bytes(rig: &Rig) -> Check {
    let owned = rig.create(&Request::plain(MIB))?;
    let here = owned.map()?;
    here.write(0, &mark(1));
    here.write(MIB - 16, &mark(2));
    let fd = owned.export()?;
    let there = mapped(fd.as_fd(), MIB)?;
    ensure!(shows(&there, 0, 1) && shows(&there, MIB - 16, 2), "it shows other bytes");
    there.write(4096, &mark(3));
    ensure!(shows(&here, 4096, 3), "a write through it is not seen");
    HELD
}

fn export_survives(rig: &Rig) -> Check {
    let owned = rig.pages(2)?;
    owned.map()?.write(page_size(), &mark(4));
    let (fd, size) = (owned.export()?, owned.object.size);
    owned.destroy()?;
    ensure!(shows(&mapped(fd.as_fd(), size)?, page_size(), 4), "its bytes are gone");
    HELD
}

fn exports_are_apart(rig: &Rig) -> Check {
    let owned = rig.pages(1)?;
    let (one, two) = (owned.export()?, owned.export()?);
    drop(one);
    mapped(two.as_fd(), page_size())?.write(0, &mark(5));
    ensure!(shows(&owned.map()?, 0, 5), "the second shows other bytes");
    HELD
}

fn own_import(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let owned = rig.create(&Request::plain(MIB))?;
    let live = rig.backend.live();
    let again = import(rig, &owned.export()?)?;
    ensure!(again.handle() == owned.handle(), "{:?} is not {:?}", again.handle(), owned.handle());
    ensure!(again.object.device_address == owned.object.device_address, "another device address");
    ensure!(again.object.imported, "it does not say that it was imported");
    ensure!(rig.backend.live() == live, "it counts twice");
    again.map()?.write(64, &mark(6));
    ensure!(shows(&owned.map()?, 64, 6), "it shows other bytes");
    again.destroy()?;
    owned.destroy()?;
    HELD
}

fn imports_are_counted(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let owned = rig.pages(1)?;
    let handle = owned.handle();
    let fd = owned.export()?;
    let imports = (0..3).map(|_| import(rig, &fd)).collect::<Result<Vec<_>, _>>()?;
    owned.destroy()?;
    for again in imports {
        ensure!(again.handle() == handle, "another handle");
        ensure!(rig.backend.sync(handle, Direction::ToDevice, 0..64).is_ok(), "it is gone before its last destroy");
        again.destroy()?;
    }
    ensure!(rig.backend.destroy(handle).is_err(), "it is there after its last destroy");
    HELD
}

fn import_survives(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let owned = rig.pages(2)?;
    owned.map()?.write(0, &mark(7));
    let again = import(rig, &owned.export()?)?;
    let address = owned.object.device_address;
    owned.destroy()?;
    // The next object must not get its memory, its address or its kernel handle.
    let next = rig.pages(2)?;
    next.map()?.fill(0..2 * page_size(), 0xff);
    ensure!(next.handle() != again.handle(), "the next object got its handle");
    ensure!(address.is_none() || next.object.device_address != address, "the next object got its address");
    ensure!(shows(&again.map()?, 0, 7), "its bytes are gone");
    rig.backend.sync(again.handle(), Direction::ToDevice, 0..page_size()).map_err(told)?;
    HELD
}

fn import_keeps_the_buffer(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let Some((fd, memory)) = rig.foreign(MIB)? else { return no_foreign() };
    memory.write(0, &mark(8));
    let again = import(rig, &fd)?;
    drop((fd, memory));
    let mapping = again.map()?;
    ensure!(shows(&mapping, 0, 8), "its bytes are gone");
    rig.backend.sync(again.handle(), Direction::FromDevice, 0..MIB).map_err(told)?;
    drop(mapping);
    again.destroy()?;
    HELD
}

fn no_foreign() -> Check {
    not_applicable("/dev/udmabuf is not here: no foreign dma-buf to import")
}

fn foreign(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let Some((fd, memory)) = rig.foreign(MIB)? else { return no_foreign() };
    memory.write(4096, &mark(1));
    let owned = import(rig, &fd)?;
    ensure!(owned.object.imported, "it does not say that it was imported");
    ensure!(owned.object.size == MIB, "{} bytes", owned.object.size);
    ensure!(!owned.object.zeroed, "it is called zeroed");
    let mapping = owned.map()?;
    ensure!(shows(&mapping, 4096, 1), "it shows other bytes");
    mapping.write(MIB - 16, &mark(2));
    for direction in [Direction::ToDevice, Direction::FromDevice] {
        rig.backend.sync(owned.handle(), direction, 0..MIB).map_err(told)?;
    }
    ensure!(shows(&memory, MIB - 16, 2), "a write is not seen by its owner");
    HELD
}

fn foreign_twice(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let Some((fd, _memory)) = rig.foreign(page_size())? else { return no_foreign() };
    let live = rig.backend.live();
    let duplicate = fd.try_clone().map_err(|error| error.to_string())?;
    let (one, two) = (import(rig, &fd)?, import(rig, &duplicate)?);
    ensure!(one.handle() == two.handle(), "two handles");
    ensure!(rig.backend.live() == live + 1, "it counts {} times", rig.backend.live() - live);
    one.destroy()?;
    two.map()?.write(0, &mark(3));
    two.destroy()?;
    HELD
}

fn reexport(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let Some((fd, memory)) = rig.foreign(2 * page_size())? else { return no_foreign() };
    let owned = import(rig, &fd)?;
    let again = owned.export()?;
    owned.destroy()?;
    mapped(again.as_fd(), 2 * page_size())?.write(page_size(), &mark(4));
    ensure!(shows(&memory, page_size(), 4), "it shows other bytes");
    HELD
}

fn size_bound(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let owned = rig.pages(2)?;
    let size = owned.object.size;
    let fd = owned.export()?;
    for fits in [1, page_size(), size] {
        rig.own(rig.backend.import(fd.as_fd(), Some(fits)).map_err(told)?).destroy()?;
    }
    // A backend knows its own export, and must look at the bound nevertheless.
    for too_much in [size + 1, u64::MAX] {
        let refused = rig.backend.import(fd.as_fd(), Some(too_much)).err().map(|error| error.code());
        ensure!(refused == Some(ErrorCode::OutOfRange), "{too_much} of our own {size}: {refused:?}");
    }
    let Some((foreign, _memory)) = rig.foreign(page_size())? else { return no_foreign() };
    for too_much in [page_size() + 1, 1 << 40, u64::MAX] {
        let refused = rig.backend.import(foreign.as_fd(), Some(too_much)).err().map(|error| error.code());
        ensure!(refused == Some(ErrorCode::OutOfRange), "{too_much} of one page: {refused:?}");
    }
    HELD
}

fn no_dma_buf(rig: &Rig) -> Check {
    if !rig.imports() {
        return not_applicable(NO_IMPORT);
    }
    let words = |error: std::io::Error| error.to_string();
    let unsealed = memfd_create("rkllm-conformance", MFdFlags::MFD_CLOEXEC).map_err(|error| error.to_string())?;
    ftruncate(&unsealed, page_size() as i64).map_err(|error| error.to_string())?;
    let (read, write) = pipe().map_err(|error| error.to_string())?;
    // Every ioctl and mmap of an O_PATH fd is EBADF: the kernel treats it as closed.
    let closed =
        open("/dev/null", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(|error| error.to_string())?;
    let mut file = File::open("/proc/self/exe").map_err(words)?;
    file.read_exact(&mut [0; 7]).map_err(words)?;
    let null = File::open("/dev/null").map_err(words)?;
    for (name, fd) in [
        ("a memfd", unsealed.as_fd()),
        ("a pipe", read.as_fd()),
        ("a pipe's other end", write.as_fd()),
        ("a closed fd", closed.as_fd()),
        ("a file", file.as_fd()),
        ("/dev/null", null.as_fd()),
    ] {
        match rig.backend.import(fd, None) {
            Ok(object) => {
                drop(rig.own(object));
                return Err(format!("{name} was imported"));
            }
            Err(error) => ensure!(error.code() == ErrorCode::InvalidArgType, "{name}: {}", told(error)),
        }
    }
    ensure!(file.stream_position().map_err(words)? == 7, "the file's position was moved");
    HELD
}

fn refuses_imports(rig: &Rig) -> Check {
    if rig.imports() {
        return not_applicable("this driver imports");
    }
    let owned = rig.pages(1)?;
    let refused = rig.backend.import(owned.export()?.as_fd(), None).err().map(|error| error.code());
    ensure!(refused == Some(ErrorCode::Unsupported), "{refused:?}");
    Ok(Outcome::Held)
}
