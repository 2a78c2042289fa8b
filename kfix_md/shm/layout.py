"""Byte layout of a segment as numpy dtypes and as the tables of the manual, parsed from kfix_shm.h."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, cast

import numpy as np

HEADER = Path(__file__).with_name("kfix_shm.h")
BLOCKS = ("header", "counter", "session", "symbol", "top", "level", "best", "depth", "order", "trades", "trade")

SCALARS = {f"{sign}int{bits}_t": f"{sign[:1] or 'i'}{bits // 8}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
FIELD = re.compile(r"^\s+(?:struct kfix_)?(\w+) (\w+)(?:\[(\w+)\])?;(?:\s*/\* (.*?) \*/)?", re.M)


def _count(text: str, sizes: dict[str, int]) -> int:
    """Elements of an array field: a number or a KFIX_ constant; 0 when the field is no array."""
    if not text:
        return 0
    return sizes[text] if text in sizes else int(text)


@cache
def _structs() -> dict[str, list[tuple[str, str, int, str]]]:
    """name -> (type, field, elements (0: no array), comment) of each field."""
    text = HEADER.read_text()
    sizes = {name: int(value) for name, value in re.findall(r"#define (KFIX_\w+) +(\d+)u\b", text)}
    found = {}
    for name, body in re.findall(r"^struct kfix_(\w+) \{\n(.*?)^\};", text, re.M | re.S):
        found[name] = [
            (kind, field, _count(count, sizes), comment) for kind, field, count, comment in FIELD.findall(body)
        ]
    return found


def number() -> int:
    """Number of the layout (KFIX_LAYOUT): readers reject any other."""
    found = re.search(r"#define KFIX_LAYOUT +(\d+)u\b", HEADER.read_text())
    assert found is not None
    return int(found[1])


@cache
def dtype(block: str) -> np.dtype[np.void]:
    """The numpy dtype of `struct kfix_BLOCK` (one of BLOCKS): C alignment, little-endian, text as bytes."""
    fields: list[tuple[str, Any] | tuple[str, Any, tuple[int]]] = []
    for kind, name, count, _ in _structs()[block]:
        if kind == "char":
            fields.append((name, f"S{count}"))
        else:
            base: str | np.dtype[np.void] = SCALARS[kind] if kind in SCALARS else dtype(kind)
            fields.append((name, base, (count,)) if count else (name, base))
    found: np.dtype[np.void] = np.dtype(cast("Any", fields), align=True)
    return found


def table(block: str) -> str:
    """A markdown table of one block: offset, bytes, type, field, meaning."""
    kinds: Any = dtype(block).fields
    rows = [f"**kfix_{block}**, {dtype(block).itemsize} bytes", ""]
    rows += ["| at | bytes | type | field | |", "|---|---|---|---|---|"]
    for kind, name, count, comment in _structs()[block]:
        field, at = kinds[name][:2]
        shown = f"{kind.removesuffix('_t')}[{count}]" if count else kind.removesuffix("_t")
        if not name.startswith("spare"):
            rows.append(f"| {at} | {field.itemsize} | {shown} | {name} | {comment} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print("\n\n".join(table(block) for block in BLOCKS))
