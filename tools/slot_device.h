/* A device with two slots on the modelled flash: heads, and what an application does with them. */
#ifndef SLOT_DEVICE_H
#define SLOT_DEVICE_H

#include "edge_slot.h"
#include "flash_model.h"

#define SLOT_BYTES 512u
#define CHUNK_BYTES 128u

typedef struct device {
    flash_model model;
    edge_flash flash;
    unsigned long n_boots; /* so far */
} device;

/* What an application does with a head that runs on trial. */
typedef enum ending { CONFIRMS, REJECTS, CRASHES } ending;

/* Sets up an empty device; records lie in sectors of their own behind the slots. */
void device_start(device *device, uint32_t sector_bytes, uint32_t n_record_sectors, uint32_t unit);

/* Takes the head that others are made of (an int8 blob of at most SLOT_BYTES). Gives 0 when it is usable. */
int device_template(const uint8_t *blob, uint32_t n_bytes);

/* Fills SLOT_BYTES with the head of a version. */
void device_head(uint8_t *head, uint32_t version, uint32_t counter);

/* An `edge_check` of a device: opens the head where it lies and asks its canaries. */
edge_error device_check(void *context, uint32_t slot, uint32_t counter);

/* Reset: opens the slots and boots. Where a head runs gives its version, once each of its bytes was found right; 0 where
 * none runs, NEVER where what runs is no head that was ever written. */
uint32_t device_boot(device *device, edge_slots *slots, uint32_t *slot, int *is_trial);

/* One update: writes the head, tries it out, resets, and ends the trial. Gives EDGE_OK when all of it was done. */
edge_error device_update(device *device, uint32_t version, uint32_t counter, ending end);

#endif
