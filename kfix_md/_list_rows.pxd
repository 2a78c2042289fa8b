cdef class Row:
    cdef readonly str symbol
    cdef readonly dict stated   # under the names of Instrument
    cdef public str error
