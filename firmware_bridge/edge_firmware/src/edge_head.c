#include "edge_inside.h"

#if defined(EDGE_DSP) && defined(__ARM_FEATURE_DSP)
#include <arm_acle.h>
#endif

uint32_t edge_crc32(uint32_t crc, const uint8_t *bytes, uint32_t n_bytes)
{
    uint32_t bit;
    crc = ~crc;
    while (n_bytes--) {
        crc ^= *bytes++;
        for (bit = 0; bit < 8; bit++)
            crc = crc >> 1 ^ (0xEDB88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

/* Whether 32 bytes of the header are those of a device; of a text, what stands behind its end is zero. */
static int is_same(const uint8_t *found, const uint8_t *wanted, int is_text)
{
    uint32_t n;
    for (n = 0; n < 32; n++) {
        if (found[n] != *wanted)
            return 0;
        if (*wanted || !is_text)
            wanted++;
    }
    return !is_text || !*wanted;
}

static int are_classes(const uint8_t *numbers, uint32_t n_numbers, uint32_t n_classes)
{
    for (; n_numbers--; numbers += 2)
        if (edge_get_u16(numbers) >= n_classes)
            return 0;
    return 1;
}

/* Whether there are so many zero bytes, the last byte among them. */
static int are_names(const uint8_t *names, uint32_t n_bytes, uint32_t n_names)
{
    uint32_t last = 1;
    while (n_bytes--) {
        last = *names++;
        n_names -= !last;
    }
    return !last && !n_names;
}

/* Finds the sections by the header's numbers, which may be any. Lengths are counted in words of 4 bytes: once the rows
 * are no more than the blob, the sum of all fits in 32 bits. */
static edge_error find_sections(edge_head *head, const uint8_t *blob, uint32_t n_bytes)
{
    uint32_t flags = edge_get_u16(blob + EDGE_BLOB_AT_FLAGS), is_int8 = flags & EDGE_IS_INT8;
    uint32_t whole = edge_get_u32(blob + EDGE_BLOB_AT_BYTES), names = edge_get_u32(blob + EDGE_BLOB_AT_NAMES_BYTES);
    uint32_t dim = edge_get_u32(blob + EDGE_BLOB_AT_DIM), n_canaries = edge_get_u16(blob + EDGE_BLOB_AT_N_CANARIES);
    uint32_t n_classes = edge_get_u16(blob + EDGE_BLOB_AT_N_CLASSES), n_rows = edge_get_u16(blob + EDGE_BLOB_AT_N_ROWS);
    uint32_t table = flags & EDGE_HAS_TABLE ? EDGE_TABLE_BYTES / 4 : 0, padded = (dim + 3) >> 2;
    uint32_t rows = n_rows * (is_int8 ? padded : dim), scales = is_int8 ? n_rows : 0;
    uint32_t owners = (n_rows - n_classes + 1) >> 1, answers = (n_canaries + 1) >> 1, canaries = n_canaries * padded;
    uint32_t sum = EDGE_BLOB_SIZE / 4 + table + rows + scales + n_rows + owners + answers + canaries;
    sum += (names >> 2) + ((names & 3) != 0) + 1 + EDGE_SIGNATURE_BYTES / 4;
    if (flags & ~(is_int8 ? EDGE_IS_INT8 | EDGE_HAS_TABLE : EDGE_IS_RAISED | EDGE_IS_UNIT)
        || dim - 1 >= EDGE_MOST_FEATURES || !n_classes || n_classes > n_rows || !n_canaries)
        return EDGE_E_HEADER;
    if (rows > whole >> 2 || sum != whole >> 2 || whole & 3)
        return EDGE_E_LENGTH;
    if (whole > n_bytes)
        return EDGE_E_CUT;
    head->blob = blob;
    head->dim = dim;
    head->n_classes = n_classes;
    head->n_rows = n_rows;
    blob += EDGE_BLOB_SIZE;
    head->rows = blob += 4 * table;
    head->scales = blob += 4 * rows;
    head->bias = blob += 4 * scales;
    head->owners = blob += 4 * n_rows;
    head->answers = blob += 4 * owners;
    head->canaries = blob += 4 * answers;
    head->names = blob + 4 * canaries;
    return EDGE_OK;
}

edge_error edge_head_open(edge_head *head, const void *bytes, uint32_t n_bytes, const edge_expected *expected)
{
    const uint8_t *blob = (const uint8_t *)bytes;
    uint32_t signed_bytes;
    edge_error error;
    if (n_bytes < EDGE_BLOB_SIZE)
        return EDGE_E_CUT;
    if (edge_get_u32(blob + EDGE_BLOB_AT_MAGIC) != EDGE_BLOB_MAGIC)
        return EDGE_E_MAGIC;
    if (edge_get_u16(blob + EDGE_BLOB_AT_FORMAT) != EDGE_BLOB_FORMAT)
        return EDGE_E_FORMAT;
    error = find_sections(head, blob, n_bytes);
    if (error != EDGE_OK)
        return error;
    signed_bytes = edge_get_u32(blob + EDGE_BLOB_AT_BYTES) - EDGE_SIGNATURE_BYTES;
    if (edge_crc32(0, blob, signed_bytes - 4) != edge_get_u32(blob + signed_bytes - 4))
        return EDGE_E_CRC;
    if (!are_names(head->names, edge_get_u32(blob + EDGE_BLOB_AT_NAMES_BYTES), head->n_classes))
        return EDGE_E_NAMES;
    if (!are_classes(head->owners, head->n_rows - head->n_classes, head->n_classes)
        || !are_classes(head->answers, edge_get_u16(blob + EDGE_BLOB_AT_N_CANARIES), head->n_classes))
        return EDGE_E_CLASS;
    if (expected->product && !is_same(blob + EDGE_BLOB_AT_PRODUCT, (const uint8_t *)expected->product, 1))
        return EDGE_E_PRODUCT;
    if (expected->backbone && !is_same(blob + EDGE_BLOB_AT_BACKBONE, expected->backbone, 0))
        return EDGE_E_BACKBONE;
    if (expected->dim && expected->dim != head->dim)
        return EDGE_E_DIM;
    if (expected->n_classes && expected->n_classes < head->n_classes)
        return EDGE_E_MANY;
    if (edge_head_counter(head) < expected->counter)
        return EDGE_E_COUNTER;
    return expected->verify ? expected->verify(expected->key, blob, signed_bytes) : EDGE_OK;
}

uint32_t edge_head_version(const edge_head *head)
{
    return edge_get_u32(head->blob + EDGE_BLOB_AT_VERSION);
}

uint32_t edge_head_counter(const edge_head *head)
{
    return edge_get_u32(head->blob + EDGE_BLOB_AT_COUNTER);
}

const char *edge_head_name(const edge_head *head, uint32_t class_index)
{
    const uint8_t *name = head->names;
    if (class_index >= head->n_classes)
        return "";
    while (class_index)
        class_index -= !*name++;
    return (const char *)name;
}

void edge_head_quantise(const edge_head *head, const float *features, int8_t *quantised)
{
    float half = edge_get_f32(head->blob + EDGE_BLOB_AT_FEATURE_SCALE) * 0.5f, halves;
    int32_t zero = (int8_t)head->blob[EDGE_BLOB_AT_FEATURE_ZERO], step;
    uint32_t d;
    for (d = 0; d < head->dim; d++) {
        halves = features[d] / half;
        /* what is no number stays out of the conversion, which knows none */
        step = halves > 1024.0f ? 1024 : halves < -1024.0f ? -1024 : halves == halves ? (int32_t)halves : 0;
        step = (step + (step > 0) - (step < 0)) / 2 + zero;
        quantised[d] = (int8_t)(step > 127 ? 127 : step < -128 ? -128 : step);
    }
}

/* Gives the sum with the products of a row and of inputs (D,), and moves on to the next row. Sums go round at 32 bits
 * instead of being undefined, in Python as here. */
#define EDGE_PRODUCT sum += (uint32_t)(*at++ * *input++);
#if defined(EDGE_DSP) && defined(__ARM_FEATURE_DSP)
/* The second and the fourth byte, each as 16 bits; no intrinsic has the turn in it. */
static inline int16x2_t odd_bytes(uint32_t four)
{
    int16x2_t found;
    __asm__("sxtb16 %0, %1, ror #8" : "=r"(found) : "r"(four));
    return found;
}

static uint32_t add_products(uint32_t sum, const int8_t **row, const int8_t *input, const int8_t *end)
{
    const int8_t *at = *row;
    uint32_t dim = (uint32_t)(end - input), four, others;
    const int8_t *fours = input + (dim & ~3u);
    if (input != fours)
        do {
            four = edge_get_u32((const uint8_t *)at);
            others = edge_get_u32((const uint8_t *)input);
            at += 4;
            input += 4;
            sum = (uint32_t)__smlad(__sxtb16((int8x4_t)four), __sxtb16((int8x4_t)others), (int32_t)sum);
            sum = (uint32_t)__smlad(odd_bytes(four), odd_bytes(others), (int32_t)sum);
        } while (input != fours);
    while (input != end)
        EDGE_PRODUCT
    *row = at + (-dim & 3);
    return sum;
}
#else
static uint32_t add_products(uint32_t sum, const int8_t **row, const int8_t *input, const int8_t *end)
{
    const int8_t *at = *row;
    uint32_t dim = (uint32_t)(end - input);
    /* Entered in its middle (Duff 1983): four a turn of any number; and across the labels the compiler cannot merge the
     * pointers' steps, so that each goes into its load: 3.5 instructions a product on a Cortex-M4. */
    switch (dim & 3) {
        do {
        case 0: EDGE_PRODUCT /* fall through */
        case 3: EDGE_PRODUCT /* fall through */
        case 2: EDGE_PRODUCT /* fall through */
        default: EDGE_PRODUCT
        } while (input != end);
    }
    *row = at + (-dim & 3);
    return sum;
}
#endif

edge_error edge_head_logits_i8(const edge_head *head, int8_t *features, float *logits)
{
    const int8_t *row = (const int8_t *)head->rows, *end = features + head->dim;
    const uint8_t *table = head->blob + EDGE_BLOB_SIZE;
    uint32_t d, r, sum, flags = head->blob[EDGE_BLOB_AT_FLAGS];
    if (!(flags & EDGE_IS_INT8))
        return EDGE_E_TYPE;
    if (flags & EDGE_HAS_TABLE)
        for (d = 0; d < head->dim; d++)
            features[d] = (int8_t)table[features[d] + 128];
    for (r = 0; r < head->n_rows; r++) {
        sum = add_products(edge_get_u32(head->bias + 4 * r), &row, features, end);
        /* one conversion and one product: nothing that a compiler could contract or a core round otherwise */
        edge_put_logit(head, logits, r, (float)(int32_t)sum * edge_get_f32(head->scales + 4 * r));
    }
    return EDGE_OK;
}

edge_error edge_head_check_i8(const edge_head *head, int8_t *scratch, float *logits)
{
    uint32_t n, d, n_canaries = edge_get_u16(head->blob + EDGE_BLOB_AT_N_CANARIES);
    const uint8_t *canary = head->canaries;
    edge_error error;
    for (n = 0; n < n_canaries; n++) {
        for (d = 0; d < head->dim; d++)
            scratch[d] = (int8_t)canary[d];
        canary += (head->dim + 3) & ~3u;
        error = edge_head_logits_i8(head, scratch, logits);
        if (error != EDGE_OK)
            return error;
        if (edge_argmax(logits, head->n_classes, EDGE_ANY) != edge_get_u16(head->answers + 2 * n))
            return EDGE_E_CANARY;
    }
    return EDGE_OK;
}

uint32_t edge_argmax(const float *scores, uint32_t n_scores, float least)
{
    uint32_t best = EDGE_NONE;
    while (n_scores--) /* from the last, so that the first of equal ones stays */
        if (scores[n_scores] >= least) {
            least = scores[n_scores];
            best = n_scores;
        }
    return best;
}

uint32_t edge_top(const float *scores, uint32_t n_scores, uint32_t *classes, uint32_t n)
{
    uint32_t k, place, n_found = 0;
    for (k = 0; k < n_scores; k++) {
        if (scores[k] != scores[k])
            continue;
        place = n_found < n ? n_found++ : n;
        for (; place && scores[k] > scores[classes[place - 1]]; place--)
            if (place < n)
                classes[place] = classes[place - 1];
        if (place < n)
            classes[place] = k;
    }
    return n_found;
}
