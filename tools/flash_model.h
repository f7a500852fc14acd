/* Flash as the worst parts have it: it enforces the rules and tears what power cuts off. */
#ifndef FLASH_MODEL_H
#define FLASH_MODEL_H

#include <stdint.h>

#define MODEL_BYTES 16384u
#define NEVER 0xFFFFFFFFu

enum { ERASED, PROGRAMMED, STUCK, UNREADABLE, HALF_ERASED }; /* of a unit */
enum { N_TEARS = 9 };                                        /* ways to tear what is cut off */
enum { FAILS, FAILS_YET_DONE, LIES, LIES_HALF, N_FAILURES }; /* ways to fail with the power on */

typedef struct flash_model {
    uint8_t bytes[MODEL_BYTES];
    uint8_t units[MODEL_BYTES]; /* what each unit is; by its number */
    uint32_t n_bytes;
    uint32_t sector_bytes;
    uint32_t unit;
    uint32_t n_operations; /* erases and programs, begun */
    uint32_t cut_at;       /* the operation at which power goes; NEVER */
    uint32_t tear;         /* how what was cut off is left behind, below N_TEARS */
    uint32_t fail_at;      /* the operation that fails with the power on; NEVER */
    uint32_t failure;      /* how it fails, below N_FAILURES */
    uint32_t bad_sector;   /* the address of a sector that fails always; NEVER */
    uint32_t random;       /* state of the random numbers */
    uint32_t is_dead;      /* power is off: nothing works until `model_power_on` */
    uint32_t n_faults;     /* rules that were broken */
} flash_model;

void model_start(flash_model *model, uint32_t n_bytes, uint32_t sector_bytes, uint32_t unit);
void model_power_on(flash_model *model);
int model_read(void *context, uint32_t address, void *bytes, uint32_t n_bytes);
int model_erase(void *context, uint32_t address);
int model_program(void *context, uint32_t address, const void *bytes, uint32_t n_bytes);
uint32_t model_random(flash_model *model);

#endif
