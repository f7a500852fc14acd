/* The vectors, and what C wants to find before main. */
#include "startup.h"

#include "board.h"
#include "cortex.h"
#include "host.h"

#define RESET_CONTROL REGISTER(0xE000ED0Cu)
#define RESET_NOW 0x05FA0004u
#define FPU_ACCESS REGISTER(0xE000ED88u)
#define UNUSED 0xA5A5A5A5u
#define OWN_FRAME 256u /* bytes below the frame of on_reset that are left alone: it is in use */

extern uint32_t link_data_load[], link_data[], link_data_end[], link_bss[], link_bss_end[], link_stack[];
void link_stack_top(void); /* an address as the others, but a vector has the type of a function */

void on_reset(void)
{
    const uint32_t *from = link_data_load;
    uint32_t *to;
#if defined(__ARM_FP)
    FPU_ACCESS |= 0xFu << 20;
    __asm volatile("dsb\n isb");
#endif
    for (to = link_data; to < link_data_end;)
        *to++ = *from++;
    for (to = link_bss; to < link_bss_end;)
        *to++ = 0;
    for (to = link_stack; (uintptr_t)to < (uintptr_t)__builtin_frame_address(0) - OWN_FRAME;)
        *to++ = UNUSED;
    board_start();
    host_exit((uint32_t)main());
    for (;;) {
    }
}

void startup_reset(void)
{
    __asm volatile("dsb" ::: "memory");
    RESET_CONTROL = RESET_NOW;
    for (;;) {
    }
}

uint32_t startup_stack_bytes(void)
{
    const uint32_t *lowest = link_stack;
    while (*lowest == UNUSED)
        lowest++;
    return (uint32_t)((uintptr_t)link_stack_top - (uintptr_t)lowest);
}

typedef void (*vector)(void);

__attribute__((section(".vectors"), used)) static const vector VECTORS[16] = {
    link_stack_top, on_reset, on_fault, on_fault, on_fault, on_fault, on_fault, 0, 0, 0, 0,
    on_fault,       on_fault, 0,        on_fault, on_fault,
};
