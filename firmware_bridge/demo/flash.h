/* The board's flash, kept in the host's file `flash.bin`: QEMU forgets its memory when it ends, a chip does not. */
#ifndef FLASH_H
#define FLASH_H

#include "edge_slot.h"

/* Loads what the file holds (without a file all is erased) and says where things lie. */
void flash_open(edge_flash *flash);

#endif
