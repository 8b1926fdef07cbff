"""One connection to Redis that every caller of a worker shares.

Commands of the same turn of the event loop leave as one write, replies come back in order and each goes to
the future of its command. A caller that is cancelled or timed out only drops its future: its reply is still
counted off, so no caller can read another's. Nothing here knows what the commands mean, nor how the server
is found: that is asked of a `Where` before each dial.

redis-py reads the URL; the socket is our own protocol on hiredis, because a redis-py call costs more CPU
than everything else a step does with the store (docs/stores.md has the figures).
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, cast

import hiredis

from gateway.errors import StoreUnavailable
from gateway.stores.redis_url import Address

log = logging.getLogger(__name__)

Arg = str | bytes | int
Reply = Any
"""What hiredis makes of RESP2: bytes, int, None, lists of them, or a `ReplyError` as a value."""
ReplyError = hiredis.ReplyError

MAX_WAITING = 10_000
"""Commands without a reply on one connection; more means that Redis has stopped, and waiting cannot help."""
LATE_S = 0.02
"""A timer that comes later than this says that the process was busy or was stopped."""
RECONNECT_MAX_S = 0.5
STAY_S = 1.0
"""A server that sends us away sooner than this is dialled again after a pause."""
LOG_EVERY_S = 10.0


def pack(*args: Arg) -> bytes:
    """A command as it goes over the wire."""
    return cast(bytes, hiredis.pack_command(args))  # type: ignore[arg-type]  # the stub's tuple is invariant


class Unsent(StoreUnavailable):
    """Nothing was sent, so nothing has changed."""


class Refused(StoreUnavailable):
    """Redis answered with an error, so nothing has changed."""


class Link(asyncio.Protocol):
    """An open socket: commands in, replies out in the same order."""

    def __init__(self, timeout_s: float, on_lost: Callable[[Link], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._timeout_s = timeout_s
        self._on_lost = on_lost
        self._on_push: Callable[[Reply], None] | None = None
        self._reader = hiredis.Reader(notEnoughData=self)
        self._transport: asyncio.Transport | None = None
        self._out: list[tuple[bytes, asyncio.Future[Reply]]] = []
        self._waiting: deque[tuple[float, asyncio.Future[Reply]]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.heard_at = self._loop.time()
        self.broken_by: Exception | None = None
        """What ended it, when the other side or TLS did."""

    # -- asyncio's side -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.heard_at = self._loop.time()
        reader, waiting = self._reader, self._waiting
        try:
            reader.feed(data)
            while (reply := reader.gets()) is not self:
                if self._on_push is not None:
                    self._on_push(reply)
                    continue
                future = waiting.popleft()[1]
                if not future.done():
                    future.set_result(reply)
        except (hiredis.ProtocolError, IndexError):
            log.error("redis: bytes that are no reply; the connection is dropped")
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.broken_by = exc
        self._on_lost(self)
        if self._timer is not None:
            self._timer.cancel()
        waiting, self._waiting = self._waiting, deque()
        unsent, self._out = self._out, []
        for _, future in waiting:
            if not future.done():
                future.set_exception(StoreUnavailable())
        for _, future in unsent:
            if not future.done():
                future.set_exception(Unsent())
        if not self.closed.done():
            self.closed.set_result(None)

    # -- our side -----------------------------------------------------------------------------------

    def send(self, packed: bytes) -> asyncio.Future[Reply]:
        """Queue a command; its reply comes within the time limit, or `StoreUnavailable` does.

        Raises: `StoreUnavailable` at once when the connection is closed or has far too much to answer.
        """
        if (
            self.closed.done()
            or self._transport is None
            or len(self._waiting) + len(self._out) >= MAX_WAITING
        ):
            raise Unsent
        if not self._out:
            self._loop.call_soon(self._flush)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._out.append((packed, future))
        return future

    def subscribe(self, channel: str, on_push: Callable[[Reply], None]) -> None:
        """From now on nothing is asked here: whatever comes is a message, and `on_push` gets it."""
        self._on_push = on_push
        self.post(pack("SUBSCRIBE", channel))

    def post(self, packed: bytes) -> None:
        """Send what has no reply of its own: a subscriber's only way to speak."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(packed)

    @property
    def silent_s(self) -> float:
        """How long the oldest unanswered command has been waiting."""
        return self._loop.time() - self._waiting[0][0] if self._waiting else 0.0

    def abort(self) -> None:
        """Drop the socket now; everything that waits is told."""
        if self._transport is not None:
            self._transport.abort()

    def _flush(self) -> None:
        out, self._out = self._out, []
        transport = self._transport
        if not out or transport is None:
            return
        if transport.is_closing():
            for _, future in out:
                if not future.done():
                    future.set_exception(Unsent())
            return
        transport.write(b"".join([packed for packed, _ in out]) if len(out) > 1 else out[0][0])
        now = self._loop.time()
        self._waiting.extend((now, future) for _, future in out)
        if self._timer is None:
            self._arm(now + self._timeout_s)

    def _arm(self, due: float) -> None:
        self._due = due
        self._timer = self._loop.call_at(due, self._time_out)

    def _time_out(self) -> None:
        """Fail what is due; when the timer comes late, this process was busy and not the server slow: what
        has arrived meanwhile is read first."""
        now = self._loop.time()
        if now - self._due > LATE_S:
            self._timer = self._loop.call_at(now + LATE_S, self._fail_due, now)
        else:
            self._fail_due(now)

    def _fail_due(self, now: float) -> None:
        """Fail what has waited too long and keep its place, so that the replies still find their own."""
        self._timer = None
        for sent_at, future in self._waiting:
            due = sent_at + self._timeout_s
            if due > now:
                self._arm(due)
                return
            if not future.done():
                future.set_exception(StoreUnavailable())
        if self._waiting:
            self._arm(now + self._timeout_s)


Handshake = Callable[[Link], Awaitable[None]]


class Where(Protocol):
    """Finds the server to talk to."""

    async def find(self) -> Sequence[Address]:
        """Where to dial, the likeliest first. Raises: `StoreUnavailable` when nobody can tell."""

    def __str__(self) -> str:
        """What the log calls it."""


class Fixed:
    """A server that is where it is."""

    def __init__(self, address: Address) -> None:
        self.address = address

    async def find(self) -> Sequence[Address]:
        return (self.address,)

    def __str__(self) -> str:
        return str(self.address)


async def dial(
    address: Address, *, timeout_s: float, on_lost: Callable[[Link], None] = lambda _link: None
) -> Link:
    """A link to a server that has let us in. Raises: `OSError`, `StoreUnavailable` or `ReplyError`."""
    loop = asyncio.get_running_loop()

    def make() -> Link:
        return Link(timeout_s, on_lost)

    if address.path is not None:
        _, link = await loop.create_unix_connection(make, address.path)
    else:
        _, link = await loop.create_connection(make, address.host, address.port, ssl=address.tls)
    commands: list[bytes] = []
    if address.password is not None:
        login = (address.username, address.password) if address.username else (address.password,)
        commands.append(pack("AUTH", *login))
    if address.db:
        commands.append(pack("SELECT", address.db))
    try:
        for reply in await asyncio.gather(*(link.send(command) for command in commands)):
            if isinstance(reply, ReplyError):
                raise reply
    except StoreUnavailable as error:
        link.abort()
        raise ended_by(link, address, error) from None
    except BaseException:
        link.abort()
        raise
    return link


def ended_by(link: Link, address: Address, error: Exception) -> Exception:
    """What is behind a failure on a link: what ended the link, when something did."""
    if not isinstance(error, StoreUnavailable) or not link.closed.done():
        return error
    if isinstance(link.broken_by, ssl.SSLError):
        return link.broken_by
    hint = "" if address.tls or address.path else "; one that wants TLS does so: rediss://"
    return ConnectionError(f"{_CLOSED}{hint}")


_CLOSED = "it closed the connection before it had answered"


def explained(error: BaseException) -> str:
    """What went wrong with a connection, in words that tell what to change where that is known."""
    text = getattr(error, "message", "") or str(error) or type(error).__name__
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code in (_WRONG_HOST, _WRONG_IP):
            todo = "name it as its certificate does, or set ssl_check_hostname=false"
            return f"TLS: {error.verify_message}: {todo}"
        todo = "give its CA with ssl_ca_certs=FILE"
        return f"TLS: its certificate is not trusted ({error.verify_message}): {todo}"
    if isinstance(error, ssl.SSLError):
        word = str(error.reason or "").upper()
        if "CERTIFICATE_REQUIRED" in word or "HANDSHAKE_FAILURE" in word:
            return "TLS: it wants a certificate of ours: give ssl_certfile=FILE and ssl_keyfile=FILE"
        if "UNKNOWN_CA" in word or "BAD_CERTIFICATE" in word:
            return "TLS: it does not accept our certificate (ssl_certfile)"
        if word in _NOT_TLS:
            return "TLS: it does not speak TLS on this port: redis:// instead of rediss://"
        return f"TLS: {' '.join(text.split())[:120]}"
    if isinstance(error, TimeoutError) and not str(error):
        return "no answer in time"
    return text


_WRONG_HOST, _WRONG_IP = 62, 64
"""X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH of OpenSSL."""
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")


class Health:
    """Says once when Redis stops answering and once when it answers again, however many callers notice."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._since = 0.0
        self._last = 0.0
        self._said: dict[str, float] = {}
        self.failing = False

    def failed(self, reason: str) -> None:
        """It did not answer. `reason` is one of few: each is said at most every ten seconds."""
        now = self._last = asyncio.get_running_loop().time()
        if not self.failing:
            self.failing, self._since = True, now
        if now - self._said.get(reason, -LOG_EVERY_S) >= LOG_EVERY_S:
            if len(self._said) >= 64:
                self._said.clear()
            self._said[reason] = now
            log.warning("redis %s: unavailable: %s", self._name, reason)

    def worked(self) -> None:
        """It answered; believed when nothing has failed for a second, since reads go on where writes fail."""
        now = asyncio.get_running_loop().time()
        if self.failing and now - self._last >= 1.0:
            self.failing = False
            log.warning("redis %s: available again after %.1f s", self._name, self._last - self._since)


class Pipe:
    """A `Link` that is kept open in the background, and the breaker in front of it.

    While there is no link, callers wait for one no longer than the time limit; after that, or when the
    server has been silent for twice the limit, they are refused at once. A silent link is replaced after
    four times the limit, and dialling goes on every half second until it works. Where to dial is asked anew
    each time.
    """

    def __init__(
        self,
        where: Where,
        *,
        timeout_s: float,
        connect_timeout_s: float,
        handshake: Handshake,
        health: Health,
        keepalive_s: float = 0.0,
    ) -> None:
        self.where = where
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._handshake = handshake
        self._health = health
        self._keepalive_s = keepalive_s
        self._link: Link | None = None
        self._down_since = 0.0
        self._linked: asyncio.Event = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._elsewhere = False
        self.address: Address | None = None
        """The server of the latest link."""
        self.last_error: str = "not connected yet"

    def start(self) -> None:
        """Begin to dial."""
        self._down_since = asyncio.get_running_loop().time()
        self._task = asyncio.create_task(self._keep(), name=f"redis {self.where}")

    async def close(self) -> None:
        """Hang up and stop dialling."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def wait_linked(self, timeout_s: float) -> None:
        """Wait for a link. Raises: `StoreUnavailable` when there is none in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._linked.wait()
        except TimeoutError:
            raise Unsent from None

    async def call(self, packed: bytes) -> Reply:
        """The reply to a command, error replies included as values. Raises: `StoreUnavailable`."""
        link = self._link
        if link is None:
            return await self._call_when_linked(packed)
        if link.silent_s > 2 * self._timeout_s:
            raise Unsent
        return await link.send(packed)

    async def call_all(self, commands: Sequence[bytes]) -> list[Reply]:
        """The replies to commands that reach one server, one right after the other. Raises as `call`."""
        if self._link is None:
            await self.wait_linked(self._patience)
        link = self._link
        if link is None or link.silent_s > 2 * self._timeout_s:
            raise Unsent
        return await asyncio.gather(*(link.send(command) for command in commands))

    @property
    def _patience(self) -> float:
        """How long a caller may still wait for a link."""
        patience = self._timeout_s - (asyncio.get_running_loop().time() - self._down_since)
        if patience <= 0:
            raise Unsent
        return patience

    async def _call_when_linked(self, packed: bytes) -> Reply:
        """Wait for a link and for the reply, no longer for both than for one."""
        patience = self._patience
        sent = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await self.wait_linked(patience)
                if self._link is None:
                    raise Unsent
                sent = True
                return await self._link.send(packed)
        except TimeoutError:
            raise (StoreUnavailable if sent else Unsent) from None

    def reconnect(self) -> None:
        """The server at the other end is not the one to talk to (any more): dial again."""
        if self._link is not None:
            self._elsewhere = True
            self._link.abort()

    def _lost(self, link: Link) -> None:
        """From this moment callers wait for the next link, none finds the old one."""
        if link is self._link:
            self._link = None
            self._down_since = asyncio.get_running_loop().time()
            self._linked.clear()

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            try:
                link = await self._reach()
            except (OSError, TimeoutError, StoreUnavailable, ReplyError) as error:
                failures += 1
                told = explained(error)
                says_less = told.startswith(_CLOSED) or isinstance(error, TimeoutError)
                if not (says_less and self.last_error.startswith("TLS:")):
                    # What a server says of TLS is now and then lost with the connection that it closes.
                    self.last_error = told
                self._health.failed(self.last_error)
            else:
                began = loop.time()
                self._elsewhere = False
                self._link = link
                self._linked.set()
                try:
                    await self._watch(link)
                finally:
                    self._lost(link)
                    link.abort()
                # Sent away by a server that everybody still names: not again and again without a pause.
                failures = failures + 1 if self._elsewhere and loop.time() - began < STAY_S else 0
                self.last_error = "connection lost"
                if not self._elsewhere:
                    self._health.failed(self.last_error)
            if failures:
                # Jitter, so that a fleet does not come back in step.
                await asyncio.sleep(min(RECONNECT_MAX_S, 0.02 * 2**failures) * random.uniform(0.5, 1.0))

    async def _reach(self) -> Link:
        """A link, greeted, to the first of the addresses that takes us. Raises what the last one said."""
        async with asyncio.timeout(self._connect_timeout_s):
            addresses = await self.where.find()
        refusal: Exception = StoreUnavailable("nobody tells where it is")
        for address in addresses:
            link: Link | None = None
            try:
                async with asyncio.timeout(self._connect_timeout_s):
                    link = await dial(address, timeout_s=self._timeout_s, on_lost=self._lost)
                    await self._handshake(link)
            except (OSError, TimeoutError, StoreUnavailable, ReplyError) as error:
                refusal = error
                if link is not None:
                    refusal = ended_by(link, address, error)
                    link.abort()
                elif isinstance(error, TimeoutError) and address.tls is not None:
                    refusal = TimeoutError(
                        "no TLS in time: where it speaks none, redis:// instead of rediss://"
                    )
            except BaseException:
                if link is not None:
                    link.abort()
                raise
            else:
                self.address = address
                return link
        try:
            raise refusal
        finally:
            del refusal  # It holds this frame.

    async def _watch(self, link: Link) -> None:
        """Return when the link is lost, after dropping it if the server has gone silent."""
        loop = asyncio.get_running_loop()
        silent = False
        while not link.closed.done():
            await asyncio.wait({link.closed}, timeout=self._timeout_s)
            if self._keepalive_s and loop.time() - link.heard_at > self._keepalive_s:
                if loop.time() - link.heard_at > 2 * self._keepalive_s:
                    link.abort()
                else:
                    link.post(pack("PING"))
            # Seen twice, for this process may have stood still, with the replies still unread.
            before, silent = silent, link.silent_s > 4 * self._timeout_s
            if before and silent:
                link.abort()
