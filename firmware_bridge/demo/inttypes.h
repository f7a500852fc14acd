/* Monocypher includes it for the types alone, and a compiler without a C library has none. */
#ifndef INTTYPES_H
#define INTTYPES_H

#include <stdint.h>

#endif
