"""Prices, quantities and ids of every form against Python's own reading: the wide reader, the plain one, both paths."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from decimal import Decimal

import pytest

from kfix_md._codec import Codec, checksum
from kfix_md.errors import ProtocolError
from tests.conftest import ROOT

ROUNDS = 4000
LARGEST = 10**18 - 1


def frame(price: str, qty: str, order_id: str = "9f9b934b-cd64-5a0e-adca-18e8ed95a019") -> bytes:
    """An X of one entry."""
    body = (
        (
            f"35=X|34=7|49=KRAKEN-MD|52=20240301-00:00:13.487|56=ME|55=A/B|262=1|268=1|279=0|269=0|278={order_id}|"
            f"270={price}|271={qty}|273=00:00:13.481|"
        )
        .replace("|", "\x01")
        .encode()
    )
    head = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
    return head + b"10=%03d\x01" % checksum(head)


def wanted(text: str, precision: int) -> int | None:
    """The integer a decimal text stands for, None when it is none or does not fit."""
    sign = text.startswith("-")
    whole, point, fraction = text[sign:].partition(".")
    digits = whole + fraction
    if not digits.isdigit() or not digits.isascii() or (whole == "" and not point) or len(digits) > 18:
        return None
    scaled = Decimal(text) * 10**precision
    return int(scaled) if scaled == int(scaled) and abs(scaled) <= LARGEST else None


def random_number(rng: random.Random) -> str:
    """Mostly what the venue sends, and every departure from it."""
    whole = str(rng.randrange(10 ** rng.choice((1, 1, 2, 3, 5, 8, 9, 12, 17, 19))))
    digits = "0123456789" if rng.random() < 0.8 else "0"
    fraction = "".join(rng.choice(digits) for _ in range(rng.choice((1, 2, 5, 8, 9, 12))))
    text = rng.choice(
        (f"{whole}.{fraction}",) * 6
        + (
            whole,
            f"-{whole}.{fraction}",
            f"00{whole}.0",
            f".{fraction}",
            f"{whole}.",
            f"{whole}.{fraction}.1",
            f"{whole}x{fraction}",
            f"{whole}. {fraction}",
            "-",
            ".",
            "0.0",
            "0",
        )
    )
    return text


def compare(allow_fast: bool, seed: int) -> int:
    """Every number and id as Python reads it, or refused; returns how many were accepted."""
    rng, codec, accepted = random.Random(seed), Codec(allow_fast=allow_fast), 0
    for _ in range(ROUNDS):
        price, qty = random_number(rng), random_number(rng)
        places = rng.randrange(0, 10), rng.randrange(0, 10)
        order_id = str(uuid.UUID(int=rng.getrandbits(128)))
        if rng.random() < 0.1:
            at = rng.randrange(36)
            order_id = order_id[:at] + rng.choice("gAF:/`-@") + order_id[at + 1 :]
        expected = wanted(price, places[0]), wanted(qty, places[1])
        try:
            (entry,) = codec.decode_frame(frame(price, qty, order_id), *places)
        except ProtocolError:
            assert None in expected or expected[1] < 0, (price, qty, places)
            continue
        assert (entry["price"], entry["qty"]) == expected, (price, qty, places)
        try:
            same = str(uuid.UUID(order_id)) == order_id
        except ValueError:
            same = False
        assert (entry["id_kind"] == 1) == same, order_id
        if same:
            assert (int(entry["id_hi"]) << 64 | int(entry["id_lo"])) == uuid.UUID(order_id).int
        accepted += 1
    return accepted


@pytest.mark.parametrize("allow_fast", [True, False])
def test_numbers_and_ids(allow_fast):
    assert compare(allow_fast, 1) > ROUNDS // 8


def test_the_plain_reader_alone():
    done = subprocess.run(
        [sys.executable, "-c", "from tests.core.test_numbers import compare; print(compare(True, 1))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KFIX_SIMD": "scalar"},
    )
    assert done.stdout.split() == [str(compare(True, 1))], done.stderr
