/* A new head over a serial line: the device's side. Every request may come twice, late or not at all; damaged ones are
 * dropped. Only the spare slot is written, and it is tried after all of it was verified. */
#ifndef EDGE_LINK_H
#define EDGE_LINK_H

#include "edge_slot.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The buffer for chunks of so many bytes, a multiple of 32, at least 224. */
#define EDGE_LINK_BUFFER(chunk_bytes) ((chunk_bytes) + 12u)

typedef struct edge_link {
    /* What the firmware sets; the rest is zero. */
    edge_slots *slots;             /* opened */
    const edge_expected *expected; /* what the device takes: whoever asks is told */
    uint32_t running;              /* the slot that `edge_slots_boot` chose; EDGE_NONE: no head runs */
    uint32_t tries;                /* boots that a new head is given */
    void (*send)(void *context, uint8_t byte);
    void (*reboot)(void *context); /* after what was sent has left; 0: cannot be asked for */
    /* Does a request of the firmware's own, types EDGE_LINK_OWN to 127, and gives the bytes of the answer that it put in
     * the payload's place, where there is room for chunk_bytes. A request may come twice. 0: there are none. */
    uint32_t (*answer)(void *context, uint32_t type, uint8_t *payload, uint32_t n_payload);
    void *context;
    uint8_t *buffer;      /* aligned as the flash's `program` wants its bytes */
    uint32_t chunk_bytes; /* of EDGE_LINK_BUFFER */
    uint32_t queue_bytes; /* received ones that wait while the flash is busy: the host has no more under way */
    edge_error error;     /* told with the next HELLO; of the last TRY, or why the firmware went back to a head */

    /* The frame that comes in. */
    uint32_t n_bytes;
    uint8_t code;
    uint8_t left;

    /* The transfer. */
    uint8_t is_tried;
    uint32_t slot;
    uint32_t blob_bytes; /* 0: there is none */
    uint32_t blob_crc;
    uint32_t next; /* everything before it lies in the slot */
} edge_link;

/* Takes a byte from the line. At the end of a request it is done and answered, the flash written if need be. */
void edge_link_byte(edge_link *link, uint8_t byte);

#ifdef __cplusplus
}
#endif

#endif
