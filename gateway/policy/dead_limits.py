"""Limits that are never reached, because another one always ends the same calls first: see `dead_rules`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gateway.domain import Surface
from gateway.policy.coverage import MOST_COMPARED, Finding, View, covers, listed
from gateway.policy.document import KeyPath
from gateway.policy.sections.spending import Budget, Rate

_WINDOW_WORDS = {"1h": "hour", "1d": "day", "1w": "week", "1mo": "month"}
_AT_MOST: dict[tuple[str, str], int] = {
    ("1d", "1h"): 25, ("1w", "1h"): 169, ("1mo", "1h"): 745, ("1w", "1d"): 7, ("1mo", "1d"): 31,
    ("1mo", "1w"): 6,
}  # fmt: skip
"""Periods of the second kind that one of the first can touch, in one time zone: a day may have 25 hours."""
NO_AGENT = frozenset({Surface.EMBEDDINGS, Surface.MODERATIONS, Surface.PASSTHROUGH})
"""Calls of these are runs of one step each, without tools, loops or a count of new runs."""


def _holds_fast(budget: Budget) -> bool:
    """Whether nothing passes the budget's limit."""
    return budget.mode == "enforce" and budget.on_exceed in ("stop", "wrap_up", "final_message")


def _contained(view: View, inner: str, outer: str) -> Literal["always", "alone", ""]:
    """Whether all that one scope of the first kind counts, one of the second counts too. `alone`: unless
    runs with a declared parent, which count together, lie in different ones."""
    by_key = view.policy.auth.user_from == "key"
    if inner == outer or outer == "global":
        return "always"
    if inner in ("run", "session") and (outer == "key" or (outer == "user" and by_key)):
        return "always"
    if inner == "key" and outer == "user" and by_key:
        return "always"
    if inner == "run" and outer == "session":
        return "always" if view.policy.runs.children == "own" else "alone"
    return ""


def budgets_outdone(view: View) -> Iterator[Finding]:
    """Budgets that another one always ends first."""
    budgets = view.policy.budgets[:MOST_COMPARED]
    for index, budget in enumerate(budgets):
        if budget.mode == "off" or budget.per == "tool":
            continue
        for other_index, other in enumerate(budgets):
            if other is budget or not _holds_fast(other) or other.per == "tool":
                continue
            if other_index > index and _same_limit(budget, other):
                # Of two that are the same the later one is told.
                continue
            problem = _outdone(view, budget, other, view.named(("budgets", other_index), other.name))
            if problem:
                yield ("budgets", index, "limit_usd"), problem
                break


def _same_limit(one: Budget, other: Budget) -> bool:
    return (
        _holds_fast(one)
        and (one.per, one.window, one.limit_usd, one.match)
        == (other.per, other.window, other.limit_usd, other.match)
        and (one.window is None or one.timezone == other.timezone)
    )


def _outdone(view: View, budget: Budget, other: Budget, named: str) -> str:
    """Why a budget is never the one that stops; empty when it may be."""
    contained = _contained(view, budget.per, other.per)
    if not contained or not covers(other.match, budget.match):
        return ""
    times = _periods(budget, other)
    alone = contained == "alone"
    if times is not None and other.limit_nano * times <= budget.limit_nano:
        ends = f"${other.limit_usd}" + (f" a {_WINDOW_WORDS[other.window]}" if other.window else "")
        if alone:
            ends += ", unless runs with a declared parent lie in several sessions"
        return f"is never reached: budget {named} counts the same calls and ends at {ends}"
    if (
        budget.per == "run"
        and budget.window is None
        and other.window
        and other.limit_nano < budget.limit_nano
    ):
        word = _WINDOW_WORDS[other.window]
        end = f"the end of {'an' if word == 'hour' else 'a'} {word}"
        return (
            f"is reached only by a run that goes on past {end}: budget {named} counts the same calls and "
            f"ends at ${other.limit_usd} a {word}"
        )
    return ""


def _periods(budget: Budget, other: Budget) -> int | None:
    """How many periods of the other one period of this budget touches at most; None when nobody can tell."""
    if other.window is None:
        return 1
    if budget.window is None:
        return None
    if budget.window == other.window:
        return 1 if budget.timezone == other.timezone else 2
    times = _AT_MOST.get((budget.window, other.window))
    if times is None:
        return 2 if _longer(other.window, budget.window) else None
    return times if budget.timezone == other.timezone else times + 1


def _longer(one: str, other: str) -> bool:
    order = tuple(_WINDOW_WORDS)
    return order.index(one) > order.index(other)


_RATE_KINDS = (
    "requests_per_minute", "tokens_per_minute", "max_concurrency", "new_runs_per_minute", "usd_per_minute",
)  # fmt: skip


def rates_outdone(view: View) -> Iterator[Finding]:
    """Limits of rates that another one always reaches first."""
    rates = view.policy.rates[:MOST_COMPARED]
    for index, rate in enumerate(rates):
        if rate.mode == "off" or rate.per == "tool":
            continue
        for kind in _RATE_KINDS:
            limit = getattr(rate, kind)
            if limit is None:
                continue
            found = next(
                (
                    (i, other, theirs)
                    for i, other in enumerate(rates)
                    if (theirs := _tighter(view, rate, other, kind, later=i >= index)) is not None
                ),
                None,
            )
            if found is not None:
                i, other, theirs = found
                whose = (
                    "this rule's own"
                    if other is rate
                    else f"rate {view.named(('rates', i), other.name)}, whose"
                )
                yield ("rates", index, kind), f"is never reached: {whose} {theirs} ends the same calls first"
        surfaces = rate.match.surface
        if rate.new_runs_per_minute and surfaces is not None and set(surfaces) <= NO_AGENT:
            yield ("rates", index, "new_runs_per_minute"), f"has no effect: {listed(surfaces)} begin no runs"


def _tighter(view: View, rate: Rate, other: Rate, kind: str, *, later: bool) -> str | None:
    """The limit of another rate, such as `requests_per_minute 60`, that always comes first; None without."""
    limit = getattr(rate, kind)
    if other is not rate:
        if other.mode != "enforce" or other.per == "tool" or not covers(other.match, rate.match):
            return None
        if _contained(view, rate.per, other.per) != "always":
            return None
        theirs = getattr(other, kind)
        if theirs is not None and (
            theirs < limit or (theirs == limit and not later) or (theirs == limit and rate.per != other.per)
        ):
            return f"{kind} {theirs}"
    elif rate.mode != "enforce":
        return None
    requests = other.requests_per_minute
    # A run begins with a request.
    if kind == "new_runs_per_minute" and requests is not None and requests <= limit:
        return f"requests_per_minute {requests}"
    return None


def quotas_outdone(view: View) -> Iterator[Finding]:
    """Limits on a tool's calls in a run that its run or its session reaches first."""
    policy = view.policy
    runs = policy.runs
    bound = runs.max_tool_calls if runs.mode == "enforce" and runs.on_exceed in _ENDS else None
    share = ", unless runs with a declared parent count together" if runs.children == "share" else ""
    for name, own in policy.tools.items():
        tool = policy.tool(name)
        if tool.mode == "off" or not tool.allow:
            continue
        per_run, per_session = tool.max_calls_per_run, tool.max_calls_per_session
        written = own.model_fields_set
        path: KeyPath = ("tools", name)
        if per_run is None or "max_calls_per_run" not in written:
            continue
        here = (*path, "max_calls_per_run")
        if bound is not None and per_run > bound:
            limit = view.at(("runs", "max_tool_calls"))
            yield here, f"is never reached: {limit} lets a run make {bound} tool calls in all{share}"
        elif per_session is not None and per_session < per_run and tool.mode == "enforce":
            whose = "tools.defaults" if "max_calls_per_session" not in written else "tools." + name[:64]
            yield here, f"is never reached: by {whose} a whole session may make {per_session} calls{share}"


_ENDS = ("stop", "wrap_up", "final_message")
