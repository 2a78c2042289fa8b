import numpy as np
from numpy.typing import NDArray

from kfix_md._book import OrderBook

class L3Book(OrderBook):
    @property
    def order_counts(self) -> tuple[int, int]: ...
    def queue(self, side: int, price: int) -> NDArray[np.void]: ...
    def position(self, id_hi: int, id_lo: int, id_kind: int) -> tuple[int, int]: ...
