"""Decodes frames to entries, fast: a template expects Kraken's field order and verifies it with wide compares.

A message that differs is read by FieldReader, which takes any order. Both stage the entries of a message in one array,
so that a malformed message is never applied in part.
"""

from cython cimport final
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from kfix_md._entry cimport (
    ACTION_DELETE, ACTION_NEW, ENTRY_LAST, ENTRY_SNAPSHOT, ID_NONE, ID_UUID, SIDE_TRADE, MDEntry,
)
from kfix_md._fields cimport (
    MAX_HEADER_TEXT, MAX_ID_TEXT, MD_BAD_VALUE, MD_OK, MD_SPLIT, TEXT_40, TEXT_55, TEXT_262, TEXT_268, TEXT_270,
    TEXT_271, TEXT_273, TEXT_2446, TEXT_5041, TEXT_5060, TEXT_5273, FieldReader, Header, MDMessage, kfix_dates,
    near_midnight,
)
from kfix_md._frame cimport PADDING, padded_frame

import numpy as np

from kfix_md._entry import ENTRY_DTYPE
from kfix_md._fields import Fault
from kfix_md._frame import SIMD, checksum, fields  # the codec's other half, under one name for users
from kfix_md._ids import id_key, id_text
from kfix_md.errors import ProtocolError

__all__ = ["SIMD", "Codec", "checksum", "fields", "id_key", "id_text"]

cdef extern from "c/scan.h" nogil:
    uint64_t kfix_load8(const char* p)
    uint32_t kfix_load4(const char* p)
    int kfix_digits(const char** p, uint64_t* value)
    int kfix_whole(const char** p, uint64_t* value)
    int kfix_fixed(const char** p, int precision, int64_t* value, int* decimals)
    int kfix_equal(const char* a, const char* b, int64_t n)
    const char* kfix_next_soh(const char* p)
    int kfix_entry_begins(const char* p, int snapshot)

cdef extern from "c/clock.h" nogil:
    int64_t kfix_clock_ms(const char* p)
    int64_t kfix_iso(const char** p, kfix_dates* dates)

cdef extern from "c/order_ids.h" nogil:
    int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo)

cdef enum:
    SOH = 1
    SENDER_REST = 16        # "49=", "|52=" and "YYYYMMDD-" around the CompID
    TARGET_REST = 7         # "56=" and "|55="


# ---- header ----

cdef inline int header_fast(Codec self, const char* p, const char* end, Header* h) noexcept:
    # 35=?|34=n|49=sender|52=date-HH:MM:SS.mmm|56=target|55= with CompIDs and date of the last message. After any other
    # field than 55 there is no market data, or something like PossDupFlag comes first: for the general path
    cdef uint64_t seq
    cdef int64_t clock
    if self._sender_n == 0 or (kfix_load8(p) & <uint64_t>0xFFFFFFFF00FFFFFF) != <uint64_t>0x3D343301003D3533:
        return -1
    h.msg_type = p[3]
    p += 8
    if kfix_whole(&p, &seq) != 0:
        return -1
    if end - p < self._sender_n + self._target_n + 13 or not kfix_equal(p, self._sender_literal, self._sender_n):
        return -1
    h.sender.p = p + 3
    p += self._sender_n
    clock = kfix_clock_ms(p)
    p += 13
    if clock < 0 or not kfix_equal(p, self._target_literal, self._target_n):
        return -1
    h.sender.n = self._sender_n - SENDER_REST
    h.target.p = p + 3
    h.target.n = self._target_n - TARGET_REST
    h.body = p + self._target_n - 3
    h.seq = seq
    h.sending_ns = self._day_ns + clock
    h.sending_day_ns = self._day_ns
    h.orig_sending_ns = 0
    h.poss_dup = 0
    h.poss_resend = 0
    h.comp_ids = self._learned
    return 0


cdef void learn_header(Codec self, Header* h) noexcept:
    # the text on both sides of the clock, when the five fields are in the template's order
    cdef const char* after = h.sender.p + h.sender.n + 1
    self._sender_n = 0
    if h.sender.n < 1 or h.target.n < 1 or h.sender.n > MAX_HEADER_TEXT or h.target.n > MAX_HEADER_TEXT:
        return
    if h.sending_ns <= 0 or memcmp(after, <const char*>b"52=", 3) != 0:
        return
    self._learned += 1
    self._day_ns = h.sending_day_ns
    self._sender_n = h.sender.n + SENDER_REST
    self._target_n = h.target.n + TARGET_REST
    memcpy(self._sender_literal, h.sender.p - 3, self._sender_n)
    memcpy(self._target_literal, h.target.p - 3, h.target.n + 4)
    memcpy(self._target_literal + h.target.n + 4, <const char*>b"55=", 3)


# ---- market data ----

cdef inline int begin_fast(Codec self, Header* h, const char* end, MDMessage* m) noexcept:
    # 55=..|262=..|268=n|
    cdef const char* p = h.body
    cdef const char* q
    cdef uint64_t number
    if kfix_load4(p) & 0xFFFFFF != TEXT_55:
        return MD_BAD_VALUE
    p += 3
    q = kfix_next_soh(p)        # one comes before `end`
    if q == p or kfix_load4(q + 1) != TEXT_262:
        return MD_BAD_VALUE
    m.symbol.p = p
    m.symbol.n = q - p
    p = q + 5
    q = kfix_next_soh(p)
    if q == p or kfix_load4(q + 1) != TEXT_268:
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
    if <int64_t>number > self.capacity and self.reserve(number) != 0:
        return MD_BAD_VALUE
    m.declared = number
    m.entries = p
    m.staged = 0
    m.groups = number
    m.first = 0
    m.left_out = 0
    m.bad_times = 0
    m.without_id = 0
    m.has_crc = 0
    m.crc = 0
    m.error = MD_OK
    m.repeated_tags = 0
    return MD_OK


cdef inline bint iso_field(const char** p, kfix_dates* dates, int64_t* t) noexcept:
    # 5060 or 5273 at p, which moves past its SOH
    cdef const char* q = p[0] + 5
    cdef int64_t ns = kfix_iso(&q, dates)
    t[0] = ns
    p[0] = q + 1
    return ns >= 0 and q[0] == SOH


cdef inline int entries_fast(Codec self, Header* h, const char* end, MDMessage* m, int price_precision,
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
    cdef kfix_dates* dates = &self._iso_dates
    cdef int64_t sending_ns = h.sending_ns, day_ns = h.sending_day_ns, qty, clock
    cdef uint8_t action, side
    cdef int price_decimals, qty_decimals
    for _left in range(m.declared):
        p -= 6 * snapshot
        if not kfix_entry_begins(p, snapshot):
            return MD_BAD_VALUE
        action = ACTION_NEW if snapshot else p[4] - c'0'
        side = p[10] - c'0'
        if action > ACTION_DELETE or side > SIDE_TRADE:
            return MD_BAD_VALUE
        e.side = side
        e.instrument = 0
        p += 16
        id_p = p
        if p[8] == c'-':
            # 8-4-4-4-12
            if p[36] != SOH or kfix_uuid(p, &e.id_hi, &e.id_lo) != 0:
                return MD_BAD_VALUE
            e.id_kind = ID_UUID
            p += 37
            q = p + 4
            if kfix_load4(p) != TEXT_270 or kfix_fixed(&q, price_precision, &e.price, &price_decimals) != 0:
                return MD_BAD_VALUE
            p = q
        else:
            # side letter and price, then the price again
            p += 1
            if kfix_fixed(&p, price_precision, &e.price, &price_decimals) == 0 and kfix_load4(p) == TEXT_270 \
                    and (id_p[0] == c'B' or id_p[0] == c'O') and kfix_equal(id_p + 1, p + 4, p - id_p - 1):
                e.id_kind = ID_NONE
                e.id_hi = 0
                e.id_lo = 0
                p += 4 + (p - id_p - 1)
            else:
                q = kfix_next_soh(id_p)
                if q == id_p or q - id_p > MAX_ID_TEXT or kfix_load4(q + 1) != TEXT_270:
                    return MD_BAD_VALUE
                self.read_id(id_p, q - id_p, e)
                p = q + 5
                if kfix_fixed(&p, price_precision, &e.price, &price_decimals) != 0:
                    return MD_BAD_VALUE
        if kfix_load4(p) != TEXT_271:
            return MD_BAD_VALUE
        p += 4
        if kfix_fixed(&p, qty_precision, &qty, &qty_decimals) != 0:
            return MD_BAD_VALUE
        e.qty = qty
        # ACTION_LEAVE is ACTION_DELETE + 1: deleted, but with a quantity
        e.action = action + ((action == ACTION_DELETE) & (qty > 0))
        if kfix_load4(p) != TEXT_273:
            return MD_BAD_VALUE
        clock = kfix_clock_ms(p + 4)
        if clock < 0:
            return MD_BAD_VALUE
        e.event_ns = near_midnight(clock, sending_ns, day_ns)
        p += 17
        e.flags = ENTRY_SNAPSHOT * snapshot
        e.ord_type = 0
        e.aggressor = 0
        e.queue_ns = 0
        e.decimals = price_decimals | qty_decimals << 8
        e.price_exponent = 0
        e.qty_exponent = 0
        e.spare = 0
        tag = kfix_load4(p)
        if tag == TEXT_5060:
            if not iso_field(&p, dates, &e.event_ns):
                return MD_BAD_VALUE
            tag = kfix_load4(p)
        if tag == TEXT_5273:
            if not iso_field(&p, dates, &e.queue_ns):
                return MD_BAD_VALUE
        elif side == SIDE_TRADE:
            if qty == 0 and action != ACTION_DELETE:
                return MD_BAD_VALUE
            if tag & 0xFFFFFF == TEXT_40 and p[4] == SOH:
                if <uint8_t>(p[3] - c'0') > 9:
                    return MD_BAD_VALUE
                e.ord_type = p[3] - c'0'
                p += 5
            if kfix_load4(p) == TEXT_2446 and p[4] == c'=' and p[6] == SOH:
                if <uint8_t>(p[5] - c'0') > 9:
                    return MD_BAD_VALUE
                e.aggressor = p[5] - c'0'
                p += 7
        e += 1
    if kfix_load4(p) == TEXT_5041 and p[4] == c'=':
        p += 5
        if kfix_whole(&p, &number) != 0 or number >> 32 != 0:
            return MD_BAD_VALUE
        m.crc = number
        m.has_crc = 1
    if p != end:
        return MD_BAD_VALUE
    m.n = m.declared
    if m.n:
        (e - 1).flags |= ENTRY_LAST
    return MD_OK


@final
cdef class Codec(FieldReader):
    """Decoder of one inbound stream: caches that make the next message cheap, and the staged entries.

    Parameters
    ----------
    allow_fast: use the template; without it every message takes the general path.
    keep_ids: keep the texts of order ids that do not fit 128 bits, see `take_ids`.
    """

    def __cinit__(self, *, bint allow_fast=True, bint keep_ids=False):
        self.allow_fast = allow_fast

    cdef int read_header(self, const char* p, const char* end, Header* h) noexcept:
        if self.allow_fast and header_fast(self, p, end, h) == 0:
            return 0
        cdef int error = self.header_general(p, end, h)
        if h.whole and self.allow_fast:
            learn_header(self, h)
        return error

    cdef int begin(self, Header* h, const char* end, MDMessage* m) noexcept:
        # 55, 262 and 268 of a W or X; `end` is where tag 10 starts. MD_OK, MD_SPLIT, or what is wrong, with the tag in
        # m.error_tag. finish() reads the entries. A body that does not begin as Kraken's is staged whole.
        if self.allow_fast and begin_fast(self, h, end, m) == MD_OK:
            return MD_OK
        return self.stage(h, end, m)

    cdef int finish(self, Header* h, const char* end, MDMessage* m, int price_precision, int qty_precision) noexcept:
        # the entries in the instrument's precision; MD_SPLIT when they are of several symbols (see next_part)
        cdef int error
        if not m.staged:
            if entries_fast(self, h, end, m, price_precision, qty_precision) == MD_OK:
                self.fast_messages += 1
                return MD_OK
            error = self.stage(h, end, m)
            if error != MD_OK:
                return error
        return self.scale(m, price_precision, qty_precision)

    cdef int stage(self, Header* h, const char* end, MDMessage* m) noexcept:
        # the general path
        cdef int error = self.decode_general(h, end, m)
        m.staged = 1
        self.general_messages += 1
        return error

    # ---- what Python sees ----

    def decode_frame(self, frame, int price_precision, int qty_precision):
        """Return the entries of one W or X frame as an array of ENTRY_DTYPE, in the precisions given.

        Raises ProtocolError with the tag at fault when the frame is not sound or cannot be decoded whole.
        """
        cdef bytes padded = padded_frame(frame)
        cdef const char* p = padded
        cdef int64_t n = len(padded) - PADDING
        cdef const char* body = p + 13
        cdef Header h
        cdef MDMessage m
        while (body - 1)[0] != SOH:
            body += 1
        if self.read_header(body, p + n - 7, &h) != MD_OK or (h.msg_type != c'X' and h.msg_type != c'W'):
            raise ProtocolError("not a W or X with a sound header")
        error = self.begin(&h, p + n - 7, &m)
        if error == MD_OK:
            error = self.finish(&h, p + n - 7, &m, price_precision, qty_precision)
        if error == MD_SPLIT:
            raise ProtocolError(f"35={chr(h.msg_type)} has entries of several symbols")
        if error != MD_OK:
            raise ProtocolError(f"35={chr(h.msg_type)} cannot be decoded: {Fault(error).name} at tag {m.error_tag}")
        return np.frombuffer((<char*>self.entries)[:m.n * sizeof(MDEntry)], ENTRY_DTYPE).copy()
