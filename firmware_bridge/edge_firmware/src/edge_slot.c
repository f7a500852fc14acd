/* Two slots and the records that say which one runs. See edge_slot.h; slots.py is the same in Python, decision by
 * decision and byte by byte. */
#include "edge_slot.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are read as they lie: for little-endian cores only"
#endif

#define NOT_BOOTED 0xFFFFFFFEu /* `chosen` before `boot`: no slot, and not EDGE_NO_SLOT */

typedef char edge_record_has_no_gaps[sizeof(edge_record) == EDGE_RECORD_SIZE ? 1 : -1];

static int read_place(const edge_slots *slots, uint32_t place, edge_record *record)
{
    const edge_flash *flash = slots->flash;
    return flash->read(flash->context, flash->record_address + place, record, EDGE_RECORD_SIZE);
}

static uint32_t crc_of(const edge_record *record)
{
    return edge_crc32(0, (const uint8_t *)record, EDGE_RECORD_AT_CRC);
}

/* Finds the newest record. Without one none is confirmed, and the first one will go to the start of the first sector. */
static void find(edge_slots *slots)
{
    const uint32_t n_bytes = slots->flash->n_record_sectors * slots->flash->sector_bytes;
    edge_record found;
    uint32_t place, n_found = 0;
    slots->place = n_bytes - EDGE_RECORD_SIZE;
    slots->record.magic = EDGE_RECORD_MAGIC;
    slots->record.sequence = slots->record.version = slots->record.parent = slots->record.counter = 0;
    slots->record.active = EDGE_NO_SLOT;
    slots->record.tries = EDGE_NO_TRIAL;
    for (place = 0; place < n_bytes; place += EDGE_RECORD_SIZE) {
        if (read_place(slots, place, &found) != 0 || found.magic != EDGE_RECORD_MAGIC || found.active + 1u > 2u ||
            found.crc != crc_of(&found))
            continue;
        /* The sequence may wrap: what is less than half of all numbers ahead is newer. */
        if (n_found++ != 0 && found.sequence - slots->record.sequence > 0x7FFFFFFFu)
            continue;
        slots->place = place;
        slots->record = found;
    }
}

/* Whether a place holds the record of `slots`; is_blank: whether it holds nothing since the last erase. */
static int holds(const edge_slots *slots, uint32_t place, int is_blank)
{
    edge_record found;
    uint32_t k;
    if (read_place(slots, place, &found) != 0)
        return 0;
    for (k = 0; k < EDGE_RECORD_SIZE; k++)
        if (((const uint8_t *)&found)[k] != (is_blank ? 0xFFu : ((const uint8_t *)&slots->record)[k]))
            return 0;
    return 1;
}

/* Writes the record of `slots` into the next free place behind the newest one; what does not take it is left behind.
 * The sector of the newest record is never erased, so that there is one at every moment. A sector is erased when it is
 * entered even if it looks blank: so may what a cut has left of an erase. */
static edge_error save(edge_slots *slots, uint32_t active, uint32_t tries)
{
    const edge_flash *flash = slots->flash;
    uint32_t place = slots->place, n_sectors = flash->n_record_sectors;
    slots->record.active = active;
    slots->record.tries = tries;
    for (;;) {
        place += EDGE_RECORD_SIZE;
        if ((place & (flash->sector_bytes - 1u)) == 0) {
            if (--n_sectors == 0)
                break;
            if (place == flash->n_record_sectors * flash->sector_bytes)
                place = 0;
            if (flash->erase(flash->context, flash->record_address + place) != 0) {
                place += flash->sector_bytes - EDGE_RECORD_SIZE;
                continue;
            }
        }
        if (!holds(slots, place, 1))
            continue;
        slots->record.sequence++; /* of each attempt: one that failed and is there after all must be the older */
        slots->record.crc = crc_of(&slots->record);
        if (flash->program(flash->context, flash->record_address + place, &slots->record, EDGE_RECORD_SIZE) == 0 &&
            holds(slots, place, 0)) {
            slots->place = place;
            return EDGE_OK;
        }
    }
    find(slots); /* nothing was written, or it seemed so: what is there counts */
    return EDGE_E_FLASH;
}

/* Takes over the numbers of the head in a slot that will be the confirmed one. */
static int take(edge_slots *slots, uint32_t slot)
{
    const edge_flash *flash = slots->flash;
    uint32_t numbers[3]; /* version, parent, counter: as they lie in a blob, and in a record */
    if (flash->read(flash->context, flash->slot_address[slot] + EDGE_BLOB_AT_VERSION, numbers, sizeof numbers) != 0)
        return 0;
    slots->record.version = numbers[0];
    slots->record.parent = numbers[1];
    if (numbers[2] > slots->record.counter) /* it never falls, whatever `check` lets pass */
        slots->record.counter = numbers[2];
    return 1;
}

void edge_slots_open(edge_slots *slots, const edge_flash *flash, edge_check check, void *context)
{
    slots->flash = flash;
    slots->check = check;
    slots->context = context;
    slots->chosen = NOT_BOOTED;
    find(slots);
}

/* Whether the head in a slot may run. */
static int passes(const edge_slots *slots, uint32_t slot, uint32_t counter)
{
    return slots->check(slots->context, slot, counter) == EDGE_OK;
}

edge_error edge_slots_boot(edge_slots *slots, uint32_t *slot, int *is_trial)
{
    uint32_t active = slots->record.active, least, other;
    *is_trial = 0;
    if (slots->record.tries != EDGE_NO_TRIAL) {
        /* Counted before the check: a head that stops the device in it must not be tried for ever. */
        if (slots->record.tries != 0 && save(slots, active, slots->record.tries - 1u) == EDGE_OK &&
            passes(slots, active == 0, slots->record.counter)) {
            *is_trial = 1;
            *slot = slots->chosen = active == 0;
            return EDGE_OK;
        }
        (void)edge_slots_reject(slots); /* where that fails the next boot ends the trial */
        active = slots->record.active;
    }
    *slot = slots->chosen = active;
    least = slots->record.counter;
    if (active != EDGE_NO_SLOT && passes(slots, active, least))
        return EDGE_OK;
    for (other = 0; other < 2u; other++) {
        if (other == active || !passes(slots, other, least) || !take(slots, other))
            continue;
        *slot = slots->chosen = other;
        least = slots->record.counter + 1u; /* a second one must have a higher counter */
        if (least == 0)
            break;
    }
    if (slots->chosen == active)
        return EDGE_E_EMPTY;
    (void)save(slots, slots->chosen, EDGE_NO_TRIAL); /* else the next boot chooses again; no slot is spare till then */
    return EDGE_OK;
}

edge_error edge_slots_confirm(edge_slots *slots)
{
    const uint32_t trial = slots->record.active == 0;
    if (slots->record.tries == EDGE_NO_TRIAL || slots->chosen != trial)
        return EDGE_E_STATE;
    return take(slots, trial) ? save(slots, trial, EDGE_NO_TRIAL) : EDGE_E_FLASH;
}

edge_error edge_slots_reject(edge_slots *slots)
{
    return slots->record.tries == EDGE_NO_TRIAL ? EDGE_E_STATE : save(slots, slots->record.active, EDGE_NO_TRIAL);
}

edge_error edge_slots_spare(edge_slots *slots, uint32_t *slot)
{
    if (slots->chosen != slots->record.active)
        return EDGE_E_STATE;
    *slot = slots->chosen == 0;
    return slots->record.tries == EDGE_NO_TRIAL ? EDGE_OK : edge_slots_reject(slots);
}

edge_error edge_slots_try(edge_slots *slots, uint32_t tries)
{
    const uint32_t active = slots->record.active, spare = active == 0;
    edge_error error;
    if (slots->chosen != active || tries == 0 || tries == EDGE_NO_TRIAL)
        return EDGE_E_STATE;
    error = slots->check(slots->context, spare, slots->record.counter);
    return error == EDGE_OK ? save(slots, active, tries) : error;
}
