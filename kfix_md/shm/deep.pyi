from decimal import Decimal
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from kfix_md.shm.reader import TopReader

#: one-dimensional structured array
Rows: TypeAlias = np.ndarray[tuple[int], np.dtype[np.void]]

LEVEL_DTYPE: np.dtype[np.void]
LEVEL_INT_DTYPE: np.dtype[np.void]
TRADE_DTYPE: np.dtype[np.void]
ORDER_DTYPE: np.dtype[np.void]

class QueuePosition(NamedTuple):
    side: Literal["bid", "ask"]
    price: float
    qty: float
    ahead: int
    qty_ahead: float
    orders: int
    level_qty: float

class Book(TopReader):
    @property
    def bids(self) -> Rows: ...
    @property
    def asks(self) -> Rows: ...
    def _repr_html_(self) -> str: ...
    def depth(
        self,
        n: int | None = 10,
        price: Literal["float", "int", "decimal"] = "float",
        allow_stale: bool = False,
        *,
        allow_unverified: bool = False,
    ) -> tuple[Rows, Rows]: ...
    def orders(
        self, price: float | str | Decimal, allow_stale: bool = False, *, allow_unverified: bool = False
    ) -> Rows: ...
    def queue_position(
        self, order_id: str, allow_stale: bool = False, *, allow_unverified: bool = False
    ) -> QueuePosition | None: ...
    def trades(self, n: int | None = None) -> Rows: ...
    def trade_reader(self, from_start: bool = False) -> TradeReader: ...
    @property
    def truncated(self) -> tuple[bool, bool]: ...

class TradeReader:
    book: Book
    next: int
    lost: int
    def __init__(self, book: Book, first: int) -> None: ...
    def read(self) -> Rows: ...
