/* Opens every blob of a file as a device would, each in a heap block of just its size: the address sanitizer sees the
 * first byte read beyond it. What opens is asked for all that a head can be asked. For each two bytes: the error of
 * opening and that of the canaries. */
#include "edge_head.h"

#include <stdio.h>
#include <stdlib.h>

static void *get_block(size_t n_bytes) {
    void *block = malloc(n_bytes);
    if (!block)
        abort();
    return block;
}

static edge_error ask_numbers(const edge_head *head, int is_int8) {
    edge_error found;
    uint32_t d, best, *classes = get_block(3 * sizeof *classes);
    float *floats = get_block(head->dim * sizeof *floats), *logits = get_block(head->n_classes * sizeof *logits);
    int8_t *features = get_block(head->dim);
    for (d = 0; d < head->dim; d++)
        floats[d] = (float)d * 0.37f - 9.0f;
    edge_head_quantise(head, floats, features);
    if ((edge_head_logits_i8(head, features, logits) == EDGE_OK) != is_int8)
        abort();
    if ((edge_head_logits_f32(head, floats, logits) == EDGE_OK) == is_int8)
        abort();
    best = edge_argmax(logits, head->n_classes, EDGE_ANY);
    if (edge_top(logits, head->n_classes, classes, 3) && best != EDGE_NONE && classes[0] != best)
        abort();
    edge_softmax(logits, head->n_classes);
    found = is_int8 ? edge_head_check_i8(head, features, logits) : edge_head_check_f32(head, floats, logits);
    free(classes);
    free(floats);
    free(logits);
    free(features);
    return found;
}

static void ask(const uint8_t *blob, uint32_t n_bytes) {
    static const uint8_t BACKBONE[32] = {1};
    const edge_expected any = {0, 0, 0, 0, 0, 0, 0}, some = {"0123456789012345678901234567890", BACKBONE, 3, 0, 9, 0, 0};
    edge_head head;
    edge_error error = edge_head_open(&head, blob, n_bytes, &some);
    edge_error canaries = EDGE_OK;
    uint32_t k, length = 0;
    if (error == EDGE_OK)
        abort();
    error = edge_head_open(&head, blob, n_bytes, &any);
    if (error == EDGE_OK) {
        for (k = 0; k <= head.n_classes; k++) {
            const char *name = edge_head_name(&head, k);
            while (*name++)
                length++;
        }
        if (length > n_bytes)
            abort();
        canaries = ask_numbers(&head, blob[EDGE_BLOB_AT_FLAGS] & EDGE_IS_INT8);
    }
    putchar((int)error);
    putchar((int)canaries);
}

int main(void) {
    uint8_t size[4];
    while (fread(size, sizeof size, 1, stdin) == 1) {
        uint32_t n_bytes = (uint32_t)size[0] | (uint32_t)size[1] << 8 | (uint32_t)size[2] << 16;
        uint8_t *block = get_block(n_bytes ? n_bytes : 1);
        if (n_bytes && fread(block, n_bytes, 1, stdin) != 1)
            return 1;
        ask(block, n_bytes);
        free(block);
    }
    return 0;
}
