/* What a debugger, or QEMU in its place, does for the program: Arm's semihosting. A product has none of it. */
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

void host_text(const char *text);
void host_number(uint32_t number);
void host_exit(uint32_t status);

/* Opens a file in the folder that QEMU was started in, to be read and written; made empty first where `is_new`.
 * Below 0: there is none. */
int host_open(const char *name, int is_new);
void host_close(int file);
uint32_t host_length(int file);

/* Both begin at an offset, and give 0 when all bytes were read or written. */
int host_read(int file, uint32_t offset, void *bytes, uint32_t n_bytes);
int host_write(int file, uint32_t offset, const void *bytes, uint32_t n_bytes);

#endif
