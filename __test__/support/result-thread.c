/* Calls a result callback of rkllm.h as a runtime does: on a thread of its own, or on the caller's. For tests of the
 * native callbacks; no model, no memory of its own. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct rows { const float *data; int width, count; };
struct perf { float prefill_ms; int prefill_tokens; float generate_ms; int generate_tokens; float memory_mb; };
/* RKLLMResult of 1.2.1; those of 1.1 and 1.2.0 are its first 32 and 48 bytes. */
struct result { const char *text; int32_t token_id; struct rows hidden, logits; struct perf perf; };

typedef int (*callback)(struct result *, void *, int);
typedef void (*silent_callback)(struct result *, void *, int);

struct run {
  void *callback, *userdata;
  const char *text;
  int answers, first, tokens, end, hidden_count, hidden_width, logits_count, logits_width, end_rows;
};

static uint32_t answered[4], ended, begun, next_token;

static int call(const struct run *run, struct result *result, int state) {
  if (!run->answers) {
    ((silent_callback)run->callback)(result, run->userdata, state);
    return 0;
  }
  int answer = ((callback)run->callback)(result, run->userdata, state);
  __atomic_add_fetch(&answered[answer & 3], 1, __ATOMIC_SEQ_CST);
  return answer;
}

static float *floats(int count, int width, int seed) {
  if (count == 0) return NULL;
  float *made = malloc(sizeof(float) * count * width);
  for (int at = 0; at < count * width; at++) made[at] = (float)(seed + at);
  return made;
}

/* With a text: one result a byte of it, as state 1 (waiting) while a character is incomplete. */
static void *talk(void *argument) {
  struct run *run = argument;
  char letters[32];
  int count = run->text == NULL ? run->tokens : (int)strlen(run->text);
  for (int at = 0; at < count; at++) {
    struct result result = { letters, run->first + at, { 0 }, { 0 }, { 0 } };
    int state = 0;
    if (run->text != NULL) {
      letters[0] = run->text[at];
      letters[1] = 0;
      state = (run->text[at + 1] & 0xC0) == 0x80;
    } else {
      int length = 0, number = run->first + at;
      char digits[12];
      do digits[length++] = (char)('0' + number % 10); while ((number /= 10) > 0);
      for (int digit = 0; digit < length; digit++) letters[digit] = digits[length - 1 - digit];
      letters[length] = ' ';
      letters[length + 1] = 0;
    }
    result.hidden = (struct rows){ floats(run->hidden_count, run->hidden_width, at), run->hidden_width,
                                   run->hidden_count };
    result.logits = (struct rows){ floats(run->logits_count, run->logits_width, 1000 + at), run->logits_width,
                                   run->logits_count };
    int answer = call(run, &result, state);
    /* Freed at once: a callback must have copied them. */
    if (result.hidden.data != NULL) memset((void *)result.hidden.data, 0xAA, sizeof(float));
    if (result.logits.data != NULL) memset((void *)result.logits.data, 0xAA, sizeof(float));
    free((void *)result.hidden.data);
    free((void *)result.logits.data);
    if (answer == 1) {
      __atomic_store_n(&next_token, run->first + at + 1, __ATOMIC_SEQ_CST);
      goto out;
    }
  }
  if (run->end >= 0) {
    float *hidden = floats(run->end_rows ? run->hidden_count : 0, run->hidden_width, run->first);
    struct rows rows = { hidden, run->hidden_width, hidden == NULL ? 0 : run->hidden_count };
    struct result last = { "", -1, rows, { 0 }, { 1.5f, 7, 2.5f, count, 640.0f } };
    call(run, &last, run->end);
    free(hidden);
  }
out:
  free((void *)run->text);
  free(run);
  __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* A run of `tokens` results from number `first`, or of the bytes of `text`; the last call has state `end`, -1: none.
 * `end_rows`: the last call has rows of hidden states too. */
void start(void *callback, uint64_t userdata, int32_t answers, int32_t first, int32_t tokens, int32_t end,
           const char *text, int32_t hidden_count, int32_t hidden_width, int32_t logits_count, int32_t logits_width,
           int32_t end_rows, int32_t here) {
  struct run *run = malloc(sizeof *run);
  *run = (struct run){ callback, (void *)userdata, text == NULL ? NULL : strdup(text), answers, first, tokens, end,
                       hidden_count, hidden_width, logits_count, logits_width, end_rows };
  __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
  pthread_t thread;
  if (here || pthread_create(&thread, NULL, talk, run) != 0) talk(run);
  else pthread_detach(thread);
}

typedef int (*run_function)(void *, void *, void *, void *);
struct elsewhere { run_function run; void *takes[4]; };

static void *run_it(void *argument) {
  struct elsewhere *it = argument;
  it->run(it->takes[0], it->takes[1], it->takes[2], it->takes[3]);
  free(it);
  __atomic_add_fetch(&ended, 1, __ATOMIC_SEQ_CST);
  return NULL;
}

/* Calls rkllm_run of the library at `path` on a thread of its own. Returns 0, or -1 where there is none. */
int32_t run_elsewhere(const char *path, void *handle, void *input, void *infer, void *userdata) {
  void *library = dlopen(path, RTLD_NOW | RTLD_NODELETE);
  struct elsewhere *it = malloc(sizeof *it);
  *it = (struct elsewhere){ NULL, { handle, input, infer, userdata } };
  if (library != NULL) *(void **)&it->run = dlsym(library, "rkllm_run");
  pthread_t thread;
  if (it->run == NULL || pthread_create(&thread, NULL, run_it, it) != 0) {
    free(it);
    return -1;
  }
  pthread_detach(thread);
  __atomic_add_fetch(&begun, 1, __ATOMIC_SEQ_CST);
  return 0;
}

/* An LLMTokenizerCallback: a token a word, `userdata` and the word's length. Fails where `userdata` is 0. */
static int32_t tokenize(void *userdata, const char *text, int32_t length, int32_t *tokens, int32_t room) {
  int32_t count = 0, word = 0;
  if (userdata == NULL) return -1;
  for (int32_t at = 0; at <= length; at++) {
    if (at < length && text[at] != ' ') word++;
    else if (word > 0) {
      if (count == room) return -1;
      tokens[count++] = (int32_t)(intptr_t)userdata + word;
      word = 0;
    }
  }
  return count;
}

uint64_t tokenizer_address(void) { return (uint64_t)(uintptr_t)tokenize; }

/* How often callbacks have answered `answer`. */
uint32_t answers_of(int32_t answer) { return __atomic_load_n(&answered[answer & 3], __ATOMIC_SEQ_CST); }

/* The token after the last pause. */
uint32_t paused_at(void) { return __atomic_load_n(&next_token, __ATOMIC_SEQ_CST); }

/* Threads that have not ended. */
uint32_t running(void) { return __atomic_load_n(&begun, __ATOMIC_SEQ_CST) - __atomic_load_n(&ended, __ATOMIC_SEQ_CST); }

/* CPU time of the calling thread, in ns. */
int64_t thread_ns(void) {
  struct timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return now.tv_sec * 1000000000LL + now.tv_nsec;
}

struct batches { callback callback; void *userdata; int count, size, pause_us; };
static int64_t batches_ns;

static void *batch(void *argument) {
  struct batches *batches = argument;
  for (int at = 0; at < batches->count; at++) {
    int64_t before = thread_ns();
    for (int token = 0; token < batches->size; token++) {
      struct result result = { " token", token, { 0 }, { 0 }, { 0 } };
      batches->callback(&result, batches->userdata, 0);
    }
    __atomic_add_fetch(&batches_ns, thread_ns() - before, __ATOMIC_SEQ_CST);
    usleep(batches->pause_us);
  }
  struct result last = { "", -1, { 0 }, { 0 }, { 0 } };
  batches->callback(&last, batches->userdata, 2);
  free(batches);
  return NULL;
}

/* Calls in batches, for the benchmark: `size` results at once, then a pause in which the event loop reads them. */
void start_batches(void *to, uint64_t userdata, int32_t count, int32_t size, int32_t pause_us) {
  struct batches *batches = malloc(sizeof *batches);
  *batches = (struct batches){ (callback)to, (void *)userdata, count, size, pause_us };
  pthread_t thread;
  if (pthread_create(&thread, NULL, batch, batches) == 0) pthread_detach(thread);
}

/* CPU time in ns of all batches so far, on their threads. */
int64_t callback_ns(void) { return __atomic_load_n(&batches_ns, __ATOMIC_SEQ_CST); }
