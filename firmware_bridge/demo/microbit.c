/* The micro:bit: nRF51822, a Cortex-M0 with 256 KiB of flash and 16 KiB of RAM. Its flash is written as the chip wants
 * it, through the NVMC. */
#include "board.h"
#include "cortex.h"

#define UART_START_RECEIVE REGISTER(0x40002000u)
#define UART_START_SEND REGISTER(0x40002008u)
#define UART_RECEIVED REGISTER(0x40002108u)
#define UART_SENT REGISTER(0x4000211Cu)
#define UART_INTERRUPTS REGISTER(0x40002304u)
#define UART_ENABLE REGISTER(0x40002500u)
#define UART_PIN_SEND REGISTER(0x4000250Cu)
#define UART_PIN_RECEIVE REGISTER(0x40002514u)
#define UART_READ REGISTER(0x40002518u)
#define UART_WRITE REGISTER(0x4000251Cu)
#define UART_BAUD REGISTER(0x40002524u)
#define AT_RECEIVED 4u
#define INTERRUPT 2u /* the UART's, at the NVIC */
#define BAUD_115200 0x01D7E000u
#define WATCHDOG_START REGISTER(0x40010000u)
#define WATCHDOG_TICKS REGISTER(0x40010504u)
#define WATCHDOG_ALIVE REGISTER(0x40010600u)
#define WATCHDOG_HZ 32768u
#define ALIVE 0x6E524635u
#define NVMC_READY REGISTER(0x4001E400u)
#define NVMC_CONFIG REGISTER(0x4001E504u)
#define NVMC_ERASE_PAGE REGISTER(0x4001E508u)
#define READ_ONLY 0u
#define WRITE 1u
#define ERASE 2u

const board_map board_flash = {0x00010000u, 1024u, 0x00010000u, 4u};

void board_start(void)
{
    UART_PIN_SEND = 24u;
    UART_PIN_RECEIVE = 25u;
    UART_BAUD = BAUD_115200;
    UART_ENABLE = 4u;
    UART_INTERRUPTS = AT_RECEIVED;
    UART_START_RECEIVE = 1u;
    UART_START_SEND = 1u;
}

int board_receive(void)
{
    if (!UART_RECEIVED)
        return -1;
    UART_RECEIVED = 0; /* before the byte is taken: taking it announces the next one */
    return (int)(UART_READ & 0xFFu);
}

void board_wait(void)
{
    cortex_wait(INTERRUPT);
}

void board_send(uint8_t byte)
{
    UART_SENT = 0;
    UART_WRITE = byte;
    while (!UART_SENT) {
    }
}

/* QEMU has no model of this one: here a program that hangs, hangs. */
void board_watch(void)
{
    WATCHDOG_TICKS = 10u * WATCHDOG_HZ; /* a signature takes 2 s; once it runs the chip takes no other number */
    WATCHDOG_START = 1u;
    WATCHDOG_ALIVE = ALIVE;
}

static void wait(void)
{
    while (!(NVMC_READY & 1u)) {
    }
}

void board_erase(uint32_t address)
{
    NVMC_CONFIG = ERASE;
    NVMC_ERASE_PAGE = address;
    wait();
    NVMC_CONFIG = READ_ONLY;
}

void board_program(uint32_t address, uint32_t word)
{
    NVMC_CONFIG = WRITE;
    REGISTER(address) = word;
    wait();
    NVMC_CONFIG = READ_ONLY;
}
