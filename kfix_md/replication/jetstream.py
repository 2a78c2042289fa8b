"""NATS JetStream as the broker of a journal: one stream and one bucket of positions a feed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import ssl
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api
from nats.js.kv import KeyValue

from kfix_md.errors import UsageError, reason_of
from kfix_md.replication.chunks import Chunk, Corrupted, Source, decode, encode
from kfix_md.replication.transport import Away, Beat, Last, OutOfTurn, Rejected, Report, Request

T = TypeVar("T")

HEADER = "Kfix-Chunk"
#: a message is stored only when it follows the one that its sender knows of: by number, and since messages are sent
#: before those before them are acknowledged, by name as well
EXPECTED, EXPECTED_NAME, NAME = "Nats-Expected-Last-Sequence", "Nats-Expected-Last-Msg-Id", "Nats-Msg-Id"
CONNECT_S, ANSWER_S = 3.0, 5.0
PING_S, PINGS = 5, 2
ROOM = 4096  # of a message, for its subject and headers
SMALLEST = 1 << 12
QUEUED_BYTES = 128 << 20  # received and not stored yet
#: codes of the broker's errors
WRONG_NAME, WRONG_SEQUENCE, NOT_ENABLED, NOT_ENABLED_HERE, NAME_IN_USE = 10070, 10071, 10076, 10039, 10058
NO_ROOM = 10047
_PERSONAL = re.compile(
    "authorization|authentication|permissions|credentials|nkey|jwt|tls required|account", re.IGNORECASE
)


@dataclass(slots=True)
class Access:
    """How to reach the broker, and as whom.

    Attributes
    ----------
    servers : list of str
        "nats://host:4222" or "tls://host:4222"; any of a cluster.
    stream_bytes : int
        What the broker keeps of a feed at most; the oldest is dropped then.
    replicas : int
        Copies that a cluster keeps of the stream.
    """

    servers: list[str]
    credentials: Path | None = None
    token: str | None = None
    user: str | None = None
    password: str | None = None
    tls_ca: Path | None = None
    stream_bytes: int = 8 << 30
    replicas: int = 1


def token_of(feed: str) -> str:
    """A feed's name as a part of subjects and names of streams, which may not have dots."""
    return feed.replace("_", "__").replace(".", "_-")


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """Errors of the client as Away or Rejected."""
    try:
        yield
    except nats.js.errors.ServiceUnavailableError as error:
        if error.err_code is None:
            raise Rejected("JetStream does not answer: start nats-server with JetStream (-js)") from None
        if error.err_code in (NOT_ENABLED, NOT_ENABLED_HERE):
            raise Rejected(f"the broker has no JetStream for us ({error.description}): enable it there") from None
        raise Away(f"the broker answers: {error.description} (error {error.err_code})") from None
    except nats.js.errors.APIError as error:
        if error.err_code in (WRONG_SEQUENCE, WRONG_NAME):
            raise OutOfTurn(error.description or "") from None
        if error.err_code == NO_ROOM:
            raise Away("the broker has no room for the stream: lower [ship] stream_gb, or give it more") from None
        if error.code in (400, 403) and error.err_code not in (None, NAME_IN_USE):
            raise Rejected(f"the broker rejects it: {error.description} (error {error.err_code})") from None
        raise Away(f"the broker answers: {error.description or error} (error {error.err_code})") from None
    except nats.js.errors.NoStreamResponseError:
        raise Away("the broker has no stream for it now") from None
    except nats.errors.NoRespondersError:
        raise Rejected("JetStream does not answer: start nats-server with JetStream (-js)") from None
    except (TimeoutError, nats.errors.TimeoutError):
        raise Away("the broker does not answer in time") from None
    except nats.errors.Error as error:
        raise Away(f"{error}".removeprefix("nats: ") or type(error).__name__) from None
    except OSError as error:
        raise Away(reason_of(error)) from None


class _Connection:
    """What both ends have: the connection, its errors, the names of a feed."""

    def __init__(self, client: Client, feed: str, access: Access, faults: list[Exception]) -> None:
        self.client, self.access, self._faults = client, access, faults
        self.js: JetStreamContext = client.jetstream(timeout=ANSWER_S)
        token = token_of(feed)
        self.feed, self.stream, self.bucket = feed, f"KFIX_{token}", f"KFIX_{token}"
        self.subject = f"kfix.{token}.journal"
        self.beats_subject, self.requests_subject = f"kfix.{token}.beat", f"kfix.{token}.request"
        self._positions: KeyValue | None = None
        self._beats: deque[Beat] = deque(maxlen=64)

    def check(self) -> None:
        """Raise what came of the connection meanwhile."""
        if self._faults:
            error = self._faults[-1]
            text = _text(error)
            with _translated():  # the client reports an acknowledgement that is an error here, and nowhere else
                if isinstance(error, nats.js.errors.APIError):
                    raise error
            raise (Rejected if _PERSONAL.search(text) else Away)(f"the broker: {text}")
        if self.client.is_closed:
            raise Away("the connection to the broker ended")

    async def positions(self) -> KeyValue:
        """The bucket of the mirrors' positions, made where it is missing."""
        if self._positions is None:
            wanted = api.KeyValueConfig(bucket=self.bucket, replicas=self.access.replicas)
            try:
                self._positions = await self.js.key_value(self.bucket)
            except nats.js.errors.NotFoundError:
                self._positions = await self.js.create_key_value(wanted)
        return self._positions

    async def read_report(self, mirror: str) -> Report | None:
        with _translated():
            try:
                entry = await (await self.positions()).get(token_of(mirror))
            except nats.js.errors.KeyNotFoundError:
                return None
        return _loaded(Report, entry.value or b"")

    async def listen_to_beats(self) -> None:
        async def on_beat(message: Msg) -> None:
            if (beat := _loaded(Beat, message.data)) is not None:
                self._beats.append(beat)

        await self.client.subscribe(self.beats_subject, cb=on_beat)

    def take_beats(self) -> list[Beat]:
        beats = list(self._beats)
        self._beats.clear()
        return beats

    async def close(self) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self.client.close(), 1.0)


def _text(error: BaseException) -> str:
    return str(error).removeprefix("nats: ") or type(error).__name__


def _dumped(value: Any) -> bytes:
    return json.dumps(asdict(value)).encode()


def _loaded(kind: Callable[..., T], data: bytes) -> T | None:
    """The value that a message has; None of one that is not ours."""
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError):
        return None


async def _connect(access: Access, name: str) -> tuple[Client, list[Exception]]:
    faults: list[Exception] = []

    async def on_error(error: Exception) -> None:
        if not isinstance(error, nats.errors.SlowConsumerError):
            faults.append(error)

    options: dict[str, Any] = {}
    if access.tls_ca is not None:
        try:
            options["tls"] = ssl.create_default_context(cafile=access.tls_ca)
        except OSError as error:
            raise UsageError(f"tls_ca {access.tls_ca}: {reason_of(error)}") from error
    if access.credentials is not None:
        options["user_credentials"] = str(access.credentials)
    for key in ("token", "user", "password"):
        if (value := getattr(access, key)) is not None:
            options[key] = value
    try:
        client = await nats.connect(
            access.servers,
            name=name,
            error_cb=on_error,
            allow_reconnect=False,  # a connection that ended may have lost messages: everything is asked again
            connect_timeout=CONNECT_S,
            ping_interval=PING_S,
            max_outstanding_pings=PINGS,
            **options,
        )
    except (TimeoutError, nats.errors.Error, OSError) as error:
        text = "; ".join(dict.fromkeys(map(_text, [*faults, error])))
        if _PERSONAL.search(text):
            raise Rejected(f"the broker at {', '.join(access.servers)} rejects us: {text}") from None
        raise Away(f"no broker at {', '.join(access.servers)}: {text}") from None
    return client, faults


class JetStreamOutlet:
    """Sends chunks into the stream of a feed, each with the sequence that it has to follow: a second shipper, or a
    message that is sent twice, is rejected by the broker."""

    def __init__(self, connection: _Connection, source: Source, chunk_bytes: int) -> None:
        self._connection, self._source = connection, source
        self.chunk_bytes = max(SMALLEST, min(chunk_bytes, connection.client.max_payload - ROOM)) & ~7
        self.sequence, self._name = 0, ""
        self._requests: deque[Request] = deque(maxlen=64)

    @classmethod
    async def open(cls, access: Access, feed: str, source: Source, chunk_bytes: int) -> JetStreamOutlet:
        client, faults = await _connect(access, f"kfix ship {feed}")
        connection = _Connection(client, feed, access, faults)
        outlet = cls(connection, source, chunk_bytes)
        try:
            with _translated():
                await outlet._prepare()
        except BaseException:
            await connection.close()
            raise
        return outlet

    async def _prepare(self) -> None:
        connection = self._connection
        try:
            await connection.js.stream_info(connection.stream)
        except nats.js.errors.NotFoundError:
            access = connection.access
            await connection.js.add_stream(
                api.StreamConfig(
                    name=connection.stream,
                    subjects=[connection.subject],
                    storage=api.StorageType.FILE,
                    discard=api.DiscardPolicy.OLD,
                    max_bytes=access.stream_bytes,
                    num_replicas=access.replicas,
                )
            )

        async def on_request(message: Msg) -> None:
            if (request := _loaded(Request, message.data)) is not None:
                self._requests.append(request)

        await connection.positions()
        await connection.client.subscribe(connection.requests_subject, cb=on_request)
        await connection.listen_to_beats()

    async def last(self) -> Last | None:
        connection = self._connection
        with _translated():
            state = (await connection.js.stream_info(connection.stream)).state
            self.sequence, self._name = state.last_seq, ""
            if not state.messages:
                return None
            message = await connection.js.get_msg(connection.stream, state.last_seq)
        try:
            chunk, source = decode((message.headers or {}).get(HEADER, ""), message.data or b"")
        except Corrupted as error:
            raise Rejected(f"stream {connection.stream} has messages that are not ours ({error}): remove it") from None
        self._name = (message.headers or {}).get(NAME, "")
        return Last(source, chunk)

    async def send(self, chunk: Chunk) -> Awaitable[Any]:
        self._connection.check()
        headers = {HEADER: encode(chunk, self._source), EXPECTED: str(self.sequence)}
        if self._name:
            headers[EXPECTED_NAME] = self._name
        self.sequence += 1
        self._name = headers[NAME] = f"{self._source.shipper}/{time.monotonic_ns()}"
        with _translated():
            subject, data = self._connection.subject, bytes(chunk.data)
            future = await self._connection.js.publish_async(subject, data, headers=headers)
        return _Stored(future)

    async def beat(self, beat: Beat) -> None:
        self._connection.check()
        with _translated():
            await self._connection.client.publish(self._connection.beats_subject, _dumped(beat))

    async def reports(self, mirrors: list[str]) -> dict[str, Report]:
        found = {name: await self._connection.read_report(name) for name in mirrors}
        return {name: report for name, report in found.items() if report is not None}

    def requests(self) -> list[Request]:
        asked = list(self._requests)
        self._requests.clear()
        return asked

    def others(self) -> list[Beat]:
        return [beat for beat in self._connection.take_beats() if beat.shipper != self._source.shipper]

    async def close(self) -> None:
        await self._connection.close()


class _Stored:
    """An acknowledgement that is awaited; errors as this package names them."""

    def __init__(self, future: asyncio.Future[api.PubAck]) -> None:
        self.future = future
        future.add_done_callback(lambda done: done.cancelled() or done.exception())  # a lost connection drops them all

    def done(self) -> bool:
        return self.future.done()

    def __await__(self) -> Any:
        return self._wait().__await__()

    async def _wait(self) -> None:
        with _translated():
            await asyncio.wait_for(asyncio.shield(self.future), ANSWER_S)


class JetStreamInlet:
    """Receives the chunks of a feed through a consumer that lasts as long as the connection: where it begins is taken
    from the mirror's report, so that the broker's own account of what was delivered does not matter."""

    def __init__(self, connection: _Connection, mirror: str, log: str) -> None:
        self._connection, self._mirror, self.log = connection, mirror, log
        self._subscription: JetStreamContext.PushSubscription | None = None

    @classmethod
    async def open(cls, access: Access, feed: str, mirror: str) -> JetStreamInlet:
        client, faults = await _connect(access, f"kfix mirror {feed} {mirror}")
        connection = _Connection(client, feed, access, faults)
        try:
            with _translated():
                try:
                    info = await connection.js.stream_info(connection.stream)
                except nats.js.errors.NotFoundError:
                    raise Away(f"the broker has nothing of feed {feed!r} yet: is `kfix ship` running?") from None
                await connection.positions()
                await connection.listen_to_beats()
        except BaseException:
            await connection.close()
            raise
        return cls(connection, mirror, str(info.created))

    async def report(self, report: Report | None = None) -> Report | None:
        if report is None:
            return await self._connection.read_report(self._mirror)
        self._connection.check()
        with _translated():
            await (await self._connection.positions()).put(token_of(self._mirror), _dumped(report))
        return report

    async def follow(self, sequence: int) -> None:
        connection = self._connection
        with _translated():
            self._subscription = await connection.js.subscribe(
                connection.subject,
                stream=connection.stream,
                config=api.ConsumerConfig(
                    deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=sequence + 1,
                    ack_policy=api.AckPolicy.NONE,
                    max_deliver=1,
                    flow_control=True,
                    idle_heartbeat=1.0,
                    inactive_threshold=30.0,
                    mem_storage=True,
                    num_replicas=1,
                ),
                pending_bytes_limit=QUEUED_BYTES,
            )

    async def receive(self, timeout_s: float) -> tuple[int, str, bytes] | None:
        assert self._subscription is not None, "follow() comes first"
        self._connection.check()
        with _translated():
            try:
                message = await self._subscription.next_msg(timeout_s)
            except nats.errors.TimeoutError:
                return None
            sequence = message.metadata.sequence.stream
        return sequence, (message.headers or {}).get(HEADER, ""), message.data

    def beats(self) -> list[Beat]:
        return self._connection.take_beats()

    async def request(self, request: Request) -> None:
        self._connection.check()
        with _translated():
            await self._connection.client.publish(self._connection.requests_subject, _dumped(request))

    async def close(self) -> None:
        await self._connection.close()
