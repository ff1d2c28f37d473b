// Tests the test driver itself, before the library's tests rely on it.
//   smoke gem|heap|rocket   every call once, good and bad, with the errno of docs/design/drivers.md
//   smoke misuse FLAVOUR    makes calls that would crash a board; the driver must refuse and count each one
//   smoke hold FLAVOUR      creates, maps, exports and destroys buffers until lib.sh kills the process
#include "device.h"
#include <linux/dma-buf.h>

static int bad, checks;
// `call` must fail with `want`.
#define REFUSED(call, want)                                           \
  do {                                                                \
    errno = 0;                                                        \
    checks++;                                                         \
    if ((call) != -1 || errno != (want)) {                            \
      bad++;                                                          \
      printf("smoke.c:%d: %s: errno %d, not %d\n", __LINE__, #call, errno, want); \
    }                                                                 \
  } while (0)
#define CHECK(cond)                                                   \
  do {                                                                \
    checks++;                                                         \
    if (!(cond)) bad++, printf("smoke.c:%d: false: %s (errno %d)\n", __LINE__, #cond, errno); \
  } while (0)

enum { MIB = 1 << 20, PAGE = 4096, POISON = 0xa5 };

static void read_text(const char *path, char *out, size_t room) {
  int fd = open(path, O_RDONLY);
  ssize_t n = fd < 0 ? 0 : read(fd, out, room - 1);
  out[n < 0 ? 0 : n] = 0;
  if (fd >= 0) close(fd);
}

static void param_text(const char *name, char *out, size_t room) {
  char path[128];
  snprintf(path, sizeof path, "/sys/module/rknpu_test/parameters/%s", name);
  read_text(path, out, room);
}

// Reads a module parameter: a number, or a boolean as 0 or 1.
static long long param(const char *name) {
  char text[64];
  param_text(name, text, sizeof text);
  return *text == 'Y' ? 1 : *text == 'N' ? 0 : atoll(text);
}

static void set_param(const char *name, const char *value) {
  char path[128];
  snprintf(path, sizeof path, "/sys/module/rknpu_test/parameters/%s", name);
  int fd = open(path, O_WRONLY);
  CHECK(fd >= 0 && write(fd, value, strlen(value)) == (ssize_t)strlen(value));
  if (fd >= 0) close(fd);
}

static long long count(const char *name) {
  char text[2048], key[64];
  read_text("/proc/rknpu_test", text, sizeof text);
  snprintf(key, sizeof key, "%s ", name);
  char *at = strstr(text, key);
  return at && (at == text || at[-1] == '\n') ? atoll(at + strlen(key)) : -1;
}

static void all_gone(void) {
  static const char *const live[] = {"live_files", "live_objects", "live_bytes", "live_handles",
                                     "live_maps", "live_dmabufs", "live_imports", "live_sram_used"};
  for (size_t i = 0; i < sizeof live / sizeof *live; i++) {
    checks++;
    if (count(live[i])) bad++, printf("%s is %lld at the end\n", live[i], count(live[i]));
  }
}

static int all_are(const unsigned char *p, size_t n, int value) {
  for (size_t i = 0; i < n; i++)
    if (p[i] != value) return 0;
  return 1;
}

// ---- rknpu, DRM flavour

static int version, iommu;

static int gem_open(void) {
  struct drm_version v;
  int fd = open_drm("/dev/dri/renderD*", "rknpu", &v);
  if (fd < 0) {
    printf("no render node named rknpu\n");
    exit(1);
  }
  version = v.major * 10000 + v.minor * 100 + v.patch;
  iommu = param("iommu");
  return fd;
}

static uint32_t usual_flags(void) { return iommu ? 0x403 : 0x2; }

static int create(int fd, uint64_t size, uint32_t flags, struct rknpu_mem_create *c) {
  memset(c, 0, sizeof *c);
  c->size = size;
  c->flags = flags;
  return ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, c);
}

static int destroy(int fd, struct rknpu_mem_create *c) {
  struct rknpu_mem_destroy d = {.handle = c->handle, .obj_addr = c->obj_addr};
  return ioctl(fd, DRM_IOCTL_RKNPU_MEM_DESTROY, &d);
}

static int sync_mem(int fd, uint64_t obj, uint64_t offset, uint64_t size) {
  struct rknpu_mem_sync s = {.flags = 3, .obj_addr = obj, .offset = offset, .size = size};
  return ioctl(fd, DRM_IOCTL_RKNPU_MEM_SYNC, &s);
}

static int map_offset(int fd, uint32_t handle, uint64_t *offset) {
  struct rknpu_mem_map m = {.handle = handle};
  int r = ioctl(fd, DRM_IOCTL_RKNPU_MEM_MAP, &m);
  *offset = m.offset;
  return r;
}

static int action(int fd, unsigned long request, uint32_t code, uint32_t *value) {
  struct rknpu_action a = {.flags = code, .value = *value};
  int r = ioctl(fd, request, &a);
  *value = a.value;
  return r;
}

static int udmabuf(size_t size) {
  struct {
    uint32_t memfd, flags;
    uint64_t offset, size;
  } u = {.flags = 1, .size = size};
  int dev = open("/dev/udmabuf", O_RDWR | O_CLOEXEC), fd = -1;
  if (dev < 0) return -1;
  int mem = memfd_create("smoke", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  u.memfd = mem;
  if (!ftruncate(mem, size) && !fcntl(mem, F_ADD_SEALS, F_SEAL_SHRINK)) fd = ioctl(dev, _IOW('u', 0x42, u), &u);
  close(mem);
  close(dev);
  return fd;
}

static void gem_actions(int fd) {
  uint32_t v = 0;
  const unsigned long A = DRM_IOCTL_RKNPU_ACTION;
  CHECK(!action(fd, A, RKNPU_GET_DRV_VERSION, &v) && v == (uint32_t)version);
  CHECK(!action(fd, A, RKNPU_GET_IOMMU_EN, &v) && v == (uint32_t)iommu);
  REFUSED(action(fd, A, 20, &v), EINVAL);
  REFUSED(action(fd, A, 99, &v), EINVAL);
  if (version >= 800) CHECK(!action(fd, A, RKNPU_GET_TOTAL_SRAM, &v) && v == (iommu ? param("sram_bytes") : 0));
  else REFUSED(action(fd, A, RKNPU_GET_TOTAL_SRAM, &v), EINVAL);
  if (version >= 906) {
    CHECK(!action(fd, A, RKNPU_GET_DOMAIN, &v) && v == 0);
    v = 1;
    if (version < 908 && param("domains")) {
      // Never asked: such a driver does not hold its domain, and a switch fails the allocations of all processes.
    } else if (iommu || !param("domains")) {
      // A driver that was built without domains succeeds and changes nothing.
      CHECK(!action(fd, A, RKNPU_SET_DOMAIN, &v));
      CHECK(!action(fd, A, RKNPU_GET_DOMAIN, &v) && v == (param("domains") ? 1 : 0));
      v = 0;
      CHECK(!action(fd, A, RKNPU_SET_DOMAIN, &v));
    } else {
      REFUSED(action(fd, A, RKNPU_SET_DOMAIN, &v), EINVAL);
    }
  }
  REFUSED(ioctl(fd, _IOWR('d', 0x46, uint64_t), &v), EINVAL);
  REFUSED(ioctl(fd, _IOWR('r', 2, struct rknpu_mem_create), &v), ENOTTY);
}

static void gem_create(int fd) {
  struct rknpu_mem_create a, b, q;
  REFUSED(create(fd, 0, usual_flags(), &a), EINVAL);
  CHECK(!create(fd, 5000, usual_flags(), &a) && a.size == 2 * PAGE && a.handle && a.obj_addr && a.dma_addr);
  CHECK(!create(fd, MIB, usual_flags(), &b) && b.dma_addr % PAGE == 0 && b.dma_addr + MIB <= 1ull << 32);
  CHECK(b.dma_addr + MIB <= a.dma_addr || a.dma_addr + 2 * PAGE <= b.dma_addr);
  CHECK(b.obj_addr != a.obj_addr && b.handle != a.handle);
  if (iommu) CHECK(b.dma_addr < a.dma_addr);

  // MEM_CREATE queries a known handle and ignores an unknown one.
  memset(&q, 0, sizeof q);
  q.handle = a.handle;
  q.size = 12345678;
  CHECK(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && q.handle == a.handle && q.size == a.size &&
        q.obj_addr == a.obj_addr && q.dma_addr == a.dma_addr);
  memset(&q, 0, sizeof q);
  q.handle = 12345, q.size = PAGE, q.flags = usual_flags();
  CHECK(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && q.handle != 12345);
  CHECK(!destroy(fd, &q));

  // Shorter structs of older callers, and fields that an older driver does not know.
  memset(&q, 0, sizeof q);
  q.size = PAGE, q.flags = usual_flags(), q.sram_size = 77;
  CHECK(!ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'd', 0x42, 32), &q) && q.size == PAGE && q.sram_size == 77);
  CHECK(!destroy(fd, &q));
  memset(&q, 0, sizeof q);
  q.size = PAGE, q.flags = usual_flags(), q.sram_size = 77, q.iommu_domain_id = version < 906 ? 99 : 0;
  CHECK(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && q.sram_size == (version < 800 ? 77 : 0));
  CHECK(!destroy(fd, &q));

  if (version >= 906 && param("domains")) {
    memset(&q, 0, sizeof q);
    q.size = PAGE, q.flags = usual_flags(), q.iommu_domain_id = 5;
    if (iommu) CHECK(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && !destroy(fd, &q));
    else REFUSED(ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q), EINVAL);
    memset(&q, 0, sizeof q);
    q.size = PAGE, q.flags = usual_flags(), q.iommu_domain_id = 16;
    REFUSED(ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q), EINVAL);
  }
  if (iommu) {
    // Without bit 0x400 an address is aligned like the size rounded up to a power of two.
    CHECK(!create(fd, 3 * MIB, 3, &q) && q.dma_addr % (4 * MIB) == 0);
    CHECK(!destroy(fd, &q));
  }
  CHECK(!destroy(fd, &a) && !destroy(fd, &b));
  REFUSED(destroy(fd, &a), EINVAL);
}

// Creates chunks until the driver refuses; checks the errno and that destroying returns everything.
static int fill(int fd, uint32_t flags, uint64_t size, int want_errno) {
  static struct rknpu_mem_create c[512];
  int n = 0;
  while (n < 512 && !create(fd, size, flags, &c[n])) n++;
  int e = errno;
  CHECK(n < 512 && e == want_errno);
  for (int i = 0; i < n; i++) CHECK(!destroy(fd, &c[i]));
  return n;
}

static void gem_exhaust(int fd) {
  uint64_t space = param(iommu ? "domain_bytes" : "cma_bytes");
  if (space > 64 * MIB) return;
  int want = iommu ? EFAULT : EINVAL;
  // Without an IOMMU, ordinary pages stand in for a full CMA area up to 4 MiB.
  uint64_t size = iommu ? 4 * MIB : 8 * MIB;
  int first = fill(fd, usual_flags(), size, want);
  CHECK(first == (int)(space / size));
  CHECK(fill(fd, usual_flags(), size, want) == first);
  if (iommu) return;
  struct rknpu_mem_create all[16], c;
  int n = 0;
  long long before = count("total_from_pages");
  while (n < 16 && !create(fd, size, usual_flags(), &all[n])) n++;
  CHECK(!create(fd, 4 * MIB, usual_flags(), &c) && c.dma_addr < all[0].dma_addr);
  CHECK(count("total_from_pages") == before + 1);
  CHECK(!destroy(fd, &c));
  for (int i = 0; i < n; i++) CHECK(!destroy(fd, &all[i]));
}

static void gem_memory(int fd) {
  struct rknpu_mem_create c;
  uint64_t offset;
  CHECK(!create(fd, MIB, usual_flags(), &c));
  CHECK(!map_offset(fd, c.handle, &offset) && offset >= 1ull << 32);
  REFUSED(map_offset(fd, 4711, &(uint64_t){0}), ENOENT);
  unsigned char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
  CHECK(p != MAP_FAILED);
  CHECK(all_are(p, MIB, param("dirty") && !iommu ? POISON : 0));
  memset(p, 0x33, MIB);
  CHECK(mmap(NULL, 2 * MIB, PROT_READ, MAP_SHARED, fd, offset) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EINVAL);
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, offset + 8 * PAGE) == MAP_FAILED && errno == EINVAL);
  int other = gem_open();
  CHECK(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, other, offset) == MAP_FAILED && errno == EACCES);
  REFUSED(map_offset(other, c.handle, &(uint64_t){0}), ENOENT);
  CHECK(count("live_maps") == 1);

  CHECK(!sync_mem(fd, c.obj_addr, 0, MIB) && !sync_mem(fd, c.obj_addr, MIB - 64, 64) &&
        !sync_mem(fd, c.obj_addr, 0, 0));
  REFUSED(sync_mem(fd, 0, 0, PAGE), EINVAL);
  struct rknpu_mem_create wc;
  CHECK(!create(fd, PAGE, usual_flags() & ~2u, &wc));
  REFUSED(sync_mem(fd, wc.obj_addr, 0, PAGE), EINVAL);
  CHECK(!destroy(fd, &wc));

  // PRIME: export, map (the driver ignores the offset), import into the same file and into another.
  struct drm_prime x = {.handle = c.handle, .flags = PRIME_RW}, y = {.handle = c.handle, .flags = 0xff};
  REFUSED(ioctl(fd, DRM_HANDLE_TO_FD, &y), EINVAL);
  CHECK(!ioctl(fd, DRM_HANDLE_TO_FD, &x) && lseek(x.fd, 0, SEEK_END) == MIB);
  p[0] = 1, p[8 * PAGE] = 2;
  unsigned char *e = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, x.fd, 8 * PAGE);
  CHECK(e != MAP_FAILED && e[0] == 1);
  struct drm_prime back = {.fd = x.fd}, over = {.fd = x.fd};
  CHECK(!ioctl(fd, DRM_FD_TO_HANDLE, &back) && back.handle == c.handle);
  CHECK(!ioctl(other, DRM_FD_TO_HANDLE, &over));
  struct rknpu_mem_create q = {.handle = over.handle};
  CHECK(!ioctl(other, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && q.obj_addr == c.obj_addr && q.dma_addr == c.dma_addr);
  CHECK(!sync_mem(other, q.obj_addr, 0, MIB));
  CHECK(count("live_objects") == 1 && count("live_handles") == 2 && count("live_dmabufs") == 1 &&
        count("live_maps") == 2);

  // Memory outlives its handles while an fd or a mapping holds it.
  CHECK(!destroy(fd, &c));
  close(other);
  CHECK(p[0] == 1 && e[0] == 1 && p[MIB - 1] == 0x33);
  munmap(e, PAGE);
  close(x.fd);
  CHECK(count("live_objects") == 1 && p[8 * PAGE] == 2);
  munmap(p, MIB);
  CHECK(count("live_objects") == 0);
}

static void gem_import(int fd) {
  int u = udmabuf(MIB);
  CHECK(u >= 0);
  if (u < 0) return;
  struct drm_prime in = {.fd = u};
  CHECK(!ioctl(fd, DRM_FD_TO_HANDLE, &in));
  struct rknpu_mem_create q = {.handle = in.handle};
  CHECK(!ioctl(fd, DRM_IOCTL_RKNPU_MEM_CREATE, &q) && q.size == MIB && q.dma_addr && q.obj_addr);
  CHECK(count("live_imports") == 1);
  REFUSED(map_offset(fd, in.handle, &(uint64_t){0}), EINVAL);
  REFUSED(sync_mem(fd, q.obj_addr, 0, MIB), EINVAL);
  struct drm_close k = {.handle = in.handle};
  CHECK(!ioctl(fd, DRM_GEM_CLOSE, &k));
  close(u);
  struct drm_prime none = {.fd = -1}, self = {.fd = fd};
  REFUSED(ioctl(fd, DRM_FD_TO_HANDLE, &none), EBADF);
  REFUSED(ioctl(fd, DRM_FD_TO_HANDLE, &self), EINVAL);
}

static void gem_sram(int fd) {
  long long total = param("sram_bytes");
  if (!iommu || version < 800 || !total) return;
  struct rknpu_mem_create c;
  uint32_t left = 0;
  CHECK(!create(fd, 4 * PAGE, usual_flags() | RKNPU_TRY_SRAM, &c) && c.sram_size == 4 * PAGE);
  CHECK(!action(fd, DRM_IOCTL_RKNPU_ACTION, RKNPU_GET_FREE_SRAM, &left) && left == total - 4 * PAGE);
  // mmap shows the SRAM, also through a dma-buf; other devices would get the DRAM behind it.
  uint64_t offset;
  CHECK(!map_offset(fd, c.handle, &offset));
  unsigned char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
  CHECK(p != MAP_FAILED);
  struct drm_prime x = {.handle = c.handle, .flags = PRIME_RW};
  CHECK(!ioctl(fd, DRM_HANDLE_TO_FD, &x));
  unsigned char *e = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, x.fd, 0);
  p[0] = 0x5c;
  CHECK(e != MAP_FAILED && e[0] == 0x5c);
  munmap(e, PAGE), munmap(p, 4 * PAGE), close(x.fd);
  CHECK(!destroy(fd, &c));
  CHECK(!create(fd, total + MIB, usual_flags() | RKNPU_TRY_SRAM, &c) && (long long)c.sram_size == total);
  CHECK(!destroy(fd, &c));
}

static void gem_faults(int fd) {
  struct rknpu_mem_create c;
  set_param("fault", "create:2:12 sync:1:5");
  CHECK(!create(fd, PAGE, usual_flags(), &c));
  REFUSED(create(fd, PAGE, usual_flags(), &(struct rknpu_mem_create){0}), ENOMEM);
  REFUSED(sync_mem(fd, c.obj_addr, 0, PAGE), EIO);
  CHECK(!sync_mem(fd, c.obj_addr, 0, PAGE));
  set_param("fault", "destroy:1:22:0");
  REFUSED(destroy(fd, &c), EINVAL);
  REFUSED(destroy(fd, &c), EINVAL);
  set_param("fault", "off");
  CHECK(!destroy(fd, &c));

  if (!iommu || version < 906 || !param("domains")) return;
  set_param("rival", "1");
  long long switches = count("total_switches");
  CHECK(!create(fd, PAGE, usual_flags(), &c) && count("total_switches") == switches + 1);
  set_param("switch_timeout", "1");
  REFUSED(sync_mem(fd, c.obj_addr, 0, PAGE), EINVAL);
  set_param("switch_timeout", "0");
  set_param("rival", "0");
  CHECK(!destroy(fd, &c));
}

static void gem(void) {
  int fd = gem_open();
  gem_actions(fd);
  gem_create(fd);
  gem_exhaust(fd);
  gem_memory(fd);
  gem_import(fd);
  gem_sram(fd);
  gem_faults(fd);
  // Closing the file destroys the objects left.
  struct rknpu_mem_create c;
  CHECK(!create(fd, MIB, usual_flags(), &c) && count("live_objects") == 1);
  close(fd);
}

static void gem_misuse(void) {
  int fd = gem_open(), other = gem_open();
  struct rknpu_mem_create c, d;
  CHECK(!create(fd, PAGE, usual_flags(), &c) && !create(fd, PAGE, usual_flags(), &d));
  REFUSED(sync_mem(fd, 0x1000, 0, PAGE), EINVAL);
  REFUSED(sync_mem(fd, c.obj_addr + 8, 0, PAGE), EINVAL);
  REFUSED(sync_mem(other, c.obj_addr, 0, PAGE), EINVAL);
  REFUSED(sync_mem(fd, c.obj_addr, 0, PAGE + 1), EINVAL);
  REFUSED(sync_mem(fd, c.obj_addr, ~0ull, 2), EINVAL);
  struct rknpu_mem_create wrong = {.handle = c.handle, .obj_addr = d.obj_addr};
  REFUSED(destroy(fd, &wrong), EINVAL);
  CHECK(!destroy(fd, &c));
  REFUSED(sync_mem(fd, c.obj_addr, 0, PAGE), EINVAL);
  // The driver must not take the old token for the next object, even at the same address.
  CHECK(!create(fd, PAGE, usual_flags(), &d));
  REFUSED(sync_mem(fd, c.obj_addr, 0, PAGE), EINVAL);
  REFUSED(create(fd, ~0ull, usual_flags(), &d), EINVAL);
  if (iommu) REFUSED(create(fd, 1ull << 46, usual_flags(), &d), EINVAL);
  uint32_t domain = 1, home = 0;
  int unheld = iommu && param("domains") && version >= 906 && version < 908;
  if (unheld) {
    CHECK(!action(fd, DRM_IOCTL_RKNPU_ACTION, RKNPU_SET_DOMAIN, &domain));
    CHECK(!action(fd, DRM_IOCTL_RKNPU_ACTION, RKNPU_SET_DOMAIN, &home));
  }
  CHECK(count("violations") == 9 + iommu + 2 * unheld);
  close(fd);
  close(other);
}

// ---- rknpu, DMA-heap flavour

static int heap_open(void) {
  int fd = open("/dev/rknpu", O_RDWR | O_CLOEXEC);
  if (fd < 0) {
    perror("/dev/rknpu");
    exit(1);
  }
  return fd;
}

#define HEAP(nr, type) _IOWR('r', nr, type)

static int heap_create(int fd, uint32_t handle, uint64_t size, uint32_t flags, struct rknpu_mem_create *c) {
  memset(c, 0, sizeof *c);
  c->handle = handle, c->size = size, c->flags = flags;
  return ioctl(fd, HEAP(RKNPU_NR_MEM_CREATE, struct rknpu_mem_create), c);
}

static int heap_destroy(int fd, uint64_t obj) {
  struct rknpu_mem_destroy d = {.obj_addr = obj};
  return ioctl(fd, HEAP(RKNPU_NR_MEM_DESTROY, struct rknpu_mem_destroy), &d);
}

static int heap_sync(int fd, uint64_t obj, uint64_t offset, uint64_t size) {
  struct rknpu_mem_sync s = {.flags = 3, .obj_addr = obj, .offset = offset, .size = size};
  return ioctl(fd, HEAP(RKNPU_NR_MEM_SYNC, struct rknpu_mem_sync), &s);
}

static void heap(void) {
  int fd = heap_open();
  struct rknpu_mem_create c, i;
  struct rknpu_mem_map m = {0};
  uint32_t v = 0;
  CHECK(!action(fd, HEAP(0, struct rknpu_action), RKNPU_GET_DRV_VERSION, &v) && v);
  REFUSED(heap_create(fd, 0, 0, 2, &c), EINVAL);
  REFUSED(heap_create(fd, 0, ~0ull, 2, &c), EINVAL);
  REFUSED(heap_create(fd, 0, PAGE, 3, &c), EINVAL);
  REFUSED(heap_create(fd, 0, 1ull << 40, 2, &c), ENOMEM);
  CHECK(!heap_create(fd, 0, MIB - 1, 2, &c) && c.size == MIB && c.obj_addr && c.dma_addr);
  int buf = c.handle;
  CHECK(fcntl(buf, F_GETFD) == FD_CLOEXEC && lseek(buf, 0, SEEK_END) == MIB);
  m.handle = buf;
  REFUSED(ioctl(fd, HEAP(RKNPU_NR_MEM_MAP, struct rknpu_mem_map), &m), EINVAL);
  unsigned char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, buf, 0);
  CHECK(p != MAP_FAILED && all_are(p, MIB, 0));
  p[0] = 1, p[8 * PAGE] = 2;
  unsigned char *e = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, buf, 8 * PAGE);
  CHECK(e != MAP_FAILED && e[0] == 1);
  munmap(e, PAGE);
  if (param("incoherent")) {
    // An access that ends cleans the whole buffer; one that starts drops what was not cleaned.
    struct dma_buf_sync end = {.flags = DMA_BUF_SYNC_END | DMA_BUF_SYNC_WRITE};
    struct dma_buf_sync start = {.flags = DMA_BUF_SYNC_START | DMA_BUF_SYNC_READ};
    CHECK(!ioctl(buf, DMA_BUF_IOCTL_SYNC, &end));
    p[0] = 7;
    CHECK(!ioctl(buf, DMA_BUF_IOCTL_SYNC, &start) && p[0] == 1 && p[8 * PAGE] == 2);
  }
  CHECK(!heap_sync(fd, c.obj_addr, 0, MIB));
  REFUSED(heap_sync(fd, 0, 0, MIB), EINVAL);
  REFUSED(heap_destroy(fd, 0), EINVAL);

  // Imports of own and foreign buffers; the driver trusts the caller's size.
  CHECK(!heap_create(fd, buf, MIB, 2, &i) && i.dma_addr == c.dma_addr && i.obj_addr != c.obj_addr);
  CHECK(!heap_destroy(fd, i.obj_addr));
  int u = udmabuf(MIB);
  CHECK(u >= 0 && !heap_create(fd, u, 4 * MIB, 2, &i) && i.size == 4 * MIB && count("live_imports") == 1);
  CHECK(!heap_destroy(fd, i.obj_addr));
  close(u);
  REFUSED(heap_create(fd, 999, PAGE, 2, &i), EBADF);
  REFUSED(heap_create(fd, fd, PAGE, 2, &i), EINVAL);

  // MEM_DESTROY drops the record, close() frees the memory.
  CHECK(!heap_destroy(fd, c.obj_addr) && count("live_bytes") == MIB && count("live_objects") == 0);
  close(buf);
  CHECK(p[8 * PAGE] == 2 && count("live_dmabufs") == 1);
  munmap(p, MIB);
  CHECK(count("live_bytes") == 0);

  // Exhaustion is ENOMEM; a full descriptor table is EFAULT.
  uint64_t cma = param("cma_bytes");
  static struct rknpu_mem_create many[64];
  int n = 0;
  while (cma <= 64 * MIB && n < 64 && !heap_create(fd, 0, 4 * MIB, 2, &many[n])) n++;
  if (cma <= 64 * MIB) CHECK(errno == ENOMEM && n == (int)(cma / (4 * MIB)));
  for (int k = 0; k < n; k++) CHECK(!heap_destroy(fd, many[k].obj_addr) && !close(many[k].handle));

  // Closing the file reports an object without MEM_DESTROY; its fd keeps the memory.
  CHECK(!heap_create(fd, 0, PAGE, 2, &c));
  close(fd);
  CHECK(count("undestroyed") == 1 && count("live_bytes") == PAGE);
  close(c.handle);
}

static void heap_misuse(void) {
  int fd = heap_open(), other = heap_open();
  struct rknpu_mem_create c;
  char big[64] = {0};
  CHECK(!heap_create(fd, 0, PAGE, 2, &c));
  REFUSED(heap_sync(fd, 0x1000, 0, PAGE), EINVAL);
  REFUSED(heap_sync(other, c.obj_addr, 0, PAGE), EINVAL);
  REFUSED(heap_sync(fd, c.obj_addr, PAGE, 1), EINVAL);
  REFUSED(heap_destroy(other, c.obj_addr), EINVAL);
  REFUSED(ioctl(fd, DRM_VERSION, big), EINVAL);
  close(c.handle);
  REFUSED(heap_sync(fd, c.obj_addr, 0, PAGE), EINVAL);
  REFUSED(heap_destroy(fd, c.obj_addr), EINVAL);
  REFUSED(heap_destroy(fd, c.obj_addr), EINVAL);
  CHECK(count("violations") == 8);
  close(fd);
  close(other);
}

// ---- rocket

static int rocket_open(void) {
  struct drm_version v;
  int fd = open_drm("/dev/accel/accel*", "rocket", &v);
  if (fd < 0) {
    printf("no accel node named rocket\n");
    exit(1);
  }
  return fd;
}

static int prep(int fd, uint32_t handle, int64_t deadline) {
  struct rocket_prep_bo a = {.handle = handle, .timeout_ns = deadline};
  return ioctl(fd, DRM_IOCTL_ROCKET_PREP_BO, &a);
}

static int fini(int fd, uint32_t handle) {
  struct rocket_fini_bo a = {.handle = handle};
  return ioctl(fd, DRM_IOCTL_ROCKET_FINI_BO, &a);
}

static void rocket(void) {
  int fd = rocket_open(), other = rocket_open();
  struct rocket_create_bo a = {.size = MIB}, b = {.size = MIB}, c = {.size = 0}, huge = {.size = 1u << 31};
  const int64_t s = 1000000000;
  CHECK(!ioctl(fd, DRM_IOCTL_ROCKET_CREATE_BO, &a) && a.handle && a.offset >= 1ull << 32);
  CHECK(!ioctl(other, DRM_IOCTL_ROCKET_CREATE_BO, &b) && b.dma_address == a.dma_address);
  REFUSED(ioctl(fd, DRM_IOCTL_ROCKET_CREATE_BO, &c), EINVAL);
  REFUSED(ioctl(fd, DRM_IOCTL_ROCKET_CREATE_BO, &huge), ENOMEM);
  unsigned char *p = mmap(NULL, MIB, PROT_READ | PROT_WRITE, MAP_SHARED, fd, a.offset);
  CHECK(p != MAP_FAILED && all_are(p, MIB, 0));
  p[5] = 7;
  CHECK(!prep(fd, a.handle, now_ns() + s) && !fini(fd, a.handle));
  CHECK(!prep(fd, a.handle, 0));
  REFUSED(prep(fd, 4711, 0), ENOENT);
  REFUSED(fini(fd, 4711), ENOENT);
  struct rocket_fini_bo odd = {.handle = a.handle, .reserved = 1};
  REFUSED(ioctl(fd, DRM_IOCTL_ROCKET_FINI_BO, &odd), EINVAL);

  // A deadline is absolute: one in the past is EBUSY, one too near ETIMEDOUT.
  set_param("busy_us", "200000");
  CHECK(!fini(fd, a.handle));
  REFUSED(prep(fd, a.handle, s / 1000), EBUSY);
  REFUSED(prep(fd, a.handle, now_ns() + s / 50), ETIMEDOUT);
  CHECK(!prep(fd, a.handle, now_ns() + s));
  set_param("busy_us", "0");

  struct drm_prime x = {.handle = a.handle, .flags = PRIME_RW}, in = {.fd = udmabuf(MIB)};
  CHECK(!ioctl(fd, DRM_HANDLE_TO_FD, &x));
  unsigned char *e = mmap(NULL, MIB, PROT_READ, MAP_SHARED, x.fd, 0);
  CHECK(e != MAP_FAILED && e[5] == 7);
  REFUSED(ioctl(fd, DRM_FD_TO_HANDLE, &in), EINVAL);
  close(in.fd);
  struct drm_close k = {.handle = a.handle};
  CHECK(!ioctl(fd, DRM_GEM_CLOSE, &k));
  REFUSED(ioctl(fd, DRM_GEM_CLOSE, &k), EINVAL);
  close(fd);
  CHECK(count("live_objects") == 2 && p[5] == 7);
  munmap(p, MIB), munmap(e, MIB), close(x.fd);
  CHECK(count("live_objects") == 1);
  close(other);
}

// ---- killed while it runs

static void hold_one(const char *flavour, int fd, int keep) {
  struct rknpu_mem_create c;
  void *p;
  if (!strcmp(flavour, "gem")) {
    uint64_t offset = 0;
    struct drm_prime x = {.flags = PRIME_RW};
    CHECK(!create(fd, 16 * PAGE, usual_flags(), &c) && !map_offset(fd, c.handle, &offset));
    p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
    x.handle = c.handle;
    CHECK(p != MAP_FAILED && !ioctl(fd, DRM_HANDLE_TO_FD, &x));
    if (!keep) munmap(p, 16 * PAGE), close(x.fd), destroy(fd, &c);
  } else if (!strcmp(flavour, "heap")) {
    CHECK(!heap_create(fd, 0, 16 * PAGE, 2, &c));
    p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, c.handle, 0);
    CHECK(p != MAP_FAILED);
    if (!keep) munmap(p, 16 * PAGE), heap_destroy(fd, c.obj_addr), close(c.handle);
  } else {
    struct rocket_create_bo b = {.size = 16 * PAGE};
    CHECK(!ioctl(fd, DRM_IOCTL_ROCKET_CREATE_BO, &b));
    p = mmap(NULL, 16 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, b.offset);
    struct drm_close k = {.handle = b.handle};
    CHECK(p != MAP_FAILED);
    if (!keep) munmap(p, 16 * PAGE), ioctl(fd, DRM_GEM_CLOSE, &k);
  }
}

static void hold(const char *flavour) {
  int fd = !strcmp(flavour, "gem") ? gem_open() : !strcmp(flavour, "heap") ? heap_open() : rocket_open();
  for (int i = 0; i < 32; i++) hold_one(flavour, fd, 1);
  printf("holding\n");
  fflush(stdout);
  while (!bad) hold_one(flavour, fd, 0);
}

int main(int argc, char **argv) {
  const char *what = argc > 1 ? argv[1] : "", *flavour = argc > 2 ? argv[2] : what;
  struct {
    const char *name;
    void (*run)(void), (*misuse)(void);
  } known[] = {{"gem", gem, gem_misuse}, {"heap", heap, heap_misuse}, {"rocket", rocket, NULL}};
  if (!strcmp(what, "hold")) {
    hold(flavour);
    return 1;
  }
  for (size_t i = 0; i < 3; i++) {
    if (strcmp(flavour, known[i].name)) continue;
    void (*run)(void) = strcmp(what, "misuse") ? known[i].run : known[i].misuse;
    if (!run) return 0;
    run();
    all_gone();
    printf("smoke %s%s: %d checks, %d failed\n", flavour, run == known[i].run ? "" : " misuse", checks, bad);
    return bad > 0;
  }
  fprintf(stderr, "usage: smoke [misuse|hold] gem|heap|rocket\n");
  return 2;
}
