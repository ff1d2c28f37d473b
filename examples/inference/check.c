/*
 * Plays a runtime such as librkllmrt or librknnrt, in small. It reads the structs by declarations of its own, follows
 * their pointers, returns the values that it found, and writes answers to the given addresses.
 *
 * The structs are declared here a second time, apart from the library's tables, so that the C compiler decides their
 * offsets.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

/* ---- rkllm.h: common to all versions ---- */

struct embed { float *embed; size_t n_tokens; };
struct token { int32_t *input_ids; size_t n_tokens; };
struct cross_attn { float *encoder_k_cache, *encoder_v_cache, *encoder_mask; int32_t *encoder_pos; int num_tokens; };

/* ---- rkllm.h: by version ---- */

struct one_image { char *prompt; float *image_embed; size_t n_image_tokens; };
struct images { char *prompt; float *image_embed; size_t n_image_tokens, n_image, image_width, image_height; };
struct images_videos {
    char *prompt;
    struct {
        float *image_embed;
        size_t n_image_tokens, n_image;
        const char *image_start, *image_end, *image_content;
        size_t image_width, image_height;
    } image;
    struct {
        float *video_embed;
        size_t n_frame_tokens, n_frame_per_video, n_video;
        const char *video_start, *video_end, *video_content;
        size_t frame_width, frame_height;
    } video;
};

#define CONTENT(multimodal) \
    union { \
        const char *prompt_input; struct embed embed_input; \
        struct token token_input; struct multimodal multimodal_input; \
    }
enum input_type { PROMPT, TOKEN, EMBED, MULTIMODAL };

struct input_1_1 { enum input_type input_type; CONTENT(one_image); };
struct input_1_2_0 { enum input_type input_type; CONTENT(images); };
struct input_1_2 { const char *role; bool enable_thinking; enum input_type input_type; CONTENT(images); };
struct input_1_3 { const char *role; bool enable_thinking; enum input_type input_type; CONTENT(images_videos); };

struct infer_1_1 { int mode; void *lora_params, *prompt_cache_params; };
struct infer { int mode; void *lora_params, *prompt_cache_params; int keep_history; };
struct infer_1_3 {
    int mode;
    void *lora_params, *prompt_cache_params, *sampling_params;
    int keep_history;
    int32_t max_new_tokens;
};

/* RKLLMParam: a number of the version decides which fields are there, as in the headers. */
#define SAMPLING \
    float top_p, temperature, repeat_penalty, frequency_penalty, presence_penalty; \
    int32_t mirostat; \
    float mirostat_tau, mirostat_eta;
struct param_1_1 {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k;
    SAMPLING
    bool skip_special_token, is_async;
    const char *img_start, *img_end, *img_content;
    struct { int32_t base_domain_id; uint8_t reserved[112]; } extend_param;
};
struct extended {
    int32_t base_domain_id;
    int8_t embed_flash, enabled_cpus_num;
    uint32_t enabled_cpus_mask;
    uint8_t n_batch; /* 1.2.0 reserves the two */
    int8_t use_cross_attn;
    uint8_t reserved[104];
};
struct param_1_2 {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k, n_keep;
    SAMPLING
    bool skip_special_token, is_async;
    const char *img_start, *img_end, *img_content;
    struct extended extend_param;
};
struct param_1_3 {
    const char *model_path;
    int32_t max_context_len, max_new_tokens, top_k, n_keep;
    SAMPLING
    bool skip_special_token, ignore_eos_token, is_async;
    struct extended extend_param;
};
struct lora_adapter { const char *lora_adapter_path, *lora_adapter_name; float scale; };
struct lora { const char *lora_adapter_name; };
struct prompt_cache { int save_prompt_cache; const char *prompt_cache_path; };
struct sampling { int32_t top_k; SAMPLING };

/* ---- rknn_api.h ---- */

struct rknn_in { uint32_t index; void *buf; uint32_t size; uint8_t pass_through; int type, fmt; };
struct rknn_out { uint8_t want_float, is_prealloc; uint32_t index; void *buf; uint32_t size; };

/* ---- offsets of the fields, as JSON ---- */

static char json[16384];
static size_t used;

static void put(const char *format, const char *name, size_t value) {
    used += (size_t)snprintf(json + used, sizeof json - used, format, name, value);
}

#define BEGIN(name, type) \
    (put("\"%s\":{\"size\":%zu", name, sizeof(type)), put(",\"%s\":%zu,\"fields\":{", "align", _Alignof(type)))
#define FIELD(type, field) put("\"%s\":%zu,", #field, offsetof(type, field))
#define END(type, field) (put("\"%s\":%zu}}", #field, offsetof(type, field)))
#define COMMA put("%.0s,%.0zu", "", 0)

#define CONTENT_FIELDS(type) \
    FIELD(type, input_type); FIELD(type, prompt_input); FIELD(type, embed_input.embed); \
    FIELD(type, embed_input.n_tokens); FIELD(type, token_input.input_ids); \
    FIELD(type, token_input.n_tokens); FIELD(type, multimodal_input.prompt)
#define IMAGE_FIELDS(type) \
    FIELD(type, multimodal_input.image_embed); FIELD(type, multimodal_input.n_image_tokens); \
    FIELD(type, multimodal_input.n_image); FIELD(type, multimodal_input.image_width); \
    END(type, multimodal_input.image_height)
#define ROLE_FIELDS(type) FIELD(type, role); FIELD(type, enable_thinking)
#define INFER_FIELDS(type) FIELD(type, mode); FIELD(type, lora_params); FIELD(type, prompt_cache_params)

static void infer(void) {
    BEGIN("RKLLMInferParam", struct infer); INFER_FIELDS(struct infer); END(struct infer, keep_history);
}

static void cross_attn(void) {
    typedef struct cross_attn S;
    BEGIN("RKLLMCrossAttnParam", S);
    FIELD(S, encoder_k_cache); FIELD(S, encoder_v_cache); FIELD(S, encoder_mask); FIELD(S, encoder_pos);
    END(S, num_tokens);
}

static void input_1_3(void) {
    typedef struct input_1_3 S;
    BEGIN("RKLLMInput", S); ROLE_FIELDS(S); CONTENT_FIELDS(S);
    FIELD(S, multimodal_input.image.image_embed); FIELD(S, multimodal_input.image.n_image_tokens);
    FIELD(S, multimodal_input.image.n_image); FIELD(S, multimodal_input.image.image_start);
    FIELD(S, multimodal_input.image.image_end); FIELD(S, multimodal_input.image.image_content);
    FIELD(S, multimodal_input.image.image_width); FIELD(S, multimodal_input.image.image_height);
    FIELD(S, multimodal_input.video.video_embed); FIELD(S, multimodal_input.video.n_frame_tokens);
    FIELD(S, multimodal_input.video.n_frame_per_video); FIELD(S, multimodal_input.video.n_video);
    FIELD(S, multimodal_input.video.video_start); FIELD(S, multimodal_input.video.video_end);
    FIELD(S, multimodal_input.video.video_content); FIELD(S, multimodal_input.video.frame_width);
    END(S, multimodal_input.video.frame_height);
}

/** Returns every struct and field with its offset. */
const char *layouts(void) {
    used = 0;
    put("{\"%s\":{%.0zu", "1.1", 0);
    BEGIN("RKLLMInput", struct input_1_1); CONTENT_FIELDS(struct input_1_1);
    FIELD(struct input_1_1, multimodal_input.image_embed); END(struct input_1_1, multimodal_input.n_image_tokens);
    COMMA;
    BEGIN("RKLLMInferParam", struct infer_1_1); FIELD(struct infer_1_1, mode); FIELD(struct infer_1_1, lora_params);
    END(struct infer_1_1, prompt_cache_params);
    put("},\"%s\":{%.0zu", "1.2.0", 0);
    BEGIN("RKLLMInput", struct input_1_2_0); CONTENT_FIELDS(struct input_1_2_0); IMAGE_FIELDS(struct input_1_2_0);
    COMMA;
    infer();
    put("},\"%s\":{%.0zu", "1.2", 0);
    BEGIN("RKLLMInput", struct input_1_2); ROLE_FIELDS(struct input_1_2); CONTENT_FIELDS(struct input_1_2);
    IMAGE_FIELDS(struct input_1_2);
    COMMA; infer(); COMMA; cross_attn();
    put("},\"%s\":{%.0zu", "1.3", 0);
    input_1_3(); COMMA;
    BEGIN("RKLLMInferParam", struct infer_1_3); INFER_FIELDS(struct infer_1_3);
    FIELD(struct infer_1_3, sampling_params);
    FIELD(struct infer_1_3, keep_history); END(struct infer_1_3, max_new_tokens); COMMA;
    cross_attn();
    put("},\"%s\":{%.0zu", "rknn", 0);
    BEGIN("rknn_input", struct rknn_in);
    FIELD(struct rknn_in, index); FIELD(struct rknn_in, buf); FIELD(struct rknn_in, size);
    FIELD(struct rknn_in, pass_through);
    FIELD(struct rknn_in, type); END(struct rknn_in, fmt); COMMA;
    BEGIN("rknn_output", struct rknn_out);
    FIELD(struct rknn_out, want_float); FIELD(struct rknn_out, is_prealloc); FIELD(struct rknn_out, index);
    FIELD(struct rknn_out, buf); END(struct rknn_out, size);
    put("}%.0s}%.0zu", "", 0);
    return json;
}

/* ---- calls ---- */

/** FNV-1a over 32-bit words, the elements of all arrays, or over the bytes of a text. */
static uint32_t words(uint32_t hash, const void *from, size_t count) {
    const unsigned char *bytes = from;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, bytes + 4 * i, 4);
        hash = (hash ^ word) * 16777619u;
    }
    return hash;
}

static uint32_t text(const char *of) {
    uint32_t hash = 2166136261u;
    if (of == NULL) return 0;
    for (; *of != '\0'; of++) hash = (hash ^ (unsigned char)*of) * 16777619u;
    return hash;
}

#define START 2166136261u

enum {
    TYPE, COUNT, DATA, PROMPT_TEXT, ROLE, THINKING, IMAGES, WIDTH, HEIGHT, IMAGE_START, IMAGE_END, IMAGE_CONTENT, VIDEO,
    FOUND
};

/** Reads an RKLLMInput of the version (110, 120, 121, 130) into `found`; `hidden` floats are one embedding. */
int read_input(int version, const void *input, uint32_t hidden, uint32_t *found) {
    memset(found, 0, FOUND * sizeof *found);
    const struct embed *embed = NULL;
    const struct token *token = NULL;
    const char *prompt = NULL, *multimodal_prompt = NULL;
    const float *image = NULL;
    size_t n_image = 1, n_image_tokens = 0;
    if (version == 110) {
        const struct input_1_1 *in = input;
        found[TYPE] = in->input_type;
        prompt = in->prompt_input, embed = &in->embed_input, token = &in->token_input;
        multimodal_prompt = in->multimodal_input.prompt, image = in->multimodal_input.image_embed;
        n_image_tokens = in->multimodal_input.n_image_tokens;
    } else if (version == 120 || version == 121) {
        const struct images *of;
        if (version == 120) {
            const struct input_1_2_0 *in = input;
            found[TYPE] = in->input_type;
            prompt = in->prompt_input, embed = &in->embed_input, token = &in->token_input, of = &in->multimodal_input;
        } else {
            const struct input_1_2 *in = input;
            found[TYPE] = in->input_type, found[ROLE] = text(in->role), found[THINKING] = in->enable_thinking;
            prompt = in->prompt_input, embed = &in->embed_input, token = &in->token_input, of = &in->multimodal_input;
        }
        multimodal_prompt = of->prompt, image = of->image_embed;
        n_image_tokens = of->n_image_tokens, n_image = of->n_image;
        if (found[TYPE] == MULTIMODAL) {
            found[WIDTH] = (uint32_t)of->image_width;
            found[HEIGHT] = (uint32_t)of->image_height;
        }
    } else if (version == 130) {
        const struct input_1_3 *in = input;
        found[TYPE] = in->input_type, found[ROLE] = text(in->role), found[THINKING] = in->enable_thinking;
        prompt = in->prompt_input, embed = &in->embed_input, token = &in->token_input;
        multimodal_prompt = in->multimodal_input.prompt, image = in->multimodal_input.image.image_embed;
        n_image_tokens = in->multimodal_input.image.n_image_tokens, n_image = in->multimodal_input.image.n_image;
        if (found[TYPE] == MULTIMODAL) {
            found[WIDTH] = (uint32_t)in->multimodal_input.image.image_width;
            found[HEIGHT] = (uint32_t)in->multimodal_input.image.image_height;
            found[IMAGE_START] = text(in->multimodal_input.image.image_start);
            found[IMAGE_END] = text(in->multimodal_input.image.image_end);
            found[IMAGE_CONTENT] = text(in->multimodal_input.image.image_content);
            found[VIDEO] = in->multimodal_input.video.video_embed != NULL || in->multimodal_input.video.n_video != 0;
        }
    } else {
        return -1;
    }
    switch (found[TYPE]) {
        case PROMPT:
            found[PROMPT_TEXT] = text(prompt);
            return 0;
        case TOKEN:
            found[COUNT] = (uint32_t)token->n_tokens;
            found[DATA] = words(START, token->input_ids, token->n_tokens);
            return 0;
        case EMBED:
            found[COUNT] = (uint32_t)embed->n_tokens;
            found[DATA] = words(START, embed->embed, embed->n_tokens * hidden);
            return 0;
        case MULTIMODAL:
            found[IMAGES] = (uint32_t)n_image;
            found[COUNT] = (uint32_t)n_image_tokens;
            found[DATA] = words(START, image, n_image * n_image_tokens * hidden);
            found[PROMPT_TEXT] = text(multimodal_prompt);
            return 0;
        default:
            return -2;
    }
}

/** Returns mode, history and tokens of an RKLLMInferParam as one number, or -1 if a pointer is not null. */
int64_t read_infer(int version, const void *param) {
    if (version == 130) {
        const struct infer_1_3 *p = param;
        if (p->lora_params || p->prompt_cache_params || p->sampling_params) return -1;
        return p->mode + 10 * p->keep_history + 100LL * p->max_new_tokens;
    }
    if (version == 110) {
        const struct infer_1_1 *p = param;
        return p->lora_params || p->prompt_cache_params ? -1 : p->mode;
    }
    const struct infer *p = param;
    return p->lora_params || p->prompt_cache_params ? -1 : p->mode + 10 * p->keep_history;
}

#define HASH_SAMPLING(p) words(START, &(p)->top_p, 8)
#define HASH_EXTENDED(e) \
    ((uint32_t)(e).base_domain_id + 16u * (uint32_t)(e).embed_flash + 32u * (uint32_t)(e).enabled_cpus_num \
     + (e).enabled_cpus_mask * 1024u + (uint32_t)(e).n_batch * 3u + (uint32_t)(e).use_cross_attn * 5u)

/** Plays rkllm_init: `found` gets path, context, new tokens, top_k, keep, sampling, switches, marker and extension. */
void read_param(int version, const void *param, uint32_t *found) {
#define COMMON(p) \
    found[0] = text((p)->model_path), found[1] = (uint32_t)(p)->max_context_len, \
    found[2] = (uint32_t)(p)->max_new_tokens, found[3] = (uint32_t)(p)->top_k, found[5] = HASH_SAMPLING(p), \
    found[6] = (p)->skip_special_token + 2u * (p)->is_async
    memset(found, 0, 9 * sizeof *found);
    if (version == 110) {
        const struct param_1_1 *p = param;
        COMMON(p), found[7] = text(p->img_end), found[8] = (uint32_t)p->extend_param.base_domain_id;
    } else if (version == 130) {
        const struct param_1_3 *p = param;
        COMMON(p), found[4] = (uint32_t)p->n_keep, found[6] += 4u * p->ignore_eos_token;
        found[8] = HASH_EXTENDED(p->extend_param);
    } else {
        const struct param_1_2 *p = param;
        COMMON(p), found[4] = (uint32_t)p->n_keep, found[7] = text(p->img_end);
        found[8] = HASH_EXTENDED(p->extend_param);
    }
}

/** Plays rkllm_load_lora and a run with it: `found` gets path, name, scale, the run's name, cache and sampling. */
void read_lora(int version, const struct lora_adapter *adapter, const void *param, uint32_t *found) {
    const struct infer_1_1 *infer = param; /* its fields come first in all versions */
    const struct lora *lora = infer->lora_params;
    const struct prompt_cache *cache = infer->prompt_cache_params;
    found[0] = text(adapter->lora_adapter_path), found[1] = text(adapter->lora_adapter_name);
    found[2] = words(START, &adapter->scale, 1), found[3] = text(lora->lora_adapter_name);
    found[4] = text(cache->prompt_cache_path) + (uint32_t)cache->save_prompt_cache;
    const struct sampling *sampling = version == 130 ? ((const struct infer_1_3 *)param)->sampling_params : NULL;
    found[5] = sampling == NULL ? 0 : HASH_SAMPLING(sampling) + (uint32_t)sampling->top_k;
}

/** Hashes both caches in the same order; each has a layout of its own. */
uint32_t read_cross_attn(const struct cross_attn *p, int layers, int heads, int dim, int *tokens) {
    uint32_t hash = START;
    *tokens = p->num_tokens;
    for (int l = 0; l < layers; l++)
        for (int t = 0; t < p->num_tokens; t++)
            for (int h = 0; h < heads; h++)
                for (int d = 0; d < dim; d++) {
                    hash = words(hash, &p->encoder_k_cache[((l * p->num_tokens + t) * heads + h) * dim + d], 1);
                    hash = words(hash, &p->encoder_v_cache[((l * heads + h) * dim + d) * p->num_tokens + t], 1);
                }
    hash = words(hash, p->encoder_mask, (size_t)p->num_tokens);
    return words(hash, p->encoder_pos, (size_t)p->num_tokens);
}

/** Plays a callback that copies logits or hidden states out of the runtime. Here the values are made up. */
void write_floats(float *to, uint64_t count, uint32_t seed) {
    for (uint64_t i = 0; i < count; i++) to[i] = (float)(((uint32_t)i * 2654435761u + seed) >> 8);
}

/** Plays rknn_inputs_set, rknn_run and rknn_outputs_get: every output byte depends on the inputs and its offset. */
uint32_t run_rknn(const struct rknn_in *in, uint32_t n_in, const struct rknn_out *out, uint32_t n_out) {
    uint32_t hash = START;
    for (uint32_t i = 0; i < n_in; i++) {
        if (in[i].index != i) return 0;
        const unsigned char *bytes = in[i].buf;
        for (uint32_t at = 0; at < in[i].size; at++) hash = (hash ^ bytes[at]) * 16777619u;
        hash = (hash ^ (uint32_t)in[i].type) * 16777619u;
        hash = (hash ^ (uint32_t)in[i].fmt) * 16777619u;
        hash = (hash ^ in[i].pass_through) * 16777619u;
    }
    for (uint32_t i = 0; i < n_out; i++) {
        if (out[i].index != i || out[i].is_prealloc != 1) return 0;
        unsigned char *bytes = out[i].buf;
        for (uint32_t at = 0; at < out[i].size; at++) {
            bytes[at] = (unsigned char)(hash + at * 31 + i + out[i].want_float);
        }
    }
    return hash;
}
