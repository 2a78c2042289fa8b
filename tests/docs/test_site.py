"""The site builds without a broken link, and its generated pages are those of this tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs import c_reference, site

ROOT = Path(__file__).resolve().parents[2]


def test_the_reference_of_the_c_header_is_that_of_its_comments():
    assert c_reference.PAGE.read_text() == c_reference.page(), "run: python -m tests.docs.c_reference"


def test_the_reference_of_the_c_header_has_every_block_and_function():
    text, page = c_reference.HEADER.read_text(), c_reference.page()
    names = [
        line.split("(")[0].split()[-1].lstrip("*") for line in text.splitlines() if line.startswith("static inline")
    ]
    names += [line.split()[1] for line in text.splitlines() if line.startswith(("struct kfix_", "enum kfix_"))]
    assert len(names) > 30 and [name for name in names if f"{name}\n" not in page] == []


def test_every_link_of_the_site_leads_somewhere(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    python = (tmp_path / "site" / "reference" / "python.html").read_text()
    for name in ("kfix_md.shm.attach.Feed.snapshot", "recorder.catalog.Captures.ticks", "kfix_md.errors.NotLive"):
        assert f'id="{name}"' in python, name
    assert "Levels of each side that readers can see" in (tmp_path / "site" / "configuration.html").read_text()
    assert (tmp_path / "site" / "source" / "monitoring" / "alerts.yml.txt").is_file()


def test_links_to_files_of_the_project_lead_to_their_copies():
    assert site.outside("index.md", "docs/parquet.md") == "docs/parquet.md"
    assert site.outside("deploy.md", "../deploy") == "deploy"
    assert site.outside("deploy.md", "operations.md") is None
    assert site.outside("decisions/README.md", "../performance.md") is None
    assert site.outside("faq.md", "https://example.net/x") is None
    text = "[a](../monitoring/alerts.yml) `[b](../x)`\n```\n[c](../setup.py)\n```\n"
    assert site.linked("runbook.md", text) == {"monitoring/alerts.yml", "x"}
