"""Field types of the configuration file: each checks one kind of value and names the mistake in one line."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema

from kfix_md.services import SERVICES
from kfix_md.shm.names import split_part

#: 264 MarketDepth values that the venue accepts (0: full)
DEPTHS = (0, 1, 10, 25, 100, 500, 1000)
_COMP_ID = re.compile(r"[\x21-\x7e]{1,64}")


def is_production(host: str) -> bool:
    """True for Kraken's production hosts, where certificate verification may not be switched off."""
    host = host.lower().rstrip(".")
    return (host == "kraken.com" or host.endswith(".kraken.com")) and ".uat." not in host


def is_loopback(host: str) -> bool:
    """True when the host is a loopback address or localhost."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _service_name(value: str) -> str:
    if value not in SERVICES:
        raise ValueError(f"must be one of {', '.join(map(repr, SERVICES))}")
    return value


def _secret_reference(value: str) -> str:
    if not re.fullmatch(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)", value):
        raise ValueError('secrets do not belong in this file; write "env:VARIABLE" or "file:/path"')
    return value


def _comp_id(value: str) -> str:
    if not _COMP_ID.fullmatch(value):
        raise ValueError("must be 1 to 64 printable characters without spaces, as Kraken assigned it")
    return value


def _mode(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,4}", value):
        mode = int(value.removeprefix("0o"), 8)
        if mode & 0o022:
            raise ValueError('others could write prices into shared memory; "0640" lets your group read')
        return mode
    raise ValueError('must be octal text such as "0600" (only you) or "0640" (your group may read)')


def _clock(value: Any) -> Any:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", str(value))
    if not found:
        raise ValueError('must be a time of day in UTC such as "22:00"')
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def _depth(value: int) -> int:
    if value not in DEPTHS:
        raise ValueError(f"must be one of {', '.join(map(str, DEPTHS))} (0 is the full book)")
    return value


def _logon_fields(value: dict[str, str]) -> dict[str, str]:
    for tag in value:
        if not re.fullmatch(r"[1-9]\d{0,8}", tag):
            raise ValueError(f"'{tag}' is not a FIX tag, a number such as 5051")
    return value


def _segment_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,48}", value) or value.startswith("."):
        raise ValueError("must be 1 to 48 letters, digits, dots, dashes or underscores")
    if split_part(value)[1]:
        raise ValueError(f"must not end in .{split_part(value)[1]}: reserved for per-service segments")
    return value


# the JSON schemas are those of the file's values, before validation
ServiceName = Annotated[str, AfterValidator(_service_name), WithJsonSchema({"enum": list(SERVICES)})]
SegmentName = Annotated[
    str,
    AfterValidator(_segment_name),
    WithJsonSchema({"type": "string", "pattern": "^(?!\\.)[A-Za-z0-9._-]{1,48}$"}),
]
FileMode = Annotated[
    int,
    BeforeValidator(_mode),
    WithJsonSchema({"type": "string", "pattern": "^(0o)?[0-7]{3,4}$"}),
]
SecretRef = Annotated[
    str,
    AfterValidator(_secret_reference),
    WithJsonSchema({"type": "string", "pattern": "^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)$"}),
]
CompID = Annotated[
    str, AfterValidator(_comp_id), WithJsonSchema({"type": "string", "pattern": f"^{_COMP_ID.pattern}$"})
]
TimeOfDay = Annotated[
    int,
    BeforeValidator(_clock),
    WithJsonSchema({"type": "string", "pattern": "^([01][0-9]|2[0-3]):[0-5][0-9](:[0-5][0-9])?$"}),
]
Depth = Annotated[int, AfterValidator(_depth), WithJsonSchema({"enum": list(DEPTHS)})]
LogonFields = Annotated[dict[str, str], AfterValidator(_logon_fields)]
#: 167 of an instrument list request; ALL is one request for every instrument (559=4).
SecurityType = Literal["ALL", "CASH", "FUT", "OPT", "TS"]
Cpu = Annotated[int, Field(ge=0)]
