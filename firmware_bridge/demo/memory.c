#include "memory.h"

/* Keeps the compiler from seeing what a loop does, and from calling the function that it stands in. */
#define UNSEEN() __asm volatile("" ::: "memory")

void *memcpy(void *to, const void *from, size_t n_bytes)
{
    unsigned char *target = (unsigned char *)to;
    const unsigned char *source = (const unsigned char *)from;
    while (n_bytes--) {
        *target++ = *source++;
        UNSEEN();
    }
    return to;
}

void *memmove(void *to, const void *from, size_t n_bytes)
{
    unsigned char *target = (unsigned char *)to;
    const unsigned char *source = (const unsigned char *)from;
    if (target <= source)
        return memcpy(to, from, n_bytes);
    while (n_bytes--) {
        target[n_bytes] = source[n_bytes];
        UNSEEN();
    }
    return to;
}

void *memset(void *to, int byte, size_t n_bytes)
{
    unsigned char *target = (unsigned char *)to;
    while (n_bytes--) {
        *target++ = (unsigned char)byte;
        UNSEEN();
    }
    return to;
}

int memcmp(const void *one, const void *other, size_t n_bytes)
{
    const unsigned char *a = (const unsigned char *)one, *b = (const unsigned char *)other;
    for (; n_bytes--; a++, b++)
        if (*a != *b)
            return *a < *b ? -1 : 1;
    return 0;
}
