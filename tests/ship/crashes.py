"""Kills shipper, mirror and broker at random points: `python -m tests.ship.crashes KILLS [SEED]`, or `make ship-crash`.

The journal grows all the time. When the kills are over, the replica has to be byte-identical. One kill of the broker in
four also wipes its data.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from kfix_md.journal.writer import JournalWriter
from tests.ship.rig import ENVIRONMENT, Broker, dead, segment_bytes, write_journal
from tests.ship.test_commands import config

SETTLE_S = 120.0


def start(name: str, path: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "kfix_md", name, str(path)]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.DEVNULL)


def run(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill so many times; what was killed. AssertionError when the replica differs."""
    draw, done, broker = random.Random(seed), Counter[str](), Broker(folder)
    here, source, replica = config(folder, broker.url), folder / "journal", folder / "replica"
    source.mkdir()
    ends = {name: start(name, here) for name in ("ship", "mirror")}
    try:
        with JournalWriter(source, segment_bytes=1 << 20) as journal:
            for turn in range(kills):
                victim = draw.choice(("ship", "mirror", "broker"))
                write_journal(journal, draw.randrange(1 << 30), draw.randrange(400), big=draw.random() < 0.2)
                time.sleep(draw.uniform(0.0, 1.5))
                done[victim] += 1
                if victim == "broker":
                    broker.kill()
                    if draw.random() < 0.25:
                        broker.wipe()
                        done["broker_wiped"] += 1
                    broker.start()
                else:
                    dead(ends[victim])
                    ends[victim] = start(victim, here)
                assert all(each.poll() != 2 for each in ends.values()), f"one ended with status 2 in turn {turn}"
        deadline = time.monotonic() + SETTLE_S
        while segment_bytes(source) != segment_bytes(replica):
            assert time.monotonic() < deadline, f"the replica differs after {dict(done)}, seed {seed}"
            time.sleep(0.2)
        done["segments"] = len(segment_bytes(replica))
        return done
    finally:
        for process in ends.values():
            dead(process)
        broker.close()


if __name__ == "__main__":
    arguments = [int(each) for each in sys.argv[1:]]
    with tempfile.TemporaryDirectory() as name:
        print(json.dumps(run(Path(name), arguments[0] if arguments else 300, arguments[1] if arguments[1:] else 1)))
