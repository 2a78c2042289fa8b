"""The configuration file: its sections and keys, and how a mistake becomes one line of text."""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kfix_md.config_fields import (
    CompID,
    Cpu,
    Depth,
    FileMode,
    LogonFields,
    SecretRef,
    SecurityType,
    SegmentName,
    ServiceName,
    TimeOfDay,
    is_loopback,
    is_production,
)
from kfix_md.disk import Store
from kfix_md.errors import Mistakes, UsageError, reason_of
from kfix_md.services import SERVICES, Market, ServiceSpec
from kfix_md.shm.names import part_name
from kfix_md.trading_day import ROLLOVER_S

#: Room for books of one service when symbols_max is not set; the venue lists about 1,650 pairs and 400 contracts.
ROOM: dict[Market, int] = {"spot": 2500, "derivatives": 1000}


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        validate_default=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class FeedSection(_Section):
    """[feed]: the process and its shared memory segment."""

    name: SegmentName = "default"
    """Name of the shared memory segment, for `kfix_md.attach(name)` and `kfix top`."""
    directory: Path = Path("/dev/shm")
    """Where the segment lives; where others can make files too, in a directory `kfix-md-UID` of its own in there, see
    [several users](operations.md#several-users-on-one-machine)."""
    mode: FileMode = Field(default=0o600, validate_default=False, json_schema_extra={"default": "0600"})
    """Its permissions, octal: `"0640"` lets your group read; other users never write."""
    symbols_max: int | None = Field(default=None, ge=1, le=100_000)
    """Room for so many books; default 2,500 for each spot and 1,000 for each derivatives service, see [Room](#room)."""
    book_depth: int = Field(default=1000, ge=10, le=100_000)
    """Levels of each side that readers can see on L2."""
    heartbeat_ms: int = Field(default=500, ge=20, le=10_000)
    """A feed that is silent for this long counts as dead; it beats 2.5 times as often."""
    max_lag_s: float = Field(default=5.0, ge=0.1, le=86_400)
    """While messages of a session arrive later than this after their SendingTime (52), readers take its books for
    STALE, cause LAGGING."""
    rollover: TimeOfDay = Field(default=ROLLOVER_S, validate_default=False, json_schema_extra={"default": "22:00"})
    """UTC time of day at which the sessions expect the venue's daily reset, so that a loss of connection around it is
    planned. The trading date of journal and captures does not depend on it: it changes at 22:00 UTC."""
    state_directory: Path = Path("state")
    """Where MsgSeqNums are kept for services with `reset_seq_num = false`."""
    unknown_symbols: Literal["stop", "warn"] = "warn"
    """A name in `symbols` that the first instrument list does not contain: `"warn"` leaves it out, and ends the feed
    with status 2 only when nothing else is left to serve; `"stop"` ends it in any case."""
    unverified: Literal["refuse", "serve"] = "refuse"
    """Prices of a book in state UNVERIFIED (no known checksum rule holds): `"refuse"` raises NotLive in readers,
    `"serve"` gives them out."""
    tls_engine: Literal["auto", "aiofastnet", "uvloop"] = "auto"
    """`"aiofastnet"`, `"uvloop"`, or the first when it is installed."""
    processes: Literal["one", "per-service"] = "one"
    """`"per-service"`: a process for each service, seen by readers as one feed, see
    [operations](operations.md#a-process-for-each-service)."""
    cpu: Cpu | list[Cpu] | None = None
    """Pin the process to this CPU, or to a list of them; with a process for each service, the list is dealt out in the
    order of the services."""
    rt_priority: int | None = Field(default=None, ge=1, le=99)
    """SCHED_FIFO priority 1 to 99; where that is not permitted (CAP_SYS_NICE, LimitRTPRIO) the feed logs it and
    continues without."""
    busy_poll: bool = False
    """Never sleep in the kernel: a quarter of the latency or less, for one whole CPU a process; wants `cpu`, and
    better `rt_priority` too."""

    @model_validator(mode="after")
    def _fill(self) -> FeedSection:
        if self.cpu == []:
            raise ValueError("cpu: an empty list; name CPUs or remove the line")
        if self.processes == "per-service" and len(self.name) > 32:
            raise ValueError('name: at most 32 characters with processes = "per-service"')
        return self


class ServiceSection(_Section):
    """[[service]]: one FIX session. A second one with the same name and another CompID makes a hot pair."""

    name: ServiceName
    """`"spot-l2"`, `"spot-l3"`, `"derivatives-l2"` or `"derivatives-l3"`; decides port, target and level."""
    sender_comp_id: CompID
    """As Kraken assigned it; the derivatives one carries `DRV`."""
    symbols: list[str] = Field(min_length=1)
    """Names and patterns, see below."""
    host: str = Field(default="fix.kraken.com", min_length=1)
    """Resolved at every connect; all addresses are tried, those that gave no connection or no Logon last."""
    port: int | None = Field(default=None, ge=1, le=65535)
    """4000 spot-l2, 4002 derivatives-l2, 4004 derivatives-l3, 4005 spot-l3."""
    target_comp_id: CompID | None = None
    """`KRAKEN-MD` or `KRAKEN-DRV-MD`."""
    depth: Depth = 1000
    """264: 0 (full; on L2 that means 1,000 levels), 1, 10, 25, 100, 500 or 1000; below 10 the checksum 5041 cannot be
    checked."""
    trades: bool | None = None
    """Trades as well; the venue rejects them on L3."""
    checksum: Literal["auto", "level", "order", "level-sent", "order-sent", "off"] = "auto"
    """Rule of 5041: `"level"` or `"order"` (numbers printed at the instrument's precision), `"level-sent"` or
    `"order-sent"` (as the venue sent them), `"auto"` (found from the stream) or `"off"`."""
    securities: list[SecurityType] = Field(default=["ALL"], min_length=1)
    """Instrument lists to request: `"ALL"` (559=4), and 559=1 with 167 = `"CASH"`, `"FUT"`, `"OPT"` or `"TS"`
    (tokenised stocks such as `AAPLx/USD`); one that the venue rejects is done without, except the first."""
    tls: bool = True
    """`false` only for a loopback host (a TLS tunnel such as stunnel)."""
    tls_min: Literal["1.3", "1.2"] = "1.3"
    """Lowest TLS version accepted; `"1.2"` for a gateway that does not speak 1.3."""
    tls_ca: Path | None = None
    """PEM file of the certificate authority to trust instead."""
    tls_name: str | None = None
    """Another name that the certificate must carry."""
    verify: bool = True
    """`false` accepts any certificate; rejected for production hosts."""
    api_key: SecretRef | None = None
    """`"env:VARIABLE"` or `"file:/path"` (a file that not every user may read), with `api_secret`; signs the Logon with
    553, 554, 5025."""
    api_secret: SecretRef | None = None
    """As `api_key`, base64 as Kraken gives it."""
    logon_fields: LogonFields = {}
    """More fields for the Logon by tag, such as `{5051 = "1"}`; not those that the session writes."""
    reset_seq_num: bool = True
    """141=Y at every logon; `false` continues the numbers kept in `state_directory`."""
    heartbeat_s: int = Field(default=60, ge=1, le=600)
    """108."""
    logon_timeout_s: float = Field(default=10.0, ge=0.2, le=120)
    """For the Logon reply; at most 3 s while another address of the host may answer."""
    gap_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    """A gap without progress is requested again, then the session is replaced."""
    sending_time_limit_s: float = Field(default=120.0, ge=1, le=86_400)
    """SendingTime further off than this (up to `86400`) ends the session."""
    batch: int = Field(default=1000, ge=1, le=10_000)
    """Subscriptions requested at once."""
    requests_per_s: float = Field(default=1000.0, gt=0, le=100_000)
    """Requests a second after that."""
    retry_max_s: float = Field(default=30.0, ge=0.1, le=600)
    """Longest pause between attempts to connect."""

    @property
    def spec(self) -> ServiceSpec:
        """Port, target, market and level of this service as the venue documents them."""
        return SERVICES[self.name]

    @property
    def level(self) -> str:
        """'L2' or 'L3'."""
        return self.spec.level

    @property
    def spot(self) -> bool:
        """True on Kraken Spot, False on Kraken Derivatives."""
        return self.spec.market == "spot"

    @model_validator(mode="after")
    def _fill(self) -> ServiceSection:
        self.port = self.port if self.port is not None else self.spec.port
        self.target_comp_id = self.target_comp_id or self.spec.target_comp_id
        if self.trades and self.level == "L3":
            raise ValueError("trades: the venue rejects trades on L3; take them from the L2 service")
        self.trades = (self.level == "L2") if self.trades is None else self.trades
        if not self.verify and is_production(self.host):
            raise ValueError(f"verify: cannot be false for the production host {self.host}; remove the line")
        if not self.tls and not is_loopback(self.host):
            raise ValueError("tls: can only be false for a loopback host (a TLS tunnel); remove the line")
        if len(set(self.securities)) < len(self.securities):
            raise ValueError("securities: names a type twice")
        if (self.api_key is None) != (self.api_secret is None):
            raise ValueError("api_key: needs api_secret as well; give both or neither")
        return self


class JournalSection(_Section):
    """[journal]: the append-only capture log of every inbound frame."""

    directory: Path = Path("journal")
    """One feed a directory; files can be read by their user and group, as the captures (umask 027)."""
    enabled: bool = True
    """Append every inbound frame and session event."""
    segment_mb: int = Field(default=64, ge=1, le=65536)
    """Size of a segment (two are in memory at a time); they also end at 22:00 UTC."""
    sync_ms: int = Field(default=100, ge=1, le=60_000)
    """How often what was written is put on disk, by a thread of its own."""
    retention: Literal["keep", "zstd", "delete"] = "keep"
    """Finished segments, once their Parquet was read back: `"keep"`, `"zstd"` or `"delete"`."""
    max_gb: float = Field(default=0.0, ge=0, le=1e9)
    """Most that the journal may take on disk, in 10^9 bytes (of each service, with a process for each); the recorder
    deletes the oldest segments beyond it, once their Parquet was read back. 0: no limit."""
    max_days: int = Field(default=0, ge=0, le=100_000)
    """Oldest session date that is kept, in days, in the same way. 0: no limit."""


class RecorderSection(_Section):
    """[recorder]: journal to Parquet (`kfix record`)."""

    directory: Path = Path("captures")
    """The Parquet tree."""
    interval_s: float = Field(default=30.0, ge=0.2, le=3600)
    """How often new rows become visible."""
    row_group_rows: int = Field(default=65536, ge=1024, le=16_777_216)
    """Rows of a row group."""
    checkpoint_s: float = Field(default=300.0, ge=1, le=86400)
    """Whole books of symbols with few rows are kept this often at most, for `book(symbol, at)`."""
    compact: bool = True
    """Cluster finished session dates by symbol."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus of the recorder on this port of `[metrics] host`; 0: none."""


class MetricsSection(_Section):
    """[metrics]: Prometheus over HTTP, on loopback by default. Port 0: off."""

    host: str = "127.0.0.1"
    """Address to listen on, IPv4 or IPv6; `"0.0.0.0"` or `"::"`: every address."""
    port: int = Field(default=0, ge=0, le=65535)
    """Prometheus over HTTP on this port; 0: none."""


class _BrokerSection(_Section):
    url: str | list[str] | None = Field(default=None)
    """The broker, such as `"nats://host:4222"` or `"tls://host:4222"`; a list for those of a cluster."""
    credentials: Path | None = None
    """File of NATS credentials (JWT and key)."""
    token: SecretRef | None = None
    """`"env:VARIABLE"` or `"file:/path"`."""
    user: str | None = None
    """Name at the broker, with `password`."""
    password: SecretRef | None = None
    """As `token`."""
    tls_ca: Path | None = None
    """PEM file of the certificate authority to trust instead."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Prometheus on this port of `[metrics] host`; 0: none."""

    @model_validator(mode="after")
    def _check_broker(self) -> _BrokerSection:
        for each in self.servers:
            if not re.fullmatch(r"(nats|tls)://[^@/\s]+/?", each):
                raise ValueError('url: must be like "nats://host:4222"; name and password are keys of their own')
        if (self.user is None) != (self.password is None):
            raise ValueError("user: needs password as well; give both or neither")
        return self

    @property
    def servers(self) -> list[str]:
        """The broker's addresses; none where nothing is replicated."""
        return [self.url] if isinstance(self.url, str) else self.url or []


class ShipSection(_BrokerSection):
    """[ship]: sends the journal to a NATS JetStream broker (`kfix ship`)."""

    mirrors: list[str] = ["mirror"]
    """Journal segments are kept until each of these mirrors has them on disk."""
    chunk_kb: int = Field(default=256, ge=8, le=65_536)
    """Bytes of a message in KiB, less where the broker takes less."""
    stream_gb: float = Field(default=8.0, gt=0, le=1e6)
    """What the broker keeps at most, in 10^9 bytes, when it makes the stream; mirrors further behind are
    sent it again."""
    replicas: int = Field(default=1, ge=1, le=5)
    """Copies that a cluster of brokers keeps."""


class MirrorSection(_BrokerSection):
    """[mirror]: stores the journal of a feed on another machine (`kfix mirror`)."""

    feed: str = "default"
    """The feed's name where it runs; with a process for each service `"NAME.SERVICE"`."""
    name: str = "mirror"
    """Name of this mirror, as in `[ship] mirrors`."""
    directory: Path = Path("replica")
    """The replica, a journal; one mirror a directory."""
    sync_ms: int = Field(default=100, ge=1, le=60_000)
    """How often what was written is put on disk and reported."""
    publish: SegmentName | None = None
    """Publish the books of the replica in shared memory under this name, as `kfix follow` does."""


class Config(_Section):
    """The whole file. Paths are absolute after `load`; relative ones start at the file's folder."""

    feed: FeedSection = FeedSection()
    service: list[ServiceSection] = Field(min_length=1)
    journal: JournalSection = JournalSection()
    recorder: RecorderSection = RecorderSection()
    metrics: MetricsSection = MetricsSection()
    ship: ShipSection = ShipSection()
    mirror: MirrorSection = MirrorSection()

    @property
    def capacity(self) -> int:
        """Books that the segment has room for: symbols_max, else enough for every instrument of every service."""
        if self.feed.symbols_max is not None:
            return self.feed.symbols_max
        return sum(ROOM[SERVICES[name].market] for name in {section.name for section in self.service})

    @property
    def stores(self) -> list[Store]:
        """The directories that feed and recorder fill."""
        journal, captures = self.journal, Store("captures", self.recorder.directory)
        if not journal.enabled:
            return [captures]
        return [Store("journal", journal.directory, journal.max_gb * 1e9, journal.max_days), captures]

    @model_validator(mode="after")
    def _one_session_per_identity(self) -> Config:
        seen: set[tuple[Any, ...]] = set()
        for service in self.service:
            identity = (service.host, service.port, service.sender_comp_id, service.target_comp_id)
            if identity in seen:
                raise ValueError(
                    f"service: {service.name} with sender_comp_id {service.sender_comp_id} appears twice; "
                    "the venue accepts one session per CompID pair, give the second another sender_comp_id"
                )
            seen.add(identity)
        return self


class MirrorConfig(_Section):
    """The file of a machine that has a mirror and no feed: [mirror] and [metrics] of the whole file."""

    mirror: MirrorSection
    metrics: MetricsSection = MetricsSection()


def load_mirror(path: str | os.PathLike[str]) -> MirrorConfig:
    """Read and check what `kfix mirror` needs of a configuration file, as `load` does; others may be missing."""
    data = _read(Path(path))
    known = {name: data[name] for name in MirrorConfig.model_fields if name in data}
    try:
        config = MirrorConfig.model_validate(known)
    except ValidationError as error:
        raise Mistakes([f"{path}: {mistake}" for mistake in explain(error, data)]) from None
    _absolute_broker(config.mirror, Path(path).resolve().parent)
    return config


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises
    ------
    UsageError
        The file cannot be read; one line with the remedy.
    Mistakes
        A UsageError with a line for each: the file, the key, what is wrong and what to do.
    """
    path = Path(path)
    data = _read(path)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise Mistakes([f"{path}: {mistake}" for mistake in explain(error, data)]) from None
    _absolute_paths(config, path.resolve().parent)
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; examples are in examples/") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {reason_of(error)}") from error
    try:
        return tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None


def service_names(config: Config) -> list[str]:
    """Names of the services, each once, in the order of the file; a hot pair is one service."""
    return list(dict.fromkeys(section.name for section in config.service))


def service_config(config: Config, name: str) -> Config:
    """Configuration of the process of one service, with its own segment, journal, captures and metrics port."""
    names = service_names(config)
    if name not in names:
        raise UsageError(f"no service {name!r} in this configuration; there are: {', '.join(names)}")
    number = names.index(name)
    feed, metrics, recorder, cpu = config.feed, config.metrics, config.recorder, config.feed.cpu
    if isinstance(cpu, list):
        cpu = cpu[number % len(cpu)]
    return config.model_copy(
        update={
            "feed": feed.model_copy(update={"name": part_name(feed.name, name), "cpu": cpu}),
            "service": [section for section in config.service if section.name == name],
            "journal": config.journal.model_copy(update={"directory": config.journal.directory / name}),
            "recorder": recorder.model_copy(
                update={
                    "directory": recorder.directory / name,
                    "metrics_port": recorder.metrics_port + number if recorder.metrics_port else 0,
                }
            ),
            "metrics": metrics.model_copy(update={"port": metrics.port + number if metrics.port else 0}),
        }
    )


def changed_keys(old: Config, new: Config) -> list[str]:
    """Keys whose values differ, without the symbols: those need no restart. Services are paired by name and CompID."""
    services = {(section.name, section.sender_comp_id): section for section in old.service}
    pairs: list[tuple[str, BaseModel, BaseModel]] = [
        (name, getattr(old, name), getattr(new, name)) for name in SECTIONS if name != "service"
    ]
    pairs += [
        (f"service[{i}] ({section.name})", services[identity], section)
        for i, section in enumerate(new.service)
        if (identity := (section.name, section.sender_comp_id)) in services
    ]
    return [
        f"{name}.{key}"
        for name, before, after in pairs
        for key in type(after).model_fields
        if key != "symbols" and getattr(before, key) != getattr(after, key)
    ]


def explain(error: ValidationError, data: dict[str, Any]) -> list[str]:
    """Every mistake of a pydantic error as one line."""
    faults = error.errors(include_url=False, include_context=False)
    # an unknown key is usually the reason for a missing one: report it first
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    return list(dict.fromkeys(_explain_one(fault, data) for fault in faults))


def schema() -> dict[str, Any]:
    """JSON Schema of the configuration file, made of the models, for editors and checks before a deployment."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **Config.model_json_schema(),
        "title": "kfix-md configuration",
    }


def _explain_one(fault: Any, data: dict[str, Any]) -> str:
    key = _key(fault["loc"], data)
    kind, message = fault["type"], fault["msg"]
    if kind == "extra_forbidden":
        return f"{key}: unknown key{_suggestion(fault['loc'])}"
    if kind == "missing":
        if fault["loc"] == ("service",):
            return "service: missing; add a [[service]] with name, sender_comp_id and symbols"
        return f"{key}: missing; add it"
    if kind == "value_error":
        message = message.removeprefix("Value error, ")
        return f"{key}: {message}" if key else message
    if kind == "list_type" and isinstance(fault["input"], str):
        return f"{key}: must be a list, such as {json.dumps([fault['input']])}"
    return f"{key}: {message[0].lower()}{message[1:]}"


def _key(loc: tuple[Any, ...], data: Any) -> str:
    """'service[1] (spot-l3).port' for ('service', 1, 'port')."""
    text, here = "", data
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += f".{part}" if text else part
        try:
            here = here[part]
        except (KeyError, IndexError, TypeError):
            here = {}
        if isinstance(part, int) and isinstance(here, dict) and isinstance(here.get("name"), str):
            text += f" ({here['name']})"
    return text


def _suggestion(loc: tuple[Any, ...]) -> str:
    model: type[BaseModel] = Config
    for part in loc[:-1]:
        if isinstance(part, str):
            model = SECTIONS[part]
    known = list(model.model_fields)
    near = difflib.get_close_matches(str(loc[-1]), known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else f"; known keys: {', '.join(known)}"


SECTIONS: dict[str, type[BaseModel]] = {
    "feed": FeedSection,
    "service": ServiceSection,
    "journal": JournalSection,
    "recorder": RecorderSection,
    "metrics": MetricsSection,
    "ship": ShipSection,
    "mirror": MirrorSection,
}


def _absolute_paths(config: Config, base: Path) -> None:
    config.feed.state_directory = base / config.feed.state_directory.expanduser()
    for section in (config.feed, config.journal, config.recorder):
        section.directory = base / section.directory.expanduser()
    _absolute_broker(config.ship, base)
    _absolute_broker(config.mirror, base)
    for service in config.service:
        if service.tls_ca is not None:
            service.tls_ca = base / service.tls_ca.expanduser()


def _absolute_broker(section: ShipSection | MirrorSection, base: Path) -> None:
    if isinstance(section, MirrorSection):
        section.directory = base / section.directory.expanduser()
    for key in ("credentials", "tls_ca"):
        if (given := getattr(section, key)) is not None:
            setattr(section, key, base / given.expanduser())
