"""Routing rules that never send a step elsewhere: see `dead_rules`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import cast, get_args

from gateway.domain import Surface
from gateway.policy.coverage import (
    FRESH,
    MADE,
    MOST_COMPARED,
    Finding,
    View,
    covers,
    other_provider,
    patterns_within,
    within,
)
from gateway.policy.document import KeyPath
from gateway.policy.sections.callers import model_allowed
from gateway.policy.sections.routing import Between, RoutingRule, StepKind

NO_STEPS = frozenset(Surface) - {Surface.CHAT, Surface.RESPONSES, Surface.MESSAGES}
"""Surfaces whose calls are never routed."""


@dataclass(frozen=True, slots=True)
class _Case:
    """A kind of step: every rule that takes one step of the kind takes them all."""

    kind: str
    model: str
    tokens: int
    tools: int
    tags: frozenset[str]
    key: str
    user: str
    team: str
    agent: str
    surface: Surface
    share: float | None
    """Of the run's own budget; None without one."""

    def taken_by(self, rule: RoutingRule) -> bool:
        """Whether a rule is about such steps, as `gateway.rules.routing` would find."""
        when, match = rule.when, rule.match
        return (
            (when.step is None or self.kind in when.step)
            and (when.model is None or model_allowed(when.model, self.model))
            and _holds(when.tokens, self.tokens)
            and _holds(when.tools, self.tools)
            and (when.tag is None or bool(self.tags.intersection(when.tag)))
            and (when.budget_used is None or (self.share is not None and self.share >= when.budget_used))
            and (match.key is None or self.key in match.key)
            and (match.user is None or self.user in match.user)
            and (match.team is None or self.team in match.team)
            and (match.agent is None or self.agent in match.agent)
            and (match.surface is None or self.surface in match.surface)
            and (match.model is None or model_allowed(match.model, self.model))
            and (match.tag is None or bool(self.tags.intersection(match.tag)))
        )


def _holds(between: Between | None, value: int) -> bool:
    return between is None or (
        (between.min is None or value >= between.min) and (between.max is None or value <= between.max)
    )


_KINDS: tuple[str, ...] = get_args(StepKind)
_STEP_SURFACES = tuple(surface for surface in Surface if surface not in NO_STEPS)


def _points(own: Between | None, others: Sequence[Between | None]) -> list[int]:
    """Numbers inside `own`, one of which lies outside of all others if any number does."""
    least = (own.min if own is not None else None) or 0
    ends = {least} | {other.max + 1 for other in others if other is not None and other.max is not None}
    return sorted(n for n in ends if n >= least and _holds(own, n))


def _tag_sets(rule: RoutingRule) -> list[frozenset[str]]:
    """The smallest sets of tags with which a step can be the rule's: more tags only suit more other rules.
    A step has one value of each tag."""
    sets = []
    for pair in product(rule.when.tag or (None,), rule.match.tag or (None,)):
        tags = frozenset(tag for tag in pair if tag is not None)
        if len({tag.partition("=")[0] for tag in tags}) == len(tags):
            sets.append(tags)
    return list(dict.fromkeys(sets))


def _models_of(view: View, rule: RoutingRule) -> list[str]:
    """Names of models that the rule may be asked about, one for each kind of name."""
    limits = [each for each in (rule.when.model, rule.match.model) if each is not None]
    offered = [*view.policy.models, "sim/*"]
    names = [entry for entry in offered if not entry.endswith("*")]
    starts = [entry[:-1] for entry in offered if entry.endswith("*")]
    wanted = {pattern for limit in limits for pattern in limit}
    names += [pattern for pattern in wanted if not pattern.endswith("*")]
    for start in {*starts, *(pattern[:-1] for pattern in wanted if pattern.endswith("*"))}:
        names.append(start + FRESH)
    return [
        name
        for name in dict.fromkeys(names)
        if all(model_allowed(limit, name) for limit in limits) and model_allowed(offered, name)
    ]


def _cases(view: View, rule: RoutingRule, before: Sequence[RoutingRule]) -> list[_Case] | None:
    """Every kind of step that the rule takes by itself; None when there are too many."""
    when, match = rule.when, rule.match
    share = when.budget_used
    models = _models_of(view, rule)
    dimensions: tuple[Sequence[object], ...] = (
        when.step or _KINDS,
        models,
        _points(when.tokens, [other.when.tokens for other in before]),
        _points(when.tools, [other.when.tools for other in before]),
        _tag_sets(rule),
        match.key or (FRESH,),
        match.user or (FRESH,),
        match.team or (FRESH,),
        match.agent or (FRESH,),
        match.surface or _STEP_SURFACES,
    )
    size = 1
    for dimension in dimensions:
        size *= len(dimension)
    if size * (len(before) + 1) > view.cases_left:
        return None
    view.cases_left -= size * (len(before) + 1)
    cases = cast(
        "Iterator[tuple[str, str, int, int, frozenset[str], str, str, str, str, Surface]]",
        product(*dimensions),
    )
    return [_Case(*case, share) for case in cases if case[-1] not in NO_STEPS]


def _takes_all(outer: RoutingRule, inner: RoutingRule) -> bool:
    """Whether a rule takes every step that another one would."""
    when, own = outer.when, inner.when
    return (
        covers(outer.match, inner.match)
        and within(own.step or _KINDS, when.step)
        and patterns_within(own.model, when.model)
        and _inside(own.tokens, when.tokens)
        and _inside(own.tools, when.tools)
        and within(own.tag, when.tag)
        and (when.budget_used is None or (own.budget_used or 0) >= when.budget_used)
    )


def _inside(inner: Between | None, outer: Between | None) -> bool:
    if outer is None:
        return True
    least = (inner.min if inner is not None else None) or 0
    most = inner.max if inner is not None else None
    return least >= (outer.min or 0) and (outer.max is None or (most is not None and most <= outer.max))


def order(view: View) -> Iterator[Finding]:
    """Rules whose steps are all decided by rules before them: the first that matches decides."""
    rules = view.policy.routing.rules[:MOST_COMPARED]
    for index, rule in enumerate(rules):
        path: KeyPath = ("routing", "rules", index)
        if rule.mode == "off":
            continue
        before = [(i, other) for i, other in enumerate(rules[:index]) if other.mode != "off"]
        cases = _cases(view, rule, [other for _, other in before])
        if cases == []:
            yield path, "can never fire: what it says in when and match cannot hold together"
            continue
        single = next((pair for pair in before if _takes_all(pair[1], rule)), None)
        blocking: list[tuple[int, RoutingRule]] | None = [single] if single is not None else None
        if blocking is None and cases is not None:
            blocking = _together(cases, before)
        if blocking:
            shown = ", ".join(
                view.named(("routing", "rules", i), other.name) for i, other in blocking[:3]
            ) + (" and others" if len(blocking) > 3 else "")
            how = "takes" if len(blocking) == 1 else "together take"
            shadow = len(blocking) == 1 and blocking[0][1].mode == "shadow" and rule.mode == "enforce"
            more = " A rule in shadow decides too, it only does not act." if shadow else ""
            yield path, f"can never fire: {shown}, before it, {how} all of its steps.{more}"


def _together(
    cases: Sequence[_Case], before: Sequence[tuple[int, RoutingRule]]
) -> list[tuple[int, RoutingRule]] | None:
    """The rules that take all cases, the first for each; None when a case is left."""
    used: dict[int, RoutingRule] = {}
    for case in cases:
        first = next(((i, other) for i, other in before if case.taken_by(other)), None)
        if first is None:
            return None
        used[first[0]] = first[1]
    return sorted(used.items())


def rules_alone(view: View) -> Iterator[Finding]:
    """Routing rules that take steps and never send one elsewhere."""
    policy = view.policy
    for index, rule in enumerate(policy.routing.rules):
        path: KeyPath = ("routing", "rules", index)
        if rule.mode == "off":
            continue
        asked = rule.when.model
        if rule.hold_out == 1:
            yield (*path, "hold_out"), "leaves every run as it is, so the rule never acts"
        elif asked is not None and set(asked) == {rule.use} and set(rule.split) <= {rule.use}:
            yield (*path, "use"), "is the only model of when.model, so the rule changes nothing"
        else:
            yield from _unable(view, path, rule)
        if rule.when.budget_used is not None and not any(
            budget.per == "run" and budget.mode == "enforce" for budget in policy.budgets
        ):
            here = (*path, "when", "budget_used")
            yield here, "never holds: no enforced budget is per: run, so no share of one is used"
        if rule.on_bad_answer == "deliver":
            for name in ("final_answers", "max_escalations"):
                if name in rule.model_fields_set and getattr(rule, name) != "deliver":
                    yield (*path, name), "has no effect: on_bad_answer is deliver, so nothing is escalated"


def _unable(view: View, path: KeyPath, rule: RoutingRule) -> Iterator[Finding]:
    """Why `use` can take none of the steps."""
    policy, when = view.policy, rule.when
    target, asked = policy.find_model(rule.use), when.model
    if target is None or rule.split:
        return
    tools = when.tools.min if when.tools is not None else None
    if "tools" in target.model.lacks and tools:
        yield (*path, "use"), f"lacks tools, and every step of this rule offers at least {tools}"
    window, tokens = target.model.context_window, when.tokens.min if when.tokens is not None else None
    if window is not None and tokens is not None and tokens > window:
        yield (*path, "use"), f"reads {window:,} tokens, and every step of this rule has at least {tokens:,}"
    if policy.auth.mode == "passthrough" and target.provider_name != policy.auth.provider:
        yield (*path, "use"), other_provider(target.provider_name, policy)
    elif rule.only_if_cheaper and asked is not None and target.model.price != "free":
        found = [policy.find_model(name) for name in asked if not name.endswith("*")]
        if len(found) == len(asked) and all(
            each is not None and each.model.price == "free" for each in found
        ):
            yield (
                (*path, "only_if_cheaper"),
                "keeps every step where it is: the models of when.model are free",
            )
    if view.no_key_reaches(rule.use):
        problem = f"is among the models of no key in this file, so their steps stay where they are{MADE}"
        yield (*path, "use"), problem
