"""Tool calls that wait for an operator: see them, allow or deny each once."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

from fastapi import APIRouter, Query

from gateway.domain import Json
from gateway.stores.ledger_approvals import ApprovalRecord, ApprovalState
from gateway.web.admin_gate import AdminError, AdminRoute, Ctx, needs
from gateway.web.admin_views import Body, Label, Reason, approval_view, page, stamp

log = logging.getLogger("gateway.admin")

router = APIRouter(route_class=AdminRoute, tags=["approvals"])


class ApprovalBody(Body):
    """A decision over a held tool call. The reason of a denial is told to the agent."""

    decision: Literal["approve", "deny"]
    reason: Reason


@router.get("/approvals")
@needs("viewer")
async def approvals(
    ctx: Ctx,
    state: ApprovalState | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Json:
    """Tool calls that needed a decision, newest first; `state=pending` are those that wait for one."""
    rows, following = await ctx.worker.ledger.approvals(ctx.now(), state=state, limit=limit, cursor=cursor)
    return page([approval_view(each) for each in rows], following)


@router.get("/approvals/{approval}")
@needs("viewer")
async def one_approval(ctx: Ctx, approval: Label) -> Json:
    """One tool call with its decision."""
    record = await ctx.worker.ledger.approval(approval)
    if record is None:
        raise _unknown(approval)
    return approval_view(record.standing(ctx.now()))


@router.post("/approvals/{approval}")
@needs("operator")
async def decide(ctx: Ctx, approval: Label, body: ApprovalBody) -> Json:
    """Approve or deny a held tool call. The first decision counts: 409 tells the one that stands."""
    found = await ctx.worker.ledger.decide_approval(
        approval,
        "approved" if body.decision == "approve" else "denied",
        by=ctx.caller.name,
        at=ctx.now(),
        reason=body.reason,
    )
    if found is None:
        raise _unknown(approval)
    record, decided_now = found
    if not decided_now:
        raise AdminError(409, "already_decided", _standing(record))
    ctx.worker.approvals.decided(record)
    ctx.worker.notify(
        "approval_decided",
        {
            "approval": record.id,
            "state": record.state,
            "by": record.decided_by,
            "reason": record.reason,
            "tool": record.tool,
            "run": record.run,
        },
    )
    log.warning("%s %s %s of run %s", ctx.caller.name, record.state, record.tool, record.run)
    return approval_view(record)


def _unknown(approval: str) -> AdminError:
    return AdminError(404, "not_found", f"There is no tool call {approval!r} to decide about.")


def _standing(record: ApprovalRecord) -> str:
    if record.decided_by is None or record.decided_at is None:
        return f"It expired at {stamp(record.expires_at)}; the agent has to ask again."
    expired = ", and expired since" if record.state == "expired" else ""
    decision = "approved" if record.state != "denied" else "denied"
    return (
        f"It was {decision} by {record.decided_by} at {stamp(record.decided_at)}{expired}. "
        f"Reason: {record.reason}"
    )
