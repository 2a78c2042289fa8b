"""Commands that switch the venue to forms its documentation does not promise."""

from kfix_md.simulator import habits, wire
from kfix_md.simulator import together as both
from kfix_md.simulator.commands import Answer, Commands, Request, command
from kfix_md.simulator.listing import BAD_ROWS

#: keys of a request that select lines; all others are switches of `Dialect`
SELECTION = {"cmd", "symbol", "service", "level"}


@command
def vary(commands: Commands, request: Request) -> None:
    """Write a `symbol` (or "*") in another form from now on; other keys are switches of `Dialect` and of `habits`.

    The listeners get a fresh W. With "*", instruments that are listed later get the form as well. The switches of
    `habits` are the venue's and need no symbol.
    """
    switches = {key: value for key, value in request.items() if key not in SELECTION}
    venue = commands.venue
    habits.change(venue.config, {key: switches.pop(key) for key in list(switches) if key in habits.SWITCHES})
    for service in venue.services.values():
        for session in service.sessions:
            session.adapt()
    if not switches:
        return
    lines = commands.lines(request)
    for service, line in lines:
        line.speak(line.dialect.changed(**switches))
        if request["symbol"] == "*":
            service.dialect = service.dialect.changed(**switches)


@command
def bad_row(commands: Commands, request: Request) -> None:
    """Put a `kind` of bad row (see `listing.BAD_ROWS`; "" removes all) into the instrument lists of 559=4."""
    kind = request["kind"]
    if kind and kind not in BAD_ROWS:
        raise ValueError(f"no such bad row: {kind} (one of {', '.join(BAD_ROWS)})")
    for service in commands.services(request):
        if kind:
            service.bad_rows.append(wire.join(BAD_ROWS[kind]))
        else:
            service.bad_rows.clear()


@command
def together(commands: Commands, request: Request) -> Answer:
    """Send the next change of two `symbols` of one service in one X, with 55 in every entry."""
    venue, names = commands.venue, list(request["symbols"])
    if len(set(names)) != 2 or venue.config.rendered:
        raise ValueError("`symbols` are two different ones of a live market")
    rows = [venue.market(name) for name in names]
    lines = [row[1] if request.get("level", "L2") == "L2" else row[2] for row in rows]
    changes: list[both.Collected] = []
    for row, line in zip(rows, lines, strict=True):
        line.collected = []
        for _ in range(100):
            venue.step(row)
            if line.collected or not line.listened:
                break
        changes.append(line.collected)
        line.collected = None
    return {"messages": both.send(lines, changes)}
