"""Lists the switches of the whole venue: how sessions begin, end and resend, and the form of tag 52."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kfix_md.simulator.venue import VenueConfig

#: answers to a ResendRequest
ANSWERS = ("replay", "gapfill", "mixed", "ignore", "chunks", "reject")
#: fields of `Config` that may change while the venue runs, and their values
SWITCHES: dict[str, tuple[str, ...] | range] = {
    "replay": ANSWERS,
    "chunk": range(1, 1_000_000),
    "logon_echo": ("", "next", "one"),
    "on_logout": ("close", "open", "ignore"),
    "after_logout": ("close", "data", "open"),
    "linger": range(86_401),
    "time_decimals": range(13),
    "clock_offset": range(-86_400, 86_401),
    "header": ("guide", "ids", "time-last"),
    "logon_reset": ("echo", "absent"),
    "test_request": ("answer", "ignore"),
    "unknown_symbol": ("reject", "ignore", "business"),
    "duplicate_id": ("reject", "ignore", "accept"),
    "several_symbols": ("each", "first"),
    "list_updates": ("accept", "reject"),
    "fragment": range(1, 1_000_000),
    "interleave": ("false", "true"),
}


def value(name: str, given: Any) -> Any:
    """The value of a switch; ValueError when it is none of those it may have."""
    allowed = SWITCHES[name]
    if isinstance(allowed, range):
        if not str(given).removeprefix("-").isdigit() or int(given) not in allowed:
            raise ValueError(f"{name} is a number from {allowed.start} to {allowed.stop - 1}, not {given}")
        return int(given)
    text = str(given).lower() if isinstance(given, bool) else str(given)
    if text not in allowed:
        raise ValueError(f"{name} is one of {', '.join(filter(None, allowed))}, not {given}")
    return text == "true" if "true" in allowed else text


def change(config: "VenueConfig", switches: dict[str, Any]) -> None:
    """Set switches of a venue; none is set when one has a wrong value."""
    values = {name: value(name, given) for name, given in switches.items()}
    for name, wanted in values.items():
        setattr(config, name, wanted)
