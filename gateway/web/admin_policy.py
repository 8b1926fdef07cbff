"""The policy in force, checking another one, and what is answered where a later release will do more."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from pydantic import Field

from gateway.domain import Json
from gateway.policy.loading import load_text
from gateway.policy.messages import PolicyError
from gateway.policy.sent import shown
from gateway.screening.pool import ScanFailed
from gateway.screening.report import screened, tiers
from gateway.screens import deadline
from gateway.web.admin_gate import AdminError, AdminRoute, Ctx, needs
from gateway.web.admin_views import Body, Label, Reason, page, stamp, stamp_or_none, version_view

router = APIRouter(route_class=AdminRoute, tags=["policy"])


class PolicyBody(Body):
    """A policy as YAML text."""

    policy: Annotated[str, Field(max_length=1_000_000)]
    note: Reason | None = None
    share: Annotated[float, Field(ge=0, le=1)] = 1.0


class RollbackBody(Body):
    """Which version is to govern again."""

    version: Label


class ScreenBody(Body):
    """A text to be screened."""

    text: Annotated[str, Field(max_length=1_000_000)]
    channel: Literal["user", "tool", "output"] = "user"


def not_yet(what: str) -> AdminError:
    """The answer where a later release will do more."""
    return AdminError(501, "not_available", f"{what} is not available in this version.")


@router.get("/policy")
@needs("viewer")
async def policy(ctx: Ctx) -> Json:
    """The policy in force, with secrets hidden and references unexpanded, and how its files stand."""
    source = ctx.worker.source
    status, current = source.status(), source.policy
    return {
        "version": ctx.worker.pipeline.generation.version,
        "source": str(ctx.worker.settings.policy),
        "generation": status.generation,
        "loaded_at": stamp(status.loaded_at),
        "healthy": status.healthy,
        "error": status.last_error,
        "failing_since": stamp_or_none(status.failing_since),
        "warnings": [str(warning) for warning in current.warnings],
        "policy": _plain(shown(current)),
    }


@router.get("/policy/versions")
@needs("viewer")
async def versions(ctx: Ctx, limit: Annotated[int, Query(ge=1, le=500)] = 100) -> Json:
    """Versions that were sent, newest first, after the one that the files hold."""
    status = ctx.worker.source.status()
    sent = await ctx.worker.ledger.policy_versions(limit=limit)
    from_files: Json = {
        "version": status.version,
        "author": "files",
        "note": str(ctx.worker.settings.policy),
        "at": stamp(status.loaded_at),
        "share": 1.0,
        "active": status.version == ctx.worker.pipeline.generation.version,
        "activated_at": stamp(status.loaded_at),
        "activated_by": "files",
    }
    return page([from_files, *(version_view(each) for each in sent if each.version != status.version)])


@router.get("/policy/versions/{version}/diff")
@needs("viewer")
async def diff(ctx: Ctx, version: Label) -> Json:
    """What a version changes."""
    raise not_yet("Comparing policy versions")


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


@router.post("/policy")
@needs("admin")
async def stage(ctx: Ctx, body: PolicyBody) -> Json:
    """Put a policy in force."""
    raise not_yet("Staging a policy through the API")


@router.post("/policy/rollback")
@needs("admin")
async def rollback(ctx: Ctx, body: RollbackBody) -> Json:
    """Go back to an earlier policy."""
    raise not_yet("Rolling a policy back through the API")


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
