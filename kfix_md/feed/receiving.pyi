"""Types of kfix_md.feed.receiving."""

from typing import Any

from kfix_md._entry import Cause
from kfix_md._handler import Handler
from kfix_md.feed.lag import Lag
from kfix_md.feed.subscriptions import Subscriptions
from kfix_md.session.machine import Session

def is_due(waiting: list[Any], now_ns: int) -> bool: ...

class Reads:
    """The reading side of a connection's protocol."""

    answered: bool
    over: bool

    def __init__(self, service: Any, connector: Any) -> None: ...
    @property
    def service(self) -> Any: ...
    @property
    def connector(self) -> Any: ...
    def now_ns(self) -> int: ...
    def buffer_updated(self, nbytes: int) -> None: ...

class Receiving:
    """The part of a service that each read goes through."""

    handler: Handler
    session: Session
    subs: Subscriptions
    lag: Lag
    now_ns: int
    _doubt_ns: int
    _resync: Cause | None
    _gap_ended: bool

    def _bind(self) -> None: ...
    def received(self, n: int, now_ns: int) -> bool: ...
