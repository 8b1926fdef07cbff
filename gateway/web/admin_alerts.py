"""Alerts: what became of deliveries, what waits, and whether a receiver can be reached."""

from __future__ import annotations

import asyncio
import logging
from typing import Annotated

from fastapi import APIRouter, Query

from gateway.domain import Json
from gateway.stores.ledger_alerts import Delivery, DeliveryState
from gateway.web.admin_gate import AdminError, AdminRoute, Ctx, needs
from gateway.web.admin_views import Label, page, stamp, stamp_or_none

log = logging.getLogger("gateway.admin")

ANSWER_S = 5.0
"""How long a test is waited for."""
_LOOK_S = 0.1

router = APIRouter(route_class=AdminRoute, tags=["alerts"])


@router.get("/alerts")
@needs("viewer")
async def deliveries(
    ctx: Ctx,
    state: DeliveryState | None = None,
    alert: Label | None = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 50,
    cursor: Annotated[str | None, Query(max_length=1024)] = None,
) -> Json:
    """Deliveries, newest first: what waits, and the last week's others."""
    found, following = await ctx.worker.ledger.alert_deliveries(
        state=state, alert=alert, limit=limit, cursor=cursor
    )
    return page([_view(delivery) for delivery in found], following)


@router.get("/alerts/receivers")
@needs("viewer")
async def receivers(ctx: Ctx) -> Json:
    """The policy's alerts with what waits for each; never where they lead."""
    waiting = await ctx.worker.ledger.waiting_alerts()
    rows = []
    for rule in ctx.worker.pipeline.generation.policy.alerts:
        queue = waiting.get(rule.name)
        rows.append(
            {
                "name": rule.name,
                "on": list(rule.on),
                "format": rule.format,
                "mode": rule.mode,
                "waiting": queue.deliveries if queue is not None else 0,
                "oldest_at": stamp_or_none(queue.oldest_at if queue is not None else None),
                "next_at": stamp_or_none(queue.next_at if queue is not None else None),
            }
        )
    return page(rows)


@router.post("/alerts/{name}/test")
@needs("operator")
async def send_test(ctx: Ctx, name: Label) -> Json:
    """Send an event `test` and wait up to five seconds for what becomes of it."""
    rule = next((rule for rule in ctx.worker.pipeline.generation.policy.alerts if rule.name == name), None)
    if rule is None:
        raise AdminError(404, "not_found", f"The policy has no alert {name!r}.")
    if rule.mode != "enforce":
        raise AdminError(409, "conflict", f"The alert {name!r} has mode {rule.mode}: it sends nothing.")
    event = await ctx.worker.alerts.test(rule, ctx.caller.name)
    await ctx.audit("alert.test", {"alert": rule.name, "event": event})
    log.info("%s tests alert %s", ctx.caller.name, rule.name)
    loop = asyncio.get_running_loop()
    until = loop.time() + ANSWER_S
    while True:
        (delivery, *_), _ = await ctx.worker.ledger.alert_deliveries(event=event, limit=1)
        if delivery.state != "pending" or delivery.attempts or loop.time() >= until:
            return _view(delivery)
        await asyncio.sleep(_LOOK_S)


def _view(delivery: Delivery) -> Json:
    return {
        "id": delivery.event,
        "event": delivery.kind,
        "alert": delivery.alert,
        "state": delivery.state,
        "attempts": delivery.attempts,
        "created_at": stamp(delivery.created_at),
        "next_at": stamp(delivery.next_at) if delivery.state == "pending" else None,
        "done_at": stamp_or_none(delivery.done_at),
        "error": delivery.error,
    }
