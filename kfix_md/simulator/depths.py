"""Computes which changes of a book a subscription of limited depth sees."""

from kfix_md.simulator.book import (
    BID,
    DELETE,
    NEW,
    OFFER,
    UPDATE,
    Order,
    VenueBook,
    VenueEntry,
    VenueL2Book,
    VenueL3Book,
)

#: price of the last level inside a depth, of bids and of offers; None when every level is inside
Edges = list[int | None]
#: what the entries of one change touch, before it: quantities of levels (L2), or orders by id (L3)
KnownLevels = dict[tuple[int, int], int]
KnownOrders = dict[str, Order | None]
Known = KnownLevels | KnownOrders


def edges(book: VenueBook, depth: int) -> Edges:
    """Where `depth` levels end on each side of a book."""
    return [side.boundary(depth) for side in book.sides]


def visible(side: int, price: int, boundary: int | None) -> bool:
    """Whether a price is inside the depth that ends at `boundary`."""
    return boundary is None or (price >= boundary if side == BID else price <= boundary)


class Change:
    """One change of a book, seen through any number of depths.

    Parameters
    ----------
    book : the book; made before the change is applied to it, `seen` is called after
    entries : the change
    """

    def __init__(self, book: VenueBook, entries: list[VenueEntry]) -> None:
        self.book, self.entries = book, entries
        self._levels: KnownLevels = {}
        self._orders: KnownOrders = {}
        if isinstance(book, VenueL2Book):
            self._levels = {(e.side, e.price): book.qty[e.side].get(e.price, 0) for e in entries}
        else:
            self._orders = {e.ident: book.orders.get(e.ident) for e in entries}

    def seen(self, before: Edges, after: Edges, implicit: bool = False) -> list[VenueEntry]:
        """The changes inside a depth that ended at `before` and ends at `after`.

        `implicit`: no deletes of what left the depth and is still in the book.
        """
        if before == [None, None] and after == [None, None]:
            return self.entries
        if isinstance(self.book, VenueL2Book):
            return self._seen_levels(self.book, before, after, implicit)
        return self._seen_orders(self.book, before, after, implicit)

    def _seen_levels(self, book: VenueL2Book, before: Edges, after: Edges, implicit: bool) -> list[VenueEntry]:
        stamp = self.entries[-1].event_ns
        touched = list(dict.fromkeys((entry.side, entry.price) for entry in self.entries))
        moved = [
            (side, price)
            for side in (BID, OFFER)
            for price in book.sides[side].between(before[side], after[side])
            if (side, price) not in self._levels
        ]
        seen = []
        for side, price in touched + moved:
            now = book.qty[side].get(price, 0)
            was = self._levels.get((side, price), now)
            showed = was and visible(side, price, before[side])
            shows = now and visible(side, price, after[side])
            if showed and shows and was != now:
                seen.append(VenueEntry(UPDATE, side, "", price, now, stamp))
            elif shows and not showed:
                seen.append(VenueEntry(NEW, side, "", price, now, stamp))
            elif showed and not shows and not (implicit and now):
                seen.append(VenueEntry(DELETE, side, "", price, now, stamp))
        return seen

    def _seen_orders(self, book: VenueL3Book, before: Edges, after: Edges, implicit: bool) -> list[VenueEntry]:
        seen: list[VenueEntry] = []
        shown = {
            ident
            for ident, order in self._orders.items()
            if order and visible(order.side, order.price, before[order.side])
        }
        for entry in self.entries:
            inside = visible(entry.side, entry.price, after[entry.side])
            if entry.action == DELETE:
                if entry.ident in shown:
                    shown.discard(entry.ident)
                    seen.append(entry)
            elif inside:
                seen.append(entry if entry.ident in shown else entry._replace(action=NEW))
                shown.add(entry.ident)
            elif entry.ident in shown:  # changed, and its level left the depth by the same message
                shown.discard(entry.ident)
                if not implicit:
                    seen.append(entry._replace(action=DELETE))
        return seen + self._moved_orders(book, before, after, implicit)

    def _moved_orders(self, book: VenueL3Book, before: Edges, after: Edges, implicit: bool) -> list[VenueEntry]:
        """Orders of levels that entered or left the depth without being touched themselves."""
        stamp, moved = self.entries[-1].event_ns, []
        for side in (BID, OFFER):
            for price in book.sides[side].between(before[side], after[side]):
                entered = visible(side, price, after[side])
                if implicit and not entered:
                    continue
                moved += [
                    VenueEntry(
                        NEW if entered else DELETE,
                        side,
                        order.ident,
                        price,
                        order.qty,
                        order.event_ns if entered else stamp,
                        order.queue_ns,
                    )
                    for order in book.queues[side][price]
                    if order.ident not in self._orders
                ]
        return moved
