"""The store that several workers and hosts share: one Lua script per operation, on Redis from 6.2 or Valkey.

What an operation means is written in `gateway.stores.embedded`; the scripts in `lua/` follow it line by
line. Here its values become arguments and replies become values again, a database that lost its counters
is filled from the ledger before it admits anything, settlements that it had taken and lost are made again,
and every failure of Redis becomes `StoreUnavailable`. docs/stores.md tells operators what is kept under
which key.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from gateway.admission import (
    Admission,
    Admitted,
    Baseline,
    BreakerRule,
    BreakerState,
    CounterState,
    Denied,
    Ending,
    Hold,
    Kill,
    Lookup,
    Quota,
    RunView,
    Settled,
    Settlement,
    Taken,
)
from gateway.domain import Millis, Nano, RunSource, RunStatus
from gateway.errors import StoreUnavailable
from gateway.protocols import Clock, Store
from gateway.stores.embedded import (
    complete_orphan,
    denied_as_expired,
    denied_by_ending,
    denied_by_kill,
    run_event,
)
from gateway.stores.embedded_breakers import source_digest
from gateway.stores.embedded_records import run_of_held, usable_figures
from gateway.stores.embedded_runs import RunState, shown
from gateway.stores.ledger_database import LedgerUnavailable
from gateway.stores.redis_scattered import Scattered
from gateway.stores.redis_undrained import Reservation, Undrained, stream_id
from gateway.stores.redis_url import Address, StoreUrl, parse_store_url
from gateway.stores.redis_where import Cluster, Sentinels
from gateway.stores.redis_wire import (
    Arg,
    Fixed,
    Health,
    Link,
    Pipe,
    Refused,
    Reply,
    ReplyError,
    Unsent,
    dial,
    pack,
)

log = logging.getLogger(__name__)

UsedCounters = Callable[[Millis], Awaitable[Mapping[str, tuple[Nano, Millis]]]]

T = TypeVar("T")

OLDEST_VERSION = (6, 2)
BATCH = 500
"""Names, counters or attempts in one script call: a few milliseconds of the server at most."""
REAP_BATCH = 100
MAX_VOIDS = 10_000
REBUILD_LOCK_MS = 15_000
REBUILD_LIMIT_S = 10.0
REBUILD_PAUSE_S = 0.25
MAKE_GOOD_PAUSE_S = 0.05
KEEPALIVE_S = 5.0
NOT_THE_MASTER = ("READONLY", "LOADING", "MASTERDOWN", "MOVED", "CLUSTERDOWN")
"""Errors after which another connection may reach the server to talk to."""
UNKNOWN_EPOCH = "?"
_RUNS_LOST_S = 60.0
"""How long after a database was lost a step may still come whose run was in it."""
INSPECT_S = 2.0
REJOIN_S = 0.2
REJOIN_ELSEWHERE_S = 0.6
"""How long a database that was lost stays shut, so that every worker finds it, on another server too, and
reserves again what its open calls hold."""


class Keys:
    """Every key of a gateway. A stored format: the scripts derive theirs from `epoch` in the same way.

    All share one hash tag, so that one script can reach them on a Cluster. A record's id is whatever
    follows the second colon, so that no id, however hostile, is another's.
    """

    def __init__(self, namespace: str) -> None:
        self.tag = f"{{{namespace}}}:"
        self.epoch = f"{self.tag}epoch"
        self.events = f"{self.tag}events"
        self.rebuild = f"{self.tag}rebuild"
        self.breakers = f"{self.tag}breakers"
        self.kill_channel = f"{self.tag}kills"

    def of(self, kind: str, record_id: str) -> bytes:
        """Key of one record: a run, index, retry, counter, bucket, flight, attempt, kill, acks, object,
        quota, breaker or baseline."""
        return _text(f"{self.tag}{kind}:{record_id}")


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script as it is sent; `sha` is its name on the server."""

    name: str
    source: str
    sha: str


_SHARED: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("resolve", "admit", "extend", "counters", "reseed", "link", "restore"), ("state",)),
    **dict.fromkeys(("settle", "reap", "void"), ("state", "settling")),
    **dict.fromkeys(("report", "probe", "breakers", "reset_breaker"), ("breaking",)),
    **dict.fromkeys(("observe", "baseline"), ("observing",)),
}
"""The parts, after `common`, that a script begins with: no more than it uses, since Lua makes them anew for
every call and its collector goes through all that are loaded."""
_SCRIPT_NAMES = (
    "resolve", "admit", "extend", "restore", "settle", "void", "renew", "reap", "stop_run", "link",
    "counters", "reseed", "seeded", "unlock", "set_kill", "clear_kill", "kills", "acknowledge", "take",
    "report", "probe", "breakers", "reset_breaker", "observe", "baseline",
)  # fmt: skip


@cache
def scripts(clustered: bool = False) -> dict[str, Script]:
    """Every script, with the parts that it shares with others in front."""
    folder = files("gateway.stores").joinpath("lua")
    begins_with = ("common", "clustered") if clustered else ("common",)

    def part(name: str) -> str:
        return folder.joinpath(f"{name}.lua").read_text(encoding="utf-8")

    loaded: dict[str, Script] = {}
    for name in _SCRIPT_NAMES:
        parts = (*begins_with, *_SHARED.get(name, ()), name)
        source = "\n".join(part(p) for p in parts)
        loaded[name] = Script(name, source, hashlib.sha1(source.encode(), usedforsecurity=False).hexdigest())
    return loaded


class RedisStore:
    """Live state in Redis. Construct it inside or outside a loop; everything else belongs to one loop.

    `used_counters` reads the ledger's fold, for a database that has none; an application that drains the
    event stream into the ledger first loses no event that only the stream holds. `clock` is for tests: the
    scripts then take its time in place of the server's.
    """

    def __init__(
        self,
        url: str,
        *,
        worker_id: str,
        used_counters: UsedCounters | None = None,
        in_ledger: Callable[[str], Awaitable[bool]] | None = None,
        timeout_s: float = 0.25,
        connect_timeout_s: float = 1.0,
        seed_wait_s: float = 1.0,
        namespace: str = "gw",
        raw_kills_in_script: bool = True,
        clock: Clock | None = None,
        took: Callable[[str, float], None] = lambda _operation, _seconds: None,
        failed: Callable[[], None] = lambda: None,
        drained: Callable[[str], None] = lambda _attempt_id: None,
    ) -> None:
        """`timeout_s` bounds every wait, but for `seed_wait_s` while a database is filled from the ledger.

        `in_ledger` tells whether an attempt is there with its real figure, `drained` is told of each attempt
        whose settlement has reached it. `raw_kills_in_script` is off where a script cannot reach keys without
        the hash tag: they are then looked up before it, as on a Cluster. `took` is told how long an operation
        lasted, `failed` of each that has.
        Raises: `ValueError` for a URL that makes no sense.
        """
        self.keys = Keys(namespace)
        self._worker_id = worker_id
        self._used_counters = used_counters
        self._in_ledger = in_ledger
        self._timeout_s = timeout_s
        self._connect_timeout_s = connect_timeout_s
        self._seed_wait_s = seed_wait_s
        self._raw_kills = raw_kills_in_script
        self._clock = clock
        self._took = took
        self._failed = failed
        self._drained = drained
        self._undrained = Undrained(drained)
        self._open: dict[str, Reservation] = {}
        self._scripts = scripts()
        self._server = ""
        """The connected server's run id; the epoch of a database that it serves begins with it."""
        self._heard: Callable[[], float] = lambda: 0.0
        """When the latest server was last heard, by the loop's clock."""
        self._epoch = UNKNOWN_EPOCH
        self._may_lack_runs_until = 0.0
        """By the loop's clock: until then steps are under way whose runs a lost database had."""
        self._filled = ""
        """The server whose database was last known to be complete."""
        self._seeding: asyncio.Task[None] | None = None
        self._seed_again_at = 0.0
        self._doubtful: dict[str, Settlement] = {}
        """Settlements that a database which lost its last writes may have lost."""
        self._unreserved: dict[str, Reservation] = {}
        """Reservations of open attempts that it may have lost."""
        self._making_good: asyncio.Task[None] | None = None
        self._voids: deque[str] = deque(maxlen=MAX_VOIDS)
        self._voiding: asyncio.Task[None] | None = None
        self._kill_callbacks: list[Callable[[Kill], None]] = []
        self._warned: dict[str, list[str]] = {}
        self._inspecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._scattered: Scattered | None = None
        self._url = parse_store_url(url)
        self._where = self._find_by(self._url)
        self._health = Health(str(self._where))
        self._pipe = self._make_pipe(self._where, self._greet, self._health)
        self._subscription = self._make_pipe(
            self._where, self._subscribe, Health(f"{self._where} (kills)"), keepalive_s=KEEPALIVE_S
        )
        if isinstance(self._where, Cluster):
            self._serve_from(self._where)

    def _find_by(self, url: StoreUrl) -> Fixed | Sentinels | Cluster:
        if url.kind == "sentinel":
            return Sentinels(url, timeout_s=self._timeout_s, connect_timeout_s=self._connect_timeout_s)
        if url.kind == "cluster":
            return Cluster(url.servers, self.keys.epoch, timeout_s=self._timeout_s)
        return Fixed(url.login)

    def _make_pipe(
        self,
        where: Fixed | Sentinels | Cluster,
        handshake: Callable[[Link], Awaitable[None]],
        health: Health,
        keepalive_s: float = 0.0,
    ) -> Pipe:
        return Pipe(
            where,
            timeout_s=self._timeout_s,
            connect_timeout_s=self._connect_timeout_s,
            handshake=handshake,
            health=health,
            keepalive_s=keepalive_s,
        )

    def _serve_from(self, cluster: Cluster) -> None:
        """All our keys are in one slot of a Cluster, and flags set by hand anywhere."""
        self._where = self._pipe.where = self._subscription.where = cluster
        self._scripts = scripts(clustered=True)
        self._raw_kills = False
        self._scattered = Scattered(
            cluster,
            lambda address: self._make_pipe(Fixed(address), _no_greeting, Health(f"node {address}")),
        )

    @property
    def warnings(self) -> list[str]:
        """What an operator should change about this Redis; known once connected."""
        return [warning for warnings in self._warned.values() for warning in warnings]

    async def start(self) -> None:
        """Connect, and fill the database from the ledger if it has no counters.

        Raises: `StoreUnavailable` when Redis cannot be used now. The store goes on trying, so that a caller
        who would rather wait need not start it again.
        """
        if isinstance(self._where, Sentinels):
            self._where.start()
            self._watching = asyncio.create_task(self._where.watch(self._moved), name="redis sentinels")
        self._pipe.start()
        self._subscription.start()
        try:
            await self._wait_first_link()
        except StoreUnavailable:
            raise StoreUnavailable(f"Redis cannot be used: {self._pipe.last_error}") from None
        if self._epoch == UNKNOWN_EPOCH:
            await self._wait_seeded(asyncio.get_running_loop().time() + REBUILD_LIMIT_S)

    async def _wait_first_link(self) -> None:
        """Who has to be found first is dialled after that: it takes longer."""
        if isinstance(self._where, Fixed):
            try:
                # A moment longer, to be able to say why not.
                await self._pipe.wait_linked(self._connect_timeout_s + 0.2)
            except StoreUnavailable:
                if isinstance(self._where, Fixed):
                    raise
            else:
                return
        await self._pipe.wait_linked(3 * self._connect_timeout_s)

    def _moved(self) -> None:
        self._pipe.reconnect()
        self._subscription.reconnect()

    async def close(self) -> None:
        if self._voids:
            try:
                await self._send_voids()
            except StoreUnavailable:
                log.warning("redis: %d admissions could not be undone; their leases end", len(self._voids))
        if self._doubtful:
            log.warning("redis: %d settlements may be lost to it; the journal has them", len(self._doubtful))
        running = (self._voiding, self._seeding, self._making_good, self._inspecting, self._watching)
        tasks = [task for task in running if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._subscription.close()
        await self._pipe.close()
        if self._scattered is not None:
            await self._scattered.close()
        if isinstance(self._where, Sentinels):
            await self._where.close()

    # -- the five operations of a step --------------------------------------------------------------

    async def resolve(self, lookup: Lookup) -> RunView:
        args: list[Arg] = [
            lookup.new_run_id,
            _text(lookup.session),
            _flag(lookup.session_given),
            _optional(lookup.name),
            _optional(lookup.name_key),
            lookup.named_source.value,
            _optional(lookup.own_run_id),
            _text(lookup.principal),
            lookup.retry_key,
            _flag(lookup.retry_declared),
            _flag(lookup.speaks_text),
            lookup.idle_ttl_ms,
            lookup.text_gap_ms,
            len(lookup.evidence),
        ]
        for evidence in lookup.evidence:
            args += (evidence.key, evidence.source.value, _flag(evidence.then_user))
        args += (_optional(lookup.parent_run_id), len(lookup.parents), *lookup.parents)
        args += (len(lookup.known_as), *lookup.known_as)
        args += (len(lookup.tasks), *lookup.tasks, lookup.policy)
        r = await self._gated("resolve", args)
        return RunView(
            run_id=_str(r[1]),
            session=_str(r[2]),
            source=RunSource(_str(r[3])),
            is_new=r[4] == b"1",
            explicit=r[5] == b"1",
            name=_given(r[6]),
            continues=_given(r[7]),
            retry_ordinal=int(r[8]),
            merged=r[9] == b"1",
            status=RunStatus(_str(r[10])),
            started_at=int(r[11]),
            steps=int(r[12]),
            cost=int(r[13]),
            idle_ms=int(r[14]),
            ancestors=tuple(_str(run_id) for run_id in r[15]),
            progress=r[16],
            landed=int(r[17]),
            asked_by=_str(r[18]) or None,
            policy=_str(r[19]),
        )

    async def admit(self, admission: Admission) -> Admitted | Denied:
        if not self._raw_kills:
            found = await self._raw_flags(admission.kill_names, fresh=False)
            if found:
                return denied_by_kill(*next(iter(found.items())))
        try:
            r = await self._gated("admit", self._admission_args(admission))
        except (Unsent, Refused):
            raise
        except (StoreUnavailable, asyncio.CancelledError):
            # The reservation may stand, or be made when a stopped server goes on, and nobody would use it.
            self._give_back(admission.attempt_id)
            raise
        match r[0]:
            case b"OK":
                held = r[6]
                admitted = Admitted(
                    ordinal=int(r[1]),
                    reserved=int(r[2]),
                    output_tokens=int(r[3]),
                    holds=tuple(Hold(_str(held[i]), int(held[i + 1])) for i in range(0, len(held), 2)),
                    warned=tuple(_str(rule) for rule in r[7]),
                    shadow_denied=tuple(_str(rule) for rule in r[8]),
                    run_remaining=int(r[4]) if r[4] else None,
                    admitted_at=int(r[5]),
                )
                self._open[admission.attempt_id] = Reservation(admission, admitted)
                return admitted
            case b"DENIED":
                limit, used, need, resets_at, retry_after_ms = (int(figure) for figure in r[4:9])
                return Denied(
                    _str(r[1]), _str(r[2]), _str(r[3]), limit, used, need, resets_at, retry_after_ms, ""
                )
            case b"KILLED":
                return denied_by_kill(admission.kill_names[int(r[1])], _str(r[2]))
            case b"ENDED":
                return denied_by_ending(Ending(*json.loads(r[1])))
            case b"NORUN":
                if asyncio.get_running_loop().time() < self._may_lack_runs_until:
                    # It was there a moment ago. The step can be made again, and finds or opens its run anew.
                    raise StoreUnavailable
                return denied_as_expired()
            case _:
                # Given up earlier under the same id, or the id was used before: never twice.
                raise StoreUnavailable

    def _admission_args(self, a: Admission) -> list[Arg]:
        limits = a.limits
        args: list[Arg] = [
            a.attempt_id,
            a.run_id,
            a.retry_ordinal,
            a.retry_key,
            _flag(limits.enforced),
            limits.max_steps,
            limits.max_wall_clock_ms,
            limits.max_tokens,
            limits.max_tool_calls,
            a.fixed_nano,
            repr(a.output_rate),
            a.want_tokens,
            a.reserve_tokens,
            a.floor_tokens,
            _flag(a.halve),
            a.input_tokens,
            a.choices,
            a.lease_ms,
            a.event,
            a.orphan,
            _flag(self._raw_kills),
            _ending(a.landing),
            len(a.kill_names),
        ]
        args += [_text(name) for name in a.kill_names]
        args.append(len(a.charges))
        for c in a.charges:
            args += (
                c.rule,
                c.per,
                c.counter,
                c.limit,
                _flag(c.enforced),
                c.warn_at,
                c.ttl_ms,
                c.kept_back,
                len(c.windows),
            )
            for window in c.windows:
                args += (window.id, window.ends_at)
        args.append(len(a.rates))
        for r in a.rates:
            args += (
                r.rule,
                r.per,
                r.counter,
                _flag(r.enforced),
                r.requests_per_minute,
                r.tokens_per_minute,
                r.new_runs_per_minute,
                r.max_concurrency,
                r.nano_per_minute,
            )
        return args

    async def extend(self, attempt_id: str, amount: Nano) -> bool:
        r = await self._gated("extend", [attempt_id, amount])
        done = bool(r[1] == b"1")
        if done and (reservation := self._open.get(attempt_id)) is not None:
            reservation.extended += amount
        return done

    async def settle(self, settlement: Settlement) -> Settled:
        s = settlement
        args: list[Arg] = [
            s.attempt_id,
            s.run_id,
            s.cost,
            s.tokens,
            _flag(s.provisional),
            _flag(s.succeeded),
            _flag(s.completes),
            s.tool_calls,
            s.head,
            s.retry_key,
            s.index_ttl_ms,
            _flag(s.adopt),
            s.ends_as,
            _text(s.ends_because),
            s.progress,
            s.waited_ms,
            s.event,
            len(s.links),
            *s.links,
            len(s.holds),
        ]
        for hold in s.holds:
            args += (hold.counter, hold.expires_at)
        r = await self._gated("settle", args)
        self._open.pop(s.attempt_id, None)
        if r[6]:
            self._undrained.add(stream_id(r[6]), settlement)
        return Settled(
            known=r[1] == b"1",
            applied=r[2] == b"1",
            run_cost=int(r[3]),
            run_remaining=int(r[4]) if r[4] else None,
            status=RunStatus(_str(r[5])),
        )

    # -- upkeep -------------------------------------------------------------------------------------

    async def renew(self, attempt_ids: Sequence[str]) -> None:
        await asyncio.gather(
            *(self._script("renew", [len(batch), *batch]) for batch in _batches(attempt_ids, BATCH))
        )

    async def reap(self) -> int:
        reaped = 0
        while True:
            r = await self._gated("reap", [REAP_BATCH])
            reaped += int(r[1])
            if r[2] != b"1":
                return reaped

    async def note(self, event: bytes) -> None:
        await self._command("XADD", self.keys.events, "*", "e", event)

    async def link(self, run_id: str, keys: Sequence[str], ttl_ms: int) -> None:
        await self._script("link", [run_id, ttl_ms, len(keys), *keys])

    async def stop_run(self, run_id: str, status: str, reason: str, ending: Ending | None = None) -> None:
        await self._script("stop_run", [run_id, status, _text(reason), _ending(ending)])

    # -- the ledger stream --------------------------------------------------------------------------

    async def take_events(self, limit: int) -> list[tuple[str, bytes]]:
        if limit <= 0:
            return []
        latest = self._undrained.latest
        entries, epoch = await asyncio.gather(
            self._command("XRANGE", self.keys.events, "-", "+", "COUNT", limit),
            self._command("GET", self.keys.epoch),
        )
        if epoch != self._epoch.encode():
            # Events that are missing here may have been lost and not been written to the ledger.
            self._start_seeding()
        elif entries:
            self._undrained.drained_before(stream_id(entries[0][0]))
        elif latest is not None:
            self._undrained.drained_through(latest)
        return [(_str(entry[0]), _event(entry[1])) for entry in entries]

    async def confirm_events(self, ids: Sequence[str]) -> None:
        for batch in _batches(ids, BATCH):
            await self._command("XDEL", self.keys.events, *batch)
        self._undrained.confirmed(ids)

    # -- kills --------------------------------------------------------------------------------------

    async def set_kill(self, kill: Kill, ttl_s: float | None) -> None:
        message = json.dumps({"name": kill.name, "reason": kill.reason, "from": self._worker_id})
        ttl_ms = int(ttl_s * 1000) if ttl_s else -1
        await self._script(
            "set_kill", [_text(kill.name), _text(kill.reason), ttl_ms, self.keys.kill_channel, message]
        )
        # This worker need not wait for its own message, nor depend on its subscription.
        for callback in self._kill_callbacks:
            callback(kill)

    async def clear_kill(self, name: str) -> bool:
        r = await self._script("clear_kill", [_text(name), _flag(self._raw_kills)])
        if self._raw_kills:
            return bool(r[1] == b"1")
        by_hand = _text(f"kill:{name}")
        if self._scattered is not None:
            return await self._scattered.delete(by_hand) or r[1] == b"1"
        return bool(await self._command("DEL", by_hand) == 1 or r[1] == b"1")

    async def kills(self, names: Iterable[str]) -> dict[str, str]:
        wanted = list(dict.fromkeys(names))
        found: dict[str, str] = {}
        batches = list(_batches(wanted, BATCH))
        answers = await asyncio.gather(
            *(
                self._script("kills", [_flag(self._raw_kills), len(batch), *(_text(n) for n in batch)])
                for batch in batches
            )
        )
        for batch, answer in zip(batches, answers, strict=True):
            for name, reason in zip(batch, answer[1:], strict=True):
                if reason:
                    found[name] = _str(reason[1:])
        if not self._raw_kills:
            found = {**await self._raw_flags(wanted, fresh=True), **found}
        return found

    async def on_kill(self, callback: Callable[[Kill], None]) -> None:
        self._kill_callbacks.append(callback)

    async def acknowledge_kill(self, name: str, worker: str, streams: int) -> None:
        await self._script("acknowledge", [_text(name), _text(worker), streams])

    async def kill_acknowledgements(self, name: str) -> dict[str, tuple[Millis, int]]:
        row = _pairs(await self._command("HGETALL", self.keys.of("acks", name)))
        workers = [field[3:] for field in row if field.startswith("at:")]
        return {w: (int(row[f"at:{w}"]), int(row.get(f"streams:{w}", 0))) for w in workers}

    # -- what providers hold ------------------------------------------------------------------------

    async def remember(self, objects: Mapping[str, bytes], ttl_ms: int) -> None:
        await asyncio.gather(
            *(self._command("SET", self.keys.of("object", k), v, "PX", ttl_ms) for k, v in objects.items())
        )

    async def recall(self, keys: Sequence[str]) -> dict[str, bytes]:
        if not keys:
            return {}
        found = await self._command("MGET", *(self.keys.of("object", key) for key in keys))
        return {key: value for key, value in zip(keys, found, strict=True) if value is not None}

    async def forget(self, keys: Sequence[str]) -> None:
        if keys:
            await self._command("DEL", *(self.keys.of("object", key) for key in keys))

    # -- whose data is erased -----------------------------------------------------------------------

    async def forget_runs(self, run_ids: Sequence[str]) -> None:
        for batch in _batches(run_ids, BATCH):
            open_now = await asyncio.gather(
                *(self._command("HGET", self.keys.of("run", run_id), "open") for run_id in batch)
            )
            idle = [run_id for run_id, calls in zip(batch, open_now, strict=True) if not int(calls or 0)]
            if idle:
                await self._command("DEL", *(self.keys.of("run", run_id) for run_id in idle))

    async def forget_held(self, run_ids: Collection[str], names: Collection[str]) -> None:
        # Index entries hold nothing but ids, and end by themselves.
        async for keys in self._all("object"):
            heads = await asyncio.gather(*(self._command("GETRANGE", key, 0, 2047) for key in keys))
            gone = [key for key, head in zip(keys, heads, strict=True) if run_of_held(head) in run_ids]
            if gone:
                await self._command("DEL", *gone)
        async for keys in self._all("run"):
            rows = await asyncio.gather(
                *(self._command("HMGET", key, "seen", "open", "session", "name") for key in keys)
            )
            gone = [key for key, row in zip(keys, rows, strict=True) if _is_unseen(row, names)]
            if gone:
                await self._command("DEL", *gone)

    async def _all(self, kind: str) -> AsyncIterator[list[bytes]]:
        """Keys of every record of a kind, some at a time."""
        pattern = re.sub(r"([\\*?\[\]])", r"\\\1", f"{self.keys.tag}{kind}:") + "*"
        cursor: bytes | None = None
        while cursor != b"0":
            cursor, keys = await self._command("SCAN", cursor or b"0", "MATCH", pattern, "COUNT", BATCH)
            if keys:
                yield keys

    async def forget_baseline(self, key: str) -> None:
        await self._command("DEL", self.keys.of("baseline", key))

    async def forget_acknowledgements(self, names: Sequence[str]) -> None:
        in_force = await self.kills(names)
        ended = [self.keys.of("acks", name) for name in names if name not in in_force]
        if ended:
            await self._command("DEL", *ended)

    # -- tools and baselines ------------------------------------------------------------------------

    async def take(self, quotas: Sequence[Quota]) -> Taken:
        args: list[Arg] = [len(quotas)]
        for q in quotas:
            args += (q.counter, q.limit, q.amount, _flag(q.enforced), q.window_ms, q.ttl_ms)
        r = await self._script("take", args)
        return Taken(int(r[1]), tuple(int(used) for used in r[2:]))

    async def report(self, key: str, rule: BreakerRule, *, source: str, ok: int, failed: int) -> BreakerState:
        args: list[Arg] = [_text(key), source_digest(source), ok, failed]
        args += (repr(rule.error_rate), rule.min_calls, rule.window_ms, rule.open_ms)
        r = await self._script("report", [*args, rule.probes, rule.min_sources])
        return _breaker(r[1])

    async def breakers(self, keys: Sequence[str] | None = None) -> list[BreakerState]:
        if keys is None:
            keys = sorted(_str(name) for name in await self._command("ZRANGE", self.keys.breakers, 0, -1))
        states: list[BreakerState] = []
        for batch in _batches(keys, BATCH):
            r = await self._script("breakers", [len(batch), *(_text(key) for key in batch)])
            states += (_breaker(view) for view in r[1:])
        return states

    async def probe(self, key: str, rule: BreakerRule) -> bool:
        r = await self._script("probe", [_text(key), rule.open_ms, rule.probes])
        return bool(r[1] == b"1")

    async def reset_breaker(self, key: str) -> bool:
        r = await self._script("reset_breaker", [_text(key)])
        return bool(r[1] == b"1")

    async def observe(self, key: str, values: Mapping[str, float], decay: float) -> Baseline:
        figures = usable_figures(values)
        args: list[Arg] = [_text(key), repr(decay), len(figures)]
        for name, value in figures.items():
            args += (_text(name), repr(value))
        return _baseline(await self._script("observe", args))

    async def baseline(self, key: str) -> Baseline | None:
        r = await self._script("baseline", [_text(key)])
        return _baseline(r) if len(r) > 1 else None

    # -- reading ------------------------------------------------------------------------------------

    async def counters(self, keys: Sequence[str]) -> dict[str, CounterState]:
        states: dict[str, CounterState] = {}
        for batch in _batches(keys, BATCH):
            r = await self._script("counters", [len(batch), *batch])
            for i, key in enumerate(batch):
                states[key] = CounterState(int(r[1 + 2 * i]), int(r[2 + 2 * i]))
        return states

    async def live_run(self, run_id: str) -> Mapping[str, Any] | None:
        found = await self._command("HMGET", self.keys.of("run", run_id), *_RUN_TEXTS, *_RUN_FIGURES)
        if found[0] is None:
            return None
        # What only some runs have is absent of others.
        row = {name: _str(v or b"") for name, v in zip((*_RUN_TEXTS, *_RUN_FIGURES), found, strict=True)}
        state = RunState(
            id=run_id,
            principal=row["principal"],
            session=row["session"],
            name=row["name"][1:] if row["name"] else None,
            explicit=row["explicit"] == "1",
            continues=row["continues"][1:] if row["continues"] else None,
            status=row["status"],
            reason=row["reason"],
            seen=row["seen"] == "1",
            head=row["head"],
            budget=row["budget"],
            policy=row["policy"],
            ancestors=tuple(row["ancestors"].split("\n")) if row["ancestors"] else (),
            progress=b"",
            ending=None,
            **{figure: int(row[figure] or 0) for figure in _RUN_FIGURES},
        )
        return shown(state)

    async def reseed(self, used: Mapping[str, tuple[Nano, Millis]]) -> None:
        for batch in _batches(list(used.items()), BATCH):
            args: list[Arg] = [len(batch)]
            for counter, (nano, expires_at) in batch:
                args += (counter, nano, expires_at)
            await self._script("reseed", args)

    async def ping(self) -> None:
        await self._command("PING")

    # -- calls --------------------------------------------------------------------------------------

    async def _gated(self, name: str, args: list[Arg]) -> list[Reply]:
        """Run a script that must not meet a database without counters: it waits while that is filled."""
        reply = await self._script(name, args, self._epoch)
        if reply[0] == b"EPOCH":
            deadline = asyncio.get_running_loop().time() + self._seed_wait_s
            while reply[0] == b"EPOCH":
                await self._wait_seeded(deadline)
                reply = await self._script(name, args, self._epoch)
        return reply

    async def _script(self, name: str, args: Sequence[Arg], epoch: str = "") -> list[Reply]:
        script = self._scripts[name]
        time = "" if self._clock is None else str(self._clock())
        rest = (1, self.keys.epoch, time, epoch, *args)
        started = perf_counter()
        try:
            reply = await self._pipe.call(pack("EVALSHA", script.sha, *rest))
            if isinstance(reply, ReplyError) and str(reply).startswith("NOSCRIPT"):
                reply = await self._pipe.call(pack("EVAL", script.source, *rest))
            checked: list[Reply] = self._checked(reply)
        except StoreUnavailable:
            self._failed()
            raise
        finally:
            self._took(name, perf_counter() - started)
        return checked

    async def _command(self, *args: Arg) -> Reply:
        started = perf_counter()
        try:
            return self._checked(await self._pipe.call(pack(*args)))
        except StoreUnavailable:
            self._failed()
            raise
        finally:
            self._took(str(args[0]).lower(), perf_counter() - started)

    def _checked(self, reply: Reply) -> Reply:
        """The reply. Raises: `Refused` for an error, whatever it is: no error leaves a limit kept."""
        if isinstance(reply, ReplyError):
            message = str(reply)
            cause = next((word for word in NOT_THE_MASTER if word in message), None)
            self._health.failed(cause or _told(message))
            if cause is not None:
                self._pipe.reconnect()
            raise Refused
        if self._health.failing:
            self._health.worked()
        return reply

    # -- connecting ---------------------------------------------------------------------------------

    async def _greet(self, link: Link) -> None:
        """See that this is a Redis to keep money in, and give it the scripts."""
        info = await link.send(pack("INFO"))
        if isinstance(info, ReplyError) and str(info).startswith("NOAUTH"):
            # A server hangs up on strangers who send as much as a script.
            raise info
        facts = _facts(info)
        if facts.get("cluster_enabled") == "1" and isinstance(self._where, Fixed):
            log.info("redis %s is a node of a Cluster", self._where)
            self._serve_from(Cluster([self._where.address], self.keys.epoch, timeout_s=self._timeout_s))
            raise StoreUnavailable("a node of a Cluster: the owner of the keys is looked for")
        asked_at = asyncio.get_running_loop().time()
        commands = [
            pack("ROLE"),
            pack("GET", self.keys.epoch),
            pack("TIME"),
            pack("CLIENT", "SETNAME", "gateway"),
        ]
        commands += [pack("SCRIPT", "LOAD", script.source) for script in self._scripts.values()]
        role, epoch, time, _, *loaded = await asyncio.gather(*(link.send(command) for command in commands))
        if facts.get("loading", "0") != "0":
            raise StoreUnavailable("LOADING: Redis is reading its data")
        for reply in (epoch, *loaded):
            if isinstance(reply, ReplyError):
                raise reply
        if facts.get("role") == "slave" or (isinstance(role, list) and role[0] == b"slave"):
            raise StoreUnavailable("READONLY: this Redis is a replica")
        version = facts.get("redis_version", "")
        if version and tuple(int(n) for n in version.split(".")[:2]) < OLDEST_VERSION:
            raise StoreUnavailable(f"Redis {version} is too old: 6.2 or newer is needed")
        self._warn("", _settings_to_mend(facts))
        await self._meet(link, facts.get("run_id", "unknown"), _str(epoch or b""), time, asked_at)
        if self._voids:
            self._start_voiding()
        if not isinstance(self._where, Fixed) and (self._inspecting is None or self._inspecting.done()):
            self._inspecting = asyncio.create_task(self._inspect_others(link), name="redis nodes")

    async def _meet(self, link: Link, server: str, epoch: str, time: Reply, asked_at: float) -> None:
        """Learn whether this server's data is complete, as far as this worker is concerned. `time` is the
        server's, no earlier than `asked_at` by the loop's clock."""
        moved = bool(self._server) and server != self._server
        if moved and epoch.startswith(f"{server}:") and isinstance(time, list):
            # What we wrote to another server after this one was filled is not in its counters.
            now = int(time[0]) * 1000 + int(time[1]) // 1000
            silent_ms = (asked_at - self._heard()) * 1000
            if now - silent_ms > _began_at(epoch):
                log.warning("redis: counters are filled again: this worker wrote elsewhere until now")
                await link.send(pack("DEL", self.keys.epoch))
                epoch = ""
        self._server = server
        self._heard = lambda: link.heard_at
        if epoch.startswith(f"{server}:"):
            self._adopt(epoch)
        elif moved:
            self._epoch = UNKNOWN_EPOCH
            self._doubt_everything()

    def _warn(self, node: str, warnings: list[str]) -> None:
        """Keep what a node's settings have to be changed for; `node` is empty for the one in use."""
        about = f" (on {node})" if node else ""
        told = [warning + about for warning in warnings]
        for warning in told:
            if warning not in self._warned.get(node, ()):
                log.error("%s", warning)
        self._warned[node] = told

    async def _inspect_others(self, link: Link) -> None:
        """Look at the nodes that may be the master tomorrow, or that hold flags set by hand."""
        where = self._where
        try:
            if isinstance(where, Sentinels):
                others = await where.replicas()
            else:
                others = where.nodes() if isinstance(where, Cluster) else []
        except StoreUnavailable:
            return
        used = self._pipe.address
        named = {str(address) for address in others}
        for gone in self._warned.keys() - named - {""}:
            del self._warned[gone]
        for address in others:
            if used is None or address.place != used.place:
                await self._inspect(address)

    async def _inspect(self, address: Address) -> None:
        link: Link | None = None
        try:
            async with asyncio.timeout(INSPECT_S):
                link = await dial(address, timeout_s=INSPECT_S)
                facts = _facts(await link.send(pack("INFO")))
        except (OSError, StoreUnavailable, ReplyError) as error:
            log.info("redis: node %s could not be looked at: %s", address, error)
            return
        finally:
            if link is not None:
                link.abort()
        self._warn(str(address), _settings_to_mend(facts))

    async def _subscribe(self, link: Link) -> None:
        link.subscribe(self.keys.kill_channel, self._told_of_kill)

    def _told_of_kill(self, message: Reply) -> None:
        if isinstance(message, ReplyError):
            log.error("redis: kills are not pushed, and found by polling alone: %s", message)
        if not (isinstance(message, list) and len(message) == 3 and message[0] == b"message"):
            return
        try:
            told = json.loads(message[2])
            kill, sender = Kill(str(told["name"]), str(told["reason"])), told["from"]
        except (ValueError, KeyError, TypeError):
            log.warning("redis: a message on %s that is no kill", self.keys.kill_channel)
            return
        if sender != self._worker_id:
            loop = asyncio.get_running_loop()
            for callback in self._kill_callbacks:
                loop.call_soon(callback, kill)

    # -- a database without counters ----------------------------------------------------------------

    async def _wait_seeded(self, deadline: float) -> None:
        """Wait until the database is filled. Raises: `StoreUnavailable` when it is not, in time or at all."""
        loop = asyncio.get_running_loop()
        task = self._start_seeding()
        if task is None:
            raise Unsent
        await asyncio.wait({task}, timeout=max(0.0, deadline - loop.time()))
        if not task.done() or task.cancelled():
            raise Unsent
        if (error := task.exception()) is not None:
            raise Unsent from error
        if loop.time() >= deadline:
            raise Unsent

    def _start_seeding(self) -> asyncio.Task[None] | None:
        """The task that fills the database, begun unless it runs; None when the last one failed just now."""
        if self._seeding is None or self._seeding.done():
            if asyncio.get_running_loop().time() < self._seed_again_at:
                return None
            self._seeding = asyncio.create_task(self._seed(), name="redis rebuild")
            self._seeding.add_done_callback(self._seeding_ended)
            # At once: what is held has to be there before the database is opened again.
            self._doubt_everything()
        return self._seeding

    def _seeding_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._seed_again_at = asyncio.get_running_loop().time() + REBUILD_PAUSE_S
            self._health.failed(
                f"the counters could not be read from the ledger: {type(error).__name__}: {error}"
            )

    async def _seed(self) -> None:
        """Fill the database from the ledger, or wait for the worker that does."""
        token = f"{self._worker_id}:{secrets.token_hex(8)}"
        server = self._server
        while True:
            locked = await self._command("SET", self.keys.rebuild, token, "NX", "PX", REBUILD_LOCK_MS)
            # Looked at after the lock, which the worker before us gave up when it was done.
            epoch = _str(await self._command("GET", self.keys.epoch) or b"")
            if epoch.startswith(f"{server}:"):
                if locked is not None:
                    await self._script("unlock", [token])
                self._adopt(epoch)
                return
            if locked is not None:
                break
            await asyncio.sleep(random.uniform(0.02, 0.05))
        try:
            if epoch or self._filled:
                await asyncio.sleep(REJOIN_S if self._filled == server else REJOIN_ELSEWHERE_S)
            epoch = f"{server}:{await self._server_time()}:{secrets.token_hex(4)}"
            if self._used_counters is not None:
                async with asyncio.timeout(REBUILD_LIMIT_S):
                    await self.reseed(await self._used_counters(await self._time()))
                    await self._release_what_is_in_the_ledger()
            done = await self._script("seeded", [token, epoch])
        except BaseException:
            try:
                await self._script("unlock", [token])
            except StoreUnavailable:
                log.info("redis: the rebuild lock is left to expire")
            raise
        if done[1] != b"1":
            raise StoreUnavailable("the database changed under the rebuild")
        log.info("redis: counters taken over from the ledger")
        self._adopt(epoch)

    async def _release_what_is_in_the_ledger(self) -> None:
        """End attempts that are open here because only their settlement was lost: they would be charged in
        full when their leases end, on top of what was taken over for them."""
        if self._in_ledger is None:
            return
        for attempt_id in map(_str, await self._command("ZRANGE", f"{self.keys.tag}leases", 0, -1)):
            if attempt_id not in self._open and await self._in_ledger(attempt_id):
                await self._script("void", [attempt_id])

    async def _time(self) -> Millis:
        return self._clock() if self._clock is not None else await self._server_time()

    async def _server_time(self) -> Millis:
        seconds, micros = await self._command("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    # -- what it had taken and lost -----------------------------------------------------------------

    def _adopt(self, epoch: str) -> None:
        """From now on this is the database we mean. One that was filled anew may lack what we had written."""
        first = not self._filled
        self._filled = self._server
        if epoch != self._epoch:
            self._epoch = epoch
            if not first:
                self._may_lack_runs_until = asyncio.get_running_loop().time() + _RUNS_LOST_S
            self._doubt_everything()

    def _doubt_everything(self) -> None:
        """What we hold is reserved again, and what we settled and never saw drained is settled again, where
        it is not known."""
        self._doubtful.update(self._undrained.take())
        self._unreserved.update(self._open)
        if (self._doubtful or self._unreserved) and (self._making_good is None or self._making_good.done()):
            self._making_good = asyncio.create_task(self._make_good(), name="redis doubts")

    async def _make_good(self) -> None:
        told, again, reserved = len(self._doubtful), 0, 0
        while self._unreserved or self._doubtful:
            try:
                reserved += await self._reserve_again()
                while self._doubtful and not self._unreserved:
                    attempt_id, settlement = next(iter(self._doubtful.items()))
                    again += await self._settle_doubt(settlement)
                    self._doubtful.pop(attempt_id, None)
            except (StoreUnavailable, LedgerUnavailable):
                await asyncio.sleep(MAKE_GOOD_PAUSE_S)
        if told or reserved:
            log.warning(
                "redis: it may have lost what it had acknowledged: of %d settlements %d were made again, "
                "%d open calls were reserved for again",
                told,
                again,
                reserved,
            )

    async def _reserve_again(self) -> int:
        """How many reservations were not known."""
        batch = [self._open[attempt_id] for attempt_id in list(self._unreserved) if attempt_id in self._open]
        answers = await asyncio.gather(*(self._restore(reservation) for reservation in batch))
        self._unreserved.clear()
        return sum(answers)

    async def _restore(self, reservation: Reservation) -> bool:
        a, admitted, limits = reservation.admission, reservation.admitted, reservation.limits()
        args: list[Arg] = [
            a.attempt_id,
            a.run_id,
            admitted.ordinal,
            reservation.reserved,
            a.lease_ms,
            a.orphan,
        ]
        args += (len(admitted.holds), len(limits))
        for hold in admitted.holds:
            args += (hold.counter, hold.expires_at)
        for counter, usable in limits:
            args += (counter, usable)
        reply = await self._script("restore", args)
        return bool(reply[1] == b"1")

    async def _settle_doubt(self, settlement: Settlement) -> bool:
        """Whether it had to be made again. The ledger goes first: what is there was taken over with it, and
        only the reservation may be left."""
        attempt_id = settlement.attempt_id
        if self._in_ledger is not None and await self._in_ledger(attempt_id):
            await self._script("void", [attempt_id])
            self._drained(attempt_id)
            return False
        settled = await self.settle(settlement)
        if not settled.known:
            settled = await self.settle(replace(settlement, adopt=True))
        return settled.applied

    # -- admissions that nobody waits for any more --------------------------------------------------

    def _give_back(self, attempt_id: str) -> None:
        self._open.pop(attempt_id, None)
        self._voids.append(attempt_id)
        self._start_voiding()

    def _start_voiding(self) -> None:
        if self._voiding is None or self._voiding.done():
            self._voiding = asyncio.create_task(self._void_until_done(), name="redis void")

    async def _void_until_done(self) -> None:
        while self._voids:
            try:
                await self._send_voids()
            except StoreUnavailable:
                await asyncio.sleep(REBUILD_PAUSE_S)

    async def _send_voids(self) -> None:
        while self._voids:
            batch = list(self._voids)[:REAP_BATCH]
            await asyncio.gather(*(self._script("void", [attempt_id]) for attempt_id in batch))
            for attempt_id in batch:
                if self._voids and self._voids[0] == attempt_id:
                    self._voids.popleft()

    async def _raw_flags(self, names: Iterable[str], *, fresh: bool) -> dict[str, str]:
        """Those of `names` that an operator has killed by hand, looked up one key at a time."""
        wanted = list(names)
        keys = [_text(f"kill:{name}") for name in wanted]
        if self._scattered is not None:
            try:
                flags = await self._scattered.get(keys, fresh=fresh)
            except StoreUnavailable:
                self._failed()
                self._health.failed("kill flags set by hand cannot be read")
                raise
        else:
            flags = await asyncio.gather(*(self._command("GET", key) for key in keys))
        return {name: _str(flag) for name, flag in zip(wanted, flags, strict=True) if flag is not None}


_RUN_TEXTS = (
    "principal", "session", "name", "explicit", "continues", "status", "reason", "seen", "head", "budget",
    "ancestors", "policy",
)  # fmt: skip
_RUN_FIGURES = (
    "started_at", "last_at", "idle_ttl_ms", "steps", "open", "tool_calls", "tokens", "cost", "reserved",
    "answered_at", "budget_limit", "landed", "waited_ms",
)  # fmt: skip


def _text(value: str) -> bytes:
    """Names may hold lone surrogates; they are told apart like any other character."""
    return value.encode("utf-8", "surrogatepass")


def _str(value: bytes) -> str:
    try:
        return value.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        # Only what an operator has set by hand can be no UTF-8.
        return value.decode("utf-8", "replace")


def _is_unseen(row: Sequence[bytes | None], names: Collection[str]) -> bool:
    """Whether a run (`seen open session name`) of one of these names or sessions never made a step."""
    seen, calls, session, name = row
    if seen == b"1" or int(calls or 0) or session is None:
        return False
    return _str(session) in names or (_given(name or b"") or "") in names


def _flag(value: bool) -> bytes:
    return b"1" if value else b"0"


def _optional(value: str | None) -> bytes:
    return b"" if value is None else b"+" + _text(value)


def _given(value: bytes) -> str | None:
    return _str(value[1:]) if value else None


def _ending(ending: Ending | None) -> bytes:
    if ending is None:
        return b""
    return json.dumps([ending.code, ending.rule, ending.per, ending.limit, ending.used]).encode()


def _breaker(view: Sequence[bytes]) -> BreakerState:
    ok, failed, opened_at, until = (int(figure) for figure in view[2:6])
    return BreakerState(_str(view[0]), _str(view[1]), ok, failed, opened_at, until)


def _baseline(reply: Sequence[Reply]) -> Baseline:
    names = [_str(name) for name in reply[2::3]]
    return Baseline(
        float(reply[1]),
        {name: float(mean) for name, mean in zip(names, reply[3::3], strict=True)},
        {name: float(variance) for name, variance in zip(names, reply[4::3], strict=True)},
    )


def _pairs(row: Sequence[bytes]) -> dict[str, str]:
    return {_str(row[i]): _str(row[i + 1]) for i in range(0, len(row), 2)}


def _batches(items: Sequence[T], size: int) -> Iterable[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


def _began_at(epoch: str) -> Millis:
    """When the filling began that made an epoch; long ago for one that somebody else has written."""
    began = epoch.split(":")[1]
    return int(began) if began.isascii() and began.isdigit() else 0


def _told(message: str) -> str:
    """An error as the log says it: one of few texts, and what to do where that is known."""
    if "non local key" in message:
        return "the slot of its keys is being moved to another node"
    return message.split(" script:", 1)[0][:120]


def _settings_to_mend(facts: Mapping[str, str]) -> list[str]:
    """What is wrong with a server's settings, a sentence each."""
    if not facts:
        return [
            "This user may not run INFO: whether Redis evicts keys is not known, nor whether it was started "
            "again from old data. Give it +info."
        ]
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return []
    return [
        f"Redis has maxmemory-policy {policy}: when its memory is full it deletes budget counters "
        "and kill flags without a word. Set maxmemory-policy noeviction."
    ]


async def _no_greeting(_link: Link) -> None:
    return None


def _facts(info: Reply) -> dict[str, str]:
    """What INFO says; nothing where the server does not let us ask."""
    if isinstance(info, ReplyError):
        return {}
    lines = (line.split(":", 1) for line in _str(info).splitlines() if ":" in line)
    return {name: value.strip() for name, value in lines}


def _event(fields: Sequence[bytes]) -> bytes:
    """The ledger event of a stream entry; what the scripts noted in pieces is put together here."""
    if fields[0] == b"e":
        return fields[1]
    if fields[0] == b"abandoned":
        return run_event(_str(fields[1]), RunStatus.ABANDONED, "idle", int(fields[3]))
    orphan, ordinal, cost, at = fields[1], int(fields[3]), int(fields[5]), int(fields[7])
    holds = [Hold(_str(fields[i]), int(fields[i + 1])) for i in range(8, len(fields), 2)]
    try:
        return complete_orphan(orphan, ordinal, cost, holds, at)
    except orjson.JSONDecodeError:
        log.error("redis: an orphaned attempt has no event that can be read")
        return orphan


if TYPE_CHECKING:
    _fits: Store = RedisStore("", worker_id="")
