"""The record all modules speak: numpy dtypes of MDEntry and Tick, and the State and Cause codes."""

from enum import IntEnum, IntFlag

import numpy as np


class Named(IntEnum):
    """Written by its name; a number everywhere else."""

    def __str__(self):
        return self.name


class State(Named):
    """State of a book, the same on every surface. Only LIVE and EMPTY are trusted."""

    INIT = STATE_INIT
    SYNCING = STATE_SYNCING
    LIVE = STATE_LIVE
    EMPTY = STATE_EMPTY
    GAP = STATE_GAP
    CRC_FAIL = STATE_CRC_FAIL
    STALE = STATE_STALE
    HALTED = STATE_HALTED
    ROLLOVER = STATE_ROLLOVER
    DOWN = STATE_DOWN
    UNVERIFIED = STATE_UNVERIFIED


class Cause(Named):
    """Why a book left LIVE, and why a gap was opened."""

    NONE = CAUSE_NONE
    LOST = CAUSE_LOST
    CHECKSUM = CAUSE_CHECKSUM
    CRC = CAUSE_CRC
    CROSSED = CAUSE_CROSSED
    MALFORMED = CAUSE_MALFORMED
    PRECISION = CAUSE_PRECISION
    DISCONNECT = CAUSE_DISCONNECT
    ROLLOVER = CAUSE_ROLLOVER
    RESTART = CAUSE_RESTART
    OVERFLOW = CAUSE_OVERFLOW
    REJECTED = CAUSE_REJECTED
    STATUS = CAUSE_STATUS
    UNSUBSCRIBED = CAUSE_UNSUBSCRIBED
    NUMBER = CAUSE_NUMBER
    RULE = CAUSE_RULE
    IDS = CAUSE_IDS
    ROOM = CAUSE_ROOM
    LEAVING = CAUSE_LEAVING
    SUBSCRIBED = CAUSE_SUBSCRIBED
    LAGGING = CAUSE_LAGGING
    LIMIT = CAUSE_LIMIT


class Side(IntEnum):
    """269 MDEntryType."""

    BID = SIDE_BID
    OFFER = SIDE_OFFER
    TRADE = SIDE_TRADE


class Action(IntEnum):
    """279 MDUpdateAction, with the two meanings of 2 distinguished, and CLEAR before a snapshot."""

    NEW = ACTION_NEW
    UPDATE = ACTION_UPDATE
    DELETE = ACTION_DELETE
    LEAVE = ACTION_LEAVE
    CLEAR = ACTION_CLEAR


class IdKind(IntEnum):
    """How the 128 bits of an order id are to be read (see `id_text`)."""

    NONE = ID_NONE
    UUID = ID_UUID
    KRAKEN = ID_KRAKEN
    TEXT = ID_TEXT
    TABLE = ID_TABLE


class MessageFlags(IntFlag):
    """What is known of the message that brought a tick."""

    SNAPSHOT = MSG_SNAPSHOT
    POSSDUP = MSG_POSSDUP
    HAS_CRC = MSG_HAS_CRC
    CRC_CHECKED = MSG_CRC_CHECKED
    CRC_OK = MSG_CRC_OK
    BAD_BOOK = MSG_BAD_BOOK
    DEFERRED = MSG_DEFERRED
    IGNORED = MSG_IGNORED
    UNVERIFIED = MSG_UNVERIFIED


_ENTRY_FIELDS = [
    ("price", "i8"), ("qty", "i8"), ("id_hi", "u8"), ("id_lo", "u8"),
    ("event_ns", "i8"), ("queue_ns", "i8"), ("instrument", "i4"),
    ("side", "u1"), ("action", "u1"), ("id_kind", "u1"), ("entry_flags", "u1"),
    ("ord_type", "u1"), ("aggressor", "u1"), ("decimals", "u2"), ("spare1", "u4"),
]

#: MDEntry, 64 bytes: one market data entry as decoded; prices and quantities in the instrument's precision. `decimals`
#: counts the digits after the point as the venue wrote them: of the price in the low byte, of the quantity in the high
ENTRY_DTYPE = np.dtype(_ENTRY_FIELDS)

#: Tick, 104 bytes: an entry followed by what is known of its message
TICK_DTYPE = np.dtype([
    *_ENTRY_FIELDS,
    ("recv_ns", "i8"), ("sending_ns", "i8"), ("seq", "u8"), ("entry_no", "u4"),
    ("crc", "u4"), ("session", "u2"), ("flags", "u2"), ("spare2", "u4"),
])

assert ENTRY_DTYPE.itemsize == sizeof(MDEntry)
assert TICK_DTYPE.itemsize == sizeof(Tick)
