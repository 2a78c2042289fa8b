"""Print the most imbalanced books of the whole feed once a second: `python examples/imbalance.py`."""

import argparse
import time

import numpy as np

import kfix_md


def main(rounds: int, feed: str | None) -> None:
    books = kfix_md.attach(feed, reconnect=True)
    for _ in range(rounds):
        rows = books.snapshot()  # NaN where a book is not trusted, so it drops out
        with np.errstate(invalid="ignore", divide="ignore"):
            imbalance = (rows["bid_qty"] - rows["ask_qty"]) / (rows["bid_qty"] + rows["ask_qty"])
        known = np.flatnonzero(np.isfinite(imbalance))
        worst = known[np.argsort(-np.abs(imbalance[known]))][:5]
        print(f"{len(known)} of {len(rows)} books:", *(f"{rows['symbol'][i]} {imbalance[i]:+.2f}" for i in worst))
        if len(worst):
            deepen(books, str(rows["symbol"][worst[0]]), int(rows["level"][worst[0]]))
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
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("rounds", nargs="?", type=int, default=10)
    options.add_argument("--feed", help="its name, where there are several; KFIX_FEED is the default")
    main(**vars(options.parse_args()))
