"""The assumptions about the venue, one row each: what is expected, its source, and what happens when it is wrong."""

from __future__ import annotations

from typing import Literal, NamedTuple

Scope = Literal["all", "spot", "L2", "L3"]


class Assumption(NamedTuple):
    """One assumption, as docs/assumptions.md and `kfix probe` show it."""

    key: str
    text: str
    expected: str
    source: str
    when_wrong: str
    setting: str = "none needed"
    scope: Scope = "all"

    def applies_to(self, market: str, level: str) -> bool:
        """Whether a service of this market and level can show it."""
        return self.scope in ("all", market, level)


_GUIDE = "Kraken's FIX guide"
_REFERENCE = "Kraken's FIX reference"
_FIX = "FIX 4.4, volume 2"
_NONE = "not documented"

ASSUMPTIONS: tuple[Assumption, ...] = (
    Assumption(
        "tls-version",
        "The TLS version of the gateway",
        "TLSv1.3",
        "Kraken's connection page (1.3); its logon reference allows 1.2",
        "no connection with the default setting",
        'tls_min = "1.2"',
    ),
    Assumption(
        "certificate",
        "The certificate verifies for the host name",
        "verified",
        _GUIDE,
        "no connection; the log names the reason",
        "tls_ca, tls_name (verify = false outside production)",
    ),
    Assumption(
        "logon",
        "A Logon is answered by a Logon",
        "accepted",
        _GUIDE,
        "long pauses after a text about identity, else growing ones; the log explains the text",
        "sender_comp_id, target_comp_id, api_key, logon_fields",
    ),
    Assumption(
        "logon-number",
        "MsgSeqNum of the Logon reply after 141=Y",
        "34=1",
        _FIX,
        "any number is accepted and counted from",
    ),
    Assumption(
        "logon-reset",
        "141 in the Logon reply to our 141=Y",
        "141=Y or absent",
        _FIX,
        "both are accepted as a confirmation, never as a new request",
    ),
    Assumption(
        "logon-fields",
        "Fields of the Logon reply",
        "documented ones only",
        _REFERENCE,
        "others are skipped, data fields by their length",
    ),
    Assumption(
        "header-order",
        "Order of the header fields",
        "35,34,49,52,56",
        "examples in Kraken's FIX guide",
        "the general decoder reads any order, at about twice the time",
    ),
    Assumption(
        "sending-time",
        "Decimals of SendingTime (52)",
        "3",
        _GUIDE,
        "further digits are cut",
    ),
    Assumption(
        "test-request",
        "A TestRequest is answered by a Heartbeat with the same 112",
        "answered",
        _FIX,
        "the connection is closed after 2.4 heartbeat intervals of silence",
        "heartbeat_s",
    ),
    Assumption(
        "clock",
        "SendingTime agrees with this machine's clock",
        "within 1 s",
        _FIX,
        "a warning; beyond the limit messages are rejected",
        "sending_time_limit_s",
    ),
    Assumption(
        "instrument-list",
        "An InstrumentListRequest for all instruments is answered whole",
        "560=0",
        _GUIDE,
        "the request is repeated with growing pauses",
    ),
    Assumption(
        "list-rows",
        "Every row of the instrument list can be used",
        "every row",
        _REFERENCE,
        "the row is left out by name",
    ),
    Assumption(
        "list-size",
        "The instruments of a service fit into the feed's room",
        "at most the room",
        _NONE,
        "those beyond the room are left out by name",
        "symbols_max",
    ),
    Assumption(
        "list-scope",
        "The list of everything (559=4) is complete",
        "no others with 167=TS",
        "Kraken's support pages: tokenised stocks are reached with 167=TS",
        "instruments of other lists are not known",
        "securities",
        scope="spot",
    ),
    Assumption(
        "list-updates",
        "263=1 on an InstrumentListRequest is accepted",
        "accepted",
        _GUIDE,
        "status changes are seen at the next logon only",
    ),
    Assumption(
        "update-rows",
        "An update of an instrument repeats every field",
        "every field",
        _NONE,
        "what is absent stays as it was",
    ),
    Assumption(
        "precision-text",
        "Form of 2349 and 5010",
        "whole numbers from 0 to 18",
        "Kraken's FIX reference gives the type float; derivatives in thousands have negative ones",
        "8.0 and -3 are read exactly; a row that cannot be read is left out by name",
    ),
    Assumption(
        "status-codes",
        "Instrument status (5032)",
        "0 to 7",
        _REFERENCE,
        "an unknown status counts as online: the data decide whether the book is right",
    ),
    Assumption(
        "symbol-text",
        "Characters of symbols (55)",
        "ASCII",
        _NONE,
        "symbols are kept byte for byte",
    ),
    Assumption(
        "snapshot",
        "A MarketDataRequest is answered by a snapshot (35=W)",
        "within 5 s",
        _GUIDE,
        "the subscription is repeated under a new 262",
        "requests_per_s, batch",
    ),
    Assumption(
        "several-symbols",
        "One MarketDataRequest for several symbols is answered for each",
        "every symbol",
        _NONE,
        "the feed requests one symbol per message, so a partial answer costs nothing",
    ),
    Assumption(
        "unknown-symbol",
        "Answer to an unknown symbol",
        "35=Y with 281=0",
        _REFERENCE,
        "any reject that names the request ends that subscription alone",
    ),
    Assumption(
        "duplicate-id",
        "Answer to an MDReqID (262) that is in use",
        "35=Y with 281=1",
        _REFERENCE,
        "the feed never uses a 262 twice",
    ),
    Assumption(
        "unsubscribe",
        "No data of a subscription later than 2 s after its end",
        "none",
        _FIX,
        "late messages are ignored by their 262",
    ),
    Assumption(
        "ids-l2",
        "Order ids on L2 (278)",
        "side letter and price",
        "examples in Kraken's FIX guide",
        "other ids, or none, make no difference: the service decides the level",
        scope="L2",
    ),
    Assumption(
        "ids-l3",
        "Order ids on L3 (278)",
        "UUID or OXXXXX-XXXXX-XXXXXX",
        "examples in Kraken's FIX guide",
        "other ids up to 16 bytes are kept as they are, longer ones by their 128-bit hash",
        scope="L3",
    ),
    Assumption(
        "entry-times",
        "Form of 273",
        "HH:MM:SS.mmm",
        _REFERENCE,
        "further digits are cut; an entry without a readable time has that of its message (52)",
    ),
    Assumption(
        "order-times",
        "Form of 5060 and 5273",
        "ISO 8601, 9 decimals, Z",
        _REFERENCE,
        "fewer or more decimals are read, further digits cut",
        scope="L3",
    ),
    Assumption(
        "number-text",
        "Form of prices and quantities (270, 271)",
        "floats without padding",
        "examples in Kraken's FIX guide",
        "any exact decimal is read: zeros, signs, exponents",
    ),
    Assumption(
        "number-size",
        "Prices and quantities in units of their precision",
        "at most 18 digits",
        _NONE,
        "what fits 64 bits is kept; else the book of that symbol is STALE with cause NUMBER",
    ),
    Assumption(
        "entry-types",
        "MDEntryType (269)",
        "0, 1, 2",
        _REFERENCE,
        "entries of another type never touch the book",
    ),
    Assumption(
        "symbol-place",
        "Place of the symbol (55) in market data",
        "header",
        _REFERENCE,
        "a 55 in each entry is followed; two symbols without it cost both books a new snapshot",
    ),
    Assumption(
        "trade-codes",
        "OrdType (40) and AggressorSide (2446) of trades",
        "40 in 1, 2; 2446 in 1, 2",
        _REFERENCE,
        "unknown codes are kept as unknown",
        scope="L2",
    ),
    Assumption(
        "fields",
        "Fields of market data",
        "documented ones only",
        _REFERENCE,
        "unknown fields are skipped",
    ),
    Assumption(
        "checksum-rule",
        "Text under 5041",
        "level on L2, order on L3, printed at the precisions",
        "Kraken's checksum guide (L2); inferred from websocket v2's guide (L3)",
        "auto finds the rule per symbol; under no known rule a book is UNVERIFIED",
        "checksum",
    ),
    Assumption(
        "checksum-precision",
        "Precisions of the checksum are those of the instrument list",
        "equal",
        _GUIDE,
        "neighbouring precisions are tried and the one that holds is reported",
        "checksum",
    ),
    Assumption(
        "checksum-messages",
        "Messages with a book checksum (5041)",
        "every 35=X of a book, no 35=W",
        "Kraken's checksum guide",
        "it is checked wherever it is; a book crossed without it is not trusted, a crossed snapshot UNVERIFIED",
        "checksum",
    ),
    Assumption(
        "depth-deletes",
        "With 264=10, levels that leave the depth are deleted by a message",
        "deleted",
        _GUIDE,
        "a book never holds more levels than were requested, with or without deletes",
        "depth",
        scope="L2",
    ),
    Assumption(
        "resend",
        "Answer to a ResendRequest for market data",
        "replay or gap fill of all",
        _NONE,
        "replay, gap fill, reject and silence all heal; the books are subscribed again where data are lost",
        "gap_timeout_s",
    ),
    Assumption(
        "trading-status",
        "A TradingSessionStatusRequest is answered",
        "35=h",
        _REFERENCE,
        "maintenance is seen by instrument status only",
        scope="spot",
    ),
    Assumption(
        "logout",
        "Our Logout is confirmed by a Logout and the connection closes",
        "confirmed",
        _FIX,
        "the feed closes after 0.7 s",
    ),
    Assumption(
        "rollover",
        "Form of the daily reset at 22:00 UTC (only with --through-rollover)",
        "Logout, then the connection closes",
        _NONE,
        "Logout, bare close, SequenceReset and a Logon inside the connection are all handled",
        "feed.rollover",
    ),
)

BY_KEY = {assumption.key: assumption for assumption in ASSUMPTIONS}


def table() -> str:
    """The assumptions as a markdown table, for docs/assumptions.md."""
    lines = ["| assumption | expected | source | when it is wrong | setting |", "|---|---|---|---|---|"]
    for a in ASSUMPTIONS:
        text = a.text if a.scope == "all" else f"{a.text} ({a.scope})"
        setting = f"`{a.setting}`" if a.setting != "none needed" else a.setting
        lines.append(f"| **{a.key}**: {text} | {a.expected} | {a.source} | {a.when_wrong} | {setting} |")
    return "\n".join(lines) + "\n"
