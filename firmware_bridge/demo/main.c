/* A device that runs a head: it classifies features that come over its UART, takes new heads there, and goes back to
 * the one before if a new one is bad.
 *
 * The device's own are `device.h`, with DEVICE_PRODUCT, DEVICE_BACKBONE (32 bytes in braces; without it heads for any
 * are taken), DEVICE_DIM, DEVICE_CLASSES (the most that there is room for) and DEVICE_TRIES (boots that a new head is
 * given), and, with DEVICE_SIGNED, `key.h`, which `edge-cl keygen key.pem --c key.h` writes. */
#include "board.h"
#include "device.h"
#include "edge_link.h"
#include "flash.h"
#include "memory.h"
#include "startup.h"

#ifdef DEVICE_SIGNED
#include "edge_sign.h"

#include "key.h"
#endif

#define CHUNK_BYTES 512u
#if 8u + 4u * DEVICE_CLASSES > CHUNK_BYTES
#error "the logits do not fit an answer: fewer DEVICE_CLASSES, or more CHUNK_BYTES"
#endif

/* Requests of this firmware's own; answers begin with an `edge_error` in 4 bytes. */
#define FEATURES (EDGE_LINK_OWN + 0u) /* offset (4 bytes), then features from there on */
#define CLASSIFY (EDGE_LINK_OWN + 1u) /* answer: the class (4 bytes) and K logits */
#define STATE (EDGE_LINK_OWN + 2u)    /* answer: see `state` */

#ifdef DEVICE_BACKBONE
static const uint8_t backbone[32] = DEVICE_BACKBONE;
#else
#define backbone 0 /* heads for any */
#endif
static const edge_expected device = {
    DEVICE_PRODUCT, backbone, DEVICE_DIM, DEVICE_CLASSES, 0,
#ifdef DEVICE_SIGNED
    edge_verify_ed25519, &key_public,
#else
    0, 0,
#endif
};

static edge_flash flash;
static edge_slots slots;
static edge_link line;
static edge_head heads[2];    /* in the slots, as the last check found them */
static const edge_head *head; /* that runs */
static int8_t features[DEVICE_DIM], scratch[DEVICE_DIM];
static float logits[DEVICE_CLASSES];
static uint8_t buffer[EDGE_LINK_BUFFER(CHUNK_BYTES)] __attribute__((aligned(8)));

/* Opens the head in a slot, in place, and asks its canaries. */
static edge_error check(void *context, uint32_t slot, uint32_t counter)
{
    edge_head *found = &heads[slot];
    edge_expected expected = device;
    edge_error error;
    (void)context;
    expected.counter = counter;
    board_watch();
    error = edge_head_open(found, (const void *)(uintptr_t)flash.slot_address[slot], flash.slot_bytes, &expected);
    board_watch();
    return error == EDGE_OK ? edge_head_check_i8(found, scratch, logits) : error;
}

static int is_same(const char *one, const char *other)
{
    while (*one && *one == *other) {
        one++;
        other++;
    }
    return *one == *other;
}

/* What a device does with an answer. This one has two classes that it cannot stand, so that a head can be bad although
 * every check of it passes. */
static void act(uint32_t answer)
{
    const char *name = edge_head_name(head, answer);
    if (is_same(name, "makes the device crash"))
        __builtin_trap();
    while (is_same(name, "makes the device hang")) {
    }
}

static edge_error classify(const int8_t *sample, uint32_t *answer)
{
    edge_error error;
    if (line.running == EDGE_NONE)
        return EDGE_E_EMPTY;
    memcpy(scratch, sample, sizeof scratch); /* they are overwritten, and a request may come twice */
    error = edge_head_logits_i8(head, scratch, logits);
    *answer = edge_argmax(logits, head->n_classes, EDGE_ANY);
    return error;
}

/* Uses a head on trial as it will be used. */
static edge_error rehearse(void)
{
    const uint8_t *canary = head->canaries;
    uint32_t n, answer;
    uint16_t n_canaries;
    memcpy(&n_canaries, head->blob + EDGE_BLOB_AT_N_CANARIES, sizeof n_canaries);
    for (n = 0; n < n_canaries; n++, canary += (DEVICE_DIM + 3u) & ~3u) { /* each padded to whole words */
        edge_error error = classify((const int8_t *)canary, &answer);
        if (error != EDGE_OK)
            return error;
        act(answer);
    }
    return EDGE_OK;
}

static uint32_t put(uint8_t *payload, uint32_t place, uint32_t value)
{
    memcpy(payload + place, &value, 4);
    return place + 4u;
}

static uint32_t state(uint8_t *payload)
{
    uint32_t n = put(payload, 4u, line.running);
    n = put(payload, n, slots.record.active);
    n = put(payload, n, slots.record.tries);
    return put(payload, n, startup_stack_bytes());
}

static edge_error take_features(const uint8_t *payload, uint32_t n_bytes)
{
    uint32_t offset;
    if (n_bytes < 4u)
        return EDGE_E_REQUEST;
    memcpy(&offset, payload, 4);
    n_bytes -= 4u;
    if (offset > sizeof features || n_bytes > sizeof features - offset)
        return EDGE_E_REQUEST;
    memcpy(features + offset, payload + 4, n_bytes);
    return EDGE_OK;
}

static uint32_t answer(void *context, uint32_t type, uint8_t *payload, uint32_t n_bytes)
{
    uint32_t chosen = EDGE_NONE, n = 4u;
    edge_error error = EDGE_E_REQUEST;
    (void)context;
    if (type == FEATURES) {
        error = take_features(payload, n_bytes);
    } else if (type == CLASSIFY) {
        error = classify(features, &chosen);
        if (error == EDGE_OK) {
            n = put(payload, n, chosen);
            memcpy(payload + n, logits, 4u * head->n_classes);
            n += 4u * head->n_classes;
            act(chosen);
        }
    } else if (type == STATE) {
        error = EDGE_OK;
        n = state(payload);
    }
    put(payload, 0, (uint32_t)error);
    return n;
}

static void send(void *context, uint8_t byte)
{
    (void)context;
    board_send(byte);
}

static void reboot(void *context)
{
    (void)context;
    board_wait(); /* until the last byte has left */
    startup_reset();
}

void on_fault(void)
{
    startup_reset(); /* a head on trial has lost a try: it was counted before */
}

/* Chooses a head, and ends its trial if it has one. */
static void start_head(void)
{
    uint32_t slot, was_trial;
    int is_trial;
    edge_slots_open(&slots, &flash, check, 0);
    was_trial = slots.record.tries != EDGE_NO_TRIAL;
    line.running = EDGE_NONE;
    if (edge_slots_boot(&slots, &slot, &is_trial) != EDGE_OK)
        return;
    line.running = slot;
    head = &heads[slot]; /* it was just checked */
    line.error = was_trial && !is_trial ? EDGE_E_TRIAL : EDGE_OK;
    if (!is_trial)
        return;
    if (rehearse() == EDGE_OK) {
        edge_slots_confirm(&slots);
    } else {
        edge_slots_reject(&slots);
        startup_reset();
    }
}

int main(void)
{
    int byte;
    flash_open(&flash);
    board_watch();
    start_head();
    line.slots = &slots;
    line.expected = &device;
    line.tries = DEVICE_TRIES;
    line.send = send;
    line.reboot = reboot;
    line.answer = answer;
    line.buffer = buffer;
    line.chunk_bytes = CHUNK_BYTES;
    line.queue_bytes = 2u * CHUNK_BYTES;
    for (;;) {
        while ((byte = board_receive()) >= 0)
            edge_link_byte(&line, (uint8_t)byte);
        board_watch();
        board_wait();
    }
}
