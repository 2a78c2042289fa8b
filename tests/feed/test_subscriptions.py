"""Subscriptions against a venue played by the test: each symbol on its own, paced, with patience."""

import itertools
import logging
import random

import pytest

from kfix_md._entry import Cause, State
from kfix_md.errors import UsageError
from kfix_md.feed import symbols
from kfix_md.feed.pacing import SECOND, Pace, Phase, SubscriptionSpec
from kfix_md.feed.subscriptions import Subscriptions
from kfix_md.journal.events import Refused


class Venue:
    """Replaces session and handler: notes what is sent and marked, and answers like a venue."""

    def __init__(self, patterns=("*",), pace=None, **spec):
        self.sent, self.marks, self.defined, self.current, self.events = [], [], {}, {}, []
        self.unknown, self.read = [], 0
        self.failing = {}  # symbol -> error that the handler raises for it
        self.subs = Subscriptions(
            SubscriptionSpec(tuple(patterns), **spec),
            self,
            self.send,
            pace=pace,
            emit=self.events.append,
            on_unknown=self.unknown.extend,
            rng=random.Random(1),
            log=logging.getLogger("t"),
        )

    # handler
    def define(self, symbol, price, qty):
        before = self.defined.get(symbol)
        self.defined[symbol] = (price, qty)
        if before not in (None, (price, qty)):
            self.subs.on_book(symbol, State.SYNCING, Cause.PRECISION, 0)

    def subscribe(self, symbol, md_req_id, depth=0, halted=False):
        if symbol in self.failing:
            raise self.failing[symbol]
        self.current[symbol], self.depth, self.halted = md_req_id, depth, halted

    def end_request(self, symbol):
        self.current.pop(symbol, None)

    def unsubscribe(self, symbol, cause=Cause.UNSUBSCRIBED):
        self.current.pop(symbol, None)
        self.marks.append((symbol, "off", cause))

    def mark(self, symbol, state, cause):
        self.marks.append((symbol, state, cause))

    # session
    def send(self, msg_type, body, now_ns):
        self.sent.append((msg_type, [(tag, str(value)) for tag, value in body], now_ns))
        return len(self.sent)

    # the venue's answers
    def list(self, rows, now_ns=0, **more):
        request = more.get("request") or [dict(b)[320] for kind, b, _ in self.sent if kind == "x"][-1]
        fields = [(35, b"y"), (320, request.encode()), (560, str(more.get("result", 0)).encode())]
        if "last" in more:
            fields += [(393, more.get("total", b"9")), (893, more["last"])]
        fields.append((146, str(len(rows)).encode()))
        for symbol, price, status in rows:
            fields += [(55, symbol.encode()), (5010, b"8"), (2349, str(price).encode()), (5032, str(status).encode())]
        self.subs.on_message("y", fields, now_ns)

    def live(self, symbol, now_ns=0):
        self.subs.on_book(symbol, State.LIVE, Cause.NONE, now_ns)

    def requests(self, kind="V"):
        """[(symbol, 262, 263)] of the requests sent since the last call."""
        found = [dict(body) for msg_type, body, _ in self.sent[self.read :] if msg_type == kind]
        self.read = len(self.sent)
        return [(b[55], b[262], b[263]) for b in found]

    def up(self, *symbols, now_ns=0):
        self.subs.ready(now_ns)
        self.list([(symbol, 1, 1) for symbol in symbols], now_ns)
        asked = self.requests()
        for symbol in symbols:
            self.live(symbol, now_ns)
        return asked


def test_ready_asks_for_the_list_and_then_for_each_symbol_alone():
    venue = Venue(["*/USD"], depth=10)
    venue.subs.ready(5)
    assert [kind for kind, _, _ in venue.sent] == ["x", "g"]
    assert dict(venue.sent[0][1])[263] == "1"
    venue.list([("A/USD", 1, 1), ("B/USD", 2, 1), ("B/EUR", 2, 1)])
    bodies = [dict(body) for kind, body, _ in venue.sent if kind == "V"]
    assert [(b[55], b[146], b[263], b[264], b[265]) for b in bodies] == [
        ("A/USD", "1", "1", "10", "1"),
        ("B/USD", "1", "1", "10", "1"),
    ]
    assert len({b[262] for b in bodies}) == 2
    assert venue.defined == {"A/USD": (1, 8), "B/USD": (2, 8)}
    assert [e.symbol for e in venue.events] == ["A/USD", "B/USD"]


def test_l3_asks_for_266_n_and_no_trades():
    venue = Venue(level="L3", trades=False, spot=False)
    venue.subs.ready(0)
    venue.list([("PF_XBTUSD", 1, 1)])
    body = next(body for kind, body, _ in venue.sent if kind == "V")
    assert (266, "N") in body and (269, "2") not in body and (267, "2") in body
    assert all(kind != "g" for kind, _, _ in venue.sent)


def test_a_fault_touches_its_symbol_alone_with_a_fresh_id():
    venue = Venue()
    first = dict((symbol, id_) for symbol, id_, _ in venue.up("A/B", "C/D"))
    venue.subs.on_book("A/B", State.CRC_FAIL, Cause.CRC, SECOND)
    venue.subs.pump(SECOND)
    end, begin = venue.requests()
    assert end == ("A/B", first["A/B"], "2")
    assert begin[0] == "A/B" and begin[2] == "1" and begin[1] not in first.values()
    assert venue.current["A/B"] == begin[1]


def test_patience_grows_and_a_calm_time_clears_the_record():
    venue = Venue(pace=Pace(answer_ns=1000 * SECOND))
    venue.up("A/B")
    now, waits = 0, []
    for _ in range(8):
        venue.subs.on_book("A/B", State.CRC_FAIL, Cause.CRC, now)
        due = venue.subs.next_due_ns()
        waits.append((due - now) / SECOND)
        now = due
        venue.subs.tick(now)
        venue.live("A/B", now)
    assert waits[0] == 0 and 0.3 < waits[1] < 0.7
    assert all(after > before for before, after in itertools.pairwise(waits))
    assert waits[-1] > 20
    assert venue.subs.all["A/B"].quarantined(venue.subs.pace)
    now += 61 * SECOND
    venue.subs.on_book("A/B", State.CRC_FAIL, Cause.CRC, now)
    assert venue.subs.next_due_ns() == now


@pytest.mark.parametrize("how", ["Y", "3", "j by 45", "j by 379"])
def test_a_refusal_hits_only_its_symbol(how):
    venue = Venue(pace=Pace(answer_ns=1000 * SECOND))
    venue.subs.ready(0)
    venue.list([("A/B", 1, 1), ("C/D", 1, 1)])
    seq = next(n for n, (kind, body, _) in enumerate(venue.sent, 1) if kind == "V" and (55, "A/B") in body)
    request = venue.current["A/B"].encode()
    answer = {
        "Y": ("Y", [(262, request), (281, b"0"), (58, b"no")]),
        "3": ("3", [(45, b"%d" % seq), (373, b"5")]),
        "j by 45": ("j", [(45, b"%d" % seq), (380, b"0")]),
        "j by 379": ("j", [(379, request), (380, b"0")]),
    }[how]
    venue.requests()
    venue.subs.on_message(answer[0], answer[1], 0)
    venue.live("C/D")
    assert venue.marks == [("A/B", State.DOWN, Cause.REJECTED)]
    assert venue.subs.pending() == ["A/B"] and not venue.requests()
    venue.subs.tick(venue.subs.next_due_ns())
    assert [(symbol, kind) for symbol, _, kind in venue.requests()] == [("A/B", "1")]


def test_a_duplicate_id_is_asked_again_at_once():
    venue = Venue()
    venue.subs.ready(0)
    venue.list([("A/B", 1, 1)])
    old = venue.requests()[0][1]
    venue.subs.on_message("Y", [(262, old.encode()), (281, b"1")], 0)
    [(symbol, new, kind)] = venue.requests()
    assert (symbol, kind) == ("A/B", "1") and new != old


def test_an_unanswered_request_is_made_again():
    venue = Venue(pace=Pace(answer_ns=10 * SECOND))
    venue.subs.ready(0)
    venue.list([("A/B", 1, 1)])
    venue.requests()
    venue.subs.tick(9 * SECOND)
    assert not venue.requests()
    venue.subs.tick(10 * SECOND)
    assert [kind for _, _, kind in venue.requests()] == ["2", "1"]
    assert venue.subs.counters.unanswered == 1


def test_a_request_that_was_sent_is_due_when_its_answer_is_late():
    venue = Venue(pace=Pace(answer_ns=10 * SECOND))
    venue.subs.ready(0)
    assert not venue.subs.due(10 * SECOND), "nothing was requested"
    venue.list([("A/B", 1, 1)])
    assert not venue.subs.due(9 * SECOND) and venue.subs.due(10 * SECOND)
    assert [due_ns for due_ns, *_ in venue.subs.requests] == [10 * SECOND]


def test_a_slow_venue_is_asked_more_and_more_rarely():
    venue, at, asked = Venue(pace=Pace(answer_ns=10 * SECOND)), 0, []
    venue.up()
    venue.list([("A/B", 1, 1)])
    while len(asked) < 6:
        at += SECOND
        venue.subs.tick(at)
        asked += [at // SECOND for _, _, kind in venue.requests() if kind == "1"]
    waits = [after - before for before, after in itertools.pairwise(asked)]
    assert waits == sorted(waits) and waits[1] > 20 and waits[-1] > 80


def test_a_list_that_comes_late_is_as_good():
    venue = Venue(spot=False, pace=Pace(answer_ns=10 * SECOND))
    venue.subs.ready(0)
    first = dict(venue.sent[0][1])[320]
    venue.list([("A/B", 1, 1)], request=first, last=b"N")
    venue.subs.tick(10 * SECOND)
    second = [dict(body)[320] for kind, body, _ in venue.sent if kind == "x"][-1]
    assert second != first
    venue.list([("C/D", 1, 1)], 12 * SECOND, request=first, last=b"Y")
    assert [s for s, _, _ in venue.requests()] == ["A/B", "C/D"]
    venue.list([("A/B", 1, 1), ("C/D", 1, 1)], 13 * SECOND, request=second)
    venue.subs.tick(40 * SECOND)
    assert [s for s, _, kind in venue.requests("V") if kind == "1"] == ["A/B", "C/D"]  # unanswered, not changed
    assert [kind for kind, _, _ in venue.sent].count("x") == 2


def test_a_flood_of_lists_is_ignored_and_the_list_requested_again_after_it(caplog):
    venue = Venue(spot=False)
    symbols = [f"S{i:05d}" for i in range(6_000)]
    venue.up("A/B", *symbols)
    before = dict(venue.defined)
    changed = [("A/B", 2, 1), *((symbol, 3, 1) for symbol in symbols)]
    venue.list(changed, SECOND)  # 12,002 rows within a second, of which 10,000 may be read
    assert venue.defined == before and venue.subs.listing.errors == 1
    assert "6001 rows, of which 4999 may be read" in caplog.text
    venue.list(changed[:2], SECOND)  # few as they are: ignored, too
    assert venue.defined == before and venue.subs.listing.errors == 2
    assert [kind for kind, _, _ in venue.sent].count("x") == 1
    venue.subs.messages_lost(2 * SECOND, Cause.LOST)  # do not bring a list before its rows may be read
    assert [kind for kind, _, _ in venue.sent].count("x") == 1
    until = venue.subs.listing.due_ns
    assert 5 * SECOND < until < 8 * SECOND and venue.subs.next_due_ns() <= until
    venue.subs.tick(until)
    assert [kind for kind, _, _ in venue.sent].count("x") == 2
    venue.list(changed, until)
    assert venue.defined["A/B"] == (2, 8) and set(venue.defined.values()) == {(2, 8), (3, 8)}
    assert venue.subs.listing.complete and venue.subs.listing.errors == 2


def test_a_new_connection_may_list_everything_again():
    venue = Venue(spot=False)
    rows = [(f"S{i:05d}", 2, 1) for i in range(4_000)]
    venue.up("A/B", *(symbol for symbol, _, _ in rows))
    for times in range(1, 6):
        venue.subs.lost()
        venue.subs.ready(times * SECOND // 10)
        assert [kind for kind, _, _ in venue.sent].count("x") == 1 + times
        venue.list([("A/B", times, 1), *rows], times * SECOND // 10)
        assert venue.defined["A/B"] == (times, 8) and venue.subs.listing.errors == 0


def test_an_answer_that_lacks_what_a_flood_was_ignored_for_is_not_whole():
    venue = Venue(spot=False)
    venue.up("A/B", "C/D")
    venue.subs.messages_lost(SECOND, Cause.LOST)  # the list is requested again
    request = [dict(body)[320] for kind, body, _ in venue.sent if kind == "x"][-1]
    answer = {"request": request, "total": b"11002"}
    venue.list([(f"S{i:05d}", 1, 1) for i in range(9_000)], SECOND, last=b"N", **answer)
    venue.list([("A/B", 1, 1), *((f"T{i:05d}", 1, 1) for i in range(2_000))], SECOND, last=b"N", **answer)
    venue.list([("Z/Z", 1, 1)], 2 * SECOND, last=b"Y", **answer)
    assert set(venue.subs.listing.known) == {"A/B", "C/D"}
    until = venue.subs.listing.due_ns
    venue.subs.tick(until)
    venue.list([("Z/Z", 1, 1)], until, last=b"Y", **answer)  # late, of the answer with a hole
    assert set(venue.subs.listing.known) == {"A/B", "C/D"}
    venue.list([("A/B", 1, 1), ("C/D", 1, 1), ("Z/Z", 1, 1)], until)
    assert set(venue.subs.listing.known) == {"A/B", "C/D", "Z/Z"}


def test_of_thousands_of_rows_that_cannot_be_used_some_are_named(caplog):
    venue = Venue(spot=False)
    venue.up("A/B")
    venue.list([(f"S{i:05d}", "x", 1) for i in range(3_000)], SECOND)
    assert venue.subs.listing.errors == 3_000
    assert len(caplog.records) == 21 and "2980 more rows cannot be used" in caplog.text
    assert set(venue.subs.listing.known) == {"A/B"}


def test_requests_the_venue_never_saw_are_made_again_at_once_and_without_alarm(caplog):
    venue = Venue(spot=False)
    venue.subs.ready(0)
    first = dict(venue.sent[0][1])[320]
    venue.subs.requests_lost([("x", first)], SECOND)
    assert [kind for kind, _, _ in venue.sent] == ["x", "x"]
    venue.list([("A/B", 1, 1)], SECOND)
    [(symbol, asked, _)] = venue.requests()
    venue.subs.requests_lost([("x", first), ("V", asked), ("V", "9")], 2 * SECOND)  # the list is here by now
    assert [(s, kind) for s, _, kind in venue.requests()] == [(symbol, "2"), (symbol, "1")]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_resend_request_over_answered_requests_subscribes_nothing_again():
    venue = Venue()
    asked = venue.up("A/B", "C/D")
    assert len(asked) == 2
    venue.subs.requests_lost([("V", request_id) for _, request_id, _ in asked], SECOND)
    assert venue.requests() == []


def test_requests_are_paced():
    venue = Venue(pace=Pace(burst=10, per_second=100, answer_ns=100 * SECOND), spot=False)
    venue.subs.ready(0)
    venue.list([(f"S{n}/X", 1, 1) for n in range(100)])
    assert len(venue.requests()) == 10
    venue.subs.tick(SECOND // 10)
    assert len(venue.requests()) == 10
    venue.subs.tick(60 * SECOND)  # the bucket holds a burst, not a minute
    assert len(venue.requests()) == 10


def test_lost_messages_bring_new_snapshots_for_all():
    venue = Venue()
    venue.up("A/B", "C/D")
    venue.subs.messages_lost(0, Cause.LOST)
    assert sorted((symbol, kind) for symbol, _, kind in venue.requests()) == [
        ("A/B", "1"),
        ("A/B", "2"),
        ("C/D", "1"),
        ("C/D", "2"),
    ]


def test_lost_messages_bring_the_list_and_the_status_of_the_market_again():
    venue = Venue()
    venue.up("A/B")
    before = [kind for kind, _, _ in venue.sent]
    venue.subs.messages_lost(0, Cause.LOST)
    more = [kind for kind, _, _ in venue.sent][len(before) :]
    assert more.count("x") == more.count("g") == 1


def test_a_new_connection_begins_again_without_unsubscribing():
    venue = Venue()
    before = {id_ for _, id_, _ in venue.up("A/B")}
    venue.subs.lost()
    venue.subs.tick(SECOND)
    assert not venue.requests()
    again = venue.up("A/B", now_ns=SECOND)
    assert [kind for _, _, kind in again] == ["1"] and not before & {id_ for _, id_, _ in again}


def test_instruments_come_go_and_change():
    venue = Venue(spot=False)
    venue.up("A/B", "C/D")
    venue.list([("N/W", 3, 1)])
    assert [(s, k) for s, _, k in venue.requests()] == [("N/W", "1")]
    venue.list([("A/B", 1, 6)])  # delisted
    assert [(s, k) for s, _, k in venue.requests()] == [("A/B", "2")]
    assert ("A/B", "off", Cause.STATUS) in venue.marks
    venue.list([("C/D", 5, 1)])  # precision
    assert [(s, k) for s, _, k in venue.requests()] == [("C/D", "2"), ("C/D", "1")]
    assert venue.defined["C/D"] == (5, 8) and venue.subs.all["C/D"].failures == 0
    venue.live("C/D")
    venue.list([("C/D", 5, 2)])  # maintenance and back
    assert venue.marks[-1] == ("C/D", State.HALTED, Cause.STATUS) and not venue.requests()
    venue.list([("C/D", 5, 1)])
    assert [(s, k) for s, _, k in venue.requests()] == [("C/D", "2"), ("C/D", "1")]


def test_a_number_too_fine_asks_for_the_list_as_well():
    venue = Venue(spot=False)
    venue.up("A/B")
    venue.subs.on_book("A/B", State.STALE, Cause.PRECISION, SECOND)
    assert [kind for kind, _, _ in venue.sent[venue.read :]] == ["V", "x"]
    venue.subs.pump(SECOND)
    assert venue.sent[-1][0] == "V"


def test_checksums_that_fail_behind_a_fresh_snapshot_ask_for_the_list_once():
    venue = Venue(spot=False)
    venue.up("A/B", "C/D")
    asked = []
    for symbol in ("A/B", "A/B", "C/D", "C/D"):
        venue.read = len(venue.sent)
        venue.subs.on_book(symbol, State.CRC_FAIL, Cause.CRC, SECOND)
        asked.append([kind for kind, _, _ in venue.sent[venue.read :]].count("x"))
        venue.subs.pump(2 * SECOND)
    assert asked == [0, 1, 0, 0]  # the second pair rides on the list that is under way


def test_list_troubles():
    venue = Venue(spot=False)
    venue.subs.ready(0)
    venue.list([], result=4)
    due = venue.subs.next_due_ns()
    assert SECOND <= due < 3 * SECOND
    venue.subs.tick(due)
    assert len([1 for kind, _, _ in venue.sent if kind == "x"]) == 2
    venue.subs.tick(due + 60 * SECOND)  # no answer at all
    assert len([1 for kind, _, _ in venue.sent if kind == "x"]) == 3
    venue.list([("A/B", 1, 1)], last=b"N")
    assert not venue.requests()
    venue.list([("C/D", 1, 1)], last=b"Y")
    assert [s for s, _, _ in venue.requests()] == ["A/B", "C/D"]


def test_names_that_the_first_list_does_not_settle_are_refused():
    venue = Venue(["XBT/USD", "NO/PE", "Q*"])
    venue.up("BTC/USD")
    assert venue.unknown == ["no instrument 'NO/PE'"]
    venue.subs.lost()
    venue.up("BTC/USD")
    assert len(venue.unknown) == 1


def test_reload_adds_and_removes_without_touching_the_rest():
    venue = Venue(["A/B", "C/D"], spot=False)
    venue.up("A/B", "C/D")
    venue.list([("E/F", 1, 1)])
    assert not venue.requests()
    assert venue.subs.reload(["C/D", "E/F", "Z/Z"], 0) == ["no instrument 'Z/Z'"]
    assert sorted((s, k) for s, _, k in venue.requests()) == [("A/B", "2"), ("E/F", "1")]
    assert venue.subs.all["C/D"].phase is Phase.ACTIVE


@pytest.mark.parametrize("connected", [False, True])
def test_a_reload_before_the_list_is_judged_when_it_comes(caplog, connected):
    venue = Venue(["A/B", "C/D"], spot=False)
    if connected:  # a list was known once, and is requested again
        venue.up("A/B", "C/D")
        venue.subs.lost()
    venue.subs.ready(0)
    assert venue.subs.reload(["C/D", "Z/Z"], 0) == []
    venue.list([("A/B", 1, 1), ("C/D", 1, 1)])
    assert sorted(venue.subs.all) == ["A/B", "C/D"] and not venue.unknown, "a mistake changes nothing"
    assert caplog.text.count("not reloaded, nothing changed: no instrument 'Z/Z'") == 1
    venue.subs.lost()
    venue.subs.ready(0)
    assert venue.subs.reload(["C/D"], 0) == []
    assert sorted(venue.subs.all) == ["A/B", "C/D"]
    venue.list([("A/B", 1, 1), ("C/D", 1, 1)])
    assert sorted(venue.subs.all) == ["C/D"]
    assert caplog.text.count("nothing changed") == 1


def test_a_reload_of_patterns_that_were_wrong_from_the_start_mends_them():
    venue = Venue(["A/X"], spot=False)
    venue.subs.ready(0)
    venue.subs.reload(["A/B", "C/X"], 0)
    venue.subs.reload(["A/B"], 0)  # the last one counts
    venue.list([("A/B", 1, 1)])
    assert sorted(venue.subs.all) == ["A/B"] and not venue.unknown


def test_spot_maintenance_halts_every_book_and_ends_with_snapshots():
    venue = Venue()
    venue.up("A/B")
    venue.subs.on_message("h", [(340, b"1")], 0)
    assert venue.marks == [("A/B", State.HALTED, Cause.STATUS)] and not venue.requests()
    venue.subs.on_message("h", [(340, b"2")], 0)
    assert [kind for _, _, kind in venue.requests()] == ["2", "1"]
    assert venue.subs.trading_status == "online"


def test_random_messages_never_raise():
    rng = random.Random(7)
    venue = Venue()
    venue.up("A/B")
    tags = [45, 55, 58, 146, 262, 281, 320, 335, 340, 373, 379, 380, 393, 560, 567, 893, 2349, 5010, 5032]
    values = [b"", b"0", b"1", b"-1", b"9" * 30, b"A/B", b"\xff\x00", b"Y"]
    for n in range(3000):
        fields = [(rng.choice(tags), rng.choice(values)) for _ in range(rng.randrange(12))]
        venue.subs.on_message(rng.choice("yYhj3"), fields, n * SECOND)
        venue.subs.tick(n * SECOND)


def test_symbols_without_room_are_left_out_by_name_and_nothing_else(caplog):
    venue = Venue(spot=False, pace=Pace(answer_ns=1000 * SECOND))
    venue.failing = {
        "B/B": UsageError("room for 2 books"),
        "D/D": UsageError("room for 2 books"),
        "E/E": OSError(28, "No space left on device"),
    }
    venue.up("A/A", "B/B", "C/C", "D/D", "E/E")
    assert sorted(venue.current) == ["A/A", "C/C"]
    assert {symbol for symbol, _, _ in venue.requests()} == set()
    assert venue.subs.left_out.reasons == {
        "B/B": "room for 2 books",
        "D/D": "room for 2 books",
        "E/E": "[Errno 28] No space left on device",
    }
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [
        "left out: B/B, D/D (room for 2 books)",
        "left out: E/E ([Errno 28] No space left on device)",
    ]
    assert venue.subs.pending() == []  # nothing waits for them
    assert [e.symbol for e in venue.events if isinstance(e, Refused)] == ["B/B", "D/D", "E/E"]
    venue.subs.tick(500 * SECOND)
    assert not venue.requests()
    # the next connection tries again, reports nothing twice, and serves what has room by then
    del venue.failing["B/B"]
    caplog.clear()
    venue.subs.lost()
    venue.subs.ready(600 * SECOND)
    venue.list([(symbol, 1, 1) for symbol in ("A/A", "B/B", "C/C", "D/D", "E/E")], 600 * SECOND)
    assert [symbol for symbol, _, _ in venue.requests()] == ["A/A", "B/B", "C/C"]
    venue.live("B/B", 600 * SECOND)
    assert sorted(venue.subs.left_out.reasons) == ["D/D", "E/E"]
    assert not [record for record in caplog.records if record.levelno == logging.ERROR]


def test_an_error_of_ours_leaves_its_symbol_out():
    venue = Venue(spot=False)
    venue.up("A/A", "B/B")
    venue.subs.leave_out("A/A", "internal error", SECOND)
    assert [(symbol, kind) for symbol, _, kind in venue.requests()] == [("A/A", "2")]
    venue.subs.on_book("A/A", State.STALE, Cause.MALFORMED, SECOND)
    venue.subs.tick(400 * SECOND)
    assert not venue.requests() and list(venue.subs.left_out.reasons) == ["A/A"]
    venue.list([("A/A", 1, 6)], 400 * SECOND)  # delisted: gone without a trace
    assert not venue.subs.left_out.reasons and "A/A" not in venue.subs.all


def test_a_number_that_does_not_fit_is_retried_rarely():
    venue = Venue(spot=False)
    venue.up("A/A")
    venue.subs.on_book("A/A", State.STALE, Cause.NUMBER, SECOND)
    assert venue.subs.all["A/A"].due_ns >= SECOND + venue.subs.pace.longest_retry_ns
    assert [kind for _, _, kind in venue.requests()] == ["2"]


def test_an_unverified_book_is_never_subscribed_again():
    venue = Venue(spot=False)
    venue.up("A/A", "B/B")
    for n in range(100):
        venue.subs.on_book("A/A", State.UNVERIFIED, Cause.RULE, n * SECOND)
        venue.subs.tick(n * SECOND)
    assert not venue.requests() and venue.subs.pending() == []
    venue.subs.messages_lost(200 * SECOND, Cause.LOST)
    venue.requests()
    venue.subs.on_book("A/A", State.UNVERIFIED, Cause.RULE, 201 * SECOND)
    assert venue.subs.pending() == ["B/B"]
    venue.live("B/B", 201 * SECOND)
    venue.subs.tick(600 * SECOND)
    assert not venue.requests()


def test_what_is_hidden_or_delisted_is_a_warning_and_followed_later(caplog):
    venue = Venue(["A/A", "XBT/OLD", "HID/DEN"], spot=False)
    venue.subs.ready(0)
    venue.list([("A/A", 1, 1), ("BTC/OLD", 1, 6), ("HID/DEN", 1, 0)])
    assert venue.unknown == [] and [symbol for symbol, _, _ in venue.requests()] == ["A/A"]
    assert "BTC/OLD is delisted at the venue" in caplog.text and "HID/DEN is hidden at the venue" in caplog.text
    venue.list([("HID/DEN", 1, 1)])
    assert [symbol for symbol, _, _ in venue.requests()] == ["HID/DEN"]


def test_full_depth_of_l2_is_a_thousand_levels():
    venue = Venue(spot=False, depth=0)
    venue.up("A/A")
    assert venue.depth == 1000
    venue = Venue(spot=False, depth=0, level="L3", trades=False)
    venue.up("A/A")
    assert venue.depth == 0


def requested_types(venue):
    return [dict(body).get(167, "ALL") for kind, body, _ in venue.sent if kind == "x"]


def test_lists_of_several_security_types_are_one():
    venue = Venue(spot=False, securities=("CASH", "TS"), pace=Pace(answer_ns=10 * SECOND))
    venue.subs.ready(0)
    assert requested_types(venue) == ["CASH", "TS"]
    assert [dict(body)[559] for kind, body, _ in venue.sent if kind == "x"] == ["1", "1"]
    cash, stocks = [dict(body)[320] for kind, body, _ in venue.sent if kind == "x"]
    venue.list([("A/A", 1, 1)], request=cash)
    assert not venue.requests()  # the other list may hold what is configured
    venue.list([("AAPLx/USD", 1, 1)], request=stocks)
    assert [symbol for symbol, _, _ in venue.requests()] == ["A/A", "AAPLx/USD"]
    venue.list([("AAPLx/USD", 1, 6)], request=stocks)  # an update to one leaves the other alone
    assert sorted(venue.subs.all) == ["A/A"]


def test_an_extra_list_that_is_rejected_is_done_without(caplog):
    venue = Venue(spot=False, securities=("ALL", "TS"))
    venue.subs.ready(0)
    every, stocks = [dict(body)[320] for kind, body, _ in venue.sent if kind == "x"]
    venue.list([("A/A", 1, 1)], request=every)
    assert not venue.requests()
    venue.list([], request=stocks, result=2)
    assert [symbol for symbol, _, _ in venue.requests()] == ["A/A"]
    assert "instrument list of TS no instruments found; continuing without it" in caplog.text
    venue.subs.tick(600 * SECOND)
    assert requested_types(venue) == ["ALL", "TS"]


def test_only_new_symbols_are_spelled_out(monkeypatch):
    spelled = []
    spellings = symbols.spellings
    monkeypatch.setattr(symbols, "spellings", lambda symbol: spelled.append(symbol) or spellings(symbol))
    venue = Venue(["XBT/USD"], spot=False)
    venue.up("BTC/USD", "ETH/USD")
    assert spelled == ["BTC/USD", "ETH/USD"]
    for n in range(5):
        venue.list([("ETH/USD", n, 1)])  # an update that changes a precision
    venue.list([("N/W", 1, 1)])
    assert spelled == ["BTC/USD", "ETH/USD", "N/W"]
    venue.list([("BTC/USD", 1, 6)])
    assert not venue.subs.all
    venue.list([("BTC/USD", 1, 1)])
    assert list(venue.subs.all) == ["BTC/USD"]
