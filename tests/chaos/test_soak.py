"""A few seconds of the soak (the long one is `make soak`), and what its judge calls growth."""

from tests.chaos.soak import Plan, Sample, judge, run


def samples(**grown):
    """Twenty samples; `grown`: name -> what is added by the end."""
    start = {"rss": 100 << 20, "files": 30, "tasks": 20, "lag_ms": 1.0}
    return [
        Sample(n, **{name: value + grown.get(name, 0) * n / 20 for name, value in start.items()}) for n in range(20)
    ]


def test_what_grows_is_named():
    assert judge(samples()) == []
    assert "resident memory" in judge(samples(rss=50 << 20))[0]
    assert "files grew" in judge(samples(files=20))[0]
    assert "tasks grew" in judge(samples(tasks=20))[0]
    assert "lag grew" in judge(samples(lag_ms=500))[0]
    assert judge(samples()[:3]) == ["only 3 samples: too short a run"]


def test_a_few_seconds_leave_nothing_behind(tmp_path):
    report = run(Plan(seconds=6, symbols=4, rate=500, rollover=3, sample=0.25), tmp_path)
    assert report["wrong"] == []
    assert report["rollovers"] >= 1 and report["compared_at_the_end"] == 16
    assert report["messages"] > 2_000
