/* What a board gives to the demo: a UART, flash, a watchdog. One file for a family of boards has it all: to port the
 * demo means to write another one. */
#ifndef BOARD_H
#define BOARD_H

#include <stdint.h>

/* Where heads lie in flash: two slots, and the sectors of their records behind them. */
typedef struct board_map {
    uint32_t start;
    uint32_t sector_bytes;
    uint32_t slot_bytes;
    uint32_t n_record_sectors;
} board_map;

extern const board_map board_flash;

/* Once after each reset: clocks and the UART. */
void board_start(void);

/* The next byte that came, or -1. */
int board_receive(void);

/* Sleeps until a byte may have come. */
void board_wait(void);
void board_send(uint8_t byte);

/* Starts the watchdog, and tells it that all is well: some seconds without a call, and the chip is reset or `on_fault`
 * called. */
void board_watch(void);

/* Erases a sector; clears the bits of one word that are 0 in `word`. Both wait until it is done. */
void board_erase(uint32_t address);
void board_program(uint32_t address, uint32_t word);

#endif
