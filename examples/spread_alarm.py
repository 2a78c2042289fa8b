"""Report when a spread exceeds 5 basis points, without polling: `python examples/spread_alarm.py BTC/USD 5`."""

import sys
import time

import kfix_md


def main(symbol: str = "BTC/USD", limit_bp: float = 5.0, seconds: float = float("inf")) -> None:
    book = kfix_md.attach(reconnect=True)[symbol]
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
    main(*sys.argv[1:2], *map(float, sys.argv[2:4]))
