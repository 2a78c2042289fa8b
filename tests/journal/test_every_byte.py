"""The journal keeps all that was received: frames, and bytes that are part of none, bounded."""

import random

import pytest
from click.testing import CliRunner

from kfix_md import Handler
from kfix_md.journal.reader import FRAME, GARBAGE, JournalReader
from kfix_md.journal.writer import JournalWriter
from recorder import cli
from tests.streams import generate

NOON = 1_700_049_600_000_000_000  # 2023-11-15 12:00 UTC
GARBAGE_BYTES, GARBAGE_PIECE = 1 << 20, 1 << 16  # as documented in docs/journal.md


def received(path) -> bytes:
    return b"".join(record[5] for record in JournalReader(path) if record[1] in (FRAME, GARBAGE))


def damaged(rng: random.Random) -> bytes:
    """A stream in which some frames are changed, cut off or preceded by noise."""
    data = generate("spot-l2", messages=150, seed=rng.randrange(1000)).data
    frames = [b"8=FIX.4.4\x019=" + part for part in data.split(b"8=FIX.4.4\x019=")[1:]]
    for i in range(len(frames)):
        what = rng.randrange(12)
        if what == 0:
            at = rng.randrange(25, len(frames[i]) - 8)
            frames[i] = frames[i][:at] + bytes([frames[i][at] ^ 1]) + frames[i][at + 1 :]
        elif what == 1:
            frames[i] = frames[i][: rng.randrange(1, len(frames[i]))]
        elif what == 2:
            frames[i] = rng.randbytes(rng.randrange(1, 300)) + frames[i]
        elif what == 3:
            frames[i] = frames[i].replace(b"8=FIX.4.4", b"8=FIX.9.9", 1)
    return b"".join(frames)


@pytest.mark.parametrize("seed", range(12))
def test_frames_and_garbage_together_are_what_was_received(tmp_path, seed):
    rng = random.Random(seed)
    data = damaged(rng)
    with JournalWriter(tmp_path) as journal:
        handler = Handler(journal=journal)
        at = 0
        while at < len(data):
            n = rng.choice((1, 7, 100, 5000))
            if seed % 2:
                handler.on_bytes(data[at : at + n], NOON + at)
            else:
                n = min(n, len(data) - at)
                handler.get_buffer()[:n] = data[at : at + n]
                handler.buffer_updated(n, NOON + at)
            at += n
        handler.reset_stream()  # the connection's end: a frame that is not finished is garbage
    assert received(tmp_path) == data
    assert any(record[1] == GARBAGE for record in JournalReader(tmp_path))
    assert handler.stats["garbage_not_kept"] == 0


def test_noise_is_journaled_up_to_a_bound_of_each_connection(tmp_path):
    noise = bytes(range(2, 202)) * 15_000  # 3,000,000 bytes
    with JournalWriter(tmp_path) as journal:
        handler = Handler(journal=journal)
        for connection in (1, 2):
            handler.on_bytes(noise, NOON)
            kept = [record[5] for record in JournalReader(tmp_path) if record[1] == GARBAGE]
            assert sum(map(len, kept)) == connection * GARBAGE_BYTES
            assert max(map(len, kept)) == GARBAGE_PIECE
            handler.reset_stream()
        assert handler.stats["garbage_not_kept"] == 2 * (len(noise) - GARBAGE_BYTES)


def test_the_tools_show_garbage_on_one_line_and_in_the_pcap(tmp_path):
    noise = b"\x1b[2J\nnoise\xff"
    with JournalWriter(tmp_path / "journal") as journal:
        Handler(journal=journal).on_bytes(noise + b"8=FIX.4.4\x019=5\x0135=0\x0110=163\x01", NOON)
    cat = CliRunner().invoke(cli.journal, ["cat", str(tmp_path / "journal")])
    (line,) = [line for line in cat.output.splitlines() if " garbage " in line]
    assert line.endswith(r"\x1b[2J\x0anoise\xff")
    for kind, there in (("pcap", True), ("fix", False)):
        out = tmp_path / f"all.{kind}"
        assert CliRunner().invoke(cli.journal, ["export", str(tmp_path / "journal"), str(out)]).exit_code == 0
        assert (noise in out.read_bytes()) is there
