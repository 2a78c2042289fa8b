"""Spoils sound messages: damaged bytes, and edited fields under a right length and checksum."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from tests.streams import generate
from tests.streams.wire import body_of, seal

Field = list[bytes]  # [tag, value]
VALUES = [
    b"",
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"-0.5",
    b"1e5",
    b"1e-05",
    b"1.0E+2",
    b"1e",
    b"1e400",
    b"0.10000000000000000000000000000001",
    b"9223372036854775807",
    b"9223372036.84775808",
    b"NaN",
    b"inf",
    b".",
    b"-",
    b"1.",
    b".5",
    b"0.0",
    b"00012.500",
    b"+5",
    b" 1",
    b"1 ",
    b"1,5",
    b"0.123456789012",
    b"99999999999999999999",
    b"999999999999999999",
    b"4294967296",
    b"\x00",
    b"\xe9\xff",
    b"x" * 40,
    b"=",
    b"1=2",
    b"Y",
    b"24:00:00.000",
    b"23:59:60.000",
    b"1:2:3",
    b"12:34:56",
    b"12:34:56.123456789",
    b"20240230-00:00:00.000",
    b"20240301-12:00:00",
    b"2024-02-29T23:59:59.000000001Z",
    b"2024-13-01T00:00:00.0Z",
    b"B1.0",
    b"O1.0",
    b"7c5dfa85-3e7d-5782-879a-dde8200da4bd",
    b"O5G2XK-ABCDE-QWERTZ",
]
TAGS = [
    b"55",
    b"262",
    b"268",
    b"279",
    b"269",
    b"278",
    b"270",
    b"271",
    b"273",
    b"5060",
    b"5273",
    b"5041",
    b"40",
    b"2446",
    b"34",
    b"52",
    b"43",
    b"97",
    b"122",
    b"10",
    b"8",
    b"9",
    b"0",
    b"-5",
    b"abc",
    b"",
    b"0270",
    b"5051",
    b"99999999999999999999",
    b"2147483648",
]
TYPES = [b"W", b"X", b"y", b"0", b"1", b"2", b"3", b"4", b"5", b"A", b"j", b"h", b"*", b"WW", b""]
FIRST_OF_BODY = 5  # after 35, 34, 49, 52, 56


def split(whole: bytes) -> list[Field]:
    """Fields of the body, 35 first."""
    return [list(part.partition(b"=")[::2]) for part in body_of(whole)[:-1].split(b"\x01")]


def join(pairs: list[Field]) -> bytes:
    """A sound frame of these fields."""
    return seal(b"".join(tag + b"=" + value + b"\x01" for tag, value in pairs))


def edit(rng: random.Random, pairs: list[Field], first: int) -> None:
    """One edit of the fields from `first` on."""
    at = rng.randrange(first, len(pairs))
    kind = rng.randrange(9)
    if kind <= 2:
        pairs[at][1] = rng.choice(VALUES)
    elif kind == 3 and pairs[at][1]:
        value = bytearray(pairs[at][1])
        value[rng.randrange(len(value))] = rng.choice(b"0123456789.-:ZTBOX=\x00\xff")
        pairs[at][1] = bytes(value)
    elif kind == 4:
        pairs[at][0] = rng.choice(TAGS)
    elif kind == 5 and len(pairs) > first + 1:
        del pairs[at]
    elif kind == 6:
        pairs.insert(at, list(rng.choice(pairs)))
    elif kind == 7:
        other = rng.randrange(first, len(pairs))
        pairs[at], pairs[other] = pairs[other], pairs[at]
    else:
        pairs.insert(at, [rng.choice(TAGS), rng.choice(VALUES)])


def edited(rng: random.Random, whole: bytes, header: bool) -> bytes:
    """The message with one or two edits: in its body alone, or in its header too."""
    pairs = split(whole)
    if header and rng.random() < 0.1:
        pairs[0][1] = rng.choice(TYPES)
    for _ in range(rng.choice((1, 1, 1, 2))):
        if rng.random() < 0.12 and (counts := [pair for pair in pairs if pair[0] == b"268"]):
            counts[0][1] = rng.choice([b"0", b"1", b"2", b"17", b"1000000000", b"99999999999999999999", b"-1"])
        else:
            edit(rng, pairs, 1 if header else FIRST_OF_BODY)
    return join(pairs)


def damaged(rng: random.Random, whole: bytes) -> bytes:
    """The frame with bytes changed, cut out, put in or repeated, or with another body length."""
    kind, data = rng.randrange(7), bytearray(whole)
    at = rng.randrange(len(data))
    if kind == 0:
        data[at] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        del data[at : at + rng.randrange(1, 9)]
    elif kind == 3:
        data[at:at] = rng.randbytes(rng.randrange(1, 20))
    elif kind == 4:
        data[at:at] = data[max(at - 20, 0) : at + 20]
    elif kind == 5:
        lengths = [b"0", b"4", b"5", b"", b"-5", b"abc", b"999999999", b"9999999999999", b"250", b"0099"]
        data[12 : data.index(1, 12)] = rng.choice(lengths)
    else:
        data[-4:-1] = rng.choice([b"256", b"000", b"1 2", b"abc"])
    return bytes(data)


def runs(
    service: str, seed: int, count: int, spoil: Callable[[random.Random, bytes], bytes], size: int = 24
) -> Iterator[list[bytes]]:
    """Short sessions that add up to `count` incrementals, four in five of them spoiled.

    Each is an instrument list, sound snapshots and `size` incrementals that follow from them.
    """
    rng = random.Random(f"{service} {seed}")
    bases = [
        generate(
            service,
            symbols=2,
            messages=size,
            depth=6,
            per_level=2,
            seed=100 * seed + i,
            empties=False,
            admin=False,
            logout=False,
        ).frames
        for i in range(12)
    ]
    for _ in range(0, count, size):
        base = rng.choice(bases)
        run = []
        for whole in base:
            spoiled = body_of(whole).startswith(b"35=X") and rng.random() < 0.8
            run.append(spoil(rng, whole) if spoiled else whole)
        yield run
