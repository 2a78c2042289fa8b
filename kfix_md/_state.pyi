from enum import IntEnum

from kfix_md._entry import State

__all__ = ["SOUND", "TRUSTED", "Event", "is_trusted", "keeps", "next_of", "voids"]

class Event(IntEnum):
    SUBSCRIBE = 0
    UNSUBSCRIBE = 1
    REDEFINE = 2
    SNAPSHOT = 3
    APPLIED = 4
    CRC_FAILED = 5
    CROSSED = 6
    MALFORMED = 7
    DOUBTED = 8
    GAP_OPENED = 9
    GAP_CLOSED = 10
    LOST = 11
    HALT = 12
    RESUME = 13
    REJECT = 14
    DISCONNECT = 15
    ROLLOVER = 16
    RULE_UNKNOWN = 17
    RULE_FOUND = 18

SOUND: int
TRUSTED: tuple[State, ...]

def next_of(event: Event, state: State) -> State | int: ...
def is_trusted(state: int) -> bool: ...
def keeps(state: int) -> bool: ...
def voids(event: Event) -> bool: ...
