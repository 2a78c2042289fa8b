"""The table of docs/session.md is whole: 90 rows, each with its tests, as they are in the files."""

import re

from tests.session import table


def test_every_row_has_a_test():
    tests = table.tests_by_row()
    assert set(table.ROWS) == set(range(1, 91))
    assert set(tests) == set(range(1, 91)), "a row without a test, or a test without a row"


def test_no_row_is_skipped():
    for names in table.tests_by_row().values():
        for name in names:
            text = (table.ROOT / "tests" / name.split("::")[0]).read_text()
            before = text.split(f"def {name.split('::')[1]}(")[0].rsplit("\n\n\n", 1)[-1]
            assert not re.search(r"mark\.(skip|xfail)|pytest\.skip", before), name


def test_the_document_is_true():
    assert table.written() == table.table(), "run: python -m tests.session.table"
