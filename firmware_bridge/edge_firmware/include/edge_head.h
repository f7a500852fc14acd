/* A head blob, run in place from flash: opened after all of it was checked, then asked for logits.
 *
 * Nothing here allocates, keeps globals or calls libc. Functions that give an `edge_error` give EDGE_OK or the reason;
 * what `EDGE_ERRORS` lists. All buffers are the caller's. A blob may lie at any address. */
#ifndef EDGE_HEAD_H
#define EDGE_HEAD_H

#include "edge_format.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Says whether the signature (64 bytes) is that of the bytes before it: EDGE_OK, EDGE_E_KEY or EDGE_E_SIGNATURE.
 * `edge_sign.h` has one. */
typedef edge_error (*edge_verify)(const void *key, const uint8_t *blob, uint32_t n_bytes);

/* What a device takes. */
typedef struct edge_expected {
    const char *product;     /* its id; 0: of any */
    const uint8_t *backbone; /* sha256 of the backbone, 32 bytes; 0: of any */
    uint32_t dim;            /* features of a sample; 0: any */
    uint32_t n_classes;      /* the most that there is room for in the caller's logits; 0: any, the caller looks */
    uint32_t counter;        /* the lowest security counter that is taken */
    edge_verify verify;      /* 0: signatures are not checked */
    const void *key;         /* what `verify` is given */
} edge_expected;

/* A blob that was found to be whole, and where its sections are; a table stands right behind the header. */
typedef struct edge_head {
    const uint8_t *blob;
    const uint8_t *rows;
    const uint8_t *scales;
    const uint8_t *bias;
    const uint8_t *owners;
    const uint8_t *answers;
    const uint8_t *canaries;
    const uint8_t *names;
    uint32_t dim;
    uint32_t n_classes;
    uint32_t n_rows;
} edge_head;

/* Checks all of a blob that lies at the start of n_bytes of flash, and opens it. Of several faults one is told, as by
 * `read_blob` in Python; that it is for another device is told of a whole blob only, and its signature is checked last.
 * Names are bytes: that they are UTF-8 is the packer's care. */
edge_error edge_head_open(edge_head *head, const void *blob, uint32_t n_bytes, const edge_expected *expected);

uint32_t edge_head_version(const edge_head *head);
uint32_t edge_head_counter(const edge_head *head);

/* The name of a class, UTF-8, in flash; "" of one that is not there. */
const char *edge_head_name(const edge_head *head, uint32_t class_index);

/* int8 rows. Features (D,) as an int8 backbone gives them, or as `edge_head_quantise` makes them of float32 ones; they
 * are overwritten. Logits (K,). EDGE_E_TYPE where the rows are float32. Compiled with EDGE_DSP, cores that have a DSP
 * (Cortex-M4, M7, M33) use it: the same logits, sooner. */
edge_error edge_head_logits_i8(const edge_head *head, int8_t *features, float *logits);
void edge_head_quantise(const edge_head *head, const float *features, int8_t *quantised);

/* float32 rows (edge_float.c). Features (D,) are overwritten. */
edge_error edge_head_logits_f32(const edge_head *head, float *features, float *logits);

/* Asks the canaries; EDGE_E_CANARY where one gets another answer than it must. `scratch`: D int8 (f32: D float). */
edge_error edge_head_check_i8(const edge_head *head, int8_t *scratch, float *logits);
edge_error edge_head_check_f32(const edge_head *head, float *scratch, float *logits);

/* The class of the highest score, of equal ones the first; EDGE_NONE where none is at least `least` (NaN never is). */
#define EDGE_NONE 0xFFFFFFFFu
#define EDGE_ANY (-3.4028234663852886e38f)
uint32_t edge_argmax(const float *scores, uint32_t n_scores, float least);

/* Puts the classes of the n highest scores into `classes`, the highest first, of equal ones the first; gives how many
 * (fewer where scores are NaN). */
uint32_t edge_top(const float *scores, uint32_t n_scores, uint32_t *classes, uint32_t n);

/* Makes probabilities of logits (K,), in place (edge_float.c); of what is no number 0. */
void edge_softmax(float *logits, uint32_t n_logits);

/* CRC-32 (IEEE 802.3); `crc` is 0, or that of the bytes before. */
uint32_t edge_crc32(uint32_t crc, const uint8_t *bytes, uint32_t n_bytes);

/* What went wrong, in words (edge_text.c). */
const char *edge_error_text(edge_error error);

#ifdef __cplusplus
}
#endif

#endif
