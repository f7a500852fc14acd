#include "slot_device.h"

#include <string.h>

static uint8_t template_head[SLOT_BYTES];
static uint32_t template_bytes;

static void put32(uint8_t *bytes, uint32_t value)
{
    uint32_t k;
    for (k = 0; k < 4; k++)
        bytes[k] = (uint8_t)(value >> 8 * k);
}

static uint32_t get32(const uint8_t *bytes)
{
    return bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

int device_template(const uint8_t *blob, uint32_t n_bytes)
{
    const edge_expected any = {0, 0, 0, 0, 0, 0, 0};
    edge_head head;
    if (n_bytes > SLOT_BYTES || edge_head_open(&head, blob, n_bytes, &any) != EDGE_OK || head.dim > 64 || head.n_classes > 64)
        return -1;
    memset(template_head, 0xFF, sizeof template_head);
    memcpy(template_head, blob, n_bytes);
    template_bytes = n_bytes;
    return 0;
}

void device_head(uint8_t *head, uint32_t version, uint32_t counter)
{
    const uint32_t end = template_bytes - EDGE_SIGNATURE_BYTES - 4;
    memcpy(head, template_head, SLOT_BYTES);
    put32(head + EDGE_BLOB_AT_VERSION, version);
    put32(head + EDGE_BLOB_AT_PARENT, version - 1);
    put32(head + EDGE_BLOB_AT_COUNTER, counter);
    put32(head + end, edge_crc32(0, head, end));
}

void device_start(device *device, uint32_t sector_bytes, uint32_t n_record_sectors, uint32_t unit)
{
    edge_flash *flash = &device->flash;
    const uint32_t slot_bytes = sector_bytes > SLOT_BYTES ? sector_bytes : SLOT_BYTES;
    model_start(&device->model, 2 * slot_bytes + n_record_sectors * sector_bytes, sector_bytes, unit);
    flash->read = model_read;
    flash->erase = model_erase;
    flash->program = model_program;
    flash->context = &device->model;
    flash->sector_bytes = sector_bytes;
    flash->slot_address[0] = 0;
    flash->slot_address[1] = slot_bytes;
    flash->slot_bytes = slot_bytes;
    flash->record_address = 2 * slot_bytes;
    flash->n_record_sectors = n_record_sectors;
    device->n_boots = 0;
}

static const uint8_t *slot_bytes(const device *device, uint32_t slot)
{
    return device->model.bytes + device->flash.slot_address[slot];
}

/* Stands for a signature: that of the template is the right one. */
static edge_error verify(const void *key, const uint8_t *blob, uint32_t n_bytes)
{
    const uint8_t *wanted = (const uint8_t *)key + template_bytes - EDGE_SIGNATURE_BYTES;
    return memcmp(blob + n_bytes, wanted, EDGE_SIGNATURE_BYTES) == 0 ? EDGE_OK : EDGE_E_SIGNATURE;
}

edge_error device_check(void *context, uint32_t slot, uint32_t counter)
{
    device *self = (device *)context;
    edge_expected expected = {"device", 0, 0, 64, 0, 0, 0};
    edge_head head;
    edge_error error;
    int8_t scratch[64];
    float logits[64];
    expected.counter = counter;
    expected.verify = verify;
    expected.key = template_head;
    error = edge_head_open(&head, slot_bytes(self, slot), self->flash.slot_bytes, &expected);
    return error == EDGE_OK ? edge_head_check_i8(&head, scratch, logits) : error;
}

uint32_t device_boot(device *device, edge_slots *slots, uint32_t *slot, int *is_trial)
{
    uint8_t wanted[SLOT_BYTES];
    const uint8_t *found;
    uint32_t version;
    device->n_boots++;
    edge_slots_open(slots, &device->flash, device_check, device);
    if (edge_slots_boot(slots, slot, is_trial) != EDGE_OK)
        return 0;
    found = slot_bytes(device, *slot);
    version = get32(found + EDGE_BLOB_AT_VERSION);
    device_head(wanted, version, get32(found + EDGE_BLOB_AT_COUNTER));
    return memcmp(found, wanted, template_bytes) == 0 ? version : NEVER;
}

/* Writes a head into a slot; where the flash is seen to fail, EDGE_E_FLASH. */
static edge_error write_head(device *device, uint32_t slot, uint32_t version, uint32_t counter)
{
    const uint32_t address = device->flash.slot_address[slot], sector_bytes = device->flash.sector_bytes;
    uint8_t head[SLOT_BYTES];
    uint32_t offset, k;
    device_head(head, version, counter);
    for (offset = 0; offset < device->flash.slot_bytes; offset += sector_bytes) {
        if (model_erase(&device->model, address + offset) != 0)
            return EDGE_E_FLASH;
        for (k = 0; k < sector_bytes; k++) /* an erase that did nothing must not be programmed over */
            if (device->model.bytes[address + offset + k] != 0xFF)
                return EDGE_E_FLASH;
    }
    for (offset = 0; offset < template_bytes; offset += CHUNK_BYTES)
        if (model_program(&device->model, address + offset, head + offset, CHUNK_BYTES) != 0)
            return EDGE_E_FLASH;
    return EDGE_OK;
}

edge_error device_update(device *device, uint32_t version, uint32_t counter, ending end)
{
    edge_slots slots;
    uint32_t running, slot = 0, n_boots = 0;
    int is_trial;
    edge_error error;
    if (device_boot(device, &slots, &running, &is_trial) == 0)
        running = NEVER; /* a device without a head takes one */
    if (is_trial && (error = edge_slots_confirm(&slots)) != EDGE_OK)
        return error;
    if ((error = edge_slots_spare(&slots, &slot)) != EDGE_OK)
        return error;
    if (slot == running) {
        device->model.n_faults++;
        return EDGE_E_STATE;
    }
    if ((error = write_head(device, slot, version, counter)) != EDGE_OK)
        return error;
    if ((error = edge_slots_try(&slots, 2)) != EDGE_OK)
        return error;
    while (device_boot(device, &slots, &running, &is_trial) == version && is_trial && !device->model.is_dead && n_boots++ < 4)
        if (end != CRASHES)
            return end == CONFIRMS ? edge_slots_confirm(&slots) : edge_slots_reject(&slots);
    return end == CRASHES && running != slot ? EDGE_OK : EDGE_E_CANARY;
}
