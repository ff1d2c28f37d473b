/* The understudy of librknnrt: one model, its contexts, and the memory that they are given. */
#ifndef UNDERSTUDY_RKNN_H
#define UNDERSTUDY_RKNN_H
#include "rknn-structs.h"
#include <sys/types.h>

#define MAX_TENSORS 8
#define MAX_RANGES 64

/* Whole pages that the understudy allocates itself. */
struct inside { void *map; uint64_t bytes; };
int take_inside(struct inside *to, uint64_t bytes);
void give_inside_back(struct inside *from);

/* A part of a file or of the address space, by which two users of the same memory are told. */
struct range { uint64_t device, object, start, end; };

struct memory {
  rknn_tensor_mem shown;
  struct memory *next;
  struct inside inside;
  rknn_context owner;
  struct range range;
  /* The first byte, with the offset. */
  char *bytes;
};

struct tensor { rknn_tensor_attr attr; int is_input; uint32_t native_size; };

struct model {
  int users, inputs, outputs, flags;
  uint64_t weights, internal, weights_at, file_bytes;
  uint32_t weights_hash;
  struct tensor tensors[2 * MAX_TENSORS];
  /* Where the weights are read from: the buffer of a zero-copy model, a copy, or the file. */
  const char *in_place;
  struct inside copy, own_weights;
  int file;
  struct memory *outside_weights;
  struct model *weights_of;
};

struct context {
  struct context *next;
  struct model *model;
  struct inside own_internal;
  struct memory *internal, *io[2 * MAX_TENSORS];
  rknn_tensor_attr set[2 * MAX_TENSORS];
  int core_mask, is_duplicate;
};

enum counter { INSIDE, INSIDE_PEAK, CONTEXTS, MEMORIES, FAULTS, RUNS, INTERNAL_BYTES, WEIGHT_BYTES, SYNCS, COUNTERS };

void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Writes the line to the log, counts a misuse, and returns `error`. */
int fault(int error, const char *format, ...) __attribute__((format(printf, 2, 3)));
void add(enum counter counter, int64_t by);
uint64_t count_of(enum counter counter);
/* Adds the bytes of `range` to the counter, except those that were counted before. */
void add_range(enum counter counter, struct range range);

/* Reads a model's text: `size` bytes at `data`, or the file at `path`. Returns 0 or an error. */
int open_model(const char *path, const void *data, uint32_t size, struct model **made);
void close_model(struct model *model);
/* Copies the weights to memory of the model's bytes. Returns 0 or an error. */
int copy_weights(const struct model *model, char *to);
/* The weights that a run reads; NULL where there are none. */
const char *weights_of(const struct model *model);
uint32_t hash(uint32_t from, const void *bytes, size_t count);

struct memory *new_memory(rknn_context owner, uint32_t size, uint32_t flags);
void free_memory(struct memory *memory);
/* Checks that `size` bytes at `offset` of the dma-buf are those at `virt + offset`. Returns 0, or -1 after a fault. */
int same_memory(int fd, char *virt, uint32_t size, int32_t offset, struct range *range);
#endif
