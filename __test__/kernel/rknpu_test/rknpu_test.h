/* SPDX-License-Identifier: GPL-2.0 */
#ifndef RKNPU_TEST_H
#define RKNPU_TEST_H

#undef pr_fmt
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/mm.h>
#include <linux/mod_devicetable.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/platform_device.h>
#include <drm/drm_gem.h>
#include <drm/drm_mm.h>

#include "abi.h"

/* The simulated board; set by the parameters in main.c. */
struct rkt_board {
	unsigned int version;		/* major * 10000 + minor * 100 + patch */
	unsigned int create_size;	/* bytes of the driver's mem_create */
	int major, minor, patch;
	bool iommu;
	int domains;
	u64 domain_bytes;
	u64 cma_bytes;
	u64 sram_bytes;
	bool dirty;
	bool sync_refuse;
	bool leak_contiguous;
	bool incoherent;
	bool rival;
	bool switch_timeout;
	unsigned int switch_ms;
	int job_domain;			/* domain of a running job, or -1 */
	unsigned int job_wait_ms;
	unsigned int busy_us;
};

extern struct rkt_board board;

/* Counters: the first ones count live objects and must end at zero. */
enum rkt_stat {
	ST_FILES, ST_OBJECTS, ST_BYTES, ST_HANDLES, ST_MAPS, ST_DMABUFS,
	ST_IMPORTS, ST_SRAM, ST_LIVE_LAST = ST_SRAM,
	ST_ACTIONS, ST_CREATES, ST_DESTROYS, ST_SYNCS, ST_SYNC_BYTES,
	ST_MMAPS, ST_EXPORTS, ST_IMPORTED, ST_PREPS, ST_FINIS, ST_SWITCHES,
	ST_SETS, ST_WAITS, ST_ELSEWHERE, ST_FROM_PAGES, ST_BEYOND_CMA,
	ST_INJECTED, ST_BAD_HANDLES, ST_UNDESTROYED, ST_IOVA_LEAKED,
	ST_VIOLATIONS, ST_LAST
};

extern atomic64_t rkt_stats[ST_LAST];

static inline void stat_add(enum rkt_stat s, s64 n)
{
	atomic64_add(n, &rkt_stats[s]);
}

static inline s64 stat_get(enum rkt_stat s)
{
	return atomic64_read(&rkt_stats[s]);
}

/* Kinds of call that tests can fail; the names are in main.c. */
enum rkt_kind {
	CALL_OPEN, CALL_ACTION, CALL_CREATE, CALL_MAP, CALL_DESTROY, CALL_SYNC,
	CALL_MMAP, CALL_EXPORT, CALL_IMPORT, CALL_SWITCH, CALL_PREP, CALL_FINI,
	CALL_LAST
};

int rkt_fault(enum rkt_kind kind);

/*
 * Refuses a call that would crash the real driver or corrupt memory.  Logs it,
 * so that a test fails even when the library swallows the EINVAL.
 */
#define rkt_violation(fmt, ...) ({					\
	stat_add(ST_VIOLATIONS, 1);					\
	pr_err("VIOLATION " fmt " (%s[%d])\n", ##__VA_ARGS__,		\
	       current->comm, task_pid_nr(current));			\
	-EINVAL;							\
})

/* mem.c: address spaces */
struct rkt_space {
	struct kref refs;
	struct mutex lock;
	struct drm_mm mm;
	struct list_head leaked;
};

struct rkt_space *rkt_space_new(u64 start, u64 bytes);
void rkt_space_put(struct rkt_space *space);
int rkt_space_insert(struct rkt_space *space, struct drm_mm_node *node,
		     u64 size, u64 align, enum drm_mm_insert_mode mode);
void rkt_space_remove(struct rkt_space *space, struct drm_mm_node *node);
int rkt_space_leak(struct rkt_space *space, struct drm_mm_node *node);

int rkt_spaces_init(void);
void rkt_spaces_exit(void);
struct rkt_space *rkt_domain(int id);
struct rkt_space *rkt_cma(void);
struct rkt_space *rkt_ordinary(void);
u64 rkt_cma_free(void);
bool rkt_cma_charge(u64 bytes);
void rkt_cma_uncharge(u64 bytes);
u64 rkt_sram_take(u64 bytes);
void rkt_sram_give(u64 bytes);
u64 rkt_cma_align(u64 size);

int rkt_current_domain(void);
int rkt_switch_domain(int id);
bool rkt_holds_domain(void);
int rkt_action(struct rknpu_action *a);

/* mem.c: pages */
void rkt_poison(struct page **pages, unsigned long count);
int rkt_map_pages(struct vm_area_struct *vma, struct page **pages,
		  unsigned long count);

/*
 * mem.c: obj_addr.  The real driver returns kernel pointers; this one returns
 * unique numbers that look like pointers, and so recognises a stale one even
 * after the memory of its object has been reused.
 */
int rkt_token_new(void *obj, u64 *token);
void rkt_token_drop(u64 token);
void rkt_tokens_lock(void);
void rkt_tokens_unlock(void);
void *rkt_token_find(u64 token);
bool rkt_range_ok(u64 offset, u64 size, u64 limit);

/* gem.c: GEM objects, also those of rocket */
struct rkt_gem {
	struct drm_gem_object base;
	struct page **pages;
	struct page **view;		/* as mmap shows it, if SRAM comes first */
	struct sg_table *sgt;		/* imported ones */
	struct rkt_space *space;
	struct drm_mm_node node;
	u64 token;
	u64 dma_addr;
	u64 sram;
	u64 cma;
	u32 flags;
	int domain;
	bool fell_back;
	ktime_t busy_until;		/* rocket */
};

static inline struct rkt_gem *to_rkt_gem(struct drm_gem_object *obj)
{
	return container_of(obj, struct rkt_gem, base);
}

struct rkt_gem *rkt_gem_new(struct drm_device *dev, u64 size, u32 flags);
int rkt_gem_back(struct rkt_gem *gem);
struct drm_gem_object *rkt_gem_import(struct drm_device *dev,
				      struct dma_buf *buf);
int rkt_gem_handle_to_fd(struct drm_device *dev, struct drm_file *file,
			 u32 handle, u32 flags, int *fd);
int rkt_gem_fd_to_handle(struct drm_device *dev, struct drm_file *file,
			 int fd, u32 *handle);

/* Each flavour is a platform driver for the only device. */
extern struct platform_driver rkt_gem_platform, rkt_heap_platform,
	rkt_rocket_platform;
extern const struct platform_device_id rkt_ids[];

void rkt_gem_setup(void);

#endif
