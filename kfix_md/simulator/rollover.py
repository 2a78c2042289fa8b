"""Performs the daily rollover in every form it may take on the wire."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor
    from kfix_md.simulator.service import VenueService
    from kfix_md.simulator.venue import Venue

FORMS = ("logout", "fin", "rst", "seqreset", "inlogon", "restart0", "restart1", "silent")


def perform(
    venue: "Venue",
    form: str,
    refuse: float = 30.0,
    how: str = "close",
    *,
    services: "list[VenueService] | None" = None,
    keep: bool | None = None,
) -> list[str]:
    """Roll sessions over; returns their ids. Forms that end the connection refuse logons for `refuse`
    seconds.

    `keep`: whether subscriptions outlive a rollover inside the connection (all forms but
    `inlogon` keep them by default).
    """
    if form not in FORMS:
        raise ValueError(f"no such form of rollover: {form} (one of {', '.join(FORMS)})")
    touched = []
    for service in services or list(venue.services.values()):
        for session in service.live():
            touched.append(session.id)
            venue.fault(
                "rollover",
                harm="rollover",
                form=form,
                session=session.id,
                service=service.name,
                sender=session.peer.sender,
                last_seq=session.peer.outgoing - 1,
            )
            _roll(session, form, form != "inlogon" if keep is None else keep)
        if form in ("logout", "fin", "rst", "silent"):
            for peer in service.peers.values():
                peer.expected = peer.outgoing = 1
            if refuse:
                service.refuse(refuse, how)
    return touched


def _roll(session: "Acceptor", form: str, keep: bool) -> None:
    if form == "logout":
        session.logout("Trading session rollover")
    elif form in ("fin", "rst"):
        session.close(form)
    elif form == "silent":
        session.flush()
        session.drop_subscriptions()
        session.faults.mute(0)
    elif form == "seqreset":
        session.sequence_reset(1)
        session.restart_numbers(drop=not keep)
    elif form in ("restart0", "restart1"):
        session.restart_numbers(int(form[-1]), drop=not keep)
    else:
        session.restart_numbers(drop=not keep)
        session.faults.awaits_logon = True
        session.send(b"A", [(98, 0), (108, session.heartbeat_ns // 1_000_000_000), (141, "Y")])
