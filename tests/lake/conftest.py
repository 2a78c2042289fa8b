"""A lake in a directory and one on an S3 server, and captures to push."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lake import rows, server

pytest.importorskip("deltalake")
pytest.importorskip("obstore")


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[server.Server]:
    """A running S3 server."""
    if server.command() is None:
        pytest.skip("moto_server is not installed: pip install 'moto[server]', or set KFIX_MOTO_SERVER")
    with server.running(tmp_path_factory.mktemp("moto")) as one:
        yield one


ON_S3 = {  # the others are on a directory alone, unless KFIX_LAKE_S3 is set: a test on the server takes seconds
    "test_the_lake_answers_as_the_captures_do",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Places of the lake of a test."""
    if "url" in metafunc.fixturenames:
        more = metafunc.function.__name__ in ON_S3 or os.environ.get("KFIX_LAKE_S3")
        metafunc.parametrize("url", ["directory", "s3"] if more else ["directory"], indirect=True)


@pytest.fixture
def url(request, tmp_path, monkeypatch) -> str:
    """Place of a lake that is not there yet."""
    if request.param == "directory":
        return str(tmp_path / "lake")
    one = request.getfixturevalue("s3")
    for name, value in one.variables.items():
        monkeypatch.setenv(name, value)
    return f"s3://{server.BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> dict[str, Path]:
    """Captures of two feeds, recorded in several flushes."""
    found = {}
    for feed in ("alpha", "beta"):
        path = tmp_path_factory.mktemp(feed)
        rows.record(path, feed)
        found[feed] = path
    return found


@pytest.fixture
def captures(made, tmp_path) -> Path:
    """Captures of feed alpha that a test may change."""
    return shutil.copytree(made["alpha"] / "captures", tmp_path / "captures")


@pytest.fixture
def others(made, tmp_path) -> Path:
    """Captures of feed beta that a test may change."""
    return shutil.copytree(made["beta"] / "captures", tmp_path / "others")
