/* The states of a book as a table (event, state) -> state. docs/states.md shows it as a diagram.
 *
 * SOUND is no state: the book holds a snapshot and every message since, and its own facts name the state: GAP while
 * messages of its session are missing, else HALTED, UNVERIFIED, EMPTY or LIVE.
 */
#ifndef KFIX_STATES_H
#define KFIX_STATES_H
#include <stdint.h>

enum {
    KFIX_STATES = 11,
    KFIX_SOUND = 15,
};

enum kfix_event {
    KFIX_SUBSCRIBE,    /* a 35=V went out, its snapshot is awaited */
    KFIX_UNSUBSCRIBE,  /* whatever still comes is late */
    KFIX_REDEFINE,     /* the instrument's precision changed */
    KFIX_SNAPSHOT,     /* a 35=W was applied */
    KFIX_APPLIED,      /* a 35=X was applied */
    KFIX_CRC_FAILED,   /* 5041 differs from the book */
    KFIX_CROSSED,      /* best bid at or above best offer, with no 5041 that proves it */
    KFIX_MALFORMED,    /* a W or X that cannot be applied whole */
    KFIX_DOUBTED,      /* marked STALE from outside */
    KFIX_GAP_OPENED,   /* messages of the session are missing, they may be replayed */
    KFIX_GAP_CLOSED,   /* all of them were replayed and applied */
    KFIX_LOST,         /* messages are missing for good */
    KFIX_HALT,         /* the venue does not trade the instrument */
    KFIX_RESUME,       /* the venue trades it again */
    KFIX_REJECT,       /* the venue refused the subscription */
    KFIX_DISCONNECT,   /* the session has ended */
    KFIX_ROLLOVER,     /* the daily reset */
    KFIX_RULE_UNKNOWN, /* 5041 fails under every known rule while nothing else is wrong */
    KFIX_RULE_FOUND,   /* 5041 agreed by one rule for a run of messages */
    KFIX_EVENTS
};

#define INIT       0
#define SYNCING    1
#define LIVE       2
#define EMPTY      3
#define GAP        4
#define CRC_FAIL   5
#define STALE      6
#define HALTED     7
#define ROLLOVER   8
#define DOWN       9
#define UNVERIFIED 10
#define SOUND      KFIX_SOUND
#define ALL(s)     {s, s, s, s, s, s, s, s, s, s, s}

/* columns: the states in the order of their numbers */
static const uint8_t kfix_next_states[KFIX_EVENTS][KFIX_STATES] = {
    [KFIX_SUBSCRIBE] = ALL(SYNCING),
    [KFIX_UNSUBSCRIBE] = ALL(INIT),
    [KFIX_REDEFINE] = ALL(SYNCING),
    [KFIX_SNAPSHOT] = ALL(SOUND),
    [KFIX_APPLIED] = {INIT, SYNCING, SOUND, SOUND, GAP, CRC_FAIL, STALE, HALTED, ROLLOVER, DOWN, SOUND},
    [KFIX_CRC_FAILED] = ALL(CRC_FAIL),
    [KFIX_CROSSED] = ALL(CRC_FAIL),
    [KFIX_MALFORMED] = ALL(STALE),
    [KFIX_DOUBTED] = {INIT, STALE, STALE, STALE, STALE, STALE, STALE, STALE, STALE, STALE, STALE},
    [KFIX_GAP_OPENED] = {INIT, SYNCING, GAP, GAP, GAP, CRC_FAIL, GAP, GAP, ROLLOVER, DOWN, GAP},
    [KFIX_GAP_CLOSED] = {INIT, SYNCING, LIVE, EMPTY, SOUND, CRC_FAIL, STALE, HALTED, ROLLOVER, DOWN, UNVERIFIED},
    [KFIX_LOST] = ALL(SYNCING),
    [KFIX_HALT] = ALL(HALTED),
    [KFIX_RESUME] = {INIT, SYNCING, SOUND, SOUND, SOUND, CRC_FAIL, SOUND, SOUND, ROLLOVER, DOWN, SOUND},
    [KFIX_REJECT] = ALL(DOWN),
    [KFIX_DISCONNECT] = ALL(DOWN),
    [KFIX_ROLLOVER] = {INIT, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER, ROLLOVER,
                       ROLLOVER},
    [KFIX_RULE_UNKNOWN] = {INIT, SYNCING, SOUND, SOUND, GAP, CRC_FAIL, STALE, HALTED, ROLLOVER, DOWN, SOUND},
    [KFIX_RULE_FOUND] = {INIT, SYNCING, LIVE, EMPTY, GAP, CRC_FAIL, STALE, HALTED, ROLLOVER, DOWN, SOUND},
};

enum {
    /* states whose prices may be used */
    KFIX_TRUSTED = 1 << LIVE | 1 << EMPTY,
    /* states in which a book may still hold its snapshot and every message since */
    KFIX_KEEPS_BOOK = 1 << LIVE | 1 << EMPTY | 1 << GAP | 1 << STALE | 1 << HALTED | 1 << UNVERIFIED,
    /* events after which only a snapshot makes the book whole again */
    KFIX_VOIDS_BOOK = 1 << KFIX_SUBSCRIBE | 1 << KFIX_UNSUBSCRIBE | 1 << KFIX_REDEFINE | 1 << KFIX_CRC_FAILED |
                      1 << KFIX_CROSSED | 1 << KFIX_MALFORMED | 1 << KFIX_LOST | 1 << KFIX_REJECT |
                      1 << KFIX_DISCONNECT | 1 << KFIX_ROLLOVER,
};

#undef INIT
#undef SYNCING
#undef LIVE
#undef EMPTY
#undef GAP
#undef CRC_FAIL
#undef STALE
#undef HALTED
#undef ROLLOVER
#undef DOWN
#undef UNVERIFIED
#undef SOUND
#undef ALL

static inline int kfix_next_state(int event, int state) {
    return kfix_next_states[event][state];
}
static inline int kfix_trusted(int state) {
    return (unsigned)state < KFIX_STATES && (KFIX_TRUSTED >> state & 1);
}
static inline int kfix_keeps_book(int state) {
    return (unsigned)state < KFIX_STATES && (KFIX_KEEPS_BOOK >> state & 1);
}
static inline int kfix_voids_book(int event) {
    return (unsigned)event < KFIX_EVENTS && (KFIX_VOIDS_BOOK >> event & 1);
}
#endif
