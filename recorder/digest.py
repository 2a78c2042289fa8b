"""Compares rows by one hash each, and by a digest of each symbol's hashes in their order."""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa

_ABSENT = np.uint64(0xE7037ED1A0B428DB)
_WORD = np.uint64(0x9E3779B97F4A7C15)
_SHIFT = np.uint64(32)


def row_hashes(rows: pa.RecordBatch) -> np.ndarray:
    """uint64 for each row, of all its columns: equal for equal values, whatever dictionaries they are written with."""
    mixed = np.zeros(rows.num_rows, np.uint64)
    for name in rows.schema.names:
        mixed ^= _numbers(rows[name])
        mixed *= _WORD
    mixed ^= mixed >> _SHIFT
    return mixed


def _numbers(array: pa.Array) -> np.ndarray:
    """One 64-bit number for each value (or one for all); bits spread downwards, for a product spreads them upwards."""
    values: np.ndarray
    if array.null_count == len(array):
        return np.full(1, _ABSENT)
    if pa.types.is_dictionary(array.type):
        values = _texts(array.dictionary)[_plain(array.indices)]
    elif pa.types.is_integer(array.type) or pa.types.is_boolean(array.type):
        wide = _plain(array.cast(pa.int8()) if pa.types.is_boolean(array.type) else array).astype(np.int64, copy=False)
        values = wide.view(np.uint64) ^ (wide.view(np.uint64) >> _SHIFT)
    elif pa.types.is_fixed_size_binary(array.type):
        raw = np.frombuffer(array.buffers()[1], "<u8", 2 * len(array), 16 * array.offset)
        values = raw[1::2] * _WORD
        values ^= values >> _SHIFT
        values ^= raw[::2]
    else:
        return _numbers(array.dictionary_encode())
    if not array.null_count:
        return values
    return np.where(array.is_valid().to_numpy(zero_copy_only=False), values, _ABSENT)


def _plain(array: pa.Array) -> np.ndarray:
    """Values of an integer array, without a copy where none is null; a null becomes 0, which is a valid index."""
    if array.null_count:
        array = array.fill_null(0)
    values: np.ndarray = array.to_numpy()
    return values


def _texts(array: pa.Array) -> np.ndarray:
    digests = (hashlib.blake2b(str(v).encode(), digest_size=8).digest() for v in array.to_pylist())
    return np.array([int.from_bytes(d) for d in digests] or [0], np.uint64)


def codes_order(codes: np.ndarray) -> np.ndarray:
    """Stable order of small codes; sixteen bits are sorted by counting."""
    narrow = codes.astype(np.uint16) if not len(codes) or codes.max() < 1 << 16 else codes
    return np.argsort(narrow, kind="stable")


class Digests:
    """Number of rows and digest of each symbol's rows in their order (of all rows without a symbol column); equal for
    equal rows, wherever rows of other symbols come between them and wherever batches end."""

    def __init__(self, by_symbol: bool):
        self.by_symbol = by_symbol
        self._found: dict[str, tuple[int, Any]] = {}

    def through(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The same batches, each taken into account."""
        for batch in batches:
            if batch.num_rows:
                self.add(batch)
            yield batch

    def add(self, batch: pa.RecordBatch) -> None:
        """Take a batch's rows into account."""
        hashes = row_hashes(batch)
        if not self.by_symbol:
            return self._more("", hashes)
        codes = batch["symbol"].indices.to_numpy()
        order = codes_order(codes)
        codes, hashes = codes[order], hashes[order]
        edges = np.flatnonzero(np.diff(codes)) + 1
        names = batch["symbol"].dictionary
        for code, part in zip(codes[np.r_[0, edges]].tolist(), np.split(hashes, edges), strict=True):
            self._more(names[code].as_py(), part)
        return None

    def _more(self, name: str, hashes: np.ndarray) -> None:
        n, digest = self._found.get(name) or (0, hashlib.blake2b(digest_size=16))
        digest.update(hashes.data)
        self._found[name] = (n + len(hashes), digest)

    def result(self) -> dict[str, tuple[int, str]]:
        """(rows, digest) by symbol."""
        return {name: (n, digest.hexdigest()) for name, (n, digest) in self._found.items()}
