"""Every fault that can be ordered does on the wire what its name promises, and is logged with what it cost."""

import re
import time

import pytest

from kfix_md.simulator import edits_forms  # noqa: F401  registers its edits
from kfix_md.simulator.control import ControlError
from kfix_md.simulator.edits import EDITS, HARM
from tests.simulator.plain import PlainBook
from tests.simulator.venue import Client, running_venue, value

ADMIN = "0123A5"


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    """One venue for all tests here: its market moves only by `step`."""
    with running_venue(tmp_path_factory.mktemp("venue"), "--symbols", "3", "--rate", "0", tls=False) as venue:
        yield venue


@pytest.fixture
def live(quiet, request):
    """A client logged on to spot L2 and subscribed to BTC/USD, snapshot read."""
    client = Client(quiet, "spot-l2", f"C{abs(hash(request.node.name)) % 10**9}")
    client.logon()
    client.subscribe("M", "BTC/USD")
    client.snapshot = client.message()
    client.faults = len(quiet.control("stats")["faults"])
    yield client
    client.close()
    deadline = time.monotonic() + 5
    while quiet.control("stats")["services"]["spot-l2"]["sessions"] and time.monotonic() < deadline:
        time.sleep(0.005)


def step(venue, count=1):
    """Orders until at least `count` book changes were sent."""
    before = venue.control.truth("BTC/USD")["version"]
    while venue.control.truth("BTC/USD")["version"] < before + count:
        venue.control("step", symbol="BTC/USD")


def noted(venue, client, kind):
    found = [fault for fault in venue.control("stats", since=client.faults)["faults"] if fault["fault"] == kind]
    assert found, kind
    return found[-1]


def test_gap_answered_by_replay(quiet, live):
    quiet.control("gap", sender=live.sender, count=3, answer="replay")
    step(quiet, 4)
    first = live.message()
    assert value(first, 34) == "6"
    assert noted(quiet, live, "gap")["seqs"] == [3, 4, 5]
    assert noted(quiet, live, "gap")["symbols"] == ["BTC/USD"]
    live.send("2", [(7, 3), (16, 0)])
    book = PlainBook("L2", 1, 8)
    book.apply(live.snapshot)
    replayed = [live.message() for _ in range(3)]
    again = live.until("X")[-1]
    assert [value(m, 34) for m in [*replayed, again]] == ["3", "4", "5", "6"]
    assert all(value(m, 43) == "Y" and value(m, 122) for m in [*replayed, again])
    for message in [*replayed, again]:
        book.apply(message)
    assert book.same_as(quiet.control.truth("BTC/USD", sender=live.sender, seq=6))


def test_gap_answered_by_gap_fill_and_not_at_all(quiet, live):
    quiet.control("gap", sender=live.sender, count=2, answer="gapfill")
    step(quiet, 3)
    live.until("X")
    live.send("2", [(7, 3), (16, 0)])
    fill = live.until("4")[-1]
    assert (value(fill, 34), value(fill, 123), value(fill, 43), value(fill, 36)) == ("3", "Y", "Y", "6")
    quiet.control("gap", sender=live.sender, count=1, answer="ignore")
    step(quiet)
    live.send("2", [(7, 3), (16, 0)])
    live.send("1", [(112, "T")])
    last = live.until("0")
    assert not any(value(message, 43) for message in last) and value(last[-1], 112) == "T"


def test_gap_answered_by_a_mix(quiet, live):
    quiet.control("gap", sender=live.sender, count=5, answer="mixed")
    step(quiet, 6)
    live.until("X")
    live.send("2", [(7, 3), (16, 7)])
    kinds = ""
    while (expected := 3 + kinds.count("X") + kinds.count("4")) < 8:
        message = live.message()
        assert value(message, 34) == str(expected)
        kinds += value(message, 35)
    assert set(kinds) == {"X", "4"}


def test_wrong_crc_once(quiet, live):
    quiet.control("crc", service="spot-l2", symbol="BTC/USD")
    step(quiet, 2)
    book = PlainBook("L2", 1, 8)
    book.apply(live.snapshot)
    wrong, right = live.message(), live.until("X")[-1]
    book.apply(wrong, check_crc=False)
    assert book.crc() ^ 0x5A5A5A5A == int(value(wrong, 5041))
    book.apply(right)
    assert noted(quiet, live, "crc")["first"] == int(value(wrong, 34))


def size(frame):
    return int(frame.split(b"\x019=")[1].split(b"\x01")[0])


def true_size(frame):
    return len(frame.split(b"\x01", 2)[2]) - 7


def sound(frame):
    return size(frame) == true_size(frame) and sum(frame[:-7]) % 256 == int(frame[-4:-1])


def entries(frame):
    return frame.count(b"\x01279=")


def count(frame):
    return int(frame.split(b"\x01268=")[1].split(b"\x01")[0])


EXPONENT = rb"\x0127[01]=(?:\d[.\d]*e[+-]\d\d|0)(?=\x01)"
RAW = {  # what the spoiled bytes must look like
    "checksum": lambda f: (sum(f[: f.rindex(b"10=")]) + 1) % 256 == int(f[-4:-1]),
    "checksum_256": lambda f: f.endswith(b"\x0110=256\x01"),
    "body_short": lambda f: size(f) == true_size(f) - 5,
    "body_long": lambda f: size(f) == true_size(f) + 20,
    "body_text": lambda f: b"\x019=abc\x01" in f,
    "body_huge": lambda f: b"\x019=99999999999\x01" in f,
    "nul": lambda f: bytes(7) in f,
    "eight_bits": lambda f: b"\xff\xfe\x80" in f,
    "tag": lambda f: b"\x014garbled9=" in f and sound(f),
    "first_three": lambda f: f.split(b"\x01")[2][:3] == b"34=" and sound(f),
    "noise": lambda f: f.startswith(b"noise") and sound(f[f.index(b"8=FIX") :]),
    "begin": lambda f: f.startswith(b"8=FIX.4.2\x01") and sound(f),
    "sender": lambda f: b"\x0149=SOMEONE\x01" in f and sound(f),
    "target": lambda f: b"\x0156=SOMEONE\x01" in f and sound(f),
    "time": lambda f: b"\x0152=" in f and sound(f),
    "time_missing": lambda f: b"\x0152=" not in f and sound(f),
    "seq_missing": lambda f: b"\x0134=" not in f and sound(f),
    "dup": lambda f: b"\x0143=" not in f and sound(f),
    "possdup": sound,
    "possdup_first": lambda f: b"\x0143=Y\x01122=" in f and sound(f),
    "possdup_no_122": sound,
    "possdup_late": sound,
    "possresend": lambda f: b"\x0197=Y\x01" in f and sound(f),
    "count_more": lambda f: entries(f) == count(f) - 1 and sound(f),
    "count_less": lambda f: entries(f) == count(f) + 1 and sound(f),
    "missing": lambda f: f.count(b"\x01270=") == entries(f) - 1 and sound(f),
    "empty": lambda f: b"\x01270=\x01" in f and sound(f),
    "value": lambda f: b"\x01270=abc\x01" in f and sound(f),
    "unknown_tag": lambda f: b"\x015051=1\x01" in f and sound(f),
    "duplicate_tag": lambda f: f.count(b"262=M\x01") == 2 and sound(f),
    "tag_number": lambda f: b"\x01-1=" in f and sound(f),
    "type": lambda f: b"\x0135=*\x01" in f and sound(f),
    "body_order": lambda f: f.index(b"\x01262=") < f.index(b"\x0155=") and sound(f),
    "header_late": lambda f: f.index(b"\x0156=") > f.index(b"\x015041=") and sound(f),
    "data_field": lambda f: b"\x0195=28\x0196=x\x0110=000\x0155=EVIL/USD\x01268=1\x01y\x01268=" in f and sound(f),
    "symbol_groups": lambda f: (
        f.count(b"\x0155=BTC/USD\x01") == entries(f) and f.index(b"\x0155=") > f.index(b"\x01268=") and sound(f)
    ),
    "symbol_twice": lambda f: b"\x0155=BTC/USD\x0155=ETH/USD\x01262=M\x01" in f and sound(f),
    "request_twice": lambda f: b"\x01262=M\x01262=OTHER\x01268=" in f and sound(f),
    "number": lambda f: (
        len(re.findall(rb"\x0127[01]=(?:\d[.\d]*e[+-]\d\d|0)(?=\x01)", f)) == 2 * entries(f) and sound(f)
    ),
    "times": lambda f: b"\x0152=" in f and len(re.findall(rb"\x01(?:52|273)=[-:\d]*\.\d{12}\x01", f)) > 1 and sound(f),
    "entry_kind": lambda f: entries(f) == count(f) and f.count(b"\x01269=J\x01") == 1 and sound(f),
    "trade_codes": sound,
    "unknown_tags": lambda f: f.count(b"\x015999=y=z\x01") == entries(f) and b"\x0120003=\x0110=" in f and sound(f),
    "order": lambda f: f.index(b"\x0134=") > f.index(b"\x0156=") and sound(f),
}


@pytest.mark.parametrize("edit", sorted(RAW))
def test_edits(quiet, live, edit):
    answer = quiet.control("garble", sender=live.sender, edit=edit, types="X")
    assert answer["harm"] == HARM[edit]
    step(quiet, 2)
    spoiled = live.frame()
    if edit == "data_field":  # its value looks like the end of a message
        spoiled += live.frame()
    assert RAW[edit](spoiled), spoiled
    fault = noted(quiet, live, edit)
    assert fault["seqs"] == [3] and fault["harm"] == HARM[edit] and fault["symbols"][0] == "BTC/USD"
    assert fault["symbols"][1:] == (["ETH/USD"] if edit == "symbol_twice" else [])
    twin = live.frame()
    if edit in ("dup", "possdup", "possdup_no_122", "possdup_late"):
        assert b"\x0134=3\x01" in twin
        assert (b"\x0143=Y\x01" in twin) == (edit != "dup")
        assert (b"\x01122=" in twin) == (edit in ("possdup", "possdup_late"))
        assert sound(twin)
    else:
        assert b"\x0134=4\x01" in twin and sound(twin)


@pytest.mark.parametrize("edit", ["cut", "cut_close"])
def test_half_a_message(quiet, live, edit):
    quiet.control("garble", sender=live.sender, edit=edit, types="X")
    step(quiet, 2)
    if edit == "cut_close":
        assert live.frame() is None and live.closed
        assert live.buffer.startswith(b"8=FIX.4.4\x01") and b"\x0110=" not in live.buffer
    else:
        joined = live.frame()
        assert joined.count(b"8=FIX.4.4") == 2


def test_every_edit_is_tested():
    assert set(EDITS) == set(RAW) | {"cut", "cut_close"}


@pytest.mark.parametrize("form", ["logout", "fin", "rst", "seqreset", "inlogon", "restart0", "restart1", "silent"])
def test_rollover_forms(quiet, live, form):
    quiet.control("rollover", form=form, service="spot-l2", refuse=0.2)
    step(quiet)
    if form == "logout":
        assert value(live.message(), 35) == "5"
        live.send("5")
        assert live.message() is None and live.closed
    elif form in ("fin", "rst"):
        assert live.message() is None and live.closed
    elif form == "seqreset":
        reset = live.message()
        assert (value(reset, 35), value(reset, 123), value(reset, 36)) == ("4", "N", "1")
        assert value(live.message(), 34) == "1"
    elif form == "inlogon":
        logon = live.message()
        assert (value(logon, 35), value(logon, 34), value(logon, 141)) == ("A", "1", "Y")
        live.send("A", [(98, 0), (108, 60), (141, "Y")], seq=1)
        live.seq = 2
        live.subscribe("M2", "BTC/USD")
        assert (value(fresh := live.message(), 35), value(fresh, 34)) == ("W", "2")
    elif form.startswith("restart"):
        assert value(live.message(), 34) == form[-1]
    else:
        live.send("1", [(112, "ALIVE")])
        assert live.message(timeout=0.1) is None and not live.closed
    assert noted(quiet, live, "rollover")["form"] == form
    if form in ("logout", "fin", "rst"):
        again = Client(quiet, "spot-l2", live.sender)
        assert again.logon() is None and again.closed
        deadline = time.monotonic() + 5
        while True:
            again = Client(quiet, "spot-l2", live.sender)
            reply = again.logon()
            again.close()
            if reply or time.monotonic() > deadline:
                break
        assert (value(reply, 35), value(reply, 34)) == ("A", "1")


@pytest.mark.parametrize(
    "variant",
    [
        "heartbeat",
        "high",
        "reset",
        "logout",
        "close",
        "none",
        "time",
        "before",
        "next_equal",
        "next_low",
        "next_high",
        "length",
        "begin",
        "sender",
        "target",
    ],
)
def test_replies_to_a_logon(quiet, variant):
    client = Client(quiet, "spot-l3", f"L-{variant}")
    quiet.control("logon", service="spot-l3", variant=variant)
    client.send("A", [(98, 0), (108, 60), (141, "N")])
    frame = client.frame(timeout=0.2 if variant == "none" else 10)
    if variant in ("close", "none"):
        assert frame is None and client.closed == (variant == "close")
        client.close()
        return
    text = frame.decode()
    shows = {
        "heartbeat": "\x01108=30\x01",
        "high": "\x0134=6\x01",
        "reset": "\x01141=Y\x01",
        "logout": "\x0135=5\x01",
        "before": "\x0135=0\x01",
        "next_equal": "\x01789=2\x01",
        "next_low": "\x01789=1\x01",
        "next_high": "\x01789=3\x01",
        "begin": "8=FIX.4.2\x01",
        "sender": "\x0149=SOMEONE\x01",
        "target": "\x0156=SOMEONE\x01",
    }
    assert shows.get(variant, "\x0135=A\x01") in text
    assert sound(frame) == (variant != "length")
    client.close()


def test_logon_reply_too_low(quiet):
    client = Client(quiet, "spot-l3", "L-low")
    client.logon(reset=None)
    client.send("5")
    client.until("5")
    client.close()
    quiet.control("logon", service="spot-l3", variant="low")
    client, client_seq = Client(quiet, "spot-l3", "L-low"), 3
    client.seq = client_seq
    assert value(client.logon(reset=None), 34) == "2"  # the Logout was 2 already
    client.close()


def test_drop_refuse_and_duplicate_identity(quiet, live):
    twin = Client(quiet, "spot-l2", live.sender)
    assert twin.logon() is None and twin.closed
    quiet.control("refuse", service="spot-l2", seconds=0.3, how="logout")
    other = Client(quiet, "spot-l2", "OTHER")
    assert value(other.logon(), 35) == "5"
    quiet.control("refuse", service="spot-l2", seconds=0.3, how="tcp")
    gone = Client(quiet, "spot-l2", "OTHER")
    assert gone.message() is None and gone.closed
    quiet.control("refuse", service="spot-l2", seconds=0)
    quiet.control("drop", sender=live.sender, how="rst")
    assert live.message() is None and live.closed
    assert noted(quiet, live, "drop")["how"] == "rst"


def test_nobody_listens_for_a_while(quiet):
    quiet.control("refuse", service="derivatives-l2", seconds=0.2, how="port")
    with pytest.raises(ConnectionRefusedError):
        Client(quiet, "derivatives-l2", "P")
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            client = Client(quiet, "derivatives-l2", "P")
        except ConnectionRefusedError:
            continue
        assert value(client.logon(), 35) == "A"
        return
    raise AssertionError("the port stayed closed")


def test_mute_delay_and_small_writes(quiet, live):
    quiet.control("mute", sender=live.sender, seconds=0.15)
    live.send("1", [(112, "LOST")])
    step(quiet)
    assert live.message(timeout=0.05) is None
    assert value(live.until("X")[-1], 34) == "3"
    quiet.control("delay", sender=live.sender, seconds=0.1)
    start = time.monotonic()
    step(quiet)
    assert value(live.message(), 34) == "4" and time.monotonic() - start > 0.09
    quiet.control("small_writes", sender=live.sender, size=3, seconds=5)
    step(quiet, 2)
    assert [value(m, 34) for m in live.until("X", count=2)][:2] == ["5", "6"]
    quiet.control("slow_reads", sender=live.sender, seconds=0.1)
    live.send("5")


def test_status_listing_and_delisting(quiet, live):
    live.send("x", [(320, "WATCH"), (559, 4), (263, 1)])
    assert value(live.until("y")[-1], 146) == "3"
    quiet.control("status", symbol="ETH/USD", status=3)
    update = live.message()
    assert (value(update, 35), value(update, 320), value(update, 55), value(update, 5032)) == (
        "y",
        "WATCH",
        "ETH/USD",
        "3",
    )
    quiet.control("list", venue="spot", symbol="NEW/USD", price_precision=3, qty_precision=5)
    update = live.message()
    assert (value(update, 55), value(update, 2349), value(update, 5010)) == ("NEW/USD", "3", "5")
    live.subscribe("N", "NEW/USD")
    assert value(live.message(), 35) == "W"
    quiet.control("delist", symbol="NEW/USD")
    assert value(live.message(), 5032) == "6"
    assert value(live.message(), 268) == "0"
    live.subscribe("N2", "NEW/USD")
    assert value(live.message(), 281) == "0"
    live.send("x", [(320, "WATCH"), (559, 4), (263, 2)])
    quiet.control("status", symbol="ETH/USD", status=1)
    live.send("g", [(335, "G"), (336, "SESSION"), (263, 1)])
    assert value(live.message(), 340) == "2"
    quiet.control("trading_status", status=101)
    assert value(live.message(), 340) == "101"
    quiet.control("trading_status", status=2)


def test_precision_becomes_finer(quiet, live):
    live.send("x", [(320, "W"), (559, 0), (55, "XRP/USD"), (263, 1)])
    live.message()
    live.subscribe("P", "SOL/USD")
    book = PlainBook("L2", 2, 8)
    book.apply(live.message())
    quiet.control("precision", symbol="SOL/USD", price_precision=4)
    again = live.message()
    assert value(again, 35) == "W"
    fine = PlainBook("L2", 4, 8)
    fine.apply(again)
    assert fine.totals() == book.totals()
    before = quiet.control.truth("SOL/USD")["version"]
    while quiet.control.truth("SOL/USD")["version"] < before + 5:
        quiet.control("step", symbol="SOL/USD")
    for message in live.until("X", count=5):
        fine.apply(message)
    assert fine.checked == 5
    with pytest.raises(ControlError, match="finer"):
        quiet.control("precision", symbol="SOL/USD", price_precision=1)


def test_rejects_to_order(quiet, live):
    quiet.control("reject", symbol="ETH/USD", reason=5)
    live.subscribe("R1", "ETH/USD")
    no = live.message()
    assert (value(no, 35), value(no, 281), value(no, 262), value(no, 55)) == ("Y", "5", "R1", "ETH/USD")
    live.subscribe("R2", "ETH/USD")
    assert value(live.message(), 35) == "W"
    for answer in ("j", "3"):
        quiet.control("answer", **{"with": answer, "type": "V", "service": "spot-l2"})
        live.subscribe(f"R-{answer}", "ETH/USD")
        update = live.message()
        assert (value(update, 35), value(update, 45), value(update, 372)) == (answer, str(live.seq - 1), "V")


def test_messages_of_its_own_accord(quiet, live):
    quiet.control("testrequest", sender=live.sender, id="PING")
    assert value(live.message(), 112) == "PING"
    quiet.control("resendrequest", sender=live.sender, first=1, last=2)
    request = live.message()
    assert (value(request, 35), value(request, 7), value(request, 16)) == ("2", "1", "2")
    quiet.control("j", sender=live.sender, ref=3)
    assert value(live.message(), 45) == "3"
    quiet.control("sequence_reset", sender=live.sender, new=50)
    reset = live.message()
    assert (value(reset, 123), value(reset, 36)) == ("Y", "50")
    quiet.control("sequence_reset", sender=live.sender, gap_fill=False, new=90)
    assert value(live.message(), 123) == "N"
    step(quiet)
    assert value(live.message(), 34) == "90"
    quiet.control("send", sender=live.sender, type="B", fields=[[148, "headline"]])
    assert value(live.until("B")[-1], 148) == "headline"
    quiet.control("logout", sender=live.sender, text="bye")
    assert value(live.until("5")[-1], 58) == "bye"


def test_late_messages_after_unsubscribing(quiet, live):
    quiet.control("late", seconds=0.4)
    live.send("V", [(262, "M"), (263, 2), (264, 0)])
    live.send("1", [(112, "DONE")])
    live.until("0")
    step(quiet)
    assert value(live.message(), 262) == "M"
    quiet.control("late", seconds=0)


def test_the_truth_at_a_number_is_that_of_the_newest_subscription(quiet, live):
    live.subscribe("N", "BTC/USD")
    snapshot = live.message()
    assert (value(snapshot, 35), value(snapshot, 262)) == ("W", "N")
    step(quiet)
    older, newer = live.message(), live.message()
    assert (value(older, 262), value(newer, 262)) == ("M", "N")
    seen = [quiet.control.truth("BTC/USD", sender=live.sender, seq=int(value(m, 34))) for m in (older, newer)]
    assert [truth["message_seq"] for truth in seen] == [int(value(snapshot, 34)), int(value(newer, 34))]
    assert seen[0]["version"] < seen[1]["version"]


def test_mistakes_are_answers(quiet):
    control = quiet.control
    for request, word in [
        ({"cmd": "nothing"}, "no such command"),
        ({"cmd": "truth", "symbol": "X"}, "no such symbol"),
        ({"cmd": "gap", "answer": "maybe"}, "no such answer"),
        ({"cmd": "truth"}, "symbol"),
        ({"cmd": "gap", "sender": "NOBODY"}, "no such session"),
        ([], "no such command"),
        ({"cmd": "rollover", "form": "gently"}, "no such form"),
        ({"cmd": "gap", "service": "fx"}, "no such service"),
        ({"cmd": "events", "last": float("inf")}, "OverflowError"),
    ]:
        answer = control.request(request)
        assert not answer["ok"] and word in answer["error"], request
    control._socket.sendall(b"{not json\n")
    assert b"not JSON" in control._file.readline()
    control._socket.sendall(b"[" * 20_000 + b"\n")
    assert b"not JSON" in control._file.readline()
    control._socket.sendall(b"[" * ((1 << 20) + 8) + b"\n")
    assert b"at most 1048576 bytes" in control._file.readline()
