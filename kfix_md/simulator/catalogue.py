"""Makes instruments of every kind a list may have: negative precisions, tokenised stocks, empty books."""

from typing import Any

from kfix_md.simulator.book import VenueInstrument

STOCKS = ("AAPL", "TSLA", "NVDA", "SPY", "MSFT", "AMZN", "GOOGL", "META", "COIN", "MSTR")
OPTIONS = {"status", "security", "grain", "huge", "price_text", "qty_text", "minimum", "tick"}


def instrument(
    venue: str, symbol: str, price_precision: int = 2, qty_precision: int = 8, **options: Any
) -> VenueInstrument:
    """An instrument of a venue; `options` are further fields of `VenueInstrument`.

    A negative precision is listed as it is: prices or quantities are whole multiples of a power of ten.
    """
    unknown = set(options) - OPTIONS
    if unknown:
        raise ValueError(f"no such option of an instrument: {sorted(unknown)[0]} (one of {', '.join(sorted(OPTIONS))})")
    row = VenueInstrument(symbol, max(0, price_precision), max(0, qty_precision))
    row.security = "CASH" if venue == "spot" else "FUT"
    if price_precision < 0:
        row.tick, row.price_text = 10**-price_precision, str(price_precision)
    if qty_precision < 0:
        row.grain = row.minimum = 10**-qty_precision
        row.qty_text = str(qty_precision)
    for name, value in options.items():
        setattr(row, name, value)
    return row


def stocks(venue: str, count: int) -> list[tuple[VenueInstrument, int]]:
    """Tokenised stocks, such as `AAPLx/USD` of type TS on spot, each with its first fair price in ticks."""
    rows = []
    for number in range(count):
        name = STOCKS[number % len(STOCKS)] + (str(number // len(STOCKS)) if number >= len(STOCKS) else "")
        if venue == "spot":
            rows.append((instrument(venue, f"{name}x/USD", 2, 4, security="TS"), 20_000))
        else:
            rows.append((instrument(venue, f"PF_{name}xUSD", 2, 4), 20_000))
    return rows


def dormant(venue: str, count: int) -> list[VenueInstrument]:
    """Instruments without orders, for a list of any length."""
    form = "Q{:04d}/USD" if venue == "spot" else "PF_Q{:04d}USD"
    return [instrument(venue, form.format(number)) for number in range(count)]
