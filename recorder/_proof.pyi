from typing import Any

import numpy as np

from kfix_md._book import Book

RULES: tuple[str, ...]
IS_CROSSED: int

def check(
    book: Book, entries: np.ndarray, ends: Any, crcs: Any, has_crc: Any, first: int, others: int
) -> np.ndarray: ...
def tops(book: Book, entries: np.ndarray, ends: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
