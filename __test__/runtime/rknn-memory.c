/* Counters of the understudy of librknnrt, and the memory that it allocates or is given. */
#define _GNU_SOURCE
#include "rknn.h"
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t counters[COUNTERS];
/* The memory that was counted, by counter. */
static struct { enum counter counter; struct range range; } counted[MAX_RANGES];
static int ranges;

static void print(const char *format, va_list arguments) {
  char line[512];
  vsnprintf(line, sizeof line, format, arguments);
  fprintf(stderr, "I RKNN: understudy for tests, not the vendor's library: %s\n", line);
}

void say(const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
}

int fault(int error, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  print(format, arguments);
  va_end(arguments);
  add(FAULTS, 1);
  return error;
}

void add(enum counter counter, int64_t by) {
  pthread_mutex_lock(&lock);
  counters[counter] += (uint64_t)by;
  if (counter == INSIDE && counters[INSIDE] > counters[INSIDE_PEAK]) counters[INSIDE_PEAK] = counters[INSIDE];
  pthread_mutex_unlock(&lock);
}

uint64_t count_of(enum counter counter) {
  pthread_mutex_lock(&lock);
  uint64_t value = counters[counter];
  pthread_mutex_unlock(&lock);
  return value;
}

void add_range(enum counter counter, struct range range) {
  pthread_mutex_lock(&lock);
  /* Cuts what was counted before off the range. Ranges of one object grow from its start. */
  for (int at = 0; at < ranges && range.start < range.end; at++) {
    const struct range *known = &counted[at].range;
    if (counted[at].counter != counter || known->device != range.device || known->object != range.object) continue;
    if (range.start >= known->start && range.start < known->end) range.start = known->end;
    if (range.end > known->start && range.end <= known->end) range.end = known->start;
  }
  if (range.start < range.end && ranges < MAX_RANGES) {
    counted[ranges].counter = counter;
    counted[ranges++].range = range;
    counters[counter] += range.end - range.start;
  }
  pthread_mutex_unlock(&lock);
}

/* For tests: a counter, by its number in `enum counter`. */
__attribute__((visibility("default"))) uint64_t rknn_understudy_count(int32_t counter) {
  return counter >= 0 && counter < COUNTERS ? count_of((enum counter)counter) : 0;
}

/* For tests: forgets the peak, faults, runs, syncs, and the memory that was counted. */
__attribute__((visibility("default"))) void rknn_understudy_reset(void) {
  pthread_mutex_lock(&lock);
  counters[INSIDE_PEAK] = counters[INSIDE];
  counters[FAULTS] = counters[RUNS] = counters[SYNCS] = counters[INTERNAL_BYTES] = counters[WEIGHT_BYTES] = 0;
  ranges = 0;
  pthread_mutex_unlock(&lock);
}

int take_inside(struct inside *to, uint64_t bytes) {
  to->bytes = (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
  const char *most = getenv("UNDERSTUDY_RKNN_BYTES");
  int full = most != NULL && count_of(INSIDE) + to->bytes > strtoull(most, NULL, 10);
  to->map = full ? MAP_FAILED : mmap(NULL, to->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (to->map == MAP_FAILED) {
    say("failed to malloc npu memory, size: %llu", (unsigned long long)to->bytes);
    memset(to, 0, sizeof *to);
    return MALLOC_FAIL;
  }
  add(INSIDE, (int64_t)to->bytes);
  return SUCC;
}

void give_inside_back(struct inside *from) {
  if (from->map == NULL) return;
  munmap(from->map, from->bytes);
  add(INSIDE, -(int64_t)from->bytes);
  memset(from, 0, sizeof *from);
}

struct memory *new_memory(rknn_context owner, uint32_t size, uint32_t flags) {
  struct memory *memory = calloc(1, sizeof *memory);
  if (memory == NULL) return NULL;
  memory->owner = owner;
  memory->shown.size = size;
  memory->shown.flags = flags;
  memory->shown.fd = -1;
  add(MEMORIES, 1);
  return memory;
}

void free_memory(struct memory *memory) {
  give_inside_back(&memory->inside);
  free(memory);
  add(MEMORIES, -1);
}

/* Whether a byte that is written at `address` appears at `offset` of the file, and is put back. */
static int appears(int fd, volatile char *address, uint64_t offset) {
  uint64_t page = offset & ~(uint64_t)(PAGE - 1);
  volatile char *other = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, (off_t)page);
  if (other == MAP_FAILED) return 0;
  char before = *address;
  int same = other[offset - page] == before;
  *address = (char)~before;
  same = same && other[offset - page] == (char)~before;
  *address = before;
  munmap((void *)other, PAGE);
  return same;
}

int same_memory(int fd, char *virt, uint32_t size, int32_t offset, struct range *range) {
  struct stat status;
  if (fd < 0 || fstat(fd, &status) != 0) return fault(-1, "fd %d: %s", fd, strerror(errno));
  off_t length = lseek(fd, 0, SEEK_END);
  if (virt == NULL || size == 0 || offset < 0) return fault(-1, "address %p, %u bytes at %d", virt, size, offset);
  if (length >= 0 && (uint64_t)offset + size > (uint64_t)length)
    return fault(-1, "%u bytes at %d are beyond the %lld of fd %d", size, offset, (long long)length, fd);
  if (!appears(fd, virt + offset, (uint64_t)offset) ||
      !appears(fd, virt + offset + size - 1, (uint64_t)offset + size - 1))
    return fault(-1, "the address %p at %d is other memory than fd %d: is it that of the whole dma-buf?", virt, offset,
                 fd);
  *range = (struct range){ status.st_dev, status.st_ino, (uint64_t)offset, (uint64_t)offset + size };
  return 0;
}
