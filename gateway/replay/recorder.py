"""The flight recorder: what steps held, kept encrypted for as long as the policy says.

    step ──► request as its client sent it ─┐
    attempt ──► answer as given ────────────┴─► queue ──► sealed, in batches ──► ledger

A step only puts references into a queue. What is queued has a bound, and beyond it the oldest is dropped,
counted and told: a recording is worth less than the step. Nothing here knows of money.

A request of a run that begins and ends as the one before, as each step of an agent does, is kept as what is
between. Such a chain has a bound and one expiry, so whatever is kept can be read.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.auth import Secrets
from gateway.domain import Answer, Json, Millis, ToolCall
from gateway.protocols import Clock
from gateway.rules.budgets import applies
from gateway.stores.ledger_database import VALUE_ERRORS, LedgerUnavailable
from gateway.stores.ledger_recordings import Recording, Recordings

if TYPE_CHECKING:
    from gateway.steps.attempt import Attempt
    from gateway.steps.dispatch import Job

log = logging.getLogger("gateway.recorder")

INTERVAL_S = 0.25
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
BATCH_BYTES = 8 * 1024 * 1024
BATCH = 256
MAX_CONTENT_BYTES = 16 * 1024 * 1024
"""A larger request or answer is not recorded."""
MAX_KNOWN_BYTES = 64 * 1024 * 1024
"""Of the latest requests of runs, that the next ones are compared with."""
MAX_CHAIN = 64
CHAIN_MS = 86_400_000
"""How many requests, over how long, are kept as differences from each other."""
MAX_OPENED = 8
"""Requests of a run that stay open: the next one goes on from one of the last."""
MIN_SHARED = 256
"""Bytes; with fewer in common a request is kept whole."""
DAY_MS = 86_400_000
_LEVEL = 3
_FORMAT = b"\x01"
_NONCE = 12


class Unreadable(Exception):  # noqa: N818 - read as a state
    """What was recorded cannot be read: its key is lost, or it was changed."""


class Seal:
    """Closes what is recorded and opens it again, under keys made from the gateway's own secret."""

    def __init__(self, secrets: Secrets) -> None:
        known = (secrets.current, secrets.previous)
        self._keys = [
            AESGCM(hmac.digest(secret, b"recordings", hashlib.sha256))
            for secret in known
            if secret is not None
        ]

    def close(self, content: bytes, about: bytes) -> bytes:
        """Compressed and encrypted. `about` is what it cannot be taken away from."""
        nonce = os.urandom(_NONCE)
        packed = zstandard.ZstdCompressor(level=_LEVEL).compress(content)
        return _FORMAT + nonce + self._keys[0].encrypt(nonce, packed, about)

    def open(self, closed: bytes, about: bytes) -> bytes:
        """The content. Raises `Unreadable`."""
        if closed[:1] != _FORMAT:
            raise Unreadable("of another version")
        nonce, rest = closed[1 : 1 + _NONCE], closed[1 + _NONCE :]
        for key in self._keys:
            try:
                packed = key.decrypt(nonce, rest, about)
                return zstandard.ZstdDecompressor().decompress(packed, max_output_size=2 * MAX_CONTENT_BYTES)
            except (InvalidTag, ValueError, zstandard.ZstdError):
                continue
        raise Unreadable("its key is lost, or it was changed")


@dataclass(slots=True)
class _Queued:
    """Something to be recorded."""

    id: str
    run: str
    kind: str
    at: Millis
    expires_at: Millis
    content: bytes | Answer
    size: int


@dataclass(slots=True)
class _Known:
    """The latest request of a run."""

    id: str
    body: bytes
    began_at: Millis
    expires_at: Millis
    links: int


@dataclass(slots=True)
class Recorder:
    """One per worker. `dropped` counts what was lost."""

    ledger: Recordings
    secrets: Secrets
    clock: Clock
    dropped: Callable[[int], None] = lambda _count: None
    _queue: deque[_Queued] = field(default_factory=deque)
    _size: int = 0
    _known: OrderedDict[str, _Known] = field(default_factory=OrderedDict)
    _known_size: int = 0
    _task: asyncio.Task[None] | None = None
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _seal: Seal = field(init=False)
    _is_losing: bool = False

    def __post_init__(self) -> None:
        self._seal = Seal(self.secrets)

    def start(self) -> None:
        """Begin to write in the background."""
        self._task = asyncio.create_task(self._run(), name="recorder")

    async def close(self) -> None:
        """Write what is queued, and stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        try:
            await self.flush()
        except LedgerUnavailable as error:
            self._lose(len(self._queue), str(error))

    # -- on the way of a step -----------------------------------------------------------------------

    def asked(self, job: Job) -> None:
        """A step has a run: keep its request, where the policy says so."""
        rule, turn = job.generation.policy.recording, job.turn
        if rule is None or not rule.content or not applies(rule.match, turn.scopes):
            return
        at = turn.began_at
        job.facts.recorded_until = at + rule.retention_days * DAY_MS
        body = job.call.body
        self._put(
            _Queued(
                job.facts.decision_id,
                turn.run.run_id,
                "request",
                at,
                job.facts.recorded_until,
                body,
                len(body),
            )
        )

    def answered(self, attempt: Attempt) -> None:
        """An attempt has ended: keep what its provider said, if its request is kept."""
        until, given = attempt.facts.recorded_until, attempt.given
        if not until or given is None or attempt.inspect is not None:
            return
        size = sum(map(len, given.texts)) + len(given.reasoning)
        size += sum(len(call.arguments) for call in given.calls)
        turn = attempt.turn
        self._put(_Queued(attempt.attempt_id, turn.run.run_id, "answer", turn.began_at, until, given, size))

    def _put(self, queued: _Queued) -> None:
        if queued.size > MAX_CONTENT_BYTES:
            self._lose(1, "it is too large")
            return
        self._queue.append(queued)
        self._size += queued.size
        over = 0
        while len(self._queue) > MAX_QUEUED or self._size > MAX_QUEUED_BYTES:
            self._size -= self._queue.popleft().size
            over += 1
        if over:
            self._lose(over, "the ledger does not take it in time")

    def _lose(self, count: int, why: str) -> None:
        if not count:
            return
        self.dropped(count)
        if not self._is_losing:
            # Once, until it works again.
            self._is_losing = True
            log.warning("what steps held is not all recorded: %s", why)

    # -- in the background --------------------------------------------------------------------------

    async def flush(self) -> None:
        """Write all that is queued. Raises `LedgerUnavailable`; what was not written is still queued."""
        async with self._writing:
            while self._queue:
                batch = self._batch()
                try:
                    records = await asyncio.to_thread(self._sealed, batch)
                    await self.ledger.add_recordings(records)
                except BaseException as error:
                    # A chain must not go on from what was not written.
                    self._forget_known(queued.run for queued in batch)
                    if isinstance(error, VALUE_ERRORS):
                        self._lose(len(batch), type(error).__name__)
                        continue
                    self._queue.extendleft(reversed(batch))
                    self._size += sum(queued.size for queued in batch)
                    raise

    def _batch(self) -> list[_Queued]:
        batch: list[_Queued] = []
        size = 0
        while self._queue and len(batch) < BATCH and size < BATCH_BYTES:
            queued = self._queue.popleft()
            size += queued.size
            batch.append(queued)
        self._size -= size
        return batch

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.flush()
                self._is_losing = False
            except LedgerUnavailable as error:
                log.debug("what steps held is not written yet: %s", error)

    def _sealed(self, batch: Sequence[_Queued]) -> list[Recording]:
        return [self._record(queued) for queued in batch]

    def _record(self, queued: _Queued) -> Recording:
        base, prefix, suffix, expires_at = None, 0, 0, queued.expires_at
        if isinstance(queued.content, Answer):
            content = orjson.dumps(_told(queued.content))
        else:
            content = queued.content
            known = self._known.get(queued.run)
            links, began_at = 0, queued.at
            if known is not None and self._goes_on(known, queued):
                prefix, suffix = shared(known.body, content)
                if prefix + suffix >= MIN_SHARED:
                    base, links, began_at = known.id, known.links + 1, known.began_at
                    expires_at = known.expires_at
                else:
                    prefix = suffix = 0
            self._know(queued.run, _Known(queued.id, content, began_at, expires_at, links))
            content = content[prefix : len(content) - suffix]
        record = Recording(
            queued.id, queued.run, queued.kind, queued.at, expires_at, base, prefix, suffix, b""
        )
        return Recording(
            record.id,
            record.run,
            record.kind,
            record.at,
            record.expires_at,
            record.base,
            record.prefix,
            record.suffix,
            self._seal.close(content, about(record)),
        )

    @staticmethod
    def _goes_on(known: _Known, queued: _Queued) -> bool:
        """Whether a request may be kept as a difference: not for longer than is asked for, and not for much
        shorter."""
        in_time = 0 <= queued.at - known.began_at < CHAIN_MS
        return in_time and known.links < MAX_CHAIN and known.expires_at <= queued.expires_at

    def _know(self, run: str, known: _Known) -> None:
        self._forget_known([run])
        self._known[run] = known
        self._known_size += len(known.body)
        while self._known_size > MAX_KNOWN_BYTES:
            self._forget_known([next(iter(self._known))])

    def _forget_known(self, runs: Iterable[str]) -> None:
        for run in runs:
            if (known := self._known.pop(run, None)) is not None:
                self._known_size -= len(known.body)


def about(record: Recording) -> bytes:
    """What the content of a record cannot be taken away from."""
    parts = (record.id, record.run, record.kind, record.base or "", str(record.prefix), str(record.suffix))
    return "\0".join(parts).encode("utf-8", "surrogatepass")


def shared(one: bytes, other: bytes) -> tuple[int, int]:
    """How many bytes two texts have in common at their beginnings, and behind those at their ends."""
    most = min(len(one), len(other))
    prefix = _common(most, lambda n: one[:n] == other[:n])
    left = most - prefix
    return prefix, _common(left, lambda n: one[len(one) - n :] == other[len(other) - n :])


def _common(most: int, same: Callable[[int], bool]) -> int:
    """The largest n up to `most` with `same(n)`, which holds up to some n and then no more."""
    low, high = 0, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if same(middle) else (low, middle - 1)
    return low


def _told(answer: Answer) -> Json:
    return {
        "texts": answer.texts,
        "reasoning": answer.reasoning,
        "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.calls],
        "finish_reason": answer.finish_reason,
        "id": answer.response_id,
        "model": answer.model,
    }


@dataclass(slots=True)
class Content:
    """What is kept of a run, opened as it is asked for."""

    seal: Seal
    records: dict[str, Recording]
    _bodies: OrderedDict[str, bytes] = field(default_factory=OrderedDict)
    """Those that were opened last."""

    @classmethod
    def of(cls, secrets: Secrets, records: Iterable[Recording]) -> Content:
        """What these records hold."""
        return cls(Seal(secrets), {record.id: record for record in records})

    def request(self, decision: str) -> bytes | None:
        """A request's body; None where none was kept. Raises `Unreadable`."""
        chain: list[Recording] = []
        at: str | None = decision
        while at is not None and at not in self._bodies:
            record = self.records.get(at)
            if record is None or record.kind != "request" or len(chain) > MAX_CHAIN:
                if chain:
                    raise Unreadable("what it goes on from is gone")
                return None
            chain.append(record)
            at = record.base
        for record in reversed(chain):
            middle = self.seal.open(record.content, about(record))
            before = self._bodies[record.base] if record.base is not None else b""
            if record.prefix + record.suffix > len(before):
                raise Unreadable("it does not fit to what it goes on from")
            end = before[len(before) - record.suffix :] if record.suffix else b""
            self._bodies[record.id] = before[: record.prefix] + middle + end
        while len(self._bodies) > MAX_OPENED:
            self._bodies.popitem(last=False)
        return self._bodies[decision]

    def answer(self, attempt: str) -> Answer | None:
        """What a provider said; None where none was kept. Raises `Unreadable`."""
        record = self.records.get(attempt)
        if record is None or record.kind != "answer":
            return None
        try:
            told = orjson.loads(self.seal.open(record.content, about(record)))
            return Answer(
                texts=tuple(told["texts"]),
                reasoning=told["reasoning"],
                calls=tuple([ToolCall(c["id"], c["name"], c["arguments"]) for c in told["calls"]]),
                finish_reason=told["finish_reason"],
                response_id=told["id"],
                model=told["model"],
            )
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            raise Unreadable("of another version") from error
