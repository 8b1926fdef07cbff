"""The policy in force, its versions, trying another one, and what the detectors make of a text."""

from __future__ import annotations

import asyncio
import difflib
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.domain import Json
from gateway.policy.loading import load_kept, load_text
from gateway.policy.messages import PolicyError
from gateway.policy.sent import as_text, shown, text_of
from gateway.rollout import fared_view
from gateway.screening.pool import ScanFailed
from gateway.screening.report import screened, tiers
from gateway.steps.screens import deadline
from gateway.stores.ledger_policies import PolicyVersion
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_views import Body, Label, Reason, page, stamp, stamp_or_none, version_view

router = APIRouter(route_class=AdminRoute, tags=["policy"])


class PolicyBody(Body):
    """A policy as YAML text."""

    policy: Annotated[str, Field(max_length=1_000_000)]
    note: Reason | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1.0
    watch: bool = True


class ExceptionBody(Body):
    """Findings that are false alarms: at least one of `channel`, `tool` and `type`."""

    name: Label
    detector: Label
    channel: Label | None = None
    tool: Label | None = None
    type: Label | None = None
    note: Reason | None = None


class RollbackBody(Body):
    """Which version is to govern again; the one before when none is named."""

    version: Label | None = None
    reason: Reason | None = None


class ScreenBody(Body):
    """A text to be screened."""

    text: Annotated[str, Field(max_length=1_000_000)]
    channel: Literal["user", "tool", "output"] = "user"


@router.get("/policy")
@needs("viewer")
async def policy(ctx: Ctx) -> Json:
    """The policy in force, with secrets hidden and references unexpanded, and how its files stand."""
    source, rollout = ctx.worker.source, ctx.worker.rollout
    status, current = source.status(), rollout.current.policy
    return {
        "version": rollout.current.version,
        "source": str(ctx.worker.settings.policy),
        "files_version": status.version,
        "generation": rollout.changes,
        "loaded_at": stamp(status.loaded_at),
        "healthy": status.healthy and rollout.problem is None,
        "error": status.last_error or rollout.problem,
        "failing_since": stamp_or_none(status.failing_since),
        "warnings": [str(warning) for warning in current.warnings],
        "policy": _plain(shown(current)),
        "text": as_text(current),
    }


@router.get("/policy/versions")
@needs("viewer")
async def versions(ctx: Ctx, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Json:
    """Versions that were sent or found in the files, newest first."""
    return page([version_view(each) for each in await ctx.worker.ledger.policy_versions(limit=limit)])


@router.get("/policy/versions/{version}")
@needs("viewer")
async def one_version(ctx: Ctx, version: Label) -> Json:
    """A version with its text, secrets hidden."""
    found = await _existing(ctx, version)
    return {**version_view(found), "text": found.text}


@router.get("/policy/versions/{version}/diff")
@needs("viewer")
async def diff(ctx: Ctx, version: Label, against: Label | None = None) -> Json:
    """What a version changes, as a unified diff without comments and layout: against the version in force,
    and for that one against the version before it, unless another is named."""
    found = await _existing(ctx, version)
    if against is None:
        against = ctx.worker.rollout.current.version
        if against == version:
            before = await ctx.worker.ledger.earlier_policies(1)
            against = before[0].version if before else None
    other = await _existing(ctx, against) if against is not None else None
    lines = difflib.unified_diff(
        other.text.splitlines(keepends=True) if other is not None else [],
        found.text.splitlines(keepends=True),
        against or "nothing",
        version,
    )
    return {"version": version, "against": against, "diff": "".join(lines)}


@router.get("/policy/rollout")
@needs("viewer")
async def rollout(ctx: Ctx) -> Json:
    """What governs, what is being tried, and how the runs of both have fared since."""
    await ctx.flush()
    current = ctx.worker.rollout
    trial = await current.trial()
    active = await ctx.worker.ledger.active_policies()
    view: Json = {
        "active": current.current.version,
        "problem": current.problem,
        "versions": [version_view(each) for each in active],
        "candidate": None,
        "baseline": None,
    }
    if trial is not None:
        view["candidate"] = {
            "version": trial.version.version,
            "share": trial.version.share,
            "since": stamp_or_none(trial.version.activated_at),
            "by": trial.version.activated_by,
            "watched": trial.version.watched,
            "worse": trial.too_bad,
            **fared_view(trial.fared),
        }
        view["baseline"] = {"version": trial.against, **fared_view(trial.others)}
    return view


@router.post("/policy/validate")
@needs("operator")
async def validate(ctx: Ctx, body: PolicyBody) -> Json:
    """Whether a policy could be put in force: `valid`, and every mistake found. Changes nothing."""
    try:
        loaded = await asyncio.to_thread(load_text, body.policy, base=ctx.worker.source.policy)
    except PolicyError as error:
        mistakes = [
            {"file": m.file, "line": m.line, "path": m.path, "problem": m.problem, "message": str(m)}
            for m in error.mistakes
        ]
        return {"valid": False, "version": None, "warnings": [], "mistakes": mistakes}
    warnings = [str(warning) for warning in loaded.warnings]
    return {"valid": True, "version": loaded.version, "warnings": warnings, "mistakes": []}


@router.post("/policy", status_code=201)
@needs("admin")
async def stage(ctx: Ctx, body: PolicyBody) -> Json:
    """Put a policy in force for a share of new runs, or keep it for later (share 0). Runs that have begun
    keep theirs, but for limits that this one makes tighter. It is rolled back by itself when its runs are
    refused or fail more often than others, unless `watch` is false."""
    return await _stage(ctx, body)


@router.post("/policy/exceptions", status_code=201)
@needs("admin")
async def except_findings(ctx: Ctx, body: ExceptionBody) -> Json:
    """Put the policy in force with one more of `screening.exceptions`: from now on such findings are recorded
    and not acted on."""
    document = shown(ctx.worker.rollout.current.policy)
    screening = dict(document.get("screening") or {})
    made = body.model_dump(exclude_none=True, exclude={"note"})
    screening["exceptions"] = [*(screening.get("exceptions") or []), made]
    document["screening"] = screening
    note = body.note or f"exception {body.name}: {body.detector}, {_listed(body)}"
    return await _stage(ctx, PolicyBody(policy=text_of(document), note=note))


def _listed(body: ExceptionBody) -> str:
    given = (body.channel, body.tool, body.type)
    return ", ".join(value for value in given if value is not None) or "everything"


async def _stage(ctx: Context, body: PolicyBody) -> Json:
    worker = ctx.worker
    try:
        loaded = await asyncio.to_thread(load_text, body.policy, base=worker.source.policy)
        await worker.rollout.ensure(loaded)
    except PolicyError as error:
        raise _invalid(error) from None
    governs = worker.rollout.current.version
    if loaded.version == governs and body.share < 1:
        raise AdminError(409, "conflict", f"Version {governs} governs everything already.")
    at = ctx.now()
    record = PolicyVersion(loaded.version, as_text(loaded), ctx.caller.name, body.note or "", at, body.share)
    await worker.ledger.add_policy_version(record)
    if body.share > 0:
        await worker.ledger.activate_policy(
            loaded.version, share=body.share, by=ctx.caller.name, at=at, watched=body.watch
        )
    await ctx.audit(
        "policy.staged",
        {"version": loaded.version, "share": body.share, "note": body.note, "watch": body.watch},
    )
    await ctx.refresh()
    worker.notify("policy_rollout", {"version": loaded.version, "share": body.share, "by": ctx.caller.name})
    kept = await _existing(ctx, loaded.version)
    return {**version_view(kept), "warnings": [str(warning) for warning in loaded.warnings]}


@router.post("/policy/rollback")
@needs("admin")
async def rollback(ctx: Ctx, body: RollbackBody) -> Json:
    """Let an earlier version govern again, by default the one before; what governed and what was being tried
    stays away until it is sent again. Runs go on under the version that governs then."""
    worker = ctx.worker
    active = await worker.ledger.active_policies()
    part = [version for version in active if version.share < 1]
    whole = [version for version in active if version.share == 1 and version.version != body.version]
    if body.version is not None:
        target = await _existing(ctx, body.version)
        if target.version != worker.source.policy.version:
            try:
                loaded = await asyncio.to_thread(load_kept, target.version, target.text, worker.source.policy)
                await worker.rollout.ensure(loaded)
            except PolicyError as error:
                raise _invalid(error) from None
    why = body.reason or "rolled back by an operator"
    ended = [
        version.version
        for version in [*part, *(whole if body.version is not None or not part else [])]
        if version.version != body.version
        and await worker.rollout.roll_back(version, by=ctx.caller.name, why=why, to=body.version)
    ]
    if not ended:
        raise AdminError(409, "conflict", "There is nothing to roll back, or no version to go back to.")
    return {
        "version": worker.rollout.current.version,
        "rolled_back": ended,
        "versions": [version_view(each) for each in await worker.ledger.active_policies()],
    }


async def _existing(ctx: Context, version: str) -> PolicyVersion:
    found = await ctx.worker.ledger.policy_version(version)
    if found is None:
        raise AdminError(404, "not_found", f"There is no policy version {version!r}.")
    return found


def _invalid(error: PolicyError) -> AdminError:
    mistakes = [str(mistake) for mistake in error.mistakes]
    more = f"; and {len(mistakes) - 10} more" if len(mistakes) > 10 else ""
    return AdminError(400, "invalid_policy", "; ".join(mistakes[:10]) + more)


@router.post("/screen")
@needs("operator")
async def screen(ctx: Ctx, body: ScreenBody) -> Json:
    """What the detectors find in a text, and what the policy would do about it. Nothing is kept or sent."""
    policy = ctx.worker.pipeline.generation.policy.screening
    deeper = None
    if (looks := tiers(body.channel, policy)) is not None:
        try:
            # The classifier lives in the processes beside this one.
            (deeper,) = await ctx.worker.pool.scan(
                [(body.channel, body.text)], looks, deadline(looks, len(body.text))
            )
        except ScanFailed as error:
            problem = f"The classifier gave no verdict ({error.reason})."
            raise AdminError(503, "guardrail_unavailable", problem) from error
    # A long text takes a while.
    return await asyncio.to_thread(screened, body.text, body.channel, policy, deeper)


def _plain(value: Any) -> Any:
    """Numbers of a policy as they were written."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Decimal) else value
