/* A device with edge_link, for tests: a library, or (LINK_PROCESS) a program that speaks over TCP and keeps its flash in
 * a file. The flash refuses what a real one cannot do, and loses power after so many operations. */
#define _DEFAULT_SOURCE
#include "edge_link.h"
#include "edge_sign.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_RECORD_SECTORS 2u
#define OUT_BYTES (1u << 20)

typedef struct device {
    edge_flash flash;
    edge_slots slots;
    edge_link link;
    edge_expected expected;
    edge_key key;
    char product[EDGE_PRODUCT_BYTES + 1];
    uint8_t backbone[32];
    uint8_t *memory, *buffer, *out, *written; /* written: 1 for each byte programmed since its erase */
    uint32_t n_memory, n_out, is_rebooting, confirms;
    uint32_t operations_left; /* until the power fails; EDGE_NONE: it does not */
    uint32_t is_off;
    uint32_t n_erased, n_programmed; /* sectors, bytes */
    uint32_t n_broken_rules;         /* programmed without an erase, not in units, or the slot that runs was touched */
} device;

static void check_place(device *self, uint32_t address, uint32_t n_bytes)
{
    const edge_flash *flash = &self->flash;
    uint32_t start = self->link.running == EDGE_NONE ? 0 : flash->slot_address[self->link.running];
    if (self->link.running != EDGE_NONE && address < start + flash->slot_bytes && address + n_bytes > start)
        self->n_broken_rules++;
    if (address + n_bytes > self->n_memory)
        abort();
}

static int power_fails(device *self)
{
    if (self->is_off)
        return 1;
    if (self->operations_left != EDGE_NONE && self->operations_left-- == 0)
        self->is_off = 1;
    return (int)self->is_off;
}

static int read_flash(void *context, uint32_t address, void *bytes, uint32_t n_bytes)
{
    device *self = (device *)context;
    if (address + n_bytes > self->n_memory)
        abort();
    memcpy(bytes, self->memory + address, n_bytes);
    return 0;
}

static int erase_flash(void *context, uint32_t address)
{
    device *self = (device *)context;
    uint32_t n_bytes = self->flash.sector_bytes;
    check_place(self, address, n_bytes);
    if (address % n_bytes)
        self->n_broken_rules++;
    if (power_fails(self)) { /* half of it */
        memset(self->memory + address, 0xFF, n_bytes / 2);
        return 1;
    }
    memset(self->memory + address, 0xFF, n_bytes);
    memset(self->written + address, 0, n_bytes);
    self->n_erased++;
    return 0;
}

static int program_flash(void *context, uint32_t address, const void *bytes, uint32_t n_bytes)
{
    device *self = (device *)context;
    const uint8_t *source = (const uint8_t *)bytes;
    uint32_t n, fails;
    check_place(self, address, n_bytes);
    if (address % EDGE_LINK_UNIT || n_bytes % EDGE_LINK_UNIT)
        self->n_broken_rules++;
    fails = (uint32_t)power_fails(self);
    for (n = 0; n < (fails ? n_bytes / 2 : n_bytes); n++) {
        if (self->written[address + n])
            self->n_broken_rules++;
        self->written[address + n] = 1;
        self->memory[address + n] &= source[n];
    }
    self->n_programmed += n;
    return (int)fails;
}

static edge_error check_head(void *context, uint32_t slot, uint32_t counter)
{
    device *self = (device *)context;
    edge_expected expected = self->expected;
    edge_head head;
    edge_error error;
    int8_t *scratch;
    float *logits;
    expected.counter = counter;
    error = edge_head_open(&head, self->memory + self->flash.slot_address[slot], self->flash.slot_bytes, &expected);
    if (error)
        return error;
    scratch = (int8_t *)malloc(head.dim);
    logits = (float *)malloc(head.n_classes * sizeof *logits);
    error = edge_head_check_i8(&head, scratch, logits);
    free(scratch);
    free(logits);
    return error;
}

static void send_byte(void *context, uint8_t byte)
{
    device *self = (device *)context;
    if (self->n_out < OUT_BYTES)
        self->out[self->n_out++] = byte;
}

static void ask_reboot(void *context)
{
    ((device *)context)->is_rebooting = 1;
}

device *device_new(uint8_t *memory, uint32_t slot_bytes, uint32_t sector_bytes, uint32_t chunk_bytes)
{
    device *self = (device *)calloc(1, sizeof *self);
    self->flash.read = read_flash;
    self->flash.erase = erase_flash;
    self->flash.program = program_flash;
    self->flash.context = self;
    self->flash.sector_bytes = sector_bytes;
    self->flash.slot_bytes = slot_bytes;
    self->flash.slot_address[1] = slot_bytes;
    self->flash.record_address = 2 * slot_bytes;
    self->flash.n_record_sectors = N_RECORD_SECTORS;
    self->n_memory = 2 * slot_bytes + N_RECORD_SECTORS * sector_bytes;
    self->memory = memory;
    self->written = (uint8_t *)calloc(1, self->n_memory);
    self->buffer = (uint8_t *)malloc(EDGE_LINK_BUFFER(chunk_bytes));
    self->out = (uint8_t *)malloc(OUT_BYTES);
    self->link.chunk_bytes = chunk_bytes;
    self->link.running = EDGE_NONE;
    self->operations_left = EDGE_NONE;
    self->confirms = 1;
    return self;
}

void device_free(device *self)
{
    free(self->written);
    free(self->buffer);
    free(self->out);
    free(self);
}

/* What it takes; 0: anything. A key is 8 bytes of id and 32 of the point. */
void device_expect(device *self, const char *product, const uint8_t *backbone, const uint8_t *key, uint32_t dim)
{
    self->expected.dim = dim;
    if (product) {
        strncpy(self->product, product, EDGE_PRODUCT_BYTES);
        self->expected.product = self->product;
    }
    if (backbone) {
        memcpy(self->backbone, backbone, 32);
        self->expected.backbone = self->backbone;
    }
    if (key) {
        memcpy(self->key.id, key, 8);
        memcpy(self->key.point, key + 8, 32);
        self->expected.verify = edge_verify_ed25519;
        self->expected.key = &self->key;
    }
}

/* Starts it, after its power came back; gives the slot that runs, EDGE_NONE: none. */
uint32_t device_boot(device *self, uint32_t queue_bytes)
{
    const uint32_t chunk_bytes = self->link.chunk_bytes;
    uint32_t slot = EDGE_NONE;
    int is_trial = 0;
    self->is_off = self->is_rebooting = self->n_out = 0;
    self->operations_left = EDGE_NONE;
    memset(&self->link, 0, sizeof self->link);
    self->link.running = EDGE_NONE;
    edge_slots_open(&self->slots, &self->flash, check_head, self);
    if (edge_slots_boot(&self->slots, &slot, &is_trial))
        slot = EDGE_NONE;
    if (is_trial && self->confirms)
        (void)edge_slots_confirm(&self->slots);
    self->link.slots = &self->slots;
    self->link.expected = &self->expected;
    self->link.running = slot;
    self->link.tries = 2;
    self->link.send = send_byte;
    self->link.reboot = ask_reboot;
    self->link.context = self;
    memset(self->buffer, 0xA5, EDGE_LINK_BUFFER(chunk_bytes));
    self->link.buffer = self->buffer;
    self->link.chunk_bytes = chunk_bytes;
    self->link.queue_bytes = queue_bytes;
    return slot;
}

/* Takes bytes from the line; gives how many it sent, which lie where device_out says. */
uint32_t device_take(device *self, const uint8_t *bytes, uint32_t n_bytes)
{
    uint32_t n;
    self->n_out = 0;
    for (n = 0; n < n_bytes && !self->is_off && !self->is_rebooting; n++)
        edge_link_byte(&self->link, bytes[n]);
    if (self->is_off)
        self->n_out = 0;
    return self->n_out;
}

const uint8_t *device_out(const device *self) { return self->out; }
void device_cut_after(device *self, uint32_t n_operations) { self->operations_left = n_operations; }
void device_confirms(device *self, uint32_t confirms) { self->confirms = confirms; }
uint32_t device_is_off(const device *self) { return self->is_off; }
uint32_t device_is_rebooting(const device *self) { return self->is_rebooting; }
uint32_t device_erased(const device *self) { return self->n_erased; }
uint32_t device_programmed(const device *self) { return self->n_programmed; }
uint32_t device_broken_rules(const device *self) { return self->n_broken_rules; }

#if defined(LINK_PROCESS) || defined(LINK_FUZZED)
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Words: FLASH_FILE SLOT_BYTES SECTOR_BYTES CHUNK_BYTES. Changes of the flash stay in the file, or are the process's. */
static device *open_device(char **words, int kept)
{
    const uint32_t slot_bytes = (uint32_t)atoi(words[2]), sector_bytes = (uint32_t)atoi(words[3]);
    const size_t n_bytes = 2 * slot_bytes + N_RECORD_SECTORS * sector_bytes;
    const int file = open(words[1], O_RDWR);
    void *memory = mmap(0, n_bytes, PROT_READ | PROT_WRITE, kept ? MAP_SHARED : MAP_PRIVATE, file, 0);
    if (memory == MAP_FAILED)
        exit(2);
    return device_new((uint8_t *)memory, slot_bytes, sector_bytes, (uint32_t)atoi(words[4]));
}
#endif

#ifdef LINK_PROCESS
/* FLASH_FILE SLOT_BYTES SECTOR_BYTES CHUNK_BYTES QUEUE_BYTES PORT: prints the port, then serves it. */
int main(int n_words, char **words)
{
    const uint32_t queue_bytes = n_words == 7 ? (uint32_t)atoi(words[5]) : 0;
    int listener, line, one = 1;
    struct sockaddr_in address;
    socklen_t n_address = sizeof address;
    device *self;
    uint8_t bytes[4096];
    ssize_t n_bytes;
    if (n_words != 7)
        return 2;
    self = open_device(words, 1);
    device_boot(self, queue_bytes);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_port = htons((uint16_t)atoi(words[6]));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1))
        return 1;
    getsockname(listener, (struct sockaddr *)&address, &n_address);
    printf("%d\n", ntohs(address.sin_port));
    fflush(stdout);
    while ((line = accept(listener, 0, 0)) >= 0) {
        while ((n_bytes = read(line, bytes, sizeof bytes)) > 0) {
            const uint32_t n_out = device_take(self, bytes, (uint32_t)n_bytes);
            if (n_out && write(line, self->out, n_out) < 0)
                break;
            if (self->is_rebooting)
                device_boot(self, queue_bytes);
        }
        close(line);
    }
    return 0;
}
#endif

#ifdef LINK_FUZZED
/* FLASH_FILE SLOT_BYTES SECTOR_BYTES CHUNK_BYTES: takes from stdin what comes over the line, each part behind two bytes
 * of its length; after each, the head that runs must be as it was. Prints parts, answers, erases and restarts. */
int main(int n_words, char **words)
{
    static uint8_t part[65536];
    uint8_t size[2], *runs;
    uint32_t n_parts = 0, n_answers = 0, n_boots = 0, slot;
    device *self;
    if (n_words != 5)
        return 2;
    self = open_device(words, 0);
    runs = (uint8_t *)malloc(self->flash.slot_bytes);
    slot = device_boot(self, 0);
    memcpy(runs, self->memory + slot * self->flash.slot_bytes, self->flash.slot_bytes);
    while (fread(size, 1, 2, stdin) == 2) {
        const uint32_t n_bytes = (uint32_t)(size[0] | size[1] << 8);
        if (fread(part, 1, n_bytes, stdin) != n_bytes)
            return 2;
        n_answers += device_take(self, part, n_bytes) > 0;
        n_parts++;
        if (self->n_broken_rules || memcmp(runs, self->memory + slot * self->flash.slot_bytes, self->flash.slot_bytes)) {
            fprintf(stderr, "part %u touched what runs, or broke a rule of the flash\n", n_parts);
            return 1;
        }
        if (self->is_rebooting) {
            n_boots++;
            slot = device_boot(self, 0);
            memcpy(runs, self->memory + slot * self->flash.slot_bytes, self->flash.slot_bytes);
        }
    }
    printf("{\"parts\": %u, \"answers\": %u, \"erased\": %u, \"programmed\": %u, \"boots\": %u}\n", n_parts, n_answers,
           self->n_erased, self->n_programmed, n_boots);
    free(runs);
    munmap(self->memory, self->n_memory);
    device_free(self);
    return 0;
}
#endif
