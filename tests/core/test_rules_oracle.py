"""The oracle of checksum rules gives what Kraken publishes, and what our generator computes in another way."""

from __future__ import annotations

import pytest

from tests.oracle import frames
from tests.streams import generate, rules
from tests.streams.wire import body_of, example


def test_the_published_examples():
    sent = rules.SentBook("L3", 1, 8)
    [*_, snapshot, _] = frames(rules.l3_example())
    for group in rules._groups(rules.fields(body_of(snapshot)), "269"):
        sent.apply(group)
    assert {rule: sent.checksum(rule) for rule in rules.RULES} == rules.L3_EXAMPLE
    for rule in ("level", "order"):
        assert b"".join(rules.with_rule(frames(example()), "L2", rule)) == example()


@pytest.mark.parametrize("service", ["spot-l2", "derivatives-l2", "spot-l3", "derivatives-l3"])
def test_generated_streams_come_out_as_they_are(service):
    stream = generate(service, symbols=2, messages=80, seed=3)
    rule = "order" if service.endswith("l3") else "level"
    assert list(rules.with_rule(stream.frames, service[-2:].upper(), rule)) == stream.frames
    other = list(rules.with_rule(stream.frames, service[-2:].upper(), "order-sent"))
    assert other != stream.frames and len(other) == len(stream.frames)
