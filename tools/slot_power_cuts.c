/* Cuts the power at every flash operation of updates, in turn, and again while the device recovers; and fuzzes records.
 *
 *     slot_power_cuts BLOB cuts|failures|fuzz N SEED SECTOR_BYTES N_RECORD_SECTORS UNIT
 *
 * Prints the counts by their names; ends with 1 where a device was lost. */
#include "slot_device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MOST_OPERATIONS 1000u /* more has no update: something goes round */

typedef struct counts {
    unsigned long operations, cuts, boots, bricks, faults;
} counts;

/* What power is cut off from: a boot that ends a trial as an application does, or (version > 0) a whole update. */
typedef struct act {
    uint32_t version, counter;
    ending end;
    uint32_t allowed[2]; /* versions that may run afterwards */
} act;

static counts total;
static device *device_a, *device_b, *device_c;

static void copy(device *to, const device *from)
{
    *to = *from;
    to->n_boots = 0;
    to->flash.context = &to->model;
    to->model.random ^= 0x9E3779B9u * (uint32_t)(total.cuts + 1);
    to->model.random += !to->model.random;
}

static uint32_t counter_of(uint32_t version)
{
    return version / 8;
}

static uint32_t boot(device *device, edge_slots *slots, int *is_trial)
{
    uint32_t slot;
    return device_boot(device, slots, &slot, is_trial);
}

/* What a device does after a reset: boots, and confirms what runs on trial. */
static uint32_t recover(device *device)
{
    edge_slots slots;
    int is_trial;
    const uint32_t version = boot(device, &slots, &is_trial);
    if (is_trial)
        (void)edge_slots_confirm(&slots);
    return version;
}

static void perform(device *device, const act *what)
{
    if (what->version)
        (void)device_update(device, what->version, what->counter, what->end);
    else
        (void)recover(device);
}

static void brick(const char *why, const act *what, uint32_t version)
{
    if (total.bricks++ < 5)
        fprintf(stderr, "%s: version %u runs; %u to %u\n", why, version, what->allowed[0], what->allowed[1]);
}

/* With the power on: the device boots with what it may, stays with it, and takes the next update. */
static void settle(device *device, const act *what)
{
    const uint32_t next = what->allowed[1] + 1, version = recover(device), again = recover(device);
    if (version != what->allowed[0] && version != what->allowed[1])
        brick("lost", what, version);
    else if (again != version)
        brick("changed", what, again);
    else if (device_update(device, next, counter_of(next), CONFIRMS) != EDGE_OK || recover(device) != next)
        brick("takes no update", what, version);
    total.faults += device->model.n_faults;
    total.boots += device->n_boots;
}

/* Cuts the power at the operation `number` of the act. Gives 0 when it has no such operation. */
static int cut(device *device, const act *what, uint32_t number, uint32_t tear)
{
    uint32_t is_cut;
    device->model.cut_at = device->model.n_operations + number;
    device->model.tear = tear;
    perform(device, what);
    is_cut = device->model.is_dead;
    total.cuts += is_cut;
    model_power_on(&device->model);
    return (int)is_cut;
}

static void cut_everywhere(const device *from, const act *what)
{
    act again = *what;
    uint32_t number, tear, number_again, tear_again, is_there = 1, is_there_again;
    again.version = 0;
    for (number = 0; is_there && number < MOST_OPERATIONS; number++) {
        for (tear = 0; tear < N_TEARS; tear++) {
            copy(device_a, from);
            is_there = (uint32_t)cut(device_a, what, number, tear);
            if (!is_there)
                break;
            total.operations += tear == 0;
            copy(device_b, device_a);
            settle(device_b, what);
            for (number_again = 0, is_there_again = 1; is_there_again && number_again < MOST_OPERATIONS; number_again++)
                for (tear_again = 0; is_there_again && tear_again < N_TEARS; tear_again++) {
                    copy(device_b, device_a);
                    is_there_again = (uint32_t)cut(device_b, &again, number_again, tear_again);
                    settle(device_b, what);
                }
        }
    }
}

/* Each operation fails in each way with the power on; then the device is reset. */
static void fail_everywhere(const device *from, const act *what)
{
    uint32_t number, failure;
    for (failure = 0; failure < N_FAILURES; failure++)
        for (number = 0; number < MOST_OPERATIONS; number++) {
            uint32_t n_operations;
            copy(device_a, from);
            device_a->model.fail_at = n_operations = device_a->model.n_operations + number;
            device_a->model.failure = failure;
            perform(device_a, what);
            if (device_a->model.n_operations <= n_operations)
                break;
            total.operations++;
            model_power_on(&device_a->model);
            settle(device_a, what);
        }
}

static void run_updates(uint32_t n_updates, void (*everywhere)(const device *, const act *))
{
    uint32_t version, current = 1, before = 0;
    edge_slots slots;
    int is_trial;
    act factory = {0, 0, CONFIRMS, {1, 1}};
    device_head(device_c->model.bytes, 1, 0);
    memset(device_c->model.units, PROGRAMMED, device_c->flash.slot_bytes / device_c->model.unit);
    everywhere(device_c, &factory);
    for (version = 2; version < n_updates + 2; version++) {
        act update = {version, counter_of(version), version % 5 == 3 ? REJECTS : version % 5 == 4 ? CRASHES : CONFIRMS, {0, 0}};
        update.allowed[0] = current;
        update.allowed[1] = version;
        everywhere(device_c, &update);
        if (device_update(device_c, version, update.counter, update.end) != EDGE_OK)
            brick("takes no update", &update, current);
        if (update.end == CONFIRMS) {
            before = current;
            current = version;
        }
        if (boot(device_c, &slots, &is_trial) != current || is_trial)
            brick("lost", &update, current);
        if (update.end == CONFIRMS && version % 5 == 2 && before && counter_of(before) == counter_of(version)) {
            act damaged = {0, 0, CONFIRMS, {before, before}};
            uint8_t *bytes = device_c->model.bytes + device_c->flash.slot_address[slots.record.active];
            bytes[130] ^= 4; /* the confirmed head rots: the other one has to take over */
            everywhere(device_c, &damaged);
            bytes[130] ^= 4;
        }
    }
    total.faults += device_c->model.n_faults;
    total.boots += device_c->n_boots;
}

static uint32_t below(uint32_t n)
{
    return model_random(&device_c->model) % n;
}

static void random_place(uint8_t *place, uint32_t base, uint32_t is_wild)
{
    static const uint32_t numbers[] = {0, 1, 2, 3, 255, 0xFFFFFFFEu, 0xFFFFFFFFu};
    edge_record record;
    uint32_t k, kind = below(8);
    if (kind < 2)
        return;
    record.magic = EDGE_RECORD_MAGIC;
    record.sequence = is_wild ? model_random(&device_c->model) : base + below(9);
    record.active = numbers[below(8) ? below(2) : below(7)];
    record.tries = numbers[below(2) ? 6 : below(7)];
    record.version = record.parent = below(9);
    record.counter = numbers[below(4) ? below(3) : below(7)];
    record.crc = edge_crc32(0, (const uint8_t *)&record, EDGE_RECORD_AT_CRC);
    memcpy(place, &record, sizeof record);
    if (kind == 3)
        place[below(32)] ^= (uint8_t)(1u << below(8));
    for (k = kind == 4 ? below(32) : 32; k < 32; k++)
        place[k] = 0xFF;
    for (k = kind == 5 ? 0 : 32; k < 32; k++)
        place[k] = (uint8_t)model_random(&device_c->model);
}

static void random_slot(uint8_t *slot)
{
    static const uint32_t counters[] = {0, 1, 2, 0xFFFFFFFEu, 0xFFFFFFFFu};
    uint32_t kind = below(8), k;
    if (kind == 0)
        return;
    device_head(slot, 1 + below(9), counters[below(4) ? below(3) : below(5)]);
    if (kind == 1)
        slot[below(200)] ^= (uint8_t)(1u << below(8));
    for (k = kind == 2 ? 0 : SLOT_BYTES; k < SLOT_BYTES; k++)
        slot[k] = (uint8_t)model_random(&device_c->model);
}

static void random_device(uint32_t is_wild)
{
    const uint32_t address = device_c->flash.record_address, base = below(2) ? 0u - below(9) : below(1000);
    model_random(&device_c->model);
    memset(device_c->model.bytes, 0xFF, sizeof device_c->model.bytes);
    memset(device_c->model.units, ERASED, sizeof device_c->model.units);
    random_slot(device_c->model.bytes);
    random_slot(device_c->model.bytes + device_c->flash.slot_address[1]);
    for (uint32_t k = address; k < device_c->model.n_bytes; k += EDGE_RECORD_SIZE)
        random_place(device_c->model.bytes + k, base, is_wild);
    for (uint32_t k = 0; k < device_c->model.n_bytes; k++)
        if (device_c->model.bytes[k] != 0xFF)
            device_c->model.units[k / device_c->model.unit] = PROGRAMMED;
}

/* Boots with any records and any slots: what may run does, else nothing, and an update brings the device back. (Not where
 * sequences lie further apart than any device writes them: there is no newest one of three that are each half of all
 * numbers ahead of the next. It boots all the same.) */
static void fuzz(uint32_t n_devices)
{
    act what = {0, 0, CONFIRMS, {0, 100}};
    edge_slots slots;
    int is_trial;
    while (n_devices--) {
        const uint32_t is_wild = n_devices % 4 == 0;
        uint32_t version, counter;
        random_device(is_wild);
        version = boot(device_c, &slots, &is_trial);
        if (is_trial)
            (void)edge_slots_confirm(&slots);
        counter = slots.record.counter;
        if (version == NEVER)
            brick("runs what it must not", &what, version);
        if (version == 0 && (device_check(device_c, 0, counter) == EDGE_OK || device_check(device_c, 1, counter) == EDGE_OK))
            brick("runs nothing", &what, version);
        if (is_wild)
            continue;
        if (device_update(device_c, 100, counter > 5 ? 0xFFFFFFFFu : 5, CONFIRMS) != EDGE_OK || recover(device_c) != 100)
            brick("takes no update", &what, version);
    }
    total.faults += device_c->model.n_faults;
    total.boots += device_c->n_boots;
}

int main(int n_arguments, char **arguments)
{
    static device devices[3];
    uint8_t blob[SLOT_BYTES + 1];
    FILE *file = n_arguments == 8 ? fopen(arguments[1], "rb") : 0;
    const size_t n_bytes = file ? fread(blob, 1, sizeof blob, file) : 0;
    uint32_t numbers[5], k;
    if (!file || fclose(file) || device_template(blob, (uint32_t)n_bytes) != 0)
        return 2;
    for (k = 0; k < 5; k++)
        numbers[k] = (uint32_t)strtoul(arguments[3 + k], 0, 10);
    device_a = devices;
    device_b = devices + 1;
    device_c = devices + 2;
    device_start(device_c, numbers[2], numbers[3], numbers[4]);
    device_c->model.random = numbers[1] ? numbers[1] : 1;
    if (strcmp(arguments[2], "fuzz") == 0)
        fuzz(numbers[0]);
    else
        run_updates(numbers[0], strcmp(arguments[2], "cuts") == 0 ? cut_everywhere : fail_everywhere);
    printf("{\"operations\": %lu, \"cuts\": %lu, \"boots\": %lu, \"bricks\": %lu, \"faults\": %lu}\n", total.operations,
           total.cuts, total.boots, total.bricks, total.faults);
    return total.bricks || total.faults;
}
