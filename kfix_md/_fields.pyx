"""Reads the fields of a standard header, a W and an X in any order: the general path of the decoder."""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcmp, memcpy, memset

from kfix_md._entry cimport (
    ACTION_DELETE, ACTION_LEAVE, ACTION_NEW, ENTRY_LAST, ENTRY_SNAPSHOT, ID_KRAKEN, ID_NONE, ID_TABLE, ID_TEXT, ID_UUID,
    SIDE_OFFER, SIDE_TRADE, MDEntry,
)

from enum import IntEnum

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
    void kfix_hash_id(const char* p, int64_t n, uint64_t* hi, uint64_t* lo)

cdef extern from "c/data_fields.h" nogil:
    const char* kfix_value_end(kfix_data* data, uint32_t tag, const char* field, const char* value, const char* soh,
                               const char* last)

cdef enum:
    SOH = 1
    MAX_PRECISION = 18          # decimals that an int64 may have
    SIDE_UNKNOWN = 255          # of a group that is left out

    # which required fields an entry has (the general path)
    HAS_SIDE = 1
    HAS_ID = 2
    HAS_PRICE = 4
    HAS_QTY = 8
    HAS_TIME = 16
    HAS_ACTION = 32
    HAS_EVENT = 64
    HAS_QUEUE = 128
    HAS_ENTRY = 13              # side, price and quantity: without one of them there is no entry


class Fault(IntEnum):
    """Why a W or X cannot be decoded."""

    NOT_NUMERIC = MD_NOT_NUMERIC
    EMPTY_VALUE = MD_EMPTY_VALUE
    BAD_VALUE = MD_BAD_VALUE
    MISSING_TAG = MD_MISSING_TAG
    COUNT = MD_COUNT
    OUT_OF_RANGE = MD_OUT_OF_RANGE
    PRECISION = MD_PRECISION
    NUMBER = MD_NUMBER
    MIXED = MD_MIXED


cdef inline int l2_id(const Span* id, const Span* price) noexcept nogil:
    # 278 that repeats side letter and price
    return (id.n == price.n + 1 and (id.p[0] == c'B' or id.p[0] == c'O')
            and kfix_equal(id.p + 1, price.p, price.n))


cdef inline bint needed(uint32_t tag) noexcept nogil:
    # a field that a message or one of its entries cannot be understood without; any other one may be empty
    return 268 <= tag <= 271 or tag == 278 or tag == 279 or tag == 5273 or tag == 55 or tag == 262 or tag == 5041


cdef inline bint group_tag(uint64_t tag) noexcept nogil:
    return (269 <= tag <= 271 or tag == 273 or tag == 278 or tag == 279 or tag == 40 or tag == 2446
            or tag == 5060 or tag == 5273)


cdef inline int missing_tag(int bits) noexcept nogil:
    if bits & HAS_ACTION:
        return 279
    if bits & HAS_SIDE:
        return 269
    if bits & HAS_PRICE:
        return 270
    return 271


cdef inline int unfit(int error, int exponent) noexcept nogil:
    # whether another precision of the instrument would hold the number
    return MD_PRECISION if error == KFIX_TOO_FINE and exponent >= -MAX_PRECISION else MD_NUMBER


cdef inline bint same_text(const Span* a, const Span* b) noexcept nogil:
    return a.n == b.n and memcmp(a.p, b.p, a.n) == 0


cdef bint next_field(const char** p, const char* end, uint32_t wanted, Span* text) noexcept nogil:
    # the next field with tag `wanted` at or after p, which moves past it; a SOH comes before `end`
    cdef kfix_data data = kfix_no_data()
    cdef const char* field
    cdef const char* value
    cdef uint32_t tag
    while p[0] < end:
        field = value = p[0]
        tag = kfix_tag(&value)
        p[0] = kfix_value_end(&data, tag, field, value, kfix_next_soh(value), end - 1) + 1
        if tag == wanted and p[0] - value > 1:
            text.p = value
            text.n = p[0] - 1 - value
            return True
    return False


cdef inline int usual_field(FieldReader self, uint32_t tag, const char** p, Group* g, Header* h) noexcept:
    # a field of a group in its usual form: its HAS_ bit, and p moves past its SOH; or 0, then entry_field() reads it.
    # `tag` is the four bytes at p
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
        if q == value:
            return 0
        g.id.p = value
        g.id.n = q - value
        p[0] = q + 1
        return HAS_ID
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

    def __cinit__(self, *args, bint keep_ids=False, **kwargs):
        self._date.ns = -1
        self.keep_ids = keep_ids
        self.id_table = {}
        self._id_texts = {}
        if self.reserve(64) != 0:
            raise MemoryError("no memory for a message's entries")

    def __dealloc__(self):
        free(self.entries)
        free(self._parked)

    def take_ids(self):
        """Begin a new batch: `id_table` becomes the texts of the long ids read since the last call."""
        self.id_table, self._id_texts = self._id_texts, {}

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
        # Fields in any order. Ends at the first field that is not of the header once 34, 49, 52 and 56 are read; where
        # one is missing there, the whole frame is searched. Returns MD_OK or what is wrong.
        cdef const char* value
        cdef const char* after
        cdef uint32_t tag
        cdef uint64_t number
        cdef int missing = 0xF
        cdef int result = MD_OK
        cdef kfix_data data = kfix_no_data()
        memset(h, 0, sizeof(Header))
        h.seq = -1
        while p < end:
            value = p
            tag = kfix_tag(&value)
            if tag == 0:
                # after a whole header it is the body's fault, and the message has its number
                result = MD_OK if missing == 0 else MD_NOT_NUMERIC
                break
            after = kfix_value_end(&data, tag, p, value, kfix_next_soh(value), end - 1)
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
        # 278 as 128 bits: UUID, Kraken's own form and short text exactly, any other text by its hash
        if n == 36 and kfix_uuid(p, &e.id_hi, &e.id_lo) == 0:
            e.id_kind = ID_UUID
        elif n == 19 and kfix_kraken_id(p, &e.id_hi, &e.id_lo) == 0:
            e.id_kind = ID_KRAKEN
        elif n <= 16 and memchr(p, 0, n) == NULL:
            e.id_kind = ID_TEXT
            kfix_text_id(p, n, &e.id_hi, &e.id_lo)
        else:
            e.id_kind = ID_TABLE
            kfix_hash_id(p, n, &e.id_hi, &e.id_lo)
            if self.keep_ids:
                self._id_texts[e.id_hi, e.id_lo] = p[:n]

    cdef int entry_field(self, int tag, const char* p, const char* value_end, Group* g, Header* h) noexcept:
        # one field of a group: its HAS_ bit, 0 for a field that is not kept, or -MD_ error
        cdef MDEntry* e = g.e
        cdef const char* text
        cdef int exponent = 0, decimals = 0, error
        cdef bint known
        cdef int64_t t
        if tag == 269:
            e.side = SIDE_UNKNOWN
            if value_end - p == 1 and <uint8_t>(p[0] - c'0') <= SIDE_TRADE:
                e.side = p[0] - c'0'
            return HAS_SIDE
        if tag == 279:
            if value_end - p != 1 or <uint8_t>(p[0] - c'0') > 9:
                return -MD_BAD_VALUE
            if <uint8_t>(p[0] - c'0') > ACTION_DELETE:
                return -MD_OUT_OF_RANGE
            e.action = p[0] - c'0'
            return HAS_ACTION
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
            p += 8
            if t >= 0:
                t = t * 1000000000
                t += max(kfix_fraction(&p), 0)
            if t < 0 or p != value_end:
                g.bad_times += 1
                return 0
            if not g.has & HAS_EVENT:
                e.event_ns = near_midnight(t, h.sending_ns, h.sending_day_ns)
            return HAS_TIME
        if tag == 5060 or tag == 5273:
            t = kfix_iso(&p, &self._iso_dates) if value_end - p >= 20 else -1
            if t < 0 or p != value_end:
                g.bad_times += tag == 5060
                return 0 if tag == 5060 else -MD_BAD_VALUE
            if tag == 5273:
                e.queue_ns = t
                return HAS_QUEUE
            e.event_ns = t
            return HAS_EVENT
        if tag == 40 or tag == 2446:
            # a code of one digit is kept, any other is unknown
            known = value_end - p == 1 and <uint8_t>(p[0] - c'0') < 10
            if tag == 40:
                e.ord_type = p[0] - c'0' if known else 0
            else:
                e.aggressor = p[0] - c'0' if known else 0
        return 0

    cdef int end_group(self, Header* h, MDMessage* m, Group* g) noexcept:
        # all fields of a group are read: one entry more, a fault, or nothing that concerns a book
        cdef MDEntry* e = g.e
        cdef int error = g.error, tag = g.error_tag
        cdef int missing = (HAS_ENTRY if h.msg_type == c'W' else HAS_ENTRY | HAS_ACTION) & ~g.has
        if error == MD_OK and missing:
            error = MD_MISSING_TAG
            tag = missing_tag(missing)
        if error == MD_OK and e.qty == 0 and e.action != ACTION_DELETE and e.side == SIDE_TRADE:
            error = MD_BAD_VALUE
            tag = 271
        if g.has & HAS_SIDE and (e.side == SIDE_UNKNOWN or (error != MD_OK and e.side == SIDE_TRADE)):
            m.left_out += 1
            return MD_OK
        if error != MD_OK:
            m.error_at = g.begin - h.body
            return self._fail(m, error, tag)
        m.bad_times += g.bad_times
        if not g.has & (HAS_TIME | HAS_EVENT):
            e.event_ns = h.sending_ns
        if not g.has & HAS_ID:
            m.without_id += e.side != SIDE_TRADE
        elif g.id.n > MAX_ID_TEXT:
            m.error_at = g.begin - h.body
            return self._fail(m, MD_BAD_VALUE, 278)
        elif g.id.p != NULL:
            if l2_id(&g.id, &g.price):
                e.id_kind = ID_NONE
                e.id_hi = 0
                e.id_lo = 0
            else:
                self.read_id(g.id.p, g.id.n, e)
        if e.action == ACTION_DELETE and e.qty > 0:
            e.action = ACTION_LEAVE
        m.n += 1
        return MD_OK

    cdef int decode_general(self, Header* h, const char* end, MDMessage* m) noexcept:
        # Fields in any order: a group starts with each occurrence of the tag that follows 268. `end` follows a SOH.
        # Entries are staged: `instrument` is the offset of their group from h.body until scale().
        cdef const char* p = h.body
        cdef const char* value
        cdef const char* after
        cdef uint32_t tag, first_tag = 0, text, first_text = 0
        cdef int bit
        cdef Group g
        cdef Named named
        cdef kfix_data data = kfix_no_data()
        memset(m, 0, sizeof(MDMessage))
        memset(&named, 0, sizeof(Named))
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
            after = kfix_value_end(&data, tag, p, value, kfix_next_soh(value), end - 1)
            if after == value and not needed(tag):
                p = after + 1
                continue
            if after == value and (g.e == NULL or tag == first_tag or not group_tag(tag)):
                return self._fail(m, MD_EMPTY_VALUE, tag)
            if first_tag == 0 and m.declared > 0:
                first_tag = tag
                first_text = text
                if tag != 55 and not group_tag(tag):
                    return self._fail(m, MD_COUNT if tag > 10 else MD_BAD_VALUE, 268 if tag > 10 else tag)
            if tag == first_tag:
                if g.e != NULL and self.end_group(h, m, &g) != MD_OK:
                    return m.error
                if m.groups >= m.declared or self.reserve(m.n + 1 if m.n < self.capacity else 2 * m.n) != 0:
                    return self._fail(m, MD_COUNT, 268)
                m.groups += 1
                begin_group(&g, &self.entries[m.n], p, h)
                bit = usual_field(self, text, &p, &g, h)
                if bit != 0:
                    g.has = bit
                    continue
            if g.e != NULL and tag != 55 and tag != 262 and tag != 268 and tag != 5041 and not 8 <= tag <= 10:
                bit = self.entry_field(tag, value, after, &g, h) if after != value else -MD_EMPTY_VALUE
                if bit < 0 and g.error == MD_OK:
                    g.error = -bit
                    g.error_tag = tag
                if bit > 0:
                    m.repeated_tags += (g.has & bit) != 0
                    g.has |= bit
            elif self.message_field(tag, value, after, m, &g, &named) != MD_OK:
                return m.error
            p = after + 1
        if g.e != NULL and self.end_group(h, m, &g) != MD_OK:
            return m.error
        return self.end_message(h, end, m, &named)

    cdef int message_field(self, uint32_t tag, const char* value, const char* after, MDMessage* m, Group* g,
                           Named* named) noexcept:
        # a field of the message, not of a group (but 55, which may be of either)
        cdef uint64_t number
        cdef Span text
        text.p = value
        text.n = after - value
        if tag == 55:
            m.repeated_tags += named.first.n > 0
            if named.first.n == 0:
                named.first = m.symbol = text
            named.differ |= not same_text(&text, &named.first)
            if g.e == NULL:
                named.clash |= named.outer.n > 0 and not same_text(&text, &named.outer)
                named.outer = text
            else:
                named.inner += g.symbol.n == 0
                named.clash |= g.symbol.n > 0 and not same_text(&text, &g.symbol)
                g.symbol = text
        elif tag == 262:
            m.repeated_tags += m.req_id.n > 0
            if m.req_id.n == 0:
                m.req_id = text
            named.ids_differ |= not same_text(&text, &m.req_id)
            if g.e == NULL:
                named.clash |= named.outer_id.n > 0 and not same_text(&text, &named.outer_id)
                named.outer_id = text
            else:
                named.inner_ids += g.req_id.n == 0
                named.clash |= g.req_id.n > 0 and not same_text(&text, &g.req_id)
                g.req_id = text
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
        elif group_tag(tag):
            return self._fail(m, MD_COUNT, 268)
        return MD_OK

    cdef int end_message(self, Header* h, const char* end, MDMessage* m, Named* named) noexcept:
        # what a W or X must have; MD_SPLIT when each of its groups names a symbol and these differ
        if m.symbol.n == 0:
            return self._fail(m, MD_MISSING_TAG, 55)
        if m.req_id.n == 0:
            return self._fail(m, MD_MISSING_TAG, 262)
        if m.declared < 0:
            return self._fail(m, MD_MISSING_TAG, 268)
        if m.groups != m.declared:
            return self._fail(m, MD_COUNT, 268)
        if named.clash or named.ids_differ and (named.outer_id.n > 0 or named.inner_ids != m.groups):
            return self._fail(m, MD_MIXED, 55 if named.differ else 262)
        if m.n:
            self.entries[m.n - 1].flags |= ENTRY_LAST
        if not named.differ:
            return MD_OK if not named.ids_differ else self._fail(m, MD_MIXED, 262)
        m.own_ids = named.ids_differ
        if named.inner != m.groups or m.groups < 2 or not self.names_one_of(h, end, m, &named.outer):
            return self._fail(m, MD_MIXED, 55)
        return self.park(m)

    cdef bint names_one_of(self, Header* h, const char* end, MDMessage* m, Span* outer) noexcept:
        # whether a 55 outside of the groups, if there is one, is that of an entry
        cdef int32_t i
        cdef Span symbol
        for i in range(m.n):
            if outer.n == 0 or (symbol_at(h, end, &self.entries[i], &symbol) and same_text(&symbol, outer)):
                return True
        return outer.n == 0

    # ---- a message whose entries are of several symbols ----

    cdef int park(self, MDMessage* m) noexcept:
        cdef MDEntry* grown
        if m.n > self._parked_capacity:
            grown = <MDEntry*>realloc(self._parked, m.n * sizeof(MDEntry))
            if grown == NULL:
                return self._fail(m, MD_COUNT, 268)
            self._parked = grown
            self._parked_capacity = m.n
        if m.n:
            memcpy(self._parked, self.entries, m.n * sizeof(MDEntry))
        self._n_parked = m.n
        self._parts = 0
        m.has_crc = 0       # 5041 is of one book, and it is not known of which
        return MD_SPLIT

    cdef bint parked_value(self, Header* h, const char* end, int32_t i, uint32_t tag, Span* text) noexcept:
        # After MD_SPLIT: 55 or 262 of entry `i`; False when there are no more
        return i < self._n_parked and value_at(h, end, &self._parked[i], tag, text)

    cdef bint next_part(self, Header* h, const char* end, MDMessage* m) noexcept:
        # After MD_SPLIT: the entries of the next symbol (and 262, where each has its own), staged as a message of their
        # own, in the order of the message. False when all are taken.
        cdef int32_t i, left = 0
        if self._n_parked == 0:
            return False
        if self._parts:
            m.left_out = m.repeated_tags = m.bad_times = 0    # counted with the first part
        m.first = self._parts
        m.n = 0
        symbol_at(h, end, &self._parked[0], &m.symbol)
        if m.own_ids:
            value_at(h, end, &self._parked[0], 262, &m.req_id)
        for i in range(self._n_parked):
            if (is_at(h, end, &self._parked[i], 55, &m.symbol)
                    and (not m.own_ids or is_at(h, end, &self._parked[i], 262, &m.req_id))):
                self.entries[m.n] = self._parked[i]
                self.entries[m.n].flags &= ~ENTRY_LAST
                m.n += 1
            else:
                self._parked[left] = self._parked[i]
                left += 1
        self.entries[m.n - 1].flags |= ENTRY_LAST
        self._n_parked = left
        self._parts += m.n
        return True

    # ---- what the entries are in the instrument's precision ----

    cdef int scale(self, MDMessage* m, int price_precision, int qty_precision) noexcept:
        # mantissas and exponents to the instrument's integer precision; a trade that does not fit is left out
        cdef MDEntry* e = self.entries
        cdef MDEntry* end = e + m.n
        cdef MDEntry* kept = e
        cdef int error, tag
        while e < end:
            tag = 270
            error = kfix_rescale(&e.price, price_precision + e.price_exponent)
            if error == 0:
                tag = 271
                error = kfix_rescale(&e.qty, qty_precision + e.qty_exponent)
            if error != 0 and e.side != SIDE_TRADE:
                m.error_at = e.instrument
                return self._fail(m, unfit(error, e.price_exponent if tag == 270 else e.qty_exponent), tag)
            if error != 0:
                m.left_out += 1
            else:
                e.price_exponent = 0
                e.qty_exponent = 0
                e.instrument = 0
                if kept != e:
                    kept[0] = e[0]
                kept += 1
            e += 1
        m.n = kept - self.entries
        if m.n:
            self.entries[m.n - 1].flags |= ENTRY_LAST
        return MD_OK

    cdef int level_seen(self, int32_t n) noexcept:
        # 3 when the n entries are orders: one has a place in a queue (5273) or an id of the venue's two forms, or two
        # have the same price; else 2, or 0 without a bid or offer. A level may have any other id.
        cdef MDEntry* e = self.entries
        cdef MDEntry* end = e + n
        cdef MDEntry* last[2]
        cdef MDEntry* before
        cdef int level = 0
        last[0] = last[1] = NULL
        while e < end:
            if e.side <= SIDE_OFFER:
                level = 2
                before = last[e.side]
                if e.queue_ns or e.id_kind == ID_UUID or e.id_kind == ID_KRAKEN or (
                        before != NULL and before.price == e.price and before.action == ACTION_NEW
                        and e.action == ACTION_NEW and not same_id(before, e)):
                    return 3
                last[e.side] = e
            e += 1
        return level

    cdef bytes error_text(self, Header* h, const char* end, MDMessage* m):
        # the value of the field at fault, for a message to people: b"" where there is none
        cdef const char* p = h.body + m.error_at
        cdef const char* value
        cdef const char* after
        cdef uint32_t tag
        while p < end:
            value = p
            tag = kfix_tag(&value)
            after = kfix_next_soh(value)
            if tag == <uint32_t>m.error_tag:
                return value[:min(after - value, 80)]
            p = after + 1
        return b""

    cdef int _fail(self, MDMessage* m, int error, int tag) noexcept:
        m.error = error
        m.error_tag = tag
        return error


cdef inline void begin_group(Group* g, MDEntry* e, const char* p, Header* h) noexcept nogil:
    memset(g, 0, sizeof(Group))
    memset(e, 0, sizeof(MDEntry))
    g.e = e
    g.begin = p
    e.flags = ENTRY_SNAPSHOT if h.msg_type == c'W' else 0
    e.instrument = p - h.body


cdef inline bint same_id(const MDEntry* a, const MDEntry* b) noexcept nogil:
    return a.id_hi == b.id_hi and a.id_lo == b.id_lo and a.id_kind == b.id_kind


cdef bint value_at(Header* h, const char* end, const MDEntry* e, uint32_t tag, Span* text) noexcept nogil:
    # a field of a staged entry's group, which is known to have it
    cdef const char* p = h.body + e.instrument
    return next_field(&p, end, tag, text)


cdef bint is_at(Header* h, const char* end, const MDEntry* e, uint32_t tag, const Span* wanted) noexcept nogil:
    # whether a field of a staged entry's group has this text
    cdef Span text
    return value_at(h, end, e, tag, &text) and same_text(&text, wanted)


cdef inline bint symbol_at(Header* h, const char* end, const MDEntry* e, Span* symbol) noexcept nogil:
    return value_at(h, end, e, 55, symbol)
