from collections.abc import Callable, Iterable
from typing import Any

class Row:
    error: str
    def __init__(self, symbol: str, stated: dict[str, Any], error: str = "") -> None: ...
    @property
    def symbol(self) -> str: ...
    @property
    def stated(self) -> dict[str, Any]: ...

def read_rows(
    fields: Iterable[tuple[int, bytes]], room: int, group: dict[int, tuple[str, Callable[[bytes], Any]]]
) -> tuple[list[Row], dict[int, bytes], int]: ...
