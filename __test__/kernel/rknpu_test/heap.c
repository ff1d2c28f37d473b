// SPDX-License-Identifier: GPL-2.0
/*
 * The DMA-heap flavour: /dev/rknpu.  Memory is a dma-buf that its fd owns; the
 * driver object is a record of it, and MEM_DESTROY frees only the record.
 */
#include <linux/dma-buf.h>
#include <linux/dma-mapping.h>
#include <linux/highmem.h>
#include <linux/list.h>
#include <linux/miscdevice.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "rknpu_test.h"

struct heap_buf {
	struct page **pages;	/* as the CPU sees them, through its caches */
	struct page **dram;	/* with `incoherent`: as the device sees them */
	unsigned long count;
	struct drm_mm_node node;
};

/* A record.  Holds a reference to an imported buffer, none to one of its own. */
struct heap_obj {
	struct list_head all;
	struct list_head mine;
	struct heap_file *owner;
	struct dma_buf *buf;
	u64 token;
	u64 size;
	u64 dma_addr;
	bool imported;
	bool dead;
};

struct heap_file {
	struct list_head objs;
};

static LIST_HEAD(all_objs);
static DEFINE_MUTEX(objs_lock);
static struct platform_device *heap_pdev;

/* ---- the buffers ---- */

static void pages_free(struct page **pages, unsigned long count)
{
	unsigned long i;

	for (i = 0; pages && i < count; i++)
		if (pages[i])
			__free_page(pages[i]);
	kvfree(pages);
}

static struct page **pages_new(unsigned long count)
{
	struct page **pages = kvcalloc(count, sizeof(*pages), GFP_KERNEL);
	unsigned long i;

	for (i = 0; pages && i < count; i++) {
		pages[i] = alloc_page(GFP_HIGHUSER | __GFP_ZERO |
				      __GFP_RETRY_MAYFAIL | __GFP_NOWARN);
		if (!pages[i]) {
			pages_free(pages, count);
			return NULL;
		}
	}
	return pages;
}

static void buf_free(struct heap_buf *hb)
{
	pages_free(hb->pages, hb->count);
	pages_free(hb->dram, hb->count);
	if (drm_mm_node_allocated(&hb->node))
		rkt_space_remove(rkt_cma(), &hb->node);
	kfree(hb);
}

static struct heap_buf *buf_new(u64 size)
{
	struct heap_buf *hb = kzalloc(sizeof(*hb), GFP_KERNEL);

	if (!hb)
		return NULL;
	hb->count = size >> PAGE_SHIFT;
	if (rkt_space_insert(rkt_cma(), &hb->node, size, rkt_cma_align(size),
			     DRM_MM_INSERT_LOW))
		goto err;
	hb->pages = pages_new(hb->count);
	hb->dram = board.incoherent ? pages_new(hb->count) : NULL;
	if (!hb->pages || (board.incoherent && !hb->dram))
		goto err;
	return hb;
err:
	buf_free(hb);
	return NULL;
}

static struct sg_table *buf_map(struct dma_buf_attachment *at,
				enum dma_data_direction dir)
{
	struct heap_buf *hb = at->dmabuf->priv;
	struct sg_table *sgt = kzalloc(sizeof(*sgt), GFP_KERNEL);
	int ret;

	if (!sgt)
		return ERR_PTR(-ENOMEM);
	ret = sg_alloc_table_from_pages(sgt, hb->pages, hb->count, 0,
					(u64)hb->count << PAGE_SHIFT,
					GFP_KERNEL);
	if (ret)
		goto err_sgt;
	ret = dma_map_sgtable(at->dev, sgt, dir, 0);
	if (ret)
		goto err_table;
	return sgt;
err_table:
	sg_free_table(sgt);
err_sgt:
	kfree(sgt);
	return ERR_PTR(ret);
}

static void buf_unmap(struct dma_buf_attachment *at, struct sg_table *sgt,
		      enum dma_data_direction dir)
{
	dma_unmap_sgtable(at->dev, sgt, dir, 0);
	sg_free_table(sgt);
	kfree(sgt);
}

static void buf_vm_open(struct vm_area_struct *vma)
{
	stat_add(ST_MAPS, 1);
}

static void buf_vm_close(struct vm_area_struct *vma)
{
	stat_add(ST_MAPS, -1);
}

static const struct vm_operations_struct buf_vm_ops = {
	.open = buf_vm_open,
	.close = buf_vm_close,
};

/* Ignores the offset, as the real driver does. */
static int buf_mmap(struct dma_buf *buf, struct vm_area_struct *vma)
{
	struct heap_buf *hb = buf->priv;
	int ret = rkt_fault(CALL_MMAP);

	if (!ret)
		ret = rkt_map_pages(vma, hb->pages, hb->count);
	if (ret)
		return ret;
	vma->vm_ops = &buf_vm_ops;
	stat_add(ST_MAPS, 1);
	stat_add(ST_MMAPS, 1);
	return 0;
}

static void buf_release(struct dma_buf *buf)
{
	struct heap_buf *hb = buf->priv;
	struct heap_obj *obj;

	mutex_lock(&objs_lock);
	list_for_each_entry(obj, &all_objs, all)
		if (obj->buf == buf)
			obj->dead = true;
	mutex_unlock(&objs_lock);
	stat_add(ST_DMABUFS, -1);
	stat_add(ST_BYTES, -(s64)buf->size);
	buf_free(hb);
}

static void pages_copy(struct page **to, struct page **from,
		       unsigned long count)
{
	unsigned long i;

	for (i = 0; to && from && i < count; i++)
		copy_highpage(to[i], from[i]);
}

/*
 * Caches that are not coherent, for whole buffers as in the vendor's heaps: the
 * CPU's access starts with an invalidate, which drops lines that were not
 * cleaned, and ends with a clean.
 */
static int buf_begin_cpu_access(struct dma_buf *buf, enum dma_data_direction dir)
{
	struct heap_buf *hb = buf->priv;

	if (dir != DMA_TO_DEVICE)
		pages_copy(hb->pages, hb->dram, hb->count);
	return 0;
}

static int buf_end_cpu_access(struct dma_buf *buf, enum dma_data_direction dir)
{
	struct heap_buf *hb = buf->priv;

	pages_copy(hb->dram, hb->pages, hb->count);
	return 0;
}

static const struct dma_buf_ops buf_ops = {
	.begin_cpu_access = buf_begin_cpu_access,
	.end_cpu_access = buf_end_cpu_access,
	.map_dma_buf = buf_map,
	.unmap_dma_buf = buf_unmap,
	.mmap = buf_mmap,
	.release = buf_release,
};

/* ---- the driver's records ---- */

static int obj_add(struct heap_file *hf, struct heap_obj *obj)
{
	int ret = rkt_token_new(obj, &obj->token);

	if (ret)
		return ret;
	mutex_lock(&objs_lock);
	obj->owner = hf;
	list_add(&obj->all, &all_objs);
	list_add(&obj->mine, &hf->objs);
	mutex_unlock(&objs_lock);
	stat_add(ST_OBJECTS, 1);
	if (obj->imported)
		stat_add(ST_IMPORTS, 1);
	return 0;
}

/* Called with objs_lock held; the caller puts the imported buffer. */
static void obj_remove(struct heap_obj *obj)
{
	rkt_token_drop(obj->token);
	list_del(&obj->all);
	list_del(&obj->mine);
	stat_add(ST_OBJECTS, -1);
	if (obj->imported)
		stat_add(ST_IMPORTS, -1);
}

static void obj_free(struct heap_obj *obj)
{
	if (obj->imported)
		dma_buf_put(obj->buf);
	kfree(obj);
}

static int create_new(struct heap_file *hf, struct rknpu_mem_create *a)
{
	struct dma_buf_export_info info = {
		.exp_name = "rk-dma-heap-cma",
		.owner = THIS_MODULE,
		.ops = &buf_ops,
		.flags = O_RDWR | O_CLOEXEC,
	};
	u64 size = PAGE_ALIGN(a->size);
	struct heap_obj *obj;
	struct heap_buf *hb;
	int fd, ret;

	if (!size)
		return -EINVAL;
	if (size > board.cma_bytes)
		return -ENOMEM;
	obj = kzalloc(sizeof(*obj), GFP_KERNEL);
	if (!obj)
		return -ENOMEM;
	ret = -ENOMEM;
	hb = buf_new(size);
	if (!hb)
		goto err_obj;
	info.size = size;
	info.priv = hb;
	obj->buf = dma_buf_export(&info);
	if (IS_ERR(obj->buf)) {
		ret = PTR_ERR(obj->buf);
		buf_free(hb);
		goto err_obj;
	}
	stat_add(ST_DMABUFS, 1);
	stat_add(ST_BYTES, size);
	obj->size = size;
	obj->dma_addr = hb->node.start;
	ret = obj_add(hf, obj);
	if (ret)
		goto err_buf;

	/* The real driver reports a full descriptor table as EFAULT. */
	fd = dma_buf_fd(obj->buf, O_CLOEXEC);
	if (fd < 0) {
		ret = -EFAULT;
		mutex_lock(&objs_lock);
		obj_remove(obj);
		mutex_unlock(&objs_lock);
		goto err_buf;
	}
	a->handle = fd;
	a->size = size;
	a->obj_addr = obj->token;
	a->dma_addr = obj->dma_addr;
	stat_add(ST_CREATES, 1);
	stat_add(ST_EXPORTS, 1);
	return 0;

err_buf:
	dma_buf_put(obj->buf);
err_obj:
	kfree(obj);
	return ret;
}

/* Maps the buffer briefly for its address: that of the last piece. */
static int import_address(struct dma_buf *buf, u64 *addr)
{
	struct dma_buf_attachment *at;
	struct scatterlist *sg;
	struct sg_table *sgt;
	int i;

	if (buf->ops == &buf_ops) {
		struct heap_buf *hb = buf->priv;

		*addr = hb->node.start;
		return 0;
	}
	at = dma_buf_attach(buf, &heap_pdev->dev);
	if (IS_ERR(at))
		return PTR_ERR(at);
	sgt = dma_buf_map_attachment_unlocked(at, DMA_BIDIRECTIONAL);
	if (IS_ERR(sgt)) {
		dma_buf_detach(buf, at);
		return PTR_ERR(sgt);
	}
	for_each_sgtable_dma_sg(sgt, sg, i)
		*addr = sg_dma_address(sg);
	dma_buf_unmap_attachment_unlocked(at, sgt, DMA_BIDIRECTIONAL);
	dma_buf_detach(buf, at);
	return 0;
}

/* Trusts the caller's size, as the real driver does. */
static int create_import(struct heap_file *hf, struct rknpu_mem_create *a)
{
	struct heap_obj *obj;
	struct dma_buf *buf;
	int ret;

	ret = rkt_fault(CALL_IMPORT);
	if (ret)
		return ret;
	buf = dma_buf_get(a->handle);
	if (IS_ERR(buf))
		return PTR_ERR(buf);
	ret = -ENOMEM;
	obj = kzalloc(sizeof(*obj), GFP_KERNEL);
	if (!obj)
		goto err;
	obj->buf = buf;
	obj->imported = true;
	obj->size = PAGE_ALIGN(a->size);
	ret = import_address(buf, &obj->dma_addr);
	if (!ret)
		ret = obj_add(hf, obj);
	if (ret) {
		kfree(obj);
		goto err;
	}
	a->size = obj->size;
	a->obj_addr = obj->token;
	a->dma_addr = obj->dma_addr;
	stat_add(ST_IMPORTED, 1);
	return 0;
err:
	dma_buf_put(buf);
	return ret;
}

static int do_create(struct heap_file *hf, struct rknpu_mem_create *a)
{
	int ret = rkt_fault(CALL_CREATE);

	if (ret)
		return ret;
	if (a->flags & RKNPU_NON_CONTIGUOUS)
		return -EINVAL;
	if ((s32)a->handle > 0)
		return create_import(hf, a);
	return create_new(hf, a);
}

static int do_destroy(struct heap_file *hf, struct rknpu_mem_destroy *a)
{
	struct heap_obj *obj;
	int ret = rkt_fault(CALL_DESTROY);

	if (ret)
		return ret;
	if (!a->obj_addr)
		return -EINVAL;
	mutex_lock(&objs_lock);
	obj = rkt_token_find(a->obj_addr);
	if (!obj || obj->owner != hf) {
		mutex_unlock(&objs_lock);
		return rkt_violation("MEM_DESTROY of a %s obj_addr %#llx",
				     obj ? "foreign" : "stale", a->obj_addr);
	}
	if (obj->dead)
		ret = rkt_violation("MEM_DESTROY of obj_addr %#llx after the last close of its fd",
				    a->obj_addr);
	obj_remove(obj);
	mutex_unlock(&objs_lock);
	obj_free(obj);
	stat_add(ST_DESTROYS, 1);
	return ret;
}

static int do_sync(struct heap_file *hf, struct rknpu_mem_sync *a)
{
	struct heap_obj *obj;
	int ret = rkt_fault(CALL_SYNC);

	if (ret)
		return ret;
	if (!a->obj_addr)
		return -EINVAL;
	mutex_lock(&objs_lock);
	obj = rkt_token_find(a->obj_addr);
	if (!obj || obj->owner != hf)
		ret = rkt_violation("MEM_SYNC of a %s obj_addr %#llx",
				    obj ? "foreign" : "stale", a->obj_addr);
	else if (obj->dead)
		ret = rkt_violation("MEM_SYNC of obj_addr %#llx after the last close of its fd",
				    a->obj_addr);
	else if (!rkt_range_ok(a->offset, a->size, obj->size))
		ret = rkt_violation("MEM_SYNC of [%#llx, +%#llx) in %#llx bytes",
				    a->offset, a->size, obj->size);
	mutex_unlock(&objs_lock);
	if (!ret) {
		stat_add(ST_SYNCS, 1);
		stat_add(ST_SYNC_BYTES, a->size);
	}
	return ret;
}

/* ---- the device ---- */

/* MEM_CREATE alone reads the size in the request, without checking its limit. */
static int create_bytes(unsigned int cmd)
{
	if (board.create_size < 48)
		return board.create_size;
	if (_IOC_SIZE(cmd) > sizeof(struct rknpu_mem_create))
		return rkt_violation("MEM_CREATE of %u bytes overruns the stack",
				     _IOC_SIZE(cmd));
	return _IOC_SIZE(cmd);
}

static long heap_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	union {
		struct rknpu_action action;
		struct rknpu_mem_create create;
		struct rknpu_mem_destroy destroy;
		struct rknpu_mem_sync sync;
	} u = { };
	struct heap_file *hf = file->private_data;
	void __user *user = (void __user *)arg;
	int bytes, ret;

	/* The real driver ignores the type and accepts other drivers' calls. */
	if (_IOC_TYPE(cmd) != 'r')
		return rkt_violation("ioctl %#x of another driver on /dev/rknpu",
				     cmd);
	switch (_IOC_NR(cmd)) {
	case RKNPU_NR_ACTION:
		bytes = sizeof(u.action);
		break;
	case RKNPU_NR_MEM_CREATE:
		bytes = create_bytes(cmd);
		if (bytes < 0)
			return bytes;
		break;
	case RKNPU_NR_MEM_DESTROY:
		bytes = sizeof(u.destroy);
		break;
	case RKNPU_NR_MEM_SYNC:
		bytes = sizeof(u.sync);
		break;
	default:
		return -EINVAL;
	}
	if (copy_from_user(&u, user, bytes))
		return -EFAULT;
	switch (_IOC_NR(cmd)) {
	case RKNPU_NR_ACTION:
		ret = rkt_action(&u.action);
		break;
	case RKNPU_NR_MEM_CREATE:
		ret = do_create(hf, &u.create);
		break;
	case RKNPU_NR_MEM_DESTROY:
		ret = do_destroy(hf, &u.destroy);
		break;
	default:
		ret = do_sync(hf, &u.sync);
		break;
	}
	if (!ret && copy_to_user(user, &u, bytes))
		ret = -EFAULT;
	return ret;
}

static int heap_open(struct inode *inode, struct file *file)
{
	struct heap_file *hf;
	int ret = rkt_fault(CALL_OPEN);

	if (ret)
		return ret;
	hf = kzalloc(sizeof(*hf), GFP_KERNEL);
	if (!hf)
		return -ENOMEM;
	INIT_LIST_HEAD(&hf->objs);
	file->private_data = hf;
	stat_add(ST_FILES, 1);
	return 0;
}

/* Frees the records and logs how many were left; fds live on. */
static int heap_release(struct inode *inode, struct file *file)
{
	struct heap_file *hf = file->private_data;
	struct heap_obj *obj, *next;
	LIST_HEAD(left);

	mutex_lock(&objs_lock);
	list_for_each_entry_safe(obj, next, &hf->objs, mine) {
		obj_remove(obj);
		list_add(&obj->mine, &left);
		stat_add(ST_UNDESTROYED, 1);
	}
	mutex_unlock(&objs_lock);
	if (!list_empty(&left))
		pr_info("objects without MEM_DESTROY at close (%s[%d])\n",
			current->comm, task_pid_nr(current));
	list_for_each_entry_safe(obj, next, &left, mine)
		obj_free(obj);
	kfree(hf);
	stat_add(ST_FILES, -1);
	return 0;
}

static const struct file_operations heap_fops = {
	.owner = THIS_MODULE,
	.open = heap_open,
	.release = heap_release,
	.unlocked_ioctl = heap_ioctl,
};

static struct miscdevice heap_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "rknpu",
	.fops = &heap_fops,
};

static int heap_probe(struct platform_device *pdev)
{
	int ret;

	heap_pdev = pdev;
	heap_misc.parent = &pdev->dev;
	ret = misc_register(&heap_misc);
	if (ret)
		return ret;
	platform_set_drvdata(pdev, &heap_misc);
	return 0;
}

static void heap_remove(struct platform_device *pdev)
{
	misc_deregister(&heap_misc);
}

struct platform_driver rkt_heap_platform = {
	.probe = heap_probe,
	.remove_new = heap_remove,
	.id_table = rkt_ids,
	.driver.name = "RKNPU",
};
