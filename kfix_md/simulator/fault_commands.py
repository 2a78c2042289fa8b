"""Commands that inject faults into messages and connections, and that send messages unprompted."""

from collections import deque
from typing import Any

from kfix_md.simulator import logons
from kfix_md.simulator import rollover as rolling
from kfix_md.simulator.commands import Answer, Commands, Request, command
from kfix_md.simulator.edits import EDITS, HARM
from kfix_md.simulator.habits import ANSWERS
from kfix_md.simulator.logons import LOGON_VARIANTS

# faults on messages ----------------------------------------------------------------------------------


@command
def gap(commands: Commands, request: Request) -> Answer:
    """The next `count` messages of the selected sessions are lost; `answer` to the ResendRequest: one of ANSWERS."""
    answer = request.get("answer")
    if answer not in (None, *ANSWERS):
        raise ValueError(f"no such answer: {answer}")
    sessions = commands.sessions(request)
    for session in sessions:
        session.faults.lose(int(request.get("count", 1)), answer)
    return {"sessions": [session.id for session in sessions]}


@command
def crc(commands: Commands, request: Request) -> None:
    """The next `count` 5041 of a symbol are wrong."""
    for _, line in commands.lines(request):
        line.on_corrupt = commands.venue._corrupted
        line.corrupt_next += int(request.get("count", 1))


@command
def garble(commands: Commands, request: Request) -> Answer:
    """Edit `edit` on the next `count` messages of `types` (letters of 35, default WX) of the selected sessions;
    other keys are options of the edit."""
    sessions = commands.sessions(request)
    for session in sessions:
        session.faults.edit(request["edit"], int(request.get("count", 1)), request.get("types", "WX"), request)
    return {"sessions": [session.id for session in sessions], "harm": HARM[request["edit"]]}


@command
def edits(commands: Commands, request: Request) -> Answer:
    """The names of all edits and their harm, and of all variants of the reply to a Logon."""
    return {"edits": {name: HARM[name] for name in EDITS}, "logon": list(LOGON_VARIANTS)}


@command
def resend(commands: Commands, request: Request) -> None:
    """How ResendRequests are answered from now on: `answer` is one of ANSWERS."""
    if request["answer"] not in ANSWERS:
        raise ValueError(f"no such answer: {request['answer']}")
    commands.venue.config.replay = request["answer"]


# faults on connections -------------------------------------------------------------------------------


@command
def rollover(commands: Commands, request: Request) -> Answer:
    """`form` logout, fin, rst, seqreset, inlogon, restart0, restart1 or silent; logons are then refused for
    `refuse` seconds in the way `how` (close, logout, tcp)."""
    return {
        "sessions": rolling.perform(
            commands.venue,
            request.get("form", "logout"),
            float(request.get("refuse", 2.0)),
            request.get("how", "close"),
            services=commands.services(request),
            keep=request.get("keep"),
        )
    }


@command
def drop(commands: Commands, request: Request) -> Answer:
    """End connections: `how` fin or rst."""
    how = request.get("how", "fin")
    sessions = commands.sessions(request)
    for session in sessions:
        commands.venue.fault(
            "drop",
            harm="session",
            how=how,
            session=session.id,
            sender=session.peer.sender,
            service=session.service.name,
            last_seq=session.peer.outgoing - 1,
        )
        session.close(how)
    return {"sessions": [session.id for session in sessions]}


@command
def logout(commands: Commands, request: Request) -> None:
    """Send Logout with `text`."""
    for session in commands.sessions(request):
        commands.venue.fault(
            "logout",
            harm="session",
            session=session.id,
            sender=session.peer.sender,
            service=session.service.name,
            last_seq=session.peer.outgoing,
        )
        session.logout(request.get("text", "Session ended by the venue"))


@command
def refuse(commands: Commands, request: Request) -> None:
    """Refuse logons for `seconds`: `how` close, logout (with the text of a `reason`, or `text`), tcp, port or dead."""
    text = logons.refusal(request)
    for service in commands.services(request):
        service.refuse(float(request.get("seconds", 5)), request.get("how", "close"), text)


@command
def mute(commands: Commands, request: Request) -> None:
    """Nothing is read or written for `seconds` (0: until the client disconnects)."""
    for session in commands.sessions(request):
        commands.venue.fault(
            "mute",
            harm="stall",
            session=session.id,
            seconds=float(request.get("seconds", 5)),
            sender=session.peer.sender,
            service=session.service.name,
        )
        session.faults.mute(float(request.get("seconds", 5)))


@command
def delay(commands: Commands, request: Request) -> None:
    """Output leaves `seconds` later, once."""
    for session in commands.sessions(request):
        session.faults.hold(float(request.get("seconds", 1)))


@command
def small_writes(commands: Commands, request: Request) -> None:
    """Writes of `size` bytes for `seconds`."""
    for session in commands.sessions(request):
        session.faults.small_writes(int(request.get("size", 1)), float(request.get("seconds", 1)))


@command
def slow_reads(commands: Commands, request: Request) -> None:
    """Nothing is read from the client for `seconds`."""
    for session in commands.sessions(request):
        session.pause_reading(float(request.get("seconds", 1)))


@command
def logon(commands: Commands, request: Request) -> None:
    """The next `count` Logons on the selected services are answered by a `variant` (see `edits`)."""
    if request.get("variant") not in LOGON_VARIANTS:
        raise ValueError(f"no such variant: {request.get('variant')} (one of {', '.join(LOGON_VARIANTS)})")
    logons.refusal(request)
    for service in commands.services(request):
        variant = {key: value for key, value in request.items() if key != "cmd"}
        service.logon_faults.extend([variant] * int(request.get("count", 1)))


# unprompted messages ---------------------------------------------------------------------------------


@command
def reject(commands: Commands, request: Request) -> None:
    """The next `count` subscriptions of `symbol` get 35=Y with 281 `reason`."""
    for service, _ in commands.lines(request):
        queue = service.symbol_rejects.setdefault(request["symbol"], deque())
        queue.extend([request.get("reason", 0)] * int(request.get("count", 1)))


@command
def answer(commands: Commands, request: Request) -> None:
    """The next request of `type` (35; empty: any) gets `with`: j or 3."""
    if request.get("with") not in ("j", "3"):
        raise ValueError("`with` is j or 3")
    for service in commands.services(request):
        service.request_faults.append((request["with"], request.get("type", "")))


@command
def send(commands: Commands, request: Request) -> Answer:
    """Send a message of `type` with `fields` [[tag, value], ...]; answers its MsgSeqNum by session."""
    return _send(commands, request, str(request["type"]), request.get("fields", []))


def _send(commands: Commands, request: Request, kind: str, fields: list[list[Any]]) -> Answer:
    pairs = [(int(tag), str(value)) for tag, value in fields]
    return {"seqs": {session.id: session.send(kind.encode(), pairs) for session in commands.sessions(request)}}


@command
def j(commands: Commands, request: Request) -> Answer:
    """Send a BusinessMessageReject of message `ref`."""
    fields = [[45, request.get("ref", 1)], [372, "V"], [380, request.get("reason", 3)], [58, "by order"]]
    return _send(commands, request, "j", fields)


@command
def testrequest(commands: Commands, request: Request) -> Answer:
    """Send a TestRequest with `id`."""
    return _send(commands, request, "1", [[112, request.get("id", "KFIX")]])


@command
def resendrequest(commands: Commands, request: Request) -> Answer:
    """Send a ResendRequest for `first` to `last` of the client's messages."""
    return _send(commands, request, "2", [[7, request.get("first", 1)], [16, request.get("last", 0)]])


@command
def sequence_reset(commands: Commands, request: Request) -> None:
    """SequenceReset: `gap_fill` true or false, to `new`, from `seq` (default: the next number)."""
    for session in commands.sessions(request):
        new = int(request.get("new", session.peer.outgoing + 1))
        if request.get("gap_fill", True):
            session.gap_fill(int(request.get("seq", session.peer.outgoing)), new, dup=request.get("dup", False))
        else:
            session.sequence_reset(new)
        if request.get("move", True):
            session.peer.outgoing = new


@command
def late(commands: Commands, request: Request) -> None:
    """Unsubscribed streams go on for `seconds` from now on (0: they end at once)."""
    commands.venue.late_seconds = float(request.get("seconds", 0))


@command
def resnapshot(commands: Commands, request: Request) -> None:
    """A fresh W of a symbol to all its listeners."""
    for _, line in commands.lines(request):
        line.resnapshot()


@command
def clear(commands: Commands, request: Request) -> None:
    """All orders of a symbol vanish (an empty W)."""
    for _, line in commands.lines(request):
        line.clear()
