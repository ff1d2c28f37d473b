//! Errors for the errnos of each call, by cause rather than by name (`docs/design/rknpu.md` §2.5 and §7).
//!
//! The vendor's driver returns EFAULT for a full address space and EINVAL for a full CMA area, so the text of an errno
//! would mislead a user. [`translate`] needs no backend; the fault-injecting decorator uses it too.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;

use super::{contiguous, mmap_failed, DeviceInfo, Kind, Placement, Request};
use crate::error::{Error, ErrorCode, Result};
use crate::sys::proc::Proc;
use crate::units::{format_bytes, GIB};

/// The call of a backend that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// Creating an object.
    Create,
    /// Importing a dma-buf.
    Import,
    /// Querying the mmap offset (MEM_MAP).
    Map,
    /// `mmap` itself.
    Mmap,
    /// Cache maintenance of the device's own memory.
    Sync,
    /// Cache maintenance of a dma-buf, by its exporter.
    SyncDmaBuf,
    /// Exporting a dma-buf fd.
    Export,
    /// Destroying an object.
    Destroy,
}

impl Call {
    /// The kernel's name of the call.
    pub const fn name(self, kind: Kind) -> &'static str {
        match (self, kind) {
            (Call::Create, Kind::DmaHeap) => "DMA_HEAP_IOCTL_ALLOC",
            (Call::Create, Kind::Rocket) => "CREATE_BO",
            (Call::Create, _) => "MEM_CREATE",
            (Call::Import, Kind::RknpuHeap) => "MEM_CREATE",
            (Call::Import | Call::Export, Kind::DmaHeap) => "fcntl(F_DUPFD_CLOEXEC)",
            (Call::Import, _) => "PRIME_FD_TO_HANDLE",
            (Call::Map, _) => "MEM_MAP",
            (Call::Mmap, _) => "mmap",
            (Call::Sync, Kind::Rknpu | Kind::Simulated) => "MEM_SYNC",
            (Call::Sync, Kind::Rocket) => "PREP_BO",
            (Call::Sync | Call::SyncDmaBuf, _) => "DMA_BUF_IOCTL_SYNC",
            (Call::Export, Kind::RknpuHeap) => "fcntl(F_DUPFD_CLOEXEC)",
            (Call::Export, _) => "PRIME_HANDLE_TO_FD",
            (Call::Destroy, Kind::Rocket) => "GEM_CLOSE",
            (Call::Destroy, Kind::DmaHeap) => "close",
            (Call::Destroy, _) => "MEM_DESTROY",
        }
    }
}

/// The circumstances of a failed call, for the figures in its message.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// The device.
    pub info: &'a DeviceInfo,
    /// Bytes that the call concerned; 0 if it concerned none.
    pub bytes: u64,
    /// The IOMMU domain.
    pub domain: u32,
    /// Whether the request wanted SRAM.
    pub sram: bool,
    /// Objects of this backend, and their bytes if known.
    pub held: (usize, Option<u64>),
}

impl<'a> Context<'a> {
    /// A context for a call on this device.
    pub fn of(info: &'a DeviceInfo, held: (usize, Option<u64>)) -> Self {
        Self { info, bytes: 0, domain: 0, sram: false, held }
    }

    /// Sets the bytes.
    pub fn bytes(self, bytes: u64) -> Self {
        Self { bytes, ..self }
    }

    /// Sets the figures of a create.
    pub fn request(self, request: &Request) -> Self {
        let sram = request.placement == Placement::TrySram;
        Self { bytes: request.size, domain: request.domain, sram, ..self }
    }

    /// Tells in a message how much this process holds on the device.
    pub(super) fn here(&self) -> String {
        match self.held {
            (objects, Some(bytes)) => format!("this process holds {objects} objects of {} on it", format_bytes(bytes)),
            (objects, None) => format!("this process holds {objects} objects on it"),
        }
    }
}

/// Translates `errno` into an error with cause, figures and a hint.
pub fn translate(call: Call, errno: Errno, at: &Context<'_>) -> Error {
    let error = match errno {
        Errno::EMFILE | Errno::ENFILE => too_many_fds(errno),
        _ if call == Call::Mmap && errno != Errno::ENODEV => {
            mmap_failed(&io::Error::from_raw_os_error(errno as i32), at.bytes)
        }
        Errno::ENODEV | Errno::ENXIO => {
            Error::new(ErrorCode::DeviceLost, format!("the {} device is gone: {}", at.info.kind, errno.desc()))
                .hint("make a new manager once the driver is back; see the kernel's log (dmesg)")
        }
        _ => match call {
            Call::Create => create_failed(errno, at),
            Call::Import => import_failed(errno, at),
            Call::Sync | Call::Destroy => sync_failed(call, errno, at),
            Call::Map | Call::Mmap | Call::Export | Call::SyncDmaBuf => unexpected(call, errno, at),
        },
    };
    let error = error.syscall(call.name(at.info.kind), errno as i32);
    let error = if at.bytes > 0 { error.requested(at.bytes) } else { error };
    match &at.info.path {
        Some(path) => error.path(path),
        None => error,
    }
}

fn create_failed(errno: Errno, at: &Context<'_>) -> Error {
    let info = at.info;
    match (info.kind, errno) {
        // The misc flavour returns EFAULT if no fd slot is free (§2.5).
        (Kind::RknpuHeap, Errno::EFAULT) => too_many_fds(errno),
        (Kind::Rknpu | Kind::Simulated, Errno::EFAULT) if info.iommu => domain_full(at),
        // The SRAM path returns ENOMEM for the same cause (§2.5).
        (Kind::Rknpu | Kind::Simulated, Errno::ENOMEM) if info.iommu && at.sram => domain_full(at),
        (Kind::Rocket, Errno::ENOSPC) => domain_full(at),
        (Kind::Rknpu | Kind::Simulated, Errno::EINVAL) if !info.iommu => {
            contiguous::full(at.info, at.bytes, &at.here())
        }
        (Kind::RknpuHeap, Errno::ENOMEM) => contiguous::full(at.info, at.bytes, &at.here()),
        (Kind::Rknpu | Kind::Simulated, Errno::EINVAL) if info.domains > 1 => domain_busy(at),
        (Kind::DmaHeap, Errno::ENOMEM) if !is_system_heap(info) => contiguous::full(at.info, at.bytes, &at.here()),
        (_, Errno::ENOMEM | Errno::ENOSPC) => ram_full(at),
        _ => unexpected(Call::Create, errno, at),
    }
}

fn import_failed(errno: Errno, at: &Context<'_>) -> Error {
    match errno {
        Errno::EBADF | Errno::EINVAL | Errno::ENOTTY => Error::new(
            ErrorCode::InvalidArgType,
            format!("the fd is not a dma-buf this device can import: {}", errno.desc()),
        )
        .hint("pass an open dma-buf fd, e.g. of a V4L2, DRM or DMA-BUF heap buffer"),
        // An import takes addresses, not memory (§3.3).
        Errno::ENOMEM | Errno::EFAULT if at.info.iommu && at.info.kind != Kind::RknpuHeap => domain_full(at),
        Errno::ENOMEM => ram_full(at),
        Errno::EOPNOTSUPP | Errno::ENOSYS => {
            Error::new(ErrorCode::Unsupported, format!("{} does not import this buffer", at.info.kind))
        }
        _ => unexpected(Call::Import, errno, at),
    }
}

fn sync_failed(call: Call, errno: Errno, at: &Context<'_>) -> Error {
    let info = at.info;
    match (info.kind, errno) {
        // The library's arguments are valid, so the switch to the object's domain remains as the cause (§2.5).
        (Kind::Rknpu | Kind::Simulated, Errno::EINVAL) if info.domains > 1 => domain_busy(at),
        (Kind::Rocket, Errno::ETIMEDOUT | Errno::EBUSY) => {
            Error::new(ErrorCode::DeviceIo, "the NPU still writes the buffer: the wait for it timed out")
                .hint("wait for the job that uses it to end, then sync again")
        }
        _ => unexpected(call, errno, at),
    }
}

fn domain_full(at: &Context<'_>) -> Error {
    let total = if at.info.domain_bytes > 0 { at.info.domain_bytes } else { 4 * GIB };
    let message = format!(
        "no {} are left in one piece in the {} that IOMMU domain {} addresses; {}",
        format_bytes(at.bytes),
        format_bytes(total),
        at.domain,
        at.here()
    );
    let hint = match at.info.domains {
        _ if at.info.kind == Kind::Rknpu && at.info.driver_is_below([0, 9, 8]) => {
            "deallocate buffers (dropped ones go when the event loop turns), use smaller ones, or stop other users of \
             the NPU: they share its addresses, and with a driver below 0.9.8 another process that switches the IOMMU \
             domain causes the same errno"
        }
        0 | 1 => {
            "deallocate buffers (dropped ones go when the event loop turns), use smaller ones, or stop other users of \
             the NPU: they share its addresses"
        }
        _ => {
            "deallocate buffers (dropped ones go when the event loop turns), use smaller ones or another iommuDomain, \
             or stop other users of the NPU"
        }
    };
    Error::new(ErrorCode::IovaExhausted, message).limit(format!("domain:{}", at.domain), total).hint(hint)
}

fn ram_full(at: &Context<'_>) -> Error {
    let memory = Proc::default().meminfo();
    let available = memory.map(|memory| memory.available);
    let figures = available.map_or_else(String::new, |bytes| format!(", {} are available", format_bytes(bytes)));
    let error = Error::new(
        ErrorCode::OutOfMemory,
        format!("the kernel has no {} of memory for the device{figures}; {}", format_bytes(at.bytes), at.here()),
    )
    .hint(
        "free buffers or stop other programs; drivers before 0.9 take memory below 4 GiB only, which can be full while \
         RAM is free",
    );
    match memory {
        Some(memory) => error.available(memory.available).limit("ram", memory.total),
        None => error,
    }
}

/// The error for a device that another process holds in another domain, and for an import that never found domain 0.
pub(super) fn domain_busy(at: &Context<'_>) -> Error {
    Error::new(
        ErrorCode::DomainBusy,
        format!(
            "the driver could not switch to IOMMU domain {}: a job of another domain held the NPU for 6 s",
            at.domain
        ),
    )
    .hint("try again when that job has ended, or use the domain that it uses")
}

/// The number of IOMMU domains of the vendor's driver (`docs/design/rknpu.md` §3.4).
pub(crate) const MAX_DOMAINS: u32 = 16;

/// The error for an IOMMU domain that the device does not have.
pub(crate) fn no_domain(info: &DeviceInfo, domain: u32) -> Error {
    let refused = |code, message: String| {
        let error = Error::new(code, message).limit("domains", info.domains.into());
        match &info.driver_version {
            Some(version) => error.driver_version(version),
            None => error,
        }
    };
    let version = info.driver_version.as_deref().unwrap_or("of an unknown version");
    match (info.kind, info.iommu, info.domains) {
        (_, false, _) => {
            refused(ErrorCode::OutOfRange, format!("there is no IOMMU domain {domain}: this device has no IOMMU"))
                .hint("leave `iommuDomain` out")
        }
        (Kind::Rknpu, true, 1) if domain < MAX_DOMAINS && info.driver_is_below([0, 9, 8]) => refused(
            ErrorCode::Unsupported,
            format!(
                "IOMMU domain {domain} is not usable with rknpu {version}: drivers below 0.9.8 do not hold the domain \
                 during a call, and a switch would fail the allocations of every process"
            ),
        )
        .hint("leave `iommuDomain` out, or update the board's kernel to one with rknpu 0.9.8"),
        (Kind::Rknpu, true, _) if domain < MAX_DOMAINS => refused(
            ErrorCode::Unsupported,
            format!("this build of rknpu {version} accepts IOMMU domain {domain} and uses domain 0 (no CONFIG_NO_GKI)"),
        )
        .hint("leave `iommuDomain` out"),
        (_, true, count) => refused(
            ErrorCode::OutOfRange,
            format!("there is no IOMMU domain {domain}: this device has domains 0 to {}", count.max(1) - 1),
        ),
    }
}

fn unexpected(call: Call, errno: Errno, at: &Context<'_>) -> Error {
    let name = call.name(at.info.kind);
    let what = if at.bytes > 0 { format!("{name} of {}", format_bytes(at.bytes)) } else { name.to_owned() };
    let error = Error::new(ErrorCode::DeviceIo, format!("{what} failed: {errno}; {}", at.here()));
    match errno {
        Errno::ENOTTY => error.hint("the node does not know this driver's ioctls: was the driver replaced?"),
        _ => error.hint("the kernel's log may say more (dmesg)"),
    }
}

fn is_system_heap(info: &DeviceInfo) -> bool {
    let name = info.path.as_deref().and_then(Path::file_name).and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with("system"))
}

/// The error for EMFILE and ENFILE, with the count and its bound.
pub(super) fn too_many_fds(errno: Errno) -> Error {
    if errno == Errno::ENFILE {
        // file-nr: open files, 0, the bound. Root is exempt from the bound (§7), so the figures can look impossible.
        let figures = fs::read_to_string("/proc/sys/fs/file-nr").ok().and_then(|text| {
            let mut numbers = text.split_whitespace().map(|number| number.parse::<u64>().ok());
            Some((numbers.next()??, numbers.nth(1)??))
        });
        let error = match figures {
            Some((used, max)) => Error::new(
                ErrorCode::TooManyFds,
                format!("the system has {used} open files and may have {max}: every NPU buffer is one"),
            )
            .limit("files", max),
            None => Error::new(ErrorCode::TooManyFds, "the system has no room for one more open file"),
        };
        return error.hint("raise fs.file-max (sysctl), free buffers, or make fewer and larger ones");
    }
    let error = match Proc::default().fds() {
        Some(fds) => Error::new(
            ErrorCode::TooManyFds,
            format!("this process has {} file descriptors and may have {} (RLIMIT_NOFILE)", fds.used, fds.max),
        )
        .limit("fds", fds.max),
        None => Error::new(ErrorCode::TooManyFds, "this process has no free file descriptor (RLIMIT_NOFILE)"),
    };
    error.hint("raise RLIMIT_NOFILE (ulimit -n), free buffers, or make fewer and larger ones")
}

/// The error for a device node that could not be opened. `group` is the group that owns the node, if it has a name.
pub(super) fn open_failed(kind: Kind, path: &Path, errno: Errno, group: Option<&str>) -> Error {
    let shown = path.display();
    let error = match errno {
        Errno::EACCES | Errno::EPERM => {
            let error =
                Error::new(ErrorCode::DevicePermission, format!("{shown} exists, but this user may not open it"));
            error.hint(match group {
                Some(group) if group != "root" => format!("add the user to the group \"{group}\" and log in again"),
                _ => udev_rule(kind, path),
            })
        }
        Errno::ENOENT => Error::new(ErrorCode::DeviceNotFound, format!("{shown} does not exist")),
        Errno::ENODEV | Errno::ENXIO => {
            Error::new(ErrorCode::DeviceNotFound, format!("{shown} exists, but no driver answers"))
        }
        Errno::EMFILE | Errno::ENFILE => too_many_fds(errno),
        _ => Error::new(ErrorCode::DeviceIo, format!("opening {shown} failed: {errno}")),
    };
    error.syscall("open", errno as i32).path(path)
}

/// A rule for nodes that default udev rules give to no group (`docs/design/rknpu.md` §1.3).
fn udev_rule(kind: Kind, path: &Path) -> String {
    let rule = match kind {
        Kind::DmaHeap if path.parent().is_some_and(|folder| folder.ends_with("rk_dma_heap")) => {
            "SUBSYSTEM==\"rk_dma_heap\", GROUP=\"video\", MODE=\"0660\""
        }
        Kind::DmaHeap => "SUBSYSTEM==\"dma_heap\", GROUP=\"video\", MODE=\"0660\"",
        Kind::Rocket => "SUBSYSTEM==\"accel\", GROUP=\"render\", MODE=\"0660\"",
        Kind::RknpuHeap => "KERNEL==\"rknpu\", GROUP=\"render\", MODE=\"0660\"",
        Kind::Rknpu | Kind::Simulated => "SUBSYSTEM==\"drm\", KERNEL==\"renderD*\", GROUP=\"render\", MODE=\"0660\"",
    };
    format!("add a udev rule ({rule} in /etc/udev/rules.d/99-npu.rules) and be in that group")
}

/// Refuses requests that no driver may get, because some drivers crash on them (`docs/design/drivers.md` §1.2). The
/// caller checks the device's true limits.
pub(super) fn check(request: &Request, page: u64) -> Result<()> {
    let sane = request.size > 0
        && request.size.is_multiple_of(page)
        && request.size <= 1 << 40
        && request.alignment.is_power_of_two()
        && request.alignment <= 1 << 40;
    if sane {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::OutOfRange,
        format!("no kernel object has {} bytes at a multiple of {}", request.size, request.alignment),
    )
    .requested(request.size)
    .hint("sizes are whole pages, alignments powers of two"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::units::MIB;

    fn device(kind: Kind, iommu: bool, domains: u32) -> DeviceInfo {
        DeviceInfo {
            kind,
            path: Some("/dev/x".into()),
            soc: None,
            driver_version: None,
            npu_cores: None,
            iommu,
            domains,
            domain_bytes: 4 * GIB,
            sram_total: 0,
        }
    }

    fn code(info: &DeviceInfo, call: Call, errno: Errno) -> ErrorCode {
        let error = translate(call, errno, &Context::of(info, (3, Some(MIB))).bytes(MIB));
        assert!(error.details().hint.is_some(), "{call:?} {errno} has no hint: {error}");
        assert_eq!(error.errno(), Some(errno as i32));
        assert_eq!(error.details().syscall, Some(call.name(info.kind)));
        error.code()
    }

    #[test]
    fn one_errno_has_several_causes() {
        use ErrorCode::*;
        let iommu = device(Kind::Rknpu, true, 16);
        let one_domain = device(Kind::Rknpu, true, 1);
        let cma = device(Kind::Rknpu, false, 0);
        let misc = device(Kind::RknpuHeap, false, 0);
        let heap = DeviceInfo { path: Some("/dev/dma_heap/system".into()), ..device(Kind::DmaHeap, false, 0) };
        let rocket = device(Kind::Rocket, true, 1);
        for (info, call, errno, expected) in [
            (&iommu, Call::Create, Errno::EFAULT, IovaExhausted),
            (&misc, Call::Create, Errno::EFAULT, TooManyFds),
            (&cma, Call::Create, Errno::EFAULT, DeviceIo),
            (&iommu, Call::Create, Errno::EINVAL, DomainBusy),
            (&one_domain, Call::Create, Errno::EINVAL, DeviceIo),
            (&cma, Call::Create, Errno::EINVAL, OutOfMemory),
            (&iommu, Call::Create, Errno::ENOMEM, OutOfMemory),
            (&misc, Call::Create, Errno::ENOMEM, OutOfMemory),
            (&heap, Call::Create, Errno::ENOMEM, OutOfMemory),
            (&rocket, Call::Create, Errno::ENOSPC, IovaExhausted),
            (&iommu, Call::Create, Errno::ENFILE, TooManyFds),
            (&iommu, Call::Export, Errno::EMFILE, TooManyFds),
            (&iommu, Call::Sync, Errno::EINVAL, DomainBusy),
            (&cma, Call::Sync, Errno::EINVAL, DeviceIo),
            (&iommu, Call::SyncDmaBuf, Errno::EINVAL, DeviceIo),
            (&iommu, Call::Destroy, Errno::EINVAL, DomainBusy),
            (&iommu, Call::Import, Errno::EINVAL, InvalidArgType),
            (&iommu, Call::Import, Errno::ENOMEM, IovaExhausted),
            (&cma, Call::Import, Errno::ENOMEM, OutOfMemory),
            (&iommu, Call::Sync, Errno::ENODEV, DeviceLost),
            (&iommu, Call::Map, Errno::ENXIO, DeviceLost),
            (&iommu, Call::Mmap, Errno::ENODEV, DeviceLost),
            (&rocket, Call::Sync, Errno::ETIMEDOUT, DeviceIo),
        ] {
            assert_eq!(code(info, call, errno), expected, "{} {call:?} {errno}", info.kind);
        }
    }

    #[test]
    fn exhaustion_names_its_bound() {
        let info = device(Kind::Rknpu, true, 16);
        let at = Context { domain: 3, ..Context::of(&info, (2, Some(MIB))).bytes(8 * MIB) };
        let error = translate(Call::Create, Errno::EFAULT, &at);
        let details = error.details();
        assert_eq!((details.scope.as_deref(), details.limit), (Some("domain:3"), Some(4 * GIB)));
        assert_eq!(details.requested, Some(8 * MIB));
        assert!(details.message.contains("2 objects of 1 MiB"), "{error}");

        let error = too_many_fds(Errno::EMFILE);
        assert_eq!(error.details().scope.as_deref(), Some("fds"));
        assert!(error.to_string().contains("RLIMIT_NOFILE"));
        assert_eq!(too_many_fds(Errno::ENFILE).details().scope.as_deref(), Some("files"));
    }

    #[test]
    fn a_forbidden_node_names_its_group_or_a_udev_rule() {
        let refused = |kind, path: &str, group| {
            let error = open_failed(kind, Path::new(path), Errno::EACCES, group);
            assert_eq!(error.code(), ErrorCode::DevicePermission);
            error.details().hint.clone().unwrap()
        };
        assert!(refused(Kind::Rknpu, "/dev/dri/renderD129", Some("render")).contains("group \"render\""));
        assert!(refused(Kind::RknpuHeap, "/dev/rknpu", Some("root")).contains("KERNEL==\"rknpu\""));
        assert!(refused(Kind::DmaHeap, "/dev/dma_heap/system", None).contains("SUBSYSTEM==\"dma_heap\""));
        assert!(refused(Kind::DmaHeap, "/dev/rk_dma_heap/x", None).contains("SUBSYSTEM==\"rk_dma_heap\""));
    }

    #[test]
    fn a_senseless_request_reaches_no_driver() {
        let request = |size, alignment| Request {
            size,
            alignment,
            cacheable: true,
            contiguous: false,
            placement: Placement::Dram,
            domain: 0,
            core_mask: 0,
        };
        assert!(check(&request(4096, 4096), 4096).is_ok());
        for (size, alignment) in [(0, 4096), (4095, 4096), (1 << 45, 4096), (u64::MAX, 4096), (4096, 0), (4096, 3)] {
            assert_eq!(check(&request(size, alignment), 4096).unwrap_err().code(), ErrorCode::OutOfRange);
        }
    }
}
