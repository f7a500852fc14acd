/* Offsets and numbers of the binary formats. Written by tools/write_formats.py from edge_firmware/formats.py: change
 * them there. */
#ifndef EDGE_FORMAT_H
#define EDGE_FORMAT_H

#define EDGE_BLOB_MAGIC 0x48474445u
#define EDGE_BLOB_FORMAT 0x1u
#define EDGE_IS_INT8 0x1u
#define EDGE_IS_RAISED 0x2u
#define EDGE_IS_UNIT 0x4u
#define EDGE_HAS_TABLE 0x8u
#define EDGE_PRODUCT_BYTES 0x20u
#define EDGE_SIGNATURE_BYTES 0x40u
#define EDGE_TABLE_BYTES 0x100u
#define EDGE_MOST_FEATURES 0x10000u

#define EDGE_BLOB_AT_MAGIC 0u
#define EDGE_BLOB_AT_FORMAT 4u
#define EDGE_BLOB_AT_FLAGS 6u
#define EDGE_BLOB_AT_BYTES 8u
#define EDGE_BLOB_AT_VERSION 12u
#define EDGE_BLOB_AT_PARENT 16u
#define EDGE_BLOB_AT_COUNTER 20u
#define EDGE_BLOB_AT_DIM 24u
#define EDGE_BLOB_AT_N_CLASSES 28u
#define EDGE_BLOB_AT_N_ROWS 30u
#define EDGE_BLOB_AT_N_CANARIES 32u
#define EDGE_BLOB_AT_FEATURE_ZERO 34u
#define EDGE_BLOB_AT_INPUT_ZERO 35u
#define EDGE_BLOB_AT_FEATURE_SCALE 36u
#define EDGE_BLOB_AT_INPUT_SCALE 40u
#define EDGE_BLOB_AT_NAMES_BYTES 44u
#define EDGE_BLOB_AT_CREATED 48u
#define EDGE_BLOB_AT_RESERVED 52u
#define EDGE_BLOB_AT_PRODUCT 56u
#define EDGE_BLOB_AT_BACKBONE 88u
#define EDGE_BLOB_AT_KEY_ID 120u
#define EDGE_BLOB_SIZE 128u

#define EDGE_RECORD_MAGIC 0x52474445u
#define EDGE_NO_SLOT 0xffffffffu
#define EDGE_NO_TRIAL 0xffffffffu

#define EDGE_RECORD_AT_MAGIC 0u
#define EDGE_RECORD_AT_SEQUENCE 4u
#define EDGE_RECORD_AT_ACTIVE 8u
#define EDGE_RECORD_AT_TRIES 12u
#define EDGE_RECORD_AT_VERSION 16u
#define EDGE_RECORD_AT_PARENT 20u
#define EDGE_RECORD_AT_COUNTER 24u
#define EDGE_RECORD_AT_CRC 28u
#define EDGE_RECORD_SIZE 32u

#define EDGE_LINK_PROTOCOL 0x1u
#define EDGE_LINK_HELLO 0x1u
#define EDGE_LINK_BEGIN 0x2u
#define EDGE_LINK_SKIP 0x3u
#define EDGE_LINK_WRITE 0x4u
#define EDGE_LINK_COPY 0x5u
#define EDGE_LINK_TRY 0x6u
#define EDGE_LINK_REBOOT 0x7u
#define EDGE_LINK_OWN 0x40u
#define EDGE_LINK_ANSWER 0x80u
#define EDGE_LINK_UNIT 0x20u
#define EDGE_LINK_RUNS 0x1u
#define EDGE_LINK_ON_TRIAL 0x2u
#define EDGE_LINK_CHECKS_KEY 0x4u
#define EDGE_LINK_CHECKS_PRODUCT 0x8u
#define EDGE_LINK_CHECKS_BACKBONE 0x10u
#define EDGE_LINK_WAITS 0x20u

#define EDGE_LINK_FRAME_AT_TYPE 0u
#define EDGE_LINK_FRAME_AT_SEQUENCE 1u
#define EDGE_LINK_FRAME_SIZE 2u


#define EDGE_LINK_BLOB_AT_BYTES 0u
#define EDGE_LINK_BLOB_AT_CRC 4u
#define EDGE_LINK_BLOB_SIZE 8u


#define EDGE_LINK_SECTOR_AT_OFFSET 0u
#define EDGE_LINK_SECTOR_AT_CRC 4u
#define EDGE_LINK_SECTOR_SIZE 8u


#define EDGE_LINK_DATA_AT_OFFSET 0u
#define EDGE_LINK_DATA_SIZE 4u


#define EDGE_LINK_RANGE_AT_OFFSET 0u
#define EDGE_LINK_RANGE_AT_SOURCE 4u
#define EDGE_LINK_RANGE_AT_BYTES 8u
#define EDGE_LINK_RANGE_SIZE 12u


#define EDGE_LINK_MARK_AT_CRC 0u
#define EDGE_LINK_MARK_SIZE 4u


#define EDGE_LINK_ACK_AT_ERROR 0u
#define EDGE_LINK_ACK_AT_NEXT 1u
#define EDGE_LINK_ACK_AT_CRC 5u
#define EDGE_LINK_ACK_SIZE 9u


#define EDGE_LINK_INFO_AT_PROTOCOL 0u
#define EDGE_LINK_INFO_AT_FLAGS 1u
#define EDGE_LINK_INFO_AT_ERROR 2u
#define EDGE_LINK_INFO_AT_RESERVED 3u
#define EDGE_LINK_INFO_AT_CHUNK 4u
#define EDGE_LINK_INFO_AT_WINDOW 8u
#define EDGE_LINK_INFO_AT_SLOT_BYTES 12u
#define EDGE_LINK_INFO_AT_SECTOR_BYTES 16u
#define EDGE_LINK_INFO_AT_COUNTER 20u
#define EDGE_LINK_INFO_AT_DIM 24u
#define EDGE_LINK_INFO_AT_CRC 28u
#define EDGE_LINK_INFO_AT_PRODUCT 32u
#define EDGE_LINK_INFO_AT_BACKBONE 64u
#define EDGE_LINK_INFO_AT_HEAD 96u
#define EDGE_LINK_INFO_SIZE 224u

#ifdef __cplusplus
extern "C" {
#endif

/* One row per error: the enum and the texts are made of it. */
#define EDGE_ERRORS(X) \
    X(OK, "ok") \
    X(E_CUT, "the blob is cut short") \
    X(E_MAGIC, "this is no head blob") \
    X(E_FORMAT, "the blob is of another format") \
    X(E_HEADER, "the header's numbers are out of range") \
    X(E_LENGTH, "the length is not that of the sections") \
    X(E_CRC, "the checksum does not match") \
    X(E_NAMES, "the name table is damaged") \
    X(E_CLASS, "a look or a canary is of a class that is not there") \
    X(E_PRODUCT, "the head is for another product") \
    X(E_BACKBONE, "the head is for another backbone") \
    X(E_DIM, "the head is for features of another length") \
    X(E_COUNTER, "the security counter is lower than the device's") \
    X(E_KEY, "the head is signed with another key") \
    X(E_SIGNATURE, "the signature does not match") \
    X(E_TYPE, "the rows are of the other type") \
    X(E_CANARY, "a canary gets another answer") \
    X(E_ROOM, "the head does not fit the slot") \
    X(E_FLASH, "the flash did not take or give its bytes") \
    X(E_EMPTY, "there is no head that may run") \
    X(E_STATE, "there is nothing to do that for") \
    X(E_BUSY, "the head that runs is not confirmed yet") \
    X(E_REQUEST, "the request is not one that the device knows") \
    X(E_TRIAL, "the new head did not pass its trial") \
    X(E_MANY, "the head has more classes than there is room for")

typedef enum edge_error {
#define EDGE_ERROR_NAME(name, text) EDGE_##name,
    EDGE_ERRORS(EDGE_ERROR_NAME)
#undef EDGE_ERROR_NAME
} edge_error;

#ifdef __cplusplus
}
#endif

#endif
