//! Helpers of the backends of real devices: opening a node, and inspecting a dma-buf fd.

use std::fs;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{open, OFlag};
use nix::sys::stat::{fstat, Mode};
use nix::sys::statfs::{fstatfs, FsType};
use nix::unistd::{lseek, Whence};

use super::errno::{open_failed, too_many_fds};
use super::{Direction, Kind};
use crate::abi::dma_buf;
use crate::error::{Error, ErrorCode, Result};
use crate::units::format_bytes;

/// Opens a device node, close-on-exec: a forked child would share its handles (`docs/design/rknpu.md` §3.6).
pub(super) fn open_node(kind: Kind, path: &Path) -> Result<OwnedFd> {
    open(path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|errno| open_failed(kind, path, errno, group_of(path).as_deref()))
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

/// The magic number of the file system of dma-bufs since Linux 5.3 ("DMAB").
const DMA_BUF_MAGIC: FsType = FsType(0x444d_4142);

/// The properties of a dma-buf, read from its fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DmaBuf {
    /// The size in bytes.
    pub(super) size: u64,
    /// Device and inode number, which are the same for every fd of one buffer. `None` before Linux 5.3, where all
    /// buffers share one inode.
    pub(super) identity: Option<(u64, u64)>,
}

impl DmaBuf {
    /// Inspects `fd`. Refuses a file that is no dma-buf before a driver sees it, and a size beyond the buffer's end.
    ///
    /// Errors: `ERR_INVALID_ARG_TYPE`, `ERR_OUT_OF_RANGE`.
    pub(super) fn of(fd: BorrowedFd<'_>, wanted: Option<u64>) -> Result<Self> {
        let buffer = Self::inspect(fd).map_err(|errno| {
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

    fn inspect(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = fstat(fd)?;
        let modern = fstatfs(fd)?.filesystem_type() == DMA_BUF_MAGIC;
        // Older kernels give a dma-buf an anonymous inode with this name.
        let old = || {
            let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
            link.as_os_str() == "anon_inode:dmabuf"
        };
        if !modern && !old() {
            return Err(Errno::EINVAL);
        }
        // The seek comes after the check: on any other file it would move the position under the file's owner.
        let size = u64::try_from(lseek(fd, 0, Whence::SeekEnd)?).unwrap_or(0);
        let _ = lseek(fd, 0, Whence::SeekSet);
        match size {
            0 => Err(Errno::EINVAL),
            size => Ok(Self { size, identity: modern.then_some((stat.st_dev, stat.st_ino)) }),
        }
    }
}

/// DMA_BUF_IOCTL_SYNC for one direction. A CPU write ends where the device's turn starts.
pub(super) fn sync_dma_buf(fd: BorrowedFd<'_>, direction: Direction) -> Result<(), Errno> {
    match direction {
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
    }
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
        let error = DmaBuf::of(file.as_fd(), None).unwrap_err();
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
        let error = open_node(Kind::RknpuHeap, Path::new("/nonexistent/rknpu")).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceNotFound);
        assert_eq!(error.details().path.as_deref(), Some(Path::new("/nonexistent/rknpu")));
        assert_eq!(group_of(Path::new("/")).as_deref(), Some("root"));
    }
}
