"""The feed process: builds everything from a configuration, runs it, and ends it in order."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kfix_md.config import Config, ServiceSection, changed_keys, service_config
from kfix_md.config import load as load_config
from kfix_md.errors import UsageError, may_pass
from kfix_md.feed import tuning
from kfix_md.feed.checks import check_directories, check_writable
from kfix_md.feed.clock import Clock
from kfix_md.feed.connector import Connector
from kfix_md.feed.dial import choose_engine
from kfix_md.feed.exporter import Exporter
from kfix_md.feed.garbage import Garbage
from kfix_md.feed.metrics import gather
from kfix_md.feed.notify import Notifier
from kfix_md.feed.pair import Pair
from kfix_md.feed.place import Place
from kfix_md.feed.processes import clear_way, supervise
from kfix_md.feed.recording import Recording, has_run
from kfix_md.feed.service import Service
from kfix_md.feed.starting import patiently
from kfix_md.session.store import SequenceStore
from kfix_md.session.types import SessionState

if TYPE_CHECKING:
    from kfix_md.feed.stalls import StallTrace

log = logging.getLogger("kfix.feed")
GC_SECONDS = 5.0
SWITCH_S = 0.0002  # another thread that runs Python (the log) gives way after so long; Python's own is 5 ms
AGAIN_S = 1.0  # between two attempts to get what was missing at the start


class FeedProcess:
    """Everything that one process runs. The constructor checks all that can be checked without the network.

    `stall_ns`: what holds the loop up for so long is traced (feed/stalls.py); 0: nothing is.

    Raises UsageError (one line with the remedy) before anything is written when the configuration cannot work.
    """

    def __init__(
        self,
        config: Config,
        reread: Callable[[], Config] | None = None,
        clock: Clock | None = None,
        notifier: Notifier | None = None,
        stall_ns: int = 0,
    ) -> None:
        self.config, self._reread, self.clock = config, reread, clock or Clock()
        self.notifier = notifier or Notifier({})
        self.fault = ""  # reason to end the process with status 2
        self.services: list[Service] = []
        self.connectors: list[Connector] = []
        self.pairs: list[Pair] = []
        self.segment: Any = None
        self.place: Any = None
        self.recording = Recording(config.journal)
        self._metrics: Exporter | None = None
        self._start_ns = self.clock.now_ns()
        self._metrics_fault = ""
        self._beat_ns = 0  # of the last heartbeat
        self._ran_before = False
        self._garbage: Garbage | None = None
        self._stall_ns = stall_ns
        self.stalls: StallTrace | None = None
        self._cpus = os.sched_getaffinity(0)
        self._stopping = asyncio.Event()
        create = choose_engine(config.feed.tls_engine)
        check_directories(config)
        tuning.check(config.feed)
        try:
            self._build(create)
        except BaseException:
            self._close()
            raise

    def _build(self, create: Callable[..., Any]) -> None:
        from kfix_md.shm.writer import SegmentWriter

        config, now_ns = self.config, self.clock.now_ns()
        feed = config.feed
        if feed.processes == "one":
            clear_way(config)
        plans = [
            Service(section, number, rollover_s=feed.rollover, start_ns=now_ns)
            for number, section in enumerate(config.service)
        ]
        for plan in plans:  # certificate files and secrets are read before anything is written
            Connector(plan, create, on_fatal=self._fatal)
        self.segment = SegmentWriter(
            feed.name,
            str(feed.directory),
            feed.mode,
            capacity=config.capacity,
            depth=feed.book_depth,
            heartbeat_ns=feed.heartbeat_ms * 1_000_000,
            clock_base_ns=self.clock.base_ns,
            serve_unverified=feed.unverified == "serve",
        )
        self.place = Place(self.segment)
        self._ran_before = has_run(config)
        self.recording.start(self._ran_before)
        names = [section.name for section in config.service]
        for number, section in enumerate(config.service):
            service = Service(
                section,
                number,
                rollover_s=feed.rollover,
                journal=self.recording.journal,
                store=self._store(section),
                start_ns=now_ns,
                publisher=self.segment,
                max_lag_s=feed.max_lag_s,
                standby_for=names.index(section.name) if names.count(section.name) > 1 else -1,
            )
            self.services.append(service)
            self.connectors.append(Connector(service, create, on_fatal=self._fatal, clock=self.clock))
        twins = [[s for s in self.services if s.name == name] for name in dict.fromkeys(names)]
        self.pairs = [Pair(services) for services in twins if len(services) > 1]
        if config.metrics.port:
            self._serve_metrics()

    def _store(self, section: ServiceSection) -> SequenceStore | None:
        """Where the numbers of a session are kept, None for one that begins with 141=Y."""
        if section.reset_seq_num:
            return None
        directory = self.config.feed.state_directory
        try:
            check_writable(directory, "feed.state_directory")
            return SequenceStore(directory, section.sender_comp_id, str(section.target_comp_id), int(section.port or 0))
        except UsageError as error:
            if not may_pass(error, self._ran_before):
                raise
            log.error("%s: sequence numbers cannot be stored, a restart begins with 141=Y: %s", section.name, error)
            return None

    def _serve_metrics(self) -> bool:
        """Begin to serve /metrics; False when that may be possible later."""
        section = self.config.metrics
        try:
            self._metrics = Exporter(
                section.host, section.port, lambda: gather(self), self.config.stores, self._cpus, self.config.feed.name
            )
        except UsageError as error:
            if not may_pass(error):
                raise
            if not self._metrics_fault:
                log.error("%s; the feed goes on without /metrics and tries again", error)
            self._metrics_fault = str(error)
            return False
        if self._metrics_fault:
            log.warning("metrics: served on port %d now", section.port)
        return True

    # ---- life -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until `stop` is called or a signal arrives; raises UsageError for a configuration error."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        loop.add_signal_handler(signal.SIGUSR2, self._report_stalls)
        self._started()
        self.notifier.send("READY=1", f"STATUS={len(self.services)} sessions")
        await tuning.settle(self.config.feed, log)
        if self._stall_ns:
            self._trace_stalls()
        tasks = [asyncio.create_task(connector.run()) for connector in self.connectors]
        helpers = [asyncio.create_task(self._beat()), asyncio.create_task(self._collect_garbage())]
        helpers.append(asyncio.create_task(self._complete()))
        if self._metrics is not None:
            self._metrics.answer_on(loop)
        if self.config.feed.busy_poll:
            _spin(loop, self._stopping)
        try:
            await self._stopping.wait()
            log.info("stopping")
            self.notifier.send("STOPPING=1")
            await asyncio.gather(*(connector.stop() for connector in self.connectors))
            await asyncio.gather(*tasks)
        finally:
            for task in [*tasks, *helpers]:
                task.cancel()
            await asyncio.gather(*tasks, *helpers, return_exceptions=True)
            self._close()
        if self.fault:
            raise UsageError(self.fault)

    def beat_age_s(self) -> float:
        """Seconds since the loop wrote its last heartbeat."""
        return (self.clock.now_ns() - (self._beat_ns or self._start_ns)) / 1e9

    def stop(self) -> None:
        """End in order: log out every session, close journal and segment."""
        self._stopping.set()

    def _fatal(self, text: str) -> bool:
        """End with status 2 for what a person has to change, unless this feed has run before: returns whether.

        A service manager does not start a feed again after status 2. What was right once may be right again, and the
        other services must not suffer: it is tried for ever then.
        """
        if self._ran_before:
            log.error("%s; trying again, since this feed has run before", text)
            return False
        self.fault = self.fault or text
        self.stop()
        return True

    def _started(self) -> None:
        now_ns = self.clock.now_ns()
        feed = self.config.feed
        self.recording.announce(now_ns, feed.name)
        for service in self.services:
            service.announce(now_ns)
        self._garbage = Garbage()
        journal = self.config.journal.directory if self.config.journal.enabled else "off"
        log.info(
            "feed '%s': %d sessions, shared memory %s, journal %s",
            feed.name,
            len(self.services),
            self.segment.path,
            journal,
        )
        for service in self.services:
            if not service.section.verify:
                service.log.warning("TLS CERTIFICATE VERIFICATION IS OFF (verify = false)")

    def _close(self) -> None:
        if self.stalls is not None:
            self.stalls.close()
        if self._metrics is not None:
            self._metrics.close()
        self.recording.close(self.clock.now_ns())
        if self.segment is not None:
            self.segment.close()
        for service in self.services:
            if service.store is not None:
                service.store.close()
        if self._garbage is not None:
            self._garbage.close()

    def _trace_stalls(self) -> None:
        from kfix_md.feed import stalls

        self.stalls = trace = stalls.StallTrace(self._stall_ns, self._journal_position)
        for part in ("_beat_once", "_publish_session", "_publish_counters", "_measure"):
            trace.watch(self, part, stalls.HEARTBEAT)
        for service in self.services:
            trace.watch(service, "received", stalls.MESSAGES)
            trace.watch(service.subs, "_on_list", stalls.LISTS)
            trace.watch(service.subs, "pump", stalls.REQUESTS)
            trace.watch(service, "_verified", stalls.VERIFIED)
            trace.watch(service.session, "tick", stalls.TIMERS)
            trace.watch(service, "tick", stalls.SERVICE)
        trace.start()
        log.info("stalls of the loop are traced from %.2f ms on", self._stall_ns / 1e6)

    def _journal_position(self) -> int:
        return 0 if self.recording.journal is None else int(self.recording.journal.position)

    def _report_stalls(self) -> None:
        if self.stalls is None:
            log.info("stalls of the loop are not traced: that takes kfix feed --trace-stalls")
        else:
            self.stalls.report()

    # ---- periodic work ----------------------------------------------------------------------------

    async def _beat(self) -> None:
        """Write heartbeat, session table and counters into the segment; act on unknown symbols and alarms.

        Messages are read between its parts: together they would hold the loop up for half a millisecond.
        """
        period, late_s = _period_s(self.config.feed.heartbeat_ms), 0.0
        while True:
            parts: list[Callable[[], None]] = [self._beat_once]
            parts += [partial(self._publish_session, service) for service in self.services]
            parts += [self._publish_counters]
            if self._metrics is not None:
                parts += [partial(self._measure, self._metrics, late_s)]
            for part in parts:
                try:
                    part()
                except Exception:  # readers must not take a feed for dead whose sessions deliver
                    log.exception("internal error in the heartbeat; it goes on")
                await asyncio.sleep(0)
            self.notifier.alive()
            due_ns = self.clock.now_ns() + int(period * 1e9)
            await asyncio.sleep(period)
            late_s = (self.clock.now_ns() - due_ns) / 1e9

    def _measure(self, metrics: Exporter, late_s: float) -> None:
        """Note how late this heartbeat is, and have the next read of each session measured."""
        metrics.stalls.row().observe(max(0.0, late_s))
        metrics.beat()
        for connector in self.connectors:
            section = connector.service.section
            connector.measure = metrics.reads.row(section.name, section.sender_comp_id).observe

    def _beat_once(self) -> None:
        before_ns, self._beat_ns = self._beat_ns, self.clock.now_ns()
        if before_ns:  # to pause between two heartbeats is not to have been stopped
            idle_ns = self._beat_ns - before_ns - int(_period_s(self.config.feed.heartbeat_ms) * 1e9)
            for service in self.services:
                service.stopped(idle_ns)
        self.segment.heartbeat()
        self.place.check()
        if step_ns := self.clock.watch():
            self._clock_stepped(step_ns)
        for pair in self.pairs:
            pair.tick(self.clock.now_ns())
        self.recording.report(self.clock.now_ns())
        for service in self.services:
            if service.unknown:
                self._judge_unknown(service)

    async def _complete(self) -> None:
        """Try again what the machine could not give at the start: the journal, the port of /metrics."""
        while True:
            await asyncio.sleep(AGAIN_S)
            try:
                if self.recording.missing and await asyncio.to_thread(self.recording.open):
                    self._record()
                if self.config.metrics.port:
                    self._complete_metrics()
            except Exception:
                log.exception("internal error while something missing was tried again; it goes on")

    def _complete_metrics(self) -> None:
        if self._metrics is not None and (how := self._metrics.ended()):
            log.error("metrics: the process that serves them %s; it is started again", how)
            self._metrics.close()
            self._metrics = None
        if self._metrics is None and self._serve_metrics():
            assert self._metrics is not None
            self._metrics.answer_on(asyncio.get_running_loop())

    def _record(self) -> None:
        """The journal could be opened: begin with new connections, so that it has all that decoding needs."""
        now_ns = self.clock.now_ns()
        self.recording.begin(now_ns, self.config.feed.name, self.clock.step_ns)
        for service in self.services:
            service.attach_journal(self.recording.journal, now_ns)
        for connector in self.connectors:
            connector.replace()

    async def _collect_garbage(self) -> None:
        assert self._garbage is not None
        while True:
            await asyncio.sleep(GC_SECONDS)
            try:
                self._garbage.step(all(service.session.ready and service.verified_ns for service in self.services))
            except Exception:
                log.exception("internal error in garbage collection; it goes on")

    def _clock_stepped(self, step_ns: int) -> None:
        """The wall clock was stepped: times of day follow it, what lasts does not."""
        log.warning(
            "the clock of this machine was set %s by %.3f s; times of day follow it, timers and ages are not affected",
            "forward" if step_ns > 0 else "back",
            abs(step_ns) / 1e9,
        )
        total = self.clock.step_ns
        self.segment.set_clock_step(total)
        self.recording.clock_stepped(self.clock.now_ns(), step_ns, total)
        for service in self.services:
            service.clock_stepped(total)

    def _publish_session(self, service: Service) -> None:
        section, session, stats = service.section, service.session, service.handler.stats
        self.segment.set_session(
            service.number,
            service=section.name,
            state=session_state_text(service),
            host=section.host,
            port=section.port,
            level=section.level,
            sender=section.sender_comp_id,
            target=section.target_comp_id,
            since_ns=service.since_ns,
            last_recv_ns=session.last_recv_ns,
            rollover_ns=session.rollover.next_instant(self.clock.now_ns()),
            messages=stats["messages"],
            bytes=stats["bytes"],
            gaps=sum(service.gaps.values()),
            reconnects=max(0, service.connects - 1),
            lag_ns=service.lag.lag_ns,
            clock_offset_ns=service.lag.offset_ns,
        )

    def _publish_counters(self) -> None:
        for name, value in gather(self).totals().items():
            self.segment.set_counter(name, value)

    def _judge_unknown(self, service: Service) -> None:
        """Unknown symbols end the feed when they are configured to, or when nothing else is left to serve."""
        reasons = "; ".join(service.unknown)
        service.unknown.clear()
        stop = self.config.feed.unknown_symbols == "stop"
        if stop or all(each.subs.judged and not each.subs.all for each in self.services):
            remedy = 'correct it (or set feed.unknown_symbols = "warn")' if stop else "correct it"
            self._fatal(f"{service.name}: symbols: {reasons}; {remedy}")

    def reload(self) -> None:
        """Read the configuration again and follow its symbols; other changes need a restart."""
        if self._reread is None:
            return
        try:
            fresh = self._reread()
        except UsageError as error:
            log.error("configuration not reloaded, nothing changed: %s", error)
            return
        before = {(s.section.name, s.section.sender_comp_id): s for s in self.services}
        wrong = [
            f"{section.name}: {reason}"
            for section in fresh.service
            if (service := before.get((section.name, section.sender_comp_id))) is not None
            for reason in service.mistakes(section)
        ]
        if wrong:
            log.error("configuration not reloaded, nothing changed: %s", "; ".join(wrong))
            return
        log.info("configuration read again")
        if changed := changed_keys(self.config, fresh):
            log.warning("changed, but not followed without a restart: %s", ", ".join(changed))
        for section in fresh.service:
            service = before.pop((section.name, section.sender_comp_id), None)
            if service is None:
                log.warning("new service %s in the configuration: needs a restart", section.name)
                continue
            for complaint in service.reload(section, self.clock.now_ns()):
                service.log.warning("%s", complaint, extra={"event": "symbols_warning"})
        for name, _ in before:
            log.warning("service %s is no longer in the configuration: needs a restart", name)


def _period_s(heartbeat_ms: int) -> float:
    """Seconds between two heartbeats of a feed that counts as dead after `heartbeat_ms`."""
    return heartbeat_ms / 2500


def session_state_text(service: Service) -> str:
    """State of a session as consoles show it."""
    session = service.session
    if session.state in (SessionState.OFF, SessionState.CLOSED):
        return "ROLLOVER" if session.retry == "rollover" else "DOWN"
    if session.state == SessionState.ON:
        return "GAP" if session.gaps else "ON"
    return "LOGON" if session.state == SessionState.LOGON_SENT else "LOGOUT"


def _spin(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Busy polling: keeps the loop from sleeping in the kernel until `stopping` is set.

    A callback, since a task takes twice as long for each turn, and a message waits for half of one.
    """
    soon, context, stopped = loop.call_soon, contextvars.copy_context(), stopping.is_set

    def turn() -> None:
        if not stopped():
            soon(turn, context=context)

    turn()


def run(path: str, service: str | None = None, options: Sequence[str] = (), stall_ns: int = 0) -> int:
    """`kfix feed`: run the feed of a configuration file until a signal ends it; returns the exit status.

    `service` runs that one alone, as one process of processes = "per-service"; `options` are passed on to those.
    `stall_ns`: see FeedProcess.
    """
    import uvloop

    def load() -> Config:
        config = load_config(path)
        return config if service is None else service_config(config, service)

    config = load()
    if service is None and config.feed.processes == "per-service":
        clear_way(config)
        return supervise(path, config, "feed", options)

    notifier = Notifier()
    sys.setswitchinterval(SWITCH_S)

    def build() -> FeedProcess:
        return FeedProcess(config, load, notifier=notifier, stall_ns=stall_ns)

    async def main() -> None:
        feed = await patiently(build, lambda: has_run(config), notifier)
        if feed is not None:
            await feed.run()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
    return 0
