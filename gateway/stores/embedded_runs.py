"""Runs of the embedded store: which one a request belongs to, what leads to each, how long it is remembered.

Time is an argument. `lua/resolve.lua`, `lua/link.lua` and what `lua/reap.lua` does about runs follow this.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

from gateway.admission import (
    INDEX_WIDTH,
    MAX_ANCESTORS,
    MAX_RETRIES,
    RETRY_WINDOW_MS,
    Ending,
    Evidence,
    Lookup,
    RunView,
)
from gateway.domain import Millis, Nano, RunSource, RunStatus
from gateway.stores.embedded_records import Sweep

DAY_MS = 86_400_000
UNSEEN_RUN_TTL_MS = 600_000
"""A run that was resolved and never admitted leaves no trace after this."""


@dataclass(slots=True)
class RunState:
    """One run as the store keeps it."""

    id: str
    principal: str
    session: str
    name: str | None
    explicit: bool
    continues: str | None
    started_at: Millis
    last_at: Millis
    idle_ttl_ms: int
    status: str = RunStatus.RUNNING.value
    reason: str = ""
    seen: bool = False
    """A step of it was admitted once, so it is worth keeping and showing."""
    steps: int = 0
    open: int = 0
    tool_calls: int = 0
    tokens: int = 0
    cost: Nano = 0
    reserved: Nano = 0
    head: str = ""
    """Where the conversation stands, until a request goes on from there."""
    answered_at: Millis = 0
    budget: str = ""
    """Counter of the run's own budget, for what is left of it."""
    budget_limit: Nano = 0
    ancestors: tuple[str, ...] = ()
    progress: bytes = b""
    landed: int = 0
    """Ordinal of the step by which the run was landed; `ending` is then what later steps are told."""
    ending: Ending | None = None
    waited_ms: int = 0
    """How long its answers waited for a person; no part of its wall-clock time."""
    policy: str = ""


_SHOWN = tuple(field.name for field in fields(RunState) if field.name not in ("progress", "ending"))


@dataclass(slots=True)
class _Retry:
    """The step that one run made of a conversation; equal agents make one each of equal conversations."""

    run_id: str
    ordinal: int
    failed: bool
    count: int
    at: Millis
    until: Millis
    """Remembered until then: as long as the attempt may be open, then for the retry window."""


class RunArchive(Protocol):
    """Where an embedded store keeps its runs and index over a restart."""

    def touch_run(self, run_id: str) -> None:
        """The run has changed and is to be saved soon."""

    def touch_index(self, key: str) -> None:
        """The index entry has changed and is to be saved soon."""

    async def runs(self) -> list[RunState]:
        """Every run saved."""

    async def index(self, now: Millis) -> dict[str, tuple[Millis, list[str]]]:
        """Every index entry that has not expired."""

    def touch_object(self, key: str) -> None:
        """The record has changed and is to be saved soon."""

    async def objects(self, now: Millis) -> dict[str, tuple[Millis, bytes]]:
        """Every record that has not expired."""

    async def save(
        self,
        runs: Mapping[str, RunState],
        index: Mapping[str, tuple[Millis, list[str]]],
        objects: Mapping[str, tuple[Millis, bytes]],
    ) -> None:
        """Save what was touched since the last call."""


class Runs:
    """Every run of a store. The archive, if there is one, is told which have changed."""

    def __init__(self, archive: RunArchive | None) -> None:
        self.known: dict[str, RunState] = {}
        """By id."""
        self.index: dict[str, tuple[Millis, list[str]]] = {}
        """(until, ids of runs, the latest last) by key."""
        self._archive = archive
        self._retries: dict[str, list[_Retry]] = {}
        """By body, one for each run, the latest last."""
        self._due: list[tuple[Millis, str]] = []
        """When to look at each run again, soonest first."""
        self._retry_sweep = Sweep(self._retries)
        self._index_sweep = Sweep(self.index)

    def restore(
        self, runs: Iterable[RunState], index: Mapping[str, tuple[Millis, list[str]]], now: Millis
    ) -> None:
        """Take in what was saved. Whatever was open in a run then is settled without it."""
        for run in runs:
            run.open = 0
            run.reserved = 0
            self.known[run.id] = run
            self._look_again(run, now)
        self.index.update(index)

    def touch(self, run: RunState) -> None:
        """The run has changed."""
        if self._archive is not None:
            self._archive.touch_run(run.id)

    # -- finding ------------------------------------------------------------------------------------

    def resolve(self, lookup: Lookup, now: Millis) -> RunView:
        """`Store.resolve`."""
        retry: _Retry | None = None
        continues: str | None = None
        found: RunState | None = None
        source = RunSource.SESSION if lookup.session_given else RunSource.NEW
        merged = False
        if lookup.name_key is not None:
            source = lookup.named_source
            found = self._named(lookup, now)
            if found is not None and _is_idle(found, now):
                continues, found = found.id, None
            if found is not None:
                retry = self._repeated(lookup, now, found.id)
        elif (retry := self._repeated(lookup, now)) is not None:
            found, source = self.known[retry.run_id], RunSource.RETRY
        else:
            match = self._match(lookup, now)
            if match is not None:
                found, evidence, merged = match
                found.head = ""
                if _is_idle(found, now) or _is_over(found, evidence, lookup, now):
                    continues, found = found.id, None
                else:
                    source = evidence.source

        is_new = found is None
        asked_by = None
        if found is None:
            found = self._open(lookup, continues, now)
            asked_by = self._asker(lookup, now) if lookup.tasks and not found.ancestors else None
        else:
            found.head = ""
        for key in lookup.known_as:
            self._know_as(key, found.id, now, now + lookup.idle_ttl_ms + DAY_MS)
        ordinal = 0
        if retry is not None:
            retry.count += 1
            ordinal = retry.ordinal
        return RunView(
            run_id=found.id,
            session=found.session,
            source=source,
            is_new=is_new,
            explicit=found.explicit,
            name=found.name,
            continues=found.continues,
            retry_ordinal=ordinal,
            merged=merged,
            status=RunStatus(found.status),
            started_at=found.started_at,
            steps=found.steps,
            cost=found.cost,
            idle_ms=now - found.last_at,
            ancestors=found.ancestors,
            progress=found.progress,
            landed=found.landed,
            asked_by=asked_by,
            policy=found.policy,
        )

    def _repeated(self, lookup: Lookup, now: Millis, run_id: str | None = None) -> _Retry | None:
        """The step that a request repeats, if it repeats one: of equal agents' steps one that failed, and
        of those one that was repeated least, so that two that failed are not taken for one."""
        known = [
            retry
            for retry in self._retries.get(lookup.retry_key, ())
            if retry.until >= now
            and now - retry.at <= RETRY_WINDOW_MS
            and retry.count < MAX_RETRIES
            and retry.run_id in self.known
            and run_id in (None, retry.run_id)
        ]
        failed = [retry for retry in known if retry.failed]
        if failed:
            return min(reversed(failed), key=lambda retry: retry.count)
        return known[-1] if known and lookup.retry_declared else None

    def _named(self, lookup: Lookup, now: Millis) -> RunState | None:
        if lookup.own_run_id is not None:
            run = self.known.get(lookup.own_run_id)
            if run is not None and run.principal == lookup.principal:
                return run
        assert lookup.name_key is not None
        ids = self._lookup_index(lookup.name_key, now)
        return self.known.get(ids[-1]) if ids else None

    def _match(self, lookup: Lookup, now: Millis) -> tuple[RunState, Evidence, bool] | None:
        """The run that the strongest evidence leads to; `merged` when ids of two sessions meet."""
        found: tuple[RunState, Evidence] | None = None
        merged = False
        for evidence in lookup.evidence:
            if found is not None and evidence.source is not RunSource.EMITTED_ID:
                continue
            ids = self._lookup_index(evidence.key, now)
            runs = [run for i in ids if (run := self.known.get(i)) is not None]
            if not runs:
                continue
            if found is not None:
                merged = merged or all(r.session != found[0].session for r in runs)
            elif evidence.source is RunSource.LINEAGE:
                found = (
                    runs[0] if len(runs) == 1 else self._one_of(runs, evidence.key, lookup, now),
                    evidence,
                )
            elif evidence.source is RunSource.SERVER_STATE:
                # A conversation that the provider keeps goes through all its runs; the latest goes on.
                found = (runs[-1], evidence)
            elif len(runs) == 1:
                # An id or a tail that leads to two runs tells nothing: some servers reuse `call_0`.
                found = (runs[0], evidence)
        return (*found, merged) if found is not None else None

    def _one_of(self, runs: Sequence[RunState], key: str, lookup: Lookup, now: Millis) -> RunState:
        """Which of several runs whose conversations are equal up to a place, known by its key."""
        for evidence in lookup.evidence:
            if evidence.source is RunSource.EMITTED_ID:
                ids = self._lookup_index(evidence.key, now)
                if len(ids) == 1 and (named := next((r for r in runs if r.id == ids[0]), None)):
                    return named
        # Equal agents take turns. One that has waited here for long may have been abandoned, and must not
        # take in its successor.
        waiting = [r for r in runs if r.head == key and r.open == 0]
        recent = [r for r in waiting if now - r.last_at <= lookup.text_gap_ms]
        return recent[0] if recent else (waiting or runs)[-1]

    def _open(self, lookup: Lookup, continues: str | None, now: Millis) -> RunState:
        session = lookup.session
        if continues is not None and not lookup.session_given:
            session = self.known[continues].session
        run = RunState(
            id=lookup.new_run_id,
            principal=lookup.principal,
            session=session,
            name=lookup.name,
            explicit=lookup.name_key is not None,
            continues=continues,
            started_at=now,
            last_at=now,
            idle_ttl_ms=lookup.idle_ttl_ms,
            ancestors=self._ancestors(lookup, now) if lookup.parents or lookup.parent_run_id else (),
            policy=lookup.policy,
        )
        self.known[run.id] = run
        self._look_again(run, now)
        if lookup.name_key is not None:
            self.index[lookup.name_key] = (now + lookup.idle_ttl_ms + DAY_MS, [run.id])
            self._touch_index(lookup.name_key)
        return run

    def _ancestors(self, lookup: Lookup, now: Millis) -> tuple[str, ...]:
        """The declared parent of a run that is being opened, and those above it."""
        parent = None if lookup.parent_run_id is None else self.known.get(lookup.parent_run_id)
        if parent is not None and parent.principal != lookup.principal:
            parent = None
        for key in lookup.parents:
            if parent is not None:
                break
            latest = reversed(self._lookup_index(key, now))
            parent = next((run for i in latest if (run := self.known.get(i)) is not None), None)
        return () if parent is None else line_of(lookup.new_run_id, parent.id, parent.ancestors)

    def _asker(self, lookup: Lookup, now: Millis) -> str | None:
        """The one run that passed on what a run that is being opened is told to do."""
        found = {
            run.id
            for key in lookup.tasks
            for i in self._lookup_index(key, now)
            if (run := self.known.get(i)) is not None and run.principal == lookup.principal
        }
        return found.pop() if len(found) == 1 else None

    def _know_as(self, key: str, run_id: str, now: Millis, until: Millis) -> None:
        """Link a run so that it is the latest of the entry."""
        others = [i for i in self._lookup_index(key, now) if i != run_id]
        self.index[key] = (until, [*others, run_id][-INDEX_WIDTH:])
        self._touch_index(key)

    def _lookup_index(self, key: str, now: Millis) -> list[str]:
        entry = self.index.get(key)
        return entry[1] if entry is not None and entry[0] >= now else []

    def _touch_index(self, key: str) -> None:
        if self._archive is not None:
            self._archive.touch_index(key)

    # -- what leads to a run ------------------------------------------------------------------------

    def link(self, keys: Iterable[str], run_id: str, now: Millis, until: Millis) -> None:
        """Let index keys lead to a run."""
        for key in keys:
            ids = self._lookup_index(key, now)
            if run_id not in ids:
                ids = [*ids, run_id][-INDEX_WIDTH:]
            self.index[key] = (until, ids)
            self._touch_index(key)

    def stepped(self, run_id: str, retry_key: str, ordinal: int, *, again: bool, now: Millis) -> None:
        """A step of the run was admitted: the same body is a retry of it from now on. `again` says that it
        was one itself."""
        known = [r for r in self._retries.get(retry_key, ()) if r.until >= now]
        count = sum(r.count for r in known if r.run_id == run_id) if again else 0
        latest = _Retry(run_id, ordinal, False, count, at=now, until=now + DAY_MS)
        others = [r for r in known if r.run_id != run_id]
        self._retries[retry_key] = [*others, latest][-INDEX_WIDTH:]

    def ended(self, run_id: str, retry_key: str, *, succeeded: bool, now: Millis) -> None:
        """A step was settled: it is known by its body for the retry window from here."""
        for retry in self._retries.get(retry_key, ()):
            if retry.run_id == run_id and retry.until >= now:
                retry.failed = not succeeded
                retry.at = now
                retry.until = now + RETRY_WINDOW_MS

    # -- forgetting ---------------------------------------------------------------------------------

    def abandon_idle(self, now: Millis) -> list[str]:
        """Abandon runs that nobody goes on with and drop those past remembering. The ids of the abandoned."""
        due: list[str] = []
        while self._due and self._due[0][0] <= now:
            due.append(heapq.heappop(self._due)[1])
        abandoned: list[str] = []
        for run_id in due:
            run = self.known.get(run_id)
            if run is None:
                continue
            if run.status == RunStatus.RUNNING and run.seen and _is_idle(run, now):
                run.status = RunStatus.ABANDONED.value
                abandoned.append(run_id)
                self.touch(run)
            elif _is_past(run, now):
                del self.known[run_id]
                self.touch(run)
                continue
            self._look_again(run, now)
        return abandoned

    def forget(self, run_ids: Iterable[str]) -> None:
        """Drop runs that have no call in flight: their person is erased. What leads to them leads nowhere
        then."""
        for run_id in run_ids:
            run = self.known.get(run_id)
            if run is not None and run.open == 0:
                del self.known[run_id]
                self.touch(run)

    def unseen(self, names: Collection[str]) -> list[str]:
        """Runs of these names or sessions that never made a step."""
        unseen = (run for run in self.known.values() if not run.seen)
        return [run.id for run in unseen if run.session in names or run.name in names]

    def forget_links(self, run_ids: Collection[str]) -> None:
        """Drop what leads to such runs."""
        for key, (until, ids) in list(self.index.items()):
            left = [run_id for run_id in ids if run_id not in run_ids]
            if len(left) < len(ids):
                self.index[key] = (until, left)
                if not left:
                    del self.index[key]
                self._touch_index(key)

    def _look_again(self, run: RunState, now: Millis) -> None:
        """Look at the run when it can next be idle, and not before: there may be many runs."""
        idle_at = run.last_at + run.idle_ttl_ms
        if not run.seen:
            idle_at = min(idle_at, run.started_at + UNSEEN_RUN_TTL_MS)
        if idle_at < now:
            # Whatever else it is, it may be set running meanwhile.
            idle_at = min(idle_at + DAY_MS, now + run.idle_ttl_ms)
        heapq.heappush(self._due, (idle_at + 1, run.id))

    def sweep(self, now: Millis) -> None:
        """Drop some of what no longer counts."""
        for key in self._retry_sweep.next():
            if (known := self._retries.get(key)) is not None:
                live = [r for r in known if r.until >= now]
                if len(live) < len(known):
                    self._retries[key] = live
                if not live:
                    del self._retries[key]
        for key in self._index_sweep.next():
            if (entry := self.index.get(key)) is not None and entry[0] < now:
                del self.index[key]
                self._touch_index(key)


def _is_idle(run: RunState, now: Millis) -> bool:
    return run.open == 0 and now - run.last_at > run.idle_ttl_ms


def _is_past(run: RunState, now: Millis) -> bool:
    """Nothing can lead to the run any more."""
    if run.open:
        return False
    if not run.seen and now - run.started_at > UNSEEN_RUN_TTL_MS:
        return True
    return now - run.last_at > run.idle_ttl_ms + DAY_MS


def _is_over(run: RunState, evidence: Evidence, lookup: Lookup, now: Millis) -> bool:
    """A new user item after the answer of a run that is completed or landed opens a successor, but not for
    agents that put their tool results into user items and come back at once."""
    if not evidence.then_user or run.status == RunStatus.KILLED:
        return False
    if run.landed:
        return not (lookup.speaks_text and now - run.last_at <= lookup.text_gap_ms)
    if run.status != RunStatus.COMPLETED:
        return False
    return not (lookup.speaks_text and now - run.answered_at <= lookup.text_gap_ms)


def shown(run: RunState) -> dict[str, Any]:
    """What `Store.live_run` shows of a run."""
    return {name: getattr(run, name) for name in _SHOWN}


def line_of(run_id: str, parent: str, above: Sequence[str]) -> tuple[str, ...]:
    """The ancestors of a run; of a longer line the nearest and, last, the root."""
    line = [i for i in (parent, *above) if i != run_id]
    return tuple(line) if len(line) <= MAX_ANCESTORS else (*line[: MAX_ANCESTORS - 1], line[-1])
