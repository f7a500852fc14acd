/* Says in hex what the runtime makes of the golden features, on whatever machine. `golden.h` has the blobs and the
 * features, and is written by the test. */
#include "golden.h"
#include "edge_head.h"
#include "host.h"
#include "startup.h"

void on_fault(void) {
    host_text("fault\n");
    host_exit(99);
}

static void say(const void *bytes, uint32_t n_bytes) {
    static const char DIGITS[] = "0123456789abcdef";
    const uint8_t *at = (const uint8_t *)bytes;
    char digits[3] = {0, 0, 0};
    while (n_bytes--) {
        digits[0] = DIGITS[*at >> 4];
        digits[1] = DIGITS[*at++ & 15];
        host_text(digits);
    }
    host_text("\n");
}

static int8_t quantised[GOLDEN_DIM];
static float features[GOLDEN_DIM], logits[GOLDEN_CLASSES];

/* The blobs lie one byte behind a multiple of 4: a core that loads from whole addresses only would fault. */
static int run(void) {
    const edge_expected expected = {"golden", 0, GOLDEN_DIM, 0, 3, 0, 0};
    edge_head int8_head, float_head;
    uint32_t n, d;
    if (edge_head_open(&int8_head, GOLDEN_INT8 + 1, sizeof GOLDEN_INT8 - 1, &expected) != EDGE_OK)
        return 1;
    if (edge_head_open(&float_head, GOLDEN_FLOAT32 + 1, sizeof GOLDEN_FLOAT32 - 1, &expected) != EDGE_OK)
        return 2;
    if (edge_head_check_i8(&int8_head, quantised, logits) != EDGE_OK)
        return 3;
    if (edge_head_check_f32(&float_head, features, logits) != EDGE_OK)
        return 4;
    for (n = 0; n < GOLDEN_SAMPLES; n++) {
        for (d = 0; d < GOLDEN_DIM; d++) {
            const uint32_t bits = GOLDEN_FEATURES[n][d];
            const uint8_t *from = (const uint8_t *)&bits;
            uint8_t *to = (uint8_t *)&features[d];
            to[0] = from[0], to[1] = from[1], to[2] = from[2], to[3] = from[3];
        }
        edge_head_quantise(&int8_head, features, quantised);
        say(quantised, sizeof quantised);
        edge_head_logits_i8(&int8_head, quantised, logits);
        say(logits, sizeof logits);
        edge_head_logits_f32(&float_head, features, logits);
        say(logits, sizeof logits);
    }
    host_text(edge_head_name(&int8_head, 4));
    return 0;
}

int main(void) {
    return run();
}
