"""A strategy script as users write them, with public names only; test_typing.py has it checked by pyright."""

from typing import reveal_type

import kfix_md


def mid(book: kfix_md.Book) -> float | None:
    """Mid price of one book; None while the book is not trusted."""
    try:
        bid, bid_qty, ask, ask_qty = book.top()
    except kfix_md.NotLive as error:
        reveal_type(error.state)
        reveal_type(error.cause)
        return None
    reveal_type(bid_qty + ask_qty)
    return (bid + ask) / 2


def main() -> None:
    feed = kfix_md.attach(reconnect=True)
    reveal_type(feed)
    btc = feed["BTC/USD"]
    reveal_type(btc)
    reveal_type(btc.top())
    reveal_type(btc.top(price="int"))
    reveal_type(btc.bid)
    reveal_type(btc.age_ns)
    reveal_type(btc.state is kfix_md.State.LIVE)
    reveal_type(btc.cause)
    bids, asks = btc.depth(10)
    reveal_type(bids)
    reveal_type(asks.dtype)
    reveal_type(btc.trades(5))
    reveal_type({symbol: mid(book) for symbol, book in feed.items()})
    reveal_type(feed.snapshot())
    handler = kfix_md.Handler(checksum="auto")
    reveal_type(handler)
    reveal_type(handler.on_bytes(b"", recv_ns=0))
    reveal_type(handler["BTC/USD"].top())


main()
