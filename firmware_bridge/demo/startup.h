/* From reset to main, and back. */
#ifndef STARTUP_H
#define STARTUP_H

#include <stdint.h>

/* Where the chip begins. */
void on_reset(void);

/* Starts the chip anew; does not come back. */
void startup_reset(void);

/* The most bytes of stack that were in use since the reset. */
uint32_t startup_stack_bytes(void);

int main(void);

/* Called at any fault; a program brings its own. */
void on_fault(void);

#endif
