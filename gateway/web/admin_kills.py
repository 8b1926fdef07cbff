"""The kill switch as operators hold it: stop, see who obeyed, revive.

The store's flag is what stops; the ledger's record is what makes it last. Each is set even when the other
cannot be, for a kill must not wait for a database.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from dataclasses import replace
from typing import Annotated, Literal

import orjson
from fastapi import APIRouter, Query
from pydantic import Field

from gateway.admission import Kill
from gateway.domain import Json, Millis, RunStatus
from gateway.errors import StoreUnavailable
from gateway.rules.budgets import GLOBAL_ID
from gateway.rules.kills import kill_name, parse_kill_name
from gateway.stores.ledger import LedgerUnavailable
from gateway.stores.ledger_control import KillRecord, Obeyed
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import Body, Label, Reason, kill_view, page, stamp

log = logging.getLogger("gateway.admin")

ACKNOWLEDGED_S = 0.3
"""How long an answer waits for workers. One that has not obeyed by then is in the record later."""
QUIET_S = 0.1
"""Where there may be workers that this one does not know of, so long after the last one nobody is missing."""
LATE_S = 2.0
"""Polling finds a kill within a second where the push was lost; then the record is completed."""
_POLL_S = 0.005

router = APIRouter(route_class=AdminRoute, tags=["kills"])
_late: set[asyncio.Task[None]] = set()

KillScope = Literal["run", "session", "user", "key", "team", "model", "tool", "global"]


class KillBody(Body):
    """Whom to stop, and why. The reason is told to the agent."""

    scope: KillScope
    id: Label | None = None
    """What is meant by the scope; a run's id or name; not needed for `global`."""
    reason: Reason
    ttl_s: Annotated[float, Field(gt=0, le=315_360_000)] | None = None
    """Seconds after which the kill ends by itself."""


class RunKillBody(Body):
    """Why a run is stopped."""

    reason: Reason


@router.post("/kills", status_code=201)
@needs("operator", limited=False)
async def kill(ctx: Ctx, body: KillBody) -> Json:
    """Stop a run, session, user, key, team, model, tool, or everything.

    New work is refused from now on and streams in flight end with an error. The answer says which workers
    have obeyed so far and how many streams they cut.
    """
    if body.id is None and body.scope != "global":
        raise AdminError(400, "invalid_request", f"body.id: say which {body.scope} to stop")
    target = GLOBAL_ID if body.scope == "global" else body.id or ""
    run = await find_run(ctx, target) if body.scope == "run" else None
    return await stop(ctx, body.scope, target, run, body.reason, body.ttl_s)


@router.post("/runs/{run_id}/kill", status_code=201)
@needs("operator", limited=False)
async def kill_run(ctx: Ctx, run_id: Label, body: RunKillBody) -> Json:
    """Stop one run, by id or name. 404 when there is no such run."""
    run = await find_run(ctx, run_id)
    if run is None:
        raise AdminError(404, "not_found", f"There is no run {run_id!r}.")
    return await stop(ctx, "run", run_id, run, body.reason, None)


@router.get("/kills")
@needs("viewer")
async def list_kills(
    ctx: Ctx,
    include_past: Annotated[bool, Query(alias="all")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Json:
    """Kills in force, newest first; with `all=true` ended ones too. Flags set in Redis by hand are in force
    without being listed."""
    now = ctx.now()
    ledger = ctx.worker.ledger
    kills = await ledger.kills(limit=limit) if include_past else (await ledger.active_kills(now))[:limit]
    return page([kill_view(await _with_late(ctx, each, now), now) for each in kills])


@router.delete("/kills/global")
@needs("operator")
async def revive_everything(ctx: Ctx) -> Json:
    """End a kill of everything. Kills of single runs, users and so on stay."""
    return await revive(ctx, "global", GLOBAL_ID)


@router.delete("/kills/{scope}/{target:path}")
@needs("operator")
async def revive(ctx: Ctx, scope: KillScope, target: Label) -> Json:
    """Let the stopped go on: flags set by hand are removed too. 404 when none stands."""
    now = ctx.now()
    names = [kill_name(scope, target)]
    if scope == "run":
        run = await find_run(ctx, target)
        aliases = {target, run["id"], run["name"]} if run is not None else {target}
        names = [name for alias in sorted(filter(None, aliases)) for name in _run_flags(alias)]
    found = False
    for name in names:
        # The record first: a worker that finds the flag gone and the record in force sets the flag again.
        recorded = await ctx.worker.ledger.revive(name, by=ctx.caller.name, at=now)
        found = await ctx.worker.store.clear_kill(name) or recorded or found
    if not found:
        raise AdminError(404, "not_found", f"No kill of {scope} {target!r} is in force.")
    await ctx.audit("kill.revive", {"scope": scope, "id": target})
    ctx.worker.notify("revive", {"scope": scope, "id": target, "by": ctx.caller.name})
    await ctx.refresh()
    return {"scope": scope, "id": target, "revived": True, "at": stamp(now), "by": ctx.caller.name}


def _run_flags(target: str) -> list[str]:
    """Every flag that may stand for a run; a bare name that reads as another scope's is none of them."""
    bare = [target] if parse_kill_name(target) == ("run", target) else []
    return [kill_name("run", target), *bare]


# -- how it is done ----------------------------------------------------------------------------------


async def find_run(ctx: Context, id_or_name: str) -> Json | None:
    """A run by id or name, for a kill: None when it is not known or the ledger cannot say.

    Raises `AmbiguousRun` when several callers have a run of that name.
    """
    await ctx.flush()
    try:
        return await ctx.worker.ledger.run(id_or_name)
    except LedgerUnavailable as error:
        log.warning("a run is looked for without the ledger: %s", error)
        return None


async def stop(
    ctx: Context, scope: str, target: str, run: Json | None, reason: str, ttl_s: float | None
) -> Json:
    """Set the flag, record it, wait a moment for the workers, and say what came of it.

    Raises `AdminError` 503 when the flag could not be set; the kill is then in force as soon as the store
    answers again, provided that the ledger has it.
    """
    at = ctx.now()
    name = kill_name(scope, target)
    in_force = await _set_flag(ctx, name, reason, ttl_s)
    if run is not None and run["id"] != target and run.get("children"):
        # Runs below its children know it by its id alone.
        await _set_flag(ctx, kill_name("run", run["id"]), reason, ttl_s)
    record, recorded = await _record(ctx, name, scope, target, reason, ttl_s, at)
    if not in_force:
        state = "is recorded and takes effect as soon as it answers" if recorded else "is lost; try again"
        raise AdminError(503, "store_unavailable", f"The store cannot be reached. The kill {state}.")
    obeyed = await _wait_for_workers(ctx, name, at)
    if run is not None:
        await _mark_run(ctx, run["id"], reason, at)
    record = replace(record, obeyed=obeyed)
    await _complete(ctx, record, recorded)
    log.warning("%s killed %s: %s", ctx.caller.name, name, reason)
    return {
        **kill_view(record, at),
        "target": target,
        "run": run["id"] if run is not None else None,
        "recorded": recorded,
    }


async def _set_flag(ctx: Context, name: str, reason: str, ttl_s: float | None) -> bool:
    store = ctx.worker.store
    try:
        if name not in await store.kills([name]):
            # What workers said about an earlier kill of this name must not be taken for this one.
            await store.clear_kill(name)
        await store.set_kill(Kill(name, reason), ttl_s)
    except StoreUnavailable:
        return False
    return True


async def _record(
    ctx: Context, name: str, scope: str, target: str, reason: str, ttl_s: float | None, at: Millis
) -> tuple[KillRecord, bool]:
    """The record of a kill, and whether the ledger has it."""
    by = ctx.caller.name
    expires_at = at + int(ttl_s * 1000) if ttl_s is not None else None
    try:
        record = await ctx.worker.ledger.add_kill(
            name=name, scope=scope, target=target, reason=reason, by=by, at=at, expires_at=expires_at
        )
    except LedgerUnavailable as error:
        log.error("the kill of %s is in force and not on record: %s", name, error)
        return KillRecord(uuid.uuid4().hex, name, scope, target, reason, by, at, expires_at), False
    return record, True


async def _acknowledgements(ctx: Context, name: str) -> tuple[Obeyed, ...]:
    try:
        acks = await ctx.worker.store.kill_acknowledgements(name)
    except StoreUnavailable:
        return ()
    return tuple(Obeyed(worker, at, streams) for worker, (at, streams) in sorted(acks.items()))


async def _wait_for_workers(ctx: Context, name: str, at: Millis) -> tuple[Obeyed, ...]:
    settings = ctx.worker.settings
    loop = asyncio.get_running_loop()
    give_up = loop.time() + ACKNOWLEDGED_S
    obeyed: tuple[Obeyed, ...] = ()
    last_came = loop.time()
    while True:
        now = loop.time()
        before, obeyed = obeyed, await _acknowledgements(ctx, name)
        if len(obeyed) > len(before):
            last_came = now
        enough = len(obeyed) >= settings.workers and (settings.embedded or now - last_came >= QUIET_S)
        if enough or now >= give_up:
            break
        await asyncio.sleep(_POLL_S)
    for each in obeyed:
        ctx.worker.metrics.kill_propagation.observe(max(0, each.at - at) / 1000)
    return obeyed


async def _mark_run(ctx: Context, run_id: str, reason: str, at: Millis) -> None:
    event = {"t": "run", "run": run_id, "at": at, "status": RunStatus.KILLED.value, "reason": reason}
    try:
        await ctx.worker.store.stop_run(run_id, RunStatus.KILLED.value, reason)
        await ctx.worker.store.note(orjson.dumps(event))
    except StoreUnavailable as error:
        log.warning("run %s is killed and not marked so: %s", run_id, error)


async def _complete(ctx: Context, record: KillRecord, recorded: bool) -> None:
    """Put on record who obeyed and who ordered it; workers that are late are looked for once more."""
    details: Json = {
        "scope": record.scope,
        "id": record.target,
        "reason": record.reason,
        "expires_at": record.expires_at,
        "streams": sum(each.streams for each in record.obeyed),
    }
    try:
        await ctx.audit("kill.set", details)
        if recorded:
            await _record_obedience(ctx, record)
    except LedgerUnavailable as error:
        log.error("the kill of %s is not fully on record: %s", record.name, error)
    if recorded and not ctx.worker.settings.embedded:
        task = asyncio.create_task(_record_late(ctx, record))
        _late.add(task)
        task.add_done_callback(_late.discard)


async def _record_obedience(ctx: Context, record: KillRecord) -> None:
    for each in record.obeyed:
        await ctx.worker.ledger.kill_obeyed(record.id, worker=each.worker, at=each.at, streams=each.streams)


async def _record_late(ctx: Context, record: KillRecord) -> None:
    await asyncio.sleep(LATE_S)
    try:
        await _record_obedience(ctx, replace(record, obeyed=await _acknowledgements(ctx, record.name)))
    except LedgerUnavailable as error:
        log.warning("late workers are missing from the record of kill %s: %s", record.id, error)


async def _with_late(ctx: Context, record: KillRecord, now: Millis) -> KillRecord:
    """A kill in force with what its workers say now."""
    if not record.active(now):
        return record
    obeyed = {each.worker: each for each in record.obeyed}
    for each in await _acknowledgements(ctx, record.name):
        obeyed[each.worker] = each
    return replace(record, obeyed=tuple(sorted(obeyed.values(), key=lambda o: (o.at, o.worker))))
