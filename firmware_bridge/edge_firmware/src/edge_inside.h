/* What the units of the runtime share; not for others. */
#ifndef EDGE_INSIDE_H
#define EDGE_INSIDE_H

#include "edge_head.h"

/* Numbers are read by bytes, so that a blob may lie at any address. Where the core can, the compiler makes one load of
 * four bytes, once they stand where they are used; it would not put them there when it saves bytes. */
#if defined(__GNUC__) && defined(__ARM_FEATURE_UNALIGNED)
#define EDGE_INLINE static inline __attribute__((always_inline))
#else
#define EDGE_INLINE static inline
#endif

EDGE_INLINE uint32_t edge_get_u16(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8;
}

EDGE_INLINE uint32_t edge_get_u32(const uint8_t *at)
{
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

typedef union edge_bits {
    uint32_t bits;
    float value;
} edge_bits;

EDGE_INLINE float edge_get_f32(const uint8_t *at)
{
    edge_bits number;
    number.bits = edge_get_u32(at);
    return number.value;
}

/* Puts the logit of a row where it belongs: a further look counts if it is higher, or no number. */
static inline void edge_put_logit(const edge_head *head, float *logits, uint32_t row, float logit)
{
    float *place;
    if (row >= head->n_classes) {
        place = logits + edge_get_u16(head->owners + 2 * (row - head->n_classes));
        if (logit <= *place || *place != *place)
            return;
        *place = logit;
    } else {
        logits[row] = logit;
    }
}

#endif
