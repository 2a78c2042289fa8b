"""Converts order ids between 128 bits and text."""

from libc.stdint cimport int64_t, uint64_t

from kfix_md._entry cimport ID_KRAKEN, ID_TABLE, ID_TEXT, ID_UUID

cdef extern from "c/order_ids.h" nogil:
    int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo)
    int kfix_kraken_id(const char* p, uint64_t* hi, uint64_t* lo)
    void kfix_text_id(const char* p, int n, uint64_t* hi, uint64_t* lo)
    void kfix_hash_id(const char* p, int64_t n, uint64_t* hi, uint64_t* lo)

_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _base36(value):
    digits = ""
    for _ in range(8):
        value, digit = divmod(value, 36)
        digits = _BASE36[digit] + digits
    return digits


def id_text(kind, hi, lo, texts=None):
    """Return the text of an order id given as (kind, id_hi, id_lo); None for IdKind.NONE.

    An id of IdKind.TABLE is the hash of its text, which `texts` (such as `Codec.id_table`) gives by (id_hi, id_lo);
    an id that is not there is shown as `#` and 32 hexadecimal digits.
    """
    kind, hi, lo = int(kind), int(hi), int(lo)
    if kind == ID_UUID:
        h = f"{hi:016x}{lo:016x}"
        return f"{h[:8]}-{h[8:12]}-{h[12:16]}-{h[16:20]}-{h[20:]}"
    if kind == ID_KRAKEN:
        d = _base36(hi) + _base36(lo)
        return f"O{d[:5]}-{d[5:10]}-{d[10:]}"
    if kind == ID_TEXT:
        return (hi.to_bytes(8, "big") + lo.to_bytes(8, "big")).rstrip(b"\0").decode("latin-1")
    if kind == ID_TABLE:
        text = texts.get((hi, lo)) if texts else None
        return f"#{hi:016x}{lo:016x}" if text is None else text.decode("latin-1")
    return None


def id_key(text):
    """Return (kind, id_hi, id_lo) of an order id's text, as the decoder makes them.

    UUIDs in lower case, OXXXXX-XXXXX-XXXXXX and text of at most 16 bytes are packed, any other text is hashed to 128
    bits. Raises ValueError for text that is empty or not latin-1.
    """
    if not text:
        raise ValueError("an order id is not empty")
    cdef bytes data = text.encode("latin-1")
    cdef uint64_t hi, lo
    cdef bytes padded = data + b"\0" * 32
    cdef const char* p = padded
    if len(data) == 36 and kfix_uuid(p, &hi, &lo) == 0:
        return ID_UUID, hi, lo
    if len(data) == 19 and kfix_kraken_id(p, &hi, &lo) == 0:
        return ID_KRAKEN, hi, lo
    if len(data) <= 16 and b"\0" not in data:
        kfix_text_id(p, len(data), &hi, &lo)
        return ID_TEXT, hi, lo
    kfix_hash_id(p, len(data), &hi, &lo)
    return ID_TABLE, hi, lo
