"""Every input of the corpus, and some thousand mutations of them, through every fuzz target."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).with_name("corpus")
MUTATIONS = {"frames": 400, "session": 150, "journal": 150, "segment": 150, "tail": 40, "config": 200, "control": 100}


def inputs(target: str) -> list[bytes]:
    """The corpus of a target, in a fixed order."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


def mutated(rng: random.Random, data: bytes) -> bytes:
    """A few random edits, as a fuzzer makes them."""
    out = bytearray(data)
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(4):
            case 0:
                out[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del out[at : at + rng.randrange(1, 9)]
            case 2:
                out[at:at] = out[: rng.randrange(1, 40)]
            case 3:
                out[at:at] = rng.choice([b"=", b"|", b"\n", b"-", b"9" * 20, b"\x00", b"5041=", b"268=", b"."])
    return bytes(out)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_has_a_corpus(target):
    assert len(inputs(target)) >= 3


@pytest.mark.parametrize("target", TARGETS)
def test_corpus(target):
    for data in inputs(target):
        TARGETS[target](data)


@pytest.mark.parametrize("target", TARGETS)
def test_mutations(target):
    rng = random.Random(target)
    corpus = inputs(target)
    for _ in range(MUTATIONS[target]):
        TARGETS[target](mutated(rng, rng.choice(corpus)))
