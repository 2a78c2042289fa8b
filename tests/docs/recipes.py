"""Writes the data dictionary in docs/recipes.md from schema and reader: `python -m tests.docs.recipes`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa

import recorder
from recorder import schema

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "recipes.md"
FOLDER = ROOT / "examples" / "notebooks"  # the recipes are run there
CAPTURES = FOLDER / "captures"
BEGIN, END = "<!-- dictionary: begin -->\n", "<!-- dictionary: end -->"
#: unit by name of column, for those that have one; the first pattern that fits counts
UNITS = (
    (r"event_ms", "ms since 1970 UTC"),
    (r"event_frac_ns", "ns"),
    (r".*_ns", "ns since 1970 UTC"),
    (r"(price|qty)_(scale|precision)", "decimals"),
    (r"decimals", "two numbers of decimals"),
    (r"price", "10^-price_scale of the quote currency"),
    (r"qty", "10^-qty_scale of the base currency, or contracts"),
    (r"bid|ask|open|high|low|close|.*_px_\d+", "quote currency"),
    (r".*volume|.*_qty(_\d+)?", "base currency, or contracts"),
    (r"tick_size|min_cost", "quote currency"),
    (r"min_increment|min_qty|max_qty", "base currency, or contracts"),
    (r"seq|first_seq|last_seq", "MsgSeqNum"),
    (r"messages|ignored", "frames"),
    (r"rows", "rows"),
    (r"trades", "trades"),
    (r"entry_no", "from 0"),
    (r"lost", "messages or bytes"),
    (r"depth", "levels"),
    (r"flags", "bits"),
    (r"order_id", "128 bits"),
    (r"crc", "CRC32"),
)


def unit(column: str) -> str:
    """Unit of a column, empty when it has none."""
    return next((text for pattern, text in UNITS if re.fullmatch(pattern, column)), "")


def kind(of: pa.DataType) -> str:
    """A type as the page names it."""
    if pa.types.is_dictionary(of):
        return "string (dictionary)"
    return {pa.binary(16): "binary[16]", pa.float64(): "float64"}.get(of, str(of))


def derived() -> dict[str, pa.Schema]:
    """Tables that the reader derives, as of the capture in examples/notebooks."""
    cap = recorder.open(CAPTURES)
    return {
        "cap.bbo(symbol)": cap.bbo("BTC/USD").schema,
        "cap.depth(symbol, levels=1)": cap.depth("BTC/USD", every="1s", levels=1).schema,
        "cap.bars(symbol)": cap.bars("BTC/USD").schema,
        "cap.coverage(day)": cap.coverage().schema,
    }


def dictionary() -> str:
    """Every table, stored and derived, as markdown."""
    lines: list[str] = []
    for name, columns in (schema.SCHEMAS | derived()).items():
        lines += ["", f"### `{name}`", "", "| column | type | unit |", "|---|---|---|"]
        lines += [f"| {field.name} | {kind(field.type)} | {unit(field.name)} |" for field in columns]
    return "\n".join(lines[1:]) + "\n\n"


def rewritten(page: str) -> str:
    """The page with the dictionary of this tree in it."""
    head, rest = page.split(BEGIN)
    return head + BEGIN + "\n" + dictionary() + END + rest.split(END)[1]


def blocks(page: str) -> dict[str, str]:
    """The Python code of each recipe, by its heading."""
    found = {}
    for part in re.split(r"^### ", page.split(END)[1], flags=re.MULTILINE)[1:]:
        code = re.findall(r"^```python\n(.*?)^```", part, flags=re.MULTILINE | re.DOTALL)
        found[part.split("\n")[0]] = "\n".join(code)
    return found


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text()))
