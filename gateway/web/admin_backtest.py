"""Trying a policy on what has been: backtests, the decisions of one run again, and what a step held."""

from __future__ import annotations

import asyncio
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from gateway.domain import Answer, Json
from gateway.policy.loading import load_candidate
from gateway.policy.messages import PolicyError
from gateway.policy.models import Policy
from gateway.replay.backtest import MAX_STEPS, USUAL_STEPS, Wanted
from gateway.replay.process import BacktestBusy, BacktestFailed, callers_of
from gateway.replay.recorder import Content, Unreadable
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_runs import existing_run, moment
from gateway.web.admin_views import Body, Label, Moment, stamp, stamp_or_none

router = APIRouter(route_class=AdminRoute, tags=["policy"])

USUAL_SINCE = "24h"
PolicyText = Annotated[str, Field(max_length=1_000_000)]
Ordinal = Annotated[int, Field(ge=0, le=2**53)]


class BacktestBody(Body):
    """A policy as YAML text, and the runs that it is tried on: those with a step since then."""

    policy: PolicyText
    since: Moment | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_STEPS)] = USUAL_STEPS


class ReplayBody(Body):
    """A policy as YAML text; the one in force when there is none."""

    policy: PolicyText | None = None


@router.post("/policy/backtest")
@needs("operator")
async def backtest(ctx: Ctx, body: BacktestBody) -> Json:
    """What another policy would have refused, redacted, rerouted and saved. Changes nothing, calls nobody."""
    policy = await _candidate(ctx, body.policy)
    since = moment(ctx, body.since or USUAL_SINCE)
    result = await _run(ctx, policy, since=since, limit=body.limit)
    result["since"] = stamp_or_none(since)
    return result


@router.get("/runs/{run_id}/replay")
@needs("operator")
async def replay(ctx: Ctx, run_id: Label) -> Json:
    """The decisions about a run's steps again, and where they would differ under the policy in force."""
    return await _replay(ctx, run_id, None)


@router.post("/runs/{run_id}/replay")
@needs("operator")
async def replay_under(ctx: Ctx, run_id: Label, body: ReplayBody) -> Json:
    """The same under another policy."""
    return await _replay(ctx, run_id, body.policy)


@router.get("/runs/{run_id}/steps/{ordinal}/content")
@needs("operator")
async def content(ctx: Ctx, run_id: Label, ordinal: Ordinal) -> Json:
    """What a step held, where that was recorded: requests as their client sent them, and the answers."""
    run = await existing_run(ctx, run_id)
    await ctx.worker.recorder.flush()
    ledger = ctx.worker.ledger
    _, rows = await ledger.records_of([run["id"]])
    rows = [row for row in rows if row["ordinal"] == ordinal]
    if not rows:
        raise AdminError(404, "not_found", f"Run {run['id']} has no step {ordinal}.")
    kept = Content.of(ctx.worker.secrets, await ledger.recordings(run["id"], ctx.now()))
    # Before anything is shown: who has looked is on record even if the connection breaks.
    await ctx.audit("run.content_read", {"run": run["id"], "step": ordinal})
    requests: dict[str, Json] = {}
    for row in rows:
        decision = str(row.get("decision") if row["kind"] == "attempt" else row["id"])
        told = requests.setdefault(decision, _request(kept, decision, row["at"]))
        if row["kind"] == "attempt" and (answer := _answer(kept, row["id"])) is not None:
            told["answers"].append({"attempt": row["id"], "model": row["model"], **answer})
    return {"run": run["id"], "step": ordinal, "requests": list(requests.values())}


def _request(kept: Content, decision: str, at: int) -> Json:
    told: Json = {"decision": decision, "at": stamp(at), "kept": False, "body": None, "answers": []}
    try:
        body = kept.request(decision)
    except Unreadable as error:
        return {**told, "problem": f"It cannot be read: {error}."}
    if body is not None:
        told.update(kept=True, body=body.decode("utf-8", "replace"))
    return told


def _answer(kept: Content, attempt: str) -> Json | None:
    try:
        answer: Answer | None = kept.answer(attempt)
    except Unreadable as error:
        return {"problem": f"It cannot be read: {error}."}
    if answer is None:
        return None
    return {
        "texts": list(answer.texts),
        "reasoning": answer.reasoning,
        "calls": [{"id": c.id, "name": c.name, "arguments": c.arguments} for c in answer.calls],
        "finish_reason": answer.finish_reason,
    }


async def _candidate(ctx: Context, text: str) -> Policy:
    try:
        return await asyncio.to_thread(load_candidate, text, ctx.worker.pipeline.generation.policy)
    except PolicyError as error:
        mistakes = "\n".join(str(mistake) for mistake in error.mistakes)
        raise AdminError(400, "invalid_policy", mistakes) from None


async def _replay(ctx: Context, run_id: str, text: str | None) -> Json:
    run = await existing_run(ctx, run_id)
    policy = await _candidate(ctx, text) if text is not None else ctx.worker.pipeline.generation.policy
    result = await _run(ctx, policy, run=run["id"])
    for step in result["decisions"]:
        step["at"] = stamp(step["at"])
    return result


async def _run(
    ctx: Context,
    policy: Policy,
    *,
    since: int | None = None,
    limit: int = USUAL_STEPS,
    run: str | None = None,
) -> Json:
    worker = ctx.worker
    await ctx.flush()
    await worker.recorder.flush()
    wanted = Wanted(
        policy=policy,
        base=worker.pipeline.generation.policy,
        since=since,
        limit=limit,
        run=run,
        callers=callers_of(worker.control.keys),
        now=ctx.now(),
        time_s=worker.backtests.time_s,
    )
    try:
        return await worker.backtests.run(wanted)
    except BacktestBusy:
        raise AdminError(409, "busy", "Another backtest is under way; try again when it is done.") from None
    except BacktestFailed as error:
        if error.is_mistake:
            raise AdminError(400, "invalid_policy", str(error)) from None
        raise AdminError(503, "backtest_failed", str(error)) from None
