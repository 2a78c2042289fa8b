"""Print the most imbalanced books of the whole feed once a second: `python examples/imbalance.py`."""

import sys
import time

import numpy as np

import kfix_md


def main(rounds: int = 10) -> None:
    feed = kfix_md.attach(reconnect=True)
    for _ in range(rounds):
        rows = feed.snapshot()  # NaN where a book is not trusted, so it drops out
        with np.errstate(invalid="ignore", divide="ignore"):
            imbalance = (rows["bid_qty"] - rows["ask_qty"]) / (rows["bid_qty"] + rows["ask_qty"])
        known = np.flatnonzero(np.isfinite(imbalance))
        worst = known[np.argsort(-np.abs(imbalance[known]))][:5]
        print(f"{len(known)} of {len(rows)} books:", *(f"{rows['symbol'][i]} {imbalance[i]:+.2f}" for i in worst))
        if len(worst):
            deepen(feed, str(rows["symbol"][worst[0]]), int(rows["level"][worst[0]]))
        time.sleep(1.0)


def deepen(feed: "kfix_md.shm.attach.Feed", symbol: str, level: int) -> None:
    """Print the imbalance over ten levels of one book."""
    try:
        bids, asks = feed[symbol, level].depth(10)
    except kfix_md.NotLive:
        return
    both = bids["qty"].sum() + asks["qty"].sum()
    print(f"   {symbol} over ten levels: {(bids['qty'].sum() - asks['qty'].sum()) / both:+.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
