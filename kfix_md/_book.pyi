from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Rule: TypeAlias = Literal["level", "order", "level-sent", "order-sent"]
Levels: TypeAlias = NDArray[np.void]

DEPTH_DTYPE: np.dtype[np.void]
DEPTH_INT_DTYPE: np.dtype[np.void]
RULES: dict[str, int]
LIMITS: dict[int, str]

def crc_uses_clmul() -> bool: ...

class Room:
    left: int
    def __init__(self, left: int) -> None: ...

class OrderBook:
    level: int
    price_precision: int
    qty_precision: int
    unknown: int
    repeated: int
    work: int
    limit: int
    def __init__(
        self, price_precision: int = 0, qty_precision: int = 0, *, levels: int = 16, limit: int = 0
    ) -> None: ...
    def apply(self, entries: NDArray[np.void]) -> None: ...
    def clear(self) -> None: ...
    def crc(
        self, rule: Rule = "level", price_precision: int | None = None, qty_precision: int | None = None
    ) -> int: ...
    @property
    def counts(self) -> tuple[int, int]: ...
    @property
    def order_counts(self) -> tuple[int, int] | None: ...
    def top(self) -> tuple[int | None, int | None, int | None, int | None]: ...
    def depth(self, n: int | None = 10, price: str = "float") -> tuple[Levels, Levels]: ...

class L2Book(OrderBook): ...
