"""Writes scaled integers as numbers in every form a venue may use."""

from collections.abc import Callable

from kfix_md.simulator import wire


def plain(value: int, precision: int) -> str:
    """No point where the value is whole: `28013`."""
    return wire.number(value, precision).removesuffix(".0")


def padded(value: int, precision: int, decimals: int | None = None) -> str:
    """As many decimals as the precision has (or `decimals`, at least the significant ones): `0.00100000`."""
    whole, _, part = wire.number(value, precision).partition(".")
    wanted = precision if decimals is None else decimals
    part = part.rstrip("0").ljust(wanted, "0")
    return f"{whole}.{part}" if part else whole


def trailing(value: int, precision: int) -> str:
    """Three zeros beyond the precision: `28013.0000` at precision 1."""
    return padded(value, precision, precision + 3)


def zeros(value: int, precision: int) -> str:
    """Zeros in front: `00028013.0`."""
    return f"000{wire.number(value, precision)}"


def plus(value: int, precision: int) -> str:
    """A sign in front: `+28013.0`."""
    return f"+{wire.number(value, precision)}"


def exponent(value: int, precision: int) -> str:
    """Scientific, exact: `2.8013e+04`, `1e-05`."""
    if not value:
        return "0"
    digits = str(value)
    power = len(digits) - 1 - precision
    part = digits[1:].rstrip("0")
    return f"{digits[0]}{'.' if part else ''}{part}e{'-' if power < 0 else '+'}{abs(power):02d}"


def mixed(value: int, precision: int) -> str:
    """Any number of zeros from none to the precision, by the value."""
    return padded(value, precision, (value * 2_654_435_761 >> 9) % (precision + 1) if precision > 0 else 0)


FORMS: dict[str, Callable[[int, int], str]] = {
    "short": wire.number,
    "plain": plain,
    "padded": padded,
    "trailing": trailing,
    "zeros": zeros,
    "plus": plus,
    "exponent": exponent,
    "mixed": mixed,
}


def decimals(text: str) -> int:
    """Decimals of a number as sent: `28013.0` has one, `1.5e-05` six."""
    mantissa, _, power = text.partition("e")
    return max(0, len(mantissa.partition(".")[2]) - int(power or 0))


def digits(value: int, precision: int, places: int) -> str:
    """A scaled integer printed with `places` decimals, point and leading zeros removed; what is finer is cut."""
    return str(value * 10 ** (places - precision) if places >= precision else value // 10 ** (precision - places))
