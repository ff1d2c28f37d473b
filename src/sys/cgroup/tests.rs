#![allow(clippy::unwrap_used)]

use super::*;
use crate::sys::ram::Ram;
use crate::units::{GIB, MIB};

/// A fixture tree of a machine with 16 GiB, 12 of them available; removed when it drops.
struct Tree(PathBuf);

impl Tree {
    fn new(name: &str, membership: &str, mounts: &[&str]) -> Self {
        let tree = Self(std::env::temp_dir().join(format!("rkllm-cgroup-{}-{name}", std::process::id())));
        tree.put("proc/meminfo", "MemTotal: 16777216 kB\nMemAvailable: 12582912 kB\nSwapFree: 16777216 kB\n");
        tree.put("proc/self/cgroup", membership);
        let lines: Vec<_> = mounts.iter().map(|mount| format!("30 25 0:26 {mount}\n")).collect();
        tree.put("proc/self/mountinfo", &lines.concat());
        tree
    }

    fn put(&self, path: &str, text: &str) {
        let file = self.0.join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    /// A v2 group: `memory.max`, `memory.high` and usage.
    fn v2(&self, folder: &str, max: Option<u64>, high: Option<u64>, current: u64) {
        let text = |limit: Option<u64>| limit.map_or("max\n".to_owned(), |limit| format!("{limit}\n"));
        self.put(&format!("{folder}/memory.max"), &text(max));
        self.put(&format!("{folder}/memory.high"), &text(high));
        self.put(&format!("{folder}/memory.current"), &format!("{current}\n"));
        self.put(&format!("{folder}/memory.swap.max"), "0\n");
        self.put(&format!("{folder}/memory.swap.current"), &format!("{GIB}\n"));
    }

    /// A v1 group: limit and usage.
    fn v1(&self, folder: &str, limit: Option<u64>, usage: u64) {
        let limit = limit.unwrap_or(0x7fff_ffff_ffff_f000);
        self.put(&format!("{folder}/memory.limit_in_bytes"), &format!("{limit}\n"));
        self.put(&format!("{folder}/memory.usage_in_bytes"), &format!("{usage}\n"));
    }

    fn proc(&self) -> Proc {
        Proc::new(&self.0)
    }

    /// Bytes available, and the figure that binds with its limit.
    fn ram(&self) -> (u64, &'static str, u64) {
        let proc = self.proc();
        let ram = Ram::within(&proc.meminfo().unwrap(), &proc.groups());
        (ram.available, ram.scope, ram.limit)
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

const V2_MOUNT: &str = "/ /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate";
const V1_MOUNT: &str = "/ /sys/fs/cgroup/memory rw,nosuid shared:9 - cgroup cgroup rw,memory";
const MACHINE: (u64, &str, u64) = (12 * GIB, "ram", 16 * GIB);

#[test]
fn the_group_with_the_fewest_bytes_left_binds_not_the_one_with_the_smallest_limit() {
    let tree = Tree::new("left", "1:name=systemd:/\n0::/slice/app\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/slice/app", Some(4 * GIB), None, GIB);
    tree.v2("sys/fs/cgroup/slice", Some(5 * GIB), None, 5 * GIB - 64 * MIB);
    assert_eq!(tree.ram(), (64 * MIB, "cgroup", 5 * GIB));
    let proc = tree.proc();
    assert_eq!(proc.groups().read(u64::MAX).smallest_limit, Some(4 * GIB));
    assert_eq!(Ram::within(&proc.meminfo().unwrap(), &proc.groups()).total, 4 * GIB);
    assert!(proc.groups().binding_folder().unwrap().ends_with("sys/fs/cgroup/slice"));
    // Page cache of the ancestor is dropped before memory is refused; shared memory is not.
    tree.put("sys/fs/cgroup/slice/memory.stat", "file 900\nshmem 500\ninactive_file 1048576\nactive_file 2097152\n");
    assert_eq!(tree.ram(), (67 * MIB, "cgroup", 5 * GIB));
    tree.v2("sys/fs/cgroup/slice/app", Some(4 * GIB), None, 4 * GIB - 4096);
    assert_eq!(tree.ram(), (4096, "cgroup", 4 * GIB));
    tree.v2("sys/fs/cgroup/slice/app", Some(4 * GIB), None, 5 * GIB);
    assert_eq!(tree.ram(), (0, "cgroup", 4 * GIB), "a limit below the usage leaves nothing");
}

#[test]
fn memory_high_counts_like_a_limit() {
    let tree = Tree::new("high", "0::/slice/app\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/slice/app", None, Some(GIB), GIB);
    tree.v2("sys/fs/cgroup/slice", None, None, GIB);
    assert_eq!(tree.ram(), (0, "cgroup", GIB));
    tree.v2("sys/fs/cgroup/slice/app", Some(3 * GIB), Some(2 * GIB), GIB);
    assert_eq!(tree.ram(), (GIB, "cgroup", 2 * GIB), "high below max");
    tree.v2("sys/fs/cgroup/slice/app", Some(2 * GIB), Some(3 * GIB), GIB);
    assert_eq!(tree.ram(), (GIB, "cgroup", 2 * GIB), "max below high");
    tree.v2("sys/fs/cgroup/slice/app", None, None, GIB);
    tree.v2("sys/fs/cgroup/slice", None, Some(0), GIB);
    assert_eq!(tree.ram(), (0, "cgroup", 0));
}

#[test]
fn without_a_limit_the_machine_binds_and_the_own_group_is_shown() {
    let tree = Tree::new("none", "0::/a/b\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/a/b", None, None, 7);
    tree.v2("sys/fs/cgroup/a", None, None, 9);
    assert_eq!(tree.ram(), MACHINE);
    assert_eq!(tree.proc().groups().figures(), Some(Cgroup { limit: None, current: 7, cache: 0 }));
    tree.v2("sys/fs/cgroup/a", Some(64 * GIB), None, GIB);
    assert_eq!(tree.ram(), MACHINE, "a limit beyond the machine");
    assert_eq!(tree.proc().groups().binding_folder().unwrap().file_name().unwrap(), "a");
}

#[test]
fn v1_limits_bind_with_their_ancestors() {
    let tree = Tree::new("v1", "9:cpu,cpuacct:/other\n4:memory:/docker/x\n", &[V1_MOUNT]);
    tree.v1("sys/fs/cgroup/memory/docker/x", Some(512 * MIB), 500 * MIB);
    tree.v1("sys/fs/cgroup/memory/docker", None, GIB);
    tree.v1("sys/fs/cgroup/memory", None, 2 * GIB);
    assert_eq!(tree.ram(), (12 * MIB, "cgroup", 512 * MIB));
    // v1 counts the cache of descendants under names of its own.
    tree.put(
        "sys/fs/cgroup/memory/docker/x/memory.stat",
        "inactive_file 5\nactive_file 5\ntotal_inactive_file 1048576\ntotal_active_file 1048576\n",
    );
    assert_eq!(tree.ram(), (14 * MIB, "cgroup", 512 * MIB));
    tree.v1("sys/fs/cgroup/memory/docker", Some(GIB), GIB - MIB);
    assert_eq!(tree.ram(), (MIB, "cgroup", GIB));
    assert_eq!(tree.proc().groups().binding_folder(), None, "v1 has no memory.events");
    tree.put("sys/fs/cgroup/memory/docker/memory.use_hierarchy", "0\n");
    assert_eq!(tree.ram(), (14 * MIB, "cgroup", 512 * MIB), "an ancestor that does not count its children");
}

#[test]
fn the_limit_of_an_invisible_v1_ancestor_binds() {
    let mount = "/docker/x /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory";
    let tree = Tree::new("inherited", "4:memory:/docker/x\n", &[mount]);
    tree.v1("sys/fs/cgroup/memory", None, 100 * MIB);
    tree.put("sys/fs/cgroup/memory/memory.stat", "cache 1\nhierarchical_memory_limit 134217728\n");
    assert_eq!(tree.ram(), (28 * MIB, "cgroup", 128 * MIB));
    tree.put("sys/fs/cgroup/memory/memory.stat", "hierarchical_memory_limit 9223372036854771712\n");
    assert_eq!(tree.ram(), MACHINE);
}

#[test]
fn swap_of_v2_is_irrelevant_and_v1_limits_both_together() {
    let tree = Tree::new("swap", "0::/app\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/app", Some(2 * GIB), None, GIB);
    assert_eq!(tree.ram(), (GIB, "cgroup", 2 * GIB), "with swap used up and unused");
    let tree = Tree::new("memsw", "4:memory:/app\n", &[V1_MOUNT]);
    tree.v1("sys/fs/cgroup/memory/app", Some(GIB), 100 * MIB);
    tree.put("sys/fs/cgroup/memory/app/memory.memsw.limit_in_bytes", "9223372036854771712\n");
    tree.put("sys/fs/cgroup/memory/app/memory.memsw.usage_in_bytes", &format!("{}\n", 900 * MIB));
    assert_eq!(tree.ram(), (924 * MIB, "cgroup", GIB));
    tree.put("sys/fs/cgroup/memory/app/memory.memsw.limit_in_bytes", &format!("{GIB}\n"));
    assert_eq!(tree.ram(), (124 * MIB, "cgroup", GIB), "800 MiB of the group are in swap");
}

#[test]
fn hybrid_systems_have_the_controller_in_either_hierarchy() {
    let unified = "/ /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
    let tree = Tree::new("hybrid-v1", "9:memory:/user/x\n1:name=systemd:/user/x\n0::/user/x\n", &[unified, V1_MOUNT]);
    tree.put("sys/fs/cgroup/unified/user/x/cgroup.procs", "");
    tree.v1("sys/fs/cgroup/memory/user/x", Some(512 * MIB), 500 * MIB);
    assert_eq!(tree.ram(), (12 * MIB, "cgroup", 512 * MIB));
    assert!(tree.proc().groups().own().unwrap().ends_with("unified/user/x"), "PSI is in the v2 group");
    let tree = Tree::new("hybrid-v2", "9:cpu:/\n1:name=systemd:/user/x\n0::/user/x\n", &[unified, V1_MOUNT]);
    tree.v2("sys/fs/cgroup/unified/user/x", Some(512 * MIB), None, 500 * MIB);
    assert_eq!(tree.ram(), (12 * MIB, "cgroup", 512 * MIB));
}

#[test]
fn a_container_sees_its_own_group_as_the_root_of_a_mount() {
    // Without a cgroup namespace: the path is the host's, and the mount shows the same folder as its root.
    let bound = "/docker/1 /sys/fs/cgroup ro,nosuid master:8 - cgroup2 cgroup ro";
    for (name, path) in [("bound", "/docker/1"), ("bound-in-namespace", "/")] {
        let tree = Tree::new(name, &format!("0::{path}\n"), &[bound]);
        tree.v2("sys/fs/cgroup", Some(GIB), None, 7 * MIB);
        assert_eq!(tree.ram(), (1017 * MIB, "cgroup", GIB), "{name}");
    }
    let tree = Tree::new("bound-below", "0::/docker/1/worker\n", &[bound]);
    tree.v2("sys/fs/cgroup", Some(GIB), None, GIB - 9 * MIB);
    tree.v2("sys/fs/cgroup/worker", Some(512 * MIB), None, MIB);
    assert_eq!(tree.ram(), (9 * MIB, "cgroup", GIB));
}

#[test]
fn paths_of_a_cgroup_namespace_are_relative_to_its_root() {
    let mount = |root: &str| format!("{root} /sys/fs/cgroup rw - cgroup2 cgroup2 rw");
    // Path of the process, root of the mount, folder of the process's own group.
    let cases = [
        ("/", "/", ""),
        ("/app", "/", "/app"),
        ("/..", "/..", ""),
        ("/../..", "/../..", ""),
        ("/../sibling", "/..", "/sibling"),
        ("/../../a/b", "/../..", "/a/b"),
        // Outside of what is mounted, and below names that are not visible: the mount's root is the closest.
        ("/../..", "/", ""),
        ("/../sibling", "/", ""),
        ("/", "/../..", ""),
        ("/app", "/..", ""),
        ("/user.slice", "/docker/1", ""),
        ("/docker/10", "/docker/1", ""),
    ];
    for (at, (path, root, own)) in cases.into_iter().enumerate() {
        let tree = Tree::new(&format!("namespace-{at}"), &format!("0::{path}\n"), &[&mount(root)]);
        // A path that is joined without a thought leads to these folders.
        tree.v2("sys/fs", Some(1), None, 0);
        tree.v2("sys", Some(1), None, 0);
        tree.v2(&format!("sys/fs/cgroup{own}"), Some(GIB), None, GIB - 5 * MIB);
        assert_eq!(tree.ram(), (5 * MIB, "cgroup", GIB), "path {path}, mount of {root}");
    }
}

#[test]
fn the_mount_that_shows_most_is_used_and_hidden_ones_are_not() {
    // A private namespace, and the host's hierarchy mounted beside it.
    let mounts = ["/../.. /host/cgroup ro - cgroup2 cgroup rw", "/ /sys/fs/cgroup ro - cgroup2 cgroup rw"];
    let tree = Tree::new("beside", "0::/app\n", &mounts);
    tree.v2("sys/fs/cgroup/app", Some(GIB), None, 0);
    tree.v2("sys/fs/cgroup", Some(GIB), None, GIB / 2);
    tree.v2("host/cgroup", Some(8 * GIB), None, 8 * GIB - MIB);
    assert_eq!(tree.ram(), (MIB, "cgroup", 8 * GIB), "the namespace's ancestor counts too");
    assert!(tree.proc().groups().own().unwrap().ends_with("sys/fs/cgroup/app"));
    // The same place mounted twice: the later mount is visible.
    let tree = Tree::new("hidden", "0::/app\n", &["/x /sys/fs/cgroup rw - cgroup2 cgroup rw", V2_MOUNT]);
    tree.v2("sys/fs/cgroup/app", Some(GIB), None, 0);
    assert_eq!(tree.ram(), (GIB, "cgroup", GIB));
    let tree = Tree::new("space", "0::/app\n", &["/ /my\\040groups rw - cgroup2 cgroup rw"]);
    tree.v2("my groups/app", Some(GIB), None, 0);
    assert_eq!(tree.ram(), (GIB, "cgroup", GIB));
}

#[test]
fn figures_that_cannot_be_read_are_left_out() {
    for (name, membership, mounts) in [
        ("no-mount", "0::/app\n", &[][..]),
        ("no-line", "", &[V2_MOUNT][..]),
        ("garbage", "0::\nxx\n4:memory\n", &[V2_MOUNT, V1_MOUNT, "truncated", ""][..]),
        ("deleted", "0::/app (deleted)\n", &[V2_MOUNT][..]),
    ] {
        let tree = Tree::new(name, membership, mounts);
        assert_eq!(tree.ram(), MACHINE, "{name}");
        assert_eq!(tree.proc().groups().figures(), None, "{name}");
    }
    let tree = Tree::new("unreadable", "0::/slice/app\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/slice/app", Some(GIB), None, 900 * MIB);
    tree.put("sys/fs/cgroup/slice/app/memory.max", "no number\n");
    tree.v2("sys/fs/cgroup/slice", Some(2 * GIB), None, GIB);
    assert_eq!(tree.ram(), (GIB, "cgroup", 2 * GIB), "the ancestor still binds");
    // A folder in the place of the file: reading it fails, as without permission.
    let usage = tree.0.join("sys/fs/cgroup/slice/memory.current");
    fs::remove_file(&usage).unwrap();
    fs::create_dir(&usage).unwrap();
    assert_eq!(tree.ram(), (2 * GIB, "cgroup", 2 * GIB), "at most the limit is left");
}

#[test]
fn memory_stat_is_read_only_where_page_cache_decides() {
    let tree = Tree::new("cheap", "0::/app\n", &[V2_MOUNT]);
    tree.v2("sys/fs/cgroup/app", Some(32 * GIB), None, GIB);
    tree.put("sys/fs/cgroup/app/memory.stat", "inactive_file 4096\nactive_file 0\n");
    let groups = tree.proc().groups();
    assert_eq!(groups.read(12 * GIB).group.unwrap().cache, 0, "the machine binds");
    assert_eq!(groups.read(31 * GIB + 1).group.unwrap().cache, 4096);
}
