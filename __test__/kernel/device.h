// Opens the test driver's nodes, for smoke.c and bare.c.
#pragma once
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "rknpu_test/abi.h"

struct drm_version {
  int major, minor, patch;
  size_t name_len;
  char *name;
  size_t date_len;
  char *date;
  size_t desc_len;
  char *desc;
};
struct drm_prime {
  uint32_t handle, flags;
  int32_t fd;
};
struct drm_close {
  uint32_t handle, pad;
};
#define DRM_VERSION _IOWR('d', 0x00, struct drm_version)
#define DRM_GEM_CLOSE _IOW('d', 0x09, struct drm_close)
#define DRM_HANDLE_TO_FD _IOWR('d', 0x2d, struct drm_prime)
#define DRM_FD_TO_HANDLE _IOWR('d', 0x2e, struct drm_prime)
#define PRIME_RW (O_CLOEXEC | O_RDWR)

// Opens the first node of `pattern` that belongs to the DRM driver `name`. Returns -1 if there is none.
static inline int open_drm(const char *pattern, const char *name, struct drm_version *v) {
  glob_t g;
  int fd = -1;
  if (glob(pattern, 0, NULL, &g)) return -1;
  for (size_t i = 0; i < g.gl_pathc && fd < 0; i++) {
    char found[32] = "";
    memset(v, 0, sizeof *v);
    v->name = found;
    v->name_len = sizeof found - 1;
    fd = open(g.gl_pathv[i], O_RDWR | O_CLOEXEC);
    if (fd >= 0 && (ioctl(fd, DRM_VERSION, v) || strcmp(found, name))) close(fd), fd = -1;
  }
  globfree(&g);
  return fd;
}

static inline int64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000ll + t.tv_nsec;
}
