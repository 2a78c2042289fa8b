"""Which text the 5041 of a book is the CRC of: the search through the known rules and neighbouring precisions."""

from libc.stdint cimport uint32_t

from kfix_md._book cimport (
    RULE_AUTO, RULE_LEVEL, RULE_LEVEL_SENT, RULE_ORDER, RULE_ORDER_SENT, RULE_SENT, OrderBook, rule_text,
)

cdef enum:
    NEIGHBOURS = 2      # precisions tried on both sides of the instrument's
    NEGATIVE = 6        # and below zero: a book of whole numbers may be printed in thousands (2349 or 5010 is -3)


cdef inline bint known_on(OrderBook book, int code) noexcept nogil:
    # L2 has no orders
    return book.level == 3 or code & 3 == RULE_LEVEL


cdef int find_rule(OrderBook book, uint32_t crc, int configured, int first) noexcept nogil:
    # the rule_text() by which the book agrees with `crc`, 0 for none; `first` is tried before the others
    cdef int codes[5]
    cdef int i, found
    codes[0], codes[1], codes[2], codes[3], codes[4] = first, RULE_ORDER, RULE_LEVEL, RULE_ORDER_SENT, RULE_LEVEL_SENT
    if configured != RULE_AUTO:
        configured = configured if book.level == 3 else RULE_LEVEL | (configured & RULE_SENT)
    for i in range(5):
        if known_on(book, codes[i]) and (configured == RULE_AUTO or codes[i] == configured):
            if book.crc_by(codes[i]) == crc:
                return codes[i]
    for i in range(1, 3):       # as sent a text does not depend on the precisions
        if known_on(book, codes[i]) and (configured == RULE_AUTO or codes[i] == configured):
            found = at_other_precisions(book, crc, codes[i])
            if found:
                return found
    return 0


cdef inline int lowest(int precision) noexcept nogil:
    return -NEGATIVE if precision == 0 else -NEIGHBOURS


cdef int at_other_precisions(OrderBook book, uint32_t crc, int code) noexcept nogil:
    cdef int price, qty, rule
    for price in range(lowest(book.price_precision), NEIGHBOURS + 1):
        for qty in range(lowest(book.qty_precision), NEIGHBOURS + 1):
            rule = rule_text(code, price, qty)
            if rule != code and book.crc_by(rule) == crc:
                return rule
    return 0


cdef bint told_apart(OrderBook book, uint32_t crc) noexcept nogil:
    # whether the book, which agrees by its own rule, would not by the other of order and level
    return book.crc_by(book.rule ^ (RULE_ORDER ^ RULE_LEVEL)) != crc
