"""`gateway test POLICY`: a policy's own tests, a step in and the decision expected.

Each test plays one agent before a gateway of its own, in this process, with the simulated provider in the
place of every provider of the policy. Nothing leaves the machine, and nothing is kept.
"""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError

from gateway.domain import Json, RunStatus, Verdict
from gateway.errors import CODES
from gateway.policy import document
from gateway.policy.document import Document, KeyPath
from gateway.policy.fields import EXPECTED, Count, Label, Mode, Name, OneOrMore, one_of, unexpected
from gateway.policy.messages import Mistake, PolicyError, guess, mistake_at, path_text, quoted, value_text
from gateway.policy.models import Policy
from gateway.policy.sections.base import Section
from gateway.replay.rehearsal import CALLER_KEY, START_S, before, listening, policy_to_test, quiet
from gateway.testing import Ask, ProviderServer, Reply, error_reply, running_provider
from gateway.values import frozen

SUFFIXES = (".test.yaml", ".test.yml")

# -- the file ----------------------------------------------------------------------------------------


def _entries(value: Any) -> Any:
    """A list of one may be written without brackets."""
    return value if isinstance(value, list) or value is None else [value]


def _named(kind: str, inside: type) -> Callable[[Any], Any]:
    """A check of `{name: value}`, or of a text: the name of a call, the value of a result."""

    def check(value: Any) -> Any:
        if isinstance(value, str):
            return {value: {}} if inside is dict else {"": value}
        if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), inside):
            return value
        raise unexpected(kind)

    return check


def _answer(value: Any) -> Any:
    return {"text": value} if isinstance(value, str) else value


def _rule(value: Any) -> Any:
    return {"rule": value} if isinstance(value, str) else value


ScriptedCall = Annotated[
    Mapping[str, Mapping[str, Any]],
    BeforeValidator(_named("a call such as {refund: {amount_usd: 80}}, or the name of a tool", dict)),
]
Result = Annotated[
    Mapping[str, str],
    BeforeValidator(_named("what a tool answers, as text or as {search: text}", str)),
]
Texts = Annotated[tuple[str, ...], OneOrMore]
Words = Annotated[tuple[Label, ...], OneOrMore]


class Scripted(Section):
    """What the simulated model says when it is asked."""

    text: str = ""
    """Its text."""
    calls: Annotated[tuple[ScriptedCall, ...], BeforeValidator(_entries)] = ()
    """Its tool calls. It makes none when the request lets it use no tool."""
    echo: bool = False
    """It says what the user said last, as that reached it."""
    status: Annotated[int, Field(ge=400, le=599)] | None = None
    """It fails with this HTTP status."""


class DecidedBy(Section):
    """A rule that must have decided something, or found something."""

    rule: Label
    """Its name, as `gateway show RUN` tells it; `screening.DETECTOR` for a finding."""
    mode: Mode = "enforce"
    """In which mode."""
    why: Label | None = None
    """The reason it gave, such as `approval_pending`; any when left out."""


class Expect(Section):
    """What must come of a test. Keys that are left out are not looked at."""

    status: Annotated[int, Field(ge=200, le=599)] | None = None
    """HTTP status of the last answer."""
    code: Label | None = None
    """Error code of the last answer."""
    verdict: Verdict | None = None
    """Verdict on the last step."""
    model: Label | None = None
    """Model that served the last step."""
    rules: Annotated[tuple[Annotated[DecidedBy, BeforeValidator(_rule)], ...], BeforeValidator(_entries)] = ()
    """Rules that must have decided or found something in any step."""
    not_sent: Texts = ()
    """Texts that must not reach the provider."""
    sent: Texts = ()
    """Texts that must reach the provider."""
    withheld: Words = ()
    """Tools of the request that the model must never see."""
    delivered: Words | None = None
    """Names of the calls that the agent gets in the last answer, in their order."""
    text: str | None = None
    """The whole text of the last answer."""
    text_contains: Texts = ()
    """Texts that must stand in the last answer."""
    steps: Count | None = None
    """How many requests the agent came to make."""
    run_status: RunStatus | None = None
    """How the run stands afterwards."""


class Case(Section):
    """One test."""

    name: Label
    """What it shows."""
    surface: Literal["chat", "responses", "messages"] = "chat"
    """Wire API that the agent speaks."""
    key: Name | None = None
    """Key of the policy that the agent uses, by its name; the first when left out."""
    headers: Mapping[Name, Label] = {}
    """Headers of the requests besides, such as `x-guardrail-tags`."""
    request: Mapping[str, Any] | None = None
    """The whole first request, instead of `model`, `user`, `tools` and `results`."""
    model: Label | None = None
    """Model asked for; the first of the policy that is no wildcard when left out."""
    user: str = "Hello."
    """What the user says."""
    tools: Words = ()
    """Tools that the request offers, by name."""
    results: Annotated[tuple[Result, ...], BeforeValidator(_entries)] = ()
    """What tools have answered already, and what they answer again: texts, or {TOOL: text}."""
    answer: Annotated[
        tuple[Annotated[Scripted, BeforeValidator(_answer)], ...],
        BeforeValidator(_entries),
        Field(min_length=1),
    ] = (Scripted(text="Fine."),)
    """What the model says, each time that it is asked; the last answer stays."""
    repeat: Annotated[Count, Field(le=500)] = 1
    """So many steps. With tools the agent gives the results back and ends at an answer without calls;
    without, the user says the same again. It ends when it is refused."""
    expect: Expect
    """What must come of it."""


class TestFile(Section):
    """A file of tests."""

    __test__ = False

    tests: Annotated[tuple[Case, ...], Field(min_length=1)]
    """The tests, each independent of the others."""


@frozen
class Suite:
    """A file of tests that was read, with where everything in it is written."""

    cases: tuple[Case, ...]
    written: Document


def files_beside(policy: Path) -> list[Path]:
    """The test files of a policy file, or of a policy folder."""
    if policy.is_dir():
        return sorted(p for p in policy.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    return [path for suffix in SUFFIXES if (path := policy.with_name(policy.stem + suffix)).exists()]


def files_at(path: Path) -> list[Path]:
    """A file of tests as named, or the test files of a folder."""
    return files_beside(path) if path.is_dir() else [path]


def read_suite(path: Path, policy: Policy) -> Suite:
    """The tests in a file. Raises `PolicyError` with every mistake found."""
    try:
        content = path.read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise PolicyError([Mistake(path.name, 0, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise PolicyError(
            [Mistake(path.name, 0, "", "got a byte that is no UTF-8, expected UTF-8 text")]
        ) from None
    if len(content) > document.MAX_BYTES:
        limit = f"got more than {document.MAX_BYTES:,} bytes, expected fewer"
        raise PolicyError([Mistake(path.name, 0, "", limit)])
    node, problems = document.read(text, path.name)
    mistakes = [Mistake(p.place.file, p.place.line, path_text(p.path), p.problem) for p in problems]
    if node is None or not isinstance(node.value, dict):
        raise PolicyError(
            mistakes or [Mistake(path.name, 1, "", "got something else, expected `tests: [...]`")]
        )
    written = document.flatten(node)
    cases: tuple[Case, ...] = ()
    try:
        cases = TestFile.model_validate(_plain(written.data)).tests
    except ValidationError as error:
        for details in error.errors(include_url=False):
            # A list whose only entry is wrong is also reported as too short.
            if details["type"] != "too_short" or written.at(_path(written, details["loc"])) == []:
                mistakes.append(_mistake(written, details))
    mistakes += [m for n, case in enumerate(cases) for m in _against(policy, written, n, case)]
    if mistakes:
        raise PolicyError(dict.fromkeys(sorted(mistakes, key=lambda m: m.line)))
    return Suite(cases, written)


def _plain(value: Any) -> Any:
    """The values of a document as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return float(value) if isinstance(value, Decimal) else value


_EXPECTED = {
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "too_short": "at least one entry",
}


def _mistake(written: Document, details: Any) -> Mistake:
    """What pydantic found, in our words."""
    path = _path(written, details["loc"])
    value, kind, context = written.at(path), details["type"], details.get("ctx", {})
    got, hint = value_text(value), ""
    if kind == "extra_forbidden":
        siblings = _keys_at(path[:-1])
        got, expected = "an unknown key", f"one of {', '.join(siblings)}"
        hint = guess(path[-1], siblings)
    elif kind == EXPECTED:
        expected, hint = context["expected"], guess(value, context["near"])
    elif kind == "missing":
        got, expected = "nothing", "a value for it"
    elif kind in ("literal_error", "enum"):
        words = tuple(re.findall(r"'([^']*)'", context["expected"]))
        expected, hint = one_of(words), guess(value, words)
    elif kind in ("greater_than_equal", "less_than_equal"):
        word = "at least" if kind.startswith("greater") else "at most"
        expected = f"{word} {context['ge' if word == 'at least' else 'le']}"
    else:
        expected = _EXPECTED.get(kind, "a whole number" if kind.startswith("int") else "another value")
    return mistake_at(written, path, f"got {got}, expected {expected}{hint}")


def _path(written: Document, loc: KeyPath) -> KeyPath:
    """Pydantic's location as a path in the document, where a list of one may stand without brackets."""
    path: KeyPath = ()
    for part in loc:
        here = written.at(path)
        if (isinstance(part, int) and isinstance(here, list)) or (
            isinstance(part, str) and isinstance(here, dict)
        ):
            path = (*path, part)
    return path


def _keys_at(path: KeyPath) -> tuple[str, ...]:
    """The keys of the section at a path."""
    words = [part for part in path if isinstance(part, str)]
    sections: dict[tuple[str, ...], type[Section]] = {
        (): TestFile,
        ("tests",): Case,
        ("tests", "answer"): Scripted,
        ("tests", "expect"): Expect,
        ("tests", "expect", "rules"): DecidedBy,
    }
    section = sections.get(tuple(words), Section)
    return tuple(section.model_fields)


def _against(policy: Policy, written: Document, n: int, case: Case) -> Iterator[Mistake]:
    """What holds between the parts of a test, and between a test and its policy."""
    at: KeyPath = ("tests", n)

    def mistake(path: KeyPath, expected: str, words: Iterable[str] = ()) -> Mistake:
        value = written.at((*at, *path))
        problem = f"got {value_text(value)}, expected {expected}{guess(value, tuple(words))}"
        return mistake_at(written, (*at, *path), problem)

    names = [key.name for key in policy.keys]
    if case.key is not None and case.key not in names:
        expected = (
            f"a key of the policy: {one_of(tuple(names))}" if names else "nothing: the policy has no keys"
        )
        yield mistake(("key",), expected, names)
    whole = [name for name in ("model", "user", "tools", "results") if name in case.model_fields_set]
    if case.request is not None and whole:
        yield mistake((whole[0],), "it inside `request`, which stands for the whole conversation")
    if case.request is not None and case.request.get("stream"):
        yield mistake(("request", "stream"), "nothing: answers of tests are not streamed")
    asked = case.model or (case.request or {}).get("model")
    if asked is None and _first_model(policy) is None:
        yield mistake_at(written, at, "got no `model`, expected one: every model of the policy is a wildcard")
    if case.results and not case.tools:
        yield mistake(("results",), "`tools` beside it: they are what tools answered")
    for i, result in enumerate(case.results):
        name = next(iter(result))
        if name and case.tools and name not in case.tools:
            expected = f"one of {', '.join(case.tools)}{guess(name, case.tools)}"
            problem = f"got a result of {quoted(name)}, expected {expected}"
            yield mistake_at(written, (*at, "results", i), problem)
    offered = _offered(case)
    for i, name in enumerate(case.expect.withheld):
        if name not in offered:
            expected = f"a tool that the request offers{guess(name, offered)}"
            yield mistake_at(
                written, (*at, "expect", "withheld", i), f"got {quoted(name)}, expected {expected}"
            )
    code = case.expect.code
    if code is not None and code not in CODES and not any(answer.status for answer in case.answer):
        yield mistake(("expect", "code"), "an error code of docs/errors.md", CODES)
    if not case.expect.model_fields_set:
        yield mistake(("expect",), f"at least one of {', '.join(Expect.model_fields)}")


def _offered(case: Case) -> tuple[str, ...]:
    if case.request is None:
        return case.tools
    tools = case.request.get("tools")
    return tuple(map(_tool_name, tools)) if isinstance(tools, list) else ()


def _tool_name(tool: Any) -> str:
    if not isinstance(tool, dict):
        return ""
    inner = tool.get("function")
    return str(inner.get("name") if isinstance(inner, dict) else tool.get("name") or tool.get("type"))


def _first_model(policy: Policy) -> str | None:
    return next((name for name in policy.models if not name.endswith("*")), None)


# -- the agent ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Said:
    """An answer as the agent reads it."""

    status: int
    headers: Mapping[str, str]
    text: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """(id, tool, arguments as JSON)."""
    code: str | None = None


_PATHS = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
_HISTORY = {"chat": "messages", "responses": "input", "messages": "messages"}
_ANY = {"type": "object", "properties": {}}


def _first_request(case: Case, policy: Policy) -> Json:
    body: Json = dict(case.request) if case.request is not None else {}
    body.setdefault("model", case.model or _first_model(policy))
    if case.surface == "messages":
        body.setdefault("max_tokens", 1024)
    if case.request is not None:
        return body
    history: list[Json] = [{"role": "user", "content": case.user}]
    for i, result in enumerate(case.results):
        name, text = next(iter(result.items()))
        called = Said(200, {}, calls=[(f"call_{i}", name or case.tools[0], "{}")])
        history += _turn(case.surface, called, {called.calls[0][1]: text})
    body[_HISTORY[case.surface]] = history
    if case.tools:
        body["tools"] = [_definition(case.surface, name) for name in case.tools]
    return body


def _definition(surface: str, name: str) -> Json:
    if surface == "messages":
        return {"name": name, "input_schema": _ANY}
    if surface == "responses":
        return {"type": "function", "name": name, "parameters": _ANY}
    return {"type": "function", "function": {"name": name, "parameters": _ANY}}


def _turn(surface: str, said: Said, results: Mapping[str, str]) -> list[Json]:
    """An answer and the results of its calls, as they stand in the next request."""

    def result(name: str) -> str:
        return results.get(name, f"result of {name}")

    if surface == "responses":
        items: list[Json] = [{"role": "assistant", "content": said.text}] if said.text else []
        items += [
            {"type": "function_call", "call_id": id_, "name": name, "arguments": arguments}
            for id_, name, arguments in said.calls
        ]
        return items + [
            {"type": "function_call_output", "call_id": id_, "output": result(name)}
            for id_, name, _ in said.calls
        ]
    if surface == "messages":
        blocks: list[Json] = [{"type": "text", "text": said.text}] if said.text else []
        blocks += [
            {"type": "tool_use", "id": id_, "name": name, "input": json.loads(arguments)}
            for id_, name, arguments in said.calls
        ]
        told = [
            {"type": "tool_result", "tool_use_id": id_, "content": result(name)}
            for id_, name, _ in said.calls
        ]
        spoken: list[Json] = [{"role": "assistant", "content": blocks}] if blocks else []
        return spoken + ([{"role": "user", "content": told}] if told else [])
    message: Json = {"role": "assistant", "content": said.text or None}
    if said.calls:
        message["tool_calls"] = [
            {"id": id_, "type": "function", "function": {"name": name, "arguments": arguments}}
            for id_, name, arguments in said.calls
        ]
    return [
        message,
        *({"role": "tool", "tool_call_id": id_, "content": result(name)} for id_, name, _ in said.calls),
    ]


def _read(surface: str, status: int, headers: Mapping[str, str], raw: bytes) -> Said:
    said = Said(status, headers)
    try:
        body: Any = json.loads(raw)
    except ValueError:
        return said
    error = body.get("error")
    if status >= 400 or error:
        error = error if isinstance(error, dict) else {}
        details = error.get("details") or {}
        said.code = str(details.get("error_code") or error.get("code") or error.get("type"))
        return said
    if surface == "chat":
        message = body["choices"][0]["message"]
        said.text = message.get("content") or ""
        said.calls = [
            (call["id"], call["function"]["name"], call["function"]["arguments"])
            for call in message.get("tool_calls") or ()
        ]
        return said
    for part in body["output"] if surface == "responses" else body["content"]:
        match part["type"]:
            case "message":
                said.text += "".join(piece.get("text", "") for piece in part["content"])
            case "text":
                said.text += part["text"]
            case "function_call":
                said.calls.append((part["call_id"], part["name"], part["arguments"]))
            case "tool_use":
                said.calls.append((part["id"], part["name"], json.dumps(part["input"])))
    return said


@dataclass(slots=True)
class _Model:
    """The simulated model of one test."""

    answers: tuple[Scripted, ...]
    asked: int = 0

    def __call__(self, ask: Ask) -> Reply:
        answer = self.answers[min(self.asked, len(self.answers) - 1)]
        self.asked += 1
        if answer.status is not None:
            return error_reply(answer.status)
        calls = [next(iter(call.items())) for call in answer.calls] if ask.tools else []
        text = ask.last_user_text if answer.echo else answer.text
        return Reply(
            text or ("" if calls else "That is what I know."),
            tool_calls=[(name, dict(arguments)) for name, arguments in calls],
        )


# -- a test ------------------------------------------------------------------------------------------


@frozen
class Played:
    """What came of a test."""

    last: Said
    steps: int
    sent: tuple[bytes, ...]
    """Bodies that the provider got."""
    run_status: str | None
    rules: frozenset[tuple[str, str, str]]
    """(rule, mode, why)."""


def play(case: Case, policy: Policy, provider: ProviderServer) -> Played:
    """Run a test. Raises `PolicyError` when no gateway starts with the policy."""
    first = provider.journal.received
    seen = provider.journal[-1].number if len(provider.journal) else 0
    provider.script("policy-test", _Model(case.answer))
    with listening(policy) as gateway:
        last, steps = _converse(case, policy, gateway.port)
        run_status, record = gateway.record()
    provider.wait_idle_blocking(received=first)
    sent = tuple(attempt.body for attempt in provider.journal if attempt.number > seen)
    return Played(last, steps, sent, run_status, frozenset(_rules(record)))


def _converse(case: Case, policy: Policy, port: int) -> tuple[Said, int]:
    body = _first_request(case, policy)
    results = {
        (name or (case.tools or ("",))[0]): text for result in case.results for name, text in result.items()
    }
    said = Said(0, {})
    history = _HISTORY[case.surface]
    for step in range(1, case.repeat + 1):
        said = _ask(case, policy, port, body)
        if said.status != 200 or step == case.repeat or (_offered(case) and not said.calls):
            return said, step
        so_far = body.get(history) or []
        if isinstance(so_far, str):
            so_far = [{"role": "user", "content": so_far}]
        again = [
            next(
                (item for item in reversed(so_far) if isinstance(item, dict) and item.get("role") == "user"),
                None,
            )
        ]
        added = _turn(case.surface, said, results)
        body = {**body, history: [*so_far, *added, *([] if said.calls else filter(None, again))]}
    return said, case.repeat


def _ask(case: Case, policy: Policy, port: int, body: Json) -> Said:
    headers = {"content-type": "application/json"}
    if case.surface == "messages":
        headers["anthropic-version"] = "2023-06-01"
    if policy.auth.mode != "open":
        key = next((k for k in policy.keys if k.name == case.key), policy.keys[0] if policy.keys else None)
        secret = key.key.get_secret_value() if key is not None else CALLER_KEY
        headers["authorization"] = f"Bearer {secret}"
    headers |= {name.lower(): value for name, value in case.headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_S)
    try:
        encoded = {name: value.encode() for name, value in headers.items()}
        connection.request("POST", _PATHS[case.surface], json.dumps(body).encode(), encoded)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return _read(case.surface, answer.status, told, answer.read())
    except (OSError, http.client.HTTPException):
        return Said(0, {}, code="no answer")
    finally:
        connection.close()


def _rules(record: Iterable[Json]) -> Iterator[tuple[str, str, str]]:
    for step in record:
        for decision in step["decisions"]:
            why = decision.get("why") or decision.get("code") or ""
            yield str(decision["rule"]), str(decision.get("mode", "enforce")), str(why)
        for finding in step["findings"]:
            detector = str(finding["detector"])
            name = detector if detector == "claims" else f"screening.{detector}"
            yield name, str(finding["mode"]), str(finding["action"])


# -- what is expected --------------------------------------------------------------------------------


def unmet(case: Case, played: Played) -> Iterator[tuple[KeyPath, str]]:
    """What was expected and did not come: its path under `expect`, and what came instead."""
    expect, last = case.expect, played.last
    verdict = last.headers.get("x-guardrail-verdict")
    plain: list[tuple[str, Any, Any]] = [
        ("status", last.status, expect.status),
        ("code", last.code, expect.code),
        ("verdict", verdict, expect.verdict),
        ("model", last.headers.get("x-guardrail-model"), expect.model),
        ("text", last.text, expect.text),
        ("steps", played.steps, expect.steps),
        ("run_status", played.run_status, expect.run_status),
    ]
    for name, got, wanted in plain:
        if wanted is not None and got != wanted:
            why = f" ({last.code})" if name in ("status", "verdict") and last.code else ""
            yield (name,), f"got {value_text(got)}{why}, expected {value_text(wanted)}"
    yield from _rules_unmet(expect, played)
    names = tuple(name for _, name, _ in last.calls)
    if expect.delivered is not None and names != expect.delivered:
        got = _listed(names) if last.status == 200 else f"{_listed(names)} (status {last.status})"
        yield ("delivered",), f"got {got}, expected {_listed(expect.delivered)}"
    for i, text in enumerate(expect.text_contains):
        if text not in last.text:
            yield ("text_contains", i), f"got {value_text(last.text)}, expected it to hold {quoted(text)}"
    yield from _sent_unmet(expect, played)


def _rules_unmet(expect: Expect, played: Played) -> Iterator[tuple[KeyPath, str]]:
    names = tuple(sorted({rule for rule, _, _ in played.rules}))
    for i, wanted in enumerate(expect.rules):
        same = sorted(decided for decided in played.rules if decided[0] == wanted.rule)
        if any(mode == wanted.mode and wanted.why in (None, why) for _, mode, why in same):
            continue
        shown = same or sorted(played.rules)
        got = ", ".join(dict.fromkeys(_decision(*decided, whole=bool(same)) for decided in shown))
        expected = _decision(wanted.rule, wanted.mode, wanted.why or "", whole=bool(same))
        near = "" if same else guess(wanted.rule, names)
        yield ("rules", i), f"got {got or 'no decision'}, expected {expected}{near}"


def _decision(rule: str, mode: str, why: str, *, whole: bool) -> str:
    """A decision in a message; in its whole where its rule alone does not tell the difference."""
    more = [word for word in (mode, why) if word] if whole else [mode] if mode != "enforce" else []
    return f"{rule} ({', '.join(more)})" if more else rule


def _sent_unmet(expect: Expect, played: Played) -> Iterator[tuple[KeyPath, str]]:
    bodies = [json.loads(body) if body[:1] == b"{" else {} for body in played.sent]
    told = "\n".join(text for body in bodies for text in _texts(body))
    for i, text in enumerate(expect.not_sent):
        if text in told:
            yield ("not_sent", i), f"got {quoted(text)} sent to the provider, expected it to be kept back"
    for i, text in enumerate(expect.sent):
        if text not in told:
            why = f"in none of {len(bodies)} requests" if bodies else "and nothing was"
            yield ("sent", i), f"got {quoted(text)} not sent to the provider, {why}, expected it to be"
    seen = {_tool_name(tool) for body in bodies for tool in body.get("tools") or ()}
    for i, name in enumerate(expect.withheld):
        if name in seen:
            yield ("withheld", i), f"got {quoted(name)} shown to the model, expected it to be withheld"


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _listed(names: Iterable[str]) -> str:
    return f"[{', '.join(names)}]"


# -- the command -------------------------------------------------------------------------------------


def run(path: Path, environment: Mapping[str, str], tests: Path | None = None) -> list[Json]:
    """What came of each test of a policy: `file line name ok failures`.

    Raises: `PolicyError` for mistakes in the policy or in a test file, and when there are no tests.
    """
    policy = policy_to_test(path, environment)
    files = files_at(tests) if tests is not None else files_beside(path)
    if not files:
        named = "a file *.test.yaml in it" if (tests or path).is_dir() else f"{path.stem}.test.yaml beside it"
        raise PolicyError([Mistake(str(tests or path), 0, "", f"got no tests, expected {named}")])
    suites: list[Suite] = []
    mistakes: list[Mistake] = []
    for file in files:
        try:
            suites.append(read_suite(file, policy))
        except PolicyError as error:
            mistakes += error.mistakes
    if mistakes:
        raise PolicyError(mistakes)
    with quiet(), running_provider(default="policy-test", seed=1) as provider:
        simulated = before(provider, policy)
        return [
            _outcome(suite.written, n, case, play(case, simulated, provider))
            for suite in suites
            for n, case in enumerate(suite.cases)
        ]


def _outcome(written: Document, n: int, case: Case, played: Played) -> Json:
    failures = []
    for path, problem in unmet(case, played):
        place = written.place(("tests", n, "expect", *path))
        failures.append({"line": place.line, "path": path_text(path), "problem": problem})
    place = written.place(("tests", n))
    return {
        "file": place.file,
        "line": place.line,
        "name": case.name,
        "ok": not failures,
        "failures": failures,
    }
