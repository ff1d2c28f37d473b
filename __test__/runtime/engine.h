/* One loaded model of the understudy, and its runs. */
#ifndef UNDERSTUDY_ENGINE_H
#define UNDERSTUDY_ENGINE_H
#include "memory.h"
#include "rkllm-structs.h"
#include <pthread.h>
#include <time.h>

struct lora { struct lora *next; struct buffer *memory; float scale; char name[]; };

struct model { uint64_t weights, kv_per_token, scratch, hidden, vocab; };

struct request {
  int32_t *tokens;
  int32_t count, mode, max_new_tokens, keep_history, save_cache;
  uint32_t seed;
  char *cache_path;
  void *userdata;
  struct timespec began;
};

struct engine {
  struct model model;
  struct buffer *weights, *kv, *scratch;
  struct lora *adapters;
  callbacks callbacks;
  int32_t context, max_new_tokens, batch, ignore_eos, domain;
  pthread_mutex_t lock;
  pthread_cond_t changed;
  pthread_t thread;
  /* The thread that works on the run, in a callback too. */
  pthread_t runner;
  int has_runner;
  /* owes_half: the last token was the first byte of a character. */
  int has_thread, running, abort, paused, owes_half, fails_later;
  /* Positions of the KV memory in use, and those of the system prompt and of a loaded prompt cache. */
  int32_t positions, system, cached;
  uint32_t state;
  struct buffer *kept_output;
  struct request request;
};

/* Reads a model's sizes from its file. Returns 0, or -1 after a line in the log. */
int read_model(const char *path, struct model *model);
/* Does engine->request on the calling thread. Returns 0, or -1 after an ERROR to the callback. */
int answer(struct engine *engine);
uint32_t hash(uint32_t from, const void *bytes, size_t count);
#endif
