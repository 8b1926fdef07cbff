"""A run told as a story: who it was, what it did step by step, what each rule decided and why, how it ended.

Made from what the admin API answers; pure. Names, reasons and models come from callers, so all of it passes
through `plain` and is shortened.
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from gateway.commands.views import Row, count, dollars, moment, plain, several
from gateway.domain import NANO_PER_USD

WIDTH = 100
"""Where nothing says how wide the terminal is."""
LONGEST_NAME = 64
LONGEST_REASON = 300
MANY_STEPS = 200
"""Of a longer run the middle is left out: the beginning tells what it was about, the end how it ended."""

_FOUND_BY = {
    "header": "the x-guardrail-run-id header",
    "url": "its base URL (/r/…)",
    "server_state": "the conversation that the provider keeps",
    "retry": "a retry of its step",
    "emitted_id": "the id of a tool call that it made",
    "lineage": "the history that its requests carry",
    "tail": "the end of its history",
    "session": "its session",
}
_ENDS = {
    "running": "It is still running",
    "completed": "It completed",
    "stopped_budget": "It was stopped: its money ran out",
    "stopped_steps": "It was stopped: too many steps",
    "stopped_time": "It was stopped: it took too long",
    "stopped_tokens": "It was stopped: too many tokens",
    "stopped_tools": "It was stopped: too many tool calls",
    "stopped_loop": "It was stopped: it went round in circles",
    "killed": "It was killed",
    "blocked": "It was blocked",
    "failed": "It failed",
    "abandoned": "It was given up: nothing more came",
}
_DONE = {
    "redact": "taken out", "mask": "masked", "pseudonymise": "replaced by stand-ins", "neutralise": "cut out",
    "block": "refused", "flag": "put on record", "allow": "let pass",
}  # fmt: skip
_CHANNELS = {
    "user": "what the user said", "system": "the system prompt", "tool": "tool results",
    "output": "the answer", "definition": "tool definitions", "arguments": "arguments of tool calls",
}  # fmt: skip
_LANDINGS = {
    "wrap_up": "one last step to answer from what is known",
    "final_message": "the gateway answered in the model's place",
    "stop": "it was stopped",
    "kill": "it was killed",
    "downgrade": "it went on with a cheaper model",
    "notify": "operators were told",
    "observe": "it was put on record",
    "nudge": "the model was told so",
}


def story(run: Row, steps: Sequence[Row], *, successors: Sequence[Row] = (), width: int = WIDTH) -> str:
    """The run from its beginning to how it stands. `successors` are runs that continue it."""
    lines = [*_header(run, width), ""]
    told = list(_steps(run, steps, width))
    lines += told or ["  No step is on record."]
    lines += ["", *_ending(run, steps, successors, width)]
    return "\n".join(lines)


# -- who -----------------------------------------------------------------------------------------------


def _header(run: Row, width: int) -> Iterable[str]:
    name = f" ({short(run['name'])})" if run["name"] else ""
    yield f"Run {short(run['id'])}{name}"
    who = [
        f"{word} {short(run[word])}" for word in ("user", "team", "key", "session", "agent") if run.get(word)
    ]
    yield from _told(", ".join(who), width)
    source = run["source"]
    found = (
        "begun by a new user message"
        if source == "new"
        else f"found by {_FOUND_BY.get(source, plain(source))}"
    )
    lasted = ""
    if run.get("last_step_at"):
        lasted = f", its last step {offset(run['started_at'], run['last_step_at'])} later"
    yield from _told(
        f"began {moment(run['started_at'])} UTC{lasted}; {found}; policy {short(run['policy'])}",
        width,
    )
    if run.get("tags"):
        yield from _told("tags " + ", ".join(f"{short(k)}={short(v)}" for k, v in run["tags"].items()), width)
    if run["continues"]:
        yield from _told(f"continues {short(run['continues'])}", width)
    if run["parent"]:
        yield from _told(f"started by {short(run['parent'])}", width)
    elif run.get("inferred_parent"):
        yield from _told(f"seems to have been started by {short(run['inferred_parent'])} (a guess)", width)
    if run.get("children"):
        shown = ", ".join(short(child) for child in run["children"][:5])
        more = f" and {len(run['children']) - 5} more" if len(run["children"]) > 5 else ""
        yield from _told(f"started {shown}{more}", width)


# -- what it did ---------------------------------------------------------------------------------------


def _steps(run: Row, steps: Sequence[Row], width: int) -> Iterable[str]:
    begin, told = run["started_at"], _Told()
    groups = list(_grouped(steps))
    left_out = max(0, len(groups) - MANY_STEPS)
    for number, group in enumerate(groups):
        if left_out and MANY_STEPS // 2 <= number < MANY_STEPS // 2 + left_out:
            if number == MANY_STEPS // 2:
                yield f"{'':>15}… {count(left_out)} more …"
            continue
        step = group[0]
        sentences = _refused(group, begin, told) if step["kind"] == "refusal" else _attempt(step, told)
        head = f"{offset(begin, step['started_at']):>8}  {step['ordinal']:>4}  "
        for sentence in sentences:
            yield from _hung(head, sentence, width)
            head = " " * len(head)


class _Told:
    """What has been told of the run already: agents send their history along, and the same is found in it and
    decided about it with every step."""

    def __init__(self) -> None:
        self._findings: dict[tuple[str, ...], int] = {}
        self._sentences: set[str] = set()

    def more(self, found: Row) -> int:
        """How many findings of this kind are new."""
        kind = tuple(
            str(found.get(name)) for name in ("detector", "channel", "type", "mode", "action", "tool")
        )
        number = found.get("count")
        number = number if isinstance(number, int) else 1
        before = self._findings.get(kind, 0)
        self._findings[kind] = max(before, number)
        return max(0, number - before)

    def is_new(self, sentence: str) -> bool:
        """Whether a sentence was not told yet."""
        fresh = sentence not in self._sentences
        self._sentences.add(sentence)
        return fresh


def _grouped(steps: Iterable[Row]) -> Iterable[list[Row]]:
    """Steps one by one, refusals for the same reason in a row together."""
    group: list[Row] = []
    for step in steps:
        if group and _reason_key(step) is not None and _reason_key(step) == _reason_key(group[0]):
            group.append(step)
            continue
        if group:
            yield group
        group = [step]
    if group:
        yield group


def _reason_key(step: Row) -> tuple[Any, ...] | None:
    if step["kind"] != "refusal":
        return None
    why = step["decisions"][-1] if step["decisions"] else {}
    return why.get("code"), why.get("rule"), len(step["decisions"]) == 1, not step.get("findings")


def _refused(group: Sequence[Row], begin: str, told: _Told) -> Iterable[str]:
    step = group[0]
    why = step["decisions"][-1] if step["decisions"] else {}
    rule = f" by rule {short(why['rule'])}" if why.get("rule") else ""
    figures = ""
    # A kill has no figures.
    if why.get("limit") is not None and why.get("rule") != "kill":
        figures = f" (limit {_figure(why['limit'])}, used {_figure(why.get('used'))})"
    times = ""
    if len(group) > 1:
        times = f", {count(len(group))} times until {offset(begin, group[-1]['started_at'])}"
    yield f"refused: {short(why.get('code') or step.get('error'))}{rule}{figures}{times}"
    yield from _decisions(step["decisions"][:-1], told)
    yield from _findings(step.get("findings") or (), told)


def _figure(value: Any) -> str:
    """Money is told as text with its places, counts as numbers."""
    if isinstance(value, str):
        try:
            return dollars(value)
        except ArithmeticError:
            return plain(value)
    return count(value) if isinstance(value, int) else plain(value)


def _nano(value: Any) -> str:
    """Money as rules count it, in nano-dollars."""
    return dollars(str(Decimal(value) / NANO_PER_USD)) if isinstance(value, int) else _figure(value)


def _attempt(step: Row, told: _Told) -> Iterable[str]:
    results = step["tool_results"]
    if results:
        yield _results(results)
    usage = step["usage"]
    model = short(step["model"] or step["requested_model"] or "?")
    if step["requested_model"] and step["requested_model"] != step["model"]:
        model += f" (asked for {short(step['requested_model'])})"
    figures = [f"{count(usage['input_tokens'])} tokens in", f"{count(usage['output_tokens'])} out"]
    source = step["cost_source"]
    cost = dollars(step["cost_usd"]) + (
        f" ({short(source)})" if source not in ("provider", "free", None) else ""
    )
    figures.append("free" if source == "free" else cost)
    if step["latency_ms"] is not None:
        figures.append(f"{step['latency_ms'] / 1000:.2f} s")
    yield f"{model}: {', '.join(figures)}"
    yield from _decisions(step["decisions"], told)
    yield from _findings(step.get("findings") or (), told)
    if _amount(step.get("saved_usd")) > 0:
        yield f"that saved {dollars(step['saved_usd'])}"
    yield from _outcome(step)


def _outcome(step: Row) -> Iterable[str]:
    calls = step["tool_calls"]
    if calls:
        kept = Counter(short(call.get("name")) for call in calls if call.get("delivered", True))
        held = Counter(short(call.get("name")) for call in calls if not call.get("delivered", True))
        if kept:
            yield f"it called {_listed(kept)}"
        if held:
            yield f"its calls of {_listed(held)} were not delivered"
    if step["error"]:
        yield f"{short(step['outcome'])}: {short(step['error'], LONGEST_REASON)}"
    elif step["outcome"] not in ("ok", None):
        yield short(step["outcome"])
    elif not calls:
        yield f"it answered ({short(step['finish_reason'])})" if step["finish_reason"] else "it answered"


def _listed(names: Counter[str]) -> str:
    return ", ".join(name if times == 1 else f"{name} x{times}" for name, times in names.items())


def _results(results: Sequence[Mapping[str, Any]]) -> str:
    """`results: search failed (timeout), fetch fine x2`."""
    kinds: Counter[str] = Counter()
    for result in results:
        name = short(result.get("name") or "a tool")
        if result.get("ok") is False:
            why = result.get("error_type")
            kinds[f"{name} failed" + (f" ({short(why)})" if why else "")] += 1
        else:
            status = result.get("status")
            kinds[f"{name} {short(status)}" if status else f"{name} fine"] += 1
    return f"results: {_listed(kinds)}"


# -- what rules decided --------------------------------------------------------------------------------


def _decisions(decisions: Iterable[Row], told: _Told) -> Iterable[str]:
    for decision in decisions:
        sentence = _decided(decision)
        # A definition is withheld with every step.
        again = str(decision.get("rule")).startswith("tools.") and not told.is_new(sentence)
        if sentence and not again:
            shadow = decision.get("mode") == "shadow"
            yield f"in shadow, not acted on: {sentence}" if shadow else sentence


def _decided(decision: Row) -> str:
    """One decision as a sentence; empty for what nobody asks about."""
    rule = short(decision.get("rule") or "a rule")
    what = str(decision.get("decision") or decision.get("action") or "")
    why = f": {short(decision['why'], LONGEST_REASON)}" if decision.get("why") else ""
    there, here = short(decision.get("to")), short(decision.get("from"))
    if rule.startswith("routing"):
        match what:
            case "reroute":
                return f"{rule} sent it to {there} instead of {here}{why}{_compared(decision)}"
            case "escalate":
                return f"{rule} asked {there}, because the answer of {here} was no good{why}"
            case "keep":
                return f"{rule} left it with {here}{why}{_compared(decision)}"
    if rule == "fallback":
        return (
            f"{there} took the place of {here}{why}" if what == "reroute" else f"{there} was passed over{why}"
        )
    if rule == "retries":
        return f"tried again{why}"
    if rule == "downgrade":
        return f"it went on with {there}"
    if rule.startswith("cache."):
        return "" if what == "miss" else f"{rule} had the answer already"
    if rule == "context":
        return f"old and huge tool results were shortened{_tokens(decision)}"
    if rule == "runs.anomaly":
        now, usual = _number(decision.get("value")), _number(decision.get("usual"))
        return f"unusual for this agent: {short(decision.get('figure'))} {now}, usually {usual}"
    if rule.startswith("loops."):
        # What ends the run has been told with its count before.
        if "count" not in decision:
            return ""
        return f"{rule} counts {_number(decision['count'])}{why}; {_LANDINGS.get(what, short(what))}"
    if what == "approved":
        return f"{short(decision.get('by') or 'an operator')} approved the call ({rule})"
    if rule.startswith("tools") and what == "withhold":
        return f"{rule} was withheld{why}"
    if decision.get("code"):
        show = _nano if str(decision["code"]).endswith("_budget_exceeded") else _figure
        figures = f" (limit {show(decision.get('limit'))}, used {show(decision.get('used'))})"
        return f"{rule} is reached{figures}: {_LANDINGS.get(what, short(what))}"
    if what == "refuse":
        return f"{rule} would have refused it" if decision.get("mode") == "shadow" else f"{rule} refused it"
    return f"{rule}: {short(what)}{why}"


def _compared(decision: Row) -> str:
    expected, instead = decision.get("expected_usd"), decision.get("instead_usd")
    if expected is None or instead is None:
        return ""
    return f" ({_figure(instead)} instead of {_figure(expected)})"


def _tokens(decision: Row) -> str:
    tokens = decision.get("tokens")
    return f", {count(tokens)} tokens" if isinstance(tokens, int) else ""


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else short(value)


def _findings(findings: Iterable[Row], told: _Told) -> Iterable[str]:
    for found in findings:
        if not (number := told.more(found)) and found.get("detector") != "claims":
            continue
        detector, channel = short(found.get("detector")), str(found.get("channel") or "")
        if detector == "claims":
            tools = ", ".join(short(tool) for tool in found.get("tools") or ())
            yield f"it claims to have {short(found.get('verb'))}, and no such call succeeded" + (
                f" ({tools})" if tools else ""
            )
            continue
        what = f"{count(number)} {short(found.get('type') or '')}".strip()
        where = _CHANNELS.get(channel, short(channel))
        tool = f" of {short(found['tool'])}" if found.get("tool") else ""
        done = _DONE.get(str(found.get("action")), short(found.get("action")))
        if found.get("mode") == "shadow":
            done = f"in shadow, would have been {done}"
        yield f"{detector} found {what} in {where}{tool}: {done}"


# -- how it ended --------------------------------------------------------------------------------------


def _ending(run: Row, steps: Sequence[Row], successors: Sequence[Row], width: int) -> Iterable[str]:
    status = str(run["status"])
    reason = f" ({short(run['status_reason'], LONGEST_REASON)})" if run["status_reason"] else ""
    yield from _told(f"{_ENDS.get(status, plain(status))}{reason}.  [{plain(status)}]", width, margin=0)
    yield from _told(_cost(run), width)
    if _amount(run.get("saved_usd")) > 0:
        yield from _told(f"{dollars(run['saved_usd'])} saved", width)
    if run["tools"]:
        tools = [
            f"{short(tool)} {each['calls']}" + (f" ({each['errors']} failed)" if each["errors"] else "")
            for tool, each in sorted(run["tools"].items())
        ]
        yield from _told(f"tools: {', '.join(tools)}", width)
    if len(run.get("model_mix") or {}) > 1:
        mix = [f"{short(model)} {dollars(each['cost_usd'])}" for model, each in run["model_mix"].items()]
        yield from _told(f"models: {', '.join(mix)}", width)
    usual = (run.get("usual") or {}).get("mean") or {}
    if usual:
        told = [f"{_number(round(usual['steps'], 1))} steps" if "steps" in usual else ""]
        told.append(f"${usual['cost_usd']:.4f}" if "cost_usd" in usual else "")
        yield from _told(f"runs of this agent usually take {', '.join(filter(None, told))}", width)
    yield from _afterwards(run, steps, successors, width)


def _cost(run: Row) -> str:
    reserved = (
        f", {dollars(run['reserved_usd'])} reserved for calls under way"
        if _amount(run["reserved_usd"])
        else ""
    )
    return (
        f"{several(run['steps'], 'step')}, {several(run['tool_calls'], 'tool call')}, "
        f"{count(run['input_tokens'])} tokens in, {count(run['output_tokens'])} out, "
        f"{dollars(run['cost_usd'])}{reserved}"
    )


def _afterwards(run: Row, steps: Sequence[Row], successors: Sequence[Row], width: int) -> Iterable[str]:
    last = max((i for i, step in enumerate(steps) if step["kind"] != "refusal"), default=-1)
    after = steps[last + 1 :]
    kept = sum(step["kind"] == "refusal" for step in steps)
    # The ledger keeps the newest refusals of a run, and counts all of them.
    later = len(after) + max(0, int(run.get("refusals") or 0) - kept) if after else 0
    if later:
        codes = Counter(
            short((step["decisions"][-1] if step["decisions"] else {}).get("code")) for step in after
        )
        yield from _told(
            f"{several(later, 'later request')} {'was' if later == 1 else 'were'} refused ({_listed(codes)})",
            width,
        )
    for successor in successors[:5]:
        yield from _told(f"went on as {short(successor['id'])} ({plain(successor['status'])})", width)


# -- shared --------------------------------------------------------------------------------------------


def short(text: Any, longest: int = LONGEST_NAME) -> str:
    """Text of anyone's, as a terminal may show it, cut to a length."""
    told = "?" if text is None else plain(text)
    return told if len(told) <= longest else told[: longest - 1] + "…"


def offset(begin: str, at: str) -> str:
    """How long after the beginning: `+0.5s`, `+1m05s`, `+2h03m`."""
    seconds = (datetime.fromisoformat(at) - datetime.fromisoformat(begin)).total_seconds()
    sign, seconds = ("-" if seconds < 0 else "+"), abs(seconds)
    if seconds < 60:
        return f"{sign}{seconds:.1f}s" if seconds >= 0.05 else "+0.0s"
    whole = int(seconds)
    if whole < 3600:
        return f"{sign}{whole // 60}m{whole % 60:02d}s"
    return f"{sign}{whole // 3600}h{whole % 3600 // 60:02d}m"


def _amount(text: Any) -> Decimal:
    return Decimal(text) if text else Decimal(0)


def _told(text: str, width: int, margin: int = 2) -> list[str]:
    return _hung(" " * margin, text, width)


def _hung(head: str, text: str, width: int) -> list[str]:
    """`head` and the text, wrapped, with what follows below its beginning."""
    room = max(30, width - len(head))
    first, *more = textwrap.wrap(text, room, break_on_hyphens=False) or [""]
    return [(head + first).rstrip(), *(" " * (len(head) + 2) + line for line in more)]
