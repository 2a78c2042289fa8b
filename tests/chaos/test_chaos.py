"""A short chaos run in every test run (the long one is `make chaos`), and the judge's own rules."""

from tests.chaos.accounts import covers, explains
from tests.chaos.run import Plan, run

SECOND = 1_000_000_000


def test_a_live_book_is_right_whatever_happens(tmp_path):
    report = run(Plan(seconds=7, symbols=6, faults=8, rollover=3, seed=11, patience=5), tmp_path)
    assert report["wrong"] == []
    assert report["samples"]["equal"] > 50
    assert sum(report["injected"].values()) > 20
    assert report["compared_at_the_end"] == 24
    assert report["trusted_spans"] > 24, "compared with the captures"
    assert min(report["trust_samples"].values()) > 5 and len(report["trust_samples"]) == 2, "and at single moments"
    assert any(kind.startswith("rollover") for kind in report["injected"])


def gap(first, last, cause="lost", opened=100):
    return {"first": first, "last": last, "cause": cause, "opened_ns": opened * SECOND, "closed_ns": 110 * SECOND}


def fault(first, last, at=100, harm="lost"):
    return {"harm": harm, "first": first, "last": last, "seqs": list(range(first, last + 1)), "at_ns": at * SECOND}


def test_a_loss_is_matched_by_its_numbers_and_its_time():
    assert covers(gap(5, 9), fault(6, 7))
    assert not covers(gap(5, 9), fault(6, 10))
    assert not covers(gap(5, 9), fault(6, 7, at=300))
    assert covers(gap(5, None), fault(6, 7)), "an outage"
    assert not covers(gap(5, None), fault(6, 7, at=200))


def test_a_gap_is_matched_with_its_fault():
    assert explains(fault(6, 7), gap(6, 7))
    assert not explains(fault(16, 17), gap(6, 7))
    assert not explains(fault(6, 7, at=50), gap(6, 7))
    assert explains(fault(6, 6, harm="content"), gap(6, None, "crc"))
    assert not explains(fault(6, 6, harm="lost"), gap(6, None, "crc"))
