"""Keeps the entries of applied messages as ticks, for handlers that collect and for the recorder."""

import numpy as np

from libc.stdint cimport uintptr_t
from libc.string cimport memset

from kfix_md._entry cimport ACTION_CLEAR, ENTRY_LAST, ENTRY_SNAPSHOT, MSG_SNAPSHOT

from kfix_md._entry import TICK_DTYPE


cdef class TickBuffer:
    """Ticks that were not taken yet, in the order of their messages."""

    cdef int keep(self, const MDEntry* entries, int32_t row, const Header* h, const MDMessage* m, int64_t recv_ns,
                  uint16_t flags, uint16_t session) except -1 nogil:
        # The m.n entries of one symbol. Those of a snapshot follow a CLEAR (entry_no 0, as the first entry has), which
        # an empty snapshot has too.
        cdef int32_t i, clear = 1 if flags & MSG_SNAPSHOT else 0
        cdef Tick* t
        if self.n + m.n + clear > self.capacity:
            self.grow(m.n + clear)
        for i in range(m.n + clear):
            t = &self.rows[self.n + i]
            if i < clear:
                memset(t, 0, sizeof(Tick))
                t.entry.action = ACTION_CLEAR
                t.entry.flags = ENTRY_SNAPSHOT | (ENTRY_LAST if m.n == 0 else 0)
            else:
                t.entry = entries[i - clear]
            t.entry.instrument = row
            t.recv_ns = recv_ns
            t.sending_ns = h.sending_ns
            t.seq = h.seq
            t.entry_no = m.first + (i - clear if i >= clear else 0)
            t.crc = m.crc if m.has_crc else 0
            t.session = session
            t.flags = flags
            t.spare = 0
        self.n += m.n + clear
        return 0

    cdef int grow(self, Py_ssize_t more) except -1 with gil:
        # room for `more` ticks
        grown = np.empty(max(2 * self.capacity, self.n + more, 4096), TICK_DTYPE)
        if self.n:
            grown[: self.n] = self.array[: self.n]
        self.array = grown
        self.rows = <Tick*><uintptr_t>grown.ctypes.data
        self.capacity = len(grown)
        return 0

    cdef object take(self, bint reuse):
        # the ticks kept since the last call; `reuse`: as a copy, and the memory is kept for the next ones
        if self.n == 0:
            return np.empty(0, TICK_DTYPE)
        taken = self.array[: self.n]
        self.n = 0
        if reuse:
            return taken.copy()
        self.array, self.rows, self.capacity = None, NULL, 0
        return taken
