/* The signature of a head blob: Ed25519 (RFC 8032), by Monocypher in ../vendor. Compile it in where a device is to take
 * no head that was not signed; about 10 KB of code, and 2 KB of stack while it checks. */
#ifndef EDGE_SIGN_H
#define EDGE_SIGN_H

#include "edge_format.h"

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* A public key, as `edge-cl keygen --c` writes it. */
typedef struct edge_key {
    uint8_t id[8]; /* the first bytes of the sha256 of the point */
    uint8_t point[32];
} edge_key;

/* For `edge_expected.verify`, whose `key` points to an `edge_key`. The signature stands behind the n_bytes. */
edge_error edge_verify_ed25519(const void *key, const uint8_t *blob, uint32_t n_bytes);

#ifdef __cplusplus
}
#endif

#endif
