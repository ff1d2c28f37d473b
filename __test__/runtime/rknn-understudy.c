/* librknnrt.so for tests: the functions of rknn_api.h that concern memory, on models that only state sizes. */
#define _GNU_SOURCE
#include "rknn.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))

/* The version stands in the library as the vendor's does. */
static const char banner[] = "librknnrt version: " RKNN_VERSION " (understudy)";
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct context *contexts;
static struct memory *memories;
/* Scratch that a run is using. */
static char *busy[16];

static struct context *find(rknn_context number) {
  struct context *at = contexts;
  while (at != NULL && (rknn_context)(uintptr_t)at != number) at = at->next;
  return at;
}

static struct memory *find_memory(const rknn_tensor_mem *shown) {
  struct memory *at = memories;
  while (at != NULL && &at->shown != shown) at = at->next;
  return at;
}

static struct context *new_context(struct model *model) {
  struct context *context = calloc(1, sizeof *context);
  if (context == NULL) return NULL;
  context->model = model;
  for (int at = 0; at < model->inputs + model->outputs; at++) context->set[at] = model->tensors[at].attr;
  context->next = contexts;
  contexts = context;
  add(CONTEXTS, 1);
  return context;
}

/* Where the weights of a new model are: in its buffer, in own memory, in another model, or given later. */
static int place_weights(struct model *model, const rknn_init_extend *extend) {
  if (model->flags & SHARE_WEIGHT_MEM) {
    struct context *other = extend == NULL ? NULL : find(extend->ctx);
    if (other == NULL) return fault(CTX_INVALID, "SHARE_WEIGHT_MEM needs the context of the other model in extend");
    if (other->model->weights != model->weights) return fault(MODEL_INVALID, "the weights are of another size");
    model->weights_of = other->model;
    other->model->users++;
    return SUCC;
  }
  if (model->in_place != NULL || (model->flags & (MEM_ALLOC_OUTSIDE | MODEL_INFO_ONLY))) return SUCC;
  int error = take_inside(&model->own_weights, model->weights);
  if (error == SUCC) error = copy_weights(model, model->own_weights.map);
  give_inside_back(&model->copy);
  return error;
}

#if RKNN_SINCE(210)
static int check_buffer(void *data, uint32_t size, const rknn_init_extend *extend) {
  struct range range;
  if (data == NULL || size == 0 || extend == NULL)
    return fault(PARAM_INVALID, "MODEL_BUFFER_ZERO_COPY needs the model's buffer and extend");
  if (extend->real_model_size != size)
    return fault(PARAM_INVALID, "real_model_size %u is not the %u bytes of the buffer", extend->real_model_size, size);
  char *base = (char *)data - extend->real_model_offset;
  int same = same_memory(extend->model_buffer_fd, base, size, extend->real_model_offset, &range);
  return same == 0 ? SUCC : PARAM_INVALID;
}
#endif

int rknn_destroy(rknn_context number);

API int rknn_init(rknn_context *made, void *data, uint32_t size, uint32_t flags, rknn_init_extend *extend) {
  if (made == NULL || data == NULL) return fault(PARAM_INVALID, "rknn_init without a context or a model");
  say("%s, header %d, flags 0x%x", banner, RKNN_HEADER, flags);
  if (flags & ~(uint32_t)KNOWN_FLAGS)
    return fault(PARAM_INVALID, "flags 0x%x are not those of the version", flags & ~(uint32_t)KNOWN_FLAGS);
  if ((flags & SHARE_SRAM) && !(flags & ENABLE_SRAM)) return fault(PARAM_INVALID, "SHARE_SRAM needs ENABLE_SRAM");
#if RKNN_SINCE(210)
  if (flags & MODEL_BUFFER_ZERO_COPY) {
    int error = getenv("UNDERSTUDY_RKNN_OWN_BUFFERS") != NULL
                    ? fault(PARAM_INVALID, "the model's buffer is not of rknn_create_mem2")
                    : check_buffer(data, size, extend);
    if (error != SUCC) return error;
  }
#endif
  struct model *model;
  int error = size == 0 ? open_model(data, NULL, 0, &model) : open_model(NULL, data, size, &model);
  if (error != SUCC) return error;
  model->flags = (int)flags;
  if (size > 0 && (flags & MODEL_BUFFER_ZERO_COPY)) model->in_place = data;
  else if (size > 0) {
    error = take_inside(&model->copy, size);
    if (error == SUCC) memcpy(model->copy.map, data, size);
  }
  pthread_mutex_lock(&lock);
  if (error == SUCC) error = place_weights(model, extend);
  struct context *context = error == SUCC ? new_context(model) : NULL;
  if (context != NULL && !(flags & (MEM_ALLOC_OUTSIDE | INTERNAL_ALLOC_OUTSIDE | MODEL_INFO_ONLY)))
    error = take_inside(&context->own_internal, model->internal);
  pthread_mutex_unlock(&lock);
  if (context == NULL) {
    close_model(model);
    return error == SUCC ? MALLOC_FAIL : error;
  }
  if (error != SUCC) {
    rknn_destroy((rknn_context)(uintptr_t)context);
    return error;
  }
  *made = (rknn_context)(uintptr_t)context;
  return SUCC;
}

API int rknn_dup_context(rknn_context *from, rknn_context *made) {
  pthread_mutex_lock(&lock);
  struct context *first = from == NULL ? NULL : find(*from);
  struct context *context = first == NULL || made == NULL ? NULL : new_context(first->model);
  int error = context == NULL ? CTX_INVALID : SUCC;
  if (context != NULL) {
    context->model->users++;
    context->is_duplicate = 1;
    *made = (rknn_context)(uintptr_t)context;
    if (first->own_internal.map != NULL) error = take_inside(&context->own_internal, context->model->internal);
  }
  pthread_mutex_unlock(&lock);
  return error == SUCC ? SUCC : fault(error, "rknn_dup_context of %p", (void *)from);
}

API int rknn_destroy(rknn_context number) {
  pthread_mutex_lock(&lock);
  struct context *context = find(number), **at = &contexts;
  if (context != NULL) {
    while (*at != context) at = &(*at)->next;
    *at = context->next;
    for (struct memory *memory = memories; memory != NULL; memory = memory->next)
      if (memory->owner == number) fault(0, "rknn_destroy before rknn_destroy_mem of %u bytes", memory->shown.size);
    give_inside_back(&context->own_internal);
    close_model(context->model);
    free(context);
    add(CONTEXTS, -1);
  }
  pthread_mutex_unlock(&lock);
  return context == NULL ? fault(CTX_INVALID, "rknn_destroy of no context") : SUCC;
}

static int query_tensor(const struct model *model, int is_input, int native, rknn_tensor_attr *to) {
  int count = is_input ? model->inputs : model->outputs;
  if (to->index >= (uint32_t)count) return fault(PARAM_INVALID, "no tensor %u: there are %d", to->index, count);
  const struct tensor *tensor = &model->tensors[to->index + (is_input ? 0 : model->inputs)];
  *to = tensor->attr;
  if (native && tensor->attr.n_dims == 4) {
    to->fmt = 2;
    to->size_with_stride = tensor->native_size > to->size_with_stride ? tensor->native_size : to->size_with_stride;
  }
  return SUCC;
}

API int rknn_query(rknn_context number, int command, void *to, uint32_t size) {
  static const uint32_t sizes[] = {
    [IN_OUT_NUM] = sizeof(rknn_input_output_num), [INPUT_ATTR] = sizeof(rknn_tensor_attr),
    [OUTPUT_ATTR] = sizeof(rknn_tensor_attr), [SDK_VERSION] = sizeof(rknn_sdk_version),
    [MEM_SIZE] = sizeof(rknn_mem_size), [NATIVE_INPUT] = sizeof(rknn_tensor_attr),
    [NATIVE_OUTPUT] = sizeof(rknn_tensor_attr), [NHWC_INPUT] = sizeof(rknn_tensor_attr),
    [NHWC_OUTPUT] = sizeof(rknn_tensor_attr),
  };
  const int known = (int)(sizeof sizes / sizeof *sizes);
  if (command < 0 || command >= known || sizes[command] == 0) return fault(PARAM_INVALID, "no query %d", command);
  if (to == NULL || size != sizes[command])
    return fault(PARAM_INVALID, "query %d fills %u bytes, not %u: another header?", command, sizes[command], size);
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  const struct model *model = context == NULL ? NULL : context->model;
  int error = SUCC;
  if (model == NULL) error = fault(CTX_INVALID, "rknn_query of no context");
  else if (command == IN_OUT_NUM) {
    *(rknn_input_output_num *)to = (rknn_input_output_num){ (uint32_t)model->inputs, (uint32_t)model->outputs };
  } else if (command == SDK_VERSION) {
    memset(to, 0, size);
    strcpy(((rknn_sdk_version *)to)->api_version, RKNN_VERSION " (understudy)");
    strcpy(((rknn_sdk_version *)to)->drv_version, "0.9.8");
  } else if (command == MEM_SIZE) {
    memset(to, 0, size);
    ((rknn_mem_size *)to)->total_weight_size = (uint32_t)model->weights;
    ((rknn_mem_size *)to)->total_internal_size = (uint32_t)model->internal;
  } else {
    int is_input = command == INPUT_ATTR || command == NATIVE_INPUT || command == NHWC_INPUT;
    error = query_tensor(model, is_input, command == NATIVE_INPUT || command == NATIVE_OUTPUT, to);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

API int rknn_set_core_mask(rknn_context number, int mask) {
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  if (context != NULL) context->core_mask = mask;
  pthread_mutex_unlock(&lock);
  int all = RKNN_SINCE(200) && mask == 0xffff;
  if (context == NULL || !(mask == 0 || mask == 1 || mask == 2 || mask == 4 || mask == 3 || mask == 7 || all))
    return fault(PARAM_INVALID, "rknn_set_core_mask %d", mask);
  return SUCC;
}

/* ---- Memory ---- */

static rknn_tensor_mem *list(struct memory *memory) {
  memory->next = memories;
  memories = memory;
  return &memory->shown;
}

static rknn_tensor_mem *create(rknn_context number, uint64_t size, int needs_context) {
  rknn_tensor_mem *made = NULL;
  pthread_mutex_lock(&lock);
  struct memory *memory = NULL;
  if ((find(number) != NULL || !needs_context) && size > 0 && size <= UINT32_MAX)
    memory = new_memory(number, (uint32_t)size, FROM_INSIDE);
  if (memory != NULL && take_inside(&memory->inside, size) == SUCC) {
    memory->bytes = memory->shown.virt_addr = memory->inside.map;
    memory->range = (struct range){ 0, 0, (uintptr_t)memory->bytes, (uintptr_t)memory->bytes + size };
    made = list(memory);
  } else if (memory != NULL) free_memory(memory);
  pthread_mutex_unlock(&lock);
  return made;
}

API rknn_tensor_mem *rknn_create_mem(rknn_context number, uint32_t size) { return create(number, size, 1); }

#if RKNN_SINCE(200)
API rknn_tensor_mem *rknn_create_mem2(rknn_context number, uint64_t size, uint64_t flags) {
  return create(number, size, !(RKNN_SINCE(210) && (flags & ALLOC_NO_CONTEXT)));
}
#endif

API rknn_tensor_mem *rknn_create_mem_from_fd(rknn_context number, int32_t fd, void *virt, uint32_t size,
                                             int32_t offset) {
  rknn_tensor_mem *made = NULL;
  struct range range;
  pthread_mutex_lock(&lock);
  if (find(number) == NULL) fault(0, "rknn_create_mem_from_fd of no context");
  else if (same_memory(fd, virt, size, offset, &range) == 0) {
    struct memory *memory = new_memory(number, size, FROM_FD);
    if (memory != NULL) {
      memory->shown.virt_addr = virt;
      memory->shown.fd = fd;
      memory->shown.offset = offset;
      memory->bytes = (char *)virt + offset;
      memory->range = range;
      made = list(memory);
    }
  }
  pthread_mutex_unlock(&lock);
  return made;
}

static rknn_tensor_mem *at_address(rknn_context number, uint64_t phys, char *virt, uint32_t size, uint32_t flags) {
  rknn_tensor_mem *made = NULL;
  pthread_mutex_lock(&lock);
  struct memory *memory = NULL;
  if (find(number) != NULL && virt != NULL && size > 0) memory = new_memory(number, size, flags);
  if (memory != NULL) {
    memory->shown.virt_addr = memory->bytes = virt;
    memory->shown.phys_addr = phys;
    memory->range = (struct range){ 0, 0, (uintptr_t)virt, (uintptr_t)virt + size };
    made = list(memory);
  } else fault(0, "memory at %p of %u bytes", virt, size);
  pthread_mutex_unlock(&lock);
  return made;
}

API rknn_tensor_mem *rknn_create_mem_from_phys(rknn_context number, uint64_t phys, void *virt, uint32_t size) {
  return at_address(number, phys, virt, size, FROM_PHYS);
}

/* A block of the understudy: its address, and its size. */
struct block { char *virt; uint64_t size; };

API rknn_tensor_mem *rknn_create_mem_from_mb_blk(rknn_context number, void *block, int32_t offset) {
  const struct block *of = block;
  if (of == NULL || offset < 0 || (uint64_t)offset >= of->size) {
    fault(0, "rknn_create_mem_from_mb_blk at %d", offset);
    return NULL;
  }
  return at_address(number, 0, of->virt + offset, (uint32_t)(of->size - (uint64_t)offset), FROM_PHYS);
}

API int rknn_destroy_mem(rknn_context number, rknn_tensor_mem *shown) {
  pthread_mutex_lock(&lock);
  struct memory *memory = find_memory(shown), **at = &memories;
  int error = SUCC;
  if (memory == NULL) error = fault(PARAM_INVALID, "rknn_destroy_mem of no memory");
  else if (find(number) == NULL && memory->shown.flags != FROM_INSIDE)
    error = fault(CTX_INVALID, "rknn_destroy_mem after rknn_destroy");
  if (memory != NULL) {
    while (*at != memory) at = &(*at)->next;
    *at = memory->next;
    for (struct context *context = contexts; context != NULL; context = context->next) {
      if (context->internal == memory) context->internal = NULL;
      if (context->model->outside_weights == memory) context->model->outside_weights = NULL;
      for (int io = 0; io < 2 * MAX_TENSORS; io++) if (context->io[io] == memory) context->io[io] = NULL;
    }
    free_memory(memory);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

API int rknn_set_weight_mem(rknn_context number, rknn_tensor_mem *shown) {
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  struct memory *memory = find_memory(shown);
  struct model *model = context == NULL ? NULL : context->model;
  int error;
  if (model == NULL || memory == NULL) error = fault(PARAM_INVALID, "rknn_set_weight_mem of no context or memory");
  else if (!(model->flags & MEM_ALLOC_OUTSIDE)) error = fault(FAIL, "rknn_set_weight_mem without MEM_ALLOC_OUTSIDE");
  else if (memory->shown.size < model->weights)
    error = fault(PARAM_INVALID, "%u bytes are too few for %llu of weights", memory->shown.size,
                  (unsigned long long)model->weights);
  else {
    error = copy_weights(model, memory->bytes);
    model->weights_hash = hash(2166136261u, memory->bytes, model->weights);
    model->outside_weights = memory;
    give_inside_back(&model->copy);
    struct range range = memory->range;
    range.end = range.start + model->weights;
    add_range(WEIGHT_BYTES, range);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

API int rknn_set_internal_mem(rknn_context number, rknn_tensor_mem *shown) {
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  struct memory *memory = find_memory(shown);
  int error = SUCC;
  if (context == NULL || memory == NULL) error = fault(PARAM_INVALID, "rknn_set_internal_mem of no context or memory");
  else if (!(context->model->flags & (MEM_ALLOC_OUTSIDE | INTERNAL_ALLOC_OUTSIDE)))
    error = fault(FAIL, "rknn_set_internal_mem without a flag for outside memory");
  else if (memory->shown.size < context->model->internal)
    error = fault(PARAM_INVALID, "%u bytes are too few for %llu of scratch", memory->shown.size,
                  (unsigned long long)context->model->internal);
  else {
    context->internal = memory;
    struct range range = memory->range;
    range.end = range.start + context->model->internal;
    add_range(INTERNAL_BYTES, range);
  }
  pthread_mutex_unlock(&lock);
  return error;
}

static uint32_t bytes_of_type(int type) { return type == 0 || type == 6 ? 4 : type == 1 ? 2 : type == 8 ? 8 : 1; }

API int rknn_set_io_mem(rknn_context number, rknn_tensor_mem *shown, rknn_tensor_attr *attr) {
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  struct memory *memory = find_memory(shown);
  int error = SUCC, at = 0, count = 0;
  if (context == NULL || memory == NULL || attr == NULL)
    error = fault(PARAM_INVALID, "rknn_set_io_mem of no context, memory or attributes");
  else {
    const struct model *model = context->model;
    count = model->inputs + model->outputs;
    while (at < count && (strcmp(model->tensors[at].attr.name, attr->name) != 0 ||
                          model->tensors[at].attr.index != attr->index)) at++;
    if (at == count) error = fault(PARAM_INVALID, "no tensor %s with the index %u", attr->name, attr->index);
  }
  if (error == SUCC) {
    const struct tensor *tensor = &context->model->tensors[at];
    uint32_t bytes = bytes_of_type(attr->type), own = bytes_of_type(tensor->attr.type);
    uint64_t needs = (uint64_t)attr->n_elems * bytes, strided = tensor->attr.size_with_stride / own * bytes;
    if (attr->fmt == 2 && tensor->native_size / own * bytes > strided) strided = tensor->native_size / own * bytes;
    if (strided > needs) needs = strided;
    if (attr->n_elems != tensor->attr.n_elems) error = fault(PARAM_INVALID, "%s has other elements", attr->name);
    else if (attr->w_stride != tensor->attr.w_stride)
      error = fault(PARAM_INVALID, "w_stride of %s is read-only: %u, not %u", attr->name, tensor->attr.w_stride,
                    attr->w_stride);
    else if (memory->shown.size < needs)
      error = fault(tensor->is_input ? INPUT_INVALID : OUTPUT_INVALID, "%u bytes are too few for the %llu of %s",
                    memory->shown.size, (unsigned long long)needs, attr->name);
    if (error == SUCC) {
      context->io[at] = memory;
      context->set[at] = *attr;
      context->set[at].size_with_stride = (uint32_t)needs;
    }
  }
  pthread_mutex_unlock(&lock);
  return error;
}

#if RKNN_SINCE(160)
API int rknn_mem_sync(rknn_context number, rknn_tensor_mem *shown, int mode) {
  pthread_mutex_lock(&lock);
  int known = find(number) != NULL && find_memory(shown) != NULL && mode >= 1 && mode <= 3;
  pthread_mutex_unlock(&lock);
  if (!known) return fault(PARAM_INVALID, "rknn_mem_sync");
  add(SYNCS, 1);
  return SUCC;
}
#endif

/* ---- A run ---- */

static int claim(char *scratch, int take) {
  for (size_t at = 0; at < sizeof busy / sizeof *busy; at++) {
    if (take && busy[at] == scratch) return -1;
    if (!take && busy[at] == scratch) busy[at] = NULL;
  }
  for (size_t at = 0; take && at < sizeof busy / sizeof *busy; at++) {
    if (busy[at] != NULL) continue;
    busy[at] = scratch;
    return 0;
  }
  return take ? -1 : 0;
}

/* The hash of an input's rows: without the bytes between them. */
static uint32_t hash_input(uint32_t from, const char *bytes, const rknn_tensor_attr *attr) {
  uint32_t element = bytes_of_type(attr->type);
  if (attr->n_dims != 4 || attr->fmt != 1) return hash(from, bytes, (size_t)attr->n_elems * element);
  uint32_t row = attr->dims[2] * attr->dims[3] * element, step = attr->w_stride * attr->dims[3] * element;
  for (uint32_t at = 0; at < attr->dims[0] * attr->dims[1]; at++) from = hash(from, bytes + (size_t)at * step, row);
  return from;
}

/* Values from 0 to 255 by index; the bytes behind the elements, up to the last, are 0xa5. */
static void write_output(char *bytes, const rknn_tensor_attr *attr, uint32_t seed) {
  uint32_t element = bytes_of_type(attr->type);
  for (uint32_t at = 0; at < attr->n_elems; at++) {
    uint8_t value = (uint8_t)(hash(seed, &at, sizeof at) >> 16);
    if (attr->type == 0) ((float *)bytes)[at] = value;
    else {
      memset(bytes + (size_t)at * element, 0, element);
      bytes[(size_t)at * element] = (char)value;
    }
  }
  memset(bytes + (size_t)attr->n_elems * element, 0xa5, attr->size_with_stride - attr->n_elems * element);
}

static int begun;

/* For tests: the runs that begin from here on count for UNDERSTUDY_RKNN_RUNS_MEET. */
API void rknn_understudy_forget_runs(void) { __atomic_store_n(&begun, 0, __ATOMIC_SEQ_CST); }

/* Waits until so many runs have begun as the setting says, so that they are under way at the same time. */
static void meet_others(void) {
  const char *setting = getenv("UNDERSTUDY_RKNN_RUNS_MEET");
  while (setting != NULL && __atomic_load_n(&begun, __ATOMIC_SEQ_CST) < atoi(setting)) usleep(100);
}

API int rknn_run(rknn_context number, rknn_run_extend *extend) {
  (void)extend;
  pthread_mutex_lock(&lock);
  struct context *context = find(number);
  struct model *model = context == NULL ? NULL : context->model;
  char *scratch = context == NULL ? NULL : context->internal != NULL ? context->internal->bytes
                                                                      : context->own_internal.map;
  const char *weights = model == NULL ? NULL : weights_of(model);
  int error = SUCC;
  if (model == NULL) error = fault(CTX_INVALID, "rknn_run of no context");
  else if (model->flags & MODEL_INFO_ONLY) error = fault(FAIL, "a context with MODEL_INFO_ONLY does not run");
  else if (model->weights > 0 && weights == NULL) error = fault(FAIL, "rknn_run before rknn_set_weight_mem");
  else if (model->internal > 0 && scratch == NULL) error = fault(FAIL, "rknn_run before rknn_set_internal_mem");
  for (int at = 0; error == SUCC && at < model->inputs + model->outputs; at++)
    if (context->io[at] == NULL) error = fault(FAIL, "rknn_run before rknn_set_io_mem of %s", context->set[at].name);
  if (error == SUCC && scratch != NULL && claim(scratch, 1) != 0)
    error = fault(FAIL, "another run uses the same scratch");
  pthread_mutex_unlock(&lock);
  __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
  if (error != SUCC) return error;
  meet_others();

  uint32_t seed = hash(2166136261u, weights, model->weights);
  if (model->outside_weights != NULL && seed != model->weights_hash)
    error = fault(FAIL, "the weights were overwritten");
  if (context->is_duplicate && getenv("UNDERSTUDY_RKNN_DUPLICATES_DIFFER") != NULL) seed++;
  for (int at = 0; at < model->inputs; at++) seed = hash_input(seed, context->io[at]->bytes, &context->set[at]);
  if (scratch != NULL) {
    memset(scratch, (int)(seed & 0xff), model->internal);
    for (uint64_t at = 0; at < model->internal; at += 4093)
      if (scratch[at] != (char)(seed & 0xff)) error = fault(FAIL, "the scratch was overwritten during a run");
  }
  for (int at = model->inputs; at < model->inputs + model->outputs; at++)
    write_output(context->io[at]->bytes, &context->set[at], seed + (uint32_t)(at - model->inputs));
  pthread_mutex_lock(&lock);
  if (scratch != NULL) claim(scratch, 0);
  pthread_mutex_unlock(&lock);
  add(RUNS, 1);
  return error;
}
