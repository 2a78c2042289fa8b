"""Polls a book without a pause and reports what it saw, a line of JSON for each line on stdin: NAME DIRECTORY."""

import json
import select
import sys
import time

from kfix_md import attach
from kfix_md.errors import FeedError


def main() -> None:
    name, directory = sys.argv[1:3]
    feed = attach(name, directory=directory)
    book = feed["BTC/USD"]
    print("ready", flush=True)
    seen = {"readings": 0, "dead": "", "age_min": 1 << 62, "age_max": 0}
    while True:
        try:
            book.top()
            age = book.age_ns
            seen["age_min"], seen["age_max"] = min(seen["age_min"], age), max(seen["age_max"], age)
            seen["readings"] += 1
        except FeedError as error:
            seen["dead"] = seen["dead"] or str(error)
        if select.select([sys.stdin], [], [], 0)[0]:
            if not sys.stdin.readline():
                return
            seen["wall"] = time.time() - book.recv_ns / 1e9
            print(json.dumps(seen), flush=True)
            seen = {"readings": 0, "dead": "", "age_min": 1 << 62, "age_max": 0}


main()
