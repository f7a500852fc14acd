/* The three callbacks of `edge_flash`. On a chip, which keeps its flash by itself, only the calls of board.h stay. */
#include "flash.h"

#include "board.h"
#include "host.h"
#include "memory.h"

#define NAME "flash.bin"
#define BROKEN_RULE 97u /* the program's exit status */

static int file;

static uint32_t all_bytes(void)
{
    return 2u * board_flash.slot_bytes + board_flash.n_record_sectors * board_flash.sector_bytes;
}

static void stop(const char *reason)
{
    host_text("flash: ");
    host_text(reason);
    host_text("\n");
    host_exit(BROKEN_RULE);
}

static void *place(uint32_t address)
{
    return (void *)(uintptr_t)address;
}

static int keep(uint32_t address, uint32_t n_bytes)
{
    return host_write(file, address - board_flash.start, place(address), n_bytes);
}

static int is_outside(uint32_t address, uint32_t n_bytes)
{
    uint32_t offset = address - board_flash.start;
    return offset > all_bytes() || n_bytes > all_bytes() - offset;
}

static int read(void *context, uint32_t address, void *bytes, uint32_t n_bytes)
{
    (void)context;
    if (is_outside(address, n_bytes))
        return 1;
    memcpy(bytes, place(address), n_bytes);
    return 0;
}

static int erase(void *context, uint32_t address)
{
    (void)context;
    if (is_outside(address, board_flash.sector_bytes) || address % board_flash.sector_bytes)
        stop("erases what is no sector");
    board_erase(address);
    return keep(address, board_flash.sector_bytes);
}

static int program(void *context, uint32_t address, const void *bytes, uint32_t n_bytes)
{
    uint32_t n, word;
    (void)context;
    if (is_outside(address, n_bytes) || address % 4u || n_bytes % 4u)
        stop("programs what are no words");
    for (n = 0; n < n_bytes; n += 4u) {
        memcpy(&word, (const uint8_t *)bytes + n, 4);
        board_program(address + n, word);
    }
    if (memcmp(place(address), bytes, n_bytes)) /* bits went from 1 to 0 alone */
        stop("programs what was not erased");
    return keep(address, n_bytes);
}

void flash_open(edge_flash *flash)
{
    uint32_t end = board_flash.start + all_bytes(), address;
    flash->read = read;
    flash->erase = erase;
    flash->program = program;
    flash->context = 0;
    flash->sector_bytes = board_flash.sector_bytes;
    flash->slot_address[0] = board_flash.start;
    flash->slot_address[1] = board_flash.start + board_flash.slot_bytes;
    flash->slot_bytes = board_flash.slot_bytes;
    flash->record_address = board_flash.start + 2u * board_flash.slot_bytes;
    flash->n_record_sectors = board_flash.n_record_sectors;
    file = host_open(NAME, 0);
    if (file >= 0) {
        if (host_length(file) != all_bytes() || host_read(file, 0, place(board_flash.start), all_bytes()))
            stop(NAME " is of another board");
        return;
    }
    file = host_open(NAME, 1);
    for (address = board_flash.start; address != end; address += board_flash.sector_bytes)
        if (file < 0 || erase(0, address))
            stop(NAME " cannot be written");
}
