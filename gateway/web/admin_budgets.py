"""Budgets as they stand, and the money that operators add to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Query

from gateway.domain import Json, Millis, Nano, usd
from gateway.policy.sections.callers import EVERYTHING
from gateway.policy.sections.spending import Budget
from gateway.rules.budgets import GLOBAL_ID, counter_key
from gateway.steps.dispatch import Generation
from gateway.web.admin_gate import AdminError, AdminRoute, Context, Ctx, needs
from gateway.web.admin_runs import existing_run
from gateway.web.admin_views import Body, Dollars, Label, Reason, nano, page, stamp_or_none, topup_view

RECENT_MS = 24 * 3_600_000
"""Scopes of budgets without a window are listed when they were seen within so long."""
MOST_SCOPES = 200
"""Scopes listed for one budget; any other is found by its id."""

router = APIRouter(route_class=AdminRoute, tags=["budgets"])


class TopupBody(Body):
    """Money for one budget of one run, session, user and so on."""

    id: Label | None = None
    """Whose budget; a run's id or name; not needed where there is only one."""
    amount_usd: Dollars
    """At most nine places; a negative amount takes back."""
    reason: Reason


@dataclass(frozen=True, slots=True)
class _Account:
    """One budget of one scope."""

    budget: Budget
    id: str
    counter: str
    resets_at: Millis | None


@router.get("/budgets")
@needs("viewer")
async def budgets(
    ctx: Ctx,
    per: Annotated[str | None, Query(max_length=80)] = None,
    scope_id: Annotated[Label | None, Query(alias="id")] = None,
) -> Json:
    """Each budget of the policy, for each scope that was seen recently; with `per` and `id`, for that one."""
    await ctx.flush()
    generation = ctx.worker.pipeline.generation
    now = ctx.now()
    accounts: list[_Account] = []
    for budget in counted(generation):
        if per is not None and per not in (budget.per, budget.per.split(":")[0]):
            continue
        if scope_id is not None and per is not None:
            scopes = await _named(ctx, budget, scope_id)
        else:
            recent = await _recent(ctx, generation, budget, now)
            scopes = [scope for scope in recent if scope_id is None or scope[0] == scope_id]
        accounts += [_account(generation, budget, *scope, now) for scope in scopes]
    states = await ctx.worker.store.counters([account.counter for account in accounts])
    topups = ctx.worker.control.topups
    rows: list[Json] = []
    for account in accounts:
        budget, state = account.budget, states[account.counter]
        narrow = budget.match is not EVERYTHING or budget not in generation.policy.budgets
        if scope_id is None and narrow and not (state.used or state.reserved):
            # A budget that is narrowed, or of a profile, may not be this scope's at all.
            continue
        extra: Nano = topups.get((budget.name, account.id), 0)
        limit = budget.limit_nano + extra
        rows.append(
            {
                "name": budget.name,
                "per": budget.per,
                "id": account.id,
                "window": budget.window,
                "limit_usd": usd(limit),
                "topups_usd": usd(extra),
                "used_usd": usd(state.used),
                "reserved_usd": usd(state.reserved),
                "remaining_usd": usd(max(0, limit - state.used - state.reserved)),
                "resets_at": stamp_or_none(account.resets_at),
                "mode": budget.mode,
                "on_exceed": budget.on_exceed,
            }
        )
    return page(rows)


@router.get("/budgets/{name}/topups")
@needs("viewer")
async def list_topups(
    ctx: Ctx, name: Label, scope_id: Annotated[Label | None, Query(alias="id")] = None
) -> Json:
    """The newest top-ups of a budget, ended ones included."""
    return page([topup_view(t) for t in await ctx.worker.ledger.topups(budget=name, target=scope_id)])


@router.post("/budgets/{name}/topups", status_code=201)
@needs("operator")
async def top_up(ctx: Ctx, name: Label, body: TopupBody) -> Json:
    """Raise a budget for one scope. For a budget with a window it lasts until the window ends."""
    generation = ctx.worker.pipeline.generation
    budget = next((each for each in counted(generation) if each.name == name), None)
    if budget is None:
        raise AdminError(404, "not_found", f"The policy has no budget {name!r} in use.")
    amount = nano(body.amount_usd)
    if amount == 0:
        raise AdminError(400, "invalid_request", "body.amount_usd: expected an amount other than 0")
    target = GLOBAL_ID if budget.per == "global" else body.id
    if target is None:
        raise AdminError(400, "invalid_request", f"body.id: say which {budget.per} to top up")
    if budget.per == "run":
        target = (await existing_run(ctx, target))["id"]
    now = ctx.now()
    windows = generation.rulebook.windows(budget, now)
    topup = await ctx.worker.ledger.add_topup(
        budget=name,
        target=target,
        amount=amount,
        reason=body.reason,
        by=ctx.caller.name,
        at=now,
        expires_at=windows[0].ends_at if windows else None,
    )
    await ctx.refresh()
    await ctx.audit(
        "budget.topup", {"budget": name, "id": target, "amount_usd": usd(amount), "reason": body.reason}
    )
    ctx.worker.notify("topup", {"budget": name, "id": target, "amount_usd": usd(amount)})
    return topup_view(topup)


def counted(generation: Generation) -> list[Budget]:
    """The budgets of a policy that are kept, then those that only profiles have; budgets of tools are not,
    for tools cost nothing."""
    policies = (generation.policy, *map(generation.policy.under, generation.policy.profiles.values()))
    kept: dict[tuple[str, str], Budget] = {}
    for budget in (each for policy in policies for each in policy.budgets):
        if budget.mode != "off" and budget.per != "tool":
            kept.setdefault((budget.name, budget.per), budget)
    return list(kept.values())


def _account(generation: Generation, budget: Budget, scope_id: str, principal: str, now: Millis) -> _Account:
    counter = counter_key(budget.name, budget.per, principal, scope_id)
    windows = generation.rulebook.windows(budget, now)
    if not windows:
        return _Account(budget, scope_id, counter, None)
    return _Account(budget, scope_id, f"{counter}:{windows[0].id}", windows[0].ends_at)


async def _named(ctx: Context, budget: Budget, scope_id: str) -> list[tuple[str, str]]:
    """(scope id, principal) of what an operator named. A session's string may be several callers'."""
    if budget.per == "global":
        return [(GLOBAL_ID, "")]
    if budget.per == "run":
        return [((await existing_run(ctx, scope_id))["id"], "")]
    if budget.per == "session":
        rows, _ = await ctx.worker.ledger.runs(session=scope_id, limit=MOST_SCOPES)
        return list(dict.fromkeys((scope_id, row["principal"] or "") for row in rows))
    return [(scope_id, "")]


async def _recent(ctx: Context, generation: Generation, budget: Budget, now: Millis) -> list[tuple[str, str]]:
    """(scope id, principal) of what a budget has counted lately."""
    per, ledger = budget.per, ctx.worker.ledger
    if per == "global":
        return [(GLOBAL_ID, "")]
    if per in ("run", "session"):
        rows, _ = await ledger.runs(since=now - RECENT_MS, limit=MOST_SCOPES)
        column = "id" if per == "run" else "session"
        found = [(row[column], row["principal"] or "") for row in rows if row[column]]
        return list(dict.fromkeys(found))
    windows = generation.rulebook.windows(budget, now)
    since = min(now - RECENT_MS, int(windows[0].id) * 1000) if windows else now - RECENT_MS
    group, _, tag = per.partition(":")
    sums = await ledger.spend(group, tag=tag or None, since=since)
    return [(row["group"], "") for row in sums if row["group"]][:MOST_SCOPES]
