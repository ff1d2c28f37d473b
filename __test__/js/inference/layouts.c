/*
 * Prints size and offsets of the structs of rkllm.h, as the C compiler lays them out: lines of "STRUCT FIELD OFFSET".
 * Declared from docs/design/runtime-api.md §1, for the version in RKLLM_HEADER (110, 120, 121, 130).
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

struct extended {
    int32_t base_domain_id;
#if RKLLM_HEADER >= 120
    int8_t embed_flash, enabled_cpus_num;
    uint32_t enabled_cpus_mask;
#endif
#if RKLLM_HEADER >= 121
    uint8_t n_batch;
    int8_t use_cross_attn;
    uint8_t reserved[104];
#elif RKLLM_HEADER >= 120
    uint8_t reserved[106];
#else
    uint8_t reserved[112];
#endif
};

struct RKLLMParam {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k;
#if RKLLM_HEADER >= 120
    int32_t n_keep;
#endif
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
    bool skip_special_token;
#if RKLLM_HEADER >= 130
    bool ignore_eos_token;
#endif
    bool is_async;
#if RKLLM_HEADER < 130
    const char *img_start, *img_end, *img_content;
#endif
    struct extended extend_param;
};

struct RKLLMInferParam {
    int mode;
    void *lora_params, *prompt_cache_params;
#if RKLLM_HEADER >= 130
    void *sampling_params;
#endif
#if RKLLM_HEADER >= 120
    int keep_history;
#endif
#if RKLLM_HEADER >= 130
    int32_t max_new_tokens;
#endif
};

struct RKLLMLoraAdapter { const char *lora_adapter_path, *lora_adapter_name; float scale; };
struct RKLLMLoraParam { const char *lora_adapter_name; };
struct RKLLMPromptCacheParam { int save_prompt_cache; const char *prompt_cache_path; };

struct RKLLMResult {
    const char *text;
    int32_t token_id;
    struct { const float *hidden_states; int embd_size, num_tokens; } last_hidden_layer;
#if RKLLM_HEADER >= 120
    struct { const float *logits; int vocab_size, num_tokens; } logits;
#endif
#if RKLLM_HEADER >= 121
    struct {
        float prefill_time_ms;
        int prefill_tokens;
        float generate_time_ms;
        int generate_tokens;
        float memory_usage_mb;
    } perf;
#endif
};

#if RKLLM_HEADER >= 130
struct RKLLMSamplingParam {
    int32_t top_k;
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty;
    int32_t mirostat;
    float mirostat_tau, mirostat_eta;
};
struct RKLLMCallback {
    void (*result_callback)(void);
    void *result_userdata;
    void (*tokenizer_callback)(void);
    void *tokenizer_userdata;
    void (*embed_callback)(void);
    void *embed_userdata;
};
#endif

#define SIZE(name) printf(#name " size %zu\n" #name " align %zu\n", sizeof(struct name), _Alignof(struct name))
#define FIELD(name, field) printf(#name " " #field " %zu\n", offsetof(struct name, field))
#define SAMPLING(name) \
    FIELD(name, top_k), FIELD(name, top_p), FIELD(name, temperature), FIELD(name, repeat_penalty), \
    FIELD(name, frequency_penalty), FIELD(name, presence_penalty), FIELD(name, mirostat), \
    FIELD(name, mirostat_tau), FIELD(name, mirostat_eta)

int main(void) {
    SIZE(RKLLMParam), FIELD(RKLLMParam, model_path), FIELD(RKLLMParam, max_context_len);
    FIELD(RKLLMParam, max_new_tokens), SAMPLING(RKLLMParam), FIELD(RKLLMParam, skip_special_token);
    FIELD(RKLLMParam, is_async), FIELD(RKLLMParam, extend_param.base_domain_id);
    SIZE(RKLLMInferParam), FIELD(RKLLMInferParam, mode), FIELD(RKLLMInferParam, lora_params);
    FIELD(RKLLMInferParam, prompt_cache_params);
    SIZE(RKLLMLoraAdapter), FIELD(RKLLMLoraAdapter, lora_adapter_path), FIELD(RKLLMLoraAdapter, lora_adapter_name);
    FIELD(RKLLMLoraAdapter, scale);
    SIZE(RKLLMLoraParam), FIELD(RKLLMLoraParam, lora_adapter_name);
    SIZE(RKLLMPromptCacheParam), FIELD(RKLLMPromptCacheParam, save_prompt_cache);
    FIELD(RKLLMPromptCacheParam, prompt_cache_path);
    SIZE(RKLLMResult), FIELD(RKLLMResult, text), FIELD(RKLLMResult, token_id);
    FIELD(RKLLMResult, last_hidden_layer.hidden_states), FIELD(RKLLMResult, last_hidden_layer.embd_size);
    FIELD(RKLLMResult, last_hidden_layer.num_tokens);
#if RKLLM_HEADER >= 120
    FIELD(RKLLMParam, n_keep), FIELD(RKLLMParam, extend_param.embed_flash);
    FIELD(RKLLMParam, extend_param.enabled_cpus_num), FIELD(RKLLMParam, extend_param.enabled_cpus_mask);
    FIELD(RKLLMInferParam, keep_history);
    FIELD(RKLLMResult, logits.logits), FIELD(RKLLMResult, logits.vocab_size), FIELD(RKLLMResult, logits.num_tokens);
#endif
#if RKLLM_HEADER >= 121
    FIELD(RKLLMParam, extend_param.n_batch), FIELD(RKLLMParam, extend_param.use_cross_attn);
    FIELD(RKLLMResult, perf.prefill_time_ms), FIELD(RKLLMResult, perf.prefill_tokens);
    FIELD(RKLLMResult, perf.generate_time_ms), FIELD(RKLLMResult, perf.generate_tokens);
    FIELD(RKLLMResult, perf.memory_usage_mb);
#endif
#if RKLLM_HEADER < 130
    FIELD(RKLLMParam, img_start), FIELD(RKLLMParam, img_end), FIELD(RKLLMParam, img_content);
#else
    FIELD(RKLLMParam, ignore_eos_token);
    FIELD(RKLLMInferParam, sampling_params), FIELD(RKLLMInferParam, max_new_tokens);
    SIZE(RKLLMSamplingParam), SAMPLING(RKLLMSamplingParam);
    SIZE(RKLLMCallback), FIELD(RKLLMCallback, result_callback), FIELD(RKLLMCallback, result_userdata);
    FIELD(RKLLMCallback, tokenizer_callback), FIELD(RKLLMCallback, tokenizer_userdata);
    FIELD(RKLLMCallback, embed_callback), FIELD(RKLLMCallback, embed_userdata);
#endif
    return 0;
}
