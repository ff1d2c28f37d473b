/* The structs of rkllm.h that the understudy reads, by version, with the offsets of the project's fact sheet.
 * RKLLM_HEADER is 110, 120, 121 or 130. Our own declarations, from the facts alone. */
#ifndef RKLLM_STRUCTS_H
#define RKLLM_STRUCTS_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef RKLLM_HEADER
#error "RKLLM_HEADER must be 110, 120, 121 or 130"
#endif
#define SINCE(version) (RKLLM_HEADER >= (version))
#define AT(type, field, offset) _Static_assert(offsetof(type, field) == (offset), #type "." #field)
#define SIZE(type, size) _Static_assert(sizeof(type) == (size), #type)

typedef struct {
  int32_t base_domain_id;
#if SINCE(120)
  int8_t embed_flash, enabled_cpus_num;
  uint32_t enabled_cpus_mask;
#endif
#if SINCE(121)
  uint8_t n_batch;
  int8_t use_cross_attn;
  uint8_t reserved[104];
#elif SINCE(120)
  uint8_t reserved[106];
#else
  uint8_t reserved[112];
#endif
} extend_param;
AT(extend_param, base_domain_id, 0);
#if SINCE(120)
SIZE(extend_param, 120);
AT(extend_param, embed_flash, 4);
AT(extend_param, enabled_cpus_num, 5);
AT(extend_param, enabled_cpus_mask, 8);
#else
SIZE(extend_param, 116);
AT(extend_param, reserved, 4);
#endif
#if SINCE(121)
AT(extend_param, n_batch, 12);
AT(extend_param, use_cross_attn, 13);
AT(extend_param, reserved, 14);
#elif SINCE(120)
AT(extend_param, reserved, 12);
#endif

typedef struct {
  const char *model_path;
  int32_t max_context_len, max_new_tokens, top_k;
#if SINCE(120)
  int32_t n_keep;
#endif
  float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
  int32_t mirostat;
  float mirostat_tau, mirostat_eta;
  bool skip_special_token;
#if SINCE(130)
  bool ignore_eos_token;
#endif
  bool is_async;
#if !SINCE(130)
  const char *img_start, *img_end, *img_content;
#endif
  extend_param extend;
} param;
AT(param, model_path, 0);
AT(param, max_context_len, 8);
AT(param, max_new_tokens, 12);
AT(param, top_k, 16);
#if SINCE(120)
AT(param, n_keep, 20);
AT(param, top_p, 24);
AT(param, temperature, 28);
AT(param, mirostat, 44);
AT(param, mirostat_eta, 52);
AT(param, skip_special_token, 56);
#else
SIZE(param, 200);
AT(param, top_p, 20);
AT(param, temperature, 24);
AT(param, repeat_penalty, 28);
AT(param, frequency_penalty, 32);
AT(param, presence_penalty, 36);
AT(param, mirostat, 40);
AT(param, mirostat_tau, 44);
AT(param, mirostat_eta, 48);
AT(param, skip_special_token, 52);
AT(param, is_async, 53);
AT(param, img_start, 56);
AT(param, img_end, 64);
AT(param, img_content, 72);
AT(param, extend, 80);
#endif
#if SINCE(130)
SIZE(param, 184);
AT(param, ignore_eos_token, 57);
AT(param, is_async, 58);
AT(param, extend, 60);
#elif SINCE(120)
SIZE(param, 208);
AT(param, is_async, 57);
AT(param, img_start, 64);
AT(param, img_end, 72);
AT(param, img_content, 80);
AT(param, extend, 88);
#endif

typedef struct { const char *path, *name; float scale; } lora_adapter;
SIZE(lora_adapter, 24);
AT(lora_adapter, path, 0);
AT(lora_adapter, name, 8);
AT(lora_adapter, scale, 16);
typedef struct { const char *name; } lora_param;
SIZE(lora_param, 8);
typedef struct { int32_t save; const char *path; } prompt_cache_param;
SIZE(prompt_cache_param, 16);
AT(prompt_cache_param, path, 8);

typedef struct {
  int32_t top_k;
  float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
  int32_t mirostat;
  float mirostat_tau, mirostat_eta;
} sampling_param;
SIZE(sampling_param, 36);
AT(sampling_param, mirostat, 24);

typedef struct {
  int32_t mode;
  const lora_param *lora;
  const prompt_cache_param *prompt_cache;
#if SINCE(130)
  const sampling_param *sampling;
#endif
#if SINCE(120)
  int32_t keep_history;
#endif
#if SINCE(130)
  int32_t max_new_tokens;
#endif
} infer_param;
AT(infer_param, mode, 0);
AT(infer_param, lora, 8);
AT(infer_param, prompt_cache, 16);
#if SINCE(130)
SIZE(infer_param, 40);
AT(infer_param, sampling, 24);
AT(infer_param, keep_history, 32);
AT(infer_param, max_new_tokens, 36);
#elif SINCE(120)
SIZE(infer_param, 32);
AT(infer_param, keep_history, 24);
#else
SIZE(infer_param, 24);
#endif

typedef struct { const float *data; int32_t width, count; } rows;
SIZE(rows, 16);
typedef struct {
  float prefill_time_ms;
  int32_t prefill_tokens;
  float generate_time_ms;
  int32_t generate_tokens;
  float memory_usage_mb;
} perf_stat;
SIZE(perf_stat, 20);

typedef struct {
  const char *text;
  int32_t token_id;
  rows hidden;
#if SINCE(120)
  rows logits;
#endif
#if SINCE(121)
  perf_stat perf;
#endif
} result;
AT(result, token_id, 8);
AT(result, hidden, 16);
#if SINCE(121)
SIZE(result, 72);
AT(result, logits, 32);
AT(result, perf, 48);
#elif SINCE(120)
SIZE(result, 48);
AT(result, logits, 32);
#else
SIZE(result, 32);
#endif

typedef struct {
#if SINCE(121)
  const char *role;
  bool enable_thinking;
#endif
  int32_t type;
  union {
    const char *prompt;
    struct { const float *data; size_t count; } embed;
    struct { const int32_t *ids; size_t count; } tokens;
    struct {
      const char *prompt;
      const float *image;
      size_t image_tokens;
#if SINCE(120)
      size_t images;
#endif
    } multimodal;
  };
} input;
#if SINCE(121)
AT(input, type, 12);
AT(input, prompt, 16);
#else
AT(input, prompt, 8);
#endif

#if SINCE(121)
typedef int (*result_callback)(result *, void *, int);
#else
typedef void (*result_callback)(result *, void *, int);
#endif
typedef int32_t (*tokenizer_callback)(void *, const char *, int32_t, int32_t *, int32_t);
typedef int (*embed_callback)(void *, const int32_t *, uint64_t, void *, uint64_t);
typedef struct {
  result_callback on_result;
  void *result_userdata;
  tokenizer_callback tokenize;
  void *tokenizer_userdata;
  embed_callback embed;
  void *embed_userdata;
} callbacks;
SIZE(callbacks, 48);
AT(callbacks, tokenize, 16);
AT(callbacks, embed, 32);

typedef struct { const float *k, *v, *mask; const int32_t *pos; int32_t count; } cross_attn_param;
SIZE(cross_attn_param, 40);
AT(cross_attn_param, count, 32);

/* input.type, infer_param.mode, and the states of a result. */
enum { INPUT_PROMPT, INPUT_TOKENS, INPUT_EMBED, INPUT_MULTIMODAL };
enum { GENERATE, HIDDEN_STATES, LOGITS };
enum { NORMAL, WAITING, FINISH, ERROR, LAST_HIDDEN_LAYER };
#endif
