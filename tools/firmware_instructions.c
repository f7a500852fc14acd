/* Says how many ticks a loop of a known number of instructions takes, and how many the logits of a head. `blobs.h` has
 * the blobs. QEMU counts instructions by the same clock. */
#include "blobs.h"
#include "cortex.h"
#include "edge_head.h"
#include "host.h"
#include "startup.h"

#define TICKS REGISTER(0xE000E018u)
#define LAST_TICK 0xFFFFFFu
#define COUNT_ALONE 5u /* at the clock of the core, without an interrupt */

static union {
    int8_t quantised[DIM];
    float floats[DIM];
} features;
static float logits[N_CLASSES];

void on_fault(void) {
    host_text("fault\n");
    host_exit(99);
}

static void say(uint32_t before, uint32_t after) {
    host_number((before - after) & LAST_TICK);
    host_text(" ");
}

/* Two instructions a turn. */
static void known_loop(uint32_t n_turns) {
    __asm volatile(".syntax unified\n 1: subs %0, %0, #1\n bne 1b" : "+l"(n_turns) : : "cc");
}

int main(void) {
    const edge_expected any = {0, 0, 0, 0, 0, 0, 0};
    edge_head head;
    uint32_t before;
    TICK_CLOCKS = LAST_TICK;
    TICK_CONTROL = COUNT_ALONE;
    before = TICKS;
    known_loop(KNOWN_TURNS);
    say(before, TICKS);
    if (edge_head_open(&head, INT8, sizeof INT8, &any) != EDGE_OK)
        return 1;
    before = TICKS;
    edge_head_logits_i8(&head, features.quantised, logits);
    say(before, TICKS);
#ifdef FLOAT32
    if (edge_head_open(&head, FLOAT32_BLOB, sizeof FLOAT32_BLOB, &any) != EDGE_OK)
        return 2;
    before = TICKS;
    edge_head_logits_f32(&head, features.floats, logits);
    say(before, TICKS);
#endif
    return 0;
}
