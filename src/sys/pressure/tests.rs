//! Tests of the watch of memory pressure, on trees of files in place of `/proc` and `/sys`.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::sync::mpsc::channel;

use super::*;

fn tree(name: &str) -> PathBuf {
    let root = std::env::temp_dir().join(format!("rkllm-pressure-{}-{name}", std::process::id()));
    fs::create_dir_all(root.join("proc/pressure")).unwrap();
    root
}

fn put(root: &Path, path: &str, text: &str) {
    // The rename is atomic, so the reader never sees a partial file.
    fs::write(root.join("new"), text).unwrap();
    fs::rename(root.join("new"), root.join(path)).unwrap();
}

const TEST_TIMEOUT: Duration = Duration::from_secs(30);

#[test]
fn without_psi_available_memory_is_polled() {
    let root = tree("available");
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 500 kB\n");
    let (tell, told) = channel();
    let subscription = watch(&root, move |shortage| tell.send(shortage).unwrap()).unwrap();
    assert!(told.recv_timeout(POLL_INTERVAL * 2).is_err(), "half of the memory is available");
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 90 kB\n");
    assert_eq!(told.recv_timeout(TEST_TIMEOUT).unwrap(), Shortage { level: Level::Some, available: 90 << 10 });
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 9 kB\n");
    assert_eq!(told.recv_timeout(TEST_TIMEOUT).unwrap(), Shortage { level: Level::Full, available: 9 << 10 });
    drop(subscription);
    assert!(told.recv().is_err(), "the subscription dropped its sender");
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn without_triggers_the_stall_times_are_polled() {
    let root = tree("stalls");
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 9 kB\n");
    let psi = |some: u64, full: u64| {
        let line = |kind, total| format!("{kind} avg10=0.00 avg60=0.00 avg300=0.00 total={total}\n");
        put(&root, "proc/pressure/memory", &(line("some", some) + &line("full", full)));
    };
    psi(5, 5);
    let mut sources = Sources::open(&root);
    assert_eq!(sources.poll_memory(), None);
    psi(200_005, 5);
    assert_eq!(sources.poll_memory(), Some(Level::Some));
    psi(300_005, 100_005);
    assert_eq!(sources.poll_memory(), Some(Level::Full));
    psi(300_006, 100_006);
    assert_eq!(sources.poll_memory(), None);
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn a_group_that_meets_its_limit_is_short_only_without_page_cache() {
    let root = tree("events");
    fs::create_dir_all(root.join("sys/fs/cgroup")).unwrap();
    fs::create_dir_all(root.join("proc/self")).unwrap();
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
    put(&root, "proc/self/cgroup", "0::/\n");
    put(&root, "proc/self/mountinfo", "30 25 0:26 / /sys/fs/cgroup ro - cgroup2 cgroup ro\n");
    put(&root, "sys/fs/cgroup/memory.max", "102400\n");
    put(&root, "sys/fs/cgroup/memory.current", "102400\n");
    put(&root, "sys/fs/cgroup/memory.stat", "active_file 51200\ninactive_file 10240\n");
    let event = |max, oom| {
        // Written in place, because the watch holds the file open.
        fs::write(root.join("sys/fs/cgroup/memory.events"), format!("low 0\nhigh 0\nmax {max}\noom {oom}\n")).unwrap();
    };
    event(3, 0);
    let mut sources = Sources::open(&root);
    let mut news = || {
        let ram = sources.ram();
        sources.events.as_mut().unwrap().new_level(ram).unwrap()
    };
    event(4, 0);
    assert_eq!(news(), None, "the group is full of page cache");
    put(&root, "sys/fs/cgroup/memory.stat", "active_file 0\ninactive_file 1024\n");
    assert_eq!(news(), None, "the counts did not change");
    event(5, 0);
    assert_eq!(news(), Some(Level::Some));
    event(5, 1);
    assert_eq!(news(), Some(Level::Full));
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn subscriptions_that_follow_each_other_share_a_watch_which_ends_after_the_last() {
    let root = tree("ends");
    put(&root, "proc/meminfo", "MemTotal: 1000 kB\nMemAvailable: 900 kB\n");
    let (first, second) = (watch(&root, |_| {}).unwrap(), watch(&root, |_| {}).unwrap());
    assert!(Arc::ptr_eq(&first.watch, &second.watch), "one thread for both");
    let running = Arc::downgrade(&first.watch);
    drop((first, second));
    let third = watch(&root, |_| {}).unwrap();
    assert!(running.upgrade().is_some_and(|running| Arc::ptr_eq(&running, &third.watch)), "the same thread");
    drop(third);
    let deadline = Instant::now() + TEST_TIMEOUT;
    while running.upgrade().is_some() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(10));
    }
    assert!(running.upgrade().is_none() && !WATCHES.lock().contains_key(&root));
    drop(watch(&root, |_| {}).unwrap());
    fs::remove_dir_all(root).unwrap();
}

#[test]
fn this_machines_kernel_takes_a_trigger_or_is_polled() {
    let sources = Sources::open(Path::new("/"));
    let asks = !matches!(sources.polled, Polled::Nothing);
    assert_ne!(sources.triggers.is_empty(), !asks);
    // Every kind of source can be waited for and woken.
    drop(watch(Path::new("/"), |_| {}).unwrap());
}
