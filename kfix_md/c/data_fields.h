/* Data fields of FIX 4.4: values that may contain SOH, read by the length that the field before them states. */
#ifndef KFIX_DATA_FIELDS_H
#define KFIX_DATA_FIELDS_H
#include "scan.h"

/* the data field whose length a field states, 0 for every other field */
static inline uint32_t kfix_data_tag(uint32_t length_tag) {
    switch (length_tag) {
        case 93: /* SignatureLength, Signature */
            return 89;
        case 90:  /* SecureDataLen, SecureData */
        case 95:  /* RawDataLength, RawData */
        case 212: /* XmlDataLen, XmlData */
        case 348: /* EncodedIssuerLen, EncodedIssuer */
        case 350: /* EncodedSecurityDescLen, EncodedSecurityDesc */
        case 352: /* EncodedListExecInstLen, EncodedListExecInst */
        case 354: /* EncodedTextLen, EncodedText */
        case 356: /* EncodedSubjectLen, EncodedSubject */
        case 358: /* EncodedHeadlineLen, EncodedHeadline */
        case 360: /* EncodedAllocTextLen, EncodedAllocText */
        case 362: /* EncodedUnderlyingIssuerLen, EncodedUnderlyingIssuer */
        case 364: /* EncodedUnderlyingSecurityDescLen, EncodedUnderlyingSecurityDesc */
        case 445: /* EncodedListStatusTextLen, EncodedListStatusText */
        case 618: /* EncodedLegIssuerLen, EncodedLegIssuer */
        case 621: /* EncodedLegSecurityDescLen, EncodedLegSecurityDesc */
            return length_tag + 1;
        default:
            return 0;
    }
}

typedef struct { /* the data field that the last field has announced; all zero: none */
    const char* at;
    uint64_t length;
    uint32_t tag;
} kfix_data;

static inline kfix_data kfix_no_data(void) {
    kfix_data none = {NULL, 0, 0};
    return none;
}

/* Return the end of the value of one field; to be called for each field of a message in turn.
 *
 * `field` is where the field begins, `value` its value, `soh` the first SOH at or after that (or `last`), and `last`
 * the end of the value of the message's last field. A length that leads to no SOH is ignored.
 *
 *     "355=a|b|" after "354=3|"  the second SOH
 *     "355=a|b|" after "354=9|"  the first SOH
 */
static inline const char* kfix_value_end(kfix_data* data, uint32_t tag, const char* field, const char* value,
                                         const char* soh, const char* last) {
    if (__builtin_expect(data->tag != 0, 0)) {
        int announced = data->tag == tag && data->at == field && data->length <= (uint64_t)(last - value);
        data->tag = 0;
        if (announced && (value + data->length == last || value[data->length] == 1))
            return value + data->length;
    }
    uint32_t follows = kfix_data_tag(tag);
    if (__builtin_expect(follows != 0, 0)) {
        const char* q = value;
        if (kfix_digits(&q, &data->length) > 0 && q == soh) {
            data->at = soh + 1;
            data->tag = follows;
        }
    }
    return soh;
}
#endif
