"""The configuration file: which keys exist, what they may hold, how a mistake is told in one line."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import tempfile
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from kfix_md.errors import UsageError
from kfix_md.services import SERVICES, ServiceSpec
from kfix_md.shm.names import part_name, split_part

ServiceName = Literal["spot-l2", "derivatives-l2", "derivatives-l3", "spot-l3"]

#: 264 MarketDepth values that the venue accepts (0: full)
DEPTHS = (0, 1, 10, 25, 100, 500, 1000)
_COMP_ID = re.compile(r"[\x21-\x7e]{1,64}")


def is_production(host: str) -> bool:
    """True for Kraken's production hosts, where certificate verification may not be switched off."""
    host = host.lower().rstrip(".")
    return (host == "kraken.com" or host.endswith(".kraken.com")) and ".uat." not in host


def is_loopback(host: str) -> bool:
    """True when the host names this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _secret_reference(value: str) -> str:
    if not re.fullmatch(r"(env:[A-Za-z_][A-Za-z0-9_]*|file:.+)", value):
        raise ValueError('secrets do not belong in this file; write "env:VARIABLE" or "file:/path"')
    return value


def _comp_id(value: str) -> str:
    if not _COMP_ID.fullmatch(value):
        raise ValueError("must be 1 to 64 printable characters without spaces, as Kraken assigned it")
    return value


def _mode(value: Any) -> Any:
    if isinstance(value, str) and re.fullmatch(r"(0o)?[0-7]{3,4}", value):
        return int(value.removeprefix("0o"), 8)
    raise ValueError('must be octal text such as "0600" (you alone) or "0640" (your group reads)')


def _clock(value: Any) -> Any:
    found = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d))?", str(value))
    if not found:
        raise ValueError('must be a time of day in UTC such as "22:00"')
    hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds


def _depth(value: int) -> int:
    if value not in DEPTHS:
        raise ValueError(f"must be one of {', '.join(map(str, DEPTHS))} (0 is the full book)")
    return value


def _segment_name(value: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]{1,48}", value) or value.startswith("."):
        raise ValueError("must be 1 to 48 letters, digits, dots, dashes or underscores")
    if split_part(value)[1]:
        raise ValueError(f"must not end in .{split_part(value)[1]}: reserved for per-service segments")
    return value


SecretRef = Annotated[str, AfterValidator(_secret_reference)]
CompID = Annotated[str, AfterValidator(_comp_id)]
TimeOfDay = Annotated[int, BeforeValidator(_clock)]
Cpu = Annotated[int, Field(ge=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, hide_input_in_errors=True)


class FeedSection(_Section):
    """[feed]: the process and its shared memory segment."""

    name: Annotated[str, AfterValidator(_segment_name)] = "default"
    directory: Path = Path("/dev/shm")
    mode: Annotated[int, BeforeValidator(_mode)] = "0600"  # type: ignore[assignment]
    symbols_max: int = Field(2000, ge=1, le=100_000)
    book_depth: int = Field(1000, ge=10, le=100_000)
    heartbeat_ms: int = Field(500, ge=20, le=10_000)
    rollover: TimeOfDay = "22:00"  # type: ignore[assignment]
    state_directory: Path = Path("state")
    unknown_symbols: Literal["stop", "warn"] = "stop"
    tls_engine: Literal["auto", "aiofastnet", "uvloop"] = "auto"
    processes: Literal["one", "per-service"] = "one"
    cpu: Cpu | list[Cpu] | None = None
    rt_priority: int | None = Field(None, ge=1, le=99)
    busy_poll: bool = False

    @model_validator(mode="after")
    def _fill(self) -> FeedSection:
        if self.cpu == []:
            raise ValueError("cpu: an empty list; name CPUs or remove the line")
        if self.processes == "per-service" and len(self.name) > 32:
            raise ValueError('name: at most 32 characters with processes = "per-service"')
        return self


class ServiceSection(_Section):
    """[[service]]: one FIX session. A second one with the same name and another CompID is its hot standby."""

    name: ServiceName
    sender_comp_id: CompID
    symbols: list[str] = Field(min_length=1)
    host: str = Field("fix.kraken.com", min_length=1)
    port: int | None = Field(None, ge=1, le=65535)
    target_comp_id: CompID | None = None
    depth: Annotated[int, AfterValidator(_depth)] = 1000
    trades: bool | None = None
    checksum: Literal["auto", "level", "order", "off"] = "auto"
    tls: bool = True
    tls_ca: Path | None = None
    tls_name: str | None = None
    verify: bool = True
    api_key: SecretRef | None = None
    api_secret: SecretRef | None = None
    reset_seq_num: bool = True
    heartbeat_s: int = Field(60, ge=1, le=600)
    logon_timeout_s: float = Field(10.0, ge=0.2, le=120)
    gap_timeout_s: float = Field(5.0, ge=0.1, le=300)
    sending_time_limit_s: float = Field(120.0, ge=1)
    batch: int = Field(1000, ge=1, le=10_000)
    requests_per_s: float = Field(1000.0, gt=0, le=100_000)
    retry_max_s: float = Field(30.0, ge=0.1, le=600)

    @property
    def spec(self) -> ServiceSpec:
        """What the venue documents about this service."""
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
            raise ValueError("trades: the venue refuses trades on L3; take them from the L2 service")
        self.trades = (self.level == "L2") if self.trades is None else self.trades
        if not self.verify and is_production(self.host):
            raise ValueError(f"verify: cannot be false for the production host {self.host}; remove the line")
        if not self.tls and not is_loopback(self.host):
            raise ValueError("tls: can only be false for a loopback host (a TLS tunnel); remove the line")
        if (self.api_key is None) != (self.api_secret is None):
            raise ValueError("api_key: needs api_secret as well; give both or neither")
        return self


class JournalSection(_Section):
    """[journal]: the append-only capture log of every inbound frame."""

    directory: Path = Path("journal")
    enabled: bool = True
    segment_mb: int = Field(64, ge=1, le=65536)
    sync_ms: int = Field(100, ge=1, le=60_000)
    retention: Literal["keep", "zstd", "delete"] = "keep"


class RecorderSection(_Section):
    """[recorder]: journal to Parquet (`kfix record`)."""

    directory: Path = Path("captures")
    interval_s: float = Field(30.0, ge=0.2, le=3600)
    row_group_rows: int = Field(65536, ge=1024, le=16_777_216)
    checkpoint_s: float = Field(300.0, ge=1, le=86400)
    compact: bool = True


class MetricsSection(_Section):
    """[metrics]: Prometheus over HTTP, on loopback unless told otherwise. Port 0: off."""

    host: str = "127.0.0.1"
    port: int = Field(0, ge=0, le=65535)


class Config(_Section):
    """The whole file. Paths are absolute after `load` (relative ones count from the file's folder)."""

    feed: FeedSection = FeedSection()
    service: list[ServiceSection] = Field(min_length=1)
    journal: JournalSection = JournalSection()
    recorder: RecorderSection = RecorderSection()
    metrics: MetricsSection = MetricsSection()

    @model_validator(mode="after")
    def _one_session_per_identity(self) -> Config:
        seen: set[tuple[Any, ...]] = set()
        for service in self.service:
            identity = (service.host, service.port, service.sender_comp_id, service.target_comp_id)
            if identity in seen:
                raise ValueError(
                    f"service: {service.name} with sender_comp_id {service.sender_comp_id} is there twice; "
                    "the venue accepts one session per CompID pair, give the second another sender_comp_id"
                )
            seen.add(identity)
        return self


def load(path: str | os.PathLike[str]) -> Config:
    """Read and check a configuration file.

    Raises UsageError with one line: the file, the key, what is wrong and what to do.
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
        raise UsageError(f"{path}: {explain(error, data)}") from None
    _absolute_paths(config, path.resolve().parent)
    return config


def service_names(config: Config) -> list[str]:
    """The services, each once, in the order of the file: a process each. (A hot pair shares one.)"""
    return list(dict.fromkeys(section.name for section in config.service))


def service_config(config: Config, name: str) -> Config:
    """The configuration of the process of one service: segment, journal, captures and metrics port are its own."""
    names = service_names(config)
    if name not in names:
        raise UsageError(f"no service {name!r} in this configuration; there are: {', '.join(names)}")
    number = names.index(name)
    feed, metrics, cpu = config.feed, config.metrics, config.feed.cpu
    if isinstance(cpu, list):
        cpu = cpu[number % len(cpu)]
    return config.model_copy(
        update={
            "feed": feed.model_copy(update={"name": part_name(feed.name, name), "cpu": cpu}),
            "service": [section for section in config.service if section.name == name],
            "journal": config.journal.model_copy(update={"directory": config.journal.directory / name}),
            "recorder": config.recorder.model_copy(update={"directory": config.recorder.directory / name}),
            "metrics": metrics.model_copy(update={"port": metrics.port + number if metrics.port else 0}),
        }
    )


def explain(error: ValidationError, data: dict[str, Any]) -> str:
    """The first mistake of a pydantic error as one line; counts the others."""
    faults = error.errors(include_url=False, include_context=False)
    # an unknown key is usually the reason for a missing one: say it first
    faults.sort(key=lambda fault: fault["type"] != "extra_forbidden")
    rest = "" if len(faults) == 1 else f" (and {len(faults) - 1} more)"
    return _explain_one(faults[0], data) + rest


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
            here = None
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
    return f"; did you mean '{near[0]}'?" if near else f"; known here: {', '.join(known)}"


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


def read_secret(reference: str) -> str:
    """The text behind "env:NAME" or "file:PATH"; UsageError when it is not there."""
    kind, _, where = reference.partition(":")
    if kind == "env":
        value = os.environ.get(where, "")
        if not value:
            raise UsageError(f"environment variable {where} is not set; api_key/api_secret refer to it")
        return value
    try:
        return Path(where).expanduser().read_text().strip()
    except OSError as error:
        raise UsageError(f"{where}: secret cannot be read: {error.strerror}") from None


def check_writable(directory: Path, key: str, create: bool = True) -> None:
    """Prove that a directory takes files before anything starts; UsageError otherwise."""
    try:
        if create:
            directory.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=directory, prefix=".kfix-check-"):
            pass
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        told = f"{key} = {directory}: cannot write there ({reason}); choose another or fix it"
        raise UsageError(told) from None


def check_directories(config: Config) -> None:
    """Everything the feed writes to, checked before a socket is opened."""
    check_writable(config.feed.directory, "feed.directory", create=False)
    if config.journal.enabled:
        check_writable(config.journal.directory, "journal.directory")
    if any(not service.reset_seq_num for service in config.service):
        check_writable(config.feed.state_directory, "feed.state_directory")
