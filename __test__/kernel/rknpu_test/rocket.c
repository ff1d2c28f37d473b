// SPDX-License-Identifier: GPL-2.0
/*
 * The mainline driver's memory ioctls: an accel node, always an IOMMU, and an
 * address space per open file.  Needs a kernel with DRM_ACCEL.
 */
#include <linux/delay.h>
#include <linux/slab.h>
#include <drm/drm_accel.h>
#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_ioctl.h>
#include <drm/drm_vma_manager.h>

#include "rknpu_test.h"

#if IS_ENABLED(CONFIG_DRM_ACCEL)

static int ioctl_create_bo(struct drm_device *dev, void *data,
			   struct drm_file *file)
{
	struct rkt_space *space = file->driver_priv;
	struct rocket_create_bo *a = data;
	u64 size = PAGE_ALIGN((u64)a->size);
	struct rkt_gem *gem;
	int ret;

	ret = rkt_fault(CALL_CREATE);
	if (ret)
		return ret;
	if (!size)
		return -EINVAL;
	/* The mapped length is kept in an int. */
	if (size >= SZ_2G || size >> PAGE_SHIFT > totalram_pages())
		return -ENOMEM;
	gem = rkt_gem_new(dev, size, RKNPU_CACHEABLE);
	if (IS_ERR(gem))
		return PTR_ERR(gem);
	gem->space = space;
	ret = rkt_gem_back(gem);
	if (!ret)
		ret = rkt_space_insert(space, &gem->node, size, PAGE_SIZE,
				       DRM_MM_INSERT_BEST);
	if (!ret)
		ret = drm_gem_create_mmap_offset(&gem->base);
	if (ret)
		goto out;
	if (board.dirty)
		rkt_poison(gem->pages, size >> PAGE_SHIFT);
	ret = drm_gem_handle_create(file, &gem->base, &a->handle);
	if (!ret) {
		a->offset = drm_vma_node_offset_addr(&gem->base.vma_node);
		a->dma_address = gem->node.start;
		stat_add(ST_CREATES, 1);
	}
out:
	drm_gem_object_put(&gem->base);
	return ret;
}

static int ioctl_submit(struct drm_device *dev, void *data,
			struct drm_file *file)
{
	return -EINVAL;
}

/* Waits until the simulated job is done or `deadline` has passed. */
static int wait_idle(struct rkt_gem *gem, s64 deadline)
{
	ktime_t busy_until = READ_ONCE(gem->busy_until);
	ktime_t now = ktime_get();

	if (ktime_compare(now, busy_until) >= 0)
		return 0;
	if (deadline <= ktime_to_ns(now))
		return -EBUSY;
	while (ktime_compare(now, busy_until) < 0) {
		if (deadline <= ktime_to_ns(now))
			return -ETIMEDOUT;
		usleep_range(200, 500);
		if (signal_pending(current))
			return -ERESTARTSYS;
		now = ktime_get();
	}
	return 0;
}

static int ioctl_prep_bo(struct drm_device *dev, void *data,
			 struct drm_file *file)
{
	struct rocket_prep_bo *a = data;
	struct drm_gem_object *obj;
	int ret = rkt_fault(CALL_PREP);

	if (ret)
		return ret;
	if (a->reserved)
		return -EINVAL;
	obj = drm_gem_object_lookup(file, a->handle);
	if (!obj) {
		stat_add(ST_BAD_HANDLES, 1);
		return -ENOENT;
	}
	ret = wait_idle(to_rkt_gem(obj), a->timeout_ns);
	if (!ret)
		stat_add(ST_PREPS, 1);
	drm_gem_object_put(obj);
	return ret;
}

static int ioctl_fini_bo(struct drm_device *dev, void *data,
			 struct drm_file *file)
{
	struct rocket_fini_bo *a = data;
	struct drm_gem_object *obj;
	int ret = rkt_fault(CALL_FINI);

	if (ret)
		return ret;
	if (a->reserved)
		return -EINVAL;
	obj = drm_gem_object_lookup(file, a->handle);
	if (!obj) {
		stat_add(ST_BAD_HANDLES, 1);
		return -ENOENT;
	}
	WRITE_ONCE(to_rkt_gem(obj)->busy_until,
		   ktime_add_us(ktime_get(), board.busy_us));
	stat_add(ST_FINIS, 1);
	drm_gem_object_put(obj);
	return 0;
}

static const struct drm_ioctl_desc rocket_ioctls[] = {
	DRM_IOCTL_DEF_DRV(ROCKET_CREATE_BO, ioctl_create_bo, 0),
	DRM_IOCTL_DEF_DRV(ROCKET_SUBMIT, ioctl_submit, 0),
	DRM_IOCTL_DEF_DRV(ROCKET_PREP_BO, ioctl_prep_bo, 0),
	DRM_IOCTL_DEF_DRV(ROCKET_FINI_BO, ioctl_fini_bo, 0),
};

static int file_open(struct drm_device *dev, struct drm_file *file)
{
	int ret = rkt_fault(CALL_OPEN);

	if (ret)
		return ret;
	file->driver_priv = rkt_space_new(0, board.domain_bytes);
	if (!file->driver_priv)
		return -ENOMEM;
	stat_add(ST_FILES, 1);
	return 0;
}

static void file_close(struct drm_device *dev, struct drm_file *file)
{
	rkt_space_put(file->driver_priv);
	stat_add(ST_FILES, -1);
}

DEFINE_DRM_ACCEL_FOPS(rocket_fops);

/* Without gem_prime_import_sg_table DRM refuses foreign buffers: EINVAL. */
static const struct drm_driver rocket_driver = {
	.driver_features = DRIVER_COMPUTE_ACCEL | DRIVER_GEM,
	.open = file_open,
	.postclose = file_close,
	.prime_handle_to_fd = rkt_gem_handle_to_fd,
	.prime_fd_to_handle = rkt_gem_fd_to_handle,
	.gem_prime_import = rkt_gem_import,
	.ioctls = rocket_ioctls,
	.num_ioctls = ARRAY_SIZE(rocket_ioctls),
	.fops = &rocket_fops,
	.name = "rocket",
	.desc = "rocket DRM",
	.date = "0",
};

static int rocket_probe(struct platform_device *pdev)
{
	struct drm_device *dev = drm_dev_alloc(&rocket_driver, &pdev->dev);
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

static void rocket_remove(struct platform_device *pdev)
{
	struct drm_device *dev = platform_get_drvdata(pdev);

	drm_dev_unregister(dev);
	drm_dev_put(dev);
}

#else

static int rocket_probe(struct platform_device *pdev)
{
	return -ENODEV;
}

static void rocket_remove(struct platform_device *pdev)
{
}

#endif

struct platform_driver rkt_rocket_platform = {
	.probe = rocket_probe,
	.remove_new = rocket_remove,
	.id_table = rkt_ids,
	.driver.name = "rocket",
};
