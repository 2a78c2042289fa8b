"""The configuration file: its sections and keys, and how a mistake becomes one line of text."""

from __future__ import annotations

import difflib
import os
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
from kfix_md.errors import Mistakes, UsageError
from kfix_md.services import SERVICES, Market, ServiceSpec
from kfix_md.shm.names import part_name
from kfix_md.trading_day import ROLLOVER_S

#: Room for books of one service when symbols_max is not set; the venue lists about 1,650 pairs and 400 contracts.
ROOM: dict[Market, int] = {"spot": 2500, "derivatives": 1000}


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True, allow_inf_nan=False)


class FeedSection(_Section):
    """[feed]: the process and its shared memory segment."""

    name: SegmentName = "default"
    directory: Path = Path("/dev/shm")
    mode: FileMode = Field(default=0o600, validate_default=False, json_schema_extra={"default": "0600"})
    symbols_max: int | None = Field(default=None, ge=1, le=100_000)
    book_depth: int = Field(default=1000, ge=10, le=100_000)
    heartbeat_ms: int = Field(default=500, ge=20, le=10_000)
    max_lag_s: float = Field(default=5.0, ge=0.1, le=86_400)
    rollover: TimeOfDay = Field(default=ROLLOVER_S, validate_default=False, json_schema_extra={"default": "22:00"})
    state_directory: Path = Path("state")
    unknown_symbols: Literal["stop", "warn"] = "warn"
    unverified: Literal["refuse", "serve"] = "refuse"
    tls_engine: Literal["auto", "aiofastnet", "uvloop"] = "auto"
    processes: Literal["one", "per-service"] = "one"
    cpu: Cpu | list[Cpu] | None = None
    rt_priority: int | None = Field(default=None, ge=1, le=99)
    busy_poll: bool = False

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
    sender_comp_id: CompID
    symbols: list[str] = Field(min_length=1)
    host: str = Field(default="fix.kraken.com", min_length=1)
    port: int | None = Field(default=None, ge=1, le=65535)
    target_comp_id: CompID | None = None
    depth: Depth = 1000
    trades: bool | None = None
    checksum: Literal["auto", "level", "order", "level-sent", "order-sent", "off"] = "auto"
    securities: list[SecurityType] = Field(default=["ALL"], min_length=1)
    tls: bool = True
    tls_min: Literal["1.3", "1.2"] = "1.3"
    tls_ca: Path | None = None
    tls_name: str | None = None
    verify: bool = True
    api_key: SecretRef | None = None
    api_secret: SecretRef | None = None
    logon_fields: LogonFields = {}
    reset_seq_num: bool = True
    heartbeat_s: int = Field(default=60, ge=1, le=600)
    logon_timeout_s: float = Field(default=10.0, ge=0.2, le=120)
    gap_timeout_s: float = Field(default=5.0, ge=0.1, le=300)
    sending_time_limit_s: float = Field(default=120.0, ge=1, le=86_400)
    batch: int = Field(default=1000, ge=1, le=10_000)
    requests_per_s: float = Field(default=1000.0, gt=0, le=100_000)
    retry_max_s: float = Field(default=30.0, ge=0.1, le=600)

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
    enabled: bool = True
    segment_mb: int = Field(default=64, ge=1, le=65536)
    sync_ms: int = Field(default=100, ge=1, le=60_000)
    retention: Literal["keep", "zstd", "delete"] = "keep"
    max_gb: float = Field(default=0.0, ge=0, le=1e9)
    max_days: int = Field(default=0, ge=0, le=100_000)


class RecorderSection(_Section):
    """[recorder]: journal to Parquet (`kfix record`)."""

    directory: Path = Path("captures")
    interval_s: float = Field(default=30.0, ge=0.2, le=3600)
    row_group_rows: int = Field(default=65536, ge=1024, le=16_777_216)
    checkpoint_s: float = Field(default=300.0, ge=1, le=86400)
    compact: bool = True
    metrics_port: int = Field(default=0, ge=0, le=65535)


class MetricsSection(_Section):
    """[metrics]: Prometheus over HTTP, on loopback by default. Port 0: off."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)


class Config(_Section):
    """The whole file. Paths are absolute after `load`; relative ones start at the file's folder."""

    feed: FeedSection = FeedSection()
    service: list[ServiceSection] = Field(min_length=1)
    journal: JournalSection = JournalSection()
    recorder: RecorderSection = RecorderSection()
    metrics: MetricsSection = MetricsSection()

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
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file; examples are in examples/") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        data = tomllib.loads(text.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        raise Mistakes([f"{path}: {mistake}" for mistake in explain(error, data)]) from None
    _absolute_paths(config, path.resolve().parent)
    return config


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
}


def _absolute_paths(config: Config, base: Path) -> None:
    config.feed.state_directory = base / config.feed.state_directory.expanduser()
    for section in (config.feed, config.journal, config.recorder):
        section.directory = base / section.directory.expanduser()
    for service in config.service:
        if service.tls_ca is not None:
            service.tls_ca = base / service.tls_ca.expanduser()
