"""The states of a book as a table: which state an event leads to, which states are trusted, which keep the book."""

from enum import IntEnum

from kfix_md._entry import State

__all__ = ["SOUND", "TRUSTED", "Event", "is_trusted", "keeps", "next_of", "voids"]


class Event(IntEnum):
    """What may happen to a book."""

    SUBSCRIBE = EVENT_SUBSCRIBE
    UNSUBSCRIBE = EVENT_UNSUBSCRIBE
    REDEFINE = EVENT_REDEFINE
    SNAPSHOT = EVENT_SNAPSHOT
    APPLIED = EVENT_APPLIED
    CRC_FAILED = EVENT_CRC_FAILED
    CROSSED = EVENT_CROSSED
    MALFORMED = EVENT_MALFORMED
    DOUBTED = EVENT_DOUBTED
    GAP_OPENED = EVENT_GAP_OPENED
    GAP_CLOSED = EVENT_GAP_CLOSED
    LOST = EVENT_LOST
    HALT = EVENT_HALT
    RESUME = EVENT_RESUME
    REJECT = EVENT_REJECT
    DISCONNECT = EVENT_DISCONNECT
    ROLLOVER = EVENT_ROLLOVER
    RULE_UNKNOWN = EVENT_RULE_UNKNOWN
    RULE_FOUND = EVENT_RULE_FOUND


assert len(State) == STATES and [int(state) for state in State] == list(range(STATES))
assert len(Event) == EVENTS

#: what `next_of` returns where the book's own facts name the state: GAP, HALTED, UNVERIFIED, EMPTY or LIVE
SOUND = int(STATE_SOUND)
#: the states whose prices may be used
TRUSTED = tuple(state for state in State if trusted(state))


def next_of(event, state):
    """State that an event leads to, as a State, or SOUND.

    Parameters
    ----------
    event : Event
    state : State
    """
    code = next_state(Event(event), State(state))
    return SOUND if code == STATE_SOUND else State(code)


def is_trusted(state):
    """Whether prices of a book in this state may be used: LIVE and EMPTY."""
    return bool(trusted(state))


def keeps(state):
    """Whether a book in this state may still hold its snapshot and every message since."""
    return bool(keeps_book(state))


def voids(event):
    """Whether only a snapshot makes a book whole again after this event."""
    return bool(voids_book(event))
