#define _GNU_SOURCE
#include "memory.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define DOMAINS 16
#define CHUNK ((uint64_t)64 << 20)
/* Without bit 10 of the flags the driver aligns a range to the next power of two (rknpu.md §3.3). */
#define FLAGS 0x403

struct version { int32_t numbers[3]; size_t name_len; char *name; size_t date_len; char *date; size_t desc_len;
                 char *desc; };
struct mem_create { uint32_t handle, flags; uint64_t size, obj_addr, dma_addr, sram_size; int32_t domain;
                    uint32_t core_mask; };
struct mem_map { uint32_t handle, reserved; uint64_t offset; };
struct mem_destroy { uint32_t handle, reserved; uint64_t obj_addr; };
_Static_assert(sizeof(struct version) == 64 && sizeof(struct mem_create) == 48, "sizes of rknpu.md §2");
#define VERSION 0xC0406400UL
#define MEM_CREATE 0xC0306442UL
#define MEM_MAP 0xC0106443UL
#define MEM_DESTROY 0xC0106444UL

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t used[DOMAINS];
static int node = -1, looked;

void say(const char *format, ...) {
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  fprintf(stderr, "I rkllm: understudy for tests, not the vendor's library: %s\n", line);
}

uint64_t setting(const char *name, uint64_t otherwise) {
  const char *value = getenv(name);
  return value == NULL || *value == 0 ? otherwise : strtoull(value, NULL, 10);
}

static int is_npu(int fd) {
  char name[16] = { 0 };
  struct version version = { .name = name, .name_len = sizeof name - 1 };
  return ioctl(fd, VERSION, &version) == 0 && strcmp(name, "rknpu") == 0;
}

int find_npu(void) {
  pthread_mutex_lock(&lock);
  for (int minor = 128; !looked && node < 0 && minor < 192; minor++) {
    char path[32];
    snprintf(path, sizeof path, "/dev/dri/renderD%d", minor);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && is_npu(fd)) node = fd;
    else if (fd >= 0) close(fd);
  }
  looked = 1;
  pthread_mutex_unlock(&lock);
  return node >= 0;
}

/* Returns 0, or an errno. */
static int map_one(struct buffer *buffer) {
  if (node < 0) {
    buffer->map = mmap(NULL, buffer->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return buffer->map == MAP_FAILED ? errno : 0;
  }
  struct mem_create create = { .flags = FLAGS, .size = buffer->bytes, .domain = buffer->domain };
  if (ioctl(node, MEM_CREATE, &create) != 0) return errno;
  buffer->handle = create.handle;
  struct mem_map map = { .handle = create.handle };
  int failed = ioctl(node, MEM_MAP, &map) != 0;
  if (!failed) {
    buffer->map = mmap(NULL, buffer->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, node, (off_t)map.offset);
    failed = buffer->map == MAP_FAILED;
  }
  if (!failed) return 0;
  int why = errno;
  struct mem_destroy destroy = { .handle = create.handle };
  ioctl(node, MEM_DESTROY, &destroy);
  return why;
}

static int take_one(struct buffer **list, uint64_t bytes, int32_t *domain) {
  uint64_t capacity = setting("UNDERSTUDY_DOMAIN_BYTES", (uint64_t)4 << 30);
  int one_domain = setting("UNDERSTUDY_ONE_DOMAIN", 0) != 0;
  struct buffer *buffer = calloc(1, sizeof *buffer);
  if (buffer == NULL) return ENOMEM;
  buffer->bytes = (bytes + 4095) & ~(uint64_t)4095;
  int why = EFAULT;
  for (; *domain < DOMAINS; ++*domain) {
    buffer->domain = *domain;
    pthread_mutex_lock(&lock);
    why = used[*domain] + buffer->bytes > capacity ? EFAULT : 0;
    if (why == 0) used[*domain] += buffer->bytes;
    pthread_mutex_unlock(&lock);
    if (why == 0) {
      why = map_one(buffer);
      if (why == 0) break;
      pthread_mutex_lock(&lock);
      used[*domain] -= buffer->bytes;
      pthread_mutex_unlock(&lock);
    }
    if (why != EFAULT || one_domain) break;
  }
  if (why != 0) {
    say("failed to allocate %zu bytes in domain %d, errno %d", buffer->bytes, (int)buffer->domain, why);
    free(buffer);
    return why;
  }
  for (size_t at = 0; at < buffer->bytes; at += 4096) ((volatile char *)buffer->map)[at] = 1;
  buffer->next = *list;
  *list = buffer;
  return 0;
}

int take(struct buffer **list, uint64_t bytes, int32_t domain) {
  if (domain < 0 || domain >= DOMAINS) {
    errno = EINVAL;
    return -1;
  }
  while (bytes > 0) {
    uint64_t part = bytes < CHUNK ? bytes : CHUNK;
    int why = take_one(list, part, &domain);
    if (why != 0) {
      errno = why;
      return -1;
    }
    bytes -= part;
  }
  return 0;
}

void give_back(struct buffer **list) {
  while (*list != NULL) {
    struct buffer *buffer = *list;
    *list = buffer->next;
    munmap(buffer->map, buffer->bytes);
    struct mem_destroy destroy = { .handle = buffer->handle };
    if (buffer->handle != 0) ioctl(node, MEM_DESTROY, &destroy);
    pthread_mutex_lock(&lock);
    used[buffer->domain] -= buffer->bytes;
    pthread_mutex_unlock(&lock);
    free(buffer);
  }
}

/* For tests: the bytes that the understudy holds in `domain`. */
__attribute__((visibility("default"))) uint64_t understudy_bytes(int32_t domain) {
  if (domain < 0 || domain >= DOMAINS) return 0;
  pthread_mutex_lock(&lock);
  uint64_t bytes = used[domain];
  pthread_mutex_unlock(&lock);
  return bytes;
}
