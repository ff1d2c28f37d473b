//! The memory controllers over this process: what cgroups v2 and v1 leave of the RAM.
//!
//! Every group on the way to the root limits the process, each with a usage of its own. The group with the tightest
//! limit may have room while an ancestor with a larger limit is nearly full, so [`Groups::read`] compares the bytes
//! that are left. The kernel throttles a v2 group above `memory.high` until it hardly advances, so that limit counts
//! like `memory.max`. Hybrid systems have the controller in one of the two hierarchies; both are read.
//!
//! [`Proc::groups`] finds the folders once. A process sees a part of each hierarchy: a container mounts its own subtree
//! (the mount's root is its group), and a cgroup namespace shows paths relative to its root ("/", "/..", "/../x").
#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::proc::{field, read_text, Proc};

/// The figures of one memory controller, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cgroup {
    /// The limit: the smaller of `memory.max` and `memory.high`; of v1, `memory.limit_in_bytes`. `None` without any.
    pub limit: Option<u64>,
    /// Usage of the group.
    pub current: u64,
    /// Page cache within `current`. The kernel drops it before it refuses memory; a model file that was read stays in
    /// it.
    pub cache: u64,
}

impl Cgroup {
    /// The bytes below the limit; `None` without a limit.
    pub fn left(&self) -> Option<u64> {
        self.limit.map(|limit| limit.saturating_sub(self.current.saturating_sub(self.cache)))
    }
}

/// The groups of one reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// The group with the fewest bytes left; `None` without any limit.
    pub group: Option<Cgroup>,
    /// The smallest limit of all groups, also where another group has fewer bytes left.
    pub smallest_limit: Option<u64>,
}

/// The cgroups above this process: the groups of each hierarchy, its own first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    members: Vec<Group>,
    /// The folder of this process's own v2 group, with or without a memory controller.
    own: Option<PathBuf>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    folder: PathBuf,
    version: Version,
    /// A limit of v1 that invisible ancestors impose. Their usage is unknown, and at least the group's.
    inherited: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// The files of one version.
struct Files {
    current: &'static str,
    limits: &'static [&'static str],
    /// The names of the page cache in `memory.stat`, as alternatives: v1 counts descendants under names of their own.
    cache: [&'static [&'static str]; 2],
}

const V2: Files = Files {
    current: "memory.current",
    limits: &["memory.max", "memory.high"],
    cache: [&["active_file"], &["inactive_file"]],
};
const V1: Files = Files {
    current: "memory.usage_in_bytes",
    limits: &["memory.limit_in_bytes"],
    cache: [&["total_active_file", "active_file"], &["total_inactive_file", "inactive_file"]],
};
/// The limit of RAM and swap together, and its usage; v1 with swap accounting.
const V1_SWAP: (&str, &str) = ("memory.memsw.limit_in_bytes", "memory.memsw.usage_in_bytes");

/// v1 writes "no limit" as the largest whole number of pages. No machine has as many bytes.
const NO_LIMIT: u64 = 1 << 60;

impl Group {
    fn files(&self) -> &'static Files {
        match self.version {
            Version::V1 => &V1,
            Version::V2 => &V2,
        }
    }

    fn text(&self, name: &str) -> Option<String> {
        read_text(&self.folder.join(name))
    }

    /// Reads a figure. "max" means no limit, and does not parse.
    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.trim().parse().ok()
    }

    fn limit_in(&self, name: &str) -> Option<u64> {
        self.number(name).filter(|limit| *limit < NO_LIMIT)
    }

    fn limit(&self) -> Option<u64> {
        let own = self.files().limits.iter().filter_map(|name| self.limit_in(name)).min();
        own.into_iter().chain(self.inherited).min()
    }

    fn cache(&self) -> u64 {
        let stat = self.text("memory.stat").unwrap_or_default();
        let counted = |names: &[&str]| names.iter().find_map(|name| field(&stat, name)).unwrap_or(0);
        self.files().cache.iter().map(|names| counted(names)).sum()
    }

    /// Reads the figures of a group without a limit.
    fn unlimited(&self) -> Option<Cgroup> {
        let current = self.number(self.files().current)?;
        Some(Cgroup { limit: None, current, cache: self.cache() })
    }

    /// Reads the figures if fewer than `bound` bytes may be left. Reading `memory.stat` makes the kernel sum up its
    /// counters, so it is left out where the group has room without its page cache.
    fn read(&self, limit: u64, bound: u64) -> Option<Cgroup> {
        let (mut limit, mut current) = (limit, self.number(self.files().current)?);
        if self.version == Version::V1 {
            // The group that swapped is refused when both together meet their limit.
            let both = self.limit_in(V1_SWAP.0).zip(self.number(V1_SWAP.1));
            if let Some((both_limit, both_used)) = both {
                if both_limit.saturating_sub(both_used) < limit.saturating_sub(current) {
                    (limit, current) = (both_limit, both_used);
                }
            }
        }
        let unbound = limit.checked_sub(current).is_some_and(|left| left >= bound);
        let cache = if unbound { 0 } else { self.cache() };
        Some(Cgroup { limit: Some(limit), current, cache })
    }
}

impl Groups {
    /// Finds the group with the fewest bytes left. Figures of groups that leave at least `bound` bytes may be
    /// incomplete; without a bound, `u64::MAX`.
    pub fn read(&self, bound: u64) -> Binding {
        let mut binding = Binding::default();
        let mut least = u64::MAX;
        for member in &self.members {
            let Some(limit) = member.limit() else { continue };
            binding.smallest_limit = Some(binding.smallest_limit.map_or(limit, |smallest| smallest.min(limit)));
            let Some(group) = member.read(limit, bound.min(least)) else { continue };
            let left = group.left().unwrap_or(u64::MAX);
            if binding.group.is_none() || left < least {
                (binding.group, least) = (Some(group), left);
            }
        }
        binding
    }

    /// Reads the group with the fewest bytes left; without any limit, this process's own group. `None` outside a memory
    /// controller, and if the groups cannot be read any more.
    pub fn figures(&self) -> Option<Cgroup> {
        self.read(u64::MAX).group.or_else(|| self.members.iter().find_map(Group::unlimited))
    }

    /// Reports whether a memory controller has this process.
    pub fn is_controlled(&self) -> bool {
        !self.members.is_empty()
    }

    /// The folder of this process's own v2 group, which has its PSI files.
    pub fn own(&self) -> Option<&Path> {
        self.own.as_deref()
    }

    /// The folder of the v2 group with the fewest bytes left.
    pub fn binding_folder(&self) -> Option<&Path> {
        let left = |member: &Group| member.read(member.limit()?, u64::MAX)?.left();
        let limited = self.members.iter().filter_map(|member| Some((left(member)?, member)));
        let (_, member) = limited.min_by_key(|(left, _)| *left)?;
        (member.version == Version::V2).then_some(member.folder.as_path())
    }
}

/// A mount of a hierarchy.
struct Mount {
    at: PathBuf,
    /// The folder of the hierarchy that the mount shows as its root.
    root: String,
}

/// The place of a group relative to the root of the cgroup namespace: steps up, then names down.
struct Relative<'a> {
    up: usize,
    names: Vec<&'a str>,
}

impl<'a> Relative<'a> {
    fn parse(path: &'a str) -> Self {
        let mut names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
        let up = names.iter().take_while(|name| **name == "..").count();
        names.drain(..up);
        Self { up, names }
    }

    /// The names below `root`, if `root` is this group or an ancestor whose way down is known.
    fn below(&self, root: &Self) -> Option<&[&'a str]> {
        (self.up == root.up).then(|| self.names.strip_prefix(root.names.as_slice())).flatten()
    }
}

impl Proc {
    /// Finds the cgroups of this process that have a memory controller. Finding them costs more than reading them.
    pub fn groups(&self) -> Groups {
        let texts = self.text("proc/self/cgroup").zip(self.text("proc/self/mountinfo"));
        let Some((membership, mounts)) = texts else { return Groups::default() };
        let path_of = |wanted: &dyn Fn(&str, &str) -> bool| {
            membership.lines().find_map(|line| {
                let mut fields = line.splitn(3, ':');
                let (id, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
                wanted(id, controllers).then_some(path)
            })
        };
        let v1 = path_of(&|_, controllers| controllers.split(',').any(|name| name == "memory"));
        let v2 = path_of(&|id, controllers| id == "0" && controllers.is_empty());
        let folders = |path: Option<&str>, version| {
            path.map(|path| self.folders(path, &cgroup_mounts(&mounts, version))).unwrap_or_default()
        };
        let (v2, v1) = (folders(v2, Version::V2), folders(v1, Version::V1));
        let own = v2.first().cloned();
        let controlled = |folders: Vec<PathBuf>, version| {
            let groups = folders.into_iter().map(move |folder| Group { folder, version, inherited: None });
            groups.filter(|group| group.folder.join(group.files().current).exists()).collect::<Vec<_>>()
        };
        let mut members = controlled(v2, Version::V2);
        members.extend(hierarchical(controlled(v1, Version::V1)));
        Groups { members, own }
    }

    /// Finds the visible folders from the group `path` up to the root, the group's own first.
    fn folders(&self, path: &str, mounts: &[Mount]) -> Vec<PathBuf> {
        let path = Relative::parse(path);
        let chains = mounts.iter().filter_map(|mount| {
            let root = Relative::parse(&mount.root);
            if let Some(below) = path.below(&root) {
                let below: PathBuf = below.iter().collect();
                return Some(below.ancestors().map(|group| self.at(mount.at.join(group))).collect::<Vec<_>>());
            }
            // The mount shows an ancestor of the namespace's root. The names in between are not visible.
            (root.names.is_empty() && root.up > path.up).then(|| vec![self.at(&mount.at)])
        });
        let mut chains: Vec<_> = chains.collect();
        if chains.is_empty() {
            // The group is outside of every mount: a view that a container was given. Its root is the closest group
            // that is visible.
            chains.extend(mounts.last().map(|mount| vec![self.at(&mount.at)]));
        }
        chains.sort_by_key(|chain| std::cmp::Reverse(chain.len()));
        let mut seen = Vec::new();
        chains.into_iter().flatten().filter(|folder| is_new(folder, &mut seen)).collect()
    }
}

/// Whether `folder` shows another group than those before. Folders that cannot be looked at stay: others are readable.
fn is_new(folder: &Path, seen: &mut Vec<(u64, u64)>) -> bool {
    let Ok(metadata) = fs::metadata(folder) else { return true };
    let identity = (metadata.dev(), metadata.ino());
    let new = !seen.contains(&identity);
    seen.push(identity);
    new
}

/// Leaves out the ancestors that do not count this process, and adds the limit of invisible ones.
fn hierarchical(mut groups: Vec<Group>) -> Vec<Group> {
    let counts = |group: &Group| group.text("memory.use_hierarchy").is_none_or(|text| text.trim() != "0");
    let counted = groups.iter().skip(1).take_while(|group| counts(group)).count();
    groups.truncate(1 + counted);
    if let Some(top) = groups.last_mut() {
        let stat = top.text("memory.stat").unwrap_or_default();
        top.inherited = field(&stat, "hierarchical_memory_limit").filter(|limit| *limit < NO_LIMIT);
    }
    groups
}

/// Finds the mounts of the hierarchy of `version` that has the memory controller.
fn cgroup_mounts(mountinfo: &str, version: Version) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for line in mountinfo.lines() {
        // Fields: id parent device root mount-point options... - type source super-options.
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let (mut left, mut right) = (left.split(' ').skip(3), right.split(' '));
        let (Some(root), Some(at), Some(kind)) = (left.next(), left.next(), right.next()) else { continue };
        let at = PathBuf::from(unescape(at));
        // A later mount hides an earlier one at the same place.
        mounts.retain(|mount| mount.at != at);
        let wanted = match version {
            Version::V2 => kind == "cgroup2",
            Version::V1 => {
                kind == "cgroup" && right.nth(1).is_some_and(|all| all.split(',').any(|one| one == "memory"))
            }
        };
        if wanted {
            mounts.push(Mount { at, root: unescape(root) });
        }
    }
    mounts
}

/// Decodes the octal escapes of mountinfo: space, tab, newline and backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

#[cfg(test)]
mod tests;
