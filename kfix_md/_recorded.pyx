"""Messages that were decoded once before, as a recorder kept them: what Handler.apply takes in place of frames."""

import numpy as np

from kfix_md._entry import ENTRY_DTYPE

from libc.stdint cimport uintptr_t


cdef void* _of(array) except NULL:
    return <void*><uintptr_t>array.ctypes.data


cdef class Recorded:
    """Messages in the order in which they are applied, and the entries of all of them in any order.

    Parameters
    ----------
    entries : ndarray of ENTRY_DTYPE
        Entries of all messages. Those of a snapshot may begin with a CLEAR.
    starts, ends : array of int
        By message: its entries are entries[starts[i]:ends[i]].
    seqs, times : array of int
        By message: MsgSeqNum and receive time, ns.
    instrument : array of int
        By message: index of its instrument in the `rows` of Handler.apply.
    flags : array of int
        By message: MSG_SNAPSHOT and MSG_HAS_CRC are looked at.
    crcs : array of int
        By message: 5041 where it has one.
    levels : array of int
        By message: 2 or 3.

    Raises
    ------
    ValueError
        Arrays of different lengths, entries that are not there, or a level that is none.
    """

    def __init__(self, entries, *, starts, ends, seqs, times, instrument, flags, crcs, levels):
        if entries.dtype != ENTRY_DTYPE or not entries.flags.c_contiguous or not entries.flags.writeable:
            raise ValueError("entries must be a contiguous and writeable array of ENTRY_DTYPE")
        kinds = ((starts, np.int64), (ends, np.int64), (seqs, np.int64), (times, np.int64), (instrument, np.int32),
                 (flags, np.int32), (crcs, np.uint32), (levels, np.uint8))
        arrays = [np.ascontiguousarray(values, kind) for values, kind in kinds]
        if {len(values) for values in arrays} != {len(arrays[0])}:
            raise ValueError("each message has one value of everything")
        self.n = len(arrays[0])
        begins, stops, numbers = arrays[0], arrays[1], arrays[4]
        if self.n and not (0 <= begins.min() and (begins <= stops).all() and stops.max() <= len(entries)):
            raise ValueError("messages must lie inside of the entries")
        if self.n and numbers.min() < 0:
            raise ValueError("instruments are numbered from 0")
        if not np.isin(arrays[7], (2, 3)).all():
            raise ValueError("a level is 2 or 3")
        self.instruments = int(numbers.max()) + 1 if self.n else 0
        self.owners = (entries, arrays)
        self.entries = <MDEntry*>_of(entries)
        self.starts, self.ends = <const int64_t*>_of(begins), <const int64_t*>_of(stops)
        self.seqs, self.times = <const int64_t*>_of(arrays[2]), <const int64_t*>_of(arrays[3])
        self.instrument, self.flags = <const int32_t*>_of(numbers), <const int32_t*>_of(arrays[5])
        self.crcs, self.levels = <const uint32_t*>_of(arrays[6]), <const uint8_t*>_of(arrays[7])

    def __len__(self):
        return self.n
