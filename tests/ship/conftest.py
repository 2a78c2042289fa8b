"""A broker for the tests of a module, and both ends of a replication through it."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    """One for all tests: each has a feed of its own."""
    from tests.ship.rig import Broker  # skips where nats-py is not installed

    made = Broker(tmp_path_factory.mktemp("broker"))
    yield made
    made.close()


@pytest.fixture
def ends(broker, tmp_path):
    """Shipper and mirror of an empty journal."""
    from tests.ship.rig import Ends

    (tmp_path / "source").mkdir()
    return Ends(broker, tmp_path / "source", tmp_path / "replica")
