"""The venue's side of a session: TLS, logon, numbers, heartbeats, lists, subscriptions, every refusal."""

import ssl
import time

import pytest

from tests.simulator.plain import groups
from tests.simulator.venue import Client, running_venue, value, venue  # noqa: F401


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """A venue without TLS that does not move, with small 35=y fragments."""
    with running_venue(
        tmp_path_factory.mktemp("venue"), "--symbols", "5", "--rate", "0", "--fragment", "2", tls=False
    ) as running:
        yield running


_names = iter(range(10**6))


@pytest.fixture
def client(quiet):
    """A client logged on to spot L2."""
    client = Client(quiet, "spot-l2", f"S{next(_names)}")
    client.logon()
    yield client
    client.close()


def test_logon_list_subscribe_over_tls(venue):  # noqa: F811
    client = Client(venue, "spot-l2")
    assert client.socket.version() == "TLSv1.3"
    reply = client.logon()
    assert value(reply, 35) == "A" and value(reply, 34) == "1" and value(reply, 141) == "Y"
    client.send("x", [(320, "R1"), (559, 4), (263, 0)])
    listing = client.message()
    assert value(listing, 35) == "y" and value(listing, 560) == "0" and value(listing, 146) == "4"
    client.subscribe("M1", "BTC/USD", "NO/SUCH", "ETH/USD", types=(0, 1, 2))
    kinds = [(value(m, 35), value(m, 55)) for m in (client.message(), client.message(), client.message())]
    assert kinds == [("W", "BTC/USD"), ("Y", "NO/SUCH"), ("W", "ETH/USD")]
    venue.control("resume")
    seen = client.until("X", count=5)
    assert [int(value(m, 34)) for m in seen] == list(range(6, 6 + len(seen)))
    client.close()


def test_certificate_is_for_this_host_and_tls_1_3_only(venue):  # noqa: F811
    import socket

    context = ssl.create_default_context(cafile=venue.ca)
    for name, fails in [("127.0.0.1", False), ("::1", False), ("localhost", False), ("fix.kraken.com", True)]:
        raw = socket.create_connection(("127.0.0.1", venue.ports["spot-l3"]))
        if fails:
            with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname"):
                context.wrap_socket(raw, server_hostname=name)
        else:
            context.wrap_socket(raw, server_hostname=name).close()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", venue.ports["spot-l3"])) as raw:
        context.wrap_socket(raw, server_hostname="localhost")
    with pytest.raises(ssl.SSLError), socket.create_connection(("127.0.0.1", venue.ports["spot-l3"])) as raw:
        ssl.create_default_context().wrap_socket(raw, server_hostname="localhost")


def test_logons_that_are_refused(quiet):
    wrong = Client(quiet, "spot-l2", "W1")
    wrong.send("A", [(98, 0), (108, 60), (141, "Y")], target="KRAKEN-DRV-MD")
    refusal = wrong.message()
    assert value(refusal, 35) == "5" and "TargetCompID" in value(refusal, 58)
    assert wrong.message() is None and wrong.closed
    early = Client(quiet, "spot-l2", "W2")
    early.send("0")
    assert early.message() is None and early.closed


def test_numbers_go_on_without_a_reset(quiet):
    first = Client(quiet, "spot-l3", "N1")
    first.logon()
    first.send("1", [(112, "A")])
    assert value(first.message(), 112) == "A"
    first.send("5")
    assert value(first.message(), 35) == "5"
    first.close()
    again = Client(quiet, "spot-l3", "N1")
    again.seq = 4
    reply = again.logon(reset=None)
    assert value(reply, 34) == "4" and value(reply, 141) is None
    again.close()
    low = wait_for_logon(quiet, "N1", seq=2)
    assert value(low, 35) == "5" and "too low" in value(low, 58)
    ahead = wait_for_logon(quiet, "N1", seq=9, keep=True)
    assert value(ahead.message(), 7) == "5"


def wait_for_logon(quiet, sender, seq, keep=False):
    """Log on once the last connection of this CompID is gone for the venue."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        client = Client(quiet, "spot-l3", sender)
        client.seq = seq
        reply = client.logon(reset=None)
        if reply:
            return client if keep else reply
    raise AssertionError("never answered")


def test_client_gaps_duplicates_and_garbage(client):
    client.send("0", seq=5)
    request = client.message()
    assert (value(request, 35), value(request, 7), value(request, 16)) == ("2", "2", "0")
    client.send("4", [(123, "Y"), (36, 6)], seq=2)
    client.seq = 6
    client.socket.sendall(b"garbage8=FIX.4.4\x019=5\x0135=0\x0110=000\x01")
    client.send("1", [(112, "ON")])
    assert value(client.message(), 112) == "ON"
    client.send("0", seq=3)
    assert "too low" in value(client.message(), 58)


def test_nonsense_harms_nobody(client, quiet):
    """Whatever a client sends, the venue and the other clients go on."""
    other = Client(quiet, "spot-l2", "WITNESS")
    other.logon()
    for kind, fields in [
        ("V", [(262, "A"), (263, 1), (264, "ten"), (267, 1), (269, 0)]),
        ("2", [(7, "x"), (16, "y")]),
        ("x", [(320, "\xff"), (559, 0), (55, "\xfe")]),
        ("4", [(123, "Y"), (36, "z")]),
        ("*", []),
        ("g", [(335, ""), (263, "")]),
        ("1", []),
        ("V", [(262, "B"), (263, 1), (264, 0), (267, 0), (269, 0)]),
    ]:
        client.send(kind, fields)
    client.send("0", seq="nine")
    other.send("1", [(112, "STILL")])
    assert value(other.message(), 112) == "STILL"
    other.close()
    again = Client(quiet, "spot-l2", "AFTER")
    again.send("A", [(98, 0), (108, "often"), (141, "Y")])
    assert again.message(timeout=0.2) is None
    again.close()


def test_heartbeats_and_silence(quiet):
    client = Client(quiet, "spot-l2", "H1")
    assert value(client.logon(heartbeat=1), 108) == "1"
    seen = [value(client.message(timeout=3), 35) for _ in range(3)]
    assert seen[0] == "0" and "1" in seen
    while client.message(timeout=3):
        pass
    assert client.closed


def test_resend_of_admin_messages_is_a_gap_fill(client):
    client.send("1", [(112, "A")])
    client.message()
    client.subscribe("M", "BTC/USD")
    client.message()
    client.send("2", [(7, 1), (16, 0)])
    fill, again = client.message(), client.message()
    assert (value(fill, 35), value(fill, 34), value(fill, 36)) == ("4", "1", "3")
    assert (value(again, 35), value(again, 34), value(again, 43)) == ("W", "3", "Y")
    client.send("2", [(7, 90), (16, 0)])
    client.send("1", [(112, "B")])
    assert value(client.message(), 112) == "B"


def test_instrument_lists(client):
    client.send("x", [(320, "ALL"), (559, 4)])
    parts = [client.message() for _ in range(3)]
    assert [(value(p, 146), value(p, 393), value(p, 893)) for p in parts] == [
        ("2", "5", "N"),
        ("2", "5", "N"),
        ("1", "5", "Y"),
    ]
    rows = [row for part in parts for row in groups(part, 55)]
    assert {"BTC/USD", "ETH/USD"} <= {row[55] for row in rows}
    assert all({562, 5010, 5011, 2349, 5022, 5032} <= set(row) for row in rows)
    client.send("x", [(320, "ONE"), (559, 0), (55, "ETH/USD")])
    one = client.message()
    assert (value(one, 55), value(one, 2349), value(one, 5010), value(one, 5022)) == ("ETH/USD", "2", "8", "0.01")
    for fields, result in [
        ([(559, 0), (55, "NO/PE")], "2"),
        ([(559, 1), (167, "FUT")], "2"),
        ([(559, 9)], "1"),
        ([(559, 0)], "1"),
    ]:
        client.send("x", [(320, "NO"), *fields])
        assert value(client.message(), 560) == result
    client.send("x", [(320, "TYPE"), (559, 1), (167, "CASH")])
    assert value(client.message(), 393) == "5"


@pytest.mark.parametrize(
    ("reason", "change"),
    [
        ("5", {"depth": 7}),
        ("8", {"types": (0,)}),
        ("8", {"types": (1, 2)}),
        ("8", {"types": (0, 1, 7)}),
        ("B", {"level": "N"}),
        ("0", {"symbols": ["BTC/EUR"]}),
    ],
)
def test_refused_subscriptions(client, reason, change):
    change = {"depth": 0, "types": (0, 1), "level": "Y", "symbols": ["BTC/USD"], **change}
    client.subscribe("BAD", *change.pop("symbols"), **change)
    refusal = client.message()
    assert (value(refusal, 35), value(refusal, 262), value(refusal, 281)) == ("Y", "BAD", reason)


def test_more_refusals(client, quiet):
    client.subscribe("M", "BTC/USD")
    client.message()
    client.subscribe("M", "ETH/USD")
    assert value(client.message(), 281) == "1"
    client.send("V", [(262, "F"), (263, 7), (264, 0), (265, 1), (267, 1), (269, 2), (146, 1), (55, "BTC/USD")])
    assert value(client.message(), 281) == "4"
    client.send("V", [(262, "U"), (263, 1), (264, 0), (265, 0), (267, 1), (269, 2), (146, 1), (55, "BTC/USD")])
    assert value(client.message(), 281) == "6"
    client.send("V", [(262, "X"), (263, 1), (264, 0)])
    refusal = client.message()
    assert (value(refusal, 35), value(refusal, 371), value(refusal, 373)) == ("3", "267", "1")
    client.send("D", [(11, "ORDER")])
    assert (value(m := client.message(), 35), value(m, 380)) == ("j", "3")
    third = Client(quiet, "derivatives-l3", "L3")
    third.logon()
    third.subscribe("T", "PF_XBTUSD", level="N", types=(0, 1, 2))
    assert value(third.message(), 281) == "C"
    third.subscribe("A", "PF_XBTUSD", level="Y")
    assert value(third.message(), 281) == "A"
    third.send("g", [(335, "G"), (336, "SESSION"), (263, 0)])
    assert value(third.message(), 35) == "j"
    third.close()


def test_unsubscribed_streams_end_and_ids_are_spent(client, quiet):
    client.subscribe("M", "BTC/USD", "ETH/USD")
    client.message(), client.message()
    client.send("V", [(262, "M"), (263, 2), (264, 0), (267, 2), (269, 0), (269, 1), (146, 1), (55, "BTC/USD")])
    client.send("1", [(112, "A")])
    client.until("0")
    quiet.control("step", symbol="BTC/USD", count=20)
    client.send("1", [(112, "B")])
    assert [value(m, 35) for m in client.until("0")] == ["0"]
    client.subscribe("M", "BTC/USD")
    assert value(client.message(), 281) == "1"


def test_book_emptied_gives_an_empty_snapshot(client, quiet):
    client.subscribe("M", "ADA/USD")
    client.message()
    quiet.control("clear", symbol="ADA/USD")
    empty = client.message()
    assert (value(empty, 35), value(empty, 268)) == ("W", "0")
    assert quiet.control.truth("ADA/USD")["bids"] == []


def test_truth_of_the_past(client, quiet):
    """The book at a MsgSeqNum stays what it was, whatever happens later; the future and the forgotten are errors."""
    client.subscribe("M", "XRP/USD")
    client.message()
    start = quiet.control.truth("XRP/USD", sender=client.sender, seq=2)
    quiet.control("step", symbol="XRP/USD", count=50)
    assert quiet.control.truth("XRP/USD")["ints"] != start["ints"]
    again = quiet.control.truth("XRP/USD", sender=client.sender, seq=2)
    assert again == start and again["crc"] == start["crc"]
    answer = quiet.control.request({"cmd": "truth", "symbol": "XRP/USD", "sender": client.sender, "seq": 10**6})
    assert not answer["ok"] and "only sent up to" in answer["error"]
    third = quiet.control.truth("XRP/USD", "L3", orders=True, top=True)
    assert len(third["bids"]) == 10 and third["orders"][0][0][0] == "O"
    assert sum(third["order_counts"]) == len(third["orders"])
