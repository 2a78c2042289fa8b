"""Sessions that begin, end and resend in every way a venue may: echoes, refusals, Logouts, TLS, replays."""

import calendar
import socket
import ssl
import time

import pytest

from kfix_md.simulator.control import ControlError
from kfix_md.simulator.logons import REASONS, TRAP
from tests.simulator.venue import Client, running_venue, value


@pytest.fixture
def venue(tmp_path):
    with running_venue(tmp_path, "--symbols", "2", "--rate", "0", tls=False) as running:
        yield running


def subscribed(venue, **logon):
    client = Client(venue, "spot-l2")
    client.logon(**logon)
    client.subscribe("M", "BTC/USD")
    client.message()
    return client


def quiet_for(client, seconds=0.3):
    """No message and no end of the connection."""
    return client.message(timeout=seconds) is None and not client.closed


# Logon -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("echo", "number"), [("next", "2"), ("one", "1")])
def test_the_answer_to_a_logon_is_echoed(venue, echo, number):
    """After a Logon 141=Y inside the session the client's own is answered by another."""
    venue.control("vary", logon_echo=echo)
    client = subscribed(venue)
    venue.control("rollover", form="inlogon")
    first = client.message()
    assert (value(first, 35), value(first, 34), value(first, 141)) == ("A", "1", "Y")
    client.seq = 1
    client.send("A", [(98, 0), (108, 60), (141, "Y")])
    second = client.message()
    assert (value(second, 35), value(second, 34), value(second, 141)) == ("A", number, "Y")
    client.send("1", [(112, "T")])
    reply = client.message()
    assert (value(reply, 35), value(reply, 34)) == ("0", str(int(number) + 1))


def test_a_reply_with_another_number(venue):
    venue.control("logon", variant="high", by=56)
    client = Client(venue, "spot-l2")
    reply = client.logon()
    assert (value(reply, 34), value(reply, 141)) == ("57", "Y")
    client.send("1", [(112, "T")])
    assert value(client.message(), 34) == "58"


def test_a_reply_with_a_data_field(venue):
    venue.control("logon", variant="data")
    client = Client(venue, "spot-l2")
    client.send("A", [(98, 0), (108, 60), (141, "Y")])
    start = client.frame()
    assert start.endswith(b"\x0196=x\x0110=000\x01"), "the trap looks like the end of a message"
    rest = client.frame()
    whole = start + rest
    assert b"\x0195=%d\x0196=%b\x01" % (len(TRAP), TRAP) in whole
    assert int(whole.split(b"\x01")[1][2:]) == len(whole.split(b"\x01", 2)[2]) - 7
    client.send("1", [(112, "T")])
    assert value(client.message(), 112) == "T"


def test_a_reply_with_more_fields(venue):
    venue.control("logon", variant="extra")
    reply = Client(venue, "spot-l2").logon()
    assert (value(reply, 5051), value(reply, 20001)) == ("x", "y")


@pytest.mark.parametrize("reason", REASONS)
def test_refusals_have_a_text(venue, reason):
    venue.control("logon", variant="logout", reason=reason, count=2)
    for _ in range(2):
        client = Client(venue, "spot-l2")
        reply = client.logon()
        assert (value(reply, 35), value(reply, 58)) == ("5", REASONS[reason])
        assert client.message() is None and client.closed
    venue.control("refuse", seconds=30, how="logout", reason=reason)
    assert value(Client(venue, "spot-l2").logon(), 58) == REASONS[reason]


def test_a_service_that_never_answers(venue):
    venue.control("refuse", seconds=30, how="dead")
    client = Client(venue, "spot-l2")
    client.send("A", [(98, 0), (108, 60), (141, "Y")])
    assert quiet_for(client)


def test_an_address_that_never_answers(tmp_path):
    """TCP and TLS succeed at the dead address; the same ports work at the other."""
    with running_venue(tmp_path, "--symbols", "1", "--dead-host", "127.0.0.2") as venue:
        context = ssl.create_default_context(cafile=venue.ca)
        raw = socket.create_connection(("127.0.0.2", venue.ports["spot-l2"]), timeout=5)
        with context.wrap_socket(raw, server_hostname="localhost") as dead:
            dead.sendall(b"8=FIX.4.4\x019=5\x0135=A\x0110=000\x01")
            dead.settimeout(0.3)
            with pytest.raises(TimeoutError):
                dead.recv(100)
        assert value(Client(venue, "spot-l2").logon(), 35) == "A"


@pytest.mark.parametrize(("version", "other"), [("1.2", "1.3"), ("1.3", "1.2")])
def test_only_one_tls_version(tmp_path, version, other):
    with running_venue(tmp_path, "--symbols", "1", "--tls", version) as venue:
        for wanted in (version, other):
            context = ssl.create_default_context(cafile=venue.ca)
            context.minimum_version = context.maximum_version = ssl.TLSVersion[f"TLSv{wanted.replace('.', '_')}"]
            with socket.create_connection(("127.0.0.1", venue.ports["spot-l2"]), timeout=5) as raw:
                if wanted == version:
                    assert context.wrap_socket(raw, server_hostname="localhost").version() == f"TLSv{version}"
                else:
                    with pytest.raises(ssl.SSLError):
                        context.wrap_socket(raw, server_hostname="localhost")


# Logout ----------------------------------------------------------------------------------------------


def test_data_after_our_logout(venue):
    venue.control("vary", after_logout="data")
    client = subscribed(venue)
    venue.control("logout", text="Bye")
    venue.control("step", symbol="BTC/USD", count=20)
    kinds = [value(message, 35) for message in client.until("X", count=3)]
    assert kinds[0] == "5" and kinds.count("X") == 3


@pytest.mark.parametrize("tls", [False, True])
def test_an_open_connection_after_our_logout(tmp_path, tls):
    with running_venue(tmp_path, "--symbols", "1", "--rate", "0", "--vary", "after_logout=open", tls=tls) as venue:
        client = subscribed(venue)
        venue.control("logout")
        assert value(client.message(), 35) == "5"
        client.send("5")
        venue.control("step", symbol="BTC/USD", count=20)
        assert quiet_for(client)
        if tls:
            assert_no_close_notify(client)


@pytest.mark.parametrize(("how", "kinds"), [("open", {"5"}), ("ignore", {"X"})])
@pytest.mark.parametrize("tls", [False, True])
def test_the_clients_logout_does_not_end_the_connection(tmp_path, tls, how, kinds):
    with running_venue(tmp_path, "--symbols", "1", "--rate", "0", "--vary", f"on_logout={how}", tls=tls) as venue:
        client = subscribed(venue)
        client.send("5")
        events = []
        while "logout received" not in events:
            events = [event["event"] for event in venue.control("events")["events"]]
        venue.control("step", symbol="BTC/USD", count=5)
        assert value(client.message(), 35) in kinds
        while client.message(timeout=0.3):
            pass
        assert not client.closed
        if tls:
            assert_no_close_notify(client)
        assert venue.control("stats")["services"]["spot-l2"]["sessions"]


def assert_no_close_notify(client):
    """The venue does not answer a TLS shutdown."""
    client.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        client.socket.unwrap()


# replays and times -----------------------------------------------------------------------------------


def lose(venue, client, count, answer):
    """Messages of the client until one after a gap of `count`."""
    venue.control("gap", sender=client.sender, count=count, answer=answer)
    while True:
        venue.control("step", symbol="BTC/USD")
        message = client.message(timeout=0.2)
        if message:
            return int(value(message, 34))


def test_a_replay_in_chunks(venue):
    venue.control("vary", chunk=2)
    client = subscribed(venue)
    newest = lose(venue, client, 5, "chunks")
    client.send("2", [(7, newest - 5), (16, 0)])
    assert [value(client.message(), 34) for _ in range(2)] == [str(newest - 5), str(newest - 4)]
    assert quiet_for(client)


def test_a_resend_request_that_is_rejected(venue):
    client = subscribed(venue)
    newest = lose(venue, client, 3, "reject")
    client.send("2", [(7, newest - 3), (16, 0)])
    message = client.message()
    assert [value(message, tag) for tag in (35, 372, 45, 34)] == ["3", "2", str(client.seq - 1), str(newest + 1)]


@pytest.mark.parametrize("decimals", [0, 3, 6, 9, 12])
def test_sending_times_of_any_length(venue, decimals):
    client = subscribed(venue)
    venue.control("vary", time_decimals=decimals)
    client.send("1", [(112, "T")])
    text = value(client.message(), 52)
    assert len(text) == 17 + (decimals + 1 if decimals else 0)
    assert text[17:].lstrip(".").isdigit() or not decimals


# answers to requests ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "tags"),
    [("guide", [34, 49, 52, 56]), ("ids", [49, 56, 34, 52]), ("time-last", [34, 49, 56, 52])],
)
def test_orders_of_the_header(venue, header, tags):
    client = subscribed(venue)
    venue.control("vary", header=header)
    client.send("1", [(112, "T")])
    assert [tag for tag, _ in client.message()][3:7] == tags


def test_a_clock_that_is_off(venue):
    venue.control("vary", clock_offset=-7200)
    text = value(Client(venue, "spot-l2").logon(), 52)
    behind = time.time() - calendar.timegm(time.strptime(text[:17], "%Y%m%d-%H:%M:%S"))
    assert 7190 < behind < 7260


def test_a_logon_reply_without_141(venue):
    venue.control("vary", logon_reset="absent")
    reply = Client(venue, "spot-l2").logon()
    assert value(reply, 34) == "1" and value(reply, 141) is None


def test_a_test_request_without_an_answer(venue):
    client = subscribed(venue)
    venue.control("vary", test_request="ignore")
    client.send("1", [(112, "T")])
    assert quiet_for(client)


@pytest.mark.parametrize(("how", "kind"), [("reject", "Y"), ("business", "j"), ("ignore", None)])
def test_answers_to_an_unknown_symbol(venue, how, kind):
    client = subscribed(venue)
    venue.control("vary", unknown_symbol=how)
    client.subscribe("U", "NOBODY/USD")
    message = client.message(timeout=0.5)
    assert (message and value(message, 35)) == kind


@pytest.mark.parametrize(("how", "kind"), [("reject", "Y"), ("accept", "W"), ("ignore", None)])
def test_answers_to_a_request_id_in_use(venue, how, kind):
    client = subscribed(venue)
    venue.control("vary", duplicate_id=how)
    client.subscribe("M", "ETH/USD")
    message = client.message(timeout=0.5)
    assert (message and value(message, 35)) == kind


def test_only_the_first_of_several_symbols(venue):
    client = subscribed(venue)
    venue.control("vary", several_symbols="first")
    client.subscribe("N", "ETH/USD", "BTC/USD")
    assert value(client.message(), 55) == "ETH/USD" and quiet_for(client)


def test_a_list_without_updates(venue):
    client = subscribed(venue)
    venue.control("vary", list_updates="reject")
    client.send("x", [(320, "R"), (559, 4), (263, 1)])
    message = client.message()
    assert [value(message, tag) for tag in (35, 371, 372)] == ["3", "263", "x"]
    client.send("x", [(320, "S"), (559, 4), (263, 0)])
    assert value(client.message(), 35) == "y"


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("vary", {"on_logout": "perhaps"}, "on_logout is one of close, open, ignore"),
        ("vary", {"chunk": 0}, "chunk is a number from 1"),
        ("refuse", {"how": "never"}, "no such way to refuse"),
        ("refuse", {"reason": "mood"}, "no such reason: mood"),
        ("gap", {"answer": "later"}, "no such answer"),
    ],
)
def test_mistakes_are_named(venue, command, arguments, message):
    with pytest.raises(ControlError, match=message):
        venue.control(command, **arguments)
