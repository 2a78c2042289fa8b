"""Reads everything that a segment offers, for damaged copies of one: python read_everything.py PATH OFFSET:HEX ...

For each argument the bytes at OFFSET of the file are replaced, everything is read, and the bytes are put back. Two
lines of output each: the argument, then "values" or the class and text of the first error. Any other exception, or a
signal, ends the process.
"""

import sys

from kfix_md.errors import KfixError
from kfix_md.shm.attach import Feed, attach

OF_FEED = """feed.info; feed.sessions; feed.counters; feed.name; feed.snapshot(); feed.snapshot(allow_stale=True);
feed.wait(0); list(feed); repr(feed)"""
OF_BOOK = """book.top(); book.top(price="int"); book.read(); book.depth(); book.depth(None); book.bid; book.ask_qty;
book.top(True); book.read(allow_stale=True); book.depth(10, allow_stale=True); book.depth(None, allow_stale=True);
book.depth(None, "int", True); book.trades(); book.trade_reader(from_start=True).read(); book.info(); book.state;
book.cause; book.age_ns; book.recv_ns; book.seq; book.precision; book.truncated; book.changed(); book.wait(0)"""
OF_L3_BOOK = """book.orders(100); book.orders(100, allow_stale=True); book.queue_position("OAAAAA-BBBBB-CCCCCC");
book.queue_position("OAAAAA-BBBBB-CCCCCC", allow_stale=True)"""


def expressions(feed: Feed) -> list[tuple[str, dict[str, object]]]:
    """Every reading of a feed and its books, with the names in it."""
    found: list[tuple[str, dict[str, object]]] = [(each, {"feed": feed}) for each in OF_FEED.split(";")]
    for symbol, level in list(feed._rows):
        names: dict[str, object] = {"book": feed[symbol, level]}
        found += [(each, names) for each in (OF_BOOK + (f";{OF_L3_BOOK}" if level == 3 else "")).split(";")]
    return found


def read_all(path: str) -> str:
    """ "values", or the first error."""
    problem = ""
    try:
        everything = expressions(attach(path=path))
    except KfixError as error:
        return f"{type(error).__name__} {error}"
    for expression, names in everything:
        try:
            eval(expression.strip(), dict(names))
        except KfixError as error:
            problem = problem or f"{type(error).__name__} {error}"
        except ValueError as error:  # a price has more decimals than a damaged precision, or the level is 2 now
            if "decimal" not in str(error) and "L2 book" not in str(error):
                raise
    return problem or "values"


def main() -> None:
    path = sys.argv[1]
    with open(path, "r+b", buffering=0) as file:
        for change in sys.argv[2:]:
            offset, _, hexadecimal = change.partition(":")
            data, at = bytes.fromhex(hexadecimal), int(offset)
            file.seek(at)
            before = file.read(len(data))
            file.seek(at)
            file.write(data)
            print(change, flush=True)
            print("   ", " ".join(read_all(path).split()), flush=True)
            file.seek(at)
            file.write(before)


if __name__ == "__main__":
    main()
