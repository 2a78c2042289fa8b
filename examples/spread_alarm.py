"""Report when a spread exceeds 5 basis points, without polling: `python examples/spread_alarm.py BTC/USD 5`."""

import argparse
import time

import kfix_md


def main(symbol: str, limit_bp: float, seconds: float, feed: str | None) -> None:
    book = kfix_md.attach(feed, reconnect=True)[symbol]
    end, wide = time.monotonic() + seconds, False
    while time.monotonic() < end:
        book.wait(timeout=1.0)  # sleeps until the book changes
        try:
            bid, _, ask, _ = book.top()
        except kfix_md.NotLive as error:
            print(f"no spread: {error}")
            continue
        spread_bp = (ask - bid) / (ask + bid) * 2e4
        if (spread_bp > limit_bp) != wide:
            wide = not wide
            print(f"{symbol} {'WIDE' if wide else 'normal'}: {spread_bp:.2f} bp ({bid} / {ask})", flush=True)


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("symbol", nargs="?", default="BTC/USD")
    options.add_argument("limit_bp", nargs="?", type=float, default=5.0)
    options.add_argument("seconds", nargs="?", type=float, default=float("inf"))
    options.add_argument("--feed", help="its name, where there are several; KFIX_FEED is the default")
    main(**vars(options.parse_args()))
