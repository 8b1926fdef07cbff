"""Rules that are valid and can never fire, that contradict each other, or that another rule makes pointless.

Each finding is a sentence at the place of the rule, and names the other rule with its own place. Only what
follows from the policy alone is said: what operators add while the gateway runs (keys, top-ups, kills) is
reckoned with, or named in the sentence. Pure: a checked policy and its document in, sentences out.

    covered        every call that a rule is about is decided by rules before it, or narrowed to nothing
    not reached    another limit that counts the same calls always ends them first
    no effect      what it says needs something that the policy has not, or has switched off
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

from gateway.domain import Surface
from gateway.policy.coverage import MADE, Finding, View, listed, other_provider
from gateway.policy.dead_limits import NO_AGENT, budgets_outdone, quotas_outdone, rates_outdone
from gateway.policy.dead_routing import NO_STEPS, order, rules_alone
from gateway.policy.document import Document, KeyPath, value_at
from gateway.policy.messages import mistake_at, quoted
from gateway.policy.models import Policy
from gateway.policy.sections.callers import EVERYTHING, Match
from gateway.policy.sections.loops import LOOP_RULES
from gateway.policy.sections.operations import Alert
from gateway.policy.sections.screening import Screen
from gateway.policy.sections.tools import Tool

MOST_FINDINGS = 50
_LEVELS = ("safe", "moderate", "dangerous")
_NO_TOOLS = NO_AGENT | {Surface.COMPLETIONS}


def warnings(document: Document, policy: Policy) -> Iterator[str]:
    """A sentence with its place for each finding, at most `MOST_FINDINGS` and a last one that says so."""
    view = View(document, policy)
    found = (finding for check in CHECKS for finding in check(view))
    for path, problem in islice(found, MOST_FINDINGS):
        yield str(mistake_at(document, path, problem))
    if next(found, None) is not None:
        yield f"{document.file}: there are more rules without effect than these {MOST_FINDINGS}"


# -- who and what a rule is narrowed to ----------------------------------------------------------------


def _matches(view: View) -> Iterator[tuple[KeyPath, Match, str]]:
    """Every `match` of a rule that is on, with its path and what kind of rule it is."""
    policy = view.policy
    for section in ("budgets", "rates"):
        for index, rule in enumerate(getattr(policy, section)):
            if rule.mode != "off":
                yield (section, index, "match"), rule.match, section
    for index, each in enumerate(policy.routing.rules):
        if each.mode != "off":
            yield ("routing", "rules", index, "match"), each.match, "routing"
    for name, tool in policy.tools.items():
        if tool.mode != "off":
            yield ("tools", name, "match"), tool.match, "tools"
    if policy.loops is not None and policy.loops.mode != "off":
        yield ("loops", "match"), policy.loops.match, "loops"
    for key in ("injection", "pii", "secrets", "links", "leak", "moderation"):
        screen = getattr(policy.screening, key)
        if screen is not None and screen.mode != "off":
            yield ("screening", key, "match"), screen.match, "screening"
    for key in ("exact", "semantic"):
        cache = getattr(policy.cache, key)
        if cache is not None and cache.mode != "off":
            yield ("cache", key, "match"), cache.match, "cache"
    if policy.context is not None and policy.context.mode != "off":
        yield ("context", "match"), policy.context.match, "context"
    for index, alert in _alerts(view):
        yield ("alerts", index, "match"), alert.match, "alerts"


def _alerts(view: View) -> Iterator[tuple[int, Alert]]:
    """Alerts that can be sent, each with its index in the document."""
    written = value_at(view.document.data, ("alerts",))
    names = (
        [each.get("name") if isinstance(each, dict) else None for each in written]
        if isinstance(written, list)
        else []
    )
    for alert in view.policy.alerts:
        if alert.mode != "off" and alert.name in names:
            yield names.index(alert.name), alert


_BLIND = {"loops": NO_AGENT, "tools": _NO_TOOLS, "routing": NO_STEPS}


def _nobody(view: View) -> Iterator[Finding]:
    """Keys, users, teams and surfaces that no call can have."""
    policy = view.policy
    known: dict[str, set[str]] = {"key": set(), "user": set(), "team": set()}
    where = ""
    if view.by_key:
        where = "no key in this file"
        for key in policy.keys:
            known["key"].add(key.name)
            known["user"].add(key.user or key.name)
            if key.team is not None:
                known["team"].add(key.team)
    elif view.mode == "open":
        where = "auth.mode is open: every caller"
        known["key"] = known["user"] = {"local"}
    for path, match, section in _matches(view):
        for trait in ("key", "user", "team"):
            wanted = getattr(match, trait)
            if wanted is None or not where or (trait == "user" and policy.auth.user_from != "key"):
                continue
            missing = [i for i, name in enumerate(wanted) if name not in known[trait]]
            for i in missing:
                here = (*path, trait, i) if len(wanted) > 1 else (*path, trait)
                yield here, _absent(view, trait, wanted[i])
        surfaces = match.surface
        blind = _BLIND.get(section)
        if surfaces is not None and blind is not None and set(surfaces) <= blind:
            yield (*path, "surface"), f"never holds: {section} are not about {listed(surfaces)}"


def _absent(view: View, trait: str, name: str) -> str:
    if view.mode == "open":
        is_ = "has no team" if trait == "team" else 'is "local"'
        return f"got {quoted(name)}, which is nobody: auth.mode is open, and every caller {is_}"
    what = {"key": "is named", "user": "has the user", "team": "has the team"}[trait]
    return f"no key in this file {what} {quoted(name)}; it holds only for keys made by the admin API"


def _without_team(view: View) -> Iterator[Finding]:
    policy = view.policy
    if view.mode == "open":
        why = "auth.mode is open, and its one caller has no team"
    elif view.mode == "passthrough":
        why = "auth.mode is passthrough, and its callers have no team"
    elif view.by_key and not any(key.team for key in policy.keys):
        why = f"no key in this file has a team{MADE}"
    else:
        return
    for section in ("budgets", "rates"):
        for index, rule in enumerate(getattr(policy, section)):
            if rule.per == "team" and rule.mode != "off":
                yield (section, index, "per"), f"counts nothing: {why}"


def _models(view: View) -> Iterator[Finding]:
    """Models and fallbacks that no caller can be served by."""
    policy = view.policy
    for name, model in policy.models.items():
        path: KeyPath = ("models", name)
        if policy.auth.mode == "passthrough" and model.provider != policy.auth.provider:
            yield (*path, "provider"), other_provider(model.provider, policy)
            continue
        for index, other in enumerate(model.fallbacks):
            here = (*path, "fallbacks", index)
            target = policy.find_model(other)
            if other in model.fallbacks[:index]:
                yield here, f"is tried already: {quoted(other)} stands before it"
            elif (
                policy.auth.mode == "passthrough"
                and target is not None
                and target.provider_name != policy.auth.provider
            ):
                yield here, other_provider(target.provider_name, policy)
            elif view.no_key_reaches(other):
                yield (
                    here,
                    f"is never tried: {quoted(other)} is among the models of no key in this file{MADE}",
                )


# -- tools ---------------------------------------------------------------------------------------------


_OF_CALLS = (
    "after", "arguments", "max_calls_per_run", "max_calls_per_session", "max_calls_per_minute",
    "requires_approval", "on_invalid", "on_open", "on_drift", "on_tainted", "breaker", "timeout_seconds",
    "restore", "shared",
)  # fmt: skip
"""What a contract says about calls that are made."""


def _is_forbidden(tool: Tool) -> bool:
    return tool.mode == "enforce" and not tool.allow


def _tools(view: View) -> Iterator[Finding]:
    policy = view.policy
    for name, own in policy.tools.items():
        tool, path = policy.tool(name), ("tools", name)
        written = own.model_fields_set
        if name == "defaults":
            continue
        if tool.mode == "off":
            if own.allow is False and "allow" in written:
                yield (*path, "allow"), "forbids nothing: the mode of this tool is off"
            if own.requires_approval:
                yield (*path, "requires_approval"), "holds no call: the mode of this tool is off"
            continue
        if _is_forbidden(tool) and "allow" in written:
            for key in _OF_CALLS:
                # With a `match` the contract holds for some calls, and so does its `allow`.
                if key in written and getattr(own, key) not in (None, False, (), {}):
                    yield (*path, key), "has no effect: allow is false, so the tool is never called"
            continue
        if _is_forbidden(tool):
            continue
        yield from _after_forbidden(view, path, tool, written)
        yield from _above_all_keys(view, path, tool)
        if own.restore and not _pseudonymises(policy):
            problem = "has nothing to restore: screening.pii is not enforced with action pseudonymise"
            yield (*path, "restore"), problem


def _after_forbidden(view: View, path: KeyPath, tool: Tool, written: set[str]) -> Iterator[Finding]:
    if tool.mode != "enforce":
        return
    policy = view.policy
    place = path if "after" in written else ("tools", "defaults")
    for index, other in enumerate(tool.after):
        first = policy.tool(other)
        if not (_is_forbidden(first) and first.match == EVERYTHING):
            continue
        narrowed = other in policy.tools and policy.tool("defaults").match != EVERYTHING
        if narrowed:
            continue
        entry = other if "allow" in policy.tools.get(other, Tool()).model_fields_set else "defaults"
        why = view.at(("tools", entry, "allow"))
        here = (*place, "after", index)
        tool_name = quoted(str(path[-1]))
        problem = f"{tool_name} can never be called: {quoted(other)}, which must come first, is forbidden by"
        yield here, f"{problem} {why}"


def _above_all_keys(view: View, path: KeyPath, tool: Tool) -> Iterator[Finding]:
    """A tool too dangerous for every key of the file."""
    policy = view.policy
    if (
        not view.by_key
        or tool.mode != "enforce"
        or "level" not in policy.tools[str(path[-1])].model_fields_set
    ):
        return
    most = max(_LEVELS.index(key.max_tool_level) for key in policy.keys)
    if _LEVELS.index(tool.level) > most:
        yield (
            (*path, "level"),
            f"is above the max_tool_level of every key in this file, at most {_LEVELS[most]}{MADE}",
        )


def _pseudonymises(policy: Policy) -> bool:
    pii = policy.screening.pii
    if pii is None or pii.mode != "enforce":
        return False
    named = [one.action for one in (pii.user, pii.tool) if one is not None]
    return "pseudonymise" in (pii.action, *named)


def _final_tools(view: View) -> Iterator[Finding]:
    policy = view.policy
    runs = policy.runs
    if "final_tools" not in runs.model_fields_set or not policy.governs_tools:
        return
    for index, name in enumerate(runs.final_tools):
        tool = policy.tool(name)
        if _is_forbidden(tool) and tool.match == EVERYTHING:
            entry = name if "allow" in policy.tools.get(name, Tool()).model_fields_set else "defaults"
            why = view.at(("tools", entry, "allow"))
            yield (
                ("runs", "final_tools", index),
                f"contradicts {why}: the tool is forbidden, so no answer comes by it",
            )


def _approvals(view: View) -> Iterator[Finding]:
    policy = view.policy
    if "approvals" in policy.model_fields_set and not _asks(policy):
        yield ("approvals",), "not used: no tool needs an approval"


def _asks(policy: Policy) -> bool:
    """Whether some call may wait for an operator."""
    return any(
        tool.mode == "enforce" and tool.allow and (tool.needs_approval or tool.on_tainted == "approve")
        for tool in map(policy.tool, policy.tools)
    )


# -- runs and loops ------------------------------------------------------------------------------------


def _lands(policy: Policy) -> bool:
    loops = policy.loops
    ladders = loops.ladders().values() if loops is not None and loops.mode == "enforce" else ()
    return (
        any(budget.on_exceed == "wrap_up" and budget.mode == "enforce" for budget in policy.budgets)
        or (policy.runs.mode == "enforce" and policy.runs.on_exceed == "wrap_up")
        or any(action == "wrap_up" for ladder in ladders for _, action in ladder)
    )


_RUN_LIMITS = ("max_steps", "max_wall_clock_s", "max_tool_calls", "max_tokens")


def _runs(view: View) -> Iterator[Finding]:
    policy = view.policy
    runs = policy.runs
    written = runs.model_fields_set
    if "landing" in written and not _lands(policy):
        yield ("runs", "landing"), "not used: nothing says wrap_up"
    if "on_exceed" in written and all(getattr(runs, limit) is None for limit in _RUN_LIMITS):
        yield ("runs", "on_exceed"), f"not used: there is none of {listed(_RUN_LIMITS)}"


def _loops(view: View) -> Iterator[Finding]:
    policy = view.policy
    loops = policy.loops
    if loops is None or loops.mode == "off":
        return
    if not loops.ladders():
        yield ("loops",), f"finds nothing: {listed(LOOP_RULES)} are all null"
        return
    plain = [name for name in LOOP_RULES if isinstance(getattr(loops, name), int)]
    if "on_detect" in loops.model_fields_set and not plain:
        yield ("loops", "on_detect"), "not used: every rule is a ladder with actions of its own"
    ignored = set(loops.ignore_tools)
    defaults = policy.tools.get("defaults")
    if ignored and defaults is not None and _is_forbidden(defaults) and defaults.match == EVERYTHING:
        allowed = {
            name for name in policy.tools if name != "defaults" and not _is_forbidden(policy.tool(name))
        }
        if allowed and allowed <= ignored:
            left = "consecutive_tool_errors and repeated_text"
            yield ("loops", "ignore_tools"), f"names every tool that is allowed: only {left} find anything"


# -- screening -----------------------------------------------------------------------------------------


def _screening(view: View) -> Iterator[Finding]:
    screening = view.policy.screening
    pii = screening.pii
    if pii is not None and pii.mode != "off" and pii.entities == () and not pii.custom:
        yield (
            ("screening", "pii", "entities"),
            "finds nothing: the list is empty, and there is no custom entity",
        )
    for name in ("injection", "pii", "secrets", "links", "leak"):
        screen: Screen | None = getattr(screening, name)
        if screen is None or screen.mode != "enforce":
            continue
        channels = ("output",) if name in ("links", "leak") else ("user", "tool", "output")
        actions = {
            own.action if (own := getattr(screen, channel)) is not None else screen.action or "block"
            for channel in channels
        }
        if actions == {"allow"}:
            yield (
                ("screening", name),
                "does nothing: its action is allow everywhere; for a record alone say flag",
            )


# -- alerts --------------------------------------------------------------------------------------------


_ABOUT_NO_CALL = frozenset(
    ("audit_failed", "audit_head", "audit_recovered", "policy_reload_failed", "policy_reloaded")
)
_ENDS_OF = {"approval_decided": "approval_requested", "breaker_closed": "breaker_open"}


def _enforced(screen: object) -> bool:
    return screen is not None and getattr(screen, "mode", "off") == "enforce"


def _why_never(policy: Policy, alert: Alert, event: str) -> str:
    """Why an event cannot happen under this policy; empty when it may."""
    screening, runs, loops = policy.screening, policy.runs, policy.loops
    screens = {
        "injection": (screening.injection, "screening.injection"),
        "pii": (screening.pii, "screening.pii"),
        "secret": (screening.secrets, "screening.secrets"),
        "exfiltration": (screening.links, "screening.links"),
        "leak": (screening.leak, "screening.leak"),
        "moderation": (screening.moderation, "screening.moderation"),
        "claim": (policy.claims, "claims"),
    }
    if event in screens:
        screen, name = screens[event]
        return "" if _enforced(screen) else f"{name} is not enforced"
    ladders = loops.ladders() if loops is not None else {}
    told = any(action != "observe" for ladder in ladders.values() for _, action in ladder)
    hopeless: dict[str, tuple[bool, str]] = {
        "approval_requested": (not _asks(policy), "no tool needs an approval"),
        "budget_warning": (
            not any(b.warn_at and b.mode != "off" for b in policy.budgets),
            "no budget has a warn_at",
        ),
        "budget_exceeded": (
            not any(b.mode == "enforce" for b in policy.budgets),
            "there is no enforced budget",
        ),
        "limit_exceeded": (
            runs.mode != "enforce"
            or runs.on_exceed != "notify"
            or all(getattr(runs, limit) is None for limit in _RUN_LIMITS),
            "it is told of limits of runs with on_exceed notify, and there is none",
        ),
        "loop_detected": (
            loops is None or loops.mode != "enforce",
            "loops are not enforced",
        ),
        "routing_rule_off": (
            not any(r.mode == "enforce" and r.on_bad_answer == "escalate" for r in policy.routing.rules),
            "no routing rule escalates bad answers",
        ),
        "spend_anomaly": (runs.anomaly is None or runs.mode == "off", "runs.anomaly is switched off"),
        "tool_drift": (
            not any(
                tool.on_drift != "allow" and tool.mode != "off" for tool in map(policy.tool, policy.tools)
            ),
            "no contract of a tool looks for it",
        ),
        "breaker_open": (
            bool(policy.providers)
            and all(provider.breaker is None for provider in policy.providers.values())
            and not any(tool.breaker is not None for tool in map(policy.tool, policy.tools)),
            "every breaker is null",
        ),
    }
    if event in _ABOUT_NO_CALL and alert.match != EVERYTHING:
        return "it is about no call, and this alert is narrowed by match"
    never, why = hopeless.get(_ENDS_OF.get(event, event), (False, ""))
    if event == "loop_detected" and not never and not told:
        return "the rules of loops only observe"
    return why if never else ""


def _events(view: View) -> Iterator[Finding]:
    for index, alert in _alerts(view):
        for i, event in enumerate(alert.on):
            if why := _why_never(view.policy, alert, event):
                here: KeyPath = ("alerts", index, "on", i) if len(alert.on) > 1 else ("alerts", index, "on")
                yield here, f"{event} never happens: {why}"


CHECKS: tuple[Callable[[View], Iterator[Finding]], ...] = (
    order,
    rules_alone,
    budgets_outdone,
    rates_outdone,
    quotas_outdone,
    _nobody,
    _without_team,
    _models,
    _tools,
    _final_tools,
    _approvals,
    _runs,
    _loops,
    _screening,
    _events,
)
