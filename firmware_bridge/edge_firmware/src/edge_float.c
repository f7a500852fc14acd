#include "edge_inside.h"

#define SMALLEST 1.1754944e-38f /* what has all of its 24 bits */
#define LARGEST 3.4028234663852886e38f
#define SHORTEST 1e-12f /* length that a vector is divided by at least */

/* The square root, to float's rounding (Newton's steps to 1 / root); of what is below SMALLEST 0. No libm: a core
 * without a unit for floats has no instruction for it either. */
static float root(float x)
{
    edge_bits guess;
    int step;
    if (!(x >= SMALLEST))
        return x != x ? x : 0.0f;
    if (x > LARGEST)
        return x;
    guess.value = x;
    guess.bits = 0x5F3759DFu - (guess.bits >> 1);
    for (step = 0; step < 4; step++)
        guess.value *= 1.5f - 0.5f * x * guess.value * guess.value;
    return x * guess.value;
}

/* The power 3/4 of the size; the sign stays. */
static float raised(float x)
{
    float size = x < 0.0f ? -x : x, half = root(size), power = half * root(half);
    return x < 0.0f ? -power : power;
}

static float length(const float *features, uint32_t dim)
{
    float sum = 0.0f;
    uint32_t d;
    for (d = 0; d < dim; d++)
        sum += features[d] * features[d];
    sum = root(sum);
    return sum < SHORTEST ? SHORTEST : sum;
}

edge_error edge_head_logits_f32(const edge_head *head, float *features, float *logits)
{
    uint32_t d, r, flags = head->blob[EDGE_BLOB_AT_FLAGS];
    const uint8_t *row = head->rows;
    float whole, sum;
    if (flags & EDGE_IS_INT8)
        return EDGE_E_TYPE;
    if (flags & EDGE_IS_RAISED)
        for (d = 0; d < head->dim; d++)
            features[d] = raised(features[d]);
    if (flags & EDGE_IS_UNIT) {
        whole = length(features, head->dim);
        for (d = 0; d < head->dim; d++)
            features[d] /= whole;
    }
    for (r = 0; r < head->n_rows; r++) {
        sum = 0.0f;
        for (d = 0; d < head->dim; d++, row += 4)
            sum += edge_get_f32(row) * features[d];
        edge_put_logit(head, logits, r, sum + edge_get_f32(head->bias + 4 * r));
    }
    return EDGE_OK;
}

edge_error edge_head_check_f32(const edge_head *head, float *scratch, float *logits)
{
    uint32_t n, d, n_canaries = edge_get_u16(head->blob + EDGE_BLOB_AT_N_CANARIES);
    int32_t zero = (int8_t)head->blob[EDGE_BLOB_AT_FEATURE_ZERO];
    float scale = edge_get_f32(head->blob + EDGE_BLOB_AT_FEATURE_SCALE);
    const uint8_t *canary = head->canaries;
    edge_error error;
    for (n = 0; n < n_canaries; n++) {
        for (d = 0; d < head->dim; d++)
            scratch[d] = (float)((int8_t)canary[d] - zero) * scale;
        canary += (head->dim + 3) & ~3u;
        error = edge_head_logits_f32(head, scratch, logits);
        if (error != EDGE_OK)
            return error;
        if (edge_argmax(logits, head->n_classes, EDGE_ANY) != edge_get_u16(head->answers + 2 * n))
            return EDGE_E_CANARY;
    }
    return EDGE_OK;
}

/* e^x of x <= 0, to float's rounding (Cephes, expf); below the smallest, and of what is no number, 0. */
static float power_of_e(float x)
{
    int32_t n;
    edge_bits two; /* 2^n */
    if (!(x > -87.0f))
        return 0.0f;
    n = (int32_t)(x * 1.44269504f - 0.5f);
    two.bits = (uint32_t)(n + 127) << 23;
    x -= (float)n * 0.693359375f;
    x += (float)n * 2.12194440e-4f;
    return two.value * (((((((1.9875691500e-4f * x + 1.3981999507e-3f) * x + 8.3334519073e-3f) * x + 4.1665795894e-2f)
        * x + 1.6666665459e-1f) * x + 5.0000001201e-1f) * x * x) + x + 1.0f);
}

void edge_softmax(float *logits, uint32_t n_logits)
{
    uint32_t k, best = edge_argmax(logits, n_logits, EDGE_ANY);
    float top = best == EDGE_NONE ? 0.0f : logits[best], sum = 0.0f;
    for (k = 0; k < n_logits; k++) {
        logits[k] = logits[k] >= top ? 1.0f : power_of_e(logits[k] - top); /* two infinities have no difference */
        sum += logits[k];
    }
    if (best != EDGE_NONE)
        for (k = 0; k < n_logits; k++)
            logits[k] /= sum;
}
