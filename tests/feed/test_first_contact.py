"""A venue that does what neither we nor the simulator thought of: it costs what it concerns, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time

import pytest

import kfix_md
from kfix_md._entry import Cause, State
from kfix_md.cli import top
from kfix_md.cli.console import Watch
from kfix_md.errors import UsageError
from kfix_md.feed import doctor
from tests.feed.raw import RawVenue, row
from tests.feed.rig import all_good, drive, until


@pytest.fixture
def venue(tmp_path):
    made = []

    def make(*rows, **more):
        made.append(RawVenue(tmp_path, list(rows), **more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def states(folder, name):
    return {book.symbol: book.state for book in kfix_md.attach(name, directory=folder).books()}


@pytest.mark.parametrize("engine", ["aiofastnet", "uvloop"])
def test_a_close_of_ours_ends_within_a_second_and_no_book_is_live_meanwhile(venue, tmp_path, engine):
    """A fault of the session, with a venue that neither answers the TLS shutdown nor closes the socket."""
    if engine == "aiofastnet":
        pytest.importorskip("aiofastnet")
    there = venue(row("BTC/USD"))
    seen = []

    async def script(feed):
        await all_good(feed)
        book = kfix_md.attach("close", directory=tmp_path)["BTC/USD"]
        first = there.conn
        first.alive = False  # reads nothing more, closes nothing
        first.seq = 0
        begun = time.monotonic()
        first.send("0", [])  # MsgSeqNum too low: fatal
        service = feed.services[0]
        await until(lambda: (service.connects == 1 and service.close_reason is not None) or service.connects > 1)
        while service.connects == 1:
            seen.append(book.state)
            await asyncio.sleep(0.01)
        assert time.monotonic() - begun < 5
        await all_good(feed)

    drive(tmp_path, there.toml(tmp_path, "close", feed=f'tls_engine = "{engine}"'), script)
    assert State.LIVE not in seen and State.EMPTY not in seen
    assert there.accepted[1][1] - there.accepted[0][1] < 10


@pytest.mark.parametrize("how", ["reset", "half close"])
def test_a_connection_that_the_venue_ends_is_not_live(venue, tmp_path, how):
    there = venue(row("BTC/USD"))

    async def script(feed):
        await all_good(feed)
        there.hooks["A"] = lambda conn, body: None  # the next Logon is not answered
        book = kfix_md.attach("ends", directory=tmp_path)["BTC/USD"]
        sock = there.conn.sock
        if how == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            there.conn.alive = False
            socket.socket.shutdown(sock, socket.SHUT_RD)  # wakes the reading thread
            sock.close()
        else:
            there.conn.alive = False
            socket.socket.shutdown(sock, socket.SHUT_WR)
        await until(lambda: book.state is State.DOWN)
        del there.hooks["A"]

    drive(tmp_path, there.toml(tmp_path, "ends", service="logon_timeout_s = 1"), script)


def test_data_after_a_logout_of_the_venue_is_not_live(venue, tmp_path):
    """It sends a Logout, goes on streaming and never closes."""
    there = venue(row("BTC/USD"))
    there.hooks["5"] = lambda conn, body: None
    seen = []

    async def script(feed):
        await all_good(feed)
        book, first = kfix_md.attach("logout", directory=tmp_path)["BTC/USD"], there.conn
        first.send("5", [(58, "maintenance")])
        await until(lambda: book.state is State.DOWN)
        begun = time.monotonic()
        while time.monotonic() - begun < 1.5:
            with contextlib.suppress(OSError):  # closed by us
                first.update("BTC/USD", f"0.{len(seen) % 9 + 1}")
            seen.append((book.state, book.cause))
            await asyncio.sleep(0.01)
        await all_good(feed)  # the next connection

    drive(tmp_path, there.toml(tmp_path, "logout"), script)
    assert set(seen) == {(State.DOWN, Cause.LEAVING)}
    assert len(there.accepted) == 2


def test_a_snapshot_after_our_own_logout_is_not_applied(venue, tmp_path):
    there = venue(row("BTC/USD"))
    seen = []

    def answer(conn, body):
        conn.snapshot("BTC/USD")
        conn.update("BTC/USD", "0.5")

    there.hooks["5"] = answer

    async def script(feed):
        await all_good(feed)
        book = kfix_md.attach("our", directory=tmp_path)["BTC/USD"]
        begun = time.monotonic()
        stopping = asyncio.create_task(feed.connectors[0].stop())
        while not stopping.done():
            await asyncio.sleep(0.01)
            seen.append(book.state)
        assert time.monotonic() - begun < 5
        await stopping

    drive(tmp_path, there.toml(tmp_path, "our"), script)
    assert set(seen) == {State.DOWN}


def test_more_instruments_than_room_leaves_out_the_surplus_by_name(venue, tmp_path, caplog):
    there = venue(*(row(f"S{n:02d}/USD") for n in range(30)))

    async def script(feed):
        service = feed.services[0]
        await until(lambda: service.states[State.LIVE] == 20 and service.verified_ns)
        assert states(tmp_path, "room") == {f"S{n:02d}/USD": State.LIVE for n in range(20)}
        assert sorted(service.subs.left_out.reasons) == [f"S{n:02d}/USD" for n in range(20, 30)]
        assert service.connects == 1
        shown = kfix_md.attach("room", directory=tmp_path)
        await until(lambda: shown.counters.get("left_out") == 10)
        header = "\n".join(line.plain for line in top.header(Watch(shown).look(), 100))
        assert "10 symbols left out" in header

    drive(tmp_path, there.toml(tmp_path, "room", feed="symbols_max = 20"), script)
    [line] = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert all(f"S{n:02d}/USD" in line for n in range(20, 30)) and "S19/USD" not in line
    assert len(there.accepted) == 1


def test_names_that_no_book_can_have_cost_no_connection(venue, tmp_path, caplog):
    """One that is too long, and none at all: left out by name, through a gap and a connection that ends as well."""
    long = "L" * 60 + "/USD"
    there = venue(row("BTC/USD"), row(long), row(""))

    def fill(conn, body):
        last, conn.seq = conn.seq, int(body[7]) - 1
        conn.send("4", [(43, "Y"), (123, "Y"), (36, last + 1)])
        conn.seq = last

    async def script(feed):
        service = feed.services[0]
        await until(lambda: service.states[State.LIVE] == 1 and service.verified_ns)
        assert list(service.subs.left_out.reasons) == [long]
        there.hooks["2"] = fill
        there.conn.seq += 3
        there.conn.update("BTC/USD", "0.5")
        await until(lambda: service.gaps["lost"] == 1)
        await until(lambda: service.states[State.LIVE] == 1 and service.session.ready)
        assert service.connects == 1
        there.conn.close()
        await until(lambda: service.connects == 2 and service.states[State.LIVE] == 1)

    drive(tmp_path, there.toml(tmp_path, "names"), script)
    assert "internal error" not in caplog.text
    assert f"left out: {long} (no book can be kept" in caplog.text
    assert "a row has no symbol (55 is empty)" in caplog.text


@pytest.mark.parametrize("status", [6, 0])
def test_a_configured_symbol_that_is_not_listed_is_left_out(venue, tmp_path, caplog, status):
    there = venue(row("BTC/USD"), row("OLD/USD", status))

    async def script(feed):
        await all_good(feed)
        assert states(tmp_path, "old") == {"BTC/USD": State.LIVE}
        there.conn.list([row("OLD/USD", 1)])  # listed after all
        await until(lambda: states(tmp_path, "old") == {"BTC/USD": State.LIVE, "OLD/USD": State.LIVE})

    drive(tmp_path, there.toml(tmp_path, "old", '["BTC/USD", "OLD/USD"]'), script)
    assert "OLD/USD is " in caplog.text and "left out until it is listed" in caplog.text


def test_an_unknown_symbol_costs_itself_unless_told_otherwise_or_alone(venue, tmp_path, caplog):
    there = venue(row("BTC/USD"))

    async def serves(feed):
        await all_good(feed)
        await asyncio.sleep(0.3)

    async def waits(feed):
        await asyncio.sleep(30)

    drive(tmp_path, there.toml(tmp_path, "one", '["BTC/USD", "NO/PE"]'), serves)
    assert "no instrument 'NO/PE'" in caplog.text
    with pytest.raises(UsageError, match="no instrument 'NO/PE'"):
        drive(tmp_path / "two", there.toml(tmp_path, "two", '["NO/PE"]'), waits)
    with pytest.raises(UsageError, match="no instrument 'NO/PE'"):
        drive(
            tmp_path / "three", there.toml(tmp_path, "three", '["BTC/USD", "NO/PE"]', 'unknown_symbols = "stop"'), waits
        )


def test_an_address_without_a_logon_is_put_last(venue, tmp_path, monkeypatch, caplog):
    """The first address completes TCP and TLS and never answers; the second is a gateway."""
    hosts = ("127.0.0.1", "127.0.0.2")
    there = venue(row("BTC/USD"), hosts=hosts)
    there.mute.add("127.0.0.1")
    monkeypatch.setattr("kfix_md.feed.connector.QUICK_LOGON_S", 0.3)

    async def resolve(end):
        return [(socket.AF_INET, (host, end.port)) for host in hosts]

    monkeypatch.setattr("kfix_md.feed.dial.resolve", resolve)

    async def script(feed):
        await all_good(feed, 20)
        there.conn.close()
        await until(lambda: len(there.conns) == 2)
        await all_good(feed, 20)

    drive(tmp_path, there.toml(tmp_path, "mute"), script)
    tried = [host for host, _ in there.accepted]
    assert tried[-2:] == ["127.0.0.2", "127.0.0.2"] and tried.count("127.0.0.1") <= 2
    assert "trying another address next" in caplog.text


@pytest.mark.parametrize("tls_min", ["1.3", "1.2"])
def test_a_venue_of_tls_1_2_is_named_with_the_setting_that_allows_it(venue, tmp_path, caplog, tls_min):
    there = venue(row("BTC/USD"))
    there.context.minimum_version = there.context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def script(feed):
        if tls_min == "1.2":
            await all_good(feed)
            assert feed.connectors[0].details.tls_version == "TLSv1.2"
        else:
            await until(lambda: 'tls_min = "1.2" would allow TLS 1.2' in caplog.text)

    drive(tmp_path, there.toml(tmp_path, "tls", service=f'tls_min = "{tls_min}"'), script)


def test_doctor_warns_of_symbols_that_are_not_listed(venue, tmp_path):
    there = venue(row("BTC/USD"), row("OLD/USD", 6))
    (tmp_path / "feed.toml").write_text(there.toml(tmp_path, "doc", '["BTC/USD", "OLD/USD", "NO/PE"]'))
    found = {finding.text: finding.status for finding in doctor.examine(str(tmp_path / "feed.toml"))}
    assert found["OLD/USD is delisted at the venue: left out until it is listed"] == doctor.WARN
    assert found["1 of 1 instruments selected"] == doctor.OK
    assert found["no instrument 'NO/PE'"] == doctor.FAIL


def test_a_rejection_for_identity_is_explained_and_not_hurried(venue, tmp_path, caplog):
    there = venue(row("BTC/USD"))
    there.hooks["A"] = lambda conn, body: (conn.send("5", [(58, "IP address not whitelisted")]), conn.close())

    async def script(feed):
        await until(lambda: feed.services[0].session.retry == "long")
        await asyncio.sleep(1)

    drive(tmp_path, there.toml(tmp_path, "white"), script)
    assert len(there.accepted) == 1  # not again within a second, nor within 45
    assert "IP address not whitelisted" in caplog.text and "have it whitelisted" in caplog.text
    (tmp_path / "feed.toml").write_text(there.toml(tmp_path, "white"))
    texts = [finding.text for finding in doctor.examine(str(tmp_path / "feed.toml")) if finding.status == doctor.FAIL]
    assert any("have it whitelisted" in text for text in texts)
