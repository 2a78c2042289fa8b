"""A real Prometheus scrapes a feed and a recorder with faults: every alert fires and clears, every metric exists."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.feed.rig import Venue
from tests.monitoring.test_alerts import ALERTS, NAMES, ROOT, promtool

pytest.importorskip("prometheus_client")
DASHBOARD = json.loads((ROOT / "monitoring" / "dashboard.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]]
SYMBOLS = 12
#: limits of the rules that a test would wait too long for, and what it has instead
SHORTER = {
    "heartbeat_age_seconds > 10'": "heartbeat_age_seconds > 1'",
    "heartbeat_age_seconds > 300'": "heartbeat_age_seconds > 1'",
    "behind_bytes > 1e9": "behind_bytes > 1e12",
    "uncommitted_seconds > 900": "uncommitted_seconds > 1.5",
}


def short_rules() -> str:
    """The rules with everything that lasts for minutes lasting for seconds."""
    text = re.sub(r"for: \d+m", "for: 300ms", ALERTS.read_text())
    text = re.sub(r"\[\d+m\]", "[10s]", text)
    for long, short in SHORTER.items():
        assert text.count(long) == 1, long
        text = text.replace(long, short)
    return text


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Site:
    """A venue, a feed, a recorder, and a Prometheus that scrapes both every 400 ms."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip(("feed", "record", "prometheus"), free_ports(3), strict=True))
        self.venue = Venue(folder, "--symbols", str(SYMBOLS), "--rate", "600", "--orders", "15")
        self.config = folder / "feed.toml"
        self.config.write_text(
            self.venue.toml(
                folder,
                "t-prometheus",
                ("spot-l2",),
                feed=f"symbols_max = {SYMBOLS}\nmax_lag_s = 0.5",
                service='symbols = ["*"]\ngap_timeout_s = 3.0\nretry_max_s = 0.5',
                journal=f'[metrics]\nport = {self.ports["feed"]}\n[recorder]\ndirectory = "captures"\n'
                f"interval_s = 0.2\nmetrics_port = {self.ports['record']}",
            )
        )
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for name in ("feed", "record"):
            self.start(name)
        (folder / "alerts.yml").write_text(short_rules())
        (folder / "prometheus.yml").write_text(self.scraping())
        options = ["--config.file=prometheus.yml", "--storage.tsdb.path=tsdb"]
        options.append(f"--web.listen-address=127.0.0.1:{self.ports['prometheus']}")
        with open(folder / "prometheus.log", "w") as log:
            self.processes["prometheus"] = subprocess.Popen(["prometheus", *options], cwd=folder, stderr=log)

    def start(self, name: str) -> None:
        """`kfix NAME` with faults on command."""
        with open(self.folder / f"{name}.log", "a") as log:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "tests.monitoring.faulty", name, str(self.config)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                text=True,
                cwd=ROOT,
            )

    def scraping(self) -> str:
        """monitoring/prometheus.yml for these ports, every 400 ms."""
        text = (ROOT / "monitoring" / "prometheus.yml").read_text()
        for old, new in (
            ("_interval: 5s", "_interval: 400ms"),
            ("evaluation_interval", "scrape_timeout: 400ms\n  evaluation_interval"),
            ("127.0.0.1:9464", f"127.0.0.1:{self.ports['feed']}"),
            ("127.0.0.1:9474", f"127.0.0.1:{self.ports['record']}"),
        ):
            assert old in text
            text = text.replace(old, new)
        return text

    def fault(self, name: str, what: str) -> None:
        """Cause a fault in one of our processes."""
        stdin = self.processes[name].stdin
        assert stdin is not None
        stdin.write(what + "\n")
        stdin.flush()

    def ask(self, path: str) -> Any:
        """What Prometheus' API answers."""
        url = f"http://127.0.0.1:{self.ports['prometheus']}/api/v1/{path}"
        with urllib.request.urlopen(url, timeout=5) as answer:
            return json.load(answer)["data"]

    def page(self, name: str) -> str:
        """/metrics of a process."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[name]}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def scraped(self) -> bool:
        """Whether both processes are scraped, and the feed's session is up."""
        return len(self.ask("query?query=up==1")["result"]) == 2 and bool(self.ask("query?query=kfix_up==1")["result"])

    def firing(self) -> set[str]:
        """Names of the alerts that fire now."""
        try:
            alerts = self.ask("alerts")["alerts"]
        except OSError:  # it starts
            return {"no Prometheus"}
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    def wait(self, condition: Callable[[set[str]], Any], what: str, seconds: float = 60.0) -> None:
        """Wait until the set of firing alerts is as wanted."""
        deadline = time.monotonic() + seconds
        while not condition(now := self.firing()):
            assert time.monotonic() < deadline, f"{what}: firing are {sorted(now)}; see {self.folder}"
            time.sleep(0.1)

    def close(self) -> None:
        for process in self.processes.values():
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes.values():
            process.wait(timeout=20)
        self.venue.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    if os.environ.get("KFIX_ALERTS") != "1":
        pytest.skip("a minute of faults with a quiet machine: make alerts")
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed (Debian: prometheus)")
    found = Site(tmp_path_factory.mktemp("site"))
    try:
        found.wait(lambda firing: not firing and found.scraped(), "a site without faults")
        yield found
    finally:
        found.close()


def children(pid: int) -> list[int]:
    """The processes that a process has started: of a feed, the one that serves its metrics."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def limit_files(process: subprocess.Popen[str], size: int) -> None:
    """The size that files of a process may have, as on a full disk."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


def test_every_metric_of_rules_and_dashboard_is_exported(site):
    pages = site.page("feed") + site.page("record")
    known = set(re.findall(r"^(?:# TYPE )?(\w+)[ {]", pages, re.MULTILINE))
    rules = re.findall(r"expr: '(.*)'", ALERTS.read_text())
    wanted = set(re.findall(r"\b(?:kfix|process)_\w+", " ".join([*rules, *EXPRESSIONS])))
    assert len(wanted) > 40 and wanted <= known, wanted - known
    for name in ("feed", "record"):
        checked = promtool("check", "metrics", text=site.page(name))
        assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_prometheus_takes_every_expression_of_the_dashboard(site):
    for expression in EXPRESSIONS:
        query = expression.replace("$instance", ".+")
        assert site.ask(f"query?query={urllib.request.quote(query)}")["resultType"] == "vector", query


def test_every_panel_has_title_description_unit_and_place():
    places = []
    for panel in PANELS:
        assert panel["title"] and panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["id"]
        place = panel["gridPos"]
        across, down = (range(place[at], place[at] + place[size]) for at, size in (("x", "w"), ("y", "h")))
        places += [(x, y) for x in across for y in down]
    assert len(places) == len(set(places)) and all(x < 24 for x, _ in places)
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    known = {"none", "cps", "Bps", "percentunit", "s", "d", "bytes"}
    assert {panel["fieldConfig"]["defaults"]["unit"] for panel in PANELS} <= known


def test_every_alert_fires_and_clears(site):
    seen: set[str] = set()

    def fire(*wanted: str) -> None:
        def reached(firing: set[str]) -> bool:
            seen.update(firing)
            return seen.issuperset(wanted)

        site.wait(reached, f"{wanted} have to fire")

    feed, recorder, venue = site.processes["feed"], site.processes["record"], site.venue
    symbols = list(venue("symbols")["symbols"]["spot-l2"])
    # books and recorder
    for symbol in symbols:
        venue("crc", symbol=symbol, level="L2", count=2)
    venue("crc", symbol=symbols[0], level="L2", count=6)
    venue("list", venue="spot", symbol="NEW/USD")  # feed.symbols_max leaves no room for it
    limit_files(recorder, 4096)
    site.fault("feed", "disk full")
    site.fault("feed", "clock")
    fire("KfixChecksumsFail", "KfixBooksNotLive", "KfixSymbolsLeftOut", "KfixDiskFillsUp", "KfixClockStepped")
    fire("KfixRecorderFails", "KfixRecorderBehind")
    limit_files(recorder, -1)
    for fault in ("disk free", "clock back"):
        site.fault("feed", fault)
    venue("delist", symbol="NEW/USD")
    # session and journal
    venue("gap", service="spot-l2", count=3, answer="ignore")
    for fault in ("stall", "damage", "unproven"):
        site.fault("record", fault)
    limit_files(feed, 400_000)  # below the size of a segment
    fire("KfixGapOpen", "KfixSessionDown", "KfixRecorderStalled", "KfixJournalDamaged", "KfixNotProven")
    fire("KfixJournalNotWritten")
    limit_files(feed, -1)
    # time and errors of ours
    venue("vary", clock_offset=-3)  # in the middle of a session: messages are late, no clock is off
    fire("KfixLagging", "KfixClockOff")
    venue("vary", clock_offset=0)
    site.fault("feed", "stall")
    fire("KfixLoopStalled")
    site.fault("feed", "log closed")
    site.fault("feed", "error")  # logged, when there is a log, and a new connection
    fire("KfixInternalError", "KfixLogLinesLost")
    site.fault("feed", "log open")
    # shared memory and processes
    (site.folder / "kfix-md.t-prometheus").unlink()
    fire("KfixSegmentLost")
    stopped = [feed.pid, recorder.pid, *children(feed.pid)]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    fire("KfixDown", "KfixRecorderDown")
    for pid in stopped:
        os.kill(pid, signal.SIGCONT)
    assert seen - {"no Prometheus"} == set(NAMES)
    site.wait(lambda firing: not firing, "every alert has to clear")
    assert feed.poll() is None and recorder.poll() is None
