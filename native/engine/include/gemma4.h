/* Gemma 4 with its assistant in an app: bundles (docs/bundle.md) run without Python.
 *
 * One thread of the library's own does all work with MLX, for all models of a process. Functions may be called from
 * any thread; each waits for what it asks for, at most a round or a piece of a prompt. Leaving the process, by exit
 * or by main's return, waits for the device, too. What fails returns NULL or -1, and writes one sentence to `error`,
 * of `size` bytes. Handles that are NULL are let go of in silence. */
#ifndef GEMMA4_H
#define GEMMA4_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

enum { GEMMA4_MOST_DRAFTS = 32 };

typedef struct gemma4_model gemma4_model;
typedef struct gemma4_text gemma4_text; /* a conversation: ids and their keys, which one continues */

typedef struct {
  int compile;         /* 1, 0, or -1: wherever nothing is missing for it (MLX on a CPU needs g++) */
  size_t cache_limit;  /* bytes of freed memory that MLX keeps between texts' rounds; 0: MLX's own limit */
  size_t memory_limit; /* bytes that MLX tries to stay within; 0: MLX's own limit */
} gemma4_options;

typedef struct {
  int32_t max_tokens;      /* at least 1; a text ends with the model's context, too */
  const int32_t *drafts;   /* of one round after the other, again and again: a fixed number is a list of one */
  size_t draft_count;      /* 0: as many as have paid so far */
  float temperature;       /* 0: the likeliest tokens; what follows does not matter then */
  int32_t top_k;           /* likeliest tokens that are looked at, as many as the bundle allows; 0: all, if top_p is 1 */
  float top_p, min_p;      /* 1 and 0: all tokens */
  float draft_temperature; /* 0: the assistant's likeliest tokens are drafts, and a seed's text depends on no drafts */
  uint64_t seed;
} gemma4_request;

typedef enum { GEMMA4_GOES_ON, GEMMA4_STOPPED, GEMMA4_LENGTH, GEMMA4_CANCELLED } gemma4_finish;

typedef struct {
  int32_t read, to_read;                      /* tokens of the prompt whose keys are there; all but the last */
  int32_t kept;                               /* of which were there already, from earlier turns */
  int32_t tokens[GEMMA4_MOST_DRAFTS + 1];     /* what the round adds to the text, a stop token included */
  int32_t count, accepted, drafted;           /* of these; the first `accepted` were drafts, of so many in the round */
  gemma4_finish finish;
  const float *logits;                        /* where they are wanted, until the next call: (drafted + 1, vocabulary), */
  size_t logit_count;                         /* so many in all */
} gemma4_piece;

typedef struct {
  size_t active, cache, peak; /* bytes */
} gemma4_memory;

/* A bundle, its weights read; NULL if it is not whole. */
gemma4_model *gemma4_open(const char *folder, const gemma4_options *options, char *error, size_t size);
/* The bundle's manifest, JSON; it lives as long as the model. */
const char *gemma4_manifest(const gemma4_model *model);
/* For comparisons: rounds that begin from now on tell their logits, and are slower. Before the first text. */
void gemma4_want_logits(gemma4_model *model);
/* Waits for the device. Memory is given back once the texts are let go of, too. */
void gemma4_close(gemma4_model *model);

gemma4_text *gemma4_new_text(gemma4_model *model, char *error, size_t size);
void gemma4_free_text(gemma4_text *text);
/* Begins to continue these ids. Keys of what they have in common with the text so far stay, as far as rings allow. */
int gemma4_begin(gemma4_text *text, const int32_t *ids, size_t count, const gemma4_request *request, char *error,
                 size_t size);
/* The next piece: some of the prompt was read (count is 0), or a round was. Not after one that finishes the text. */
int gemma4_next(gemma4_text *text, gemma4_piece *piece, char *error, size_t size);
/* From any thread, while others are in gemma4_next: no further round or piece of a prompt begins. */
void gemma4_cancel(gemma4_text *text);

gemma4_memory gemma4_memory_in_use(void);

#ifdef __cplusplus
}
#endif

#endif
