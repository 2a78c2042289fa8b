"""Writes docs/states.md from the table of book states: python -m tests.core.states_page."""

from __future__ import annotations

from pathlib import Path

from kfix_md._entry import State
from kfix_md._state import SOUND, Event, keeps, next_of, voids

PAGE = Path(__file__).resolve().parents[2] / "docs" / "states.md"

MEANING = {
    Event.SUBSCRIBE: "a 35=V went out; its snapshot is awaited",
    Event.UNSUBSCRIBE: "whatever still comes is late",
    Event.REDEFINE: "the instrument's precision changed",
    Event.SNAPSHOT: "a 35=W was applied",
    Event.APPLIED: "a 35=X was applied",
    Event.CRC_FAILED: "5041 differs from the book",
    Event.CROSSED: "best bid at or above best offer, with no 5041 that proves it",
    Event.MALFORMED: "a W or X that cannot be applied whole",
    Event.DOUBTED: "marked STALE from outside",
    Event.GAP_OPENED: "messages of the session are missing; they may be replayed",
    Event.GAP_CLOSED: "all of them were replayed and applied",
    Event.LOST: "messages are missing for good",
    Event.HALT: "the venue does not trade the instrument",
    Event.RESUME: "the venue trades it again",
    Event.REJECT: "the venue refused the subscription",
    Event.DISCONNECT: "the session has ended",
    Event.ROLLOVER: "the daily reset",
    Event.RULE_UNKNOWN: "5041 fails under every known rule while nothing else is wrong",
    Event.RULE_FOUND: "5041 agreed by one rule for a run of messages",
}


def name(code: State | int) -> str:
    return "sound" if code == SOUND and not isinstance(code, State) else State(code).name


def changes() -> list[str]:
    """Rows of the table of changes: states that the same events lead to the same next state share one."""
    rows: dict[tuple[str, str], list[str]] = {}
    for event in Event:
        targets = [next_of(event, state) for state in State]
        everywhere = len(set(targets)) == 1
        from_states = (
            ["any"]
            if everywhere
            else [state.name for state, target in zip(State, targets, strict=True) if name(target) != state.name]
        )
        for source in from_states:
            target = targets[0] if everywhere else targets[list(State).index(State[source])]
            rows.setdefault((source, name(target)), []).append(event.name)
    shared: dict[tuple[str, str], list[str]] = {}
    for (source, target), events in rows.items():
        shared.setdefault((", ".join(events), target), []).append(source)
    return [f"| {', '.join(sources)} | {events} | {target} |" for (events, target), sources in shared.items()]


def page() -> str:
    states = list(State)
    head = "| event | " + " | ".join(state.name for state in states) + " |"
    rows = [
        f"| {event.name} | " + " | ".join(name(next_of(event, state)) for state in states) + " |" for event in Event
    ]
    return "\n".join(
        [
            "# States of a book",
            "",
            "Generated from the table in `kfix_md/c/states.h` by `python -m tests.core.states_page`; a test keeps it "
            "true.",
            "",
            "**sound** is no state: the book holds a snapshot and every message since, and its own facts name the "
            "state: GAP while",
            "messages of its session are missing, else HALTED (the instrument does not trade), UNVERIFIED (no known "
            "checksum rule",
            "holds), EMPTY (no orders on either side) or LIVE. Only LIVE and EMPTY are trusted. "
            + ", ".join(state.name for state in states if keeps(state)),
            "keep the book; from any other state only a snapshot leads back. A book begins in INIT;",
            "**any** is every state, and a state that an event does not change is not listed.",
            "",
            "| from | on | to |",
            "|---|---|---|",
            *changes(),
            "",
            "## Events",
            "",
            "| event | | voids the book |",
            "|---|---|---|",
            *(f"| {event.name} | {MEANING[event]} | {'yes' if voids(event) else ''} |" for event in Event),
            "",
            "## Table",
            "",
            head,
            "|---" * (len(states) + 1) + "|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    PAGE.write_text(page())
