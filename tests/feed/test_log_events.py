"""Every log call of the source has an event, every event a call; JSON lines carry its values by name."""

from __future__ import annotations

import json
import logging
import re

from kfix_md.log_events import EVENTS, NAMED, EventLog, event_of
from kfix_md.log_output import Human, Json, Repetitions
from tests.docs import log_events as page
from tests.feed.log_calls import calls

CALLS = list(calls())
BY_TEMPLATE = {event.template: event for event in EVENTS}
#: logged otherwise than by a call of a logger
MADE = {"%d log lines were lost: the reader of this log did not keep up"}


def test_there_are_calls_in_all_processes():
    folders = {"/".join(call.where.split("/")[:-1]) for call in CALLS}
    assert len(CALLS) > 60 and {"kfix_md/feed", "kfix_md/simulator", "recorder"} <= folders


def test_every_call_has_an_event():
    for call in CALLS:
        if call.event is not None:
            assert call.event in NAMED, call.where
        else:
            assert call.template in BY_TEMPLATE, f"{call.where}: {call.template!r} has no row in log_events.py"


def test_every_event_has_a_call_and_a_name_for_each_value():
    templates = {call.template for call in CALLS} | MADE
    for event in EVENTS:
        assert event.template in templates, f"no call logs {event.name}: {event.template!r}"
        assert len(re.findall(r"%[-.\d]*[sdfgr]", event.template)) == len(event.values), event
        assert len(set(event.values)) == len(event.values)
    assert len(BY_TEMPLATE) == len(EVENTS)
    assert {call.event for call in CALLS} - {None} == set(NAMED)


def test_the_page_has_every_event():
    text = page.PAGE.read_text()
    assert page.rewritten(text) == text, "run python -m tests.docs.log_events"


def line(template: str, *values: object, name: str = "kfix.feed", **extra: object) -> dict[str, object]:
    record = logging.LogRecord(name, logging.WARNING, __file__, 1, template, values, None)
    record.created = 1795298415.115204
    record.__dict__.update(extra)
    return json.loads(Json().format(record))


def test_a_line_for_machines():
    template = "%s: quarantined after %d faults in a row (%s); next attempt in %.1f s, then less often"
    assert line(template, "BTC/USD", 4, "CRC", 2.0, service="spot-l2") == {
        "time": "2026-11-21T22:00:15.115204Z",
        "level": "warning",
        "process": "feed",
        "event": "book_quarantined",
        "service": "spot-l2",
        "symbol": "BTC/USD",
        "cause": "CRC",
        "text": "BTC/USD: quarantined after 4 faults in a row (CRC); next attempt in 2.0 s, then less often",
        "values": {"faults": 4, "seconds": 2.0},
    }


def test_values_of_the_venue_stay_on_one_line_and_are_text():
    shown = line("the venue rejected our message %s: %s", None, OSError("no\nroom"))
    assert (shown["event"], shown["cause"]) == ("rejected", "no\\x0aroom") and shown["values"] == {"seq": "None"}


def test_lines_of_others_are_lines_too():
    shown = line("Task was destroyed but it is pending!", name="asyncio")
    assert (shown["event"], shown["process"], shown["values"]) == ("other", "asyncio", {})


def test_a_service_and_a_named_event_both_arrive(caplog):
    log = EventLog(logging.getLogger("kfix.test"), {"service": "spot-l3"})
    log.warning("%s", "refused", extra={"event": "dial_failed"})
    log.warning("connected to %s", "here")
    first, second = caplog.records
    assert (first.service, event_of(first)) == ("spot-l3", "dial_failed")
    assert (second.service, event_of(second)) == ("spot-l3", "connected")


def test_a_summary_of_repetitions_keeps_the_event():
    kept = Repetitions(lines=1)
    for number in range(3):
        record = logging.LogRecord("kfix.feed", 30, "", 1, "connected to %s", (number,), None)
        kept.admit(record, 0.0)
    (summary,) = kept.over(100.0)
    assert event_of(summary) == "connected" and summary.getMessage().startswith("2 more like this")


def test_a_line_for_people_has_the_date():
    record = logging.LogRecord("kfix.feed", logging.WARNING, "", 1, "stopping", (), None)
    record.created, record.msecs, record.service = 1795298415.115204, 115.204, "spot-l2"
    assert Human().format(record) == "2026-11-21 22:00:15.115 spot-l2        ! stopping"
