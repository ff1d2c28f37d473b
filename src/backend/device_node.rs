//! Helpers of the backends of real devices: opening a node, and inspecting a dma-buf fd.
//!
//! A path may come from the user, so the kernel is asked for the driver's name before the driver gets a private ioctl:
//! other drivers give the same numbers another meaning (`docs/design/rknpu.md` §1.2). A DRM node answers
//! DRM_IOCTL_VERSION; /dev/rknpu would take that for another call, so sysfs names the drivers of all other nodes.

use std::fs;
use std::ops::Range;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{fcntl, open, FcntlArg, OFlag};
use nix::sys::stat::{fstat, major, minor, stat, FileStat, Mode, SFlag};

use super::cache_maintenance::maintain_object;
use super::errno::{open_failed, too_many_fds};
use super::{Direction, Kind};
use crate::abi::dma_buf;
use crate::error::{Error, ErrorCode, Result};
use crate::sys::dma_buf::DmaBuf;
use crate::units::format_bytes;

/// The major numbers of DRM nodes, of accel nodes and of misc devices (`docs/design/rknpu.md` §1.1).
const DRM_MAJOR: u64 = 226;
const ACCEL_MAJOR: u64 = 261;
const MISC_MAJOR: u64 = 10;

/// Opens the node of a device of that kind with `access`, close-on-exec: a forked child would share its handles
/// (`docs/design/rknpu.md` §3.6).
///
/// The file is looked at before it is opened, because an open can block (a FIFO) or act (a watchdog). Without
/// O_NONBLOCK, a FIFO that takes the file's place meanwhile would block.
///
/// Errors: `ERR_DEVICE_NOT_FOUND` for a file that is no node of that kind, `ERR_DEVICE_PERMISSION`,
/// `ERR_TOO_MANY_FDS`, `ERR_DEVICE_IO`.
pub(super) fn open_node(kind: Kind, path: &Path, access: OFlag) -> Result<OwnedFd> {
    let failed = |errno| open_failed(kind, path, errno, group_of(path).as_deref());
    check_node(kind, path, &stat(path).map_err(failed)?)?;
    let node = open(path, access | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()).map_err(failed)?;
    check_node(kind, path, &fstat(&node).map_err(failed)?)?;
    fcntl(&node, FcntlArg::F_SETFL(access)).map_err(failed)?;
    Ok(node)
}

/// Refuses a file that cannot be a node of that kind.
fn check_node(kind: Kind, path: &Path, stat: &FileStat) -> Result<()> {
    let not_found = |message: String| {
        Err(Error::new(ErrorCode::DeviceNotFound, message).path(path).hint(format!(
            "name a {kind} node, or leave `device` out: `probeDevices()` lists the nodes of this machine"
        )))
    };
    let what = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
        SFlag::S_IFCHR => {
            return match is_of_kind(kind, path, stat.st_rdev) {
                true => Ok(()),
                false => not_found(format!("{} is not a node of {kind}", path.display())),
            }
        }
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        SFlag::S_IFBLK => "a block device",
        _ => "a regular file",
    };
    not_found(format!("{} is {what}, not a device", path.display()))
}

/// Reports whether the device number belongs to that kind, as far as numbers and sysfs say. The name that a DRM driver
/// reports is left to the caller.
fn is_of_kind(kind: Kind, path: &Path, rdev: u64) -> bool {
    match kind {
        Kind::Rknpu => major(rdev) == DRM_MAJOR,
        Kind::Rocket => major(rdev) == ACCEL_MAJOR,
        // Without sysfs, only the file's own name is left to judge by.
        Kind::RknpuHeap => {
            let named = || path.file_name().is_some_and(|name| name == "rknpu");
            major(rdev) == MISC_MAJOR && kernel_name(rdev).map_or_else(named, |name| name == "rknpu")
        }
        Kind::DmaHeap => {
            kernel_name(rdev).is_none_or(|name| name.starts_with("dma_heap/") || name.starts_with("rk_dma_heap/"))
        }
        Kind::Simulated => false,
    }
}

/// The kernel's description of a device number; the path may not exist.
fn in_sysfs(rdev: u64) -> PathBuf {
    PathBuf::from(format!("/sys/dev/char/{}:{}", major(rdev), minor(rdev)))
}

/// The kernel's name of a node, relative to /dev, e.g. "dma_heap/system". `None` without a readable sysfs.
fn kernel_name(rdev: u64) -> Option<String> {
    let uevent = fs::read_to_string(in_sysfs(rdev).join("uevent")).ok()?;
    uevent.lines().find_map(|line| line.strip_prefix("DEVNAME=")).map(str::to_owned)
}

/// The device behind a node. See [`identity`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Identity {
    /// The file system and the inode of the device's folder in sysfs.
    Device(u64, u64),
    /// The node's own number, without a readable sysfs.
    Node(u64),
    /// A file that is no device.
    Path(PathBuf),
}

/// Identifies the device behind a node: the card and the render node of one NPU have the same identity, and so has a
/// symlink to either.
pub fn identity(path: &Path) -> Identity {
    let node = stat(path).ok().filter(|node| SFlag::from_bits_truncate(node.st_mode) & SFlag::S_IFMT == SFlag::S_IFCHR);
    let Some(node) = node else { return Identity::Path(path.to_owned()) };
    stat(&in_sysfs(node.st_rdev).join("device"))
        .map_or(Identity::Node(node.st_rdev), |device| Identity::Device(device.st_dev, device.st_ino))
}

/// Finds the name of the group that owns `path`.
pub(super) fn group_of(path: &Path) -> Option<String> {
    let gid = fs::metadata(path).ok()?.gid();
    let groups = fs::read_to_string("/etc/group").ok()?;
    // Fields: name:password:gid:members.
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(gid)).then(|| name.to_owned())
    })
}

/// Inspects `fd`. Refuses a file that is no dma-buf before a driver sees it, and a size beyond the buffer's end.
///
/// Errors: `ERR_INVALID_ARG_TYPE`, `ERR_OUT_OF_RANGE`.
pub(super) fn inspect(fd: BorrowedFd<'_>, wanted: Option<u64>) -> Result<DmaBuf> {
    let buffer = DmaBuf::inspect(fd).map_err(|errno| {
        Error::new(ErrorCode::InvalidArgType, format!("the fd is not a dma-buf: {}", errno.desc()))
            .syscall("fstat", errno as i32)
            .hint("pass an open dma-buf fd, e.g. of a V4L2, DRM or DMA-BUF heap buffer")
    })?;
    match wanted.filter(|wanted| *wanted > buffer.size) {
        None => Ok(buffer),
        Some(wanted) => {
            Err(Error::new(ErrorCode::OutOfRange, format!("the dma-buf has only {}", format_bytes(buffer.size)))
                .requested(wanted)
                .available(buffer.size))
        }
    }
}

/// DMA_BUF_IOCTL_SYNC of the whole buffer. A CPU write ends where the device's turn starts.
pub(super) fn sync_dma_buf(fd: BorrowedFd<'_>, direction: Direction) -> Result<(), Errno> {
    maintain_object(direction, |direction| match direction {
        Direction::FromDevice => dma_buf::sync(fd, dma_buf::SYNC_START | dma_buf::SYNC_READ),
        Direction::ToDevice => match dma_buf::sync(fd, dma_buf::SYNC_END | dma_buf::SYNC_WRITE) {
            // udmabuf requires the pair (`docs/design/rknpu.md` §4.5): it refuses the end of an access that never
            // started. Other exporters get no start, because one that ignores its direction could drop CPU writes.
            Err(Errno::EINVAL) => {
                dma_buf::sync(fd, dma_buf::SYNC_START | dma_buf::SYNC_WRITE)?;
                dma_buf::sync(fd, dma_buf::SYNC_END | dma_buf::SYNC_WRITE)
            }
            result => result,
        },
    })
}

/// Duplicates an fd, close-on-exec.
pub(super) fn duplicate(fd: BorrowedFd<'_>) -> Result<OwnedFd> {
    fd.try_clone_to_owned().map_err(|error| {
        let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let refusal = match errno {
            Errno::EMFILE | Errno::ENFILE => too_many_fds(errno),
            _ => Error::new(ErrorCode::DeviceIo, format!("duplicating a file descriptor failed: {error}")),
        };
        refusal.syscall("fcntl(F_DUPFD_CLOEXEC)", errno as i32)
    })
}

/// Refuses a range beyond the object; the driver would not refuse it (`docs/design/drivers.md` §1.4).
pub(super) fn inside(range: Range<u64>, size: u64, call: &'static str) -> Result<Range<u64>> {
    if range.start <= range.end && range.end <= size {
        return Ok(range);
    }
    Err(Error::new(
        ErrorCode::OutOfRange,
        format!("bytes {}..{} are not inside the object's {size}", range.start, range.end),
    )
    .syscall(call, Errno::EINVAL as i32))
}

/// The error for an object whose address has the wrong alignment. The caller has destroyed the object.
pub(super) fn misplaced(address: u64, alignment: u64) -> Error {
    Error::new(
        ErrorCode::Unsupported,
        format!("the driver gave the device address {address:#x}, which is no multiple of {}", format_bytes(alignment)),
    )
    .hint("ask for a smaller alignment")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn a_file_that_is_no_dma_buf_is_refused_and_keeps_its_position() {
        use std::io::{Read, Seek, Write};
        let path = std::env::temp_dir().join(format!("rkllm-node-{}", std::process::id()));
        fs::write(&path, b"0123456789").unwrap();
        let mut file = fs::File::options().read(true).write(true).open(&path).unwrap();
        let mut two = [0; 2];
        file.read_exact(&mut two).unwrap();
        let error = inspect(file.as_fd(), None).unwrap_err();
        assert_eq!((error.code(), error.errno()), (ErrorCode::InvalidArgType, Some(libc::EINVAL)));
        assert_eq!(file.stream_position().unwrap(), 2, "the seek moved the file's position");
        file.write_all(b"x").unwrap();
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn ranges_stay_inside() {
        assert_eq!(inside(0..0, 4096, "X").unwrap(), 0..0);
        assert_eq!(inside(4096..4096, 4096, "X").unwrap(), 4096..4096);
        #[allow(clippy::reversed_empty_ranges)]
        for bad in [0..4097, 4097..4097, 2..1, u64::MAX..u64::MAX] {
            assert_eq!(inside(bad, 4096, "X").unwrap_err().code(), ErrorCode::OutOfRange);
        }
    }

    #[test]
    fn a_missing_node_is_not_found_and_a_group_has_a_name() {
        let error = open_node(Kind::RknpuHeap, Path::new("/nonexistent/rknpu"), OFlag::O_RDWR).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceNotFound);
        assert_eq!(error.details().path.as_deref(), Some(Path::new("/nonexistent/rknpu")));
        assert_eq!(group_of(Path::new("/")).as_deref(), Some("root"));
    }

    #[test]
    fn a_file_that_is_no_device_is_named_and_never_opened() {
        let folder = std::env::temp_dir().join(format!("rkllm-nodes-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let fifo = folder.join("fifo");
        nix::unistd::mkfifo(&fifo, Mode::S_IRWXU).unwrap();
        for kind in [Kind::Rknpu, Kind::RknpuHeap, Kind::Rocket, Kind::DmaHeap] {
            for (path, what) in [(&fifo, "a FIFO"), (&folder, "a directory")] {
                // An open of the FIFO for reading would wait here for a writer.
                let error = open_node(kind, path, OFlag::O_RDONLY).unwrap_err();
                assert_eq!(error.code(), ErrorCode::DeviceNotFound);
                assert!(error.to_string().contains(what), "{error}");
            }
            let error = open_node(kind, Path::new("/dev/null"), OFlag::O_RDWR).unwrap_err();
            assert_eq!(error.code(), ErrorCode::DeviceNotFound, "{kind}: {error}");
        }
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn names_of_one_device_have_one_identity() {
        let link = std::env::temp_dir().join(format!("rkllm-link-{}", std::process::id()));
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        assert_eq!(identity(&link), identity(Path::new("/dev/null")));
        assert_ne!(identity(Path::new("/dev/zero")), identity(Path::new("/dev/null")));
        fs::remove_file(&link).unwrap();
        assert_eq!(identity(&link), Identity::Path(link), "a name without a file is its own identity");
    }
}
