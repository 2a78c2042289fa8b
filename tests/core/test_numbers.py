"""Prices, quantities and ids of every form against Python's own reading: the wide reader, the plain one, both paths."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import uuid
from decimal import Decimal, localcontext

import pytest

from kfix_md._codec import Codec, checksum
from kfix_md.errors import ProtocolError
from tests.conftest import ROOT

ROUNDS = 4000
LARGEST = 2**63 - 1
NUMBER, PRECISION, BAD_VALUE = "NUMBER", "PRECISION", "BAD_VALUE"


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


FORM = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def wanted(text: str, precision: int) -> int | None:
    """The integer of a decimal text, None when it is none or does not fit."""
    if not FORM.fullmatch(text):
        return None
    with localcontext(prec=200):
        scaled = Decimal(text).scaleb(precision)
        return int(scaled) if scaled == scaled.to_integral_value() and abs(scaled) <= LARGEST else None


def decimals_of(text: str) -> int:
    """How many digits after the point a number's text states."""
    mantissa, _, exponent = text.lower().partition("e")
    return max(len(mantissa.partition(".")[2]) - int(exponent or 0), 0)


def fault(price: str, qty: str, precisions: tuple[int, int] = (1, 8), *, allow_fast: bool = True) -> tuple[str, str]:
    """(fault, tag) of the error that one entry's numbers cause."""
    with pytest.raises(ProtocolError) as caught:
        Codec(allow_fast=allow_fast).decode_frame(frame(price, qty), *precisions)
    parts = str(caught.value).split()
    return parts[-4], parts[-1]


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
            f"+{whole}.{fraction}",
            f"{whole}.{fraction}000000000000000000",
            f"000000000000000000000{whole}.{fraction}",
            f"{whole}.{fraction}{rng.choice('eE')}{rng.choice(('', '+', '-', '-0'))}{rng.randrange(12)}",
            f"{whole}e",
            f"{whole}e-",
            f"{whole}e1.5",
        )
    )
    return text


def compare(allow_fast: bool, seed: int) -> int:
    """Every number and id as Python reads it, or rejected; returns how many were accepted."""
    rng, codec, accepted = random.Random(seed), Codec(allow_fast=allow_fast), 0
    for _ in range(ROUNDS):
        price, qty = random_number(rng), random_number(rng)
        places = rng.randrange(0, 19), rng.randrange(0, 19)
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
        assert (entry["decimals"] & 255, entry["decimals"] >> 8) == (decimals_of(price), decimals_of(qty)), (price, qty)
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


@pytest.mark.parametrize("allow_fast", [True, False])
@pytest.mark.parametrize(
    ("text", "precision", "units", "decimals"),
    [
        ("28013.0", 1, 280130, 1),
        ("28013", 1, 280130, 0),
        ("28013.", 1, 280130, 0),
        (".5", 8, 50_000_000, 1),
        ("0.5", 0, None, 1),
        ("1e-05", 8, 1_000, 5),
        ("9.65e-05", 8, 9_650, 7),
        ("9.65E-5", 6, None, 7),
        ("1.0E8", 8, 10**16, 0),
        ("1.5e1", 0, 15, 0),
        ("2.8012e4", 1, 280_120, 0),
        ("+28013.0", 1, 280130, 1),
        ("+1e+2", 0, 100, 0),
        ("0000000000000000000000028013.0", 1, 280130, 1),
        ("0.000010000000000000000000000000000", 8, 1_000, 33),
        ("0.000000000000000001", 18, 1, 18),
        ("1.000000000000000001", 18, 10**18 + 1, 18),
        ("9.223372036854775807", 18, LARGEST, 18),
        ("9223372036854775807", 0, LARGEST, 0),
        ("9223372036854775808", 0, None, 0),
        ("9223372036854775807.0", 0, LARGEST, 1),
        ("10000000000", 8, 10**18, 0),
        ("92233720368.54775807", 8, LARGEST, 8),
        ("92233720368.54775808", 8, None, 8),
        ("1e18", 0, 10**18, 0),
        ("0e99999999999999999999", 8, 0, 0),
        ("0.000", 0, 0, 3),
        ("123000", 0, 123_000, 0),
    ],
)
def test_forms_of_a_number(text, precision, units, decimals, allow_fast):
    codec = Codec(allow_fast=allow_fast)
    for price, qty, places in ((text, "1", (precision, 0)), ("1", text, (0, precision))):
        if units is None:
            with pytest.raises(ProtocolError):
                codec.decode_frame(frame(price, qty), *places)
            continue
        (entry,) = codec.decode_frame(frame(price, qty), *places)
        assert (entry["price"], entry["qty"]) == ((units, 1) if price == text else (1, units))
        assert entry["decimals"] == (decimals if price == text else decimals << 8)


@pytest.mark.parametrize("allow_fast", [True, False])
@pytest.mark.parametrize(
    ("text", "precision", "code"),
    [
        ("0.12", 1, PRECISION),
        ("0.123456789012345678", 8, PRECISION),
        ("1e-18", 17, PRECISION),
        ("0.1234567890123456789", 8, NUMBER),  # 19 decimals: no precision holds them
        ("1e-19", 18, NUMBER),
        ("1e-9999999999", 18, NUMBER),
        ("92233720369", 8, NUMBER),
        ("9223372036854775808", 0, NUMBER),
        ("1e19", 0, NUMBER),
        ("1e9999999999", 0, NUMBER),
        ("123456789012345678901234567890.5", 0, NUMBER),
        ("1e", 8, BAD_VALUE),
        ("1e+", 8, BAD_VALUE),
        ("e5", 8, BAD_VALUE),
        (".", 8, BAD_VALUE),
        ("+", 8, BAD_VALUE),
        ("+-1", 8, BAD_VALUE),
        ("1.2.3", 8, BAD_VALUE),
        ("1 ", 8, BAD_VALUE),
        ("NaN", 8, BAD_VALUE),
        ("123456789012345678901234567890x", 0, BAD_VALUE),
    ],
)
def test_numbers_that_cannot_be_kept(text, precision, code, allow_fast):
    assert fault(text, "1", (precision, 0), allow_fast=allow_fast) == (code, "270")
    assert fault("1", text, (0, precision), allow_fast=allow_fast) == (code, "271")


@pytest.mark.parametrize("allow_fast", [True, False])
def test_the_last_of_two_prices_gives_the_decimals(allow_fast):
    data = frame("1.25", "3.0").replace(b"270=1.25\x01", b"270=1.25\x01270=7.5\x01")
    body = data[data.index(b"35=") : -7]
    head = b"8=FIX.4.4\x019=%d\x01" % len(body) + body
    (entry,) = Codec(allow_fast=allow_fast).decode_frame(head + b"10=%03d\x01" % checksum(head), 2, 0)
    assert (entry["price"], entry["decimals"]) == (750, 1 | 1 << 8)
