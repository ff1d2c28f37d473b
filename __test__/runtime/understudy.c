/* librkllmrt.so for tests: the functions of rkllm.h on a model that only states its sizes. See README.md. */
#define _GNU_SOURCE
#include "engine.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_CONTEXT (1 << 20)

/* The version stands in the library as the vendor's does, so that runtimeVersion() reads it. */
static const char banner[] = "rkllm-runtime version: " RKLLM_VERSION;
static int inits;

API param rkllm_createDefaultParam(void) {
  param made;
  memset(&made, 0, sizeof made);
  made.max_context_len = 512;
  made.max_new_tokens = 128;
  made.top_k = 1;
  made.top_p = 0.9f;
  made.temperature = 0.8f;
  made.repeat_penalty = 1.1f;
  made.mirostat_tau = 5;
  made.mirostat_eta = 0.1f;
  made.skip_special_token = true;
#if SINCE(121)
  made.extend.n_batch = 1;
#endif
  return made;
}

static void free_engine(struct engine *engine) {
  give_back(&engine->weights);
  give_back(&engine->kv);
  give_back(&engine->scratch);
  give_back(&engine->kept_output);
  while (engine->adapters != NULL) {
    struct lora *lora = engine->adapters;
    engine->adapters = lora->next;
    give_back(&lora->memory);
    free(lora);
  }
  free(engine->request.tokens);
  free(engine->request.cache_path);
  pthread_mutex_destroy(&engine->lock);
  pthread_cond_destroy(&engine->changed);
  free(engine);
}

static int load(struct engine *engine) {
  const struct model *model = &engine->model;
  const int32_t domain = engine->domain;
  usleep((useconds_t)setting("UNDERSTUDY_LOAD_MS", 0) * 1000);
  int copies = setting("UNDERSTUDY_WEIGHTS_TWICE", 0) ? 2 : 1;
  for (int copy = 0; copy < copies; copy++)
    if (take(&engine->weights, model->weights, domain) != 0) return -1;
  if (take(&engine->kv, model->kv_per_token * (uint64_t)engine->context, domain) != 0) return -1;
  return take(&engine->scratch, model->scratch, domain);
}

#if SINCE(130)
API int rkllm_init(void **handle, param *param, const callbacks *to) {
  if (handle == NULL || param == NULL || to == NULL || to->on_result == NULL) return -1;
#else
API int rkllm_init(void **handle, param *param, result_callback to) {
  if (handle == NULL || param == NULL || to == NULL) return -1;
#endif
  say("%s, header %d, NPU %s", banner, RKLLM_HEADER, find_npu() ? "found" : "absent: private memory");
  if (__atomic_add_fetch(&inits, 1, __ATOMIC_SEQ_CST) == 2 && setting("UNDERSTUDY_CRASH_SECOND_INIT", 0))
    *(volatile int *)NULL = 0;
  if (param->max_context_len < 1 || param->max_context_len > MAX_CONTEXT || param->max_new_tokens < 1) {
    say("max_context_len %d, max_new_tokens %d: is the struct of another version?", param->max_context_len,
        param->max_new_tokens);
    return -1;
  }
  struct engine *engine = calloc(1, sizeof *engine);
  if (engine == NULL) return -1;
  pthread_mutex_init(&engine->lock, NULL);
  pthread_cond_init(&engine->changed, NULL);
  engine->context = param->max_context_len;
  engine->max_new_tokens = param->max_new_tokens;
  engine->batch = 1;
  engine->domain = param->extend.base_domain_id;
#if SINCE(121)
  if (param->extend.n_batch > 1) engine->batch = param->extend.n_batch;
#endif
#if SINCE(130)
  engine->ignore_eos = param->ignore_eos_token;
  engine->callbacks = *to;
#else
  engine->callbacks.on_result = to;
#endif
  int failed = read_model(param->model_path, &engine->model) != 0;
  if (!failed && load(engine) != 0) {
    failed = !setting("UNDERSTUDY_FAIL_LATER", 0);
    engine->fails_later = 1;
  }
  if (failed) {
    free_engine(engine);
    return -1;
  }
  *handle = engine;
  return 0;
}

/* Waits for the thread of the last run. Returns -1 on that thread itself. */
static int join(struct engine *engine) {
  if (!engine->has_thread) return 0;
  if (pthread_equal(engine->thread, pthread_self())) return -1;
  pthread_join(engine->thread, NULL);
  engine->has_thread = 0;
  return 0;
}

API int rkllm_abort(void *handle) {
  struct engine *engine = handle;
  if (engine == NULL) return -1;
  pthread_mutex_lock(&engine->lock);
  int running = engine->running;
  engine->abort = running;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
  return running ? 0 : -1;
}

/* 0 while a run is under way, else 1. */
API int rkllm_is_running(void *handle) {
  struct engine *engine = handle;
  if (engine == NULL) return -1;
  pthread_mutex_lock(&engine->lock);
  int running = engine->running;
  pthread_mutex_unlock(&engine->lock);
  return running ? 0 : 1;
}

API int rkllm_destroy(void *handle) {
  struct engine *engine = handle;
  if (engine == NULL) return -1;
  rkllm_abort(engine);
  pthread_mutex_lock(&engine->lock);
  /* A run's own callback cannot wait for the run's end. */
  int inside = engine->running && engine->has_runner && pthread_equal(engine->runner, pthread_self());
  while (!inside && engine->running) pthread_cond_wait(&engine->changed, &engine->lock);
  pthread_mutex_unlock(&engine->lock);
  if (inside || join(engine) != 0) return -1;
  if (setting("UNDERSTUDY_KEEP_AFTER_DESTROY", 0)) engine->weights = NULL;
  free_engine(engine);
  return 0;
}

static struct lora *find_lora(struct engine *engine, const char *name) {
  struct lora *lora = engine->adapters;
  while (lora != NULL && strcmp(lora->name, name) != 0) lora = lora->next;
  return lora;
}

/* Takes memory of the adapter file's size. */
API int rkllm_load_lora(void *handle, const lora_adapter *adapter) {
  struct engine *engine = handle;
  if (engine == NULL || adapter == NULL || adapter->path == NULL || adapter->name == NULL) return -1;
  FILE *file = fopen(adapter->path, "re");
  long bytes = -1;
  if (file != NULL && fseek(file, 0, SEEK_END) == 0) bytes = ftell(file);
  if (file != NULL) fclose(file);
  size_t length = strlen(adapter->name) + 1;
  struct lora *lora = bytes < 0 || find_lora(engine, adapter->name) ? NULL : calloc(1, sizeof *lora + length);
  if (lora == NULL) return -1;
  memcpy(lora->name, adapter->name, length);
  lora->scale = adapter->scale;
  if (take(&lora->memory, (uint64_t)bytes, engine->domain) != 0) {
    give_back(&lora->memory);
    free(lora);
    return -1;
  }
  lora->next = engine->adapters;
  engine->adapters = lora;
  return 0;
}

/* The tokens of a text: its bytes, or those of the tokenizer callback. Returns their count, or -1. */
static int32_t tokenize(struct engine *engine, const char *text, int32_t *tokens, int32_t room) {
  if (text == NULL) return -1;
  int32_t length = (int32_t)strlen(text);
  if (engine->callbacks.tokenize != NULL) {
    int32_t count = engine->callbacks.tokenize(engine->callbacks.tokenizer_userdata, text, length, tokens, room);
    return count > room ? -1 : count;
  }
  if (length > room) length = room;
  for (int32_t at = 0; at < length; at++) tokens[at] = (uint8_t)text[at];
  return length;
}

static int32_t rows_as_tokens(const float *rows, size_t count, uint64_t width, int32_t *tokens, int32_t room) {
  if (rows == NULL || count > (size_t)room) return -1;
  for (size_t row = 0; row < count; row++) tokens[row] = (int32_t)(hash(1, rows + row * width, 4 * width) % 256);
  return (int32_t)count;
}

/* Reads the input before the run begins: an asynchronous run outlives the caller's structs. */
static int32_t read_input(struct engine *engine, const input *input, int32_t *tokens, int32_t room) {
  const uint64_t hidden = engine->model.hidden;
  if (input->type == INPUT_PROMPT) return tokenize(engine, input->prompt, tokens, room);
  if (input->type == INPUT_EMBED) return rows_as_tokens(input->embed.data, input->embed.count, hidden, tokens, room);
  if (input->type == INPUT_TOKENS) {
    if (input->tokens.ids == NULL || input->tokens.count > (size_t)room) return -1;
    memcpy(tokens, input->tokens.ids, sizeof *tokens * input->tokens.count);
    return (int32_t)input->tokens.count;
  }
  if (input->type != INPUT_MULTIMODAL) return -1;
  int32_t count = tokenize(engine, input->multimodal.prompt, tokens, room);
  size_t images = 1;
#if SINCE(120)
  if (input->multimodal.images > 1) images = input->multimodal.images;
#endif
  if (count < 0 || input->multimodal.image_tokens > (size_t)(room - count)) return -1;
  const size_t rows = images > (size_t)room ? (size_t)room + 1 : images * input->multimodal.image_tokens;
  int32_t more = rows_as_tokens(input->multimodal.image, rows, hidden, tokens + count, room - count);
  return more < 0 ? -1 : count + more;
}

static int read_request(struct engine *engine, const input *input, const infer_param *infer, void *userdata) {
  struct request *request = &engine->request;
  free(request->tokens);
  free(request->cache_path);
  *request = (struct request){ .mode = infer->mode, .max_new_tokens = engine->max_new_tokens, .userdata = userdata };
  if (infer->mode < GENERATE || infer->mode > (SINCE(120) ? LOGITS : HIDDEN_STATES)) return -1;
#if SINCE(120)
  request->keep_history = infer->keep_history;
#endif
#if SINCE(130)
  if (infer->max_new_tokens > 0) request->max_new_tokens = infer->max_new_tokens;
  if (userdata == NULL) request->userdata = engine->callbacks.result_userdata;
#endif
  /* One more than fits, so that a run can tell a prompt that is too long. */
  int32_t room = engine->context + 1;
  request->tokens = malloc(sizeof *request->tokens * (size_t)room);
  if (request->tokens == NULL) return -1;
  request->count = read_input(engine, input, request->tokens, room);
  if (request->count < 0) return -1;
  request->seed = hash(2166136261u, request->tokens, sizeof *request->tokens * (size_t)request->count);
  if (infer->lora != NULL && infer->lora->name != NULL) {
    struct lora *lora = find_lora(engine, infer->lora->name);
    if (lora == NULL) return -1;
    request->seed = hash(hash(request->seed, lora->name, strlen(lora->name)), &lora->scale, sizeof lora->scale);
  }
  if (infer->prompt_cache != NULL && infer->prompt_cache->path != NULL) {
    request->save_cache = infer->prompt_cache->save;
    request->cache_path = strdup(infer->prompt_cache->path);
    if (request->cache_path == NULL) return -1;
  }
  return 0;
}

static void set_runner(struct engine *engine, int has_runner) {
  pthread_mutex_lock(&engine->lock);
  engine->runner = pthread_self();
  engine->has_runner = has_runner;
  pthread_mutex_unlock(&engine->lock);
}

static int begin(struct engine *engine, const input *input, const infer_param *infer, void *userdata) {
  if (engine == NULL || input == NULL || infer == NULL) return -1;
  pthread_mutex_lock(&engine->lock);
  int busy = engine->running;
  if (!busy) {
    engine->running = 1;
    engine->abort = 0;
  }
  pthread_mutex_unlock(&engine->lock);
  if (busy) return -1;
  set_runner(engine, 1);
  return join(engine) != 0 || read_request(engine, input, infer, userdata) != 0 ? -2 : 0;
}

/* The last use of the engine by a run: `rkllm_destroy` waits for it. */
static int end(struct engine *engine, int answered) {
  pthread_mutex_lock(&engine->lock);
  engine->running = engine->has_runner = 0;
  pthread_cond_broadcast(&engine->changed);
  pthread_mutex_unlock(&engine->lock);
  return answered;
}

API int rkllm_run(void *handle, const input *input, const infer_param *infer, void *userdata) {
  int begun = begin(handle, input, infer, userdata);
  if (begun == -2) return end(handle, -1);
  return begun != 0 ? -1 : end(handle, answer(handle));
}

static void *on_thread(void *handle) {
  set_runner(handle, 1);
  end(handle, answer(handle));
  return NULL;
}

API int rkllm_run_async(void *handle, const input *input, const infer_param *infer, void *userdata) {
  struct engine *engine = handle;
  int begun = begin(engine, input, infer, userdata);
  if (begun == -2) return end(engine, -1);
  if (begun != 0) return -1;
  engine->has_thread = 1;
  set_runner(engine, 0);
  if (pthread_create(&engine->thread, NULL, on_thread, engine) == 0) return 0;
  engine->has_thread = 0;
  return end(engine, -1);
}

static int is_busy(const struct engine *engine) { return engine == NULL || rkllm_is_running((void *)engine) == 0; }

API int rkllm_load_prompt_cache(void *handle, const char *path) {
  struct engine *engine = handle;
  if (is_busy(engine) || path == NULL) return -1;
  FILE *file = fopen(path, "re");
  int positions = -1;
  if (file == NULL || fscanf(file, "RKLLM understudy prompt cache\n%d", &positions) != 1) positions = -1;
  if (file != NULL) fclose(file);
  if (positions < 0 || positions > engine->context - engine->system) return -1;
  engine->cached = positions;
  engine->positions = engine->system + positions;
  return 0;
}

API int rkllm_release_prompt_cache(void *handle) {
  struct engine *engine = handle;
  if (is_busy(engine)) return -1;
  engine->cached = 0;
  engine->positions = engine->system;
  return 0;
}

#if SINCE(121)
/* Ranges only while the run is paused and keeps no history. */
API int rkllm_clear_kv_cache(void *handle, int keep_system_prompt, const int *start, const int *stop) {
  struct engine *engine = handle;
  if (is_busy(engine)) return -1;
  if (start != NULL || stop != NULL) {
    if (start == NULL || stop == NULL || !engine->paused || engine->request.keep_history) return -1;
    if (*start < 0 || *stop < *start || *stop > engine->positions) return -1;
    engine->positions -= *stop - *start;
    return 0;
  }
#elif SINCE(120)
API int rkllm_clear_kv_cache(void *handle, int keep_system_prompt) {
  struct engine *engine = handle;
  if (is_busy(engine)) return -1;
#endif
#if SINCE(120)
  engine->paused = 0;
  engine->positions = keep_system_prompt ? engine->system : 0;
  return 0;
}

/* The system prompt's tokens keep their positions in each run. */
API int rkllm_set_chat_template(void *handle, const char *system, const char *prefix, const char *postfix) {
  struct engine *engine = handle;
  if (is_busy(engine) || system == NULL || prefix == NULL || postfix == NULL) return -1;
  size_t length = strlen(system);
  if (length >= (size_t)engine->context) return -1;
  engine->system = (int32_t)length;
  engine->positions = engine->system;
  return 0;
}
#endif

#if SINCE(121)
API int rkllm_get_kv_cache_size(void *handle, int *sizes) {
  struct engine *engine = handle;
  if (engine == NULL || sizes == NULL) return -1;
  for (int member = 0; member < engine->batch; member++) sizes[member] = engine->positions;
  return 0;
}

API int rkllm_set_function_tools(void *handle, const char *system, const char *tools, const char *tag) {
  return is_busy(handle) || system == NULL || tools == NULL || tag == NULL ? -1 : 0;
}

API int rkllm_set_cross_attn_params(void *handle, const cross_attn_param *cross) {
  return is_busy(handle) || cross == NULL || cross->k == NULL || cross->v == NULL || cross->count < 1 ? -1 : 0;
}
#endif
