//! Finds and opens the devices of this machine.
//!
//! The driver's name identifies a DRM node, never its number: the NPU has been renderD128 and renderD129
//! (`docs/design/rknpu.md` §1.2). If a node cannot be opened, `/sys` tells whether it is the NPU. /dev/rknpu gets no
//! DRM ioctl, which its driver would take for another call (`docs/design/drivers.md` §2).

use std::fs;
use std::path::{Path, PathBuf};

use super::dma_heap::{heaps, DmaHeap};
use super::rknpu_gem::RknpuGem;
use super::rknpu_heap::RknpuHeap;
use super::rocket::Rocket;
use super::simulated::{Options, Simulated};
use super::soc::soc;
use super::{Backend, DeviceInfo, Kind};
use crate::error::{Error, ErrorCode, Result};

/// A candidate device.
#[derive(Debug)]
pub struct Probed {
    /// The kernel interface.
    pub kind: Kind,
    /// The node; `None` for the simulated device.
    pub path: Option<PathBuf>,
    /// The device's properties, or the reason why it cannot be used.
    pub outcome: Result<DeviceInfo>,
}

/// The roots of `/dev`, `/sys` and `/proc`; tests use other ones.
#[derive(Clone, Debug)]
pub struct Roots {
    /// Device nodes.
    pub dev: PathBuf,
    /// sysfs.
    pub sys: PathBuf,
    /// procfs.
    pub proc: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { dev: "/dev".into(), sys: "/sys".into(), proc: "/proc".into() }
    }
}

/// Lists every candidate of this machine: usable ones first, best first; then the refused ones, with the reason. Leaves
/// out absent devices.
pub fn probe() -> Vec<Probed> {
    Roots::default().probe()
}

/// Opens the device of that kind; `device` selects one of several nodes, such as a heap.
///
/// Errors: `ERR_DEVICE_NOT_FOUND` with the nodes that were tried, `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`,
/// `ERR_DEVICE_IO`.
pub fn open(kind: Kind, device: Option<&Path>) -> Result<Box<dyn Backend>> {
    Roots::default().open(kind, device)
}

/// Opens the best NPU; `None` if there is none. An NPU that exists but cannot be opened is an error, not a reason to
/// simulate. A DMA-BUF heap is no NPU: one sees a heap's buffer only if its driver imports it.
///
/// Errors: `ERR_DEVICE_PERMISSION`, `ERR_TOO_MANY_FDS`, `ERR_DEVICE_IO`.
pub fn open_best() -> Result<Option<Box<dyn Backend>>> {
    let roots = Roots::default();
    let kinds = Kind::ALL.iter().filter(|kind| !matches!(kind, Kind::DmaHeap | Kind::Simulated));
    first_opened(kinds.flat_map(|&kind| {
        let attempts = roots.attempts(kind, false).into_iter();
        let ours: Vec<_> = attempts.filter(|(path, result)| roots.concerns_us(kind, path, result)).collect();
        ours.into_iter().map(|(_, result)| result)
    }))
}

/// Returns the first success, or else the first error.
fn first_opened<T>(attempts: impl Iterator<Item = Result<T>>) -> Result<Option<T>> {
    let mut refusal = None;
    for attempt in attempts {
        match attempt {
            Ok(opened) => return Ok(Some(opened)),
            Err(error) => refusal = refusal.or(Some(error)),
        }
    }
    refusal.map_or(Ok(None), Err)
}

type Attempt = (PathBuf, Result<Box<dyn Backend>>);

impl Roots {
    /// Like the function [`probe`], under these roots.
    pub fn probe(&self) -> Vec<Probed> {
        let mut found = Vec::new();
        for &kind in Kind::ALL {
            if kind == Kind::Simulated {
                let outcome = self.open(kind, None).map(|backend| backend.info().clone());
                found.push(Probed { kind, path: None, outcome });
                continue;
            }
            let attempts = self.attempts(kind, kind == Kind::DmaHeap);
            found.extend(attempts.into_iter().filter(|(path, result)| self.concerns_us(kind, path, result)).map(
                |(path, result)| Probed {
                    kind,
                    path: Some(path),
                    outcome: result.map(|backend| backend.info().clone()),
                },
            ));
        }
        found.sort_by_key(|probed| probed.outcome.is_err()); // a stable sort keeps the order of Kind::ALL
        found
    }

    /// Like the function [`open`], under these roots.
    pub fn open(&self, kind: Kind, device: Option<&Path>) -> Result<Box<dyn Backend>> {
        if kind == Kind::Simulated {
            return match device {
                None => Ok(Box::new(Simulated::new(Options::default())?)),
                Some(path) => Err(Error::new(ErrorCode::DeviceNotFound, "the simulated device has no node").path(path)),
            };
        }
        if let Some(path) = device {
            return self.open_node(kind, &self.named(kind, path));
        }
        let mut refusal = None;
        let mut looked_at = Vec::new();
        for (path, result) in self.attempts(kind, false) {
            looked_at.push(path.display().to_string());
            let concerns_us = self.concerns_us(kind, &path, &result);
            match result {
                Ok(backend) => return Ok(backend),
                Err(error) if concerns_us => refusal = refusal.or(Some(error)),
                Err(_) => {}
            }
        }
        Err(refusal.unwrap_or_else(|| self.not_found(kind, &looked_at)))
    }

    /// Resolves the bare name of a heap.
    fn named(&self, kind: Kind, device: &Path) -> PathBuf {
        let bare = kind == Kind::DmaHeap && device.components().count() == 1 && device.is_relative();
        bare.then(|| heaps(&self.dev).into_iter().find(|heap| heap.file_name() == Some(device.as_os_str())))
            .flatten()
            .unwrap_or_else(|| device.to_owned())
    }

    fn open_node(&self, kind: Kind, path: &Path) -> Result<Box<dyn Backend>> {
        let soc = soc(&self.proc);
        Ok(match kind {
            Kind::Rknpu => Box::new(RknpuGem::open(path, soc)?),
            Kind::RknpuHeap => Box::new(RknpuHeap::open(path, soc)?),
            Kind::Rocket => Box::new(Rocket::open(path, soc)?),
            Kind::DmaHeap => Box::new(DmaHeap::open(path, soc)?),
            Kind::Simulated => return self.open(kind, Some(path)),
        })
    }

    /// Tries the nodes in order, and stops at the first that opens unless `all`. Card nodes follow render nodes,
    /// because they are the same devices.
    fn attempts(&self, kind: Kind, all: bool) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        for path in self.nodes(kind) {
            let result = self.open_node(kind, &path);
            let done = result.is_ok() && !all;
            attempts.push((path, result));
            if done {
                break;
            }
        }
        attempts
    }

    fn nodes(&self, kind: Kind) -> Vec<PathBuf> {
        match kind {
            Kind::Rknpu => {
                let mut nodes = numbered(&self.dev.join("dri"), "renderD");
                nodes.extend(numbered(&self.dev.join("dri"), "card"));
                nodes
            }
            Kind::RknpuHeap => Some(self.dev.join("rknpu")).into_iter().filter(|path| path.exists()).collect(),
            Kind::Rocket => numbered(&self.dev.join("accel"), "accel"),
            Kind::DmaHeap => heaps(&self.dev),
            Kind::Simulated => Vec::new(),
        }
    }

    /// Ignores refused DRM nodes of other drivers. For a node that may not be opened, `/sys` names the driver.
    fn concerns_us<T>(&self, kind: Kind, path: &Path, result: &Result<T>) -> bool {
        let Err(error) = result else { return true };
        match (kind, error.code()) {
            (Kind::Rknpu | Kind::Rocket, ErrorCode::DeviceNotFound) => false,
            (Kind::Rknpu, ErrorCode::DevicePermission) => self.uevent_has("drm", path, "DRIVER=RKNPU"),
            // rocket registers its node at a facade device without a driver (`docs/design/rknpu.md` §5).
            (Kind::Rocket, ErrorCode::DevicePermission) => self.uevent_has("accel", path, "MODALIAS=platform:rknn"),
            _ => true,
        }
    }

    /// Reports whether the uevent of the device behind a node has that line (`docs/design/rknpu.md` §1.2).
    fn uevent_has(&self, class: &str, node: &Path, line: &str) -> bool {
        let Some(name) = node.file_name() else { return false };
        let uevent = self.sys.join("class").join(class).join(name).join("device/uevent");
        fs::read_to_string(uevent).is_ok_and(|text| text.lines().any(|found| found == line))
    }

    fn not_found(&self, kind: Kind, looked_at: &[String]) -> Error {
        let where_it_would_be = match kind {
            Kind::Rknpu => "dri",
            Kind::RknpuHeap => "rknpu",
            Kind::Rocket => "accel",
            Kind::DmaHeap => "dma_heap",
            Kind::Simulated => "",
        };
        let place = self.dev.join(where_it_would_be);
        let place = place.display();
        let message = match looked_at {
            [] => format!("there is no {kind} device: {place} is absent or empty"),
            nodes => format!("there is no {kind} device: looked at {}", nodes.join(", ")),
        };
        Error::new(ErrorCode::DeviceNotFound, message).hint(
            "check that the kernel has the driver, and in a container that the node is passed in (--device); \
             `backend: \"simulated\"` needs no device",
        )
    }
}

/// Lists the nodes of `folder` named `prefix` and a number, by number.
fn numbered(folder: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut nodes: Vec<(u32, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name();
            let number = name.to_str()?.strip_prefix(prefix)?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(_, path)| path).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A fixture tree, removed when it drops.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> (Self, Roots) {
            let root = std::env::temp_dir().join(format!("rkllm-probe-{}-{name}", std::process::id()));
            for (path, text) in files {
                let file = root.join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            let roots = Roots { dev: root.join("dev"), sys: root.join("sys"), proc: root.join("proc") };
            (Self(root), roots)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn an_empty_machine_has_the_simulated_device_only() {
        let (_tree, roots) = Tree::new("empty", &[]);
        let found = roots.probe();
        assert_eq!(found.iter().map(|probed| probed.kind).collect::<Vec<_>>(), [Kind::Simulated]);
        for kind in [Kind::Rknpu, Kind::RknpuHeap, Kind::Rocket, Kind::DmaHeap] {
            let error = roots.open(kind, None).unwrap_err();
            assert_eq!(error.code(), ErrorCode::DeviceNotFound);
            assert!(error.to_string().contains("absent or empty") && error.details().hint.is_some(), "{error}");
        }
    }

    #[test]
    fn the_best_npu_is_taken_and_a_forbidden_one_is_an_error_only_alone() {
        let no = || Err(Error::new(ErrorCode::DevicePermission, "no"));
        assert_eq!(first_opened([Ok(Kind::RknpuHeap), Ok(Kind::Rocket)].into_iter()).unwrap(), Some(Kind::RknpuHeap));
        assert_eq!(first_opened([no(), Ok(Kind::Rocket)].into_iter()).unwrap(), Some(Kind::Rocket));
        assert_eq!(first_opened(std::iter::empty::<Result<Kind>>()).unwrap(), None);
        assert_eq!(
            first_opened([no(), no()].into_iter()).map(|_: Option<Kind>| ()).unwrap_err().code(),
            ErrorCode::DevicePermission
        );
    }

    #[test]
    fn nodes_that_do_not_answer_are_no_npu_and_the_error_names_them() {
        let (_tree, roots) =
            Tree::new("strangers", &[("dev/dri/renderD128", ""), ("dev/dri/card0", ""), ("dev/rknpu", "")]);
        let found = roots.probe();
        assert_eq!(found.iter().map(|probed| probed.kind).collect::<Vec<_>>(), [Kind::Simulated, Kind::RknpuHeap]);
        let error = roots.open(Kind::Rknpu, None).unwrap_err();
        assert!(error.to_string().contains("renderD128") && error.to_string().contains("card0"), "{error}");
        let named = roots.dev.join("dri/card0");
        let error = roots.open(Kind::Rknpu, Some(&named)).unwrap_err();
        assert_eq!(error.details().path.as_ref(), Some(&named));
    }

    #[test]
    fn a_heap_may_be_named_without_its_folder() {
        let (_tree, roots) = Tree::new("heaps", &[("dev/rk_dma_heap/rk-dma-heap-cma", "")]);
        let heap = roots.dev.join("rk_dma_heap/rk-dma-heap-cma");
        assert_eq!(roots.named(Kind::DmaHeap, Path::new("rk-dma-heap-cma")), heap);
        assert_eq!(roots.named(Kind::DmaHeap, Path::new("absent")), Path::new("absent"));
        assert_eq!(roots.named(Kind::Rknpu, Path::new("rk-dma-heap-cma")), Path::new("rk-dma-heap-cma"));
        // A regular file in a heap's place is no heap.
        let error = roots.open(Kind::DmaHeap, Some(Path::new("rk-dma-heap-cma"))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::DeviceNotFound);
    }

    #[test]
    fn nodes_are_ordered_by_number_render_before_card() {
        let (_tree, roots) = Tree::new(
            "order",
            &[
                ("dev/dri/card1", ""),
                ("dev/dri/renderD130", ""),
                ("dev/dri/renderD1290", ""),
                ("dev/dri/renderD128", ""),
                ("dev/dri/by-path/x", ""),
            ],
        );
        let names: Vec<_> = roots.nodes(Kind::Rknpu).iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["renderD128", "renderD130", "renderD1290", "card1"]);
    }

    #[test]
    fn a_forbidden_node_is_the_npu_if_sysfs_says_so() {
        let (_tree, roots) = Tree::new(
            "forbidden",
            &[
                ("sys/class/drm/renderD128/device/uevent", "DRIVER=rockchip-drm\n"),
                ("sys/class/drm/renderD129/device/uevent", "DRIVER=RKNPU\nOF_COMPATIBLE_0=rockchip,rk3588-rknpu\n"),
            ],
        );
        let forbidden = |name: &str| {
            let refused: Result<()> = Err(Error::new(ErrorCode::DevicePermission, "no"));
            roots.concerns_us(Kind::Rknpu, &roots.dev.join("dri").join(name), &refused)
        };
        assert!(!forbidden("renderD128"), "the node of the display is no refused NPU");
        assert!(forbidden("renderD129"));
        assert!(!forbidden("renderD130"));
    }

    #[test]
    fn a_forbidden_accel_node_is_the_npu_if_its_parent_is_rockets_facade() {
        let (_tree, roots) = Tree::new(
            "rocket",
            &[
                ("sys/class/accel/accel0/device/uevent", "MODALIAS=platform:rknn\n"),
                ("sys/class/accel/accel1/device/uevent", "DRIVER=amdxdna\nPCI_ID=1022:1502\nMODALIAS=pci:v00001022\n"),
                ("sys/class/accel/accel2/device/uevent", "MODALIAS=platform:rknn-other\n"),
            ],
        );
        let forbidden = |name: &str| {
            let refused: Result<()> = Err(Error::new(ErrorCode::DevicePermission, "no"));
            roots.concerns_us(Kind::Rocket, &roots.dev.join("accel").join(name), &refused)
        };
        assert!(forbidden("accel0"));
        assert!(!forbidden("accel1"), "another vendor's NPU");
        assert!(!forbidden("accel2"));
        assert!(!forbidden("accel3"));
    }
}
