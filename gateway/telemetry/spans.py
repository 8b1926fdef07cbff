"""What OpenTelemetry is told of a run: spans made from facts, by the names of the GenAI conventions, of
OpenInference, or both. Pure; where the facts come from is in `traces.py`, where the spans go in `otlp.py`.

    invoke_agent <agent>                the run, exported when it has ended
      chat <model>                      a step, whatever became of it
        attempt <n> <model>             a call of a provider, where the step needed several
      execute_tool <name>               from the answer that asks for it to the request that brings its result

Every id follows from an id of the ledger, so processes that never speak to each other make one trace of a
run, and a span that is made twice is the same span. Names of attributes are written out here: the constants
of the library's own package are deprecated in favour of another repository
(https://github.com/open-telemetry/semantic-conventions-genai).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal
from urllib.parse import urlsplit

import orjson

from gateway.domain import NANO_PER_USD, Json, Nano, RunStatus

Value = str | bool | int | float | tuple[str, ...]
Kind = Literal["client", "internal"]
Conventions = Literal["genai", "openinference", "both"]

MAX_TEXT = 256
"""Characters of a name or an id in an attribute."""
MAX_LIST = 32
"""Entries of an attribute with several."""
MAX_TAGS = 16
MAX_TOOLS = 128
"""Tool results of one request that become spans."""

STOPPED = frozenset(status.value for status in RunStatus) - {"running", "completed", "abandoned"}
"""Statuses of runs that did not end by themselves: their traces are always kept."""

_OPERATIONS = {
    "chat": "chat",
    "responses": "chat",
    "messages": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
    "moderations": "moderation",
    "passthrough": "passthrough",
}
_HOSTS = (
    ("openai.azure.com", "azure.ai.openai"),
    ("services.ai.azure.com", "azure.ai.inference"),
    ("openai.com", "openai"),
    ("anthropic.com", "anthropic"),
    ("groq.com", "groq"),
    ("mistral.ai", "mistral_ai"),
    ("deepseek.com", "deepseek"),
    ("x.ai", "x_ai"),
    ("perplexity.ai", "perplexity"),
    ("cohere.com", "cohere"),
    ("generativelanguage.googleapis.com", "gcp.gemini"),
    ("aiplatform.googleapis.com", "gcp.vertex_ai"),
)
"""Well-known values of `gen_ai.provider.name`, by the end of the provider's host."""


@dataclass(frozen=True, slots=True)
class Context:
    """Where a span stands: 128 and 64 bits."""

    trace: int
    span: int


@dataclass(slots=True)
class Span:
    """One span. Times are nanoseconds since the Unix epoch."""

    name: str
    at: Context
    parent: Context | None
    kind: Kind
    start: int
    end: int
    attributes: dict[str, Value]
    links: list[tuple[Context, str]] = field(default_factory=list)
    """Other spans, each with what it is to this one."""
    error: str = ""
    """Why it counts as failed; empty when it does not."""
    remote: bool = False
    """The parent is somebody else's span."""
    size: int = 0
    """Characters of content."""


@dataclass(slots=True)
class AttemptFacts:
    """One call of a provider."""

    id: str
    provider: str
    model: str
    outcome: str
    start: int
    end: int
    url: str = ""
    """The provider's base URL; empty where it is not known any more."""
    error: str | None = None
    status: int | None = None
    usage: Mapping[str, int] = field(default_factory=dict)
    """Tokens by bucket, as `gateway.domain.Usage` has them."""
    cost: Nano = 0
    saved: Nano = 0
    ttft_ms: float | None = None
    queued_ms: int = 0
    finish_reason: str | None = None
    response_id: str | None = None
    response_model: str | None = None
    kept: bool = False
    """Its answer was a kept one."""
    aside: bool = False
    """It asked a model about the step, and is no part of the conversation."""
    called: Sequence[str] = ()
    """Names of the tools that its answer calls."""


@dataclass(slots=True)
class Refused:
    """Why a request got no answer, or not the model's."""

    code: str
    rule: str = ""
    scope: str = ""
    limit: int = 0
    used: int = 0
    decision: str = "refuse"


@dataclass(slots=True)
class Message:
    """A text of the conversation, redacted. `kind` is `text`, `call` or `result`."""

    role: str
    kind: Literal["text", "call", "result"]
    text: str
    id: str = ""
    name: str = ""


@dataclass(slots=True)
class Content:
    """What was said, redacted and cut to size."""

    system: list[Message] = field(default_factory=list)
    input: list[Message] = field(default_factory=list)
    output: list[Message] = field(default_factory=list)
    omitted: int = 0
    """Messages left out for size."""


@dataclass(slots=True)
class StepFacts:
    """One request and everything that became of it."""

    run: str
    session: str | None
    decision: str
    ordinal: int
    start: int
    end: int
    surface: str
    requested_model: str
    stream: bool = False
    request_id: str = ""
    run_name: str | None = None
    agent: str | None = None
    key: str | None = None
    user: str | None = None
    team: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    policy: str = ""
    verdict: str = ""
    params: Mapping[str, Value] = field(default_factory=dict)
    """Of the request: `max_tokens temperature top_p choices`, where given."""
    checks: Sequence[str] = ()
    decisions: Sequence[Json] = ()
    findings: Sequence[Json] = ()
    results: Sequence[Json] = ()
    """The tool results that are new with it."""
    results_from: int = 0
    """When the answer ended that they belong to."""
    attempts: list[AttemptFacts] = field(default_factory=list)
    overhead_ms: float | None = None
    """Time in the gateway itself."""
    refused: Refused | None = None
    left: bool = False
    """The client left before the end."""
    caller: Context | None = None
    """The client's own span."""
    adopt: bool = False
    """The client's span is the parent, not a link."""
    content: Content | None = None
    content_dropped: bool = False
    """It was to have content, and nobody could see to its redaction."""


# -- ids ---------------------------------------------------------------------------------------------


def run_context(run: str) -> Context:
    """The span of a whole run."""
    digest = hashlib.blake2b(run.encode("utf-8", "replace"), digest_size=24, person=b"gateway run").digest()
    return Context(int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:], "big") or 1)


def span_id(kind: str, *parts: str) -> int:
    """Names one span of a run."""
    text = "\0".join((kind, *parts)).encode("utf-8", "replace")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8, person=b"gateway span").digest(), "big") or 1


def is_sampled(trace: int, share: float) -> bool:
    """Whether a run is among the share that is told of; every process decides it alike."""
    return share >= 1 or (trace & 0xFFFF_FFFF_FFFF_FFFF) < share * 2**64


def parse_traceparent(value: bytes | None) -> tuple[Context, bool] | None:
    """The client's span by the W3C header, and whether it is sampled; None for anything else."""
    if value is None or len(value) < 55 or (len(value) > 55 and value[:2] == b"00"):
        return None
    parts = value[:55].split(b"-")
    if [len(part) for part in parts] != [2, 32, 16, 2] or value[55:56] not in (b"", b"-"):
        return None
    if any(c not in b"0123456789abcdef" for part in parts for c in part) or parts[0] == b"ff":
        return None
    trace, span, flags = (int(part, 16) for part in parts[1:])
    return (Context(trace, span), bool(flags & 1)) if trace and span else None


# -- spans -------------------------------------------------------------------------------------------


def step_spans(step: StepFacts, conventions: Conventions) -> list[Span]:
    """The spans of one request: the step, its attempts where there are several, the tools it tells of."""
    root = run_context(step.run)
    own = Context(root.trace, span_id("step", step.decision))
    parent, links = root, []
    if step.caller is not None:
        if step.adopt:
            own = Context(step.caller.trace, own.span)
            parent = step.caller
            links.append((root, "run"))
        else:
            links.append((step.caller, "client"))
    operation = _OPERATIONS.get(step.surface, step.surface)
    served = _served(step)
    error = _error_of(step, served)
    both = conventions != "openinference"
    attributes = _about(step)
    if both:
        attributes |= _genai(step, served, operation)
    if conventions != "genai":
        attributes |= _openinference(step, served)
    if error:
        attributes["error.type"] = error
    size = 0
    if step.content is not None:
        told = (_genai_content(step.content) if both else {}) | (
            _openinference_content(step.content) if conventions != "genai" else {}
        )
        size = sum(len(value) for value in told.values() if isinstance(value, str))
        attributes |= told
    spans = [
        Span(
            f"{operation} {clean(step.requested_model, 128)}".rstrip(),
            own,
            parent,
            "client",
            step.start,
            max(step.start, step.end),
            attributes,
            links,
            error,
            remote=step.adopt and step.caller is not None,
            size=size,
        )
    ]
    if len(step.attempts) > 1:
        spans += [
            _attempt(step, own, number, one, conventions) for number, one in enumerate(step.attempts, 1)
        ]
    spans += _tools(step, root, own, conventions)
    return spans


def run_span(run: Json, conventions: Conventions) -> Span:
    """The span of a run that has ended, from the ledger's record of it."""
    root = run_context(run["id"])
    status = run["status"]
    tags = _tags(run.get("tags"))
    name = tags.get("agent") or run.get("name") or ""
    start = int(run.get("started_at") or 0)
    end = max(start, int(run.get("last_step_at") or 0), int(run.get("ended_at") or 0))
    mix = run.get("model_mix") or {}
    attributes: dict[str, Value] = {
        "guardrail.run.id": run["id"],
        "guardrail.run.status": status,
        "guardrail.run.steps": int(run.get("steps") or 0),
        "guardrail.run.attempts": int(run.get("attempts") or 0),
        "guardrail.run.tool_calls": int(run.get("tool_calls") or 0),
        "guardrail.run.refusals": int(run.get("refusals") or 0),
        "guardrail.run.input_tokens": int(run.get("input_tokens") or 0),
        "guardrail.run.output_tokens": int(run.get("output_tokens") or 0),
        "guardrail.run.cached_tokens": int(run.get("cached_tokens") or 0),
        "guardrail.run.models": tuple(clean(model) for model in list(mix)[:MAX_LIST]),
        **_money("guardrail.run.", int(run.get("cost") or 0), int(run.get("saved") or 0)),
    }
    _put(
        attributes,
        {
            "guardrail.run.name": run.get("name"),
            "guardrail.run.status_reason": run.get("status_reason"),
            "guardrail.run.source": run.get("source"),
            "guardrail.policy.version": run.get("policy"),
            "guardrail.key": run.get("key"),
            "guardrail.team": run.get("team"),
            "session.id": run.get("session"),
            "user.id": run.get("user"),
        },
    )
    attributes |= {f"guardrail.tag.{tag}": value for tag, value in tags.items()}
    if conventions != "openinference":
        attributes["gen_ai.operation.name"] = "invoke_agent"
        _put(attributes, {"gen_ai.agent.name": name, "gen_ai.conversation.id": run.get("session")})
    if conventions != "genai":
        attributes["openinference.span.kind"] = "AGENT"
        _put(attributes, {"agent.name": name})
    error = status if status in STOPPED else ""
    if error:
        attributes["error.type"] = error
    links: list[tuple[Context, str]] = []
    for relation in ("continues", "parent"):
        if other := run.get(relation):
            links.append((run_context(other), relation))
    links += [(run_context(child), "child") for child in list(run.get("children") or ())[:MAX_LIST]]
    return Span(
        f"invoke_agent {clean(name, 128)}".rstrip(),
        root,
        None,
        "internal",
        start * 1_000_000,
        end * 1_000_000,
        attributes,
        links,
        error,
    )


def _served(step: StepFacts) -> AttemptFacts | None:
    """The attempt that the client's answer comes from, else the last one."""
    own = [one for one in step.attempts if not one.aside]
    return own[-1] if own else None


def _error_of(step: StepFacts, served: AttemptFacts | None) -> str:
    if step.refused is not None:
        return clean(step.refused.code, 64)
    if served is not None and served.outcome != "ok":
        return clean(served.error or served.outcome, 64)
    return "disconnected" if step.left else ""


def _about(step: StepFacts) -> dict[str, Value]:
    """What only this gateway has words for, and what every convention shares."""
    cost = sum(one.cost for one in step.attempts)
    saved = sum(one.saved for one in step.attempts)
    about: dict[str, Value] = {
        "guardrail.run.id": step.run,
        "guardrail.step": step.ordinal,
        "guardrail.decision.id": step.decision,
        "guardrail.attempts": len(step.attempts),
        "guardrail.surface": step.surface,
        **_money("guardrail.", cost, saved),
    }
    served = _served(step)
    refused = step.refused
    rules = [d for d in step.decisions if d.get("rule")]
    _put(
        about,
        {
            "guardrail.verdict": step.verdict,
            "guardrail.request.id": step.request_id,
            "guardrail.policy.version": step.policy,
            "guardrail.run.name": step.run_name,
            "guardrail.key": step.key,
            "guardrail.team": step.team,
            "guardrail.outcome": served.outcome if served is not None else ("refused" if refused else ""),
            "guardrail.tool_calls": [clean(name, 128) for name in served.called] if served else (),
            "guardrail.checks": step.checks,
            "guardrail.rules": list(dict.fromkeys(str(d["rule"]) for d in rules)),
            "guardrail.decisions": [
                f"{d['rule']}:{d.get('mode', '')}:{d.get('decision', '')}" for d in rules
            ],
            "guardrail.findings": list(
                dict.fromkeys(
                    ":".join(str(found.get(name, "")) for name in ("detector", "channel", "action", "mode"))
                    for found in step.findings
                )
            ),
            "session.id": step.session,
            "user.id": step.user,
        },
    )
    if step.tags:
        about |= {f"guardrail.tag.{name}": value for name, value in _tags(step.tags).items()}
    if refused is not None:
        _put(
            about,
            {
                "guardrail.refusal.code": refused.code,
                "guardrail.refusal.rule": refused.rule,
                "guardrail.refusal.scope": refused.scope,
                "guardrail.refusal.decision": refused.decision,
            },
        )
        if refused.limit or refused.used:
            about["guardrail.refusal.limit"], about["guardrail.refusal.used"] = refused.limit, refused.used
    if served is not None:
        about |= _timing(served)
    if step.overhead_ms is not None:
        about["guardrail.overhead_ms"] = round(step.overhead_ms, 3)
    if step.content_dropped:
        about["guardrail.content.dropped"] = True
    return about


def _timing(one: AttemptFacts) -> dict[str, Value]:
    told: dict[str, Value] = {}
    if one.ttft_ms is not None:
        told["guardrail.ttft_ms"] = round(one.ttft_ms, 3)
    if one.queued_ms:
        told["guardrail.queued_ms"] = one.queued_ms
    if one.kept:
        told["guardrail.cached"] = True
    return told


def _genai(step: StepFacts, served: AttemptFacts | None, operation: str) -> dict[str, Value]:
    told: dict[str, Value] = {"gen_ai.operation.name": operation}
    params = step.params
    _put(
        told,
        {
            "gen_ai.request.model": step.requested_model,
            "gen_ai.conversation.id": step.session,
            "gen_ai.agent.name": step.agent or step.run_name,
        },
    )
    if step.stream:
        told["gen_ai.request.stream"] = True
    for name, attribute in (
        ("max_tokens", "gen_ai.request.max_tokens"),
        ("temperature", "gen_ai.request.temperature"),
        ("top_p", "gen_ai.request.top_p"),
        ("choices", "gen_ai.request.choice.count"),
    ):
        if name in params:
            told[attribute] = params[name]
    if served is None:
        return told
    told |= _place(served)
    _put(
        told,
        {
            "gen_ai.response.model": served.response_model or served.model,
            "gen_ai.response.id": served.response_id,
            "gen_ai.response.finish_reasons": [served.finish_reason] if served.finish_reason else (),
        },
    )
    if served.ttft_ms is not None:
        told["gen_ai.response.time_to_first_chunk"] = round(served.ttft_ms / 1000, 6)
    read, wrote = _tokens(step.attempts)
    told["gen_ai.usage.input_tokens"], told["gen_ai.usage.output_tokens"] = read, wrote
    for attribute, buckets in (
        ("gen_ai.usage.cache_read.input_tokens", ("cache_read",)),
        ("gen_ai.usage.cache_creation.input_tokens", ("cache_write_5m", "cache_write_1h")),
        ("gen_ai.usage.reasoning.output_tokens", ("output_reasoning",)),
    ):
        if amount := _sum(step.attempts, buckets):
            told[attribute] = amount
    return told


def _openinference(step: StepFacts, served: AttemptFacts | None) -> dict[str, Value]:
    kinds = {"embeddings": "EMBEDDING", "moderations": "GUARDRAIL", "passthrough": "CHAIN"}
    kind = kinds.get(step.surface, "LLM")
    told: dict[str, Value] = {
        "openinference.span.kind": "GUARDRAIL" if served is None and step.refused is not None else kind
    }
    _put(told, {"agent.name": step.agent or step.run_name})
    params = {name: value for name, value in step.params.items() if name != "choices"}
    if step.stream:
        params["stream"] = True
    if kind == "LLM":
        told["llm.invocation_parameters"] = orjson.dumps(params).decode()
    model = (served.response_model or served.model) if served is not None else step.requested_model
    told["embedding.model_name" if kind == "EMBEDDING" else "llm.model_name"] = clean(model)
    if served is None:
        return told
    told["llm.provider"] = provider_name(served.provider, served.url)
    read, wrote = _tokens(step.attempts)
    told["llm.token_count.prompt"], told["llm.token_count.completion"] = read, wrote
    told["llm.token_count.total"] = read + wrote
    told["llm.cost.total"] = sum(one.cost for one in step.attempts) / NANO_PER_USD
    for attribute, buckets in (
        ("llm.token_count.prompt_details.cache_read", ("cache_read",)),
        ("llm.token_count.prompt_details.cache_write", ("cache_write_5m", "cache_write_1h")),
        ("llm.token_count.completion_details.reasoning", ("output_reasoning",)),
    ):
        if amount := _sum(step.attempts, buckets):
            told[attribute] = amount
    return told


def _attempt(
    step: StepFacts, parent: Context, number: int, one: AttemptFacts, conventions: Conventions
) -> Span:
    """One of several calls. Its tokens have names of their own: those of the step are their sum."""
    read, wrote = _tokens([one])
    told: dict[str, Value] = {
        "guardrail.run.id": step.run,
        "guardrail.attempt.id": one.id,
        "guardrail.attempt.number": number,
        "guardrail.attempt.outcome": one.outcome,
        "guardrail.attempt.input_tokens": read,
        "guardrail.attempt.output_tokens": wrote,
        **_money("guardrail.attempt.", one.cost, one.saved),
        **_timing(one),
    }
    if one.aside:
        told["guardrail.attempt.aside"] = True
    if conventions != "openinference":
        told["gen_ai.request.model"] = clean(one.model)
        told |= _place(one)
    if conventions != "genai":
        told["openinference.span.kind"] = "CHAIN"
    if one.status is not None:
        told["http.response.status_code"] = one.status
    error = "" if one.outcome == "ok" else clean(one.error or one.outcome, 64)
    if error:
        told["error.type"] = error
    return Span(
        f"attempt {number} {clean(one.model, 128)}".rstrip(),
        Context(parent.trace, span_id("attempt", one.id)),
        parent,
        "client",
        one.start,
        max(one.start, one.end),
        told,
        [],
        error,
    )


def _tools(step: StepFacts, root: Context, own: Context, conventions: Conventions) -> list[Span]:
    """The tools whose results the request brings, as the wire shows them."""
    spans = []
    start = min(step.results_from or step.start, step.start)
    arguments, results = _tool_texts(step.content)
    for number, result in enumerate(step.results[:MAX_TOOLS]):
        name = clean(result.get("name") or "unknown", 128)
        call = str(result.get("call_id") or number)
        ok = result.get("ok") is not False
        error = "" if ok else clean(result.get("error_type") or "error", 64)
        told: dict[str, Value] = {
            "guardrail.run.id": step.run,
            "guardrail.step": step.ordinal,
            "guardrail.tool.outcome": clean(result.get("status") or ("ok" if ok else "error"), 32),
        }
        _put(told, {"session.id": step.session, "user.id": step.user})
        if error:
            told["error.type"] = error
        size = 0
        if conventions != "openinference":
            told["gen_ai.operation.name"] = "execute_tool"
            told["gen_ai.tool.name"] = name
            _put(told, {"gen_ai.tool.call.id": result.get("call_id"), "gen_ai.conversation.id": step.session})
            if call in arguments:
                told["gen_ai.tool.call.arguments"] = arguments[call]
            if call in results:
                told["gen_ai.tool.call.result"] = results[call]
        if conventions != "genai":
            told["openinference.span.kind"] = "TOOL"
            told["tool.name"] = name
            _put(told, {"tool_call.id": result.get("call_id")})
            if call in arguments:
                told["input.value"] = arguments[call]
            if call in results:
                told["output.value"] = results[call]
        size += len(arguments.get(call, "")) + len(results.get(call, ""))
        spans.append(
            Span(
                f"execute_tool {name}",
                Context(root.trace, span_id("tool", step.run, str(step.ordinal), call, name)),
                root,
                "internal",
                start,
                step.start,
                told,
                [(own, "step")],
                error,
                size=size,
            )
        )
    return spans


# -- values ------------------------------------------------------------------------------------------


def clean(value: object, limit: int = MAX_TEXT) -> str:
    """A text for an attribute: short, and one that UTF-8 can say."""
    text = value if type(value) is str else str(value)
    if len(text) > limit:
        text = text[:limit]
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _put(told: dict[str, Value], values: Mapping[str, object]) -> None:
    """Add what there is of these texts and lists of texts."""
    for name, value in values.items():
        if not value:
            continue
        kind = type(value)
        if kind is list or kind is tuple:
            told[name] = tuple([clean(one) for one in value[:MAX_LIST]])  # type: ignore[index]
        else:
            told[name] = clean(value)


def _tags(tags: object) -> dict[str, str]:
    if not tags or not isinstance(tags, Mapping):
        return {}
    return {clean(name, 64): clean(value) for name, value in list(tags.items())[:MAX_TAGS]}


def _money(prefix: str, cost: Nano, saved: Nano) -> dict[str, Value]:
    """Dollars for charts, and the exact figure."""
    told: dict[str, Value] = {f"{prefix}cost_usd": cost / NANO_PER_USD, f"{prefix}cost_nanousd": cost}
    if saved:
        told[f"{prefix}saved_usd"] = saved / NANO_PER_USD
    return told


_READ = ("input_uncached", "cache_read", "cache_write_5m", "cache_write_1h", "audio_in", "image_in")
_WROTE = ("output_text", "output_reasoning", "audio_out", "image_out")


def _sum(attempts: Sequence[AttemptFacts], buckets: Sequence[str]) -> int:
    total = 0
    for one in attempts:
        for bucket, amount in one.usage.items():
            if bucket in buckets:
                total += amount
    return total


def _tokens(attempts: Sequence[AttemptFacts]) -> tuple[int, int]:
    return _sum(attempts, _READ), _sum(attempts, _WROTE)


def _place(one: AttemptFacts) -> dict[str, Value]:
    told: dict[str, Value] = {"gen_ai.provider.name": provider_name(one.provider, one.url)}
    host, port = _address(one.url)
    if host:
        told["server.address"], told["server.port"] = host, port
    return told


@lru_cache(maxsize=256)
def provider_name(provider: str, url: str) -> str:
    """The provider by its well-known name, else as the policy calls it."""
    host, _ = _address(url)
    for ending, name in _HOSTS:
        if host == ending or host.endswith(f".{ending}"):
            return name
    return clean(provider, 64)


@lru_cache(maxsize=256)
def _address(url: str) -> tuple[str, int]:
    try:
        parts = urlsplit(url)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return "", 0


# -- content -----------------------------------------------------------------------------------------


def _tool_texts(content: Content | None) -> tuple[dict[str, str], dict[str, str]]:
    """Arguments and results by call id."""
    if content is None:
        return {}, {}
    calls = {one.id: one.text for one in content.input if one.kind == "call"}
    return calls, {one.id: one.text for one in content.input if one.kind == "result"}


def _genai_content(content: Content) -> dict[str, Value]:
    told: dict[str, Value] = {}
    if content.system:
        told["gen_ai.system_instructions"] = _json(
            [{"type": "text", "content": m.text} for m in content.system]
        )
    if content.input:
        told["gen_ai.input.messages"] = _json(_parts(content.input))
    if content.output:
        told["gen_ai.output.messages"] = _json(_parts(content.output))
    if content.omitted:
        told["guardrail.content.omitted"] = content.omitted
    return told


def _parts(messages: Sequence[Message]) -> list[Json]:
    out: list[Json] = []
    for one in messages:
        part: Json
        if one.kind == "call":
            part = {"type": "tool_call", "id": one.id, "name": one.name, "arguments": one.text}
        elif one.kind == "result":
            part = {"type": "tool_call_response", "id": one.id, "response": one.text}
        else:
            part = {"type": "text", "content": one.text}
        if out and out[-1]["role"] == one.role:
            out[-1]["parts"].append(part)
        else:
            out.append({"role": one.role, "parts": [part]})
    return out


def _openinference_content(content: Content) -> dict[str, Value]:
    told: dict[str, Value] = {}
    for side, messages in (("input", [*content.system, *content.input]), ("output", content.output)):
        calls: dict[int, int] = {}
        at, role = -1, ""
        for one in messages:
            if one.role != role or one.kind != "call":
                at, role = at + 1, one.role
            prefix = f"llm.{side}_messages.{at}.message"
            told[f"{prefix}.role"] = one.role
            if one.kind == "call":
                number = calls.get(at, 0)
                calls[at] = number + 1
                call = f"{prefix}.tool_calls.{number}.tool_call"
                told[f"{call}.id"], told[f"{call}.function.name"] = one.id, one.name
                told[f"{call}.function.arguments"] = one.text
            else:
                told[f"{prefix}.content"] = one.text
                if one.kind == "result":
                    told[f"{prefix}.tool_call_id"] = one.id
        if messages:
            told[f"{side}.value"] = messages[-1].text
            told[f"{side}.mime_type"] = "text/plain"
    if content.omitted:
        told["guardrail.content.omitted"] = content.omitted
    return told


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
