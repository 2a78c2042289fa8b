import os

from kfix_md._entry import Cause, State

LAYOUT: int
MAGIC: int

class SegmentWriter:
    path: str
    name: str
    def __init__(
        self,
        name: str = "default",
        directory: str | os.PathLike[str] = "/dev/shm",
        mode: int = 0o600,
        *,
        group: int | None = None,
        capacity: int = 2000,
        depth: int = 1000,
        l3_depth: int = 4096,
        orders: int = 65536,
        trades: int = 256,
        heartbeat_ns: int = 500_000_000,
        clock_base_ns: int | None = None,
        serve_unverified: bool = False,
    ) -> None: ...
    def add_symbol(
        self, symbol: str, level: int | str = 2, price_precision: int = 0, qty_precision: int = 0, session: int = 0
    ) -> int: ...
    def set_state(self, slot: int, state: State, cause: Cause = ..., now_ns: int | None = None) -> None: ...
    def heartbeat(self) -> None: ...
    def displaced(self) -> bool: ...
    def republish(self) -> None: ...
    def set_lagging(self, session: int, lagging: bool) -> None: ...
    def now_ns(self) -> int: ...
    def set_clock_step(self, step_ns: int) -> None: ...
    def set_counter(self, name: str, value: int) -> None: ...
    def set_session(
        self,
        i: int,
        *,
        service: str | None = None,
        state: str | None = None,
        host: str | None = None,
        port: int | None = None,
        level: int | str | None = None,
        sender: str | None = None,
        target: str | None = None,
        since_ns: int | None = None,
        last_recv_ns: int | None = None,
        rollover_ns: int | None = None,
        messages: int | None = None,
        bytes: int | None = None,
        gaps: int | None = None,
        reconnects: int | None = None,
        lag_ns: int | None = None,
        clock_offset_ns: int | None = None,
    ) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> SegmentWriter: ...
    def __exit__(self, *exc: object) -> None: ...
