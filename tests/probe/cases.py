"""Every variation of the simulator, and the assumption that `kfix probe` has to name for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """One variation."""

    name: str
    assumption: str
    seen: str  # a part of what the table shows
    commands: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    options: tuple[str, ...] = ()  # of `kfix simulate`
    service: str = "spot-l2"
    section: str = ""  # further lines of the service's configuration
    feed: str = ""  # lines of [feed]
    as_expected: bool | None = False
    rollover: str = ""  # its form


def vary(assumption: str, seen: str, service: str = "spot-l2", **switches: Any) -> Case:
    """A switch of every symbol."""
    name = "-".join(f"{key}={value}" for key, value in switches.items()) + ("-l3" if service.endswith("l3") else "")
    return Case(name, assumption, seen, [("vary", {"symbol": "*", **switches})], service=service)


def habit(assumption: str, seen: str, as_expected: bool = False, **switches: Any) -> Case:
    """A switch of the whole venue."""
    name = "-".join(f"{key}={value}" for key, value in switches.items())
    return Case(name, assumption, seen, [("vary", switches)], as_expected=as_expected)


def logon(variant: str, assumption: str, seen: str, **more: Any) -> Case:
    """Another reply to the Logon."""
    return Case(f"logon-{variant}", assumption, seen, [("logon", {"variant": variant, **more})])


CASES: list[Case] = [
    # numbers, ids, times, codes
    Case(
        "checksum=level-l3",
        "checksum-rule",
        "level",
        [("vary", {"symbol": "*", "level": "L3", "checksum": "level"})],
        service="spot-l3",
    ),
    vary("checksum-rule", "level-sent", checksum="level-sent", qty_form="padded"),
    vary("checksum-rule", "order-sent", "spot-l3", checksum="order-sent", qty_form="padded", level="L3"),
    vary("checksum-rule", "no known rule", checksum="unknown"),
    vary("checksum-messages", "absent", checksum="off"),
    vary("checksum-messages", "in 35=W, X", snapshot_crc=True),
    Case(
        "crc_price_precision",
        "checksum-precision",
        "differ: BTC/USD by (1, 0)",
        [("vary", {"symbol": "BTC/USD", "level": "L2", "crc_price_precision": 2})],
    ),
    Case(
        "crc_qty_precision",
        "checksum-precision",
        "differ: BTC/USD by (0, 1)",
        [("vary", {"symbol": "BTC/USD", "level": "L2", "crc_qty_precision": 9})],
    ),
    vary("number-text", "no decimal point", price_form="plain"),
    vary("number-text", "trailing zeros", price_form="padded", qty_form="padded"),
    vary("number-text", "trailing zeros", qty_form="trailing"),
    vary("number-text", "leading zeros", price_form="zeros"),
    vary("number-text", "plus signs", price_form="plus"),
    vary("number-text", "exponents", price_form="exponent"),
    vary("number-text", "trailing zeros", qty_form="mixed"),
    vary("ids-l2", "over 16 bytes", ids="long"),
    vary("ids-l2", "over 16 bytes", ids="opaque"),
    vary("ids-l2", "UUID", ids="uuid"),
    vary("ids-l3", "over 16 bytes", "spot-l3", ids="long"),
    vary("ids-l3", "up to 16 bytes", "spot-l3", ids="short"),
    vary("entry-times", "HH:MM:SS, 6 decimals", times=6),
    vary("order-times", "ISO 8601, 3 decimals", "spot-l3", iso_times=3),
    vary("trade-codes", "40 in R", ord_type="R"),
    vary("trade-codes", "2446 in X", aggressor="X"),
    vary("entry-types", "4", entry_kind="4"),
    vary("fields", "also 5999, 20001, 20002", unknown_tags=True),
    vary("symbol-place", "entries", symbols="group"),
    vary("symbol-place", "both", symbols="both"),
    vary("depth-deletes", "not deleted", implicit_deletes=True),
    vary("precision-text", "'8.0'", precision_form="float"),
    vary("precision-text", "'08'", precision_form="zeros"),
    # instruments
    Case(
        "negative-precision",
        "precision-text",
        "'-3'",
        [("list", {"venue": "derivatives", "symbol": "PF_PEPEUSD", "price_precision": 7, "qty_precision": -3})],
        service="derivatives-l2",
    ),
    Case(
        "huge",
        "number-size",
        "AAA/USD",
        [("list", {"symbol": "AAA/USD", "price_precision": 9, "qty_precision": 8, "huge": True})],
        section='symbols = ["AAA/USD"]',
    ),
    Case("names", "symbol-text", "not ASCII", [("list", {"symbol": "ÆTH/USD"})]),
    Case("status-9", "status-codes", "9", [("list", {"symbol": "OLD/USD", "status": 9})]),
    Case("status-6", "status-codes", "6", [("list", {"symbol": "OLD/USD", "status": 6})], as_expected=True),
    *(
        Case(f"bad_row-{kind}", "list-rows", seen, [("bad_row", {"kind": kind})])
        for kind, seen in (
            ("no_precision", "BAD1/USD"),
            ("text_precision", "BAD2/USD"),
            ("huge_precision", "BAD3/USD"),
            ("part_precision", "BAD4/USD"),
            ("no_name", "no symbol"),
            ("long_name", "longer than 39 bytes"),
        )
    ),
    Case("bad_row-status", "status-codes", "?", [("bad_row", {"kind": "bad_status"})]),
    Case("fragment", "instrument-list", "in 2 messages", options=("--fragment", "2"), as_expected=True),
    Case("interleave", "instrument-list", "interrupted", options=("--fragment", "2", "--interleave")),
    Case("listing", "list-size", "30 instruments, room for 20", options=("--listing", "30"), feed="symbols_max = 20"),
    Case("stocks", "list-scope", "with 167=TS, such as AAPLx/USD", options=("--stocks", "1")),
    Case("list-rejected", "instrument-list", "35=j", [("answer", {"with": "j", "type": "x"})] * 2),
    # the session
    habit("header-order", "35,49,56,34,52", header="ids"),
    habit("header-order", "35,34,49,56,52", header="time-last"),
    habit("sending-time", "9", time_decimals=9),
    habit("clock", "late", clock_offset=30),
    habit("logon-reset", "absent", as_expected=True, logon_reset="absent"),
    habit("test-request", "no answer", test_request="ignore"),
    habit("unknown-symbol", "no answer", unknown_symbol="ignore"),
    habit("unknown-symbol", "35=j", unknown_symbol="business"),
    habit("duplicate-id", "no answer", duplicate_id="ignore"),
    habit("duplicate-id", "accepted", duplicate_id="accept"),
    habit("list-updates", "35=3", list_updates="reject"),
    Case(
        "several_symbols",
        "several-symbols",
        "1 of 2",
        [("vary", {"several_symbols": "first"})],
    ),
    habit("resend", "of 5 messages, the rest", replay="chunks", chunk=2),
    habit("resend", "35=3", replay="reject"),
    habit("resend", "silence", replay="ignore"),
    habit("resend", "gap fill", as_expected=True, replay="gapfill"),
    habit("logout", "left open", on_logout="open"),
    habit("logout", "not confirmed", on_logout="ignore"),
    logon("high", "logon-number", "34=57", by=56),
    logon("data", "logon-fields", "also 95, 96"),
    logon("extra", "logon-fields", "also 5051, 20001"),
    logon("logout", "logon", "not whitelisted", reason="whitelist"),
    logon("none", "logon", "no answer"),
    Case("dead", "logon", "no answer", [("refuse", {"service": "spot-l2", "seconds": 30, "how": "dead"})]),
    Case("tls", "tls-version", "TLS", options=("--tls", "1.2")),
    Case("tls_min", "tls-version", "TLSv1.2", options=("--tls", "1.2"), section='tls_min = "1.2"'),
    Case("snapshot", "snapshot", "35=Y", [("reject", {"service": "spot-l2", "symbol": "BTC/USD", "reason": 5})]),
    Case("late", "unsubscribe", "late messages", [("late", {"seconds": 30})]),
    Case("trading-status", "trading-status", "35=j", [("answer", {"with": "j", "type": "g"})]),
    Case(
        "after_logout", "rollover", "the connection stays open", [("vary", {"after_logout": "data"})], rollover="logout"
    ),
    Case("logon_echo", "rollover", "answered by 1 more", [("vary", {"logon_echo": "next"})], rollover="inlogon"),
    Case("rollover", "rollover", "Logout, then the connection closes", rollover="logout", as_expected=True),
    Case("seqreset", "rollover", "SequenceReset", rollover="seqreset"),
]
