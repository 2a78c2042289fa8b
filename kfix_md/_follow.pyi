from typing import Literal

from kfix_md._handler import Handler
from kfix_md.journal.reader import JournalReader

_Record = tuple[int, int, int, int, int, bytes]

class FollowedSession:
    handler: Handler
    messages: int
    differ: int
    not_applied: int
    recv_ns: int
    first_difference: tuple[int, int, int] | None
    def __init__(self, handler: Handler) -> None: ...
    def release(self, first: int, last: int | None) -> None: ...
    def discard(self, first: int = 0, last: int | None = None) -> None: ...
    def publish(self) -> None: ...

def follow(
    reader: JournalReader, sessions: list[FollowedSession | None], max_records: int
) -> tuple[Literal["nothing", "record", "some", "damaged"], _Record | None]: ...
def skip_market_data(reader: JournalReader) -> _Record | None: ...
