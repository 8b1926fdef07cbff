"""The audit log: what operators changed and what the gateway decided, and whether it is whole."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from gateway.domain import Json
from gateway.web.admin_gate import AdminRoute, Ctx, needs
from gateway.web.admin_views import Body, Label, Moment, Reason, audit_view, page, read_moment

router = APIRouter(route_class=AdminRoute, tags=["audit"])


class AcceptBody(Body):
    """Why steps that no record answers for are taken as they are."""

    reason: Reason


@router.get("/audit")
@needs("viewer")
async def audit(
    ctx: Ctx,
    order: Literal["desc", "asc"] = "desc",
    action: Annotated[str | None, Query(pattern=r"^!?[A-Za-z0-9._-]{1,80}\*?$")] = None,
    actor: Label | None = None,
    since: Moment | None = None,
    run: Label | None = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    cursor: Annotated[str | None, Query(pattern=r"^\d{1,15}$")] = None,
) -> Json:
    """The audit log, newest first unless `order=asc`. `action` may end in `*`, as `key.*`, or begin with `!`
    for all others; `run` is the id of a run that a record names."""
    records = await ctx.worker.ledger.audit_list(
        after=int(cursor or 0),
        limit=limit,
        newest_first=order == "desc",
        action=action,
        actor=actor,
        since=read_moment(since, datetime.fromtimestamp(ctx.now() / 1000, UTC))
        if since is not None
        else None,
        run=run,
    )
    more = len(records) == limit and not (order == "desc" and records[-1].seq == 1)
    return page([audit_view(record) for record in records], str(records[-1].seq) if more else None)


@router.get("/audit/head")
@needs("viewer")
async def head(ctx: Ctx) -> Json:
    """Number and hash of the last record, to be noted where nobody who can write to the ledger can."""
    seq, digest = await ctx.worker.ledger.audit_head()
    return {"records": seq, "head": digest}


@router.get("/audit/verify")
@needs("viewer")
async def verify_audit(ctx: Ctx, steps: bool = True) -> Json:
    """Check the whole chain, and each step's figures against it: `ok`, how many records, the hash of the
    last, and where it is broken. `steps=false` leaves the steps out."""
    check = await ctx.worker.ledger.audit_verify(steps=steps)
    if not check.ok:
        ctx.worker.notify("audit_failed", {"reason": check.reason, "error": check.reason})
    return {
        "ok": check.ok,
        "records": check.records,
        "head": check.head,
        "broken_at": check.broken_at,
        "reason": check.reason,
        "steps": check.steps if steps else None,
    }


@router.post("/audit/accept")
@needs("admin")
async def accept(ctx: Ctx, body: AcceptBody) -> Json:
    """Take all steps that no record answers for as they are; the record that says so is the answer."""
    record = await ctx.worker.ledger.audit_accept(by=ctx.caller.name, reason=body.reason, at=ctx.now())
    return audit_view(record)
