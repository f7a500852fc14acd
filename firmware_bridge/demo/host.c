/* Semihosting: a breakpoint with the number of a call and the address of its arguments. */
#include "host.h"

enum { OPEN = 0x01, CLOSE = 0x02, PRINT = 0x04, WRITE = 0x05, READ = 0x06, SEEK = 0x0A, LENGTH = 0x0C, EXIT = 0x20 };
enum { MODE_UPDATE = 3, MODE_NEW = 7 }; /* fopen's r+b and w+b */
#define ENDED_BY_ITSELF 0x20026u

static uint32_t call(uint32_t number, const void *arguments)
{
    register uint32_t r0 __asm("r0") = number;
    register const void *r1 __asm("r1") = arguments;
    __asm volatile("bkpt 0xAB" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

static uint32_t word(const void *address)
{
    return (uint32_t)(uintptr_t)address;
}

void host_text(const char *text)
{
    call(PRINT, text);
}

void host_number(uint32_t number)
{
    char digits[11];
    char *first = digits + sizeof digits - 1;
    *first = 0;
    do {
        *--first = (char)('0' + number % 10u);
        number /= 10u;
    } while (number);
    host_text(first);
}

void host_exit(uint32_t status)
{
    const uint32_t arguments[2] = {ENDED_BY_ITSELF, status};
    call(EXIT, arguments);
}

int host_open(const char *name, int is_new)
{
    uint32_t arguments[3] = {word(name), is_new ? MODE_NEW : MODE_UPDATE, 0};
    while (name[arguments[2]])
        arguments[2]++;
    return (int)call(OPEN, arguments);
}

void host_close(int file)
{
    const uint32_t arguments[1] = {(uint32_t)file};
    call(CLOSE, arguments);
}

uint32_t host_length(int file)
{
    const uint32_t arguments[1] = {(uint32_t)file};
    return call(LENGTH, arguments);
}

static int transfer(uint32_t number, int file, uint32_t offset, uint32_t address, uint32_t n_bytes)
{
    const uint32_t place[2] = {(uint32_t)file, offset};
    const uint32_t arguments[3] = {(uint32_t)file, address, n_bytes};
    return call(SEEK, place) != 0 || call(number, arguments) != 0; /* READ and WRITE give the bytes left over */
}

int host_read(int file, uint32_t offset, void *bytes, uint32_t n_bytes)
{
    return transfer(READ, file, offset, word(bytes), n_bytes);
}

int host_write(int file, uint32_t offset, const void *bytes, uint32_t n_bytes)
{
    return transfer(WRITE, file, offset, word(bytes), n_bytes);
}
