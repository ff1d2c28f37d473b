// Another process on the same NPU: allocates, queries and frees objects in domain 0 until SIGTERM, then prints what it
// saw. Fails if one call fails, or if an object's address changes while it lives.
#include <signal.h>

#include "device.h"

enum { SLOTS = 16, BYTES = 64 << 10 };

static volatile sig_atomic_t ended;
static void end(int signal) { ended = signal; }

int main(void) {
  struct drm_version v;
  int fd = open_drm("/dev/dri/renderD*", "rknpu", &v);
  if (fd < 0) return perror("rknpu render node"), 1;
  struct rknpu_action iommu = {.flags = RKNPU_GET_IOMMU_EN};
  if (ioctl(fd, DRM_IOCTL_RKNPU_ACTION, &iommu)) return perror("GET_IOMMU_EN"), 1;
  uint32_t flags = iommu.value ? RKNPU_NON_CONTIGUOUS | RKNPU_CACHEABLE : RKNPU_CACHEABLE;
  struct rknpu_mem_create slots[SLOTS] = {0};
  long allocations = 0, failures = 0, moved = 0;
  int error = 0;
  signal(SIGTERM, end);
  for (int at = 0; !ended; at = (at + 1) % SLOTS) {
    struct rknpu_mem_create *slot = &slots[at];
    if (slot->handle) {
      struct rknpu_mem_create now = {.handle = slot->handle};
      if (ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &now) || now.dma_addr != slot->dma_addr) moved++;
      struct rknpu_mem_sync s = {.flags = 3, .obj_addr = slot->obj_addr, .size = BYTES};
      if (ioctl(fd, DRM_IOCTL_RKNPU_MEM_SYNC, &s)) failures++, error = errno;
      struct rknpu_mem_destroy d = {.handle = slot->handle, .obj_addr = slot->obj_addr};
      if (ioctl(fd, DRM_IOCTL_RKNPU_MEM_DESTROY, &d)) failures++, error = errno;
    }
    *slot = (struct rknpu_mem_create){.flags = flags, .size = BYTES};
    if (ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, slot)) failures++, error = errno, slot->handle = 0;
    if (++allocations == 50) printf("ready\n"), fflush(stdout);
    usleep(1000);
  }
  printf("%ld allocations, %ld failed (%s), %ld moved\n", allocations, failures, strerror(error), moved);
  return failures || moved;
}
