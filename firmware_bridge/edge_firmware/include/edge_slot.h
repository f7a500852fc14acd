/* Two slots for heads and the records that say which one runs: whatever byte a power cut leaves, a head that was
 * verified starts, the one before or the new one.
 *
 * After a reset: open, then boot. An update: spare, erase and program that slot, try, reset; then boot gives the new head
 * on trial, and confirm or reject ends the trial. What is called out of this order gives EDGE_E_STATE and writes
 * nothing. */
#ifndef EDGE_SLOT_H
#define EDGE_SLOT_H

#include "edge_head.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The flash. Callbacks give 0 when done; bits go from 1 to 0 by `program` and back by `erase` alone. Records are read
 * and programmed as whole 32 bytes, at multiples of 32: units of up to 32 bytes will do. None is programmed twice,
 * unless a cut came before the first of its bits was cleared. */
typedef struct edge_flash {
    int (*read)(void *context, uint32_t address, void *bytes, uint32_t n_bytes);
    int (*erase)(void *context, uint32_t address); /* one sector */
    int (*program)(void *context, uint32_t address, const void *bytes, uint32_t n_bytes); /* multiples of the unit */
    void *context;
    uint32_t sector_bytes; /* a power of two, at least 32 */
    uint32_t slot_address[2];
    uint32_t slot_bytes;     /* a multiple of the sector */
    uint32_t record_address; /* of n_record_sectors sectors, at least 2 */
    uint32_t n_record_sectors;
} edge_flash;

/* Says whether the head in a slot may run: whole, signed, for this device, its counter no lower than `counter`, and
 * its canaries get their answers. Where it says EDGE_OK the slot begins with the head's blob. */
typedef edge_error (*edge_check)(void *context, uint32_t slot, uint32_t counter);

/* A record as it lies in flash. */
typedef struct edge_record {
    uint32_t magic;
    uint32_t sequence;
    uint32_t active; /* the slot that is confirmed; EDGE_NO_SLOT: none */
    uint32_t tries;  /* boots that the trial of the other slot has left; EDGE_NO_TRIAL: there is none */
    uint32_t version;
    uint32_t parent;
    uint32_t counter; /* the lowest security counter that is taken */
    uint32_t crc;
} edge_record;

typedef struct edge_slots {
    const edge_flash *flash;
    edge_check check;
    void *context;      /* what `check` is given */
    uint32_t place;     /* of the newest record, in bytes from the first sector's start */
    uint32_t chosen;    /* the slot that `boot` chose; where none may run, the confirmed one */
    edge_record record; /* the newest */
} edge_slots;

/* Reads the records. Every content of the flash is a state: without a valid record no slot is confirmed. */
void edge_slots_open(edge_slots *slots, const edge_flash *flash, edge_check check, void *context);

/* Chooses the slot to run: one on trial, after a try was counted and if its check passes, else the confirmed one, else
 * any whose check passes, which then is the confirmed one (of two the one of the higher counter, of equal ones slot 0).
 * EDGE_E_EMPTY: none may run. `is_trial`: it has to be confirmed. */
edge_error edge_slots_boot(edge_slots *slots, uint32_t *slot, int *is_trial);

/* Makes the slot that runs on trial the confirmed one; from now on no lower counter is taken than its head's. */
edge_error edge_slots_confirm(edge_slots *slots);

/* Ends a trial: the confirmed slot runs from the next boot on. */
edge_error edge_slots_reject(edge_slots *slots);

/* The slot to write a new head into; a trial of it that waits for a boot ends before. Its sectors are for the caller to
 * erase. Never the slot that runs: EDGE_E_STATE while one runs that is not the confirmed one. */
edge_error edge_slots_spare(edge_slots *slots, uint32_t *slot);

/* Puts the spare slot on trial for so many boots, at least 1, if its check passes; else what the check said. */
edge_error edge_slots_try(edge_slots *slots, uint32_t tries);

#ifdef __cplusplus
}
#endif

#endif
