from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kfix_md._entry cimport MDEntry

cdef extern from "c/clock.h" nogil:
    ctypedef struct kfix_date:
        uint64_t text
        int64_t ns
    ctypedef struct kfix_dates:
        pass
    int64_t KFIX_DAY_NS

cdef extern from "c/data_fields.h" nogil:
    ctypedef struct kfix_data:
        pass
    kfix_data kfix_no_data()

cdef enum:
    # why a W or X cannot be applied; `Fault` has the same numbers for Python
    MD_OK = 0
    MD_NOT_NUMERIC = 1      # a tag is no number
    MD_EMPTY_VALUE = 2
    MD_BAD_VALUE = 3        # a value has not the form of its field
    MD_MISSING_TAG = 4
    MD_COUNT = 5            # 268 differs from the groups present
    MD_OUT_OF_RANGE = 6     # 279 with a value that is not known
    MD_PRECISION = 7        # a number finer than the instrument's precision, which a finer one would hold
    MD_SPLIT = 8            # no fault: the entries are of several symbols, see FieldReader.next_part
    MD_NUMBER = 9           # a number that does not fit int64 at the instrument's precision
    MD_MIXED = 10           # two symbols (55) or requests (262) in one message, and no 55 in each entry

    MAX_HEADER_TEXT = 48
    MAX_ID_TEXT = 255       # bytes of a 278

    # tag prefixes as little-endian uint32, such as "270="; of longer tags their digits, of shorter ones three bytes
    TEXT_40 = 0x3D3034
    TEXT_55 = 0x3D3535
    TEXT_262 = 0x3D323632
    TEXT_268 = 0x3D383632
    TEXT_269 = 0x3D393632
    TEXT_270 = 0x3D303732
    TEXT_271 = 0x3D313732
    TEXT_273 = 0x3D333732
    TEXT_278 = 0x3D383732
    TEXT_279 = 0x3D393732
    TEXT_2446 = 0x36343432
    TEXT_5041 = 0x31343035
    TEXT_5060 = 0x30363035
    TEXT_5273 = 0x33373235


cdef struct Span:
    const char* p
    int32_t n


cdef struct Header:         # the fields of the standard header; pointers into the frame
    int64_t seq             # 34, -1 missing
    int64_t sending_ns      # 52, 0 missing or malformed
    int64_t sending_day_ns  # midnight of the day of 52
    int64_t orig_sending_ns  # 122, 0 missing
    Span sender             # 49
    Span target             # 56
    const char* body        # first field that is not of the header
    uint8_t msg_type        # 35 when it is one character, else 0
    uint8_t whole           # 34, 49, 52 and 56 are there
    uint8_t poss_dup        # 43=Y
    uint8_t poss_resend     # 97=Y
    uint32_t comp_ids       # number of the learned literals that 49 and 56 are equal to, 0: read in general


cdef struct MDMessage:      # a W or X without its entries
    Span symbol             # 55
    Span req_id             # 262
    int32_t declared        # 268
    int32_t groups          # groups read
    int32_t n               # entries decoded: the groups but those that are left out
    int32_t first           # entries of the same message in parts before this one (MD_SPLIT), else 0
    const char* entries     # where they begin in the frame
    uint32_t crc            # 5041
    uint8_t has_crc
    uint8_t own_ids         # after MD_SPLIT: each group has its own 262
    uint8_t staged          # the general path has read the entries; they are not yet scaled
    uint16_t error          # MD_*
    int32_t error_tag
    int32_t error_at        # offset from Header.body of the group with the error
    uint32_t repeated_tags  # fields that occur twice in a group or outside; the last one counts
    uint32_t bad_times      # 273 and 5060 that are no times
    uint32_t without_id     # bids and offers without 278
    uint32_t left_out       # groups that are no part of a book and not kept: an unknown 269, or a trade with a fault


cdef struct Group:          # of the repeating group of 268, while it is read
    MDEntry* e              # NULL outside
    const char* begin
    int has                 # HAS_ bits of the fields read
    int error, error_tag    # the first fault
    int bad_times           # 273 and 5060 that are no times
    Span id                 # text of 278, when it was not read at once
    Span price              # text of 270
    Span symbol             # 55 in the group
    Span req_id             # 262 in the group


cdef struct Named:          # the symbols and requests that a message names, while it is read
    Span outer, outer_id    # 55 and 262 outside of the groups
    Span first              # the first 55 of all
    int32_t inner, inner_ids    # groups with a 55, with a 262
    uint8_t differ, ids_differ  # two 55, two 262 have another text
    uint8_t clash           # two outside, or two in one group


cdef bint next_field(const char** p, const char* end, uint32_t wanted, Span* text) noexcept nogil


cdef inline int64_t near_midnight(int64_t clock_ns, int64_t sending_ns, int64_t day_ns) noexcept nogil:
    # 273 has no date: it is the day of 52, or the day next to it that brings 273 nearer to 52
    cdef int64_t t = day_ns + clock_ns
    cdef int64_t half = KFIX_DAY_NS // 2
    if <uint64_t>(t - sending_ns + half) <= <uint64_t>KFIX_DAY_NS:
        return t
    return t - KFIX_DAY_NS if t > sending_ns else t + KFIX_DAY_NS


cdef class FieldReader:
    cdef kfix_date _date
    cdef kfix_dates _iso_dates
    cdef MDEntry* entries           # of the last message decoded
    cdef int32_t capacity
    cdef bint keep_ids              # texts of the ids of kind ID_TABLE are kept
    cdef dict _id_texts             # (id_hi, id_lo) -> text, since the last take_ids()
    cdef readonly dict id_table     # the same, of the batch taken by it
    cdef MDEntry* _parked           # entries of a message of several symbols, until they are taken by symbol
    cdef int32_t _n_parked, _parked_capacity, _parts
    cdef int reserve(self, int64_t n) noexcept
    cdef int header_general(self, const char* p, const char* end, Header* h) noexcept
    cdef void read_id(self, const char* p, int32_t n, MDEntry* e) noexcept
    cdef int entry_field(self, int tag, const char* p, const char* value_end, Group* g, Header* h) noexcept
    cdef int end_group(self, Header* h, MDMessage* m, Group* g) noexcept
    cdef int decode_general(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int message_field(self, uint32_t tag, const char* value, const char* after, MDMessage* m, Group* g,
                           Named* named) noexcept
    cdef int end_message(self, Header* h, const char* end, MDMessage* m, Named* named) noexcept
    cdef bint names_one_of(self, Header* h, const char* end, MDMessage* m, Span* outer) noexcept
    cdef int park(self, MDMessage* m) noexcept
    cdef int scale(self, MDMessage* m, int price_precision, int qty_precision) noexcept
    cdef bint parked_value(self, Header* h, const char* end, int32_t i, uint32_t tag, Span* text) noexcept
    cdef bint next_part(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int level_seen(self, int32_t n) noexcept
    cdef bytes error_text(self, Header* h, const char* end, MDMessage* m)
    cdef int _fail(self, MDMessage* m, int error, int tag) noexcept
