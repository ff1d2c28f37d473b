//! Readers of `/proc` and `/sys`: memory, this process and its limits.
//!
//! A [`Proc`] has a root, so that tests read fixture trees. A reader returns `None` for a figure that its file does not
//! have. No reader fails, and none guesses.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::sys::resource::{getrlimit, Resource};
use nix::sys::sysinfo::sysinfo;

use super::reserve_fd::with_reserve;

/// A tree with `/proc` and `/sys`.
#[derive(Clone, Debug)]
pub struct Proc {
    root: PathBuf,
}

/// `/proc/meminfo`, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemInfo {
    /// RAM that the kernel manages.
    pub total: u64,
    /// Memory that a new allocation could take without swapping.
    pub available: u64,
    /// Total swap.
    pub swap_total: u64,
    /// Free swap.
    pub swap_free: u64,
    /// Contiguous memory (CMA) set aside at boot; `None` on kernels without CMA.
    pub cma_total: Option<u64>,
    /// Contiguous memory that can be allocated. The page cache borrows from CMA and gives back, so the vendor's kernels
    /// show CmaFree 0 with a nearly unused area; their CmaAllocated tells. Mainline kernels only have CmaFree.
    pub cma_free: Option<u64>,
}

/// Finds the number after `name` in lines of "name number".
pub fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// Bytes of the usual file of `/proc` or `/sys`.
const USUAL_LENGTH: usize = 4096;

/// Reads a file of `/proc` or `/sys` in one call of the kernel, if it has the usual length. Such files have size 0, so
/// [`fs::read_to_string`] reads them in many small pieces.
pub(super) fn read_text(path: &Path) -> Option<String> {
    with_reserve(|_| {
        let mut text = String::with_capacity(USUAL_LENGTH);
        // `take` hides the file, whose size the standard library would ask for.
        File::open(path)?.take(u64::MAX).read_to_string(&mut text)?;
        Ok(text)
    })
}

/// Pressure stall information: percentage of the last 10 s in which tasks waited for memory.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pressure {
    /// At least one task waited.
    pub some_avg10: f64,
    /// All tasks waited.
    pub full_avg10: f64,
    /// Time since boot in which at least one task waited, in µs.
    pub some_total: u64,
    /// Time since boot in which all tasks waited, in µs.
    pub full_total: u64,
}

/// A count and its upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    /// The current count.
    pub used: u64,
    /// The upper bound.
    pub max: u64,
}

impl Default for Proc {
    fn default() -> Self {
        Self::new("/")
    }
}

impl Proc {
    /// Reads the tree under `root`, which holds `proc` and `sys`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    pub(super) fn text(&self, path: impl AsRef<Path>) -> Option<String> {
        read_text(&self.at(path))
    }

    pub(super) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn number(&self, path: impl AsRef<Path>) -> Option<u64> {
        self.text(path)?.trim().parse().ok()
    }

    /// Reads `/proc/meminfo`.
    pub fn meminfo(&self) -> Option<MemInfo> {
        let text = self.text("proc/meminfo")?;
        let fields: HashMap<&str, u64> = text
            .lines()
            .filter_map(|line| {
                let (name, rest) = line.split_once(':')?;
                let kib: u64 = rest.trim().strip_suffix("kB")?.trim().parse().ok()?;
                Some((name, kib * 1024))
            })
            .collect();
        let field = |name: &str| fields.get(name).copied();
        Some(MemInfo {
            total: field("MemTotal")?,
            available: field("MemAvailable")?,
            swap_total: field("SwapTotal").unwrap_or(0),
            swap_free: field("SwapFree").unwrap_or(0),
            cma_total: field("CmaTotal"),
            cma_free: field("CmaTotal")
                .zip(field("CmaAllocated"))
                .map(|(total, allocated)| total.saturating_sub(allocated))
                .or_else(|| field("CmaFree")),
        })
    }

    /// Reads `/proc/meminfo`, or asks the kernel where this process cannot read that file. The kernel then tells free
    /// pages only, the least that is available: not how many of the page cache's it would give back.
    pub fn memory(&self) -> Option<MemInfo> {
        self.meminfo().or_else(|| {
            let running = self.root == Path::new("/");
            let told = running.then(|| sysinfo().ok()).flatten()?;
            Some(MemInfo {
                total: told.ram_total(),
                available: told.ram_unused(),
                swap_total: told.swap_total(),
                swap_free: told.swap_free(),
                cma_total: None,
                cma_free: None,
            })
        })
    }

    /// Reads `/proc/pressure/memory`; `None` on kernels without PSI.
    pub fn pressure(&self) -> Option<Pressure> {
        let text = self.text("proc/pressure/memory")?;
        let field = |kind: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(kind))?;
            line.split_whitespace().find_map(|field| field.strip_prefix(name))
        };
        Some(Pressure {
            some_avg10: field("some", "avg10=")?.parse().ok()?,
            full_avg10: field("full", "avg10=")?.parse().ok()?,
            some_total: field("some", "total=")?.parse().ok()?,
            full_total: field("full", "total=")?.parse().ok()?,
        })
    }

    /// Resident set of this process, in bytes.
    pub fn rss(&self) -> Option<u64> {
        let text = self.text("proc/self/status")?;
        let kib: u64 = text
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))?
            .trim()
            .strip_suffix("kB")?
            .trim()
            .parse()
            .ok()?;
        Some(kib * 1024)
    }

    /// Open file descriptors of this process, and RLIMIT_NOFILE.
    pub fn fds(&self) -> Option<Gauge> {
        let (max, _hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
        let folder = self.at("proc/self/fd");
        let used = with_reserve(|reserve_used| {
            let seen = fs::read_dir(&folder)?.count() as u64;
            // Reading the folder opens it, so one of the entries is ours. With the reserve lent out, that entry stands
            // for it.
            Ok(if reserve_used { seen } else { seen.saturating_sub(1) })
        })?;
        Some(Gauge { used, max })
    }

    /// Mappings of this process, and `vm.max_map_count`. Reads all of `/proc/self/maps`, a few ms at 20,000 mappings.
    pub fn maps(&self) -> Option<Gauge> {
        let max = self.number("proc/sys/vm/max_map_count")?;
        let used =
            with_reserve(|_| fs::read(self.at("proc/self/maps")))?.iter().filter(|byte| **byte == b'\n').count() as u64;
        Some(Gauge { used, max })
    }

    /// Bytes of this process's mappings whose name `wanted` accepts. Counts an object once, however often it is mapped.
    pub fn mapped(&self, wanted: impl Fn(&str) -> bool) -> Option<u64> {
        let maps = with_reserve(|_| fs::read(self.at("proc/self/maps")))?;
        let mut objects: HashMap<(u64, u64, u64), u64> = HashMap::new();
        for line in maps.split(|byte| *byte == b'\n') {
            // Fields: start-end perms offset dev inode name. No field before the name has a slash.
            let Some(slash) = line.iter().position(|byte| *byte == b'/') else { continue };
            let (Ok(fields), Ok(name)) = (str::from_utf8(&line[..slash]), str::from_utf8(&line[slash..])) else {
                continue;
            };
            if wanted(name) {
                let mapping = MappedObject::parse(fields)?;
                let largest = objects.entry(mapping.identity).or_default();
                *largest = (*largest).max(mapping.size);
            }
        }
        Some(objects.values().sum())
    }

    /// The nodes of the same DRM device: its card and its render node.
    pub fn drm_siblings(&self, node: &Path) -> Vec<PathBuf> {
        let folder = node
            .file_name()
            .map(|name| self.at("sys/class/drm").join(name).join("device/drm"))
            .and_then(|folder| fs::read_dir(folder).ok());
        let mut names: Vec<PathBuf> =
            folder.into_iter().flatten().flatten().map(|entry| Path::new("/dev/dri").join(entry.file_name())).collect();
        if !names.iter().any(|name| name == node) {
            names.push(node.to_owned());
        }
        names
    }

    /// Bytes of a transparent huge page; `None` if the kernel gives out none.
    pub fn huge_page_size(&self) -> Option<u64> {
        let enabled = self.text("sys/kernel/mm/transparent_hugepage/enabled")?;
        if enabled.contains("[never]") {
            return None;
        }
        self.number("sys/kernel/mm/transparent_hugepage/hpage_pmd_size")
    }

    /// NPU load per core in per cent; `None` if this user may not read it (`docs/design/rknpu.md` §6.1).
    pub fn npu_load(&self) -> Option<Vec<f64>> {
        let text = self.text("proc/rknpu/load").or_else(|| self.text("sys/kernel/debug/rknpu/load"))?;
        let figures = text.trim().strip_prefix("NPU load:")?;
        let loads: Option<Vec<f64>> = figures
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.rsplit(':').next()?.trim().strip_suffix('%')?.trim().parse().ok())
            .collect();
        loads.filter(|cores| !cores.is_empty())
    }
}

/// A line of `/proc/self/maps` that names a file.
struct MappedObject {
    /// Device, inode and offset: objects of one DRM node share the first two and differ in the last.
    identity: (u64, u64, u64),
    size: u64,
}

impl MappedObject {
    /// Parses "start-end perms offset major:minor inode". All numbers but the inode are hexadecimal.
    fn parse(fields: &str) -> Option<Self> {
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let mut fields = fields.split_ascii_whitespace();
        let (start, end) = fields.next()?.split_once('-')?;
        let offset = hex(fields.nth(1)?)?;
        let (major, minor) = fields.next()?.split_once(':')?;
        let inode = fields.next()?.parse().ok()?;
        let device = hex(major)? << 32 | hex(minor)?;
        Some(Self { identity: (device, inode, offset), size: hex(end)?.saturating_sub(hex(start)?) })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A fixture tree, removed when it drops.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> (Self, Proc) {
            let root = std::env::temp_dir().join(format!("rkllm-proc-{}-{name}", std::process::id()));
            for (path, text) in files {
                let file = root.join(path);
                fs::create_dir_all(file.parent().unwrap()).unwrap();
                fs::write(file, text).unwrap();
            }
            let proc = Proc::new(&root);
            (Self(root), proc)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn this_machine_has_memory() {
        let proc = Proc::default();
        let memory = proc.meminfo().unwrap();
        assert!(memory.available > 0 && memory.available <= memory.total);
        assert!(proc.rss().unwrap() > 0);
        let (fds, maps) = (proc.fds().unwrap(), proc.maps().unwrap());
        assert!(fds.used > 0 && fds.used < fds.max);
        assert!(maps.used > 0 && maps.used < maps.max);
    }

    #[test]
    fn an_empty_tree_has_no_figures() {
        let (_tree, proc) = Tree::new("empty", &[]);
        assert_eq!((proc.meminfo(), proc.memory()), (None, None));
        assert_eq!(proc.pressure(), None);
        assert_eq!(proc.rss(), None);
        assert_eq!(proc.fds(), None);
        assert_eq!(proc.maps(), None);
        assert_eq!(proc.npu_load(), None);
        assert_eq!(proc.mapped(|_| true), None);
    }

    #[test]
    fn a_board_with_cma() {
        let text = "MemTotal:        2048 kB\nMemAvailable:    1024 kB\nHugePages_Total:   0\n\
                    CmaTotal: 512 kB\nCmaFree: 8 kB\n";
        let (_tree, proc) = Tree::new("cma", &[("proc/meminfo", text)]);
        let memory = proc.meminfo().unwrap();
        assert_eq!((memory.total, memory.available), (2 << 20, 1 << 20));
        assert_eq!((memory.cma_total, memory.cma_free), (Some(512 << 10), Some(8 << 10)));
        assert_eq!(memory.swap_total, 0);
    }

    #[test]
    fn cma_that_the_page_cache_borrowed_is_free() {
        let text = "MemTotal: 2048 kB\nMemAvailable: 1024 kB\n\
                    CmaTotal: 512 kB\nCmaAllocated: 12 kB\nCmaReleased: 500 kB\nCmaFree: 0 kB\n";
        let (_tree, proc) = Tree::new("cma-borrowed", &[("proc/meminfo", text)]);
        assert_eq!(proc.meminfo().unwrap().cma_free, Some(500 << 10));
    }

    #[test]
    fn pressure_and_load_are_parsed() {
        let (_tree, proc) = Tree::new(
            "pressure",
            &[
                (
                    "proc/pressure/memory",
                    "some avg10=1.50 avg60=0.10 avg300=0.00 total=9\nfull avg10=0.25 avg60=0.00 avg300=0.00 total=1\n",
                ),
                ("proc/rknpu/load", "NPU load:  Core0:  7%, Core1: 12%, Core2:100%,\n"),
            ],
        );
        assert_eq!(proc.pressure(), Some(Pressure { some_avg10: 1.5, full_avg10: 0.25, some_total: 9, full_total: 1 }));
        assert_eq!(proc.npu_load(), Some(vec![7.0, 12.0, 100.0]));
        let (_tree, single) = Tree::new("single", &[("proc/rknpu/load", "NPU load:  3%\n")]);
        assert_eq!(single.npu_load(), Some(vec![3.0]));
    }

    #[test]
    fn an_object_mapped_twice_counts_once() {
        let maps = "\
1000-3000 rw-s 100000000 00:06 12     /dev/dri/renderD129\n\
5000-7000 rw-s 100000000 00:06 12     /dev/dri/renderD129\n\
7000-8000 rw-s 100002000 00:06 12     /dev/dri/renderD129\n\
8000-9000 rw-p 00000000 00:00 0 \n\
9000-a000 r-xp 00000000 08:01 99      /usr/lib/libc.so.6\n";
        let (_tree, proc) = Tree::new("mapped", &[("proc/self/maps", maps)]);
        assert_eq!(proc.mapped(|name| name == "/dev/dri/renderD129"), Some(0x3000));
    }

    #[test]
    fn both_nodes_of_a_drm_device_are_found() {
        let (_tree, proc) = Tree::new(
            "drm",
            &[
                ("sys/class/drm/renderD129/device/drm/card1/dev", ""),
                ("sys/class/drm/renderD129/device/drm/renderD129/dev", ""),
            ],
        );
        let mut nodes = proc.drm_siblings(Path::new("/dev/dri/renderD129"));
        nodes.sort();
        assert_eq!(nodes, [PathBuf::from("/dev/dri/card1"), PathBuf::from("/dev/dri/renderD129")]);
    }
}
