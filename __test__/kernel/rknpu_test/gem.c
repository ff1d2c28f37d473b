// SPDX-License-Identifier: GPL-2.0
/* The DRM flavour: a card and a render node named "rknpu". */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/pagemap.h>
#include <linux/slab.h>
#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_ioctl.h>
#include <drm/drm_prime.h>
#include <drm/drm_vma_manager.h>

#include "rknpu_test.h"

/* ---- objects ---- */

/* The largest piece of the page allocator. */
#define MAX_FROM_PAGES	SZ_4M

/*
 * SRAM has pages of its own.  mmap shows them before the DRAM; a dma-buf's
 * sg_table has the DRAM behind them instead, as in the real driver.
 */
static void sram_put(struct rkt_gem *gem)
{
	unsigned long i;

	for (i = 0; gem->view && i < gem->sram >> PAGE_SHIFT; i++)
		if (gem->view[i])
			__free_page(gem->view[i]);
	kvfree(gem->view);
	gem->view = NULL;
}

static int sram_get(struct rkt_gem *gem)
{
	unsigned long i, sram = gem->sram >> PAGE_SHIFT;
	unsigned long count = gem->base.size >> PAGE_SHIFT;

	gem->view = kvcalloc(count, sizeof(*gem->view), GFP_KERNEL);
	if (!gem->view)
		return -ENOMEM;
	for (i = 0; i < sram; i++) {
		gem->view[i] = alloc_page(GFP_HIGHUSER | __GFP_ZERO);
		if (!gem->view[i])
			return -ENOMEM;
	}
	for (; i < count; i++)
		gem->view[i] = gem->pages[i - sram];
	return 0;
}

static void gem_free(struct drm_gem_object *obj)
{
	struct rkt_gem *gem = to_rkt_gem(obj);

	rkt_token_drop(gem->token);
	sram_put(gem);
	if (obj->import_attach) {
		drm_prime_gem_destroy(obj, gem->sgt);
		stat_add(ST_IMPORTS, -1);
	} else if (gem->pages) {
		drm_gem_put_pages(obj, gem->pages, true, false);
	}
	if (drm_mm_node_allocated(&gem->node) &&
	    (!gem->fell_back || !board.leak_contiguous ||
	     rkt_space_leak(gem->space, &gem->node)))
		rkt_space_remove(gem->space, &gem->node);
	if (gem->sram)
		rkt_sram_give(gem->sram);
	if (gem->cma)
		rkt_cma_uncharge(gem->cma);
	stat_add(ST_OBJECTS, -1);
	stat_add(ST_BYTES, -(s64)obj->size);
	drm_gem_object_release(obj);
	kfree(gem);
}

static int gem_open(struct drm_gem_object *obj, struct drm_file *file)
{
	stat_add(ST_HANDLES, 1);
	return 0;
}

static void gem_close(struct drm_gem_object *obj, struct drm_file *file)
{
	stat_add(ST_HANDLES, -1);
}

static struct sg_table *gem_get_sg_table(struct drm_gem_object *obj)
{
	return drm_prime_pages_to_sg(obj->dev, to_rkt_gem(obj)->pages,
				     obj->size >> PAGE_SHIFT);
}

static void gem_vm_open(struct vm_area_struct *vma)
{
	stat_add(ST_MAPS, 1);
	drm_gem_vm_open(vma);
}

static void gem_vm_close(struct vm_area_struct *vma)
{
	stat_add(ST_MAPS, -1);
	drm_gem_vm_close(vma);
}

static const struct vm_operations_struct gem_vm_ops = {
	.open = gem_vm_open,
	.close = gem_vm_close,
};

static int gem_mmap(struct drm_gem_object *obj, struct vm_area_struct *vma)
{
	struct rkt_gem *gem = to_rkt_gem(obj);
	int ret = rkt_fault(CALL_MMAP);

	if (ret)
		return ret;
	if (!gem->pages)
		return -EINVAL;
	if (gem->fell_back)
		return -ENXIO;
	if (!(gem->flags & RKNPU_CACHEABLE)) {
		pgprot_t prot = vm_get_page_prot(vma->vm_flags);

		if (!(gem->flags & RKNPU_WRITE_COMBINE)) {
			/* Device memory on arm64: memset() may raise SIGBUS. */
			if (board.iommu && gem->flags & RKNPU_NON_CONTIGUOUS)
				return rkt_violation("mmap of an object that is neither cacheable nor write-combined");
		}
		vma->vm_page_prot = pgprot_writecombine(prot);
	}
	ret = rkt_map_pages(vma, gem->view ?: gem->pages,
			    obj->size >> PAGE_SHIFT);
	if (ret)
		return ret;
	stat_add(ST_MAPS, 1);
	stat_add(ST_MMAPS, 1);
	return 0;
}

/*
 * DRM's own dma-buf operations, plus a counter.  They have no
 * begin/end_cpu_access, so DMA_BUF_IOCTL_SYNC does nothing.
 */
static void gem_dmabuf_release(struct dma_buf *buf)
{
	stat_add(ST_DMABUFS, -1);
	drm_gem_dmabuf_release(buf);
}

static const struct dma_buf_ops gem_dmabuf_ops = {
	.cache_sgt_mapping = true,
	.attach = drm_gem_map_attach,
	.detach = drm_gem_map_detach,
	.map_dma_buf = drm_gem_map_dma_buf,
	.unmap_dma_buf = drm_gem_unmap_dma_buf,
	.release = gem_dmabuf_release,
	.mmap = drm_gem_dmabuf_mmap,
	.vmap = drm_gem_dmabuf_vmap,
	.vunmap = drm_gem_dmabuf_vunmap,
};

static struct dma_buf *gem_export(struct drm_gem_object *obj, int flags)
{
	struct dma_buf_export_info info = {
		.exp_name = "drm",
		.owner = THIS_MODULE,
		.ops = &gem_dmabuf_ops,
		.size = obj->size,
		.flags = flags,
		.priv = obj,
		.resv = obj->resv,
	};
	struct dma_buf *buf = drm_gem_dmabuf_export(obj->dev, &info);

	if (!IS_ERR(buf))
		stat_add(ST_DMABUFS, 1);
	return buf;
}

static const struct drm_gem_object_funcs gem_funcs = {
	.free = gem_free,
	.open = gem_open,
	.close = gem_close,
	.export = gem_export,
	.get_sg_table = gem_get_sg_table,
	.mmap = gem_mmap,
	.vm_ops = &gem_vm_ops,
};

/* `size` in whole pages, without memory.  Undo with drm_gem_object_put(). */
struct rkt_gem *rkt_gem_new(struct drm_device *dev, u64 size, u32 flags)
{
	struct rkt_gem *gem = kzalloc(sizeof(*gem), GFP_KERNEL);
	int ret;

	if (!gem)
		return ERR_PTR(-ENOMEM);
	gem->base.funcs = &gem_funcs;
	gem->flags = flags;
	ret = drm_gem_object_init(dev, &gem->base, size);
	if (ret) {
		kfree(gem);
		return ERR_PTR(ret);
	}
	mapping_set_gfp_mask(gem->base.filp->f_mapping,
			     GFP_HIGHUSER | __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
	stat_add(ST_OBJECTS, 1);
	stat_add(ST_BYTES, size);
	return gem;
}

/* Fresh shmem pages are zero; the caller poisons those that a board would not zero. */
int rkt_gem_back(struct rkt_gem *gem)
{
	struct page **pages = drm_gem_get_pages(&gem->base);

	if (IS_ERR(pages))
		return PTR_ERR(pages);
	gem->pages = pages;
	return 0;
}

/* ---- PRIME ---- */

int rkt_gem_handle_to_fd(struct drm_device *dev, struct drm_file *file,
			 u32 handle, u32 flags, int *fd)
{
	int ret = rkt_fault(CALL_EXPORT);

	if (!ret)
		ret = drm_gem_prime_handle_to_fd(dev, file, handle, flags, fd);
	if (!ret)
		stat_add(ST_EXPORTS, 1);
	return ret;
}

int rkt_gem_fd_to_handle(struct drm_device *dev, struct drm_file *file,
			 int fd, u32 *handle)
{
	int ret = rkt_fault(CALL_IMPORT);

	if (!ret)
		ret = drm_gem_prime_fd_to_handle(dev, file, fd, handle);
	if (!ret)
		stat_add(ST_IMPORTED, 1);
	return ret;
}

/* DRM recognises its own exports by their operations; this driver's differ. */
struct drm_gem_object *rkt_gem_import(struct drm_device *dev,
				      struct dma_buf *buf)
{
	if (buf->ops == &gem_dmabuf_ops) {
		struct drm_gem_object *obj = buf->priv;

		if (obj->dev == dev) {
			drm_gem_object_get(obj);
			return obj;
		}
	}
	return drm_gem_prime_import_dev(dev, buf, dev->dev);
}

/*
 * Without an IOMMU the real driver does not check that the buffer is
 * contiguous: it takes the address of the first piece.  With an IOMMU it maps
 * the buffer in the current domain.
 */
static struct drm_gem_object *
gem_import_sg_table(struct drm_device *dev, struct dma_buf_attachment *attach,
		    struct sg_table *sgt)
{
	size_t size = PAGE_ALIGN(attach->dmabuf->size);
	struct rkt_gem *gem = kzalloc(sizeof(*gem), GFP_KERNEL);
	int ret;

	if (!gem)
		return ERR_PTR(-ENOMEM);
	if (board.iommu) {
		gem->space = rkt_domain(rkt_current_domain());
		ret = rkt_space_insert(gem->space, &gem->node, size,
				       roundup_pow_of_two(size),
				       DRM_MM_INSERT_HIGH);
		if (ret) {
			kfree(gem);
			return ERR_PTR(-ENOMEM);
		}
		gem->dma_addr = gem->node.start;
	} else {
		gem->dma_addr = sg_dma_address(sgt->sgl);
	}
	ret = rkt_token_new(gem, &gem->token);
	if (ret) {
		if (board.iommu)
			rkt_space_remove(gem->space, &gem->node);
		kfree(gem);
		return ERR_PTR(ret);
	}
	gem->base.funcs = &gem_funcs;
	drm_gem_private_object_init(dev, &gem->base, size);
	gem->sgt = sgt;
	stat_add(ST_OBJECTS, 1);
	stat_add(ST_BYTES, size);
	stat_add(ST_IMPORTS, 1);
	return &gem->base;
}

/* ---- ioctls ---- */

static int ioctl_action(struct drm_device *dev, void *data,
			struct drm_file *file)
{
	return rkt_action(data);
}

/* An older driver does not change the fields that it does not know. */
static void create_answer(struct rknpu_mem_create *a, struct rkt_gem *gem)
{
	a->size = gem->base.size;
	a->obj_addr = gem->token;
	a->dma_addr = gem->dma_addr;
	if (board.create_size >= 40)
		a->sram_size = gem->sram;
}

/* Assigns addresses to `gem`, with the errors of the real driver. */
static int create_place(struct rkt_gem *gem, u64 sram_wanted)
{
	u64 size = gem->base.size, align;
	bool scattered = gem->flags & RKNPU_NON_CONTIGUOUS;

	if (!board.iommu) {
		/* Above the page allocator's size, the kernel warns with a trace. */
		if (size > rkt_cma_free() && size > MAX_FROM_PAGES)
			stat_add(ST_BEYOND_CMA, 1);
		gem->space = rkt_cma();
		if (rkt_space_insert(gem->space, &gem->node, size,
				     rkt_cma_align(size), DRM_MM_INSERT_LOW)) {
			gem->space = rkt_ordinary();
			if (size > MAX_FROM_PAGES ||
			    rkt_space_insert(gem->space, &gem->node, size,
					     roundup_pow_of_two(size),
					     DRM_MM_INSERT_LOW))
				return -EINVAL;
			stat_add(ST_FROM_PAGES, 1);
		}
		gem->dma_addr = gem->node.start;
		return 0;
	}

	if (board.create_size >= 40 && gem->flags & RKNPU_TRY_SRAM)
		gem->sram = rkt_sram_take(sram_wanted ?
					  min(sram_wanted, size) : size);
	if (!scattered && !gem->sram) {
		if (rkt_cma_charge(size))
			gem->cma = size;
		else
			gem->fell_back = true;
	}
	size += gem->sram;
	align = board.version >= 907 && gem->flags & RKNPU_LIMIT_IOVA_ALIGN ?
		PAGE_SIZE : roundup_pow_of_two(size);
	gem->space = rkt_domain(gem->domain);
	if (rkt_space_insert(gem->space, &gem->node, size, align,
			     DRM_MM_INSERT_HIGH))
		return gem->sram ? -ENOMEM : scattered ? -EFAULT : -EINVAL;
	gem->dma_addr = gem->node.start;
	return 0;
}

static int ioctl_create(struct drm_device *dev, void *data,
			struct drm_file *file)
{
	struct rknpu_mem_create *a = data;
	u64 size = PAGE_ALIGN(a->size), sram_wanted = 0;
	struct drm_gem_object *known;
	struct rkt_gem *gem;
	int ret, domain = 0;

	ret = rkt_fault(CALL_CREATE);
	if (ret)
		return ret;
	known = a->handle ? drm_gem_object_lookup(file, a->handle) : NULL;
	if (known) {
		create_answer(a, to_rkt_gem(known));
		drm_gem_object_put(known);
		return 0;
	}

	if (!a->size)
		return -EINVAL;
	if (!size)
		return rkt_violation("MEM_CREATE of %#llx bytes wraps to nothing", a->size);
	if (size >> PAGE_SHIFT > totalram_pages()) {
		/* The real driver truncates to 32 bits; the limit avoids the OOM killer. */
		if (board.iommu)
			return rkt_violation("MEM_CREATE of %llu bytes, more than the RAM", size);
		return -EINVAL;
	}
	if (board.create_size >= 40)
		sram_wanted = a->sram_size;
	if (board.create_size >= 48 && board.domains) {
		domain = a->iommu_domain_id;
		if (domain < 0 || domain >= board.domains ||
		    (domain && !board.iommu))
			return -EINVAL;
	}
	ret = rkt_switch_domain(domain);
	if (ret)
		return ret;

	gem = rkt_gem_new(dev, size, a->flags);
	if (IS_ERR(gem))
		return PTR_ERR(gem);
	gem->domain = domain;
	if (!board.iommu)
		gem->flags &= ~RKNPU_NON_CONTIGUOUS;
	ret = create_place(gem, sram_wanted);
	if (!ret)
		ret = rkt_gem_back(gem);
	if (ret == -ENOMEM && !board.iommu)
		ret = -EINVAL;
	if (!ret && gem->sram)
		ret = sram_get(gem);
	if (!ret && domain != rkt_current_domain() && !rkt_holds_domain()) {
		/* Another process switched: the pages are mapped elsewhere. */
		stat_add(ST_ELSEWHERE, 1);
		ret = -EFAULT;
	}
	if (!ret)
		ret = rkt_token_new(gem, &gem->token);
	if (ret)
		goto out;
	if (board.dirty && !board.iommu && !(a->flags & RKNPU_KERNEL_MAPPING))
		rkt_poison(gem->pages, size >> PAGE_SHIFT);
	else if (board.dirty && gem->sram)
		rkt_poison(gem->view, gem->sram >> PAGE_SHIFT);

	ret = drm_gem_handle_create(file, &gem->base, &a->handle);
	if (!ret) {
		create_answer(a, gem);
		stat_add(ST_CREATES, 1);
	}
out:
	drm_gem_object_put(&gem->base);
	return ret;
}

static int ioctl_map(struct drm_device *dev, void *data, struct drm_file *file)
{
	struct rknpu_mem_map *a = data;
	int ret = rkt_fault(CALL_MAP);

	if (!ret)
		ret = drm_gem_dumb_map_offset(file, dev, a->handle, &a->offset);
	if (ret == -ENOENT)
		stat_add(ST_BAD_HANDLES, 1);
	return ret;
}

/* Only the handle counts, but a wrong obj_addr shows a caller's accounting error. */
static int ioctl_destroy(struct drm_device *dev, void *data,
			 struct drm_file *file)
{
	struct rknpu_mem_destroy *a = data;
	struct drm_gem_object *obj;
	int ret;

	ret = rkt_fault(CALL_DESTROY);
	if (ret)
		return ret;
	obj = drm_gem_object_lookup(file, a->handle);
	if (!obj) {
		stat_add(ST_BAD_HANDLES, 1);
		return -EINVAL;
	}
	if (a->obj_addr && a->obj_addr != to_rkt_gem(obj)->token)
		ret = rkt_violation("MEM_DESTROY of handle %u with obj_addr %#llx, not its own",
				    a->handle, a->obj_addr);
	if (!ret)
		ret = rkt_switch_domain(to_rkt_gem(obj)->domain);
	/* The real driver unmaps in the wrong page table then, for good. */
	if (!ret && !rkt_holds_domain() && board.domains && board.iommu &&
	    to_rkt_gem(obj)->domain != rkt_current_domain())
		stat_add(ST_ELSEWHERE, 1);
	drm_gem_object_put(obj);
	if (!ret)
		ret = drm_gem_handle_delete(file, a->handle);
	if (!ret)
		stat_add(ST_DESTROYS, 1);
	return ret;
}

static int ioctl_sync(struct drm_device *dev, void *data, struct drm_file *file)
{
	struct rknpu_mem_sync *a = data;
	struct rkt_gem *gem;
	bool mine = false;
	int ret;

	ret = rkt_fault(CALL_SYNC);
	if (ret)
		return ret;
	if (!a->obj_addr)
		return -EINVAL;

	rkt_tokens_lock();
	gem = rkt_token_find(a->obj_addr);
	if (gem) {
		mine = drm_vma_node_is_allowed(&gem->base.vma_node, file);
		if (!kref_get_unless_zero(&gem->base.refcount))
			gem = NULL;
	}
	rkt_tokens_unlock();
	if (!gem)
		return rkt_violation("MEM_SYNC of a stale obj_addr %#llx",
				     a->obj_addr);

	if (!mine)
		ret = rkt_violation("MEM_SYNC of obj_addr %#llx of another file",
				    a->obj_addr);
	else if (!rkt_range_ok(a->offset, a->size, gem->base.size))
		ret = rkt_violation("MEM_SYNC of [%#llx, +%#llx) in %#zx bytes",
				    a->offset, a->size, gem->base.size);
	else if (board.sync_refuse && !(gem->flags & RKNPU_CACHEABLE))
		ret = -EINVAL;
	else
		ret = rkt_switch_domain(gem->domain);
	if (!ret) {
		stat_add(ST_SYNCS, 1);
		stat_add(ST_SYNC_BYTES, a->size);
	}
	drm_gem_object_put(&gem->base);
	return ret;
}

/* There is no NPU: every job is refused as malformed. */
static int ioctl_submit(struct drm_device *dev, void *data,
			struct drm_file *file)
{
	return -EINVAL;
}

static struct drm_ioctl_desc gem_ioctls[] = {
	DRM_IOCTL_DEF_DRV(RKNPU_ACTION, ioctl_action, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(RKNPU_SUBMIT, ioctl_submit, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(RKNPU_MEM_CREATE, ioctl_create, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(RKNPU_MEM_MAP, ioctl_map, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(RKNPU_MEM_DESTROY, ioctl_destroy, DRM_RENDER_ALLOW),
	DRM_IOCTL_DEF_DRV(RKNPU_MEM_SYNC, ioctl_sync, DRM_RENDER_ALLOW),
};

/* ---- the device ---- */

static int file_open(struct drm_device *dev, struct drm_file *file)
{
	int ret = rkt_fault(CALL_OPEN);

	if (!ret)
		stat_add(ST_FILES, 1);
	return ret;
}

static void file_close(struct drm_device *dev, struct drm_file *file)
{
	stat_add(ST_FILES, -1);
}

DEFINE_DRM_GEM_FOPS(gem_fops);

static struct drm_driver gem_driver = {
	.driver_features = DRIVER_GEM | DRIVER_RENDER,
	.open = file_open,
	.postclose = file_close,
	.prime_handle_to_fd = rkt_gem_handle_to_fd,
	.prime_fd_to_handle = rkt_gem_fd_to_handle,
	.gem_prime_import = rkt_gem_import,
	.gem_prime_import_sg_table = gem_import_sg_table,
	.ioctls = gem_ioctls,
	.num_ioctls = ARRAY_SIZE(gem_ioctls),
	.fops = &gem_fops,
	.name = "rknpu",
	.desc = "RKNPU driver",
	.date = "20240828",
};

/* DRM pads a caller's struct to the size that the driver declares. */
void rkt_gem_setup(void)
{
	struct drm_ioctl_desc *create = &gem_ioctls[RKNPU_NR_MEM_CREATE];

	create->cmd = _IOC(_IOC_READ | _IOC_WRITE, 'd',
			   0x40 + RKNPU_NR_MEM_CREATE, board.create_size);
	gem_driver.major = board.major;
	gem_driver.minor = board.minor;
	gem_driver.patchlevel = board.patch;
}

static int gem_probe(struct platform_device *pdev)
{
	struct drm_device *dev = drm_dev_alloc(&gem_driver, &pdev->dev);
	int ret;

	if (IS_ERR(dev))
		return PTR_ERR(dev);
	ret = drm_dev_register(dev, 0);
	if (ret) {
		drm_dev_put(dev);
		return ret;
	}
	platform_set_drvdata(pdev, dev);
	return 0;
}

static void gem_remove(struct platform_device *pdev)
{
	struct drm_device *dev = platform_get_drvdata(pdev);

	drm_dev_unregister(dev);
	drm_dev_put(dev);
}

struct platform_driver rkt_gem_platform = {
	.probe = gem_probe,
	.remove_new = gem_remove,
	.id_table = rkt_ids,
	.driver.name = "RKNPU",
};
