"""Checks everything outside the configuration file that a feed depends on: machine, network, venue, symbols."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kfix_md.config import Config, ServiceSection, load, service_names
from kfix_md.disk import Room, rooms
from kfix_md.errors import FeedError, KfixError, UsageError, may_pass
from kfix_md.feed import tuning
from kfix_md.feed.checks import check_writable
from kfix_md.feed.connector import Connector
from kfix_md.feed.dial import DialResult, choose_engine
from kfix_md.feed.service import Service
from kfix_md.metrics_server import listen
from kfix_md.session.types import SessionState
from kfix_md.shm.owners import make_own_directory

OK, WARN, FAIL = "ok", "warn", "FAIL"
ORDER_ENTRY_PORTS = (4001, 4003)
ENOUGH_DAYS = 21  # of certificate left
ENOUGH_BYTES = 2 << 30  # of journal disk left
ENOUGH_MEMORY = 64 << 20  # of shared memory left
CLOCK_WARNING_S = 0.5
PLACEHOLDER = "YOUR-COMPID"  # what the files in examples/ have in the place of a CompID


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check: `status` is ok, warn or FAIL; `text` names the remedy unless it is ok."""

    status: str
    about: str
    text: str


class _Warnings(logging.Handler):
    """Collects the warnings of one service."""

    def __init__(self, service: str) -> None:
        super().__init__(logging.WARNING)
        self.service = service
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(record, "service", "") == self.service:
            self.lines.append(record.getMessage())


def examine(path: str, timeout_s: float = 8.0) -> list[Finding]:
    """Run every check of a configuration file. UsageError when it cannot be read."""
    config = load(path)
    findings = [Finding(OK, "configuration", f"{path}: {len(config.service)} sessions")]
    findings += directories(config)
    findings += machine(config)
    running = _running(config)
    if running:
        findings.append(
            Finding(
                OK,
                "feed",
                f"'{config.feed.name}' is running (pid {running}): its CompIDs are in use, so no logon is tried",
            )
        )
    else:
        findings += metrics(config)
    findings += asyncio.run(_services(config, not running, timeout_s))
    return findings


def machine(config: Config) -> list[Finding]:
    """Check that this machine grants TLS engine, CPUs and priority."""
    feed, found = config.feed, []
    try:
        fast = choose_engine(feed.tls_engine).__module__.startswith("aiofastnet")
        found.append(
            Finding(
                OK,
                "TLS engine",
                "aiofastnet"
                if fast
                else "uvloop's own"
                + ("" if feed.tls_engine == "uvloop" else "; pip install aiofastnet for a third less CPU"),
            )
        )
        tuning.check(feed)
    except UsageError as error:
        found.append(Finding(FAIL, "feed", str(error)))
    processes = len(service_names(config)) if feed.processes == "per-service" else 1
    cpus = tuning.cpus_of(feed) or os.sched_getaffinity(0)
    if feed.busy_poll and len(cpus) < processes:
        found.append(
            Finding(
                WARN,
                "busy_poll",
                f"{processes} processes that never sleep on {len(cpus)} CPU: they "
                "delay each other; list one CPU for each in feed.cpu",
            )
        )
    if feed.rt_priority is not None and not tuning.permitted(feed.rt_priority):
        found.append(
            Finding(
                WARN, "rt_priority", "not permitted, the feed continues without; grant CAP_SYS_NICE (or LimitRTPRIO)"
            )
        )
    return found


def metrics(config: Config) -> list[Finding]:
    """Check that the ports of /metrics can be had; a feed whose port is taken works without."""
    section, found = config.metrics, []
    processes = len(service_names(config)) if config.feed.processes == "per-service" else 1
    for port in range(section.port, section.port + processes) if section.port else ():
        try:
            listen(section.host, port).close()
            found.append(Finding(OK, "metrics", f"port {port} of {section.host} is free"))
        except UsageError as error:
            found.append(Finding(WARN if may_pass(error) else FAIL, "metrics", str(error)))
    return found


def directories(config: Config) -> list[Finding]:
    """Check that shared memory, journal and captures are writable and have room, and for how many days."""
    found = [_shared_memory(config)]
    forecast = rooms(config.stores)
    wanted = [("journal", config.journal.directory)] if config.journal.enabled else []
    for about, folder in [*wanted, ("captures", config.recorder.directory)]:
        there = folder.exists()
        try:
            check_writable(folder, about)
        except UsageError as error:
            found.append(Finding(FAIL, about, str(error)))
            continue
        found.append(_room(about, folder, ENOUGH_BYTES, forecast.get(about)))
        if not there:
            folder.rmdir()
    return found


def _shared_memory(config: Config) -> Finding:
    about = "shared memory"
    try:
        folder = make_own_directory(config.feed.directory, config.feed.mode)
        check_writable(folder, about, create=False)
    except UsageError as error:
        return Finding(FAIL, about, str(error))
    return _room(about, folder, ENOUGH_MEMORY)


def _room(about: str, folder: Path, enough: int, forecast: Room | None = None) -> Finding:
    free = shutil.disk_usage(folder).free
    text = f"{folder}: writable, " + (f"{free / (1 << 30):.1f} GiB free" if forecast is None else forecast.text)
    if free >= enough and not (forecast and forecast.low):
        return Finding(OK, about, text)
    remedy = "make room" if forecast is None else "make room, or set journal.retention, max_gb or max_days"
    return Finding(WARN, about, f"{text}; {remedy}")


def _running(config: Config) -> int:
    try:
        from kfix_md.shm.attach import attach

        feed = attach(config.feed.name, directory=config.feed.directory)
        return int(feed.info["pid"])
    except (FeedError, ImportError):
        return 0


async def _services(config: Config, logon: bool, timeout_s: float) -> list[Finding]:
    create = choose_engine(config.feed.tls_engine)
    jobs = [_service(section, create, logon, timeout_s) for section in config.service]
    return [finding for findings in await asyncio.gather(*jobs) for finding in findings]


async def _service(section: ServiceSection, create: Any, logon: bool, timeout_s: float) -> list[Finding]:
    """Check one service: identity, connection and, unless its CompID is in use, logon and instrument list."""
    about = section.name
    if section.sender_comp_id.upper().startswith(PLACEHOLDER):
        text = (
            f"sender_comp_id {section.sender_comp_id} is a placeholder: put in the CompID that Kraken assigned to you"
        )
        return [Finding(FAIL, about, text)]
    found = comp_ids(section)
    warnings = _Warnings(section.name)
    try:
        service = Service(section.model_copy(update={"symbols": []}), 0, start_ns=time.time_ns())
        service.log.logger.addHandler(warnings)
        fatal: list[str] = []

        def end(text: str) -> bool:
            fatal.append(text)
            return True

        connector = Connector(service, create, on_fatal=end)
    except KfixError as error:
        return [*found, Finding(FAIL, about, str(error))]
    if not logon:
        return found + await _only_dial(section, connector)
    running = asyncio.create_task(connector.run())
    deadline = time.monotonic() + timeout_s
    while not (service.verified_ns or fatal or time.monotonic() > deadline):
        if warnings.lines and service.session.retry != "rollover":
            break
        await asyncio.sleep(0.02)
    details = connector.details
    on = service.session.state == SessionState.ON
    lag_s = service.session.clock_lag_ns / 1e9
    await connector.stop()
    await running
    if details is not None:
        found += connection(about, details)
    service.log.logger.removeHandler(warnings)
    if not on:
        silent = f"no logon within {timeout_s:.0f} s; are the CompIDs right, is the venue open?"
        why = (fatal or warnings.lines or [silent])[0]
        return [*found, Finding(FAIL, about, why.removeprefix(f"{about}: "))]
    found.append(Finding(OK, about, f"logged on as {section.sender_comp_id} to {section.target_comp_id}"))
    found.append(clock(about, lag_s))
    return found + symbols(section, service)


async def _only_dial(section: ServiceSection, connector: Connector) -> list[Finding]:
    from kfix_md.feed.dial import DialError, dial

    try:
        transport, details = await dial(
            connector.endpoint, asyncio.Protocol, connector.context, choose_engine("uvloop")
        )
    except DialError as error:
        return [Finding(FAIL, section.name, str(error))]
    transport.abort()
    return connection(section.name, details)


def comp_ids(section: ServiceSection) -> list[Finding]:
    """Check that CompID and port look like those of this service."""
    found = []
    derivatives = "DRV" in section.sender_comp_id.upper()
    if derivatives == section.spot:
        what = "has" if derivatives else "has no"
        found.append(
            Finding(
                WARN,
                section.name,
                f"sender_comp_id {section.sender_comp_id} {what} 'DRV' in it, "
                "unusual for this service; compare it with what Kraken assigned",
            )
        )
    if section.port in ORDER_ENTRY_PORTS:
        found.append(Finding(FAIL, section.name, f"port {section.port} is order entry, not market data"))
    if not section.verify:
        found.append(Finding(WARN, section.name, "certificate verification is off"))
    return found


def connection(about: str, details: DialResult) -> list[Finding]:
    """Findings about DNS, TLS and certificate of a connection."""
    found = [Finding(OK, about, f"name resolves to {', '.join(details.resolved)}")]
    if details.tls_version:
        found.append(
            Finding(
                OK,
                about,
                f"{details.tls_version} {details.cipher} with {details.address} in {details.took_s * 1000:.0f} ms",
            )
        )
    until = details.certificate.get("notAfter")
    if until:
        days = (ssl.cert_time_to_seconds(until) - time.time()) / 86400
        status = OK if days > ENOUGH_DAYS else WARN
        names = ", ".join(value for _, value in details.certificate.get("subjectAltName", ()))
        found.append(Finding(status, about, f"certificate for {names}: {days:.0f} days left"))
    return found


def clock(about: str, lag_s: float) -> Finding:
    """Finding about this machine's clock minus SendingTime (52), network latency included."""
    text = f"this machine's clock minus the venue's SendingTime: {lag_s * 1000:+.1f} ms"
    if abs(lag_s) < CLOCK_WARNING_S:
        return Finding(OK, about, text)
    return Finding(WARN, about, text + "; synchronise this machine's clock (chrony, ntpd)")


def symbols(section: ServiceSection, service: Service) -> list[Finding]:
    """Findings about the symbols that names and patterns select in the venue's list."""
    listing = service.subs.listing
    selection = listing.select(section.symbols)
    text = f"{len(selection.symbols)} of {len(listing.listed())} instruments selected"
    found = [Finding(OK if selection.symbols else FAIL, section.name, text)]
    found += [Finding(WARN, section.name, warning) for warning in selection.warnings]
    return found + [Finding(FAIL, section.name, reason) for reason in selection.unknown.values()]
