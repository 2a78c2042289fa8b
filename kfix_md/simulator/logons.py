"""Answers a Logon in every way but the normal one."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfix_md.simulator.acceptor import Acceptor

LOGON_VARIANTS = (
    "heartbeat",
    "high",
    "low",
    "reset",
    "logout",
    "close",
    "none",
    "time",
    "before",
    "next_equal",
    "next_low",
    "next_high",
    "length",
    "begin",
    "sender",
    "target",
    "data",
    "extra",
)
#: variants after which there is no session
NO_SESSION = ("none", "close", "logout")
REFUSED = "Logon not accepted at this time"
#: texts of a Logout that refuses a Logon, by reason
REASONS = {
    "whitelist": "Source IP address is not whitelisted for this CompID",
    "unknown": "Unknown SenderCompID",
    "suspended": "Session is suspended, contact support",
    "rate": "Logon rate limit exceeded, try again later",
    "blocked": "CompID is blocked",
    "time": REFUSED,
}
#: a value that looks like fields of a message, and is data of the length in the field before it
TRAP = b"x\x0110=000\x0155=EVIL/USD\x01268=1\x01y"


def refusal(request: dict[str, Any]) -> str:
    """The text of a refusal: `text`, or that of a `reason`; ValueError when there is no such reason."""
    reason = request.get("reason", "time")
    if reason not in REASONS:
        raise ValueError(f"no such reason: {reason} (one of {', '.join(REASONS)})")
    return str(request.get("text", REASONS[reason]))


def reply(session: "Acceptor", variant: dict[str, Any], reset: bool) -> bool:
    """Apply a variant to the reply to a Logon; True when no normal reply may follow."""
    name = variant["variant"]
    session.venue.fault(
        f"logon {name}",
        harm="session",
        session=session.id,
        sender=session.peer.sender,
        service=session.service.name,
    )
    if name == "none":
        session.faults.mute(0)
        return True
    if name in ("close", "logout"):
        if name == "logout":
            session.send(b"5", [(58, refusal(variant))])
        session.close()
        return True
    if name == "reset":
        session.peer.outgoing = session.peer.expected = 1
        session.logon_reply(True)
        session.peer.expected = 2
        return True
    if name in ("data", "extra"):
        extra: tuple[tuple[int, object], ...] = ((5051, "x"), (20001, "y"))
        session.logon_reply(reset, ((95, len(TRAP)), (96, TRAP)) if name == "data" else extra)
        session.peer.expected += 1
        return True
    if name.startswith("next"):
        _next_expected(session, variant, reset)
        return True
    _alter(session, variant)
    return False


def _alter(session: "Acceptor", variant: dict[str, Any]) -> None:
    """Changes that leave the normal reply to be sent."""
    name = variant["variant"]
    if name == "before":
        session.send(b"0", [])
    elif name == "heartbeat":
        session.heartbeat_ns = int(variant.get("seconds", 30)) * 1_000_000_000
    elif name in ("high", "low"):
        by = int(variant.get("by", 5)) if name == "high" else -1
        session.peer.outgoing = max(0, session.peer.outgoing + by)
    else:
        session.faults.edit("body_short" if name == "length" else name, 1, "A", variant)


def _next_expected(session: "Acceptor", variant: dict[str, Any], reset: bool) -> None:
    """Reply with a 789 that is right, too low or too high."""
    after = 2 if reset else session.peer.expected + 1
    by = int(variant.get("by", 1))
    value = {"next_equal": after, "next_low": max(1, after - by), "next_high": after + by}[variant["variant"]]
    session.peer.expected = after
    session.logon_reply(reset, ((789, value),))
