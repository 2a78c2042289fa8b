"""Describes how the venue writes one symbol, with every variation that can be switched on."""

import dataclasses
from typing import Any

from kfix_md.simulator import habits

#: what 5041 covers: levels or orders, printed at the precision or as sent; a rule no client knows; no 5041 at all
CHECKSUMS = ("level", "order", "level-sent", "order-sent", "unknown", "off")
NUMBERS = ("short", "plain", "padded", "trailing", "zeros", "plus", "exponent", "mixed")
IDS = ("kraken", "long", "opaque", "short", "uuid")
PRECISIONS = ("int", "float", "zeros")
SYMBOLS = ("header", "group", "both")
CHOICES = {
    "checksum": CHECKSUMS,
    "price_form": NUMBERS,
    "qty_form": NUMBERS,
    "ids": IDS,
    "precision_form": PRECISIONS,
    "symbols": SYMBOLS,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Dialect:
    """How one symbol is written at one level; the defaults are the documented forms.

    `checksum`
        What 5041 covers (CHECKSUMS).
    `crc_price_precision`, `crc_qty_precision`
        Decimals of the text of 5041 where they differ from 2349 and 5010; may be negative.
    `price_form`, `qty_form`
        Form of 270 and 271 (NUMBERS): `short` 28013.0, `plain` 28013, `padded` to the precision, `trailing` with three
        zeros beyond it, `zeros` 00028013.0, `plus` +28013.0, `exponent` 2.8013e+04, `mixed` any number of zeros.
    `ids`
        Form of 278 (IDS): `long` has over 70 characters, `opaque`, `short` and `uuid` do not repeat the price on L2.
    `times`, `iso_times`
        Decimals of 273, and of 5060 and 5273.
    `ord_type`, `aggressor`
        Value of 40 and 2446 of every trade instead of the true one.
    `entry_kind`
        269 of an additional entry in every W and X that is no part of the book.
    `unknown_tags`
        Tags no specification names, before 268 and in every entry.
    `symbols`
        Where 55 is: `header` of the message, each `group`, or `both`.
    `implicit_deletes`
        A level that leaves the depth of a subscription is not deleted by a message.
    `precision_form`
        2349 and 5010 as `int` 8, `float` 8.0 or `zeros` 08.
    `snapshot_crc`
        A W carries 5041 as well.
    """

    checksum: str = "level"
    crc_price_precision: int | None = None
    crc_qty_precision: int | None = None
    price_form: str = "short"
    qty_form: str = "short"
    ids: str = "kraken"
    times: int = 3
    iso_times: int = 9
    ord_type: str = ""
    aggressor: str = ""
    entry_kind: str = ""
    unknown_tags: bool = False
    symbols: str = "header"
    implicit_deletes: bool = False
    precision_form: str = "int"
    snapshot_crc: bool = False

    def changed(self, **switches: Any) -> "Dialect":
        """A copy with other switches; ValueError names one that is unknown or has a wrong value."""
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        values = {}
        for name, value in switches.items():
            if name not in fields:
                raise ValueError(f"no such switch: {name} (one of {', '.join([*fields, *habits.SWITCHES])})")
            values[name] = _value(name, value, fields[name])
        return dataclasses.replace(self, **values)


def _value(name: str, value: Any, default: Any) -> Any:
    if name in CHOICES:
        if value not in CHOICES[name]:
            raise ValueError(f"{name} is one of {', '.join(CHOICES[name])}, not {value}")
        return value
    if isinstance(default, bool):
        if str(value).lower() not in ("true", "false", "1", "0"):
            raise ValueError(f"{name} is true or false, not {value}")
        return str(value).lower() in ("true", "1")
    if isinstance(default, str):
        return str(value)
    if value is None or value == "":
        return default
    number = int(value)
    if default is not None and not 0 <= number <= 12:
        raise ValueError(f"{name} is a number of decimals, 0 to 12, not {value}")
    return number


def parse(text: str) -> tuple[str, str]:
    """(switch, value) of `NAME=VALUE`, of a symbol or of the venue; ValueError when there is none."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"{text}: give NAME=VALUE")
    if name in habits.SWITCHES:
        habits.value(name, value)
    else:
        Dialect().changed(**{name: value})
    return name, value
