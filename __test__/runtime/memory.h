/* Memory of the understudy: NPU buffers where the rknpu driver is, else private memory with the same bookkeeping. */
#ifndef UNDERSTUDY_MEMORY_H
#define UNDERSTUDY_MEMORY_H
#include <stddef.h>
#include <stdint.h>

struct buffer { struct buffer *next; void *map; size_t bytes; int32_t domain; uint32_t handle; };

/* Adds `bytes` of touched memory to `list`, from `domain` on. Returns 0, or -1 with errno; what it added stays. */
int take(struct buffer **list, uint64_t bytes, int32_t domain);
void give_back(struct buffer **list);
/* Opens the NPU's node once. Returns whether there is one. */
int find_npu(void);
/* The value of a setting, or `otherwise`. */
uint64_t setting(const char *name, uint64_t otherwise);
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
#endif
