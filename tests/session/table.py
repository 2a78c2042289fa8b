"""The 90 cases of the FIX session layer, and the writer of the table in docs/session.md.

`python -m tests.session.table` writes the table again; test_table.py holds it against the tests there are.
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = ROOT / "docs" / "session.md"
BEGIN, END = "<!-- table: begin -->\n", "<!-- table: end -->\n"

#: number -> (condition, what the session does)
ROWS: dict[int, tuple[str, str]] = {
    1: ("the transport is up", "Logon is the first frame: 98=0, 108, 141"),
    2: ("we log on with 141=Y", "before it is sent: our 34 is 1, next out 2; the 34 of the reply is taken"),
    3: ("we log on with 141=N", "both counters come from the store"),
    4: ("reply with the expected 34", "logged on, one number further"),
    5: ("reply to 141=N with a higher 34", "logged on, then one ResendRequest; the Logon itself is used up"),
    6: ("reply to 141=N with a lower 34", "Logout with both numbers in 58, close; at once again with 141=Y"),
    7: ("reply with 141=Y that we did not request", "both directions restart at 1, everything is subscribed again"),
    8: ("no reply to our Logon in time", "close, back off"),
    9: (
        "Logout instead of a Logon",
        "58 kept, back off; long when it is about identity or limits, also near 22:00; at once when about 34",
    ),
    10: ("closed without a Logout after our Logon", "back off"),
    11: ("108 in the reply is not ours", "theirs counts"),
    12: ("any other message before the reply", "close"),
    13: ("a second Logon without 141", "Logout, close"),
    14: (
        "a Logon with 141=Y in session",
        "new numbers, answered, books void, subscribe again; one that answers ours confirms",
    ),
    15: ("our CompID is connected elsewhere", "back off; the store's lock keeps two of ours apart"),
    16: ("52 of the reply is too far off", "close"),
    17: ("reply with wrong length, 8, 49 or 56", "close"),
    18: ("789 of the reply is below our next 34", "gap fill from there at once"),
    19: ("789 of the reply is above our next 34", "Logout, close"),
    20: ("789 of the reply is our next 34", "nothing"),
    21: ("34 as expected", "delivered once, one number further, whatever the type"),
    22: ("34 too high", "kept; one ResendRequest to the end"),
    23: ("more comes inside the gap", "kept within bounds of count and bytes; past them a new session"),
    24: ("the replay comes (43=Y)", "applied in order, then the queue; copies of queued messages dropped"),
    25: ("the gap does not close", "chunk by chunk; without progress requested once more, then reconnect with 141=Y"),
    26: ("34 too low without 43=Y", "Logout, close"),
    27: ("34 too low with 43=Y", "ignored"),
    28: ("43=Y without 122", "Reject 373=1 371=122, number not used"),
    29: ("43=Y with 122 after 52", "Reject 373=10, Logout, close"),
    30: ("43=Y with the expected 34", "new"),
    31: ("97=Y", "judged by its content"),
    32: ("gap fill in its turn", "expect 36, queue drained from there"),
    33: ("gap fill ahead of its turn", "itself a gap: kept, requested, done in its turn"),
    34: ("gap fill with a low 34 and 43=Y", "ignored"),
    35: ("gap fill with a low 34, no 43", "Logout, close"),
    36: ("reset mode (123 not Y)", "expect 36 whatever its 34; what is between is lost"),
    37: ("reset mode to the number we expect", "nothing, counted"),
    38: ("36 below the expected number", "Reject 373=5, nothing changes"),
    39: (
        "gap fill over what may be market data",
        "reported as lost, books wait for snapshots; queued messages are applied",
    ),
    40: ("replay and gap fills mixed", "both advance"),
    41: ("ResendRequest for our messages", "one gap fill with 43=Y and 122 that uses no number"),
    42: ("our requests are in that range", "not replayed; the application makes fresh ones where needed"),
    43: ("ResendRequest beyond what we sent", "nothing"),
    44: ("ResendRequest with a 34 too high", "answered first, then our own gap is requested"),
    45: ("the same ResendRequest again", "answered again"),
    46: ("a gap is open", "not ready"),
    47: ("we sent nothing for a while", "Heartbeat before 108 seconds are over"),
    48: ("TestRequest", "Heartbeat with its 112 at once, also in a gap"),
    49: ("nothing received for 1.2 intervals", "TestRequest"),
    50: ("nothing received for 2.4 intervals", "close, reconnect"),
    51: ("anything received", "restarts the clock of silence"),
    52: ("Heartbeat with a 112 that was not requested", "nothing"),
    53: ("wrong checksum", "dropped, number not used, a TestRequest at once, comes back by resend"),
    54: ("9 too short or too long", "on to the next frame, comes back by resend"),
    55: ("9 not a number, or absurd", "dropped without waiting"),
    56: ("a garbled tag", "the frame is dropped as garbled"),
    57: ("8, 9, 35 not first", "dropped as garbled"),
    58: ("bytes between frames", "skipped"),
    59: ("another FIX version in session", "Logout, close"),
    60: ("wrong 49 or 56 in session", "Reject 373=9, Logout, close"),
    61: ("52 too far off", "Reject 373=10, Logout, close; limit is a setting, lag is measured"),
    62: ("52 missing", "Reject 373=1 371=52, number used"),
    63: ("34 missing", "Logout, close"),
    64: ("35 is no MsgType", "Reject 373=11, number used"),
    65: ("35 we do not use", "counted, number used; with 268 or 279 in it lost market data"),
    66: ("a tag of W or X is missing", "Reject, number used, that book stale"),
    67: ("a tag without value", "Reject, number used, that book stale"),
    68: ("a tag that is no number", "garbled or skipped, never a crash"),
    69: ("a tag we do not know", "skipped"),
    70: ("268 is not the number of groups", "Reject 373=16, nothing applied, that book stale"),
    71: ("268=0", "snapshot: both sides empty; update: its 5041 must prove the book, without one the entries are lost"),
    72: ("header in another order", "accepted"),
    73: ("body in another order", "accepted"),
    74: ("header tag repeated or late", "tolerated, counted"),
    75: ("Reject", "kept, never answered"),
    76: ("Reject of a request of ours", "the request is named by its number"),
    77: ("35=j or 35=Y", "to the application in order"),
    78: ("Logout", "answered, books void at once; then they close or we do after 2 s"),
    79: ("we log out", "books void, market data ignored, resends answered until confirmed or timed out"),
    80: ("Logout with a 34 too high", "logged out without asking for the gap"),
    81: ("Logout in reply to ours", "no second one"),
    82: ("connection lost", "partial bytes, queue and subscriptions void; reconnect"),
    83: ("close or Logout around 22:00 UTC", "planned: no alarm, quick retries, a gap with cause rollover"),
    84: ("numbers restart around 22:00 UTC", "in place when the peer states it, else a planned reconnect"),
    85: ("logons refused in the window", "keeps trying, no escalation"),
    86: ("we restart", "continued or reset, with the same end"),
    87: ("any split of the bytes", "the same result"),
    88: ("a whole message twice, no 43", "fatal, not applied twice"),
    89: ("entries of an ended subscription", "ignored by their 262"),
    90: ("a new subscription", "a new 262 each time, remembered by its number"),
}


def tests_by_row() -> dict[int, list[str]]:
    """Row number -> `file::test` of every test that names it, anywhere under tests/."""
    found: dict[int, list[str]] = {}
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for name, number in re.findall(r"^(?:async )?def (test_row_(\d\d)_\w+)", path.read_text(), re.MULTILINE):
            found.setdefault(int(number), []).append(f"{path.relative_to(ROOT / 'tests')}::{name}")
    return found


def table() -> str:
    """The table as Markdown."""
    tests = tests_by_row()
    lines = ["| # | when | then | tests |", "|---|---|---|---|"]
    for number, (condition, answer) in ROWS.items():
        names = "<br>".join(f"`{name}`" for name in tests.get(number, []))
        lines.append(f"| {number} | {condition} | {answer} | {names} |")
    return "\n".join(lines) + "\n"


def written() -> str:
    """The table as it is in the document."""
    return DOCUMENT.read_text().split(BEGIN)[1].split(END)[0]


if __name__ == "__main__":
    before, after = DOCUMENT.read_text().split(BEGIN)[0], DOCUMENT.read_text().split(END)[1]
    DOCUMENT.write_text(before + BEGIN + table() + END + after)
