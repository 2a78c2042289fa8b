from libc.stdint cimport int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from kfix_md._entry cimport MDEntry

cdef extern from "c/clock.h" nogil:
    ctypedef struct kfix_date:
        uint64_t text
        int64_t ns
    ctypedef struct kfix_dates:
        pass
    int64_t KFIX_DAY_NS

cdef enum:
    # decoding: why a W or X cannot be applied (the peer is told 373)
    MD_OK = 0
    MD_NOT_NUMERIC = 1      # tag is no number
    MD_EMPTY_VALUE = 2
    MD_BAD_VALUE = 3        # value is not of its field's form
    MD_MISSING_TAG = 4
    MD_COUNT = 5            # 268 differs from the groups present
    MD_OUT_OF_RANGE = 6     # 269 or 279 with a value that is not known
    MD_PRECISION = 7        # a number finer than the instrument's precision, which a finer one would hold
    MD_OTHER_SYMBOL = 8     # not an error: see Codec.finish
    MD_NUMBER = 9           # a number that does not fit int64 at the instrument's precision

    MAX_HEADER_TEXT = 48

    # what stands before a value, as four bytes are loaded: "270=" and so on; of longer tags their digits, of shorter
    # ones three bytes
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


cdef struct MDMessage:      # a W or X beside its entries
    Span symbol             # 55
    Span req_id             # 262
    int32_t declared        # 268
    int32_t n               # entries decoded
    const char* entries     # where they begin in the frame
    uint32_t crc            # 5041
    uint8_t has_crc
    uint8_t staged          # the general path has brought the entries, not yet scaled
    uint16_t error          # MD_*
    int32_t error_tag
    uint32_t repeated_tags  # fields that stood twice in a group or outside; the last one counts


cdef struct Group:          # of the repeating group of 268, while it is read
    MDEntry* e              # NULL outside
    int has                 # HAS_ bits of the fields read
    Span id                 # 278 as it stands, when it was not read at once
    Span price              # 270 as it stands


cdef inline int64_t near_midnight(int64_t clock_ns, int64_t sending_ns, int64_t day_ns) noexcept nogil:
    # 273 has no date: it is the day of 52, or its neighbour when the two stand on either side of midnight
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
    cdef readonly list id_table              # text of ids with ID_TABLE, by row
    cdef dict _id_rows
    cdef int reserve(self, int64_t n) noexcept
    cdef int header_general(self, const char* p, const char* end, Header* h) noexcept
    cdef void read_id(self, const char* p, int32_t n, MDEntry* e) noexcept
    cdef int entry_field(self, int tag, const char* p, const char* value_end, Group* g, Header* h) noexcept
    cdef int end_group(self, Header* h, MDMessage* m, Group* g) noexcept
    cdef int decode_general(self, Header* h, const char* end, MDMessage* m) noexcept
    cdef int scale(self, MDMessage* m, int price_precision, int qty_precision) noexcept
    cdef int _fail(self, MDMessage* m, int error, int tag) noexcept
