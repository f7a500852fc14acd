/* What all Cortex-M have alike. */
#ifndef CORTEX_H
#define CORTEX_H

#include <stdint.h>

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define TICK_CONTROL REGISTER(0xE000E010u)
#define TICK_CLOCKS REGISTER(0xE000E014u)
#define TICK_RUN 7u /* at the clock of the core, pending at its end */
#define NVIC_ENABLE REGISTER(0xE000E100u)
#define NVIC_CLEAR REGISTER(0xE000E280u)
#define INTERRUPT_CONTROL REGISTER(0xE000ED04u)
#define CLEAR_TICK (1u << 25)

/* Sleeps until an interrupt (0 to 31) is pending, and some 10 ms at most. Interrupts are masked all the time, so no
 * handler is ever called: one that comes between a look at the UART and the sleep still ends the sleep. QEMU needs the
 * tick: a byte that came while the UART was off is offered again only when something else wakes it. */
static inline void cortex_wait(uint32_t interrupt)
{
    __asm volatile("cpsid i" ::: "memory");
    NVIC_ENABLE = 1u << interrupt;
    TICK_CLOCKS = 0x3FFFFu;
    TICK_CONTROL = TICK_RUN;
    __asm volatile("dsb\n wfi" ::: "memory");
    NVIC_CLEAR = 1u << interrupt;
    INTERRUPT_CONTROL = CLEAR_TICK;
}

#endif
