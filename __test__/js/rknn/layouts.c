/*
 * Prints size and offsets of the structs of rknn_api.h, as the C compiler lays them out: lines of "STRUCT FIELD
 * OFFSET". The structs are those of the understudy, for the version in RKNN_HEADER.
 */

#include "../../runtime/rknn-structs.h"
#include <stdio.h>

#define SIZE(type) printf(#type " size %zu\n" #type " align %zu\n", sizeof(type), _Alignof(type))
#define AT(type, field) printf(#type " " #field " %zu\n", offsetof(type, field))
/* An array: its first element. */
#define FIRST(type, field) printf(#type " " #field ".0 %zu\n", offsetof(type, field))

int main(void) {
  SIZE(rknn_input_output_num);
  AT(rknn_input_output_num, n_input); AT(rknn_input_output_num, n_output);
  SIZE(rknn_tensor_attr);
  AT(rknn_tensor_attr, index); AT(rknn_tensor_attr, n_dims);
  for (int at = 0; at < 16; at++)
    printf("rknn_tensor_attr dims.%d %zu\n", at, offsetof(rknn_tensor_attr, dims) + at * sizeof(uint32_t));
  FIRST(rknn_tensor_attr, name);
  AT(rknn_tensor_attr, n_elems); AT(rknn_tensor_attr, size); AT(rknn_tensor_attr, fmt); AT(rknn_tensor_attr, type);
  AT(rknn_tensor_attr, qnt_type); AT(rknn_tensor_attr, fl); AT(rknn_tensor_attr, zp); AT(rknn_tensor_attr, scale);
  AT(rknn_tensor_attr, w_stride); AT(rknn_tensor_attr, size_with_stride); AT(rknn_tensor_attr, pass_through);
  AT(rknn_tensor_attr, h_stride);
  SIZE(rknn_tensor_mem);
  AT(rknn_tensor_mem, virt_addr); AT(rknn_tensor_mem, phys_addr); AT(rknn_tensor_mem, fd);
  AT(rknn_tensor_mem, offset); AT(rknn_tensor_mem, size); AT(rknn_tensor_mem, flags);
  AT(rknn_tensor_mem, priv_data);
  SIZE(rknn_sdk_version);
  FIRST(rknn_sdk_version, api_version); FIRST(rknn_sdk_version, drv_version);
  SIZE(rknn_run_extend);
  AT(rknn_run_extend, frame_id); AT(rknn_run_extend, non_block); AT(rknn_run_extend, timeout_ms);
  AT(rknn_run_extend, fence_fd);
  SIZE(rknn_mem_size);
  AT(rknn_mem_size, total_weight_size); AT(rknn_mem_size, total_internal_size);
#if RKNN_SINCE(140)
  AT(rknn_mem_size, total_dma_allocated_size); AT(rknn_mem_size, total_sram_size); AT(rknn_mem_size, free_sram_size);
  FIRST(rknn_mem_size, reserved);
#endif
  SIZE(rknn_init_extend);
  AT(rknn_init_extend, ctx); FIRST(rknn_init_extend, reserved);
#if RKNN_SINCE(140)
  AT(rknn_init_extend, real_model_offset); AT(rknn_init_extend, real_model_size);
#endif
#if RKNN_SINCE(210)
  AT(rknn_init_extend, model_buffer_fd); AT(rknn_init_extend, model_buffer_flags);
#endif
  return 0;
}
