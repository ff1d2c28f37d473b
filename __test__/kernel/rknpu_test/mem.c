// SPDX-License-Identifier: GPL-2.0
/* Simulated addresses, real pages, and obj_addr tokens. */
#include <linux/delay.h>
#include <linux/highmem.h>
#include <linux/slab.h>
#include <linux/xarray.h>

#include "rknpu_test.h"

/* Simulated ordinary pages, which stand in for a full CMA area. */
#define ORDINARY_BASE	0x40000000ull
/* Simulated base of CMA: below 4 GiB, as 32-bit NPUs need. */
#define CMA_BASE	0xa0000000ull
/* CMA aligns to the size, up to 1 MiB. */
#define CMA_MAX_ALIGN	SZ_1M
#define POISON		0xa5

/* ---- address spaces ---- */

struct leaked_node {
	struct list_head link;
	struct drm_mm_node node;
};

struct rkt_space *rkt_space_new(u64 start, u64 bytes)
{
	struct rkt_space *space = kzalloc(sizeof(*space), GFP_KERNEL);

	if (!space)
		return NULL;
	kref_init(&space->refs);
	mutex_init(&space->lock);
	INIT_LIST_HEAD(&space->leaked);
	drm_mm_init(&space->mm, start, bytes);
	return space;
}

static void space_free(struct kref *refs)
{
	struct rkt_space *space = container_of(refs, struct rkt_space, refs);
	struct leaked_node *leak, *next;

	list_for_each_entry_safe(leak, next, &space->leaked, link) {
		drm_mm_remove_node(&leak->node);
		kfree(leak);
	}
	drm_mm_takedown(&space->mm);
	mutex_destroy(&space->lock);
	kfree(space);
}

void rkt_space_put(struct rkt_space *space)
{
	if (space)
		kref_put(&space->refs, space_free);
}

/* A node keeps its space alive: objects can outlive their file. */
int rkt_space_insert(struct rkt_space *space, struct drm_mm_node *node,
		     u64 size, u64 align, enum drm_mm_insert_mode mode)
{
	int ret;

	mutex_lock(&space->lock);
	ret = drm_mm_insert_node_in_range(&space->mm, node, size, align, 0, 0,
					  U64_MAX, mode);
	mutex_unlock(&space->lock);
	if (!ret)
		kref_get(&space->refs);
	return ret;
}

void rkt_space_remove(struct rkt_space *space, struct drm_mm_node *node)
{
	mutex_lock(&space->lock);
	drm_mm_remove_node(node);
	mutex_unlock(&space->lock);
	rkt_space_put(space);
}

/* Drops `node` without freeing its addresses. */
int rkt_space_leak(struct rkt_space *space, struct drm_mm_node *node)
{
	struct leaked_node *leak = kzalloc(sizeof(*leak), GFP_KERNEL);

	if (!leak)
		return -ENOMEM;
	mutex_lock(&space->lock);
	leak->node.start = node->start;
	leak->node.size = node->size;
	drm_mm_remove_node(node);
	WARN_ON(drm_mm_reserve_node(&space->mm, &leak->node));
	list_add(&leak->link, &space->leaked);
	mutex_unlock(&space->lock);
	stat_add(ST_IOVA_LEAKED, leak->node.size);
	rkt_space_put(space);
	return 0;
}

static struct rkt_space *domain_spaces[16];
static struct rkt_space *cma_space, *ordinary_space;
static atomic64_t cma_charged;

int rkt_spaces_init(void)
{
	/* Page 0 is never handed out; the rest comes from the top down. */
	u64 start = max_t(u64, SZ_4G - board.domain_bytes, PAGE_SIZE);
	int i;

	atomic64_set(&cma_charged, 0);
	cma_space = rkt_space_new(CMA_BASE, board.cma_bytes);
	ordinary_space = rkt_space_new(ORDINARY_BASE, CMA_BASE - ORDINARY_BASE);
	if (!cma_space || !ordinary_space) {
		rkt_spaces_exit();
		return -ENOMEM;
	}
	for (i = 0; i < max(board.domains, 1); i++) {
		domain_spaces[i] = rkt_space_new(start, SZ_4G - start);
		if (!domain_spaces[i]) {
			rkt_spaces_exit();
			return -ENOMEM;
		}
	}
	return 0;
}

void rkt_spaces_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(domain_spaces); i++) {
		rkt_space_put(domain_spaces[i]);
		domain_spaces[i] = NULL;
	}
	rkt_space_put(cma_space);
	rkt_space_put(ordinary_space);
	cma_space = ordinary_space = NULL;
}

struct rkt_space *rkt_domain(int id)
{
	return domain_spaces[board.domains ? id : 0];
}

struct rkt_space *rkt_cma(void)
{
	return cma_space;
}

struct rkt_space *rkt_ordinary(void)
{
	return ordinary_space;
}

/* As CmaFree of /proc/meminfo. */
u64 rkt_cma_free(void)
{
	struct drm_mm_node *node;
	u64 used = 0;

	mutex_lock(&cma_space->lock);
	drm_mm_for_each_node(node, &cma_space->mm)
		used += node->size;
	mutex_unlock(&cma_space->lock);
	return board.cma_bytes - used;
}

u64 rkt_cma_align(u64 size)
{
	return size >= CMA_MAX_ALIGN ? CMA_MAX_ALIGN : roundup_pow_of_two(size);
}

/* With an IOMMU only the amount of CMA matters, not the place in it. */
bool rkt_cma_charge(u64 bytes)
{
	if (atomic64_add_return(bytes, &cma_charged) <= board.cma_bytes)
		return true;
	atomic64_sub(bytes, &cma_charged);
	return false;
}

void rkt_cma_uncharge(u64 bytes)
{
	atomic64_sub(bytes, &cma_charged);
}

/* Best effort: takes at most the bytes left. */
u64 rkt_sram_take(u64 bytes)
{
	s64 used, got;

	do {
		used = stat_get(ST_SRAM);
		got = min_t(s64, PAGE_ALIGN(bytes), board.sram_bytes - used);
		if (got <= 0)
			return 0;
	} while (atomic64_cmpxchg(&rkt_stats[ST_SRAM], used, used + got) != used);
	return got;
}

void rkt_sram_give(u64 bytes)
{
	stat_add(ST_SRAM, -(s64)bytes);
}

/* ---- the device's current domain ---- */

static DEFINE_MUTEX(switch_lock);
static int current_domain;

int rkt_current_domain(void)
{
	return READ_ONCE(current_domain);
}

/*
 * From 0.9.8 on a call holds its domain, and a switch waits for the calls and
 * the jobs of the current one.  Earlier drivers switch under them.
 */
bool rkt_holds_domain(void)
{
	return board.version >= 908;
}

/* Uninterruptibly, as the real driver does. */
static int wait_for_job(void)
{
	unsigned int ms = 0;

	stat_add(ST_WAITS, 1);
	while (READ_ONCE(board.job_domain) == READ_ONCE(current_domain)) {
		if (ms++ >= board.job_wait_ms)
			return -EINVAL;
		fsleep(1000);
	}
	return 0;
}

int rkt_switch_domain(int id)
{
	int ret;

	if (!board.iommu || !board.domains)
		return 0;
	ret = rkt_fault(CALL_SWITCH);
	if (ret)
		return ret;
	if (rkt_holds_domain() && id != READ_ONCE(current_domain) &&
	    READ_ONCE(board.job_domain) == READ_ONCE(current_domain)) {
		ret = wait_for_job();
		if (ret)
			return ret;
	}
	mutex_lock(&switch_lock);
	if (id != current_domain || board.rival) {
		stat_add(ST_SWITCHES, 1);
		/* The real driver waits for jobs, uninterruptibly. */
		if (board.switch_ms)
			fsleep(board.switch_ms * 1000UL);
		if (board.switch_timeout)
			ret = -EINVAL;
		else
			WRITE_ONCE(current_domain, id);
	}
	mutex_unlock(&switch_lock);
	return ret;
}

int rkt_action(struct rknpu_action *a)
{
	int ret = rkt_fault(CALL_ACTION);

	stat_add(ST_ACTIONS, 1);
	if (ret)
		return ret;
	switch (a->flags) {
	case RKNPU_GET_HW_VERSION:
		a->value = 0x46495245;
		return 0;
	case RKNPU_GET_DRV_VERSION:
		a->value = board.version;
		return 0;
	case RKNPU_GET_FREQ:
		a->value = 1000000000;
		return 0;
	case RKNPU_GET_VOLT:
		a->value = 800000;
		return 0;
	case RKNPU_ACT_RESET:
	case RKNPU_SET_PROC_NICE:
		return 0;
	case RKNPU_CLR_TOTAL_RW ... RKNPU_GET_TOTAL_RW:
		a->value = 0;
		return 0;
	case RKNPU_GET_IOMMU_EN:
		a->value = board.iommu;
		return 0;
	case RKNPU_GET_TOTAL_SRAM:
	case RKNPU_GET_FREE_SRAM:
		if (board.create_size < 40)
			return -EINVAL;
		a->value = board.sram_bytes;
		if (a->flags == RKNPU_GET_FREE_SRAM)
			a->value -= stat_get(ST_SRAM);
		return 0;
	case RKNPU_GET_DOMAIN:
		if (board.create_size < 48)
			return -EINVAL;
		a->value = rkt_current_domain();
		return 0;
	case RKNPU_SET_DOMAIN:
		if (board.create_size < 48)
			return -EINVAL;
		if (!board.domains)
			return 0;
		if ((s32)a->value < 0 || (s32)a->value >= board.domains ||
		    (a->value && !board.iommu))
			return -EINVAL;
		stat_add(ST_SETS, 1);
		if (!rkt_holds_domain())
			rkt_violation("SET_IOMMU_DOMAIN on a driver that does not hold its domain");
		return rkt_switch_domain(a->value);
	default:
		return -EINVAL;
	}
}

/* ---- pages ---- */

void rkt_poison(struct page **pages, unsigned long count)
{
	unsigned long i;

	for (i = 0; i < count; i++) {
		void *p = kmap_local_page(pages[i]);

		memset(p, POISON, PAGE_SIZE);
		kunmap_local(p);
	}
}

/*
 * Maps all pages from the first one, and ignores the offset, as the real driver
 * does.  The flags exclude the mapping from forked children, core dumps and
 * page pinning.
 */
int rkt_map_pages(struct vm_area_struct *vma, struct page **pages,
		  unsigned long count)
{
	unsigned long want = vma_pages(vma), left = want;

	if (want > count)
		return -EINVAL;
	vm_flags_set(vma, VM_IO | VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP);
	return vm_insert_pages(vma, vma->vm_start, pages, &left);
}

/* ---- obj_addr tokens ---- */

#define TOKEN_BASE	0xffff800000000000ull
#define TOKEN_SHIFT	12

static DEFINE_XARRAY_ALLOC1(tokens);
static u32 next_token;

int rkt_token_new(void *obj, u64 *token)
{
	u32 id;
	int ret;

	ret = xa_alloc_cyclic(&tokens, &id, obj, XA_LIMIT(1, U32_MAX),
			      &next_token, GFP_KERNEL);
	if (ret < 0)
		return ret;
	*token = TOKEN_BASE + ((u64)id << TOKEN_SHIFT);
	return 0;
}

static u64 token_index(u64 token)
{
	u64 id = token - TOKEN_BASE;

	if (token < TOKEN_BASE || id & (BIT(TOKEN_SHIFT) - 1))
		return 0;
	return id >> TOKEN_SHIFT;
}

void rkt_token_drop(u64 token)
{
	if (token)
		xa_erase(&tokens, token_index(token));
}

/* A found object stays alive until rkt_tokens_unlock(): dropping takes the lock. */
void rkt_tokens_lock(void)
{
	xa_lock(&tokens);
}

void rkt_tokens_unlock(void)
{
	xa_unlock(&tokens);
}

void *rkt_token_find(u64 token)
{
	u64 index = token_index(token);

	return index && index <= U32_MAX ? xa_load(&tokens, index) : NULL;
}

bool rkt_range_ok(u64 offset, u64 size, u64 limit)
{
	return offset <= limit && size <= limit - offset;
}
