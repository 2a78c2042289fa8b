"""How an order id of 128 bits is written as text, and read back."""

from libc.stdint cimport uint64_t

from kfix_md._entry cimport ID_KRAKEN, ID_TABLE, ID_TEXT, ID_UUID

cdef extern from "c/order_ids.h" nogil:
    int kfix_uuid(const char* p, uint64_t* hi, uint64_t* lo)
    int kfix_kraken_id(const char* p, uint64_t* hi, uint64_t* lo)
    void kfix_text_id(const char* p, int n, uint64_t* hi, uint64_t* lo)

_BASE36 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def _base36(value):
    digits = ""
    for _ in range(8):
        value, digit = divmod(value, 36)
        digits = _BASE36[digit] + digits
    return digits


def id_text(kind, hi, lo, table=()):
    """Return the text of an order id kept as (kind, id_hi, id_lo); None for IdKind.NONE.

    `table` is the decoder's side table (list of bytes), needed for IdKind.TABLE.
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
        return table[lo].decode("latin-1")
    return None


def id_key(text):
    """Return (kind, id_hi, id_lo) of an order id's text, the inverse of `id_text` for ids of at most 16 bytes,
    UUIDs and OXXXXX-XXXXX-XXXXXX; raises ValueError for any other text."""
    cdef bytes data = text.encode("latin-1")
    cdef uint64_t hi, lo
    cdef bytes padded = data + b"\0" * 32
    cdef const char* p = padded
    if len(data) == 36 and kfix_uuid(p, &hi, &lo) == 0:
        return ID_UUID, hi, lo
    if len(data) == 19 and kfix_kraken_id(p, &hi, &lo) == 0:
        return ID_KRAKEN, hi, lo
    if 0 < len(data) <= 16 and b"\0" not in data:
        kfix_text_id(p, len(data), &hi, &lo)
        return ID_TEXT, hi, lo
    raise ValueError(f"not an order id that fits 128 bits: {text!r}")
