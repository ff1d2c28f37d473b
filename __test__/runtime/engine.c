#define _GNU_SOURCE
#include "engine.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LINE "RKLLM understudy model\n"

uint32_t hash(uint32_t from, const void *bytes, size_t count) {
  const uint8_t *at = bytes;
  for (size_t done = 0; done < count; done++) from = (from ^ at[done]) * 16777619u;
  return from;
}

int read_model(const char *path, struct model *model) {
  *model = (struct model){ .hidden = 64, .vocab = 256 };
  FILE *file = path == NULL ? NULL : fopen(path, "re");
  char line[128];
  if (file == NULL || fgets(line, sizeof line, file) == NULL || strcmp(line, FIRST_LINE) != 0) {
    say("%s is no model of the understudy: it begins with the line \"RKLLM understudy model\"", path ? path : "(null)");
    if (file != NULL) fclose(file);
    return -1;
  }
  const struct { const char *name; uint64_t *value; } fields[] = {
    { "weights", &model->weights }, { "kv_per_token", &model->kv_per_token }, { "scratch", &model->scratch },
    { "hidden", &model->hidden },   { "vocab", &model->vocab },
  };
  int wrong = 0;
  while (!wrong && fgets(line, sizeof line, file) != NULL) {
    char name[32];
    unsigned long long value;
    wrong = sscanf(line, "%31[a-z_] = %llu", name, &value) != 2;
    size_t field = 0, count = sizeof fields / sizeof *fields;
    while (!wrong && field < count && strcmp(fields[field].name, name) != 0) field++;
    wrong = wrong || field == count;
    if (!wrong) *fields[field].value = value;
  }
  fclose(file);
  wrong = wrong || model->hidden < 1 || model->hidden > 1 << 20 || model->vocab < 1 || model->vocab > 1 << 20;
  if (wrong) say("a line of the model is wrong: %s", line);
  return wrong ? -1 : 0;
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

static int is_aborted(struct engine *engine) {
  pthread_mutex_lock(&engine->lock);
  int aborted = engine->abort;
  pthread_mutex_unlock(&engine->lock);
  return aborted;
}

/* Waits while the file of UNDERSTUDY_HOLD exists, or for an abort. */
static void hold(struct engine *engine) {
  const char *file = getenv("UNDERSTUDY_HOLD");
  while (file != NULL && access(file, F_OK) == 0 && !is_aborted(engine)) usleep(1000);
}

/* Waits for the time of a token since the run's begin, or for an abort. Returns whether the run goes on. */
static int pace(struct engine *engine, int32_t token) {
  const uint64_t hang = setting("UNDERSTUDY_HANG_AT", UINT64_MAX);
  const uint64_t rate = setting("UNDERSTUDY_TOKENS_PER_SECOND", 0);
  const uint64_t ms = setting("UNDERSTUDY_MS_PER_TOKEN", 0);
  const uint64_t ns = ms != 0 ? ms * 1000000 : rate == 0 ? 0 : 1000000000 / rate;
  struct timespec until = engine->request.began;
  uint64_t at = (uint64_t)until.tv_nsec + ns * ((uint64_t)token + 1);
  until.tv_sec += (time_t)(at / 1000000000);
  until.tv_nsec = (long)(at % 1000000000);
  hold(engine);
  pthread_mutex_lock(&engine->lock);
  /* A submit that hangs never comes back, abort or not. */
  while ((uint64_t)token == hang) pthread_cond_wait(&engine->changed, &engine->lock);
  while (ns > 0 && !engine->abort && pthread_cond_timedwait(&engine->changed, &engine->lock, &until) == 0) continue;
  int goes_on = !engine->abort;
  pthread_mutex_unlock(&engine->lock);
  return goes_on;
}

/* Calls the result callback: 0 go on, 1 pause, 2 the output's buffer is free. */
static int tell(struct engine *engine, result *result, int state) {
#if SINCE(121)
  return engine->callbacks.on_result(result, engine->request.userdata, state);
#else
  engine->callbacks.on_result(result, engine->request.userdata, state);
  return 0;
#endif
}

static int fail(struct engine *engine, const char *why) {
  say("run failed: %s", why);
  result last = { .text = "", .token_id = -1 };
  tell(engine, &last, ERROR);
  return -1;
}

#if SINCE(121)
/* The peak of the process, as the runtime reports it. */
static float peak_mb(void) {
  FILE *file = fopen("/proc/self/status", "re");
  char line[128];
  unsigned long kib = 0;
  while (file != NULL && fgets(line, sizeof line, file) != NULL && sscanf(line, "VmHWM: %lu", &kib) != 1) continue;
  if (file != NULL) fclose(file);
  return (float)kib / 1024;
}
#endif

static void finish(struct engine *engine, double began, double prefilled, int32_t made) {
  result last = { .text = "", .token_id = -1 };
#if SINCE(121)
  last.perf = (perf_stat){ .prefill_time_ms = (float)(prefilled - began),
                           .prefill_tokens = engine->request.count,
                           .generate_time_ms = (float)(now_ms() - prefilled),
                           .generate_tokens = made,
                           .memory_usage_mb = peak_mb() };
#else
  (void)began, (void)prefilled, (void)made;
#endif
  tell(engine, &last, FINISH);
}

/* Hands out one row a token of the prompt: value (row, column) is a number of the token and of both. */
static int hand_out_rows(struct engine *engine, int32_t width) {
  const struct request *request = &engine->request;
  struct buffer *output = NULL;
  uint64_t bytes = sizeof(float) * (uint64_t)width * (uint64_t)request->count;
  float *values = NULL;
  /* Rows are contiguous for the callback, though `take` works in chunks. */
  if (take(&output, bytes == 0 ? 1 : bytes, engine->domain) == 0)
    values = output->next == NULL ? output->map : malloc(bytes);
  if (values == NULL) {
    give_back(&output);
    return fail(engine, "no memory for the output");
  }
  for (int32_t row = 0; row < request->count; row++)
    for (int32_t column = 0; column < width; column++)
      values[(size_t)row * (size_t)width + (size_t)column] =
        (float)(request->tokens[row] + 1000 * row) + (float)column / 8192;
  result made = { .text = NULL, .token_id = -1 };
  rows handed = { values, width, request->count };
  if (request->mode == HIDDEN_STATES) made.hidden = handed;
#if SINCE(120)
  else made.logits = handed;
#endif
  /* 1.1 has a state of their own for hidden states. */
  int said = tell(engine, &made, SINCE(120) ? NORMAL : LAST_HIDDEN_LAYER);
  if (output->next != NULL) free(values);
  if (said == 2 || !setting("UNDERSTUDY_KEEP_OUTPUT", 0)) {
    give_back(&output);
    return 0;
  }
  struct buffer *end = output;
  while (end->next != NULL) end = end->next;
  end->next = engine->kept_output;
  engine->kept_output = output;
  return 0;
}

/* Writes the positions after those of the system prompt: a load adds them to that prompt again. */
static int save_cache(const struct engine *engine) {
  FILE *file = fopen(engine->request.cache_path, "we");
  if (file == NULL) return -1;
  fprintf(file, "RKLLM understudy prompt cache\n%d\n", (int)(engine->positions - engine->system));
  return fclose(file);
}

/* Asks the embedding callback for the rows of `count` tokens, and mixes them into `mixed`. */
static int look_up_embeddings(struct engine *engine, const int32_t *tokens, int32_t count, uint32_t *mixed) {
  if (engine->callbacks.embed == NULL || count == 0) return 0;
  uint64_t bytes = sizeof(float) * engine->model.hidden * (uint64_t)count;
  void *rows = malloc(bytes);
  if (rows == NULL) return -1;
  int failed = engine->callbacks.embed(engine->callbacks.embed_userdata, tokens, (uint64_t)count, rows, bytes);
  if (!failed) *mixed = hash(*mixed, rows, bytes);
  free(rows);
  return failed ? -1 : 0;
}

int answer(struct engine *engine) {
  struct request *request = &engine->request;
  if (engine->fails_later) return fail(engine, "errno 14 (init returned 0)");
  int goes_on_from_pause = engine->paused;
  if (!request->keep_history && !goes_on_from_pause) engine->positions = engine->system + engine->cached;
  engine->paused = 0;
  double began = now_ms();
  if (request->count > engine->context - engine->positions) return fail(engine, "the prompt exceeds the context");
  if (look_up_embeddings(engine, request->tokens, request->count, &request->seed) != 0)
    return fail(engine, "the embedding callback failed for the prompt");
  engine->positions += request->count;
  if (request->cache_path != NULL && request->save_cache && save_cache(engine) != 0)
    return fail(engine, "the prompt cache cannot be written");
  double prefilled = now_ms();
  clock_gettime(CLOCK_REALTIME, &request->began);
  if (request->mode != GENERATE) {
    int32_t width = (int32_t)(request->mode == LOGITS ? engine->model.vocab : engine->model.hidden);
    if (!pace(engine, 0)) return finish(engine, began, prefilled, 0), 0;
    if (hand_out_rows(engine, width) != 0) return -1;
    finish(engine, began, prefilled, 0);
    return 0;
  }
  if (!goes_on_from_pause) {
    engine->state = request->seed;
    engine->owes_half = 0;
  }
  int32_t length = request->max_new_tokens, made = 0;
  int32_t natural = 8 + (int32_t)(request->seed % 57);
  if (!engine->ignore_eos && natural < length) length = natural;
  static const char letters[] = "etaoin shrdlu cmfwyp";
  while (made < length && engine->positions < engine->context && pace(engine, made)) {
    const int rest = engine->owes_half;
    if (!rest) engine->state = engine->state * 1664525u + 1013904223u;
    uint32_t chosen = engine->state >> 16;
    /* One token in sixteen is half a character: its first byte, then the rest of it, also after a pause. */
    int split = !rest && chosen % 16 == 0 && made + 1 < length && engine->positions + 1 < engine->context;
    char text[2] = { rest ? (char)0xA9 : split ? (char)0xC3 : letters[chosen % (sizeof letters - 1)], 0 };
    result token = { .text = text, .token_id = (uint8_t)text[0] };
    engine->positions++;
    made++;
    engine->owes_half = split;
    if (tell(engine, &token, split ? WAITING : NORMAL) == 1) {
      engine->paused = 1;
      return 0;
    }
    /* The next step needs the row of this token. */
    if (look_up_embeddings(engine, &token.token_id, 1, &engine->state) != 0)
      return fail(engine, "the embedding callback failed for a token");
  }
  finish(engine, began, prefilled, made);
  return 0;
}
