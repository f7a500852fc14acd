/* Arm's MPS2 boards: AN385 (Cortex-M3), AN386 (M4F), AN500 (M7). They have no flash: a part of the RAM that the program
 * runs from takes its place, and keeps to flash's rules because `flash.c` watches them. */
#include "board.h"
#include "cortex.h"

#define UART_DATA REGISTER(0x40004000u)
#define UART_STATE REGISTER(0x40004004u)
#define UART_CONTROL REGISTER(0x40004008u)
#define UART_INTERRUPT REGISTER(0x4000400Cu)
#define UART_DIVIDER REGISTER(0x40004010u)
#define IS_SENDING 1u
#define HAS_RECEIVED 2u
#define SEND_AND_RECEIVE 3u
#define INTERRUPT_AT_RECEIVED 8u
#define INTERRUPT 0u /* the UART's receiving one, at the NVIC */
#define WATCHDOG_CLOCKS REGISTER(0x40008000u)
#define WATCHDOG_CONTROL REGISTER(0x40008008u)
#define WATCHDOG_ALIVE REGISTER(0x4000800Cu)
#define INTERRUPT_THEN_RESET 3u
#define CLOCK_HZ 25000000u
#define BAUD_HZ 115200u

const board_map board_flash = {0x00100000u, 4096u, 0x00040000u, 2u};

void board_start(void)
{
    UART_DIVIDER = CLOCK_HZ / BAUD_HZ;
    UART_CONTROL = SEND_AND_RECEIVE | INTERRUPT_AT_RECEIVED;
}

int board_receive(void)
{
    if (!(UART_STATE & HAS_RECEIVED))
        return -1;
    UART_INTERRUPT = HAS_RECEIVED; /* before the byte is taken: taking it lets the next one come */
    return (int)(UART_DATA & 0xFFu);
}

void board_wait(void)
{
    cortex_wait(INTERRUPT);
}

void board_send(uint8_t byte)
{
    while (UART_STATE & IS_SENDING) {
    }
    UART_DATA = byte;
}

void board_watch(void)
{
    if (!WATCHDOG_CONTROL) {
        WATCHDOG_CLOCKS = 3u * CLOCK_HZ;
        WATCHDOG_CONTROL = INTERRUPT_THEN_RESET;
    }
    WATCHDOG_ALIVE = 1u;
}

void board_erase(uint32_t address)
{
    uint32_t n;
    for (n = 0; n < board_flash.sector_bytes; n += 4u)
        REGISTER(address + n) = 0xFFFFFFFFu;
}

void board_program(uint32_t address, uint32_t word)
{
    REGISTER(address) &= word;
}
