/* Models of the understudy of librknnrt: a text that states sizes and tensors, and the weights after it. */
#define _GNU_SOURCE
#include "rknn.h"
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define TEXT_BYTES 4096
#define TITLE "RKNN understudy model\n"
/* The native layout has channels in groups of so many bytes. */
#define GROUP 16

static const struct { const char *name; int number, bytes; } types[] = {
  { "float32", 0, 4 }, { "float16", 1, 2 }, { "int8", 2, 1 }, { "uint8", 3, 1 }, { "int32", 6, 4 }, { "int64", 8, 8 },
};

uint32_t hash(uint32_t from, const void *bytes, size_t count) {
  const unsigned char *at = bytes;
  for (size_t i = 0; i < count; i++) from = (from ^ at[i]) * 16777619u;
  return from;
}

static uint32_t up(uint32_t value, uint32_t to) { return (value + to - 1) / to * to; }

/* A line "input = NAME TYPE FORMAT STRIDE DIMENSIONS...": STRIDE is of the width, 0 for the width itself. */
static int read_tensor(struct model *model, int is_input, char *line) {
  int *count = is_input ? &model->inputs : &model->outputs;
  if (*count == MAX_TENSORS) return MODEL_INVALID;
  /* Inputs come first, in the file and in the list. */
  if (is_input && model->outputs > 0) return MODEL_INVALID;
  struct tensor *tensor = &model->tensors[model->inputs + model->outputs];
  rknn_tensor_attr *attr = &tensor->attr;
  memset(tensor, 0, sizeof *tensor);
  char type[16], format[16];
  unsigned stride;
  int end = 0;
  if (sscanf(line, "%255s %15s %15s %u%n", attr->name, type, format, &stride, &end) < 4) return MODEL_INVALID;
  size_t kind = 0;
  while (kind < sizeof types / sizeof *types && strcmp(types[kind].name, type) != 0) kind++;
  if (kind == sizeof types / sizeof *types) return MODEL_INVALID;
  attr->type = types[kind].number;
  attr->fmt = strcmp(format, "nchw") == 0 ? 0 : strcmp(format, "nhwc") == 0 ? 1 : 3;
  attr->n_elems = 1;
  char *at = line + end;
  for (unsigned length; attr->n_dims < 16 && sscanf(at, "%u%n", &length, &end) == 1; at += end) {
    attr->dims[attr->n_dims++] = length;
    attr->n_elems *= length;
  }
  if (attr->n_dims == 0 || attr->n_elems == 0) return MODEL_INVALID;
  tensor->is_input = is_input;
  attr->index = (uint32_t)(*count)++;
  attr->size = attr->size_with_stride = attr->n_elems * (uint32_t)types[kind].bytes;
  uint32_t channels = attr->n_dims < 2 ? attr->n_elems : attr->dims[attr->fmt == 1 ? attr->n_dims - 1 : 1];
  if (attr->n_dims == 4 && attr->fmt == 1) {
    attr->w_stride = stride == 0 ? attr->dims[2] : stride;
    if (attr->w_stride < attr->dims[2]) return MODEL_INVALID;
    attr->size_with_stride = attr->size / attr->dims[2] * attr->w_stride;
  }
  tensor->native_size = attr->size / channels * up(channels, (uint32_t)(GROUP / types[kind].bytes ?: 1));
  if (attr->type == 2 || attr->type == 3) {
    attr->qnt_type = 2;
    attr->scale = 0.5f;
    attr->zp = attr->type == 2 ? -4 : 4;
  }
  return SUCC;
}

static int read_text(struct model *model, char *text) {
  if (strncmp(text, TITLE, sizeof TITLE - 1) != 0) {
    say("Invalid RKNN model: an understudy reads only models that begin with \"RKNN understudy model\"");
    return MODEL_INVALID;
  }
  char *rest = text + sizeof TITLE - 1, *line;
  while ((line = strsep(&rest, "\n")) != NULL && *line != 0) {
    uint64_t number;
    int end = 0;
    if (sscanf(line, "weights = %" SCNu64, &number) == 1) model->weights = number;
    else if (sscanf(line, "internal = %" SCNu64, &number) == 1) model->internal = number;
    else if (sscanf(line, "input = %n", &end) == 0 && end > 0) {
      if (read_tensor(model, 1, line + end) != SUCC) return MODEL_INVALID;
    } else if (sscanf(line, "output = %n", &end) == 0 && end > 0) {
      if (read_tensor(model, 0, line + end) != SUCC) return MODEL_INVALID;
    } else {
      say("Invalid RKNN model: the line \"%s\"", line);
      return MODEL_INVALID;
    }
  }
  return model->outputs > 0 ? SUCC : MODEL_INVALID;
}

int open_model(const char *path, const void *data, uint32_t size, struct model **made) {
  struct model *model = calloc(1, sizeof *model);
  if (model == NULL) return MALLOC_FAIL;
  char text[TEXT_BYTES + 1] = { 0 };
  model->users = 1;
  model->file = -1;
  if (data != NULL) {
    memcpy(text, data, size < TEXT_BYTES ? size : TEXT_BYTES);
    model->file_bytes = size;
  } else {
    model->file = open(path, O_RDONLY | O_CLOEXEC);
    struct stat status;
    if (model->file < 0 || fstat(model->file, &status) != 0 || pread(model->file, text, TEXT_BYTES, 0) < 0) {
      say("failed to open the model %s", path);
      close_model(model);
      return FAIL;
    }
    model->file_bytes = (uint64_t)status.st_size;
  }
  int error = read_text(model, text);
  if (error != SUCC) {
    close_model(model);
    return error;
  }
  model->weights_at = TEXT_BYTES;
  *made = model;
  return SUCC;
}

void close_model(struct model *model) {
  if (--model->users > 0) return;
  if (model->file >= 0) close(model->file);
  give_inside_back(&model->copy);
  give_inside_back(&model->own_weights);
  if (model->weights_of != NULL) close_model(model->weights_of);
  free(model);
}

int copy_weights(const struct model *model, char *to) {
  if (model->weights_at + model->weights > model->file_bytes) {
    say("Invalid RKNN model: its weights are not in the file; is SHARE_WEIGHT_MEM missing?");
    return MODEL_INVALID;
  }
  const char *from = model->in_place != NULL ? model->in_place : model->copy.map;
  if (from != NULL) {
    memcpy(to, from + model->weights_at, model->weights);
    return SUCC;
  }
  for (uint64_t done = 0; done < model->weights;) {
    ssize_t got = pread(model->file, to + done, model->weights - done, (off_t)(model->weights_at + done));
    if (got <= 0) return FAIL;
    done += (uint64_t)got;
  }
  return SUCC;
}

const char *weights_of(const struct model *model) {
  if (model->weights_of != NULL) return weights_of(model->weights_of);
  if (model->outside_weights != NULL) return model->outside_weights->bytes;
  if (model->own_weights.map != NULL) return model->own_weights.map;
  return model->in_place == NULL ? NULL : model->in_place + model->weights_at;
}
