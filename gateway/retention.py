"""What is forgotten: data that is old by the policy, and data of people who ask for it.

One process at a time does the work, under a claim in the ledger; every worker looks once a second whether
there is any, and whether an erasure asks it to drop what it holds in memory and in its journal.

    erasure:    the store forgets the run ──► the ledger erases it ──► … ──► every worker forgets ──► done
    retention:  once an hour: runs that are due ──► steps, runs, labels ──► one record in the audit log

Batches are small and follow the machine: each holds SQLite's only write lock for some 20 ms, and lets others
write in between for at least as long.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import orjson

from gateway.admission import Kill
from gateway.domain import Json, Millis
from gateway.drain import Drain
from gateway.errors import StoreUnavailable
from gateway.policy.sections.operations import Retention
from gateway.protocols import Clock, Store
from gateway.steps.baselines import baseline_key
from gateway.steps.turn import new_id
from gateway.stores.ledger import LedgerError, LedgerOnAnotherHost, LedgerUnavailable, SqlLedger
from gateway.stores.ledger_privacy import PLACES, Erasure, Redactor, RunToErase, Subject
from gateway.stores.ledger_retention import DAY_MS, Batch, ClaimLost, Holder, Tally, Tenants, Term, What

log = logging.getLogger("gateway.retention")

POLL_S = 1.0
GRACE_S = 3.0
"""How long an erasure waits for the other workers, which look every second."""
PASS_EVERY_MS: Millis = 3_600_000
LEASE_MS: Millis = 10_000
"""How long the work of a process that died is left alone; whoever is alive renews it three times in so
long."""
TARGET_S = 0.015
RUNS = 20
"""Runs in one transaction at most."""
KILL_TTL_S = 3600.0
"""How long a run that an erasure has killed stays killed; nobody can find it again by then."""
CLAIM = "privacy"
_TROUBLE = (LedgerUnavailable, LedgerError, LedgerOnAnotherHost, StoreUnavailable)


class LiveRuns(Exception):  # noqa: N818 - reads as what it is
    """Runs of the person have calls in flight; `runs` are their ids."""

    def __init__(self, runs: Sequence[str]) -> None:
        super().__init__(f"{len(runs)} runs have calls in flight")
        self.runs = tuple(runs)


@dataclass(slots=True)
class Pace:
    """How much is done with one transaction, so that it works for some `TARGET_S`. What a machine that is
    busy otherwise adds to that would not be less for smaller ones."""

    size: int = 50
    longest_s: float = 0.0
    """The longest that a transaction has kept others from writing."""
    busiest_s: float = 0.0
    """The most that a transaction has worked itself."""

    async def after(self, batch: Batch) -> None:
        """Learn from a transaction, and let others write."""
        self.longest_s = max(self.longest_s, batch.held_s)
        self.busiest_s = max(self.busiest_s, batch.busy_s)
        if batch.busy_s > TARGET_S:
            self.size = max(10, int(self.size * TARGET_S / batch.busy_s))
        elif batch.busy_s < TARGET_S / 2 and batch.rows >= self.size // 2:
            self.size = min(400, self.size + 10)
        await asyncio.sleep(min(max(batch.held_s, 0.002), 0.2))


def terms_of(policy: Retention, now: Millis) -> list[Term]:
    """What the policy wants removed at this moment. Of each figure the first rule that matches and gives it
    counts; the section's own is for all others."""
    terms: list[Term] = []
    for what, name in (("labels", "labels_days"), ("steps", "steps_days"), ("runs", "runs_days")):
        earlier: tuple[Tenants, ...] = ()
        for rule in policy.rules:
            days = getattr(rule, name)
            if days is None:
                continue
            tenants = Tenants(rule.match.key, rule.match.team, earlier)
            terms += _term(what, days, tenants, now)  # type: ignore[arg-type]  # the words above
            earlier = (*earlier, Tenants(rule.match.key, rule.match.team))
        terms += _term(what, getattr(policy, name), Tenants(besides=earlier), now)  # type: ignore[arg-type]
    return terms


def _term(what: What, days: int | str | None, tenants: Tenants, now: Millis) -> list[Term]:
    return [Term(what, now - days * DAY_MS, tenants)] if isinstance(days, int) else []


@dataclass(slots=True)
class Privacy:
    """One per worker. `retention` is the policy's section as it stands, `forget` drops what this worker holds
    in memory and in its journal, `session_keys` are the store's keys of what is kept for one session,
    `removed` counts rows by what they were."""

    ledger: SqlLedger
    store: Store
    drain: Drain
    clock: Clock
    worker: str
    retention: Callable[[], Retention]
    forget: Callable[[], Awaitable[None]]
    session_keys: Callable[[str, str], Iterable[str]]
    save_store: Callable[[], Awaitable[None]]
    removed: Callable[[str, int], None] = lambda _what, _rows: None
    poll_s: float = POLL_S
    grace_s: float = GRACE_S
    pace: Pace = field(default_factory=Pace)
    _epoch: int = -1
    _task: asyncio.Task[None] | None = None
    _awake: asyncio.Event = field(default_factory=asyncio.Event)

    def start(self) -> None:
        """Begin to look for work."""
        self._task = asyncio.create_task(self._run(), name="privacy")

    async def close(self) -> None:
        """Stop; whoever comes next goes on."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    # -- asked for ----------------------------------------------------------------------------------------

    async def begin(self, subject: Subject, *, reason: str, by: str, stop: bool) -> Erasure:
        """Put an erasure on record; it is done in the background.

        Raises `LiveRuns` when runs of the person have calls in flight and `stop` does not say to end them,
        `ValueError` for a name that erasures leave behind, `StoreUnavailable`, `LedgerUnavailable`.
        """
        if subject.is_nobody:
            raise ValueError(f"{subject.value!r} is what an erasure leaves; nobody is called so.")
        await self.drain.flush()
        secret = secrets.token_hex(32)
        erasure = Erasure(
            new_id("era"), subject.kind, subject.value, "", secret, reason, by, stop, self.clock()
        )
        erasure.pseudonym = erasure.rename(subject.value)
        if not stop:
            lately = await self.ledger.live_runs_of(erasure)
            live = [run.id for run in lately if await self._is_live(run.id)]
            if live:
                raise LiveRuns(live)
        erasure = await self.ledger.add_erasure(erasure)
        self._awake.set()
        return erasure

    # -- in the background ----------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.poll_s):
                    await self._awake.wait()
            self._awake.clear()
            try:
                await self.look()
            except ClaimLost:
                log.info("another process goes on with what was being forgotten")
            except _TROUBLE as error:
                log.debug("nothing is forgotten for now: %s", error)
            except Exception:
                # Whatever is wrong with one row, tomorrow's must not wait for it in silence.
                log.exception("forgetting failed; it is tried again")
                await asyncio.sleep(10 * self.poll_s)

    async def look(self) -> None:
        """Do what there is to do now. Raises what the stores raise, and `ClaimLost`."""
        seen = await self.ledger.glance(CLAIM, self.clock())
        if seen.epoch != self._epoch:
            if self._epoch >= 0:
                await self.forget()
            self._epoch = seen.epoch
        state = orjson.loads(seen.claim)
        due = self.clock() - state.get("passed_at", 0) >= PASS_EVERY_MS
        due = due and (seen.over or "rows" in state or bool(terms_of(self.retention(), 0)))
        erasures = seen.erasures
        if not erasures and not due:
            return
        noted = await self.ledger.claim(self._holder())
        if noted is None:
            return
        alive = asyncio.create_task(self._stay_alive(), name="privacy-claim")
        try:
            for erasure in erasures:
                await self._erase_or_log(erasure)
            if due:
                await self._pass(orjson.loads(noted))
        finally:
            alive.cancel()
            await asyncio.gather(alive, return_exceptions=True)
            with contextlib.suppress(*_TROUBLE):
                await asyncio.shield(self.ledger.unclaim(self._holder()))

    async def _stay_alive(self) -> None:
        while True:
            await asyncio.sleep(LEASE_MS / 3000)
            with contextlib.suppress(*_TROUBLE):
                await self.ledger.claim(self._holder())

    def _holder(self) -> Holder:
        now = self.clock()
        return Holder(CLAIM, self.worker, now, now + LEASE_MS)

    # -- retention ------------------------------------------------------------------------------------------

    async def _pass(self, noted: Json) -> None:
        """Remove everything that is due, and say so in the audit log. One that was broken off is told
        first."""
        if "rows" in noted:
            await self.ledger.tell_removed(self._holder(), Tally(**noted), "{}")
        began = self.clock()
        terms = terms_of(self.retention(), began)
        tally = Tally(new_id("ret"), began)
        for term in terms:
            await self._remove(term, tally)
        while True:
            before = sum(tally.rows.values())
            batch = await self.ledger.remove_beside(terms, self.pace.size, self._holder(), tally)
            self._count_removed(tally, before)
            await self.pace.after(batch)
            if not batch.more:
                break
        await self.ledger.forget_tombstones(began)
        state = orjson.dumps({"passed_at": began}).decode()
        await self.ledger.tell_removed(self._holder(), tally, state)
        if tally.rows:
            log.info("retention has removed %s", tally.rows)

    async def _remove(self, term: Term, tally: Tally) -> None:
        after: tuple[Millis, str] = (-1, "")
        while runs := await self.ledger.due_runs(term, after=after, limit=RUNS):
            after = runs[-1]
            ids = [run for _, run in runs]
            more = True
            while more:
                before = dict(tally.rows)
                if term.what == "labels":
                    batch = await self.ledger.remove_labels(term, ids, self.pace.size, self._holder(), tally)
                else:
                    batch = await self.ledger.remove_steps(
                        term, ids, self.pace.size, self._holder(), tally, with_runs=term.what == "runs"
                    )
                for what, rows in tally.rows.items():
                    self.removed(what, rows - before.get(what, 0))
                await self.pace.after(batch)
                more = batch.more

    def _count_removed(self, tally: Tally, before: int) -> None:
        rows = sum(tally.rows.values()) - before
        if rows:
            self.removed("other", rows)

    # -- erasures -------------------------------------------------------------------------------------------

    async def _erase_or_log(self, erasure: Erasure) -> None:
        """One that cannot be done keeps no other back, nor retention."""
        try:
            await self._erase(erasure)
        except (ClaimLost, *_TROUBLE):
            raise
        except Exception:
            log.exception("erasure %s failed; it is tried again", erasure.id)

    async def _erase(self, erasure: Erasure) -> None:
        """Go on with an erasure as far as it goes now: one that waits for a run is looked at again later."""
        if erasure.phase == "runs":
            await self.drain.flush()
            if not await self._erase_runs(erasure):
                return
            await self.ledger.end_runs_phase(erasure, self._holder())
        if erasure.phase == "steps":
            if not await self._erase_runs(erasure):
                return
            await self._erase_steps(erasure)
        if erasure.phase == "rest":
            await self._erase_rest(erasure)
        if erasure.phase == "workers":
            await self.forget()
            await asyncio.sleep(self.grace_s)
            await self.drain.flush()
            await self.save_store()
            await self._erase_leftovers(erasure)
            before = dict(erasure.counts)
            await self.ledger.finish_erasure(erasure, self._holder())
            self._epoch = (await self.ledger.glance(CLAIM, self.clock())).epoch
            log.warning("erasure %s of a %s is done: %s", erasure.id, erasure.kind, before)

    async def _erase_runs(self, erasure: Erasure) -> bool:
        """Erase every run but those with a call in flight; whether none of them is left."""
        waiting: list[str] = []
        while runs := await self.ledger.runs_to_erase(erasure, limit=RUNS, besides=waiting):
            free: list[RunToErase] = []
            for run in runs:
                if await self._is_live(run.id):
                    waiting.append(run.id)
                    if erasure.stop:
                        await self.store.set_kill(Kill(f"run:{run.id}", "erased"), KILL_TTL_S)
                else:
                    free.append(run)
            if free:
                await self._forget_in_store(erasure, free)
                await self._erase_in_ledger(erasure, sorted(run.id for run in free))
        state = "waiting" if waiting else "running"
        if erasure.state != state or erasure.waits_for != waiting[:20]:
            erasure.state, erasure.waits_for = state, waiting[:20]  # type: ignore[assignment]  # the words of it
            await self.ledger.note_erasure(erasure, self._holder())
        return not waiting

    async def _erase_in_ledger(self, erasure: Erasure, runs: Sequence[str]) -> None:
        place = None
        while True:
            batch, place = await self.ledger.erase_runs(erasure, runs, place, self.pace.size, self._holder())
            self.removed("erased", batch.rows)
            await self.pace.after(batch)
            if place is None:
                return

    async def _forget_in_store(self, erasure: Erasure, runs: Sequence[RunToErase]) -> None:
        """Before the ledger forgets whose they are, since only it knows."""
        keys: set[str] = set()
        agents: set[tuple[str, str]] = set()
        for run in runs:
            keys.update(self.session_keys(run.principal, run.session))
            agents.add((run.principal, run.agent))
        await self.store.forget_runs([run.id for run in runs])
        await self.store.forget(sorted(keys))
        for principal, agent in sorted(agents):
            # What is usual for an agent of several people is nobody's.
            if not await self.ledger.shares_agent(erasure, principal, agent):
                await self.store.forget_baseline(baseline_key(principal, agent))

    async def _erase_steps(self, erasure: Erasure) -> None:
        after = ""
        while ids := await self.ledger.steps_to_erase(erasure, after, self.pace.size):
            after = ids[-1]
            batch = await self.ledger.erase_steps(erasure, ids, self._holder())
            self.removed("erased", batch.rows)
            await self.pace.after(batch)
        erasure.phase = "rest"
        await self.ledger.note_erasure(erasure, self._holder())

    async def _erase_rest(self, erasure: Erasure) -> None:
        while await self.ledger.labels_left(erasure, self.clock()):
            await self.pace.after(await self.ledger.erase_labels(erasure, self.pace.size, self._holder()))
        await self._erase_leftovers(erasure)
        met = await self.ledger.names_met(erasure)
        await self.store.forget_held(met.runs, met.names)
        redactor = Redactor.of(erasure, met)
        for place in PLACES:
            after: int | str | None = None
            while rows := await self.ledger.texts(place, after, 500):
                after = rows[-1]["pk"]
                now = self.clock()
                changes = await asyncio.to_thread(
                    lambda rows=rows, place=place, now=now: [  # type: ignore[misc]
                        (row, changed)
                        for row in rows
                        if (changed := redactor.changes(place, row, now)) is not None
                    ]
                )
                for start in range(0, len(changes), 50):
                    some = changes[start : start + 50]
                    batch = await self.ledger.put_texts(erasure, place, some, self._holder())
                    self.removed("erased", batch.rows)
                    await self.pace.after(batch)
        erasure.counts["kept_kills"] = await self._kept_kills(redactor)
        erasure.counts["kept_keys"] = await self.ledger.keys_in_force(erasure, self.clock())
        await self._forget_kills(redactor)
        await self.ledger.ask_workers(erasure, self._holder())

    async def _erase_leftovers(self, erasure: Erasure) -> None:
        while found := await self.ledger.leftovers(erasure, 100):
            await self.pace.after(await self.ledger.erase_leftovers(erasure, found, self._holder()))

    async def _kept_kills(self, redactor: Redactor) -> int:
        kills = await self.ledger.active_kills(self.clock())
        return sum(redactor.text(kill.target) != kill.target for kill in kills)

    async def _forget_kills(self, redactor: Redactor) -> None:
        """What the store remembers of kills of names that are in force no longer."""
        flags = [
            f"{scope}:{name}" for name in redactor.own.names for scope in ("user", "session", "run", "key")
        ]
        flags += list(redactor.own.names)
        for start in range(0, len(flags), 500):
            some = flags[start : start + 500]
            in_force = await self.store.kills(some)
            await self.store.forget_acknowledgements([name for name in some if name not in in_force])

    async def _is_live(self, run_id: str) -> bool:
        live = await self.store.live_run(run_id)
        return live is not None and int(live["open"]) > 0


# -- handing out ---------------------------------------------------------------------------------------------


async def export(
    ledger: SqlLedger,
    subject: Subject,
    views: Callable[[str, Json], Json],
    contents: Callable[[str], AsyncIterator[Json]] | None = None,
) -> AsyncIterator[bytes]:
    """Everything the ledger holds about somebody, one JSON object a line, a page in memory at a time.

    Each has a `record`: `run`, its `step`s, its `content`s where any are kept, `approval`, `kill`, `topup`,
    and at the end `end` with how many there were of each. `views` makes the shape of a kind. Raises
    `LedgerUnavailable`.
    """
    counts: dict[str, int] = {}

    def line(kind: str, row: Json) -> bytes:
        counts[kind] = counts.get(kind, 0) + 1
        return orjson.dumps({"record": kind, **views(kind, row)}) + b"\n"

    targets = set(subject.names)
    told: set[str] = set()
    """Kills and top-ups: one of a session is met with each of its runs."""
    after: tuple[Millis, str] = (-1, "")
    while runs := await ledger.runs_about(subject, after, 50):
        after = runs[-1]["started_at"], runs[-1]["id"]
        for run in runs:
            yield line("run", run)
            cursor = None
            while True:
                steps, cursor = await ledger.steps(run["id"], limit=200, cursor=cursor)
                for step in steps:
                    yield line("step", {"run": run["id"], **step})
                if cursor is None:
                    break
            if contents is not None:
                async for content in contents(run["id"]):
                    yield line("content", {"run": run["id"], **content})
            mentioned = {run["id"], run["name"], run["session"]} - {None}
            for kind, rows in (await ledger.control_about(mentioned)).items():
                for row in rows:
                    if row["id"] not in told:
                        told.add(row["id"])
                        yield line(kind, row)
    last = ""
    while steps := await ledger.steps_about(subject, last, 200):
        last = steps[-1]["id"]
        for step in steps:
            yield line("step", step)
    last = ""
    while approvals := await ledger.approvals_about(subject, last, 100):
        last = approvals[-1]["id"]
        for row in approvals:
            yield line("approval", row)
    for kind, rows in (await ledger.control_about(targets)).items():
        for row in rows:
            if row["id"] not in told:
                yield line(kind, row)
    yield orjson.dumps({"record": "end", "counts": counts}) + b"\n"
