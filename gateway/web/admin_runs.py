"""What happened, for operators: runs, their steps, what was spent, and the events as they come."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from gateway.domain import Json, Millis, RunStatus, usd
from gateway.errors import StoreUnavailable
from gateway.steps.baselines import baseline_key
from gateway.stores.ledger_reports import GROUPS
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import Label, Moment, page, read_moment, run_view, spend_view, stamp, step_view

HEARTBEAT_S = 15.0
"""Proxies close a connection on which nothing comes for a minute or less."""
CHECK_S = 0.4
"""How often it is looked whether a reader may still read: with the time that it takes to hear of a revoked
token, one that may not is cut off within a second."""
QUEUE = 1000
"""Events kept for a listener that is slow; older ones are dropped."""
MAX_LISTENERS = 100

router = APIRouter(route_class=AdminRoute, tags=["runs"])

Limit = Annotated[int, Query(ge=1, le=500)]
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get("/runs")
@needs("viewer")
async def list_runs(
    ctx: Ctx,
    status: RunStatus | None = None,
    user: Label | None = None,
    session: Label | None = None,
    key: Label | None = None,
    model: Label | None = None,
    since: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Json:
    """Runs, newest first. `model` is the one asked for or the one called; `since` is a start time."""
    await ctx.flush()
    rows, following = await ctx.worker.ledger.runs(
        status=status.value if status is not None else None,
        user=user,
        session=session,
        key=key,
        model=model,
        since=moment(ctx, since),
        limit=limit,
        cursor=cursor,
    )
    live = await asyncio.gather(*(_live(ctx, row["id"]) for row in rows))
    return page([run_view(row, state) for row, state in zip(rows, live, strict=True)], following)


@router.get("/runs/{run_id}")
@needs("viewer")
async def one_run(ctx: Ctx, run_id: Label) -> Json:
    """A run by id, or by the name its caller gave it; of several with one name the newest."""
    run = await existing_run(ctx, run_id)
    steps, _ = await ctx.worker.ledger.steps(run["id"], limit=1000)
    run["findings"] = [
        {"ordinal": step["ordinal"], **found} for step in steps for found in step.get("findings") or ()
    ]
    run["inferred_parent"] = next((step["asked_by"] for step in steps if step.get("asked_by")), None)
    run["usual"] = await _usual(ctx, run)
    return run_view(run, await _live(ctx, run["id"]))


async def _usual(ctx: Context, run: Json) -> Json | None:
    """What the agent's runs are usually like; None while too little is known, or the store is away."""
    try:
        known = await ctx.worker.store.baseline(baseline_key(run["principal"] or "", run["agent"] or ""))
    except StoreUnavailable:
        return None
    if known is None:
        return None
    return {
        "runs": round(known.runs, 3),
        "mean": {name: round(value, 9) for name, value in known.mean.items()},
        "spread": {name: round(value**0.5, 9) for name, value in known.variance.items()},
    }


@router.get("/runs/{run_id}/steps")
@needs("viewer")
async def steps_of_run(ctx: Ctx, run_id: Label, limit: Limit = 100, cursor: Cursor = None) -> Json:
    """The attempts of a run and the steps it was refused, in their order."""
    run = await existing_run(ctx, run_id)
    rows, following = await ctx.worker.ledger.steps(run["id"], limit=limit, cursor=cursor)
    return page([step_view(row) for row in rows], following)


@router.get("/spend")
@needs("viewer")
async def spend(
    ctx: Ctx,
    group_by: Annotated[str, Query(max_length=80)] = "user",
    tag: Label | None = None,
    bucket: Literal["hour", "day"] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Json:
    """What was spent, by `user session run key team model provider surface`, or by a tag:
    `group_by=tag&tag=NAME` or `group_by=tag:NAME`."""
    word, _, name = group_by.partition(":")
    if word == "tag":
        tag = tag or name
        if not tag:
            raise AdminError(400, "invalid_request", "query.tag: say which tag to group by")
    elif group_by not in GROUPS:
        wanted = ", ".join((*GROUPS, "tag"))
        raise AdminError(
            400, "invalid_request", f"query.group_by: got {group_by!r}, expected one of {wanted}"
        )
    await ctx.flush()
    rows = await ctx.worker.ledger.spend(
        word, tag=tag, bucket=bucket, since=moment(ctx, since), until=moment(ctx, until)
    )
    return page([spend_view(row, word) for row in rows])


def moment(ctx: Context, text: str | None) -> Millis | None:
    """A time from a query, by the gateway's clock."""
    if text is None:
        return None
    return read_moment(text, datetime.fromtimestamp(ctx.now() / 1000, UTC))


async def existing_run(ctx: Context, id_or_name: str) -> Json:
    """A run. Raises `AdminError` 404, and `AmbiguousRun` when several callers share the name."""
    await ctx.flush()
    run = await ctx.worker.ledger.run(id_or_name)
    if run is None:
        raise AdminError(404, "not_found", f"There is no run {id_or_name!r}.")
    return run


async def _live(ctx: Context, run_id: str) -> Any:
    try:
        return await ctx.worker.store.live_run(run_id)
    except StoreUnavailable:
        return None


# -- events ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Listener:
    """One reader of the event stream. Never slows down what it listens to."""

    queue: asyncio.Queue[tuple[str, Json]] = field(default_factory=lambda: asyncio.Queue(QUEUE))
    dropped: int = 0

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        """Take an event; the oldest goes when there is no room."""
        if self.queue.full():
            self.queue.get_nowait()
            self.dropped += 1
        self.queue.put_nowait((kind, facts))


@router.get("/events", response_class=StreamingResponse)
@needs("viewer")
async def events(ctx: Ctx) -> StreamingResponse:
    """Server-sent events of this worker: steps, refusals, kills, warnings. A slow reader loses the oldest
    and is told how many by `dropped`."""
    notices = ctx.worker.notices
    if sum(isinstance(each, Listener) for each in notices) >= MAX_LISTENERS:
        raise AdminError(503, "too_many_listeners", f"{MAX_LISTENERS} listeners are connected already.")
    listener = Listener()
    notices.append(listener)
    return StreamingResponse(
        _tell(ctx, listener), media_type="text/event-stream", headers={"x-accel-buffering": "no"}
    )


async def _tell(ctx: Context, listener: Listener) -> AsyncIterator[bytes]:
    serial = 0
    loop = asyncio.get_running_loop()
    spoken = checked = loop.time()
    try:
        yield b": connected\n\n"
        while True:
            event: tuple[str, Json] | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECK_S):
                    event = await listener.queue.get()
            now = loop.time()
            if now - checked >= CHECK_S:
                checked = now
                if not await ctx.operators.still_valid(ctx.caller):
                    return
            if event is None:
                if now - spoken >= HEARTBEAT_S:
                    spoken = now
                    yield b": still here\n\n"
                continue
            spoken = now
            kind, facts = event
            if kind == "shutdown":
                return
            serial += 1
            yield event_bytes(serial, kind, facts, ctx.now(), listener.dropped)
    finally:
        ctx.worker.notices.remove(listener)


def event_bytes(serial: int, kind: str, facts: dict[str, Any], now: Millis, dropped: int) -> bytes:
    """One event in the stream's framing."""
    data: Json = {"type": kind, "at": stamp(now)}
    for name, value in facts.items():
        if name == "cost" and isinstance(value, int):
            data["cost_usd"] = usd(value)
        elif name.endswith("_at") and isinstance(value, int):
            data[name] = stamp(value)
        else:
            data[name] = value
    if dropped:
        data["dropped"] = dropped
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (serial, kind.encode(), orjson.dumps(data, default=str))
