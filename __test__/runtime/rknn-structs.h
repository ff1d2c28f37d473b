/* The structs and numbers of rknn_api.h, by version, from the facts of docs/design/rknn-api.md. */
#ifndef UNDERSTUDY_RKNN_STRUCTS_H
#define UNDERSTUDY_RKNN_STRUCTS_H
#include <stddef.h>
#include <stdint.h>

/* Whether the header is of `version` or later: 130, 140, 152, 160, 200 or 210. */
#define RKNN_SINCE(version) (RKNN_HEADER >= (version))

typedef uint64_t rknn_context;

typedef struct { uint32_t n_input, n_output; } rknn_input_output_num;

typedef struct {
  uint32_t index, n_dims, dims[16];
  char name[256];
  uint32_t n_elems, size;
  int fmt, type, qnt_type;
  int8_t fl;
  int32_t zp;
  float scale;
  uint32_t w_stride, size_with_stride;
  uint8_t pass_through;
  uint32_t h_stride;
} rknn_tensor_attr;

typedef struct {
  void *virt_addr;
  uint64_t phys_addr;
  int32_t fd, offset;
  uint32_t size, flags;
  void *priv_data;
} rknn_tensor_mem;

typedef struct { char api_version[256], drv_version[256]; } rknn_sdk_version;

typedef struct { uint64_t frame_id; int32_t non_block, timeout_ms, fence_fd; } rknn_run_extend;

typedef struct {
  uint32_t total_weight_size, total_internal_size;
#if RKNN_SINCE(140)
  uint64_t total_dma_allocated_size;
  uint32_t total_sram_size, free_sram_size, reserved[10];
#endif
} rknn_mem_size;

typedef struct {
  rknn_context ctx;
#if RKNN_SINCE(210)
  int32_t real_model_offset;
  uint32_t real_model_size;
  int32_t model_buffer_fd;
  uint32_t model_buffer_flags;
  uint8_t reserved[112];
#elif RKNN_SINCE(140)
  int32_t real_model_offset;
  uint32_t real_model_size;
  uint8_t reserved[120];
#else
  uint8_t reserved[128];
#endif
} rknn_init_extend;

_Static_assert(sizeof(rknn_tensor_attr) == 376 && sizeof(rknn_tensor_mem) == 40 && sizeof(rknn_init_extend) == 136,
               "sizes of rknn-api.md §1");

enum { SUCC = 0, FAIL = -1, MALLOC_FAIL = -4, PARAM_INVALID = -5, MODEL_INVALID = -6, CTX_INVALID = -7,
       INPUT_INVALID = -8, OUTPUT_INVALID = -9, UNMATCH = -13 };

enum {
  MEM_ALLOC_OUTSIDE = 0x10,
  SHARE_WEIGHT_MEM = 0x20,
  MODEL_INFO_ONLY = 0x100,
  INTERNAL_ALLOC_OUTSIDE = 0x200,
  ENABLE_SRAM = 0x800,
  SHARE_SRAM = 0x1000,
  MODEL_BUFFER_ZERO_COPY = 0x10000,
  ALLOC_NO_CONTEXT = 0x20000,
};

/* The bits that rknn_init of the version knows. */
#if RKNN_SINCE(210)
#define KNOWN_FLAGS 0x1ffff
#elif RKNN_SINCE(160)
#define KNOWN_FLAGS 0x3fff
#elif RKNN_SINCE(152)
#define KNOWN_FLAGS 0x7ff
#elif RKNN_SINCE(140)
#define KNOWN_FLAGS 0x1ff
#else
#define KNOWN_FLAGS 0xff
#endif

enum { IN_OUT_NUM = 0, INPUT_ATTR = 1, OUTPUT_ATTR = 2, SDK_VERSION = 5, MEM_SIZE = 6, NATIVE_INPUT = 8,
       NATIVE_OUTPUT = 9, NHWC_INPUT = 10, NHWC_OUTPUT = 11 };

enum { FROM_INSIDE = 1, FROM_FD = 2, FROM_PHYS = 3 };
#endif
