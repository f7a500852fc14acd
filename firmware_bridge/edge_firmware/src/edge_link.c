#include "edge_link.h"

#include "edge_inside.h"

/* Two bytes before a frame put the data of a WRITE, which the flash is given, on a multiple of 8. */
#define FRAME_AT 2u
#define PAYLOAD_AT (FRAME_AT + EDGE_LINK_FRAME_SIZE)
#define DATA_AT (PAYLOAD_AT + EDGE_LINK_DATA_SIZE)
#define CRC_BYTES 4u
#define CRC_RESIDUE 0x2144DF1Cu /* the CRC-32 of any bytes and their CRC-32 */
#define N_TOLD ((EDGE_LINK_INFO_AT_PRODUCT - EDGE_LINK_INFO_AT_CHUNK) / 4)
#define BLOB_END (CRC_BYTES + EDGE_SIGNATURE_BYTES)

static void put32(uint8_t *bytes, uint32_t value)
{
    for (uint32_t n = 0; n < 4; ++n)
        bytes[n] = (uint8_t)(value >> 8 * n);
}

/* Copies bytes, or makes them zero where there is no source. */
static void fill(uint8_t *target, const uint8_t *source, uint32_t n_bytes)
{
    for (uint32_t n = 0; n < n_bytes; ++n)
        target[n] = source ? source[n] : 0;
}

/* Sends the frame of so many payload bytes: COBS (Cheshire and Baker 1999, "Consistent Overhead Byte Stuffing"). */
static void send_frame(edge_link *link, uint32_t n_payload)
{
    uint8_t *frame = link->buffer + FRAME_AT;
    uint32_t n_bytes = EDGE_LINK_FRAME_SIZE + n_payload;
    uint32_t start = 0;
    frame[EDGE_LINK_FRAME_AT_TYPE] |= EDGE_LINK_ANSWER;
    put32(frame + n_bytes, edge_crc32(0, frame, n_bytes));
    n_bytes += CRC_BYTES;
    while (start <= n_bytes) {
        uint32_t end = start;
        while (end < n_bytes && frame[end] && end - start < 254)
            ++end;
        link->send(link->context, (uint8_t)(end - start + 1));
        if (end - start < 254 || end == n_bytes)
            ++end; /* over the zero, or out of the loop */
        for (; start < end && start < n_bytes && frame[start]; ++start)
            link->send(link->context, frame[start]);
        start = end;
    }
    link->send(link->context, 0);
}

static int read_flash(const edge_link *link, uint32_t address, uint32_t n_bytes)
{
    const edge_flash *flash = link->slots->flash;
    return flash->read(flash->context, address, link->buffer + DATA_AT, n_bytes);
}

/* Erases the sectors that begin in the next n_bytes of the spare slot, then programs these from the buffer. */
static edge_error store(edge_link *link, uint32_t n_bytes)
{
    const edge_flash *flash = link->slots->flash;
    const uint32_t address = flash->slot_address[link->slot] + link->next;
    int failed = 0;
    for (uint32_t n = 0; n < n_bytes && !failed; n += EDGE_LINK_UNIT)
        if (((link->next + n) & (flash->sector_bytes - 1)) == 0)
            failed = flash->erase(flash->context, address + n);
    if (failed || flash->program(flash->context, address, link->buffer + DATA_AT, n_bytes)) {
        link->blob_bytes = 0; /* what lies there is unknown: the host begins again */
        return EDGE_E_FLASH;
    }
    link->next += n_bytes;
    return EDGE_OK;
}

static uint32_t end_of_transfer(const edge_link *link)
{
    return (link->blob_bytes + EDGE_LINK_UNIT - 1) / EDGE_LINK_UNIT * EDGE_LINK_UNIT;
}

static edge_error begin(edge_link *link, uint32_t blob_bytes, uint32_t blob_crc)
{
    edge_error error;
    if (blob_bytes == link->blob_bytes && blob_crc == link->blob_crc && !(link->is_tried && link->error))
        return EDGE_OK; /* it came twice, or the host was started again: the transfer goes on */
    link->blob_bytes = 0;
    if (blob_bytes <= EDGE_BLOB_SIZE || blob_bytes > link->slots->flash->slot_bytes)
        return EDGE_E_ROOM;
    error = edge_slots_spare(link->slots, &link->slot);
    if (error)
        return error == EDGE_E_STATE ? EDGE_E_BUSY : error; /* a head on trial runs from what would be spare */
    if (link->slot == link->running)
        return EDGE_E_BUSY;
    link->blob_bytes = blob_bytes;
    link->blob_crc = blob_crc;
    link->next = 0;
    link->is_tried = 0;
    return EDGE_OK;
}

/* Passes over a sector that has its bytes already. */
static edge_error skip(edge_link *link, uint32_t offset, uint32_t expected, uint32_t *crc)
{
    const edge_flash *flash = link->slots->flash;
    uint32_t end;
    if (offset >= link->blob_bytes || (offset & (flash->sector_bytes - 1)))
        return EDGE_E_REQUEST;
    end = link->blob_bytes - offset < flash->sector_bytes ? link->blob_bytes : offset + flash->sector_bytes;
    for (uint32_t place = offset; place < end;) {
        const uint32_t n_bytes = end - place < link->chunk_bytes ? end - place : link->chunk_bytes;
        if (read_flash(link, flash->slot_address[link->slot] + place, n_bytes))
            return EDGE_E_FLASH;
        *crc = edge_crc32(*crc, link->buffer + DATA_AT, n_bytes);
        place += n_bytes;
    }
    if (offset == link->next && *crc == expected)
        link->next = end < link->blob_bytes ? end : end_of_transfer(link);
    return EDGE_OK;
}

static edge_error write(edge_link *link, uint32_t offset, uint32_t n_bytes)
{
    if (offset != link->next)
        return EDGE_OK; /* was written, or cannot be yet: the answer says what comes next */
    if (n_bytes % EDGE_LINK_UNIT || n_bytes > end_of_transfer(link) - offset)
        return EDGE_E_REQUEST;
    return store(link, n_bytes);
}

static edge_error copy(edge_link *link, uint32_t offset, uint32_t source, uint32_t n_bytes)
{
    const edge_flash *flash = link->slots->flash;
    edge_error error = EDGE_OK;
    if (offset != link->next)
        return EDGE_OK;
    if (link->running == EDGE_NONE || n_bytes % EDGE_LINK_UNIT || n_bytes > end_of_transfer(link) - offset ||
        source > flash->slot_bytes || n_bytes > flash->slot_bytes - source)
        return EDGE_E_REQUEST;
    while (n_bytes && !error) {
        const uint32_t n_piece = n_bytes < link->chunk_bytes ? n_bytes : link->chunk_bytes;
        if (read_flash(link, flash->slot_address[link->running] + source, n_piece))
            return EDGE_E_FLASH;
        error = store(link, n_piece);
        source += n_piece;
        n_bytes -= n_piece;
    }
    return error;
}

/* An answer that was lost is given once more. */
static edge_error try_once(edge_link *link)
{
    if (link->is_tried)
        return link->error;
    if (link->next != end_of_transfer(link))
        return EDGE_E_CUT;
    link->is_tried = 1;
    link->error = edge_slots_try(link->slots, link->tries);
    return link->error;
}

static void tell_info(edge_link *link)
{
    const edge_flash *flash = link->slots->flash;
    const edge_expected *expected = link->expected;
    const int is_running = link->running != EDGE_NONE;
    uint8_t *info = link->buffer + PAYLOAD_AT;
    uint8_t *head = info + EDGE_LINK_INFO_AT_HEAD;
    uint32_t address = is_running ? flash->slot_address[link->running] : 0;
    uint32_t told[N_TOLD], crc = 0;
    uint32_t flags = (is_running ? EDGE_LINK_RUNS : 0) | (expected->verify ? EDGE_LINK_CHECKS_KEY : 0) |
                     (expected->product ? EDGE_LINK_CHECKS_PRODUCT : 0) |
                     (expected->backbone ? EDGE_LINK_CHECKS_BACKBONE : 0);
    fill(info, 0, EDGE_LINK_INFO_SIZE);
    if (is_running && !flash->read(flash->context, address, head, EDGE_BLOB_SIZE)) {
        const uint32_t n_bytes = edge_get_u32(head + EDGE_BLOB_AT_BYTES);
        if (n_bytes >= BLOB_END && n_bytes <= flash->slot_bytes &&
            !flash->read(flash->context, address + n_bytes - BLOB_END, info, CRC_BYTES))
            crc = edge_get_u32(info);
        if (link->slots->record.active != link->running)
            flags |= EDGE_LINK_ON_TRIAL;
        else if (link->slots->record.tries != EDGE_NO_TRIAL)
            flags |= EDGE_LINK_WAITS;
    }
    info[EDGE_LINK_INFO_AT_PROTOCOL] = EDGE_LINK_PROTOCOL;
    info[EDGE_LINK_INFO_AT_FLAGS] = (uint8_t)flags;
    info[EDGE_LINK_INFO_AT_ERROR] = (uint8_t)link->error;
    info[EDGE_LINK_INFO_AT_RESERVED] = 0;
    told[0] = link->chunk_bytes;
    told[1] = link->queue_bytes;
    told[2] = flash->slot_bytes;
    told[3] = flash->sector_bytes;
    told[4] = link->slots->record.counter;
    told[5] = expected->dim;
    told[6] = crc;
    for (uint32_t n = 0; n < N_TOLD; ++n)
        put32(info + EDGE_LINK_INFO_AT_CHUNK + 4 * n, told[n]);
    if (expected->product)
        for (uint32_t n = 0; n < EDGE_PRODUCT_BYTES && expected->product[n]; ++n)
            info[EDGE_LINK_INFO_AT_PRODUCT + n] = (uint8_t)expected->product[n];
    if (expected->backbone)
        fill(info + EDGE_LINK_INFO_AT_BACKBONE, expected->backbone, 32);
    send_frame(link, EDGE_LINK_INFO_SIZE);
}

/* Whether a request of this type has so many bytes of payload. */
static int is_request(uint32_t type, uint32_t n_payload)
{
    static const uint8_t sizes[] = {EDGE_LINK_BLOB_SIZE,  EDGE_LINK_SECTOR_SIZE, EDGE_LINK_DATA_SIZE,
                                    EDGE_LINK_RANGE_SIZE, EDGE_LINK_MARK_SIZE,   EDGE_LINK_MARK_SIZE};
    type -= EDGE_LINK_BEGIN;
    if (type >= sizeof sizes)
        return 0;
    return type == EDGE_LINK_WRITE - EDGE_LINK_BEGIN ? n_payload > sizes[type] : n_payload == sizes[type];
}

static edge_error obey(edge_link *link, uint32_t type, uint32_t n_payload, uint32_t *crc)
{
    const uint8_t *payload = link->buffer + PAYLOAD_AT;
    const uint32_t first = edge_get_u32(payload), second = edge_get_u32(payload + 4), third = edge_get_u32(payload + 8);
    if (!is_request(type, n_payload))
        return EDGE_E_REQUEST;
    if (type == EDGE_LINK_BEGIN)
        return begin(link, first, second);
    if (!link->blob_bytes)
        return EDGE_E_STATE;
    if (type == EDGE_LINK_SKIP)
        return skip(link, first, second, crc);
    if (type == EDGE_LINK_WRITE)
        return write(link, first, n_payload - EDGE_LINK_DATA_SIZE);
    if (type == EDGE_LINK_COPY)
        return copy(link, first, second, third);
    if (first != link->blob_crc)
        return EDGE_E_STATE;
    if (type == EDGE_LINK_TRY)
        return try_once(link);
    if (!link->reboot)
        return EDGE_E_REQUEST;
    /* Only into a head that was just tried: a REBOOT that comes late finds no transfer, and costs the trial nothing. */
    return link->is_tried && !link->error ? EDGE_OK : EDGE_E_STATE;
}

static void end_frame(edge_link *link)
{
    uint8_t *frame = link->buffer + FRAME_AT;
    uint8_t *payload = link->buffer + PAYLOAD_AT;
    const uint32_t n_bytes = link->n_bytes;
    uint32_t type, n_payload, crc = 0;
    edge_error error;
    if (link->left || n_bytes < EDGE_LINK_FRAME_SIZE + CRC_BYTES || n_bytes == EDGE_NONE ||
        edge_crc32(0, frame, n_bytes) != CRC_RESIDUE)
        return;
    type = frame[EDGE_LINK_FRAME_AT_TYPE];
    n_payload = n_bytes - EDGE_LINK_FRAME_SIZE - CRC_BYTES;
    if (type & EDGE_LINK_ANSWER)
        return; /* an echo of the line */
    if (type == EDGE_LINK_HELLO && !n_payload) {
        tell_info(link);
        return;
    }
    if (type >= EDGE_LINK_OWN && link->answer) {
        send_frame(link, link->answer(link->context, type, payload, n_payload));
        return;
    }
    error = obey(link, type, n_payload, &crc);
    payload[EDGE_LINK_ACK_AT_ERROR] = (uint8_t)error;
    put32(payload + EDGE_LINK_ACK_AT_NEXT, link->blob_bytes ? link->next : 0);
    put32(payload + EDGE_LINK_ACK_AT_CRC, crc);
    send_frame(link, EDGE_LINK_ACK_SIZE);
    if (type == EDGE_LINK_REBOOT && !error)
        link->reboot(link->context);
}

static void take(edge_link *link, uint8_t byte)
{
    if (link->n_bytes >= EDGE_LINK_BUFFER(link->chunk_bytes) - FRAME_AT)
        link->n_bytes = EDGE_NONE; /* too long: nothing of it counts */
    else
        link->buffer[FRAME_AT + link->n_bytes++] = byte;
}

void edge_link_byte(edge_link *link, uint8_t byte)
{
    if (!byte) {
        end_frame(link);
        link->n_bytes = 0;
        link->code = 0;
        link->left = 0;
    } else if (link->left) {
        --link->left;
        take(link, byte);
    } else {
        if (link->code && link->code != 255)
            take(link, 0);
        link->code = byte;
        link->left = (uint8_t)(byte - 1);
    }
}
