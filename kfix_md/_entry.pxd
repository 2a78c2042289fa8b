# The record that decoder, books, shared memory and recorder speak, and the codes in it.
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    SIDE_BID = 0            # 269=0
    SIDE_OFFER = 1          # 269=1
    SIDE_TRADE = 2          # 269=2

    ACTION_NEW = 0          # 279=0, and every entry of a snapshot
    ACTION_UPDATE = 1       # 279=1
    ACTION_DELETE = 2       # 279=2 with 271=0: cancelled or filled
    ACTION_LEAVE = 3        # 279=2 with 271>0: left the subscribed depth only
    ACTION_CLEAR = 4        # written by the recorder before the entries of a snapshot

    ID_NONE = 0             # 278 repeats side letter and price (L2), or is absent
    ID_UUID = 1             # 8-4-4-4-12 lower case hex, big endian in (id_hi, id_lo)
    ID_KRAKEN = 2           # OXXXXX-XXXXX-XXXXXX: 16 base-36 digits in id_hi (first 8) and id_lo (last 8)
    ID_TEXT = 3             # at most 16 bytes of text, zero padded, big endian
    ID_TABLE = 4            # any other text: its 128-bit hash

    ENTRY_SNAPSHOT = 1      # entry flags
    ENTRY_LAST = 2          # last entry of its message

    MSG_SNAPSHOT = 1        # message flags (also in ticks.flags)
    MSG_POSSDUP = 2
    MSG_HAS_CRC = 4
    MSG_CRC_CHECKED = 8
    MSG_CRC_OK = 16
    MSG_BAD_BOOK = 32       # the book is not to be trusted after this message
    MSG_DEFERRED = 64       # arrived inside an open gap, applied later
    MSG_IGNORED = 128       # not applied: duplicate, old subscription, unknown symbol, malformed
    MSG_UNVERIFIED = 1024   # applied to a book whose checksum rule is not known (256 and 512: see recorder.schema)

    STATE_INIT = 0
    STATE_SYNCING = 1
    STATE_LIVE = 2
    STATE_EMPTY = 3
    STATE_GAP = 4
    STATE_CRC_FAIL = 5
    STATE_STALE = 6
    STATE_HALTED = 7
    STATE_ROLLOVER = 8
    STATE_DOWN = 9
    STATE_UNVERIFIED = 10   # followed and sound, but no known checksum rule holds

    CAUSE_NONE = 0
    CAUSE_LOST = 1          # MsgSeqNum too high
    CAUSE_CHECKSUM = 2      # frames dropped for tag 10 or 9, then a gap
    CAUSE_CRC = 3           # 5041 differs from our book
    CAUSE_CROSSED = 4       # best bid >= best offer without a CRC to prove it
    CAUSE_MALFORMED = 5     # a W or X that cannot be applied whole
    CAUSE_PRECISION = 6     # a number finer than the instrument's precision
    CAUSE_DISCONNECT = 7
    CAUSE_ROLLOVER = 8
    CAUSE_RESTART = 9
    CAUSE_OVERFLOW = 10     # gap queue full
    CAUSE_REJECTED = 11     # the venue refused the subscription
    CAUSE_STATUS = 12       # instrument status does not trade
    CAUSE_UNSUBSCRIBED = 13
    CAUSE_NUMBER = 14       # a number that does not fit int64 at the instrument's precision
    CAUSE_RULE = 15         # 5041 fails under every known rule
    CAUSE_IDS = 16          # the table of order ids is full
    CAUSE_ROOM = 17         # no room for this symbol
    CAUSE_LEAVING = 18      # its session is not delivering
    CAUSE_SUBSCRIBED = 19   # subscribed where nothing was wrong: its first snapshot is awaited
    CAUSE_LAGGING = 20      # for readers of shared memory: its messages arrive too late
    CAUSE_LIMIT = 21        # its messages would take more levels, orders, work or memory than a book may

cdef struct MDEntry:        # 64 bytes
    int64_t price           # in units of 10**-price_precision (tag 2349)
    int64_t qty             # in units of 10**-qty_precision (tag 5010)
    uint64_t id_hi
    uint64_t id_lo
    int64_t event_ns        # 5060, else 273 with the date of 52; ns since the epoch, 0 unknown
    int64_t queue_ns        # 5273 (L3); 0 unknown
    int32_t instrument      # row in the handler's instrument table
    uint8_t side
    uint8_t action
    uint8_t id_kind
    uint8_t flags
    uint8_t ord_type        # trades: 40 (1 market, 2 limit), 0 unknown
    uint8_t aggressor       # trades: 2446 (1 buy, 2 sell), 0 unknown
    uint16_t decimals       # as the venue wrote them: of price in the low byte, of quantity in the high byte
    int8_t price_exponent   # 0; while an entry is staged: price is in units of 10**price_exponent
    int8_t qty_exponent
    uint16_t spare

cdef struct Tick:           # 104 bytes: an entry and the message that brought it
    MDEntry entry
    int64_t recv_ns         # receive time of the read that completed the frame; ns since the epoch
    int64_t sending_ns      # 52
    uint64_t seq            # 34 MsgSeqNum
    uint32_t entry_no       # 0 is the first entry of the message, and the CLEAR before it
    uint32_t crc            # 5041, when MSG_HAS_CRC
    uint16_t session        # session number, as in the journal
    uint16_t flags          # MSG_*
    uint32_t spare

cdef enum:
    FAR_BITS = 4

# One side of a book as flat parallel arrays, sorted so that the best level is the LAST element.
cdef struct BookSide:
    int64_t* price
    int64_t* qty            # level quantity (L3: total of the orders)
    uint32_t* orders        # number of orders (L3); all zero on L2, where it is not known
    int32_t* head           # L3: row of the first order of the queue in the order slab; NULL on L2
    int32_t n
    int32_t capacity
    int32_t dirty_lo        # elements [dirty_lo, dirty_hi) differ from what was published;
    int32_t dirty_hi        # dirty_lo >= dirty_hi: none of them.
    uint64_t dirty_far      # and single ones far from there: bit (i >> FAR_BITS) & 63. The publisher resets all three.

cdef struct TopOfBook:      # what a publisher writes in addition to the levels
    int64_t recv_ns
    int64_t event_ns
    uint64_t seq            # MsgSeqNum of the last message applied
    uint64_t updates        # messages applied since the feed started
    uint8_t state
    uint8_t cause
    uint8_t crc_rule
    uint8_t spare
    uint32_t crc_checked
    uint32_t crc_failed

cdef struct Order:          # 64 bytes: a row of the L3 order slab
    int64_t price           # a free row has qty 0
    int64_t qty
    uint64_t id_hi
    uint64_t id_lo
    int64_t queue_ns        # 5273, orders of one price are queued by it
    int64_t event_ns
    int32_t prev            # slab rows, -1: none. Queue order, head first.
    int32_t next
    uint32_t crc            # raw CRC32 of price and quantity text, valid while crc_len > 0
    uint8_t crc_len
    uint8_t side
    uint8_t id_kind
    uint8_t spare

cdef struct OrderSlab:
    Order* rows
    int32_t capacity        # rows allocated
    int32_t used            # rows ever used: [0, used)
    int32_t* dirty          # rows changed since they were published (may repeat); the publisher resets n_dirty
    int32_t n_dirty         # -1: all of [0, used)
    int32_t n_orders
