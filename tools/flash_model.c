#include "flash_model.h"

#include <string.h>

uint32_t model_random(flash_model *model)
{
    model->random ^= model->random << 13;
    model->random ^= model->random >> 17;
    return model->random ^= model->random << 5;
}

void model_start(flash_model *model, uint32_t n_bytes, uint32_t sector_bytes, uint32_t unit)
{
    memset(model, 0, sizeof *model);
    memset(model->bytes, 0xFF, sizeof model->bytes);
    model->n_bytes = n_bytes;
    model->sector_bytes = sector_bytes;
    model->unit = unit;
    model->random = 1;
    model->bad_sector = NEVER;
    model_power_on(model);
}

void model_power_on(flash_model *model)
{
    model->is_dead = 0;
    model->cut_at = model->fail_at = NEVER;
}

static int is_inside(const flash_model *model, uint32_t address, uint32_t n_bytes)
{
    return n_bytes <= model->n_bytes && address <= model->n_bytes - n_bytes;
}

static int fault(flash_model *model)
{
    model->n_faults++;
    return -1;
}

int model_read(void *context, uint32_t address, void *bytes, uint32_t n_bytes)
{
    flash_model *model = (flash_model *)context;
    uint32_t place;
    if (!is_inside(model, address, n_bytes))
        return fault(model);
    if (model->is_dead)
        return -1;
    for (place = address; place < address + n_bytes; place++)
        if (model->units[place / model->unit] == UNREADABLE) {
            memcpy(bytes, model->bytes + address, n_bytes); /* as it may look: nobody may trust it */
            return -1;
        }
    memcpy(bytes, model->bytes + address, n_bytes);
    return 0;
}

/* What a bit pattern may look like that was on its way from `before` to `after`; place: in the operation. */
static uint8_t torn(flash_model *model, uint8_t before, uint8_t after, uint32_t place, uint32_t n_bytes)
{
    const uint8_t mixed = (uint8_t)model_random(model);
    switch (model->tear) {
    case 1:
        return after;
    case 2:
        return place < n_bytes / 2 ? after : before;
    case 3:
        return place < n_bytes / 2 ? before : after;
    case 4:
        return (uint8_t)((before & 0x55) | (after & 0xAA));
    case 5:
        return (uint8_t)((before & mixed) | (after & ~mixed));
    case 7:
        return model->n_operations & 1u ? after : before;
    default:
        return before;
    }
}

static void mark(flash_model *model, uint32_t address, uint32_t n_bytes, uint8_t state)
{
    memset(model->units + address / model->unit, state, n_bytes / model->unit);
}

static void tear_erase(flash_model *model, uint32_t address)
{
    uint8_t *bytes = model->bytes + address;
    uint32_t k;
    if (model->tear == 0)
        return;
    for (k = 0; k < model->sector_bytes; k++)
        bytes[k] = model->tear == 6 ? (uint8_t)model_random(model) : torn(model, bytes[k], 0xFF, k, model->sector_bytes);
    if (model->tear == 8) /* it looks blank and holds nothing */
        memset(bytes, 0xFF, model->sector_bytes);
    for (k = address / model->unit; k < (address + model->sector_bytes) / model->unit; k++)
        if (model->tear == 1 || model->units[k] != UNREADABLE) /* half an erase mends nothing */
            model->units[k] = model->tear == 7 ? UNREADABLE : model->tear == 1 ? ERASED : HALF_ERASED;
}

static void tear_program(flash_model *model, uint32_t address, const uint8_t *data, uint32_t n_bytes)
{
    uint32_t k;
    if (model->tear == 0)
        return;
    for (k = 0; k < n_bytes; k++)
        model->bytes[address + k] = torn(model, model->bytes[address + k], data[k], k, n_bytes);
    if (model->tear == 8)
        model->bytes[address] &= (uint8_t)(data[0] | 0x7F); /* a single bit */
    mark(model, address, n_bytes, model->tear == 6 ? STUCK : model->tear == 7 ? UNREADABLE : PROGRAMMED);
}

static int fails(const flash_model *model, uint32_t number, uint32_t address)
{
    return number == model->fail_at ||
           (model->bad_sector != NEVER && address - model->bad_sector < model->sector_bytes);
}

int model_erase(void *context, uint32_t address)
{
    flash_model *model = (flash_model *)context;
    uint32_t number, is_failing;
    if (!is_inside(model, address, model->sector_bytes) || address % model->sector_bytes)
        return fault(model);
    if (model->is_dead)
        return -1;
    number = model->n_operations++;
    if (number == model->cut_at) {
        tear_erase(model, address);
        return model->is_dead = 1, -1;
    }
    is_failing = (uint32_t)fails(model, number, address);
    if (is_failing && model->failure != FAILS_YET_DONE)
        return model->failure == FAILS ? -1 : 0;
    memset(model->bytes + address, 0xFF, model->sector_bytes);
    mark(model, address, model->sector_bytes, ERASED);
    return is_failing ? -1 : 0;
}

int model_program(void *context, uint32_t address, const void *bytes, uint32_t n_bytes)
{
    flash_model *model = (flash_model *)context;
    const uint8_t *data = (const uint8_t *)bytes;
    uint32_t k, number, is_failing, is_stuck = 0;
    if (!is_inside(model, address, n_bytes) || address % model->unit || n_bytes % model->unit || !n_bytes)
        return fault(model);
    if (model->is_dead)
        return -1;
    number = model->n_operations++;
    for (k = 0; k < n_bytes; k++) {
        const uint8_t state = model->units[(address + k) / model->unit];
        is_stuck |= state == STUCK;
        if (state == PROGRAMMED || state == UNREADABLE || state == HALF_ERASED || (data[k] & ~model->bytes[address + k]))
            return fault(model);
    }
    if (number == model->cut_at) {
        tear_program(model, address, data, n_bytes);
        return model->is_dead = 1, -1;
    }
    is_failing = (uint32_t)fails(model, number, address);
    if (is_stuck || (is_failing && model->failure == FAILS))
        return -1;
    if (is_failing && model->failure == LIES)
        return 0;
    mark(model, address, n_bytes, PROGRAMMED);
    n_bytes = is_failing && model->failure == LIES_HALF ? n_bytes / 2 : n_bytes;
    memcpy(model->bytes + address, data, n_bytes);
    return is_failing && model->failure == FAILS_YET_DONE ? -1 : 0;
}
