# The states of a book, see c/states.h
cdef extern from "c/states.h" nogil:
    cdef enum:
        STATES "KFIX_STATES"
        STATE_SOUND "KFIX_SOUND"        # no state: the book's own facts name it
        EVENT_SUBSCRIBE "KFIX_SUBSCRIBE"
        EVENT_UNSUBSCRIBE "KFIX_UNSUBSCRIBE"
        EVENT_REDEFINE "KFIX_REDEFINE"
        EVENT_SNAPSHOT "KFIX_SNAPSHOT"
        EVENT_APPLIED "KFIX_APPLIED"
        EVENT_CRC_FAILED "KFIX_CRC_FAILED"
        EVENT_CROSSED "KFIX_CROSSED"
        EVENT_MALFORMED "KFIX_MALFORMED"
        EVENT_DOUBTED "KFIX_DOUBTED"
        EVENT_GAP_OPENED "KFIX_GAP_OPENED"
        EVENT_GAP_CLOSED "KFIX_GAP_CLOSED"
        EVENT_LOST "KFIX_LOST"
        EVENT_HALT "KFIX_HALT"
        EVENT_RESUME "KFIX_RESUME"
        EVENT_REJECT "KFIX_REJECT"
        EVENT_DISCONNECT "KFIX_DISCONNECT"
        EVENT_ROLLOVER "KFIX_ROLLOVER"
        EVENT_RULE_UNKNOWN "KFIX_RULE_UNKNOWN"
        EVENT_RULE_FOUND "KFIX_RULE_FOUND"
        EVENTS "KFIX_EVENTS"
    int next_state "kfix_next_state"(int event, int state)
    bint trusted "kfix_trusted"(int state)              # LIVE and EMPTY: its prices may be used
    bint keeps_book "kfix_keeps_book"(int state)        # the book may hold its snapshot and every message since
    bint voids_book "kfix_voids_book"(int event)        # only a snapshot makes the book whole again
