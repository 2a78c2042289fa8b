"""A hot pair: two sessions of one service, and which copy of each book is published."""

from __future__ import annotations

from kfix_md._entry import State
from kfix_md._state import is_trusted
from kfix_md.feed.pacing import SECOND
from kfix_md.feed.service import Service
from kfix_md.journal.events import Served

MUTE_NS = 2 * SECOND  # a session that receives nothing for so long while its twin does is not published


class Pair:
    """Services of the same name: both keep all books, one copy of each is published.

    A copy stays published until it is not trusted (or its session is mute) and the other one is, so that the
    choice does not flap and readers lose nothing with one session. Both are journaled under their own numbers.
    """

    def __init__(self, services: list[Service]) -> None:
        self.services = services
        self.switches = 0
        self._served: dict[str, Service] = {}
        for service in services:
            service.on_state = self.on_state
            service.on_lag = self.on_lag

    def served(self, symbol: str) -> Service:
        """The service whose copy of a symbol is published; at first the one that knew the symbol first."""
        return self._served[symbol]

    def on_state(self, service: Service, symbol: str, state: State) -> None:
        """The state of a copy changed."""
        if symbol not in self._served:
            self._served[symbol] = service
            service.handler.books.serve(symbol, True)
        serving = self.served(symbol)
        if service is serving and not is_trusted(state):
            good = (other for other in self.services if is_trusted(other.state_of(symbol)))
            self._switch(symbol, next(good, serving))
        elif service is not serving and is_trusted(state) and not is_trusted(serving.state_of(symbol)):
            self._switch(symbol, service)

    def on_lag(self, service: Service) -> None:
        """Messages of one session are late, or in time again: readers see its twin, if that is better."""
        for symbol, serving in list(self._served.items()):
            if serving.lag.over:
                better = (o for o in self.services if not o.lag.over and is_trusted(o.state_of(symbol)))
                self._switch(symbol, next(better, serving))
        first = self.services[0]  # the row of the session table to which the books of both belong
        if first.publisher is not None:
            first.publisher.set_lagging(first.number, all(each.lag.over for each in self.services))

    def tick(self, now_ns: int) -> None:
        """Switch away from a session that receives nothing while its twin does."""
        received = {id(service): service.session.last_recv_ns for service in self.services}
        best = max(self.services, key=lambda service: received[id(service)])
        if now_ns - received[id(best)] > MUTE_NS:
            return
        for symbol, serving in list(self._served.items()):
            if received[id(best)] - received[id(serving)] > MUTE_NS and is_trusted(best.state_of(symbol)):
                self._switch(symbol, best)

    def _switch(self, symbol: str, to: Service) -> None:
        serving = self.served(symbol)
        if to is serving:
            return
        self._served[symbol] = to
        self.switches += 1
        serving.handler.books.serve(symbol, False)
        to.handler.books.serve(symbol, True)
        to.event(Served(symbol, to.number), max(to.now_ns, serving.now_ns))
        to.log.info(
            "%s: served by %s now (%s is %s)",
            symbol,
            to.section.sender_comp_id,
            serving.section.sender_comp_id,
            serving.state_of(symbol).name,
        )
