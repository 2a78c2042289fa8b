from typing import Any

import numpy as np
from numpy.typing import NDArray

from kfix_md._stream import Buffer
from kfix_md._symbols import Symbols
from kfix_md.session.sequence import Sequence
from kfix_md.shm.writer import SegmentWriter

class Handler(Symbols):
    codec: Any  # kfix_md._codec.Codec
    sequence: Sequence
    # a kfix_md.session.Session, or a replacement for one
    session: Any
    fast: bool
    last_recv_ns: int
    last_sending_ns: int
    sending_time_limit_ns: int
    def __init__(
        self,
        *,
        checksum: str = "auto",  # "level", "order", "level-sent", "order-sent", "off"
        level: str = "auto",  # "L2", "L3"
        session: Any = None,
        session_number: int = 0,
        journal: Any = None,
        publisher: SegmentWriter | None = None,
        listener: Any = None,
        collect: bool = False,
        max_frame: int = ...,
        allow_fast: bool = True,
        standby_for: int = -1,
    ) -> None: ...
    def on_garbled(self, what: str, head: bytes | None, skipped: int, recv_ns: int) -> None: ...
    def release(self, recv_ns: int) -> None: ...
    def deliver(self, frame: Buffer, recv_ns: int = 0, flags: int = 0) -> int: ...
    def ticks(self) -> NDArray[np.void]: ...
    def read_instruments(self, parsed: list[tuple[int, bytes]]) -> None: ...
    def expect_comp_ids(self, sender: bytes | None, target: bytes | None) -> None: ...
    @property
    def checksum(self) -> str: ...
    @property
    def stats(self) -> dict[str, int]: ...
    @property
    def protocol_errors(self) -> int: ...
