"""Splits the fields of an InstrumentList (35=y) into its rows, of which one message may have tens of thousands."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t

from kfix_md.symbol_text import symbol_text

cdef enum:
    SYMBOL = 55
    TEXT = 58               # a remark of the venue: no field of the message's head either


cdef class Row:
    """One group of 35=y: what it states, under the names of Instrument. An update may state a part only.

    Attributes
    ----------
    symbol : str
    stated : dict
    error : str
        Why the group cannot be used, "" where it can.
    """

    def __init__(self, str symbol not None, dict stated not None, str error not None=""):
        self.symbol = symbol
        self.stated = stated
        self.error = error

    def __repr__(self):
        return f"Row({self.symbol!r}, {self.stated!r}, {self.error!r})"


cdef Row row_of(bytes symbol):
    cdef const uint8_t* p = <const uint8_t*>PyBytes_AS_STRING(symbol)
    cdef Py_ssize_t i, n = PyBytes_GET_SIZE(symbol)
    cdef Row row = Row.__new__(Row)
    row.stated = {}
    for i in range(n):
        if p[i] - 32u > 94u or p[i] == c'\\':
            row.symbol = symbol_text(symbol)
            break
    else:
        row.symbol = symbol.decode("ascii")
    row.error = "" if n else "a row has no symbol (55 is empty)"
    return row


def read_rows(fields, Py_ssize_t room, dict group not None):
    """Split the fields of one 35=y.

    Parameters
    ----------
    fields : iterable of (int, bytes)
        In the order of the message.
    room : int
        Rows after the first `room` are only counted.
    group : dict
        Tag -> (name in `stated`, function of the value; None as its result is an error of the row).

    Returns
    -------
    tuple of (list of Row, dict of int to bytes, int)
        The rows, the first value of each tag that is of no row, and how many rows were only counted.
    """
    cdef list rows = []
    cdef dict head = {}
    cdef Row row = None
    cdef Py_ssize_t excess = 0, n = 0
    cdef unsigned long tag
    cdef str name
    for number, value in fields:
        tag = number
        if tag == SYMBOL:
            if n >= room:
                excess += 1
            else:
                row = row_of(value)
                rows.append(row)
                n += 1
            continue
        if row is not None:
            if tag == TEXT:
                continue
            known = group.get(number)
            if known is not None:
                if not excess:
                    name, read = <tuple>known
                    if name not in row.stated:
                        read_value(row, tag, name, read, value)
                continue
        if number not in head:
            head[number] = value
    return rows, head, excess


cdef int read_value(Row row, unsigned long tag, str name, read, value) except -1:
    found = read(value)
    row.stated[name] = found
    if found is None and not row.error:
        row.error = f"{row.symbol}: no usable {name} ({tag}={value.decode('ascii', 'backslashreplace')})"
    return 0
