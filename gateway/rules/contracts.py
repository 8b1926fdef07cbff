"""Tool contracts on the wire: which definitions a model gets to see, and which of its calls are delivered.

`Contracts` is a policy's `tools:` section, ready to apply. The calls of an answer are judged as one turn,
`judge`, against the tools that the request offers, the contracts, and what the run has done so far; what
follows from a violation (`on_invalid`, `on_violation`, `mode`) is for the caller to look up. Counting over
the life of a run, a session or a minute is the store's: `quotas` says what to count.

What a violation says is for the model: what to do instead, in a sentence or two, without values of the
arguments and without what the policy keeps to itself.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import orjson

from gateway.admission import Quota
from gateway.domain import Json, Step, Surface, ToolCall, ToolDef
from gateway.policy.models import Policy
from gateway.policy.sections.callers import EVERYTHING
from gateway.policy.sections.tools import NO_CONTRACT, Tool
from gateway.rules.arguments import breach, duplicate_keys
from gateway.rules.budgets import FOUND_AGAIN_MS, SCOPE_LIFE_MS, Scopes, applies, counter_key
from gateway.rules.fingerprint import MAX_NAME
from gateway.rules.schemas import Schemas
from gateway.rules.trace import Counts, Fact
from gateway.values import frozen

Level = Literal["safe", "moderate", "dangerous"]

_LEVELS = {"safe": 0, "moderate": 1, "dangerous": 2}
_DEFAULTS = "defaults"
_MINUTE_MS = 60_000
_NAME_WIDTH = 64
_MOST_COMPARED = 128
"""Tools that a name is compared with to find the one that was meant."""
_BRING = ("mcp", "tool_search")
"""Tools of Responses that bring others along."""
_NO_COUNTS: Counts = {}


@frozen
class Violation:
    """Why a call is not delivered."""

    call: ToolCall
    error_type: str
    """What the model is told: `unknown_tool`, `invalid_arguments`, `tool_not_allowed`, `quota_exceeded`,
    `order_violation` or `argument_not_allowed` here; others are the gate's."""
    message: str
    """For the model."""
    code: str
    """What the caller is told when it is refused for this."""


@frozen
class Judged:
    """What is to be said about the calls of one answer."""

    violations: list[Violation]
    """At most one for each call, in their order."""
    unchecked: list[str]
    """Tools whose arguments could not be compared with their schema: it refers elsewhere, is of an unknown
    draft, or would cost too much. Such calls are delivered, and this goes on record."""


class Contracts:
    """The tool contracts of one policy. Not shared between policy versions.

    Where contracts have a `match`, `under` gives those that hold for one step; else they hold for all.
    """

    def __init__(self, policy: Policy) -> None:
        self._named = {name: policy.tool(name) for name in policy.tools if name != _DEFAULTS}
        self._default = policy.tool(_DEFAULTS) if _DEFAULTS in policy.tools else NO_CONTRACT
        self._schemas = Schemas()
        self._narrowed = any(tool.match != EVERYTHING for tool in (*self._named.values(), self._default))
        self.found_again_ms = int(policy.runs.idle_ttl_s * 1000) + FOUND_AGAIN_MS
        """How long a run or an unnamed session can be found again, and so is counted for."""

    def under(self, scopes: Scopes) -> Contracts:
        """The contracts that hold for a step. One whose `match` does not cover it leaves its tool to the
        defaults, and those to nothing."""
        if not self._narrowed:
            return self
        held = object.__new__(Contracts)
        held._default = self._default if applies(self._default.match, scopes) else NO_CONTRACT
        held._named = {name: tool for name, tool in self._named.items() if applies(tool.match, scopes)}
        held._schemas = self._schemas
        held._narrowed = False
        held.found_again_ms = self.found_again_ms
        return held

    def tool(self, name: str) -> Tool:
        """The contract of a tool; `NO_CONTRACT` where the policy says nothing about it."""
        return self._named.get(name, self._default)

    def withheld(self, tools: Iterable[ToolDef], max_level: Level, counts: Counts) -> dict[str, str]:
        """The definitions that the model shall not see, by name, with the reason in a few words. `counts` are
        the calls that the run has made."""
        out: dict[str, str] = {}
        for tool in tools:
            contract = self.tool(tool.name)
            if contract.mode != "enforce":
                continue
            if not contract.allow:
                out[tool.name] = "the policy does not allow it"
            elif _LEVELS[contract.level] > _LEVELS[max_level]:
                out[tool.name] = f"its level {contract.level} is above that of the key"
            elif _used_up(contract, counts.get(tool.name[:MAX_NAME], (0, 0))[0]):
                out[tool.name] = "it was called as often as the policy allows in a run"
        return out

    def examine(
        self,
        calls: Sequence[ToolCall],
        offered: Sequence[ToolDef],
        facts: Sequence[Fact],
        *,
        max_level: Level = "dangerous",
        counts: Counts = _NO_COUNTS,
        complete: bool = True,
    ) -> Judged:
        """What is to be said about the calls of one answer.

        `offered` is what the client offered, before anything was withheld; `complete` is `offers_all` of
        the step. `facts` and `counts` are the run before this answer; `counts` includes facts dropped since.
        """
        done = _Done(facts, counts)
        violations: list[Violation] = []
        unchecked: list[str] = []
        for call in calls:
            contract = self.tool(call.name)
            if contract.mode == "off":
                continue
            found = (
                (_unknown(call, contract, offered) if complete else None)
                or _forbidden(call, contract, max_level)
                or _not_now(call, contract, done)
                or self._unfit(call, contract, offered, unchecked)
            )
            done.add(call.name)
            if found is not None:
                violations.append(found)
        return Judged(violations, unchecked)

    def misfit(self, call: ToolCall, offered: Sequence[ToolDef]) -> str | None:
        """Why a call's arguments do not fit the schema that the request offers; None when they do, or nobody
        can tell."""
        schemas = _schemas_of(call, offered)
        if not schemas:
            return None
        arguments = _parsed(call)
        if not isinstance(arguments, dict):
            return "no JSON object"
        problems = self._problems(call, schemas, arguments)
        return problems[0] if problems else None

    def _unfit(
        self, call: ToolCall, contract: Tool, offered: Sequence[ToolDef], unchecked: list[str]
    ) -> Violation | None:
        """Arguments that do not fit the schema offered, or that the contract's own rules forbid. The tool is
        added to `unchecked` when nobody can tell whether they fit."""
        rules = contract.arguments
        schemas = _schemas_of(call, offered) if contract.on_invalid != "deliver" else []
        if not schemas and not rules:
            return None
        arguments = _parsed(call)
        if not isinstance(arguments, dict):
            error_type = "invalid_arguments" if schemas else "argument_not_allowed"
            said = (
                f"The arguments are not valid JSON ({arguments})." if isinstance(arguments, _NoJson) else ""
            )
            return _violation(call, error_type, said or "The arguments must be a JSON object.")
        problems = self._problems(call, schemas, arguments)
        if problems:
            return _violation(call, "invalid_arguments", f"The arguments do not fit: {'; '.join(problems)}.")
        if problems is None:
            unchecked.append(call.name)
        if not rules:
            return None
        said = (
            "The arguments name a key twice." if duplicate_keys(call.arguments) else breach(rules, arguments)
        )
        return _violation(call, "argument_not_allowed", said) if said else None

    def _problems(
        self, call: ToolCall, schemas: Sequence[Mapping[str, Any]], arguments: Json
    ) -> tuple[str, ...] | None:
        """What is wrong with arguments by the last of their schemas; empty when they fit one, None when they
        may fit one that cannot be used."""
        problems: tuple[str, ...] | None = ()
        usable = True
        for schema in schemas:
            problems = self._schemas.problems(schema, arguments, call.arguments)
            if problems == ():
                return problems
            usable = usable and problems is not None
        return problems if usable else None


class _Done:
    """What the run has done: calls by tool, and the tools that have succeeded. Names are cut as in traces."""

    __slots__ = ("made", "succeeded")

    def __init__(self, facts: Sequence[Fact], counts: Counts) -> None:
        self.made: dict[str, int] = {}
        self.succeeded: set[str] = set()
        known: dict[str, int] = {}
        for fact in facts:
            self.made[fact.name] = self.made.get(fact.name, 0) + 1
            if fact.status != "error":
                known[fact.name] = known.get(fact.name, 0) + 1
            if fact.status == "ok":
                self.succeeded.add(fact.name)
        for name, (calls, failed) in counts.items():
            self.made[name] = max(calls, self.made.get(name, 0))
            # Of calls whose facts were dropped only this is known; what did not fail has succeeded.
            if calls - failed > known.get(name, 0):
                self.succeeded.add(name)

    def add(self, name: str) -> None:
        """One more call."""
        name = name[:MAX_NAME]
        self.made[name] = self.made.get(name, 0) + 1


def offers_all(step: Step) -> bool:
    """Whether the request names every tool that the model can call: not with a prompt that the provider
    keeps, nor with tools that servers bring along, nor with sets of tools of which each has its own name."""
    body = step.body
    if step.surface is Surface.MESSAGES:
        # `computer_toolset_…` and its like; the calls of an MCP server are the provider's.
        return not any("_toolset_" in kind for kind in _types(body.get("tools")))
    if step.surface is not Surface.RESPONSES:
        return True
    given = body.get("input")
    later = [
        item.get("tools")
        for item in (given if isinstance(given, list) else ())
        if item.get("type") == "additional_tools"
    ]
    brings = any(kind in _BRING for offered in (body.get("tools"), *later) for kind in _types(offered))
    return not brings and body.get("prompt") is None


def _types(offered: object) -> list[str]:
    tools = offered if isinstance(offered, list) else []
    return [str(tool.get("type")) for tool in tools if isinstance(tool, dict)]


def quotas(calls: Sequence[ToolCall], contracts: Contracts, scopes: Scopes) -> list[Quota]:
    """What the store has to count for the calls of one answer, before they are delivered: by tool, in a run,
    a session, and a minute of all runs of a key. A quota's rule is `tools.NAME.max_calls_per_…`."""
    amounts: dict[str, int] = {}
    for call in calls:
        amounts[call.name] = amounts.get(call.name, 0) + 1
    session_ms = SCOPE_LIFE_MS if scopes.session_named else contracts.found_again_ms
    out: list[Quota] = []
    for name, amount in amounts.items():
        contract = contracts.tool(name)
        for key, per, limit, window_ms, ttl_ms in (
            ("max_calls_per_run", "run", contract.max_calls_per_run, 0, contracts.found_again_ms),
            ("max_calls_per_session", "session", contract.max_calls_per_session, 0, session_ms),
            ("max_calls_per_minute", "key", contract.max_calls_per_minute, _MINUTE_MS, 0),
        ):
            if limit is None or contract.mode == "off":
                continue
            out.append(
                Quota(
                    rule=f"tools.{name}.{key}",
                    per=per,
                    counter=counter_key(key, per, scopes.principal, f"{name}\0{scopes.id_of(per)}"),
                    limit=limit,
                    amount=amount,
                    enforced=contract.mode == "enforce",
                    window_ms=window_ms,
                    ttl_ms=ttl_ms,
                )
            )
    return out


# --- single rules


def _violation(call: ToolCall, error_type: str, message: str, code: str = "tool_not_allowed") -> Violation:
    return Violation(call, error_type, message, code)


def _unknown(call: ToolCall, contract: Tool, offered: Sequence[ToolDef]) -> Violation | None:
    if contract.on_invalid == "deliver" or any(tool.name == call.name for tool in offered):
        return None
    meant = _meant(call.name, [tool.name for tool in offered])
    hint = f"Did you mean {meant!r}?" if meant else "Use one of the tools that are offered."
    return _violation(call, "unknown_tool", f"There is no tool {_shown(call)}. {hint}")


def _forbidden(call: ToolCall, contract: Tool, max_level: Level) -> Violation | None:
    if not contract.allow:
        said = f"The tool {_shown(call)} may not be used. Go on without it."
    elif _LEVELS[contract.level] > _LEVELS[max_level]:
        said = f"The tool {_shown(call)} is not available to this caller. Go on without it."
    else:
        return None
    return _violation(call, "tool_not_allowed", said)


def _not_now(call: ToolCall, contract: Tool, done: _Done) -> Violation | None:
    if _used_up(contract, done.made.get(call.name[:MAX_NAME], 0)):
        times = "once" if contract.max_calls_per_run == 1 else f"{contract.max_calls_per_run} times"
        said = f"The tool {_shown(call)} may be called {times} in a run. Go on without it."
        return _violation(call, "quota_exceeded", said, "tool_limit_exceeded")
    missing = [name for name in contract.after if name[:MAX_NAME] not in done.succeeded]
    if not missing:
        return None
    first = ", ".join(repr(name) for name in missing[:5])
    said = (
        f"The tool {_shown(call)} may be called only after {first} succeeded in an earlier step of this run."
    )
    return _violation(call, "order_violation", said)


def _used_up(contract: Tool, made: int) -> bool:
    return contract.max_calls_per_run is not None and made >= contract.max_calls_per_run


def _shown(call: ToolCall) -> str:
    return repr(call.name[:_NAME_WIDTH])


def _schemas_of(call: ToolCall, offered: Sequence[ToolDef]) -> list[Mapping[str, Any]]:
    """The schemas of a call's tool: none for free text and tools of the provider, several when a name is
    offered twice."""
    return [tool.schema for tool in offered if tool.name == call.name and tool.schema is not None]


class _NoJson(str):
    """What is wrong with a text that should be JSON."""


def _parsed(call: ToolCall) -> Json | list[Any] | str | float | bool | None:
    """The arguments; `{}` for no text at all, as some providers write it."""
    if not call.arguments.strip():
        return {}
    try:
        return orjson.loads(call.arguments.encode("utf-8", "surrogatepass"))  # type: ignore[no-any-return]
    except orjson.JSONDecodeError as error:
        return _NoJson(f"{error.msg.split(':')[0][:60]} at character {error.pos}")


def _meant(name: str, offered: Collection[str]) -> str | None:
    """The tool that a wrong name stands for, if one is near."""
    plain = _plain(name)
    for other in offered:
        if _plain(other) == plain or plain.endswith("." + _plain(other)):
            return other[:_NAME_WIDTH]
    others = [other[:_NAME_WIDTH] for other in offered][:_MOST_COMPARED]
    near = difflib.get_close_matches(name[:_NAME_WIDTH], others, 1, 0.7)
    return near[0] if near else None


def _plain(name: str) -> str:
    return name[:256].casefold().replace("_", "").replace("-", "").replace(" ", "")


def result_json(violation: Violation) -> str:
    """What the model is given in place of the tool's result."""
    pending = violation.error_type == "approval_pending"
    told = {
        "status": "pending" if pending else "error",
        "error_type": violation.error_type,
        "retry_safe": pending,
        "message": violation.message,
    }
    return orjson.dumps(told).decode()


# --- digests


_UNORDERED = frozenset(("required", "enum", "type"))
"""Lists of a schema whose order says nothing; agents that make them from sets change it with each start."""
_MOMENT = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?(?:Z|[+-]\d\d:?\d\d)?)?")
"""Descriptions tell today's date."""
_digests: OrderedDict[bytes, str] = OrderedDict()
_MOST_DIGESTS = 4096


def definition_digest(tool: ToolDef) -> str:
    """A tool's name, description and schema, whatever the order of keys and the date of the day."""
    schema = b"" if tool.schema is None else orjson.dumps(tool.schema)
    head = f"{tool.name}\0{tool.description}\0".encode("utf-8", "surrogatepass")
    exact = hashlib.blake2b(head + schema, digest_size=16).digest()
    known = _digests.get(exact)
    if known is None:
        if len(_digests) >= _MOST_DIGESTS:
            _digests.popitem(last=False)
        described = _MOMENT.sub("<date>", tool.description)
        raw = b"" if tool.schema is None else _sorted_json(_canonical(tool.schema))
        known = _digests[exact] = _hex(
            tool.name.encode("utf-8", "surrogatepass"), described.encode("utf-8", "surrogatepass"), raw
        )
    return known


def _sorted_json(value: Any) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: sorted(entry, key=_sorted_json)
            if key in _UNORDERED and isinstance(entry, list)
            else _canonical(entry)
            for key, entry in value.items()
        }
    return [_canonical(entry) for entry in value] if isinstance(value, list) else value


def drift(previous: Mapping[str, str], tools: Iterable[ToolDef]) -> list[str]:
    """Tools whose definition is another one than `previous`, digests by name, remembers."""
    return [
        tool.name
        for tool in tools
        if (known := previous.get(tool.name)) is not None and known != definition_digest(tool)
    ]


def _hex(*parts: bytes) -> str:
    made = hashlib.blake2b(digest_size=16)
    for part in parts:
        made.update(len(part).to_bytes(8, "big"))
        made.update(part)
    return made.hexdigest()
