// SPDX-License-Identifier: GPL-2.0
/*
 * rknpu_test: plays the memory side of Rockchip's NPU drivers, so that
 * user-space allocators can be tested against a real kernel without a board.
 *
 * Real here: device nodes, GEM objects, handles, mmap, PRIME, dma-bufs, errors.
 * Simulated: the NPU, its IOMMU, CMA and SRAM.  Module parameters describe the
 * board.  A call that would crash the real driver is refused, logged as
 * VIOLATION, and counted in /proc/rknpu_test.
 */
#include <linux/dma-mapping.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "rknpu_test.h"

struct rkt_board board = {
	.sync_refuse = true, .job_domain = -1, .job_wait_ms = 6000,
};
atomic64_t rkt_stats[ST_LAST];

static char *flavour = "gem";
module_param(flavour, charp, 0444);
MODULE_PARM_DESC(flavour, "gem (DRM node), heap (/dev/rknpu) or rocket (accel node)");

static char *version = "0.9.8";
module_param(version, charp, 0444);
MODULE_PARM_DESC(version, "driver version; it decides the size of MEM_CREATE");

static char *soc = "fdab0000.npu";
module_param(soc, charp, 0444);
MODULE_PARM_DESC(soc, "name of the platform device: fdab0000.npu or fde40000.npu");

static bool iommu = true;
module_param(iommu, bool, 0444);
MODULE_PARM_DESC(iommu, "addresses come from IOMMU domains, not from CMA");

static int domains = 16;
module_param(domains, int, 0444);
MODULE_PARM_DESC(domains, "IOMMU domains; 0: one, and any id is accepted and ignored");

static unsigned long long domain_bytes = SZ_4G;
module_param(domain_bytes, ullong, 0444);
MODULE_PARM_DESC(domain_bytes, "what one domain can address, up to 4 GiB");

static unsigned long long cma_bytes = SZ_256M;
module_param(cma_bytes, ullong, 0444);
MODULE_PARM_DESC(cma_bytes, "contiguous memory that can be had");

static unsigned long long sram_bytes;
module_param(sram_bytes, ullong, 0444);
MODULE_PARM_DESC(sram_bytes, "on-chip memory (IOMMU and 0.8.0 or later only)");

/* The parameters below may change while the module is in use. */
module_param_named(dirty, board.dirty, bool, 0644);
MODULE_PARM_DESC(dirty, "fresh memory holds a poison pattern where the real one is not zeroed");

module_param_named(sync_refuse, board.sync_refuse, bool, 0644);
MODULE_PARM_DESC(sync_refuse, "MEM_SYNC refuses uncached and imported objects (default y)");

module_param_named(leak_contiguous, board.leak_contiguous, bool, 0644);
MODULE_PARM_DESC(leak_contiguous, "contiguous objects that fell back leak their addresses, as 0.9.8 does");

module_param_named(incoherent, board.incoherent, bool, 0444);
MODULE_PARM_DESC(incoherent, "heap: a CPU access cleans at its end, and drops dirty lines at its start");

module_param_named(rival, board.rival, bool, 0644);
MODULE_PARM_DESC(rival, "another process takes the domain away after every call");

module_param_named(switch_ms, board.switch_ms, uint, 0644);
MODULE_PARM_DESC(switch_ms, "how long a domain switch takes");

module_param_named(switch_timeout, board.switch_timeout, bool, 0644);
MODULE_PARM_DESC(switch_timeout, "domain switches fail after switch_ms");

module_param_named(job_domain, board.job_domain, int, 0644);
MODULE_PARM_DESC(job_domain, "a job of this domain runs: 0.9.8 waits for its end before a switch (default -1: none)");

module_param_named(job_wait_ms, board.job_wait_ms, uint, 0644);
MODULE_PARM_DESC(job_wait_ms, "a switch gives up after this time behind a job (default 6000)");

module_param_named(busy_us, board.busy_us, uint, 0644);
MODULE_PARM_DESC(busy_us, "rocket: a buffer is in use by a job for so long after FINI_BO");

/* ---- fail the nth call of a kind ---- */

static const char *const kind_names[CALL_LAST] = {
	[CALL_OPEN] = "open", [CALL_ACTION] = "action",
	[CALL_CREATE] = "create", [CALL_MAP] = "map",
	[CALL_DESTROY] = "destroy", [CALL_SYNC] = "sync",
	[CALL_MMAP] = "mmap", [CALL_EXPORT] = "export",
	[CALL_IMPORT] = "import", [CALL_SWITCH] = "switch",
	[CALL_PREP] = "prep", [CALL_FINI] = "fini",
};

static struct {
	long skip;	/* calls that still succeed */
	long times;	/* failures left; negative: unlimited */
	int error;
} faults[CALL_LAST];
static DEFINE_SPINLOCK(fault_lock);

int rkt_fault(enum rkt_kind kind)
{
	int ret = 0;

	spin_lock(&fault_lock);
	if (faults[kind].times) {
		if (faults[kind].skip) {
			faults[kind].skip--;
		} else {
			if (faults[kind].times > 0)
				faults[kind].times--;
			ret = -faults[kind].error;
		}
	}
	spin_unlock(&fault_lock);
	if (ret)
		stat_add(ST_INJECTED, 1);
	return ret;
}

/* "create:3:12" fails the third create from now with errno 12. */
static int fault_set(const char *val, const struct kernel_param *kp)
{
	char *buf, *rest, *item;
	int ret = 0;

	buf = kstrdup(val, GFP_KERNEL);
	if (!buf)
		return -ENOMEM;
	rest = strim(buf);
	while (!ret && (item = strsep(&rest, " ,"))) {
		char *name = strsep(&item, ":");
		int nth, error, kind, times = 1;

		if (!*name)
			continue;
		if (!strcmp(name, "off")) {
			spin_lock(&fault_lock);
			memset(faults, 0, sizeof(faults));
			spin_unlock(&fault_lock);
			continue;
		}
		kind = match_string(kind_names, CALL_LAST, name);
		if (kind < 0 || !item ||
		    sscanf(item, "%d:%d:%d", &nth, &error, &times) < 2 ||
		    nth < 1 || error < 1 || error > 4095) {
			ret = -EINVAL;
			break;
		}
		spin_lock(&fault_lock);
		faults[kind].skip = nth - 1;
		faults[kind].times = times ? times : -1;
		faults[kind].error = error;
		spin_unlock(&fault_lock);
	}
	kfree(buf);
	return ret;
}

static int fault_get(char *buf, const struct kernel_param *kp)
{
	int i, len = 0;

	spin_lock(&fault_lock);
	for (i = 0; i < CALL_LAST; i++)
		if (faults[i].times)
			len += sysfs_emit_at(buf, len, "%s:%ld:%d:%ld ",
					     kind_names[i], faults[i].skip + 1,
					     faults[i].error,
					     max(faults[i].times, 0L));
	spin_unlock(&fault_lock);
	len += sysfs_emit_at(buf, len, "\n");
	return len;
}

static const struct kernel_param_ops fault_ops = {
	.set = fault_set,
	.get = fault_get,
};
module_param_cb(fault, &fault_ops, NULL, 0644);
MODULE_PARM_DESC(fault, "KIND:NTH:ERRNO[:TIMES], several with blanks between; TIMES 0: for ever; off: none");

/* ---- /proc/rknpu_test ---- */

static const char *const stat_names[ST_LAST] = {
	[ST_FILES] = "files", [ST_OBJECTS] = "objects", [ST_BYTES] = "bytes",
	[ST_HANDLES] = "handles", [ST_MAPS] = "maps",
	[ST_DMABUFS] = "dmabufs", [ST_IMPORTS] = "imports",
	[ST_SRAM] = "sram_used",
	[ST_ACTIONS] = "total_actions", [ST_CREATES] = "total_creates",
	[ST_DESTROYS] = "total_destroys", [ST_SYNCS] = "total_syncs",
	[ST_SYNC_BYTES] = "total_sync_bytes", [ST_MMAPS] = "total_maps",
	[ST_EXPORTS] = "total_exports", [ST_IMPORTED] = "total_imports",
	[ST_PREPS] = "total_preps", [ST_FINIS] = "total_finis",
	[ST_SWITCHES] = "total_switches", [ST_SETS] = "total_sets",
	[ST_WAITS] = "total_waits", [ST_ELSEWHERE] = "elsewhere",
	[ST_FROM_PAGES] = "total_from_pages", [ST_BEYOND_CMA] = "beyond_cma",
	[ST_INJECTED] = "total_injected",
	[ST_BAD_HANDLES] = "bad_handles", [ST_UNDESTROYED] = "undestroyed",
	[ST_IOVA_LEAKED] = "iova_leaked", [ST_VIOLATIONS] = "violations",
};

static int stats_show(struct seq_file *m, void *v)
{
	int i;

	for (i = 0; i < ST_LAST; i++)
		seq_printf(m, "%s%s %lld\n", i <= ST_LIVE_LAST ? "live_" : "",
			   stat_names[i], stat_get(i));
	seq_printf(m, "current_domain %d\n", rkt_current_domain());
	return 0;
}

static int stats_open(struct inode *inode, struct file *file)
{
	return single_open(file, stats_show, NULL);
}

/* Any write resets the totals, but not the counts of live objects. */
static ssize_t stats_write(struct file *file, const char __user *buf,
			   size_t len, loff_t *pos)
{
	int i;

	for (i = ST_LIVE_LAST + 1; i < ST_LAST; i++)
		atomic64_set(&rkt_stats[i], 0);
	return len;
}

static const struct proc_ops stats_ops = {
	.proc_open = stats_open,
	.proc_read = seq_read,
	.proc_write = stats_write,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
};

/*
 * /proc/meminfo with the simulated CMA area.  The guest mounts it over the real
 * one, which has no such area.
 */
static int meminfo_show(struct seq_file *m, void *v)
{
	struct sysinfo i;

	si_meminfo(&i);
	seq_printf(m, "MemTotal: %lu kB\n", i.totalram << (PAGE_SHIFT - 10));
	seq_printf(m, "MemFree: %lu kB\n", i.freeram << (PAGE_SHIFT - 10));
	seq_printf(m, "MemAvailable: %lu kB\n",
		   si_mem_available() << (PAGE_SHIFT - 10));
	seq_printf(m, "Shmem: %lu kB\n", i.sharedram << (PAGE_SHIFT - 10));
	seq_puts(m, "SwapTotal: 0 kB\nSwapFree: 0 kB\n");
	seq_printf(m, "CmaTotal: %llu kB\n", board.cma_bytes >> 10);
	seq_printf(m, "CmaFree: %llu kB\n", rkt_cma_free() >> 10);
	return 0;
}

/* ---- loading ---- */

const struct platform_device_id rkt_ids[] = {
	{ "fdab0000.npu" },	/* RK3588 */
	{ "fde40000.npu" },	/* RK3566, RK3568 */
	{ "27700000.npu" },	/* RK3576 */
	{ }
};

static const u64 dma_mask = DMA_BIT_MASK(64);
static struct platform_device *device;
static struct platform_driver *driver;

static int __init read_board(void)
{
	if (sscanf(version, "%d.%d.%d", &board.major, &board.minor,
		   &board.patch) != 3)
		return -EINVAL;
	board.version = board.major * 10000 + board.minor * 100 + board.patch;
	board.create_size = board.version >= 906 ? 48 :
			    board.version >= 800 ? 40 : 32;
	board.iommu = iommu;
	board.domains = domains;
	board.domain_bytes = PAGE_ALIGN(domain_bytes);
	board.cma_bytes = PAGE_ALIGN(cma_bytes);
	board.sram_bytes = iommu && board.create_size >= 40 ?
			   PAGE_ALIGN(sram_bytes) : 0;
	if (domains < 0 || domains > 16 || !board.domain_bytes ||
	    board.domain_bytes > SZ_4G || !board.cma_bytes ||
	    board.cma_bytes > SZ_1G)
		return -EINVAL;

	if (!strcmp(flavour, "gem"))
		driver = &rkt_gem_platform;
	else if (!strcmp(flavour, "heap"))
		driver = &rkt_heap_platform;
	else if (!strcmp(flavour, "rocket"))
		driver = &rkt_rocket_platform;
	else
		return -EINVAL;
	return 0;
}

static int __init rkt_init(void)
{
	struct platform_device_info info = {
		.name = soc,
		.id = PLATFORM_DEVID_NONE,
		.dma_mask = dma_mask,
	};
	int ret;

	ret = read_board();
	if (ret)
		return ret;
	rkt_gem_setup();
	ret = rkt_spaces_init();
	if (ret)
		return ret;

	device = platform_device_register_full(&info);
	if (IS_ERR(device)) {
		ret = PTR_ERR(device);
		goto err_spaces;
	}
	ret = platform_driver_register(driver);
	if (ret)
		goto err_device;
	/* A failed probe leaves the driver registered without a node. */
	if (!platform_get_drvdata(device)) {
		ret = -ENODEV;
		goto err_driver;
	}
	if (!proc_create("rknpu_test", 0666, NULL, &stats_ops)) {
		ret = -ENOMEM;
		goto err_driver;
	}
	if (!iommu)
		proc_create_single("rknpu_test_meminfo", 0444, NULL,
				   meminfo_show);
	pr_info("%s %s, %s\n", flavour, version, iommu ? "IOMMU" : "no IOMMU");
	return 0;

err_driver:
	platform_driver_unregister(driver);
err_device:
	platform_device_unregister(device);
err_spaces:
	rkt_spaces_exit();
	return ret;
}

static void __exit rkt_exit(void)
{
	remove_proc_entry("rknpu_test", NULL);
	if (!iommu)
		remove_proc_entry("rknpu_test_meminfo", NULL);
	platform_driver_unregister(driver);
	platform_device_unregister(device);
	rkt_spaces_exit();
}

module_init(rkt_init);
module_exit(rkt_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("Stand-in for the memory ioctls of Rockchip NPU drivers");
MODULE_IMPORT_NS(DMA_BUF);
