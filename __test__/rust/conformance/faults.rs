//! Fails every call once with each of its errnos: nothing is left behind, and the error has a remedy.

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;

use crate::suite::{ensure, mark, open_fds, Case, Check, Rig, HELD};
use rkllmjs_memory::backend::errno::Call;
use rkllmjs_memory::backend::fault_injecting::{Fault, FaultInjecting};
use rkllmjs_memory::backend::{Backend, Direction, Request};
use rkllmjs_memory::error::Error;
use rkllmjs_memory::sys::page::page_size;

pub const CASES: &[Case] =
    &[Case { name: "every call fails with every errno and leaves nothing behind", check: sweep }];

/// Errnos by call, from `docs/design/rknpu.md` §2.5, §4.2, §5 and §7.
const ERRNOS: &[(Call, &[i32])] = &[
    (
        Call::Create,
        &[
            libc::EFAULT,
            libc::EINVAL,
            libc::ENOMEM,
            libc::ENOSPC,
            libc::EMFILE,
            libc::ENFILE,
            libc::ENODEV,
            libc::ENXIO,
            libc::ENOTTY,
            libc::EIO,
        ],
    ),
    (
        Call::Import,
        &[libc::EBADF, libc::EINVAL, libc::ENOMEM, libc::EMFILE, libc::EFAULT, libc::EIO, libc::ENODEV, libc::ENOSYS],
    ),
    (Call::Map, &[libc::ENOENT, libc::EINVAL, libc::ENODEV]),
    (Call::Mmap, &[libc::ENOMEM, libc::EACCES, libc::EINVAL, libc::ENXIO, libc::ENODEV, libc::EAGAIN]),
    (Call::Sync, &[libc::EINVAL, libc::ETIMEDOUT, libc::EBUSY, libc::ENODEV, libc::EIO]),
    (Call::SyncDmaBuf, &[libc::EINVAL, libc::EAGAIN, libc::EINTR, libc::ENOTTY]),
    (Call::Export, &[libc::EMFILE, libc::ENFILE, libc::ENOENT, libc::ENOMEM, libc::ENOSYS]),
    (Call::Destroy, &[libc::EINVAL, libc::ENODEV, libc::EIO]),
];

/// Counts file mappings, which include all of the backend's; the allocator's are private.
fn shared_mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|rights| rights.ends_with('s'))).count()
}

/// Runs one object's lifecycle, and undoes it at the first error, as every caller must.
fn life(device: &dyn Backend, imports: bool) -> Result<(), Error> {
    let object = device.create(&Request::plain(2 * page_size()))?;
    let result = (|| {
        let mapping = device.map(object.handle, page_size())?;
        mapping.write(0, &mark(1));
        device.sync(object.handle, Direction::ToDevice, 0..object.size)?;
        device.sync(object.handle, Direction::FromDevice, 0..64)?;
        let fd = device.export(object.handle)?;
        if imports {
            let again = device.import(fd.as_fd(), None)?;
            device.destroy(again.handle)?;
        }
        Ok(())
    })();
    // The handle is invalid afterwards, even if this call fails.
    let ended = device.destroy(object.handle);
    result.and(ended)
}

fn sweep(rig: &Rig) -> Check {
    let device = FaultInjecting::new(Arc::clone(&rig.backend));
    let imports = rig.imports();
    let before = (device.live(), open_fds(), shared_mappings());
    for (call, errnos) in ERRNOS {
        // The number of times that a lifecycle makes the call.
        let times = match call {
            Call::Sync | Call::SyncDmaBuf => 2,
            Call::Destroy if imports => 2,
            Call::Import if !imports => continue,
            _ => 1,
        };
        for errno in *errnos {
            for nth in 1..=times {
                device.fail(Fault::new(*call, nth, *errno));
                let error = match life(&device, imports) {
                    Ok(()) => return Err(format!("{call:?} {errno}: no error was reported")),
                    Err(error) => error,
                };
                ensure!(device.pending() == 0, "{call:?} was not made {nth} times");
                ensure!(error.errno() == Some(*errno), "{call:?} {errno} became {error:?}");
                ensure!(error.details().syscall.is_some(), "{call:?} {errno} names no call");
                let now = (device.live(), open_fds(), shared_mappings());
                ensure!(now == before, "{call:?} {errno}: objects, fds and mappings were {before:?} and are {now:?}");
            }
        }
    }
    life(&device, imports).map_err(|error| format!("afterwards: {error}"))?;
    HELD
}
