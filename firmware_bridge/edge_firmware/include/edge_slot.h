/* Two slots for heads and the records that say which one runs: whatever byte a power cut leaves, a head that was
 * verified starts, the one before or the new one. */
#ifndef EDGE_SLOT_H
#define EDGE_SLOT_H

#include "edge_head.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The flash. Callbacks give 0 when done; bits go from 1 to 0 by `program` and back by `erase` alone. */
typedef struct edge_flash {
    int (*read)(void *context, uint32_t address, void *bytes, uint32_t n_bytes);
    int (*erase)(void *context, uint32_t address); /* one sector */
    int (*program)(void *context, uint32_t address, const void *bytes, uint32_t n_bytes); /* multiples of the unit */
    void *context;
    uint32_t sector_bytes;
    uint32_t slot_address[2];
    uint32_t slot_bytes;     /* a multiple of the sector */
    uint32_t record_address; /* of n_record_sectors sectors, at least 2 */
    uint32_t n_record_sectors;
} edge_flash;

/* Says whether the head in a slot may run: whole, signed, for this device, its counter no lower than `counter`, and
 * its canaries get their answers. */
typedef edge_error (*edge_check)(void *context, uint32_t slot, uint32_t counter);

typedef struct edge_slots {
    const edge_flash *flash;
    edge_check check;
    void *context;         /* what `check` is given */
    uint32_t place;        /* of the newest record; EDGE_NONE: there is none */
    uint8_t record[EDGE_RECORD_SIZE];
} edge_slots;

/* Reads the records. Every content of the flash is a state: without a valid record no slot is confirmed. */
void edge_slots_open(edge_slots *slots, const edge_flash *flash, edge_check check, void *context);

/* Chooses the slot to run: one on trial, after a try was counted and if its check passes, else the confirmed one, else
 * any whose check passes. EDGE_E_EMPTY: none may run. `is_trial`: it has to be confirmed. */
edge_error edge_slots_boot(edge_slots *slots, uint32_t *slot, int *is_trial);

/* Makes the slot on trial the confirmed one; from now on no lower counter is taken than its head's. */
edge_error edge_slots_confirm(edge_slots *slots, uint32_t version, uint32_t counter);

/* Ends a trial: the confirmed slot runs from the next boot on. */
edge_error edge_slots_reject(edge_slots *slots);

/* The slot to write a new head into; a trial in it ends before. Its sectors are for the caller to erase. */
edge_error edge_slots_spare(edge_slots *slots, uint32_t *slot);

/* Puts the spare slot on trial for so many boots, if its check passes. */
edge_error edge_slots_try(edge_slots *slots, uint32_t tries);

uint32_t edge_slots_active(const edge_slots *slots);  /* EDGE_NONE: none is confirmed */
uint32_t edge_slots_counter(const edge_slots *slots); /* the lowest that is taken */

#ifdef __cplusplus
}
#endif

#endif
