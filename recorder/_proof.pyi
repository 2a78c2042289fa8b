from typing import Any

import numpy as np

from kfix_md._book import Book

LEVEL: int
ORDER: int
RULES_DIFFER: int
IS_CROSSED: int

def check(book: Book, entries: np.ndarray, ends: Any, crcs: Any, has_crc: Any) -> np.ndarray: ...
def tops(book: Book, entries: np.ndarray, ends: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]: ...
