"""Which faults a chaos run throws at the feed, how often, and with what arguments; all drawn by a seed."""

from __future__ import annotations

import random
from collections.abc import Iterable

from tests.chaos.variations import Fault, Variation

#: what the rollover looks like on the wire, in turn
FORMS = ("logout", "fin", "inlogon", "rst", "seqreset", "restart1", "silent", "restart0")
ANSWERS = ("replay", "gapfill", "mixed", "replay", "ignore")
LOST = (
    "checksum",
    "checksum_256",
    "body_short",
    "body_long",
    "body_text",
    "body_huge",
    "cut",
    "nul",
    "eight_bits",
    "tag",
    "first_three",
    "tag_number",
)
CONTENT = ("time_missing", "count_more", "count_less", "missing", "empty", "value", "type")
SESSION = ("begin", "sender", "target", "time", "seq_missing", "dup", "possdup_late", "cut_close")
HARMLESS = (
    "noise",
    "possdup",
    "possdup_first",
    "possdup_no_122",
    "possresend",
    "unknown_tag",
    "duplicate_tag",
    "order",
)
LOGONS = (
    "heartbeat",
    "high",
    "low",
    "reset",
    "logout",
    "close",
    "time",
    "before",
    "next_equal",
    "next_low",
    "next_high",
    "length",
    "begin",
    "sender",
    "target",
)


def draw(rng: random.Random, symbols: dict[str, list[str]], variations: Iterable[Variation] = ()) -> Fault:
    """One fault as (command, arguments), of the usual ones and of `variations`; `symbols` are the names by service.

    Late streams are left out: while a symbol is streamed under two ids, the venue's truth at a MsgSeqNum may
    be of the message that we have to ignore.
    """
    service = rng.choice(sorted(symbols))
    symbol = rng.choice(symbols[service])
    where = {"service": service}
    level = "L3" if service.endswith("l3") else "L2"
    kinds: list[tuple[int, Fault]] = [
        (30, ("gap", {**where, "count": rng.choice([1, 1, 2, 5]), "answer": rng.choice(ANSWERS)})),
        (20, ("garble", {**where, "edit": rng.choice(LOST)})),
        (15, ("garble", {**where, "edit": rng.choice(HARMLESS)})),
        (10, ("garble", {**where, "edit": rng.choice(CONTENT)})),
        (4, ("garble", {**where, "edit": rng.choice(SESSION)})),
        (8, ("crc", {**where, "symbol": symbol, "level": level})),
        (4, ("drop", {**where, "how": rng.choice(["fin", "rst"])})),
        (3, ("logout", where)),
        (3, ("logon", {**where, "variant": rng.choice(LOGONS)})),
        (2, ("refuse", {**where, "seconds": 0.4, "how": rng.choice(["close", "logout", "tcp"])})),
        (4, ("small_writes", {**where, "size": rng.choice([1, 7, 100]), "seconds": 0.1})),
        (3, ("slow_reads", {**where, "seconds": 0.3})),
        (4, ("delay", {**where, "seconds": 0.2})),
        (2, ("mute", {**where, "seconds": 0.5})),
        (6, ("testrequest", where)),
        (6, ("resendrequest", {**where, "first": rng.randrange(1, 5)})),
        (3, ("resnapshot", {**where, "symbol": symbol})),
        (2, ("clear", {"symbol": symbol})),  # on both services: they are views of one market
        (2, ("precision", {"symbol": symbol, "price_precision": rng.randrange(1, 6)})),  # coarser ones are refused
        (3, ("reject", {**where, "symbol": symbol, "reason": rng.choice([0, 1, 5])})),
        (2, ("answer", {**where, "with": rng.choice(["j", "3"]), "type": "V"})),
        (2, ("sequence_reset", {**where, "gap_fill": True})),
    ]
    for variation in variations:
        if variation.drawn:
            kinds += variation.drawn(rng, service, symbol, symbols[service])
    return rng.choices([fault for _, fault in kinds], [weight for weight, _ in kinds])[0]
