"""Frames to entries: the only place that knows the fields of W and X.

They are decoded by a template
that expects Kraken's field order and verifies it with wide compares; whatever differs goes, whole, through
the general path, which takes any field order. Both stage the entries of a message in one array, so that a
malformed message is never applied in part.
"""

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from kfix_md._entry cimport (
    ACTION_DELETE, ACTION_LEAVE, ACTION_NEW, ENTRY_LAST, ENTRY_SNAPSHOT, ID_KRAKEN, ID_NONE, ID_TABLE, ID_TEXT, ID_UUID,
    SIDE_TRADE, MDEntry,
)
from kfix_md._frame cimport FRAME_OK, next_frame

import numpy as np

from kfix_md._entry import ENTRY_DTYPE
from kfix_md._frame import SIMD, checksum, fields  # the codec's other half, under one name for users
from kfix_md._ids import id_key, id_text
from kfix_md.errors import ProtocolError

__all__ = ["SIMD", "Codec", "checksum", "fields", "id_key", "id_text"]

cdef extern from "_scan.h" nogil:
    int kfix_rescale(int64_t* value, int shift)
    uint64_t kfix_load8(const char* p)
    uint32_t kfix_load4(const char* p)
    int kfix_digits(const char** p, uint64_t* value)
    int kfix_number(const char** p, int64_t* mantissa, int* decimals)
    int kfix_fixed(const char** p, int precision, int64_t* value)
    uint32_t kfix_tag(const char** p)
    int kfix_same(const char* a, const char* b, int64_t n)
    const char* kfix_find_soh(const char* p, const char* end)
    int64_t kfix_clock_ms(const char* p)
    int64_t kfix_time_of_day(const char* p)
    int64_t kfix_fraction(const char** p)
    int64_t kfix_timestamp(const char** p, kfix_date* cache)
    int64_t kfix_iso(const char** p, kfix_date* cache)
    int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo)
    int kfix_kraken_id(const char* p, uint64_t* hi, uint64_t* lo)
    void kfix_text_id(const char* p, int n, uint64_t* hi, uint64_t* lo)
    int64_t KFIX_DAY_NS
    int kfix_plain

if SIMD == "scalar":
    kfix_plain = 1

cdef enum:
    SOH = 1
    ID_TABLE_ROWS = 1048576

    # which required fields an entry has (the general path)
    HAS_SIDE = 1
    HAS_ID = 2
    HAS_PRICE = 4
    HAS_QTY = 8
    HAS_TIME = 16
    HAS_ACTION = 32
    HAS_EVENT = 64
    HAS_QUEUE = 128
    HAS_ALL = 31


# ---- small readers ----

cdef inline int64_t near_midnight(int64_t clock_ns, int64_t sending_ns, int64_t day_ns) noexcept nogil:
    # 273 has no date: it is the day of 52, or its neighbour when the two stand on either side of midnight
    cdef int64_t t = day_ns + clock_ns
    if t - sending_ns > KFIX_DAY_NS // 2:
        return t - KFIX_DAY_NS
    if sending_ns - t > KFIX_DAY_NS // 2:
        return t + KFIX_DAY_NS
    return t


cdef inline int l2_id(const char* p, int32_t n, const char* price, int32_t price_n) noexcept nogil:
    # 278 that repeats side letter and price
    return n == price_n + 1 and (p[0] == c'B' or p[0] == c'O') and kfix_same(p + 1, price, price_n)


cdef inline bint group_tag(uint64_t tag) noexcept nogil:
    return (269 <= tag <= 271 or tag == 273 or tag == 278 or tag == 279 or tag == 40 or tag == 2446
            or tag == 5060 or tag == 5273)


@final
cdef class Codec:
    """Decoder of one inbound stream: the caches that make the next message cheap, and the staged entries."""

    def __cinit__(self, *, bint allow_fast=True):
        self.allow_fast = allow_fast
        self._date.ns = -1
        self._iso_date.ns = -1
        self.id_table = []
        self._id_rows = {}
        if self.reserve(64) != 0:
            raise MemoryError("no memory for a message's entries")

    def __dealloc__(self):
        free(self.entries)

    cdef int reserve(self, int64_t n) noexcept:
        cdef MDEntry* grown
        if n <= self.capacity:
            return 0
        grown = <MDEntry*>realloc(self.entries, n * sizeof(MDEntry))
        if grown == NULL:
            return -1
        self.entries = grown
        self.capacity = n
        return 0

    # ---- header ----

    cdef int read_header(self, const char* p, const char* end, Header* h) noexcept:
        if self.allow_fast and self.header_fast(p, end, h) == 0:
            return 0
        return self.header_general(p, end, h)

    cdef int header_fast(self, const char* p, const char* end, Header* h) noexcept:
        # 35=?|34=n|49=sender|52=time|56=target| with the CompIDs of the last message
        cdef uint64_t seq
        if self._sender_n == 0 or (kfix_load8(p) & <uint64_t>0xFFFFFFFF00FFFFFF) != <uint64_t>0x3D343301003D3533:
            return -1
        h.msg_type = p[3]
        p += 8
        if kfix_digits(&p, &seq) < 1 or p[0] != SOH:
            return -1
        p += 1
        if end - p < self._sender_n + self._target_n + 22 or not kfix_same(p, self._sender_literal, self._sender_n):
            return -1
        h.sender.p = p + 3
        h.sender.n = self._sender_n - 7
        p += self._sender_n
        h.sending_ns = kfix_timestamp(&p, &self._date)
        if h.sending_ns < 0 or p[0] != SOH:
            return -1
        p += 1
        if not kfix_same(p, self._target_literal, self._target_n):
            return -1
        h.target.p = p + 3
        h.target.n = self._target_n - 4
        h.body = p + self._target_n
        # PossDupFlag and the like stand after these five: they need the general path. 55 is none of them
        if h.body[0] != c'5' and (kfix_load4(h.body) == 0x593D3334 or h.body[0] == c'1' or h.body[0] == c'9'):
            return -1
        h.seq = seq
        h.sending_day_ns = self._date.ns
        h.orig_sending_ns = 0
        h.poss_dup = 0
        h.poss_resend = 0
        h.comp_ids = self._learned
        return 0

    cdef void learn_header(self, Header* h) noexcept:
        # only when the five fields stand in the template's order
        cdef const char* after = h.sender.p + h.sender.n + 1
        self._sender_n = 0
        if h.sender.n < 1 or h.target.n < 1 or h.sender.n > MAX_HEADER_TEXT or h.target.n > MAX_HEADER_TEXT:
            return
        if memcmp(after, <const char*>b"52=", 3) != 0:
            return
        memcpy(self._sender_literal, h.sender.p - 3, h.sender.n + 7)
        memcpy(self._target_literal, h.target.p - 3, h.target.n + 4)
        self._learned += 1
        self._sender_n = h.sender.n + 7
        self._target_n = h.target.n + 4

    cdef int header_general(self, const char* p, const char* end, Header* h) noexcept:
        # any order; ends at the first field that is not of the header, or, when one of 34, 49, 52, 56 is
        # still missing there, looks for it in the whole frame. Returns MD_OK or what is wrong.
        cdef const char* value
        cdef const char* after = NULL
        cdef uint32_t tag
        cdef uint64_t number
        cdef int missing = 0xF
        cdef int result = MD_OK
        memset(h, 0, sizeof(Header))
        h.seq = -1
        while p < end:
            value = p
            tag = kfix_tag(&value)
            after = kfix_find_soh(value, end)
            if tag == 0 or after == NULL:
                # behind a whole header it is the body's fault, and the message has its number
                result = MD_OK if missing == 0 else MD_NOT_NUMERIC
                break
            if tag == 35:
                h.msg_type = value[0] if after - value == 1 else 0
            elif tag == 34:
                missing &= ~1
                p = value
                if kfix_digits(&p, &number) > 0 and p == after:
                    h.seq = number
            elif tag == 49:
                missing &= ~2
                h.sender.p = value
                h.sender.n = after - value
            elif tag == 52:
                missing &= ~4
                p = value
                h.sending_ns = kfix_timestamp(&p, &self._date)
                h.sending_day_ns = self._date.ns
                if p != after or h.sending_ns < 0:
                    h.sending_ns = 0
            elif tag == 56:
                missing &= ~8
                h.target.p = value
                h.target.n = after - value
            elif tag == 43:
                h.poss_dup = value[0] == c'Y'
            elif tag == 97:
                h.poss_resend = value[0] == c'Y'
            elif tag == 122:
                p = value
                h.orig_sending_ns = kfix_timestamp(&p, &self._date)
                if p != after or h.orig_sending_ns < 0:
                    h.orig_sending_ns = 0
            elif tag != 50 and tag != 57 and tag != 115 and tag != 128 and tag != 129 and tag != 347:
                if h.body == NULL:
                    h.body = p
                if missing == 0:
                    break
            p = after + 1
        if h.body == NULL:
            h.body = p
        if missing == 0 and self.allow_fast:
            self.learn_header(h)
        return result

    # ---- market data ----

    cdef int begin(self, Header* h, const char* end, MDMessage* m) noexcept:
        # 55, 262 and 268 of a W or X, `end` is where tag 10 starts: MD_OK, or what is wrong, with the tag in
        # m.error_tag. finish() brings the entries. A body that does not begin as Kraken's is staged whole.
        if self.allow_fast and self.begin_fast(h, end, m) == MD_OK:
            return MD_OK
        return self.stage(h, end, m)

    cdef int finish(self, Header* h, const char* end, MDMessage* m, int price_precision, int qty_precision) noexcept:
        # the entries, in the instrument's precision; MD_PRECISION when a digit would be lost, MD_OTHER_SYMBOL when 55
        # stands twice: the last one counts, and finish() is to be called again with its precisions
        cdef int error
        cdef const char* symbol = m.symbol.p
        if not m.staged:
            if self.entries_fast(h, end, m, price_precision, qty_precision) == MD_OK:
                self.fast_messages += 1
                return MD_OK
            error = self.stage(h, end, m)
            if error != MD_OK:
                return error
            if m.symbol.p != symbol:
                return MD_OTHER_SYMBOL
        return self.scale(m, price_precision, qty_precision)

    cdef int stage(self, Header* h, const char* end, MDMessage* m) noexcept:
        # the general path
        cdef int error = self.decode_general(h, end, m)
        m.staged = 1
        self.general_messages += 1
        return error

    cdef int begin_fast(self, Header* h, const char* end, MDMessage* m) noexcept:
        # 55=..|262=..|268=n|
        cdef const char* p = h.body
        cdef const char* q
        cdef uint64_t number
        if kfix_load4(p) & 0xFFFFFF != 0x3D3535:    # "55="
            return MD_BAD_VALUE
        p += 3
        q = kfix_find_soh(p, end)
        if q == NULL or q == p or kfix_load4(q + 1) != 0x3D323632:      # "262="
            return MD_BAD_VALUE
        m.symbol.p = p
        m.symbol.n = q - p
        p = q + 5
        q = kfix_find_soh(p, end)
        if q == NULL or q == p or kfix_load4(q + 1) != 0x3D383632:      # "268="
            return MD_BAD_VALUE
        m.req_id.p = p
        m.req_id.n = q - p
        p = q + 5
        if p[1] == SOH and <uint8_t>(p[0] - c'0') < 10:
            number = p[0] - c'0'
            p += 2
        elif kfix_digits(&p, &number) > 0 and p[0] == SOH and number <= <uint64_t>(end - p) // 16:
            p += 1
        else:
            return MD_BAD_VALUE
        if self.reserve(number) != 0:
            return MD_BAD_VALUE
        m.declared = number
        m.entries = p
        m.staged = 0
        m.has_crc = 0
        m.crc = 0
        m.error = MD_OK
        m.repeated_tags = 0
        return MD_OK

    cdef int entries_fast(self, Header* h, const char* end, MDMessage* m, int price_precision,
                          int qty_precision) noexcept:
        # n of  [279=a|]269=s|278=..|270=..|271=..|273=HH:MM:SS.mmm|[5060|5273|40|2446], then [5041=..|].
        # Anything else: not MD_OK, and the general path decides.
        cdef const char* p = m.entries
        cdef const char* q
        cdef const char* id_p
        cdef uint64_t number
        cdef uint32_t tag
        cdef int32_t _left
        cdef int snapshot = h.msg_type == c'W'
        cdef MDEntry* e = self.entries
        cdef kfix_date* dates = &self._iso_date
        for _left in range(m.declared):
            e.action = ACTION_NEW
            if not snapshot:
                # "279=?|26": what stands behind it is looked at below
                if kfix_load8(p) & <uint64_t>0xFFFFFF00FFFFFFFF != <uint64_t>0x363201003D393732:
                    return MD_BAD_VALUE
                e.action = p[4] - c'0'
                if e.action > ACTION_DELETE:
                    return MD_BAD_VALUE
                p += 6
            # "269=?|27" and "8="
            if (kfix_load8(p) & <uint64_t>0xFFFFFF00FFFFFFFF != <uint64_t>0x373201003D393632
                    or p[8] != c'8' or p[9] != c'='):
                return MD_BAD_VALUE
            e.side = p[4] - c'0'
            if e.side > SIDE_TRADE:
                return MD_BAD_VALUE
            p += 10
            id_p = p
            if p[8] == c'-':
                # 8-4-4-4-12
                if p[36] != SOH or kfix_uuid(p, &e.id_hi, &e.id_lo) != 0:
                    return MD_BAD_VALUE
                e.id_kind = ID_UUID
                p += 37
                q = p + 4
                if kfix_load4(p) != 0x3D303732 or kfix_fixed(&q, price_precision, &e.price) != 0:   # "270="
                    return MD_BAD_VALUE
                p = q
            else:
                # side letter and price, then the price again
                p += 1
                if kfix_fixed(&p, price_precision, &e.price) == 0 and kfix_load4(p) == 0x3D303732 \
                        and (id_p[0] == c'B' or id_p[0] == c'O') and kfix_same(id_p + 1, p + 4, p - id_p - 1):
                    e.id_kind = ID_NONE
                    e.id_hi = 0
                    e.id_lo = 0
                    p += 4 + (p - id_p - 1)
                else:
                    q = kfix_find_soh(id_p, end)
                    if q == NULL or q == id_p or kfix_load4(q + 1) != 0x3D303732:
                        return MD_BAD_VALUE
                    self.read_id(id_p, q - id_p, e)
                    p = q + 5
                    if kfix_fixed(&p, price_precision, &e.price) != 0:
                        return MD_BAD_VALUE
            if kfix_load4(p) != 0x3D313732:         # "271="
                return MD_BAD_VALUE
            p += 4
            if kfix_fixed(&p, qty_precision, &e.qty) != 0:
                return MD_BAD_VALUE
            # ACTION_LEAVE is ACTION_DELETE + 1: deleted, but with a quantity
            e.action += (e.action == ACTION_DELETE) & (e.qty > 0)
            if kfix_load4(p) != 0x3D333732:         # "273="
                return MD_BAD_VALUE
            e.event_ns = kfix_clock_ms(p + 4)
            if e.event_ns < 0:
                return MD_BAD_VALUE
            e.event_ns = near_midnight(e.event_ns, h.sending_ns, h.sending_day_ns)
            p += 17
            e.flags = ENTRY_SNAPSHOT * snapshot
            e.ord_type = 0
            e.aggressor = 0
            e.queue_ns = 0
            e.spare0 = 0
            e.spare1 = 0
            tag = kfix_load4(p)
            if tag == 0x30363035:                   # "5060"
                p += 5
                e.event_ns = kfix_iso(&p, dates)
                if e.event_ns < 0 or p[0] != SOH:
                    return MD_BAD_VALUE
                p += 1
                tag = kfix_load4(p)
            if tag == 0x33373235:                   # "5273"
                p += 5
                e.queue_ns = kfix_iso(&p, dates)
                if e.queue_ns < 0 or p[0] != SOH:
                    return MD_BAD_VALUE
                p += 1
            elif e.side == SIDE_TRADE:
                if e.qty == 0 and e.action != ACTION_DELETE:
                    return MD_BAD_VALUE
                if tag & 0xFFFFFF == 0x3D3034 and p[4] == SOH:      # "40="
                    if <uint8_t>(p[3] - c'0') > 9:
                        return MD_BAD_VALUE
                    e.ord_type = p[3] - c'0'
                    p += 5
                if kfix_load4(p) == 0x36343432 and p[4] == c'=' and p[6] == SOH:    # "2446"
                    if <uint8_t>(p[5] - c'0') > 9:
                        return MD_BAD_VALUE
                    e.aggressor = p[5] - c'0'
                    p += 7
            e += 1
        if kfix_load4(p) == 0x31343035 and p[4] == c'=':            # "5041"
            p += 5
            if kfix_digits(&p, &number) < 1 or p[0] != SOH or number >> 32 != 0:
                return MD_BAD_VALUE
            p += 1
            m.crc = number
            m.has_crc = 1
        if p != end:
            return MD_BAD_VALUE
        m.n = m.declared
        if m.n:
            (e - 1).flags |= ENTRY_LAST
        return MD_OK

    cdef void read_id(self, const char* p, int32_t n, MDEntry* e) noexcept:
        # 278 kept exactly: UUID, Kraken's own form, short text in place, anything else by side table
        if n == 36 and kfix_uuid(p, &e.id_hi, &e.id_lo) == 0:
            e.id_kind = ID_UUID
        elif n == 19 and kfix_kraken_id(p, &e.id_hi, &e.id_lo) == 0:
            e.id_kind = ID_KRAKEN
        elif n <= 16 and memchr(p, 0, n) == NULL:
            e.id_kind = ID_TEXT
            kfix_text_id(p, n, &e.id_hi, &e.id_lo)
        else:
            text = p[:n]
            row = self._id_rows.get(text)
            if row is None and len(self.id_table) < ID_TABLE_ROWS:
                row = len(self.id_table)
                self._id_rows[text] = row
                self.id_table.append(text)
            e.id_kind = ID_TABLE
            e.id_hi = 0
            # a full table gives every further text the row after its last
            e.id_lo = ID_TABLE_ROWS if row is None else <uint64_t>row

    cdef inline int usual_field(self, uint32_t tag, const char** p, MDEntry* e, Header* h, int has) noexcept:
        # a field of a group in the form that it nearly always has, whose end needs no search: its HAS_ bit and p
        # behind its SOH, or 0 for entry_field() to look at
        cdef const char* q = p[0]
        cdef int64_t t
        cdef int decimals
        if tag == 270:
            if kfix_number(&q, &e.price, &decimals) != 0 or q[0] != SOH:
                return 0
            e.spare0 = decimals
            p[0] = q + 1
            return HAS_PRICE
        elif tag == 271:
            if kfix_number(&q, &e.qty, &decimals) != 0 or q[0] != SOH or e.qty < 0:
                return 0
            e.spare1 = decimals
            p[0] = q + 1
            return HAS_QTY
        elif tag == 273:
            t = kfix_clock_ms(q)
            if t < 0:
                return 0
            if not has & HAS_EVENT:
                e.event_ns = near_midnight(t, h.sending_ns, h.sending_day_ns)
            p[0] = q + 13
            return HAS_TIME
        elif tag == 269:
            if q[1] != SOH or <uint8_t>(q[0] - c'0') > SIDE_TRADE:
                return 0
            e.side = q[0] - c'0'
            p[0] = q + 2
            return HAS_SIDE
        elif tag == 5060 or tag == 5273:
            if q[30] != SOH:
                return 0
            t = kfix_iso(&q, &self._iso_date)
            if t < 0 or q != p[0] + 30:
                return 0
            p[0] = q + 1
            if tag == 5273:
                e.queue_ns = t
                return HAS_QUEUE
            e.event_ns = t
            return HAS_EVENT
        return 0

    cdef int entry_field(self, int tag, const char* p, const char* value_end, MDEntry* e, Header* h,
                         int has) noexcept:
        # one field of a group; returns the HAS_ bit, 0 for a field we do not keep, or -MD_ error.
        # `e.spare0`, `e.spare1`: decimals of price and quantity until they are scaled
        cdef int decimals = 0
        cdef int64_t t
        if tag == 279 or tag == 269:
            if value_end - p != 1 or <uint8_t>(p[0] - c'0') > 9:
                return -MD_BAD_VALUE
            if <uint8_t>(p[0] - c'0') > 2:
                return -MD_OUT_OF_RANGE
            if tag == 279:
                e.action = p[0] - c'0'
                return HAS_ACTION
            e.side = p[0] - c'0'
            return HAS_SIDE
        if tag == 270 or tag == 271:
            if kfix_number(&p, &t, &decimals) != 0 or p != value_end:
                return -MD_BAD_VALUE
            if tag == 270:
                e.price = t
                e.spare0 = decimals
                return HAS_PRICE
            if t < 0:
                return -MD_BAD_VALUE
            e.qty = t
            e.spare1 = decimals
            return HAS_QTY
        if tag == 278:
            self.read_id(p, value_end - p, e)
            return HAS_ID
        if tag == 273:
            t = kfix_time_of_day(p) if value_end - p >= 8 else -1
            if t < 0:
                return -MD_BAD_VALUE
            p += 8
            t = t * 1000000000
            t += max(kfix_fraction(&p), 0)
            if p != value_end:
                return -MD_BAD_VALUE
            if not has & HAS_EVENT:
                e.event_ns = near_midnight(t, h.sending_ns, h.sending_day_ns)
            return HAS_TIME
        if tag == 5060 or tag == 5273:
            t = kfix_iso(&p, &self._iso_date) if value_end - p >= 20 else -1
            if t < 0 or p != value_end:
                return -MD_BAD_VALUE
            if tag == 5273:
                e.queue_ns = t
                return HAS_QUEUE
            e.event_ns = t
            return HAS_EVENT
        if tag == 40 or tag == 2446:
            if value_end - p != 1 or <uint8_t>(p[0] - c'0') > 9:
                return -MD_BAD_VALUE
            if tag == 40:
                e.ord_type = p[0] - c'0'
            else:
                e.aggressor = p[0] - c'0'
        return 0

    cdef int decode_general(self, Header* h, const char* end, MDMessage* m) noexcept:
        # any field order: a group starts with each return of the tag that followed 268
        cdef const char* p = h.body
        cdef const char* value
        cdef const char* after = NULL
        cdef const char* id_p = NULL
        cdef const char* price_p = NULL
        cdef int32_t id_n = 0, price_n = 0
        cdef uint32_t tag
        cdef uint32_t first_tag = 0
        cdef uint64_t number
        cdef int bit, has = 0, required = HAS_ALL if h.msg_type == c'W' else HAS_ALL | HAS_ACTION
        cdef MDEntry* e = NULL
        memset(m, 0, sizeof(MDMessage))
        m.declared = -1
        while True:
            tag = 0
            if p < end:
                value = p
                tag = kfix_tag(&value)
                if tag == 0:
                    return self._fail(m, MD_NOT_NUMERIC, 0)
                if e != NULL and tag != first_tag:
                    p = value
                    bit = self.usual_field(tag, &p, e, h, has)
                    if bit != 0:
                        if bit == HAS_PRICE:
                            price_p = value
                            price_n = p - 1 - value
                        m.repeated_tags += (has & bit) != 0
                        has |= bit
                        continue
                after = kfix_find_soh(value, end)
                if after == NULL:
                    return self._fail(m, MD_NOT_NUMERIC, tag)
                if after == value:
                    return self._fail(m, MD_EMPTY_VALUE, tag)
            if e != NULL and (tag == 0 or tag == first_tag):
                # the group is complete
                if has & required != required:
                    return self._fail(m, MD_MISSING_TAG, missing_tag(required & ~has))
                if id_p != NULL and l2_id(id_p, id_n, price_p, price_n):
                    e.id_kind = ID_NONE
                    e.id_hi = 0
                    e.id_lo = 0
                else:
                    self.read_id(id_p, id_n, e)
                if e.qty == 0 and e.action != ACTION_DELETE and e.side == SIDE_TRADE:
                    return self._fail(m, MD_BAD_VALUE, 271)
                if e.action == ACTION_DELETE and e.qty > 0:
                    e.action = ACTION_LEAVE
                m.n += 1
                e = NULL
            if tag == 0:
                break
            if tag == 8 or tag == 9 or tag == 10:
                return self._fail(m, MD_BAD_VALUE, tag)
            if m.declared >= 0 and first_tag == 0 and m.declared > 0:
                first_tag = tag
                if not group_tag(tag):
                    return self._fail(m, MD_COUNT, 268)
            if tag == first_tag and first_tag != 0:
                if m.n >= m.declared or self.reserve(m.n + 1 if m.n < self.capacity else 2 * m.n) != 0:
                    return self._fail(m, MD_COUNT, 268)
                e = &self.entries[m.n]
                memset(e, 0, sizeof(MDEntry))
                e.flags = ENTRY_SNAPSHOT if h.msg_type == c'W' else 0
                has = 0
            if tag == 55:
                m.repeated_tags += m.symbol.n > 0
                m.symbol.p = value
                m.symbol.n = after - value
            elif tag == 262:
                m.repeated_tags += m.req_id.n > 0
                m.req_id.p = value
                m.req_id.n = after - value
            elif tag == 268:
                m.repeated_tags += m.declared >= 0
                if kfix_digits(&value, &number) < 1 or value != after or number > 0x7FFFFFF:
                    return self._fail(m, MD_BAD_VALUE, 268)
                m.declared = number
            elif tag == 5041:
                m.repeated_tags += m.has_crc
                if kfix_digits(&value, &number) < 1 or value != after or number >> 32 != 0:
                    return self._fail(m, MD_BAD_VALUE, 5041)
                m.crc = number
                m.has_crc = 1
            elif e != NULL:
                bit = HAS_ID
                if tag == 278:
                    id_p = value
                    id_n = after - value
                else:
                    if tag == 270:
                        price_p = value
                        price_n = after - value
                    bit = self.entry_field(tag, value, after, e, h, has)
                    if bit < 0:
                        return self._fail(m, -bit, tag)
                m.repeated_tags += (has & bit) != 0
                has |= bit
            elif group_tag(tag):
                return self._fail(m, MD_COUNT, 268)
            p = after + 1
        if m.symbol.n == 0:
            return self._fail(m, MD_MISSING_TAG, 55)
        if m.req_id.n == 0:
            return self._fail(m, MD_MISSING_TAG, 262)
        if m.declared < 0:
            return self._fail(m, MD_MISSING_TAG, 268)
        if m.n != m.declared:
            return self._fail(m, MD_COUNT, 268)
        if m.n:
            self.entries[m.n - 1].flags |= ENTRY_LAST
        return MD_OK

    cdef int _fail(self, MDMessage* m, int error, int tag) noexcept:
        m.error = error
        m.error_tag = tag
        return error

    cdef int scale(self, MDMessage* m, int price_precision, int qty_precision) noexcept:
        # mantissa and decimals to the instrument's integer precision; MD_PRECISION when a digit would be lost
        cdef MDEntry* e = self.entries
        cdef MDEntry* end = e + m.n
        while e < end:
            if kfix_rescale(&e.price, price_precision - <int>e.spare0) != 0:
                return self._fail(m, MD_PRECISION, 270)
            if kfix_rescale(&e.qty, qty_precision - <int>e.spare1) != 0:
                return self._fail(m, MD_PRECISION, 271)
            e.spare0 = 0
            e.spare1 = 0
            e += 1
        return MD_OK

    # ---- what Python sees ----

    def decode_frame(self, frame, int price_precision, int qty_precision):
        """Return the entries of one W or X frame as an array of ENTRY_DTYPE, in the precisions given.

        Raises ProtocolError with the tag at fault when the frame is not sound or cannot be decoded whole.
        """
        cdef bytes padded = bytes(frame) + b"\0" * 64
        cdef const char* p = padded
        cdef int64_t n = len(padded) - 64, length
        cdef const char* body = p + 13
        cdef Header h
        cdef MDMessage m
        if next_frame(p, n, n, &length) != FRAME_OK or length != n:
            raise ProtocolError("not one sound FIX frame")
        while (body - 1)[0] != SOH:
            body += 1
        if self.read_header(body, p + n - 7, &h) != MD_OK or (h.msg_type != c'X' and h.msg_type != c'W'):
            raise ProtocolError("not a W or X with a sound header")
        error = self.begin(&h, p + n - 7, &m)
        if error == MD_OK:
            error = self.finish(&h, p + n - 7, &m, price_precision, qty_precision)
        if error != MD_OK:
            raise ProtocolError(f"35={chr(h.msg_type)} cannot be decoded: error {error} at tag {m.error_tag}")
        return np.frombuffer((<char*>self.entries)[:m.n * sizeof(MDEntry)], ENTRY_DTYPE).copy()


cdef inline int missing_tag(int bits) noexcept nogil:
    if bits & HAS_ACTION:
        return 279
    if bits & HAS_SIDE:
        return 269
    if bits & HAS_ID:
        return 278
    if bits & HAS_PRICE:
        return 270
    if bits & HAS_QTY:
        return 271
    return 273
