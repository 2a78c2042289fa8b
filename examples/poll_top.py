"""Poll a top of book: `python examples/poll_top.py BTC/USD`. One reading takes less than a microsecond.

KFIX_FEED names the feed where there are several.
"""

import sys
import time

import kfix_md


def main(symbol: str = "BTC/USD", seconds: float = 10.0) -> None:
    book = kfix_md.attach(reconnect=True)[symbol]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if not book.changed():
            continue
        try:
            bid, bid_qty, ask, ask_qty = book.top()
        except kfix_md.NotLive as error:  # the book is not trusted; the error has its state and cause
            print(f"not now: {error}")
            book.wait(1.0)
            continue
        print(f"{bid_qty:g} @ {bid} | {ask} @ {ask_qty:g}   {book.age_ns / 1e6:.2f} ms old")


if __name__ == "__main__":
    main(*sys.argv[1:2], *map(float, sys.argv[2:3]))
