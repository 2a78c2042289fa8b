from decimal import Decimal
from typing import Literal, NamedTuple

import numpy as np

from kfix_md.shm.reader import TopReader

LEVEL_DTYPE: np.dtype
LEVEL_INT_DTYPE: np.dtype
TRADE_DTYPE: np.dtype
ORDER_DTYPE: np.dtype

class QueuePosition(NamedTuple):
    side: Literal["bid", "ask"]
    price: float
    qty: float
    ahead: int
    qty_ahead: float
    orders: int
    level_qty: float

class Book(TopReader):
    def depth(
        self, n: int | None = 10, price: Literal["float", "int"] = "float", allow_stale: bool = False
    ) -> tuple[np.ndarray, np.ndarray]: ...
    def orders(self, price: float | str | Decimal, allow_stale: bool = False) -> np.ndarray: ...
    def queue_position(self, order_id: str, allow_stale: bool = False) -> QueuePosition | None: ...
    def trades(self, n: int | None = None) -> np.ndarray: ...
    def trade_reader(self, from_start: bool = False) -> TradeReader: ...
    @property
    def truncated(self) -> tuple[bool, bool]: ...

class TradeReader:
    book: Book
    next: int
    lost: int
    def __init__(self, book: Book, first: int) -> None: ...
    def read(self) -> np.ndarray: ...
