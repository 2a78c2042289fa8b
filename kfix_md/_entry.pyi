from enum import IntEnum, IntFlag

import numpy as np

class Named(IntEnum):  # type: ignore[misc]
    def __str__(self) -> str: ...

class State(Named):
    INIT = 0
    SYNCING = 1
    LIVE = 2
    EMPTY = 3
    GAP = 4
    CRC_FAIL = 5
    STALE = 6
    HALTED = 7
    ROLLOVER = 8
    DOWN = 9
    UNVERIFIED = 10

class Cause(Named):
    NONE = 0
    LOST = 1
    CHECKSUM = 2
    CRC = 3
    CROSSED = 4
    MALFORMED = 5
    PRECISION = 6
    DISCONNECT = 7
    ROLLOVER = 8
    RESTART = 9
    OVERFLOW = 10
    REJECTED = 11
    STATUS = 12
    UNSUBSCRIBED = 13
    NUMBER = 14
    RULE = 15
    IDS = 16
    ROOM = 17
    LEAVING = 18
    SUBSCRIBED = 19
    LAGGING = 20
    LIMIT = 21

class Side(IntEnum):
    BID = 0
    OFFER = 1
    TRADE = 2

class Action(IntEnum):
    NEW = 0
    UPDATE = 1
    DELETE = 2
    LEAVE = 3
    CLEAR = 4

class IdKind(IntEnum):
    NONE = 0
    UUID = 1
    KRAKEN = 2
    TEXT = 3
    TABLE = 4

class MessageFlags(IntFlag):
    SNAPSHOT = 1
    POSSDUP = 2
    HAS_CRC = 4
    CRC_CHECKED = 8
    CRC_OK = 16
    BAD_BOOK = 32
    DEFERRED = 64
    IGNORED = 128
    UNVERIFIED = 1024

ENTRY_DTYPE: np.dtype[np.void]
TICK_DTYPE: np.dtype[np.void]
