"""Commands that change the market, its instruments and their status."""

from kfix_md.simulator import catalogue
from kfix_md.simulator.commands import Commands, Request, command

# the market ------------------------------------------------------------------------------------------


@command
def pause(commands: Commands, request: Request) -> None:
    """Stop the market."""
    commands.venue.paused = True


@command
def resume(commands: Commands, request: Request) -> None:
    """Continue the market, without catching up."""
    commands.venue.paused = False
    commands.venue._last_pump = commands.venue.now()


@command
def rate(commands: Commands, request: Request) -> None:
    """`rate` book changes a second and service from now on."""
    commands.venue.config.rate = float(request["rate"])


@command
def step(commands: Commands, request: Request) -> None:
    """`count` orders of the generated market of `symbol`, now."""
    row = commands.venue.market(request["symbol"])
    for _ in range(int(request.get("count", 1))):
        commands.venue.step(row)


@command
def status(commands: Commands, request: Request) -> None:
    """5032 of a symbol becomes `status`; announced by 35=y to subscribers."""
    update(commands, request)


@command
def update(commands: Commands, request: Request) -> None:
    """Change an instrument (`status`, `price_text`, `qty_text`: the text of 2349 and 5010) and announce it.

    `tags`: the 35=y has these and 55 only, as a partial update.
    """
    changes = {name: request[name] for name in ("status", "price_text", "qty_text") if name in request}
    announced = set()
    for service, line in commands.lines(request):
        for name, value in changes.items():
            setattr(line.instrument, name, int(value) if name == "status" else str(value))
        line.instrument.verbatim = b""
        if service.venue_name not in announced:
            announced.add(service.venue_name)
            commands.venue.announce(service.venue_name, line.instrument, request.get("tags", ()))


@command
def trading_status(commands: Commands, request: Request) -> None:
    """340 of the spot venue; announced by 35=h."""
    commands.venue.announce_status(int(request["status"]))


@command
def precision(commands: Commands, request: Request) -> None:
    """Other precisions of a symbol (`price_precision`, `qty_precision`), finer by powers of ten;
    `silent` does not announce it. Listeners get a new snapshot."""
    rows = [
        (market, level2, level3)
        for market, level2, level3 in commands.venue.markets
        if market.instrument.symbol == request["symbol"]
    ]
    if not rows or commands.venue.config.rendered:
        raise ValueError(f"no generated live market for {request['symbol']}")
    market, level2, level3 = rows[0]
    row = market.instrument
    finer = (
        int(request.get("price_precision", row.price_precision)) - row.price_precision,
        int(request.get("qty_precision", row.qty_precision)) - row.qty_precision,
    )
    if min(finer) < 0:
        raise ValueError("precisions only become finer")
    market.rescale(*finer)
    level2.replace(market.levels)
    level3.replace(market.book)
    if not request.get("silent"):
        commands.venue.announce(market.venue, row)
    for line in (level2, level3):
        line.resnapshot()


@command
def list_(commands: Commands, request: Request) -> None:
    """A new generated symbol on `venue` (spot or derivatives); `silent`: not announced.

    Other keys are `price_precision`, `qty_precision` and the options of `catalogue.instrument`.
    """
    options = {key: value for key, value in request.items() if key not in ("cmd", "venue", "silent")}
    venue = request.get("venue", "spot")
    commands.venue.list_symbol(venue, catalogue.instrument(venue, **options), bool(request.get("silent")))


@command
def delist(commands: Commands, request: Request) -> None:
    """A symbol's status becomes 6 (announced by 35=y), its book empties, and it can no longer be subscribed."""
    status(commands, {**request, "status": 6})
    for _, line in commands.lines(request):
        line.clear()
        line.listed = False
    commands.venue.drop_market(request["symbol"])
