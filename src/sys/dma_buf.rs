//! Tells the dma-bufs among file descriptors, with their sizes.
#![forbid(unsafe_code)]

use std::fs;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{fcntl, FcntlArg, SealFlag};
use nix::sys::stat::fstat;
use nix::sys::statfs::{fstatfs, FsType};
use nix::unistd::{lseek, Whence};

/// The magic number of the file system of dma-bufs since Linux 5.3 ("DMAB").
const DMA_BUF_MAGIC: FsType = FsType(0x444d_4142);

/// The name of the memfds that stand for dma-bufs on the simulated device.
pub const SIMULATED_NAME: &str = "rkllm-simulated-npu";

/// The name of those whose caches are not coherent. Their file has [`INCOHERENT_VIEWS`] views of the bytes.
pub const INCOHERENT_NAME: &str = "rkllm-simulated-npu-incoherent";
/// The views of the CPU, of the device, and of what the caches held last.
pub const INCOHERENT_VIEWS: u64 = 3;

/// The properties of a dma-buf, read from its fd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DmaBuf {
    /// The size in bytes.
    pub size: u64,
    /// Device and inode number, which are the same for every fd of one buffer. `None` before Linux 5.3, where all
    /// buffers share one inode.
    pub identity: Option<(u64, u64)>,
}

impl DmaBuf {
    /// Inspects `fd`.
    ///
    /// Errors: EINVAL for a file that is no dma-buf, which stays as it was; those of fstat(2).
    pub fn inspect(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = fstat(fd)?;
        let modern = fstatfs(fd)?.filesystem_type() == DMA_BUF_MAGIC;
        // Older kernels give a dma-buf an anonymous inode with this name.
        if !modern && link(fd) != "anon_inode:dmabuf" {
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

    /// Inspects `fd`, which may be an export of the simulated device too: a memfd of its name, sealed so that it never
    /// shrinks under a mapping.
    ///
    /// Errors: those of [`inspect`](Self::inspect).
    pub fn inspect_any(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let refusal = match Self::inspect(fd) {
            Err(Errno::EINVAL) => Errno::EINVAL,
            other => return other,
        };
        let named = link(fd).strip_prefix("/memfd:").is_some_and(|name| name.starts_with(SIMULATED_NAME));
        let sealed = || {
            let seals = fcntl(fd, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_retain);
            seals.is_ok_and(|seals| seals.contains(SealFlag::F_SEAL_SHRINK))
        };
        if !named || !sealed() {
            return Err(refusal);
        }
        let stat = fstat(fd)?;
        let size = u64::try_from(stat.st_size).unwrap_or(0) / simulated_views(fd);
        Ok(Self { size, identity: Some((stat.st_dev, stat.st_ino)) })
    }
}

/// Returns the number of views in the file behind an export of the simulated device.
pub fn simulated_views(fd: BorrowedFd<'_>) -> u64 {
    match link(fd).strip_prefix("/memfd:").is_some_and(|name| name.starts_with(INCOHERENT_NAME)) {
        true => INCOHERENT_VIEWS,
        false => 1,
    }
}

/// The path that `/proc` shows for `fd`, which tells what kind of file it is; empty for a closed one.
pub fn link(fd: BorrowedFd<'_>) -> String {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap_or_default();
    link.to_string_lossy().into_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::CStr;
    use std::fs::File;
    use std::os::fd::{AsFd, OwnedFd};

    use nix::sys::memfd::{memfd_create, MFdFlags};
    use nix::unistd::{ftruncate, pipe};

    use super::*;

    fn memfd(name: &CStr, seal: bool) -> OwnedFd {
        let fd = memfd_create(name, MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap();
        ftruncate(&fd, 8192).unwrap();
        if seal {
            fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).unwrap();
        }
        fd
    }

    #[test]
    fn only_dma_bufs_and_sealed_exports_of_the_simulated_device_pass() {
        let export = memfd(c"rkllm-simulated-npu", true);
        assert_eq!(DmaBuf::inspect_any(export.as_fd()).unwrap().size, 8192);
        assert_eq!(DmaBuf::inspect(export.as_fd()), Err(Errno::EINVAL));
        let incoherent = memfd(c"rkllm-simulated-npu-incoherent", true);
        assert_eq!(DmaBuf::inspect_any(incoherent.as_fd()).unwrap().size, 8192 / INCOHERENT_VIEWS);
        let (read, write) = pipe().unwrap();
        let file = File::open("/proc/self/exe").unwrap();
        for (what, fd) in [
            ("an unsealed memfd", memfd(c"rkllm-simulated-npu", false).as_fd()),
            ("a stranger's memfd", memfd(c"other", true).as_fd()),
            ("a pipe", read.as_fd()),
            ("its other end", write.as_fd()),
            ("a file", file.as_fd()),
            ("/dev/null", File::open("/dev/null").unwrap().as_fd()),
        ] {
            assert_eq!(DmaBuf::inspect_any(fd), Err(Errno::EINVAL), "{what}");
        }
    }
}
