"""The store that several workers and hosts share: one Lua script per operation, on Redis from 6.2 or Valkey.

What an operation means is written in `gateway.stores.embedded`; the scripts in `lua/` follow it line by
line. Here its values become arguments and replies become values again, and servers are found, greeted and
looked at. A database that lost something is for `redis_recovery`, one call for `redis_calls`. docs/stores.md
tells operators what is kept under which key.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

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
from gateway.stores.redis_calls import BATCH, Calls, Keys, as_bytes, as_str, batches, scripts
from gateway.stores.redis_recovery import REBUILD_LIMIT_S, UNKNOWN_EPOCH, Recovery, UsedCounters
from gateway.stores.redis_scattered import Scattered
from gateway.stores.redis_undrained import stream_id
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

OLDEST_VERSION = (6, 2)
REAP_BATCH = 100
KEEPALIVE_S = 5.0
INSPECT_S = 2.0


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
        """`timeout_s` bounds every wait, but for `seed_wait_s` while a database is filled from the ledger;
        what the URL says of time-outs goes before.

        `in_ledger` tells whether an attempt is there with its real figure, `drained` is told of each attempt
        whose settlement has reached it. `raw_kills_in_script` is off where a script cannot reach keys without
        the hash tag: they are then looked up before it, as on a Cluster. `took` is told how long an operation
        lasted, `failed` of each that has.
        Raises: `ValueError` for a URL that makes no sense.
        """
        self.keys = Keys(namespace)
        self._worker_id = worker_id
        self._url = parse_store_url(url)
        self._timeout_s = self._url.timeout_s or timeout_s
        self._connect_timeout_s = self._url.connect_timeout_s or connect_timeout_s
        self._seed_wait_s = seed_wait_s
        self._raw_kills = raw_kills_in_script
        self._kill_callbacks: list[Callable[[Kill], None]] = []
        self._warned: dict[str, list[str]] = {}
        self._inspecting: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._scattered: Scattered | None = None
        self._where = self._find_by(self._url)
        self._health = Health(str(self._where))
        self._pipe = self._make_pipe(self._where, self._greet, self._health)
        self._subscription = self._make_pipe(
            self._where, self._subscribe, Health(f"{self._where} (kills)"), keepalive_s=KEEPALIVE_S
        )
        self._calls = Calls(self.keys, self._pipe, self._health, clock=clock, took=took, failed=failed)
        self._script, self._command = self._calls.script, self._calls.command
        self._recovery = Recovery(
            self._calls,
            worker_id=worker_id,
            settle=self.settle,
            used_counters=used_counters,
            in_ledger=in_ledger,
            drained=drained,
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
        self._calls.scripts = scripts(clustered=True)
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
        if self._recovery.epoch == UNKNOWN_EPOCH:
            await self._recovery.wait_seeded(asyncio.get_running_loop().time() + REBUILD_LIMIT_S)

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
        await self._recovery.close()
        tasks = [task for task in (self._inspecting, self._watching) if task is not None]
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
            as_bytes(lookup.session),
            _flag(lookup.session_given),
            _optional(lookup.name),
            _optional(lookup.name_key),
            lookup.named_source.value,
            _optional(lookup.own_run_id),
            as_bytes(lookup.principal),
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
            run_id=as_str(r[1]),
            session=as_str(r[2]),
            source=RunSource(as_str(r[3])),
            is_new=r[4] == b"1",
            explicit=r[5] == b"1",
            name=_given(r[6]),
            continues=_given(r[7]),
            retry_ordinal=int(r[8]),
            merged=r[9] == b"1",
            status=RunStatus(as_str(r[10])),
            started_at=int(r[11]),
            steps=int(r[12]),
            cost=int(r[13]),
            idle_ms=int(r[14]),
            ancestors=tuple(as_str(run_id) for run_id in r[15]),
            progress=r[16],
            landed=int(r[17]),
            asked_by=as_str(r[18]) or None,
            policy=as_str(r[19]),
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
            self._recovery.given_up(admission.attempt_id)
            raise
        match r[0]:
            case b"OK":
                held = r[6]
                admitted = Admitted(
                    ordinal=int(r[1]),
                    reserved=int(r[2]),
                    output_tokens=int(r[3]),
                    holds=tuple(Hold(as_str(held[i]), int(held[i + 1])) for i in range(0, len(held), 2)),
                    warned=tuple(as_str(rule) for rule in r[7]),
                    shadow_denied=tuple(as_str(rule) for rule in r[8]),
                    run_remaining=int(r[4]) if r[4] else None,
                    admitted_at=int(r[5]),
                )
                self._recovery.admitted(admission, admitted)
                return admitted
            case b"DENIED":
                limit, used, need, resets_at, retry_after_ms = (int(figure) for figure in r[4:9])
                return Denied(
                    as_str(r[1]), as_str(r[2]), as_str(r[3]), limit, used, need, resets_at, retry_after_ms, ""
                )
            case b"KILLED":
                return denied_by_kill(admission.kill_names[int(r[1])], as_str(r[2]))
            case b"ENDED":
                return denied_by_ending(Ending(*json.loads(r[1])))
            case b"NORUN":
                if self._recovery.may_lack_runs:
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
        args += [as_bytes(name) for name in a.kill_names]
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
        if done:
            self._recovery.extended(attempt_id, amount)
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
            as_bytes(s.ends_because),
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
        self._recovery.settled(settlement, r[6])
        return Settled(
            known=r[1] == b"1",
            applied=r[2] == b"1",
            run_cost=int(r[3]),
            run_remaining=int(r[4]) if r[4] else None,
            status=RunStatus(as_str(r[5])),
        )

    # -- upkeep -------------------------------------------------------------------------------------

    async def renew(self, attempt_ids: Sequence[str]) -> None:
        await asyncio.gather(
            *(self._script("renew", [len(batch), *batch]) for batch in batches(attempt_ids, BATCH))
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
        await self._script("stop_run", [run_id, status, as_bytes(reason), _ending(ending)])

    # -- the ledger stream --------------------------------------------------------------------------

    async def take_events(self, limit: int) -> list[tuple[str, bytes]]:
        if limit <= 0:
            return []
        undrained = self._recovery.undrained
        latest = undrained.latest
        entries, epoch = await asyncio.gather(
            self._command("XRANGE", self.keys.events, "-", "+", "COUNT", limit),
            self._command("GET", self.keys.epoch),
        )
        if epoch != self._recovery.epoch.encode():
            # Events that are missing here may have been lost and not been written to the ledger.
            self._recovery.start_seeding()
        elif entries:
            undrained.drained_before(stream_id(entries[0][0]))
        elif latest is not None:
            undrained.drained_through(latest)
        return [(as_str(entry[0]), _event(entry[1])) for entry in entries]

    async def confirm_events(self, ids: Sequence[str]) -> None:
        for batch in batches(ids, BATCH):
            await self._command("XDEL", self.keys.events, *batch)
        self._recovery.undrained.confirmed(ids)

    # -- kills --------------------------------------------------------------------------------------

    async def set_kill(self, kill: Kill, ttl_s: float | None) -> None:
        message = json.dumps({"name": kill.name, "reason": kill.reason, "from": self._worker_id})
        ttl_ms = int(ttl_s * 1000) if ttl_s else -1
        await self._script(
            "set_kill", [as_bytes(kill.name), as_bytes(kill.reason), ttl_ms, self.keys.kill_channel, message]
        )
        # This worker need not wait for its own message, nor depend on its subscription.
        for callback in self._kill_callbacks:
            callback(kill)

    async def clear_kill(self, name: str) -> bool:
        r = await self._script("clear_kill", [as_bytes(name), _flag(self._raw_kills)])
        if self._raw_kills:
            return bool(r[1] == b"1")
        by_hand = as_bytes(f"kill:{name}")
        if self._scattered is not None:
            return await self._scattered.delete(by_hand) or r[1] == b"1"
        return bool(await self._command("DEL", by_hand) == 1 or r[1] == b"1")

    async def kills(self, names: Iterable[str]) -> dict[str, str]:
        wanted = list(dict.fromkeys(names))
        found: dict[str, str] = {}
        parts = list(batches(wanted, BATCH))
        answers = await asyncio.gather(
            *(
                self._script("kills", [_flag(self._raw_kills), len(batch), *(as_bytes(n) for n in batch)])
                for batch in parts
            )
        )
        for batch, answer in zip(parts, answers, strict=True):
            for name, reason in zip(batch, answer[1:], strict=True):
                if reason:
                    found[name] = as_str(reason[1:])
        if not self._raw_kills:
            found = {**await self._raw_flags(wanted, fresh=True), **found}
        return found

    async def on_kill(self, callback: Callable[[Kill], None]) -> None:
        self._kill_callbacks.append(callback)

    async def acknowledge_kill(self, name: str, worker: str, streams: int) -> None:
        await self._script("acknowledge", [as_bytes(name), as_bytes(worker), streams])

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
        for batch in batches(run_ids, BATCH):
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
        args: list[Arg] = [as_bytes(key), source_digest(source), ok, failed]
        args += (repr(rule.error_rate), rule.min_calls, rule.window_ms, rule.open_ms)
        r = await self._script("report", [*args, rule.probes, rule.min_sources, rule.dead_after_ms])
        return _breaker(r[1])

    async def breakers(self, keys: Sequence[str] | None = None) -> list[BreakerState]:
        if keys is None:
            keys = sorted(as_str(name) for name in await self._command("ZRANGE", self.keys.breakers, 0, -1))
        states: list[BreakerState] = []
        for batch in batches(keys, BATCH):
            r = await self._script("breakers", [len(batch), *(as_bytes(key) for key in batch)])
            states += (_breaker(view) for view in r[1:])
        return states

    async def probe(self, key: str, rule: BreakerRule) -> bool:
        r = await self._script("probe", [as_bytes(key), rule.open_ms, rule.probes])
        return bool(r[1] == b"1")

    async def reset_breaker(self, key: str) -> bool:
        r = await self._script("reset_breaker", [as_bytes(key)])
        return bool(r[1] == b"1")

    async def observe(self, key: str, values: Mapping[str, float], decay: float) -> Baseline:
        figures = usable_figures(values)
        args: list[Arg] = [as_bytes(key), repr(decay), len(figures)]
        for name, value in figures.items():
            args += (as_bytes(name), repr(value))
        return _baseline(await self._script("observe", args))

    async def baseline(self, key: str) -> Baseline | None:
        r = await self._script("baseline", [as_bytes(key)])
        return _baseline(r) if len(r) > 1 else None

    # -- reading ------------------------------------------------------------------------------------

    async def counters(self, keys: Sequence[str]) -> dict[str, CounterState]:
        states: dict[str, CounterState] = {}
        for batch in batches(keys, BATCH):
            r = await self._script("counters", [len(batch), *batch])
            for i, key in enumerate(batch):
                states[key] = CounterState(int(r[1 + 2 * i]), int(r[2 + 2 * i]))
        return states

    async def live_run(self, run_id: str) -> Mapping[str, Any] | None:
        found = await self._command("HMGET", self.keys.of("run", run_id), *_RUN_TEXTS, *_RUN_FIGURES)
        if found[0] is None:
            return None
        # What only some runs have is absent of others.
        row = {name: as_str(v or b"") for name, v in zip((*_RUN_TEXTS, *_RUN_FIGURES), found, strict=True)}
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
        await self._recovery.reseed(used)

    async def ping(self) -> None:
        await self._command("PING")

    # -- calls --------------------------------------------------------------------------------------

    async def _gated(self, name: str, args: list[Arg]) -> list[Reply]:
        """Run a script that must not meet a database without counters: it waits while that is filled."""
        reply = await self._script(name, args, self._recovery.epoch)
        if reply[0] == b"EPOCH":
            deadline = asyncio.get_running_loop().time() + self._seed_wait_s
            while reply[0] == b"EPOCH":
                await self._recovery.wait_seeded(deadline)
                reply = await self._script(name, args, self._recovery.epoch)
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
        commands += [pack("SCRIPT", "LOAD", script.source) for script in self._calls.scripts.values()]
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
        await self._recovery.meet(link, facts.get("run_id", "unknown"), as_str(epoch or b""), time, asked_at)
        self._recovery.start_voiding()
        if not isinstance(self._where, Fixed) and (self._inspecting is None or self._inspecting.done()):
            self._inspecting = asyncio.create_task(self._inspect_others(link), name="redis nodes")

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

    async def _raw_flags(self, names: Iterable[str], *, fresh: bool) -> dict[str, str]:
        """Those of `names` that an operator has killed by hand, looked up one key at a time."""
        wanted = list(names)
        keys = [as_bytes(f"kill:{name}") for name in wanted]
        if self._scattered is not None:
            try:
                flags = await self._scattered.get(keys, fresh=fresh)
            except StoreUnavailable:
                self._calls.failed()
                self._health.failed("kill flags set by hand cannot be read")
                raise
        else:
            flags = await asyncio.gather(*(self._command("GET", key) for key in keys))
        return {name: as_str(flag) for name, flag in zip(wanted, flags, strict=True) if flag is not None}


_RUN_TEXTS = (
    "principal", "session", "name", "explicit", "continues", "status", "reason", "seen", "head", "budget",
    "ancestors", "policy",
)  # fmt: skip
_RUN_FIGURES = (
    "started_at", "last_at", "idle_ttl_ms", "steps", "open", "tool_calls", "tokens", "cost", "reserved",
    "answered_at", "budget_limit", "landed", "waited_ms",
)  # fmt: skip


def _is_unseen(row: Sequence[bytes | None], names: Collection[str]) -> bool:
    """Whether a run (`seen open session name`) of one of these names or sessions never made a step."""
    seen, calls, session, name = row
    if seen == b"1" or int(calls or 0) or session is None:
        return False
    return as_str(session) in names or (_given(name or b"") or "") in names


def _flag(value: bool) -> bytes:
    return b"1" if value else b"0"


def _optional(value: str | None) -> bytes:
    return b"" if value is None else b"+" + as_bytes(value)


def _given(value: bytes) -> str | None:
    return as_str(value[1:]) if value else None


def _ending(ending: Ending | None) -> bytes:
    if ending is None:
        return b""
    return json.dumps([ending.code, ending.rule, ending.per, ending.limit, ending.used]).encode()


def _breaker(view: Sequence[bytes]) -> BreakerState:
    ok, failed, opened_at, until = (int(figure) for figure in view[2:6])
    return BreakerState(as_str(view[0]), as_str(view[1]), ok, failed, opened_at, until)


def _baseline(reply: Sequence[Reply]) -> Baseline:
    names = [as_str(name) for name in reply[2::3]]
    return Baseline(
        float(reply[1]),
        {name: float(mean) for name, mean in zip(names, reply[3::3], strict=True)},
        {name: float(variance) for name, variance in zip(names, reply[4::3], strict=True)},
    )


def _pairs(row: Sequence[bytes]) -> dict[str, str]:
    return {as_str(row[i]): as_str(row[i + 1]) for i in range(0, len(row), 2)}


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
    lines = (line.split(":", 1) for line in as_str(info).splitlines() if ":" in line)
    return {name: value.strip() for name, value in lines}


def _event(fields: Sequence[bytes]) -> bytes:
    """The ledger event of a stream entry; what the scripts noted in pieces is put together here."""
    if fields[0] == b"e":
        return fields[1]
    if fields[0] == b"abandoned":
        return run_event(as_str(fields[1]), RunStatus.ABANDONED, "idle", int(fields[3]))
    orphan, ordinal, cost, at = fields[1], int(fields[3]), int(fields[5]), int(fields[7])
    holds = [Hold(as_str(fields[i]), int(fields[i + 1])) for i in range(8, len(fields), 2)]
    try:
        return complete_orphan(orphan, ordinal, cost, holds, at)
    except orjson.JSONDecodeError:
        log.error("redis: an orphaned attempt has no event that can be read")
        return orphan


if TYPE_CHECKING:
    _fits: Store = RedisStore("", worker_id="")
