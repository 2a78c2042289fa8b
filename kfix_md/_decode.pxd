# One decode of a W or X, for the feed's books and for the recorder's rows.
from libc.stdint cimport int32_t

from kfix_md._book_l3 cimport L3Book, prefetch_queues
from kfix_md._codec cimport Codec
from kfix_md._fields cimport MD_OK, Header, MDMessage, next_field
from kfix_md._symbols cimport FEW_SYMBOLS, Slot, Symbols, kfix_list_item

cdef extern from "c/levels.h" nogil:
    void kfix_prefetch_book(const void* book, const void** ends, int n)


cdef inline int decode(Codec codec, Symbols symbols, Header* h, const char* end, MDMessage* m, int32_t* row) noexcept:
    # Entries in the codec, in the precisions of the symbol's row (-1: unknown), or what is wrong. MD_SPLIT: each entry
    # names its symbol, see Codec.next_part.
    cdef int error = codec.begin(h, end, m)
    cdef const char* p = h.body
    cdef Slot* s
    if error != MD_OK and m.symbol.n == 0:
        next_field(&p, end, 55, &m.symbol)     # decoding stopped before 55
    row[0] = symbols.find_slot(m.symbol.p, m.symbol.n) if m.symbol.n else -1
    if error != MD_OK or row[0] < 0:
        return error if m.staged else codec.stage(h, end, m)
    s = &symbols.slots[row[0]]
    if symbols.n_slots > FEW_SYMBOLS:
        kfix_prefetch_book(kfix_list_item(symbols.by_row, row[0]), s.ends, 6)
        if s.level == 3 and s.synced:
            prefetch_queues(<L3Book>symbols.by_row[row[0]])
    return codec.finish(h, end, m, s.price_precision, s.qty_precision)
