/* SPDX-License-Identifier: (GPL-2.0 WITH Linux-syscall-note) OR MIT */
/*
 * The memory part of the user-space interface of the rknpu and rocket
 * drivers.  Written from facts about the public interface; shared by the test
 * module and by the C programs beside it.
 */
#ifndef RKNPU_TEST_ABI_H
#define RKNPU_TEST_ABI_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* rknpu: command indices, the same in both flavours. */
#define RKNPU_NR_ACTION		0
#define RKNPU_NR_SUBMIT		1
#define RKNPU_NR_MEM_CREATE	2
#define RKNPU_NR_MEM_MAP	3
#define RKNPU_NR_MEM_DESTROY	4
#define RKNPU_NR_MEM_SYNC	5

/* MEM_CREATE flags. */
#define RKNPU_NON_CONTIGUOUS	0x001
#define RKNPU_CACHEABLE		0x002
#define RKNPU_WRITE_COMBINE	0x004
#define RKNPU_KERNEL_MAPPING	0x008
#define RKNPU_TRY_SRAM		0x100
#define RKNPU_LIMIT_IOVA_ALIGN	0x400

/* MEM_SYNC flags. */
#define RKNPU_TO_DEVICE		1
#define RKNPU_FROM_DEVICE	2

/* ACTION codes. */
#define RKNPU_GET_HW_VERSION	0
#define RKNPU_GET_DRV_VERSION	1
#define RKNPU_GET_FREQ		2
#define RKNPU_GET_VOLT		4
#define RKNPU_ACT_RESET		6
#define RKNPU_CLR_TOTAL_RW	13
#define RKNPU_GET_TOTAL_RW	17
#define RKNPU_GET_IOMMU_EN	18
#define RKNPU_SET_PROC_NICE	19
#define RKNPU_GET_TOTAL_SRAM	22
#define RKNPU_GET_FREE_SRAM	23
#define RKNPU_GET_DOMAIN	24
#define RKNPU_SET_DOMAIN	25

struct rknpu_action {
	__u32 flags;
	__u32 value;
};

/* 32 bytes up to `dma_addr`, 40 with `sram_size`, 48 with the rest. */
struct rknpu_mem_create {
	__u32 handle;
	__u32 flags;
	__u64 size;
	__u64 obj_addr;
	__u64 dma_addr;
	__u64 sram_size;
	__s32 iommu_domain_id;
	__u32 core_mask;
};

struct rknpu_mem_map {
	__u32 handle;
	__u32 reserved;
	__u64 offset;
};

struct rknpu_mem_destroy {
	__u32 handle;
	__u32 reserved;
	__u64 obj_addr;
};

struct rknpu_mem_sync {
	__u32 flags;
	__u32 reserved;
	__u64 obj_addr;
	__u64 offset;
	__u64 size;
};

struct rknpu_submit {
	__u8 opaque[104];
};

/* The DRM flavour; /dev/rknpu uses 'r' and the bare index. */
#define DRM_IOCTL_RKNPU_ACTION	\
	_IOWR('d', 0x40 + RKNPU_NR_ACTION, struct rknpu_action)
#define DRM_IOCTL_RKNPU_SUBMIT	\
	_IOWR('d', 0x40 + RKNPU_NR_SUBMIT, struct rknpu_submit)
#define DRM_IOCTL_RKNPU_MEM_CREATE	\
	_IOWR('d', 0x40 + RKNPU_NR_MEM_CREATE, struct rknpu_mem_create)
#define DRM_IOCTL_RKNPU_MEM_MAP	\
	_IOWR('d', 0x40 + RKNPU_NR_MEM_MAP, struct rknpu_mem_map)
#define DRM_IOCTL_RKNPU_MEM_DESTROY	\
	_IOWR('d', 0x40 + RKNPU_NR_MEM_DESTROY, struct rknpu_mem_destroy)
#define DRM_IOCTL_RKNPU_MEM_SYNC	\
	_IOWR('d', 0x40 + RKNPU_NR_MEM_SYNC, struct rknpu_mem_sync)

/* rocket */
struct rocket_create_bo {
	__u32 size;
	__u32 handle;
	__u64 dma_address;
	__u64 offset;
};

struct rocket_submit {
	__u64 jobs;
	__u32 job_count;
	__u32 job_struct_size;
	__u64 reserved;
};

struct rocket_prep_bo {
	__u32 handle;
	__u32 reserved;
	__s64 timeout_ns;
};

struct rocket_fini_bo {
	__u32 handle;
	__u32 reserved;
};

#define DRM_IOCTL_ROCKET_CREATE_BO	_IOWR('d', 0x40, struct rocket_create_bo)
#define DRM_IOCTL_ROCKET_SUBMIT		_IOW('d', 0x41, struct rocket_submit)
#define DRM_IOCTL_ROCKET_PREP_BO	_IOW('d', 0x42, struct rocket_prep_bo)
#define DRM_IOCTL_ROCKET_FINI_BO	_IOW('d', 0x43, struct rocket_fini_bo)

#endif
