// Measures one 1 MiB buffer without any library: create, map, mmap, zero, munmap, destroy. Prints the median of many
// rounds in ns.
#include "device.h"

enum { ROUNDS = 120, WARM = 20, BYTES = 1 << 20 };

static int ascending(const void *a, const void *b) {
  int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
  return (x > y) - (x < y);
}

static void need(int ok, const char *what) {
  if (ok) return;
  perror(what);
  exit(1);
}

int main(void) {
  static int64_t took[ROUNDS];
  struct drm_version v;
  int fd = open_drm("/dev/dri/renderD*", "rknpu", &v);
  need(fd >= 0, "rknpu render node");
  struct rknpu_action iommu = {.flags = RKNPU_GET_IOMMU_EN};
  need(!ioctl(fd, DRM_IOCTL_RKNPU_ACTION, &iommu), "GET_IOMMU_EN");
  uint32_t flags = iommu.value ? RKNPU_NON_CONTIGUOUS | RKNPU_CACHEABLE | RKNPU_LIMIT_IOVA_ALIGN : RKNPU_CACHEABLE;

  for (int i = -WARM; i < ROUNDS; i++) {
    int64_t start = now_ns();
    struct rknpu_mem_create c = {.flags = flags, .size = BYTES};
    need(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &c), "MEM_CREATE");
    struct rknpu_mem_map m = {.handle = c.handle};
    need(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_MAP, &m), "MEM_MAP");
    void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, m.offset);
    need(p != MAP_FAILED, "mmap");
    memset(p, 0, BYTES);
    need(!munmap(p, BYTES), "munmap");
    struct rknpu_mem_destroy d = {.handle = c.handle, .obj_addr = c.obj_addr};
    need(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_DESTROY, &d), "MEM_DESTROY");
    if (i >= 0) took[i] = now_ns() - start;
  }
  qsort(took, ROUNDS, sizeof *took, ascending);
  printf("%lld\n", (long long)took[ROUNDS / 2]);
  return 0;
}
