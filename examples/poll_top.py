"""Poll a top of book: `python examples/poll_top.py BTC/USD`. One reading takes less than a microsecond."""

import argparse
import time

import kfix_md


def main(symbol: str, seconds: float, feed: str | None) -> None:
    book = kfix_md.attach(feed, reconnect=True)[symbol]
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
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("symbol", nargs="?", default="BTC/USD")
    options.add_argument("seconds", nargs="?", type=float, default=10.0)
    options.add_argument("--feed", help="its name, where there are several; KFIX_FEED is the default")
    main(**vars(options.parse_args()))
