"""What every field of a standard header, a W and an X means, in whatever order they come: the general path."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memset

from kfix_md._entry cimport (
    ACTION_DELETE, ACTION_LEAVE, ENTRY_LAST, ENTRY_SNAPSHOT, ID_KRAKEN, ID_NONE, ID_TABLE, ID_TEXT, ID_UUID,
    SIDE_TRADE, MDEntry,
)

from kfix_md._frame import SIMD

cdef extern from "c/scan.h" nogil:
    int kfix_rescale(int64_t* value, int shift)
    int kfix_digits(const char** p, uint64_t* value)
    int kfix_number(const char** p, int64_t* mantissa, int* exponent, int* decimals)
    int KFIX_TOO_LARGE
    int KFIX_TOO_FINE
    uint32_t kfix_tag(const char** p)
    int kfix_equal(const char* a, const char* b, int64_t n)
    uint32_t kfix_load4(const char* p)
    const char* kfix_next_soh(const char* p)
    int kfix_scalar

cdef extern from "c/clock.h" nogil:
    int64_t kfix_clock_ms(const char* p)
    int64_t kfix_time_of_day(const char* p)
    int64_t kfix_fraction(const char** p)
    int64_t kfix_timestamp(const char** p, kfix_date* cache)
    int64_t kfix_iso(const char** p, kfix_dates* dates)

cdef extern from "c/order_ids.h" nogil:
    int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo)
    int kfix_kraken_id(const char* p, uint64_t* hi, uint64_t* lo)
    void kfix_text_id(const char* p, int n, uint64_t* hi, uint64_t* lo)

if SIMD == "scalar":
    kfix_scalar = 1

cdef enum:
    SOH = 1
    ID_TABLE_ROWS = 1048576
    MAX_PRECISION = 18          # decimals that an int64 may have

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


cdef inline int l2_id(const Span* id, const Span* price) noexcept nogil:
    # 278 that repeats side letter and price
    return (id.n == price.n + 1 and (id.p[0] == c'B' or id.p[0] == c'O')
            and kfix_equal(id.p + 1, price.p, price.n))


cdef inline bint group_tag(uint64_t tag) noexcept nogil:
    return (269 <= tag <= 271 or tag == 273 or tag == 278 or tag == 279 or tag == 40 or tag == 2446
            or tag == 5060 or tag == 5273)


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


cdef inline int unfit(int error, int exponent) noexcept nogil:
    # whether another precision of the instrument would hold the number
    return MD_PRECISION if error == KFIX_TOO_FINE and exponent >= -MAX_PRECISION else MD_NUMBER


cdef inline int usual_field(FieldReader self, uint32_t tag, const char** p, Group* g, Header* h) noexcept:
    # a field of a group in the form that it nearly always has: its HAS_ bit and p behind its SOH, or 0 for
    # entry_field() to look at. `tag` is the four bytes at p
    cdef const char* q = p[0] + 4
    cdef const char* value = q
    cdef MDEntry* e = g.e
    cdef int64_t t
    cdef int exponent, decimals
    if tag == TEXT_270:
        if kfix_number(&q, &e.price, &exponent, &decimals) != 0 or q[0] != SOH:
            return 0
        e.price_exponent = exponent
        e.decimals = e.decimals & 0xFF00 | decimals
        g.price.p = value
        g.price.n = q - value
        p[0] = q + 1
        return HAS_PRICE
    elif tag == TEXT_271:
        if kfix_number(&q, &e.qty, &exponent, &decimals) != 0 or q[0] != SOH or e.qty < 0:
            return 0
        e.qty_exponent = exponent
        e.decimals = e.decimals & 0xFF | decimals << 8
        p[0] = q + 1
        return HAS_QTY
    elif tag == TEXT_273:
        t = kfix_clock_ms(q)
        if t < 0:
            return 0
        if not g.has & HAS_EVENT:
            e.event_ns = near_midnight(t, h.sending_ns, h.sending_day_ns)
        p[0] = q + 13
        return HAS_TIME
    elif tag == TEXT_278:
        if q[8] == c'-' and q[36] == SOH and kfix_uuid(q, &e.id_hi, &e.id_lo) == 0:
            e.id_kind = ID_UUID
            g.id.p = NULL
            p[0] = q + 37
            return HAS_ID
        q = kfix_next_soh(q)
        g.id.p = value
        g.id.n = q - value
        p[0] = q + 1
        return HAS_ID if q != value else 0
    elif tag == TEXT_269:
        if q[1] != SOH or <uint8_t>(q[0] - c'0') > SIDE_TRADE:
            return 0
        e.side = q[0] - c'0'
        p[0] = q + 2
        return HAS_SIDE
    elif tag == TEXT_279:
        if q[1] != SOH or <uint8_t>(q[0] - c'0') > ACTION_DELETE:
            return 0
        e.action = q[0] - c'0'
        p[0] = q + 2
        return HAS_ACTION
    elif (tag == TEXT_5060 or tag == TEXT_5273) and q[0] == c'=' and q[31] == SOH:
        q += 1
        t = kfix_iso(&q, &self._iso_dates)
        if t < 0 or q != p[0] + 35:
            return 0
        p[0] = q + 1
        if tag == TEXT_5273:
            e.queue_ns = t
            return HAS_QUEUE
        e.event_ns = t
        return HAS_EVENT
    return 0


cdef class FieldReader:
    """The caches that make the next message cheap, and the staged entries of the last one."""

    def __cinit__(self, *args, **kwargs):
        self._date.ns = -1
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

    cdef int header_general(self, const char* p, const char* end, Header* h) noexcept:
        # any order; ends at the first field that is not of the header, or, when one of 34, 49, 52, 56 is
        # still missing there, looks for it in the whole frame. Returns MD_OK or what is wrong.
        cdef const char* value
        cdef const char* after
        cdef uint32_t tag
        cdef uint64_t number
        cdef int missing = 0xF
        cdef int result = MD_OK
        memset(h, 0, sizeof(Header))
        h.seq = -1
        while p < end:
            value = p
            tag = kfix_tag(&value)
            if tag == 0:
                # behind a whole header it is the body's fault, and the message has its number
                result = MD_OK if missing == 0 else MD_NOT_NUMERIC
                break
            after = kfix_next_soh(value)
            if tag == 35:
                h.msg_type = value[0] if after - value == 1 else 0
            elif tag == 34:
                missing &= ~1
                if kfix_digits(&value, &number) > 0 and value == after:
                    h.seq = number
            elif tag == 49:
                missing &= ~2
                h.sender.p = value
                h.sender.n = after - value
            elif tag == 52:
                missing &= ~4
                h.sending_ns = kfix_timestamp(&value, &self._date)
                h.sending_day_ns = self._date.ns
                if value != after or h.sending_ns < 0:
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
                h.orig_sending_ns = kfix_timestamp(&value, &self._date)
                if value != after or h.orig_sending_ns < 0:
                    h.orig_sending_ns = 0
            elif tag != 50 and tag != 57 and tag != 115 and tag != 128 and tag != 129 and tag != 347:
                if h.body == NULL:
                    h.body = p
                if missing == 0:
                    break
            p = after + 1
        if h.body == NULL:
            h.body = p
        h.whole = missing == 0
        return result

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

    cdef int entry_field(self, int tag, const char* p, const char* value_end, Group* g, Header* h) noexcept:
        # one field of a group; returns the HAS_ bit, 0 for a field we do not keep, or -MD_ error.
        cdef MDEntry* e = g.e
        cdef const char* text
        cdef int exponent = 0, decimals = 0, error
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
            text = p
            error = kfix_number(&p, &t, &exponent, &decimals)
            if p != value_end or (error != 0 and error != KFIX_TOO_LARGE):
                return -MD_BAD_VALUE
            if error != 0:
                return -MD_NUMBER
            if tag == 270:
                e.price = t
                e.price_exponent = exponent
                e.decimals = e.decimals & 0xFF00 | decimals
                g.price.p = text
                g.price.n = value_end - text
                return HAS_PRICE
            if t < 0:
                return -MD_BAD_VALUE
            e.qty = t
            e.qty_exponent = exponent
            e.decimals = e.decimals & 0xFF | decimals << 8
            return HAS_QTY
        if tag == 278:
            g.id.p = p
            g.id.n = value_end - p
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
            if not g.has & HAS_EVENT:
                e.event_ns = near_midnight(t, h.sending_ns, h.sending_day_ns)
            return HAS_TIME
        if tag == 5060 or tag == 5273:
            t = kfix_iso(&p, &self._iso_dates) if value_end - p >= 20 else -1
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

    cdef int end_group(self, Header* h, MDMessage* m, Group* g) noexcept:
        # all fields of the group are read: the entry is one more, or is none
        cdef MDEntry* e = g.e
        cdef int missing = (HAS_ALL if h.msg_type == c'W' else HAS_ALL | HAS_ACTION) & ~g.has
        if missing:
            return self._fail(m, MD_MISSING_TAG, missing_tag(missing))
        if g.id.p != NULL:
            if l2_id(&g.id, &g.price):
                e.id_kind = ID_NONE
                e.id_hi = 0
                e.id_lo = 0
            else:
                self.read_id(g.id.p, g.id.n, e)
        if e.qty == 0 and e.action != ACTION_DELETE and e.side == SIDE_TRADE:
            return self._fail(m, MD_BAD_VALUE, 271)
        if e.action == ACTION_DELETE and e.qty > 0:
            e.action = ACTION_LEAVE
        m.n += 1
        return MD_OK

    cdef int decode_general(self, Header* h, const char* end, MDMessage* m) noexcept:
        # any field order: a group starts with each return of the tag that followed 268. A SOH stands before `end`
        cdef const char* p = h.body
        cdef const char* value
        cdef const char* after
        cdef uint32_t tag, first_tag = 0, text, first_text = 0
        cdef uint64_t number
        cdef int bit
        cdef Group g
        memset(m, 0, sizeof(MDMessage))
        m.declared = -1
        g.e = NULL
        while p < end:
            text = kfix_load4(p)
            if g.e != NULL and text != first_text:
                bit = usual_field(self, text, &p, &g, h)
                if bit != 0:
                    m.repeated_tags += (g.has & bit) != 0
                    g.has |= bit
                    continue
            value = p
            tag = kfix_tag(&value)
            if tag == 0:
                return self._fail(m, MD_NOT_NUMERIC, 0)
            after = kfix_next_soh(value)
            if after == value:
                return self._fail(m, MD_EMPTY_VALUE, tag)
            if first_tag == 0 and m.declared > 0:
                first_tag = tag
                first_text = text
                if not group_tag(tag):
                    return self._fail(m, MD_COUNT if tag > 10 else MD_BAD_VALUE, 268 if tag > 10 else tag)
            if tag == first_tag:
                if g.e != NULL and self.end_group(h, m, &g) != MD_OK:
                    return m.error
                if m.n >= m.declared or self.reserve(m.n + 1 if m.n < self.capacity else 2 * m.n) != 0:
                    return self._fail(m, MD_COUNT, 268)
                g.e = &self.entries[m.n]
                memset(g.e, 0, sizeof(MDEntry))
                g.e.flags = ENTRY_SNAPSHOT if h.msg_type == c'W' else 0
                g.has = 0
                bit = usual_field(self, text, &p, &g, h)
                if bit != 0:
                    g.has = bit
                    continue
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
            elif 8 <= tag <= 10:
                return self._fail(m, MD_BAD_VALUE, tag)
            elif g.e != NULL:
                bit = self.entry_field(tag, value, after, &g, h)
                if bit < 0:
                    return self._fail(m, -bit, tag)
                m.repeated_tags += (g.has & bit) != 0
                g.has |= bit
            elif group_tag(tag):
                return self._fail(m, MD_COUNT, 268)
            p = after + 1
        if g.e != NULL and self.end_group(h, m, &g) != MD_OK:
            return m.error
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

    cdef int scale(self, MDMessage* m, int price_precision, int qty_precision) noexcept:
        # mantissas and exponents to the instrument's integer precision
        cdef MDEntry* e = self.entries
        cdef MDEntry* end = e + m.n
        cdef int error
        while e < end:
            error = kfix_rescale(&e.price, price_precision + e.price_exponent)
            if error != 0:
                return self._fail(m, unfit(error, e.price_exponent), 270)
            error = kfix_rescale(&e.qty, qty_precision + e.qty_exponent)
            if error != 0:
                return self._fail(m, unfit(error, e.qty_exponent), 271)
            e.price_exponent = 0
            e.qty_exponent = 0
            e += 1
        return MD_OK

    cdef int _fail(self, MDMessage* m, int error, int tag) noexcept:
        m.error = error
        m.error_tag = tag
        return error
