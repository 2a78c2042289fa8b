"""Two sessions for one service: which of the two copies of each book readers see."""

from __future__ import annotations

from kfix_md._entry import State
from kfix_md.feed.pacing import SECOND
from kfix_md.feed.service import Service

GOOD = (State.LIVE, State.EMPTY)
MUTE_NS = 2 * SECOND  # a session that hears nothing for so long while its twin does is not served


class Pair:
    """Services of the same name, hot-hot: both keep all books, one copy of each is published.

    A copy is served until it is not good (or its session is mute) and another one is; so nothing flaps, and
    losing one session costs readers nothing. Both sessions are journaled, each under its own number.
    """

    def __init__(self, services: list[Service]) -> None:
        self.services = services
        self.switches = 0
        self._served: dict[str, Service] = {}
        for service in services:
            service.on_state = self.on_state

    def served(self, symbol: str) -> Service:
        """The service whose copy of a symbol is published; at first the one that knew the symbol first."""
        return self._served[symbol]

    def on_state(self, service: Service, symbol: str, state: State) -> None:
        """A copy changed its state (told by its service)."""
        if symbol not in self._served:
            self._served[symbol] = service
            service.handler.serve(symbol, True)
        serving = self.served(symbol)
        if service is serving and state not in GOOD:
            good = (other for other in self.services if other.state_of(symbol) in GOOD)
            self._switch(symbol, next(good, serving))
        elif service is not serving and state in GOOD and serving.state_of(symbol) not in GOOD:
            self._switch(symbol, service)

    def tick(self, now_ns: int) -> None:
        """Look for a session that hears nothing while its twin does."""
        heard = {id(service): service.session.last_recv_ns for service in self.services}
        best = max(self.services, key=lambda service: heard[id(service)])
        if now_ns - heard[id(best)] > MUTE_NS:
            return
        for symbol, serving in list(self._served.items()):
            if heard[id(best)] - heard[id(serving)] > MUTE_NS and best.state_of(symbol) in GOOD:
                self._switch(symbol, best)

    def _switch(self, symbol: str, to: Service) -> None:
        serving = self.served(symbol)
        if to is serving:
            return
        self._served[symbol] = to
        self.switches += 1
        serving.handler.serve(symbol, False)
        to.handler.serve(symbol, True)
        to.event({"type": "served", "symbol": symbol, "session": to.number})
        to.log.info(
            "%s: served by %s now (%s is %s)",
            symbol,
            to.section.sender_comp_id,
            serving.section.sender_comp_id,
            serving.state_of(symbol).name,
        )
