"""Every input of the corpus, and some thousand mutations of them, through every fuzz target."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kfix_md import Handler
from recorder.tail import Tail
from tests.fuzz import targets
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


class _Hasty:
    """A handler that does not put a frame together from two reads."""

    def __init__(self) -> None:
        self._handler = Handler()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._handler, name)

    def __getitem__(self, symbol: str) -> Any:
        return self._handler[symbol]

    def on_bytes(self, data: bytes, now_ns: int) -> None:
        self._handler.reset_stream()
        self._handler.on_bytes(data, now_ns)


class _Endless:
    """A journal reader that steps nowhere."""

    def __init__(self, folder: str) -> None:
        pass

    def read(self) -> tuple[()]:
        return ()


class _Forgetful(Tail):
    """A recorder that begins again at each start."""

    def state(self) -> dict[str, Any]:
        return {}


def _fail(*_: object, **__: object) -> Any:
    raise ZeroDivisionError


#: target -> what it uses, and a form of that which breaks the promise
BROKEN: dict[str, tuple[str, Callable[..., Any]]] = {
    "frames": ("Handler", _Hasty),
    "session": ("Rig", _fail),
    "journal": ("JournalReader", _Endless),
    "segment": ("attach", _fail),
    "tail": ("Tail", _Forgetful),
    "config": ("load", _fail),
    "control": ("answer_line", lambda commands, line: '{"ok": false, "error": ""}'),
}


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_notices_a_broken_promise(target, monkeypatch):
    monkeypatch.setattr(targets, *BROKEN[target])
    with pytest.raises((AssertionError, ZeroDivisionError)):
        for data in inputs(target):
            TARGETS[target](data)
