/* See edge_sign.h. What is signed is a text of 16 bytes and the SHA-512 of the blob, so that no second copy of it is
 * ever needed in memory. */
#include "edge_sign.h"

#include "../vendor/monocypher/monocypher.h"
#include "../vendor/monocypher/sha512.h"

static const uint8_t signed_text[16] = "edge_cl blob 1\0";

edge_error edge_verify_ed25519(const void *key, const uint8_t *blob, uint32_t n_bytes)
{
    const edge_key *signer = (const edge_key *)key;
    const uint8_t *signature = blob + n_bytes;
    crypto_sha512_ctx hash;
    uint8_t digest[64], reduced[32];
    uint32_t n;
    for (n = 0; n < sizeof signer->id; n++)
        if (blob[EDGE_BLOB_AT_KEY_ID + n] != signer->id[n])
            return EDGE_E_KEY;
    crypto_sha512_init(&hash);
    crypto_sha512_update(&hash, blob, n_bytes);
    crypto_sha512_final(&hash, digest);
    crypto_sha512_init(&hash); /* RFC 8032, 5.1.7: of R, the key and the message */
    crypto_sha512_update(&hash, signature, 32);
    crypto_sha512_update(&hash, signer->point, sizeof signer->point);
    crypto_sha512_update(&hash, signed_text, sizeof signed_text);
    crypto_sha512_update(&hash, digest, sizeof digest);
    crypto_sha512_final(&hash, digest);
    crypto_eddsa_reduce(reduced, digest);
    return crypto_eddsa_check_equation(signature, signer->point, reduced) ? EDGE_E_SIGNATURE : EDGE_OK;
}
