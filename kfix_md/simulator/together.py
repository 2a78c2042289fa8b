"""Sends the changes of two symbols in one message, with 55 in every entry."""

from kfix_md.simulator import wire
from kfix_md.simulator.lines import Line, VenueSubscription

Collected = list[tuple[VenueSubscription, bytes]]


def send(lines: list[Line], changes: list[Collected]) -> int:
    """Send what `lines` collected: one X to each session that has both symbols, an own one to others.

    Where a session has a symbol twice, the newest subscription is in the common message and the older ones get messages
    of their own: entries of one symbol under two requests would be no message that a client can read.
    Returns the number of messages that carry both symbols. They have no 5041, which covers one book.
    """
    both = 0
    for session in dict.fromkeys(subscription.session for part in changes for subscription, _ in part):
        mine = [[(sub, rest) for sub, rest in part if sub.session is session] for part in changes]
        shared = [pair for part in mine for pair in _newest(part)] if all(mine) else []
        if shared:
            both += 1
            _merged(shared)
        for line, part in zip(lines, mine, strict=True):
            for subscription, rest in part:
                if (subscription, rest) not in shared:
                    session.send_data(b"X", subscription, rest, wire.byte_sum(rest), line.version)
    return both


def _newest(part: Collected) -> Collected:
    number = max(subscription.number for subscription, _ in part)
    return [(subscription, rest) for subscription, rest in part if subscription.number == number]


def _merged(pairs: Collected) -> None:
    requests = list(dict.fromkeys(subscription.md_req_id for subscription, _ in pairs))
    groups = []
    for subscription, rest in pairs:
        own = b"55=%b\x01" % wire.raw(subscription.line.instrument.symbol)
        if len(requests) > 1:
            own += b"262=%b\x01" % wire.raw(subscription.md_req_id)
        entries = rest.partition(b"5041=")[0].split(b"279=")[1:]
        groups += [b"279=%b%b" % (entry, own) for entry in entries]
    prefix = b"262=%b\x01" % wire.raw(requests[0]) if len(requests) == 1 else b""
    rest = b"268=%d\x01%b" % (len(groups), b"".join(groups))
    session = pairs[0][0].session
    seq = session.emit(b"X", prefix, rest, wire.byte_sum(rest))
    for subscription, _ in pairs:
        session.sight(subscription, seq, subscription.line.version)
