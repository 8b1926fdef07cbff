"""Every control that the gateway has, one row each: what brings it about, and what client, provider and ledger
then see on every surface. A new control is a new row.

A row's key in the gateway is named like the row, so that a rule narrowed to that key concerns no other row.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Literal

from tests.integration.conftest import AT_ONCE_S
from tests.parity.scene import FORBIDDEN, MAX_BODY_BYTES, SECRET, Answer, Scene, spoken
from tests.support.gateway import wait_until
from tests.support.wire import Json, Said, error_code

Arrange = Callable[[Scene], AbstractContextManager[None]]
Act = Callable[[Scene], Answer]
When = Literal["before", "upstream", "in stream", "admitted"]

TINY = "limit_usd: 0.000001"
CLAMPED_USD, FLOODED_USD = 0.012, 0.02


@contextlib.contextmanager
def _nothing(scene: Scene) -> Iterator[None]:
    yield


def _plainly(scene: Scene) -> Answer:
    return scene.ask()


@dataclass(frozen=True)
class Control:
    """One row. `when` the answer ends otherwise than the model meant it:

    `before`      nothing is sent to the provider
    `upstream`    the provider fails, or leaves the client without an answer
    `in stream`   the answer had begun: a stream ends in its own grammar, a plain answer is an error
    `admitted`    not at all: the step goes through, changed or billed as the row says
    """

    name: str
    title: str
    when: When
    code: str | None = None
    status: int = 400
    gateway: str = "shared"
    budgets: str = ""
    """Lines of the policy, without the name of the key."""
    rates: str = ""
    models: str | None = None
    """What the row's key may reach."""
    arrange: Arrange = _nothing
    act: Act = _plainly
    check: Callable[[Scene, Answer], None] | None = None
    """What else has to hold."""
    run_status: str | None = None
    """How the run stands afterwards; None where the ledger knows of no step."""
    outcome: str | None = None
    """Of the attempt in the ledger; None where there is none."""
    forms: tuple[bool, ...] = (False, True)
    """Plain, streamed, or both."""
    on_surface: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    """Status and code where a surface has its own."""
    providers_code: Mapping[str, str] = field(default_factory=dict)
    """By the API that the provider speaks: its own code, where the answer is in its words."""
    retry: Literal["never", "soon", "silent"] = "never"
    """What the headers tell clients about asking again; `silent` leaves it to the status."""
    note: str = ""

    def expected(self, surface: str, prefix: str, stream: bool) -> tuple[int, str | None]:
        """Status and code. The status of a stream that ends with an error is 200."""
        if self.when == "admitted":
            return 200, None
        status, code = self.on_surface.get(surface, (self.status, self.code))
        code = self.providers_code.get(spoken(surface, prefix), code)
        return (200 if stream and self.when == "in stream" else status), code


# -- what brings them about ---------------------------------------------------------------------------


def _killed(scope: str) -> Arrange:
    """An operator has stopped the scope that the scene belongs to."""

    @contextlib.contextmanager
    def arrange(scene: Scene) -> Iterator[None]:
        names = {
            "run": scene.name,
            "session": scene.name,
            "model": scene.model(scene.answer_script),
        }
        if scope in ("run", "session"):
            scene.headers[f"x_guardrail_{scope}_id"] = scene.name
        with scene.killed("global" if scope == "global" else f"{scope}:{names.get(scope, scene.key)}"):
            yield

    return arrange


def _says_why(scene: Scene, answer: Answer) -> None:
    assert b"stopped by hand" in answer.raw


@contextlib.contextmanager
def _in_a_session(scene: Scene) -> Iterator[None]:
    scene.headers["x_guardrail_session_id"] = scene.name
    yield


@contextlib.contextmanager
def _tagged(scene: Scene) -> Iterator[None]:
    scene.headers["x_guardrail_tags"] = f"project={scene.name}"
    yield


def _after_others(others: int) -> Arrange:
    """After so many runs in the same session."""

    @contextlib.contextmanager
    def arrange(scene: Scene) -> Iterator[None]:
        scene.headers["x_guardrail_session_id"] = scene.name
        for i in range(others):
            scene.headers["x_guardrail_run_id"] = f"{scene.name}-{i}"
            _first(scene, scene.answer_script)
        scene.headers["x_guardrail_run_id"] = scene.name
        yield

    return arrange


@contextlib.contextmanager
def _after_a_step(scene: Scene) -> Iterator[None]:
    scene.headers["x_guardrail_run_id"] = scene.name
    _first(scene, scene.answer_script)
    yield


@contextlib.contextmanager
def _after_a_call(scene: Scene) -> Iterator[None]:
    scene.headers["x_guardrail_run_id"] = scene.name
    tools = scene.wire.tools(["lookup"])
    assert scene.ask(scene.body("call", tools=tools)).status == 200
    yield


@contextlib.contextmanager
def _after_its_time(scene: Scene) -> Iterator[None]:
    with _after_a_step(scene):
        time.sleep(0.06)
        yield


@contextlib.contextmanager
def _beside_another(scene: Scene) -> Iterator[None]:
    """While a step of the same session is answered."""
    scene.headers["x_guardrail_session_id"] = scene.name
    other = scene.begin(scene.of_kind("slow"))
    wait_until(lambda: scene.provider.journal.active, what="the other call")
    yield
    other.leave()


def _first(scene: Scene, script: str) -> None:
    answer = scene.ask(scene.body(script))
    assert answer.status == 200, answer.raw


def _asks(script: str) -> Act:
    return lambda scene: scene.ask(scene.body(script))


def _asks_kind(script: str) -> Act:
    return lambda scene: scene.ask(scene.body(scene.of_kind(script)))


def _asks_nobody(scene: Scene) -> Answer:
    return scene.ask({**scene.body(), "model": "nobody/knows"})


def _asks_unpriced(scene: Scene) -> Answer:
    return scene.ask({**scene.body(), "model": f"{scene.prefix}-unpriced/{scene.answer_script}"})


def _asks_with_a_wrong_key(scene: Scene) -> Answer:
    return scene.ask(key="gk-nobody-0123456789")


def _asks_too_much(scene: Scene) -> Answer:
    return scene.ask(scene.body(padding="x" * MAX_BODY_BYTES))


def _asks_twice_in_one(scene: Scene) -> Answer:
    raw = json.dumps(scene.body()).encode()
    return scene.ask(b'{"model":"sim/another",' + raw[1:])


def _asks_for_5000(scene: Scene) -> Answer:
    field_of = {"chat": "max_tokens", "messages": "max_tokens", "responses": "max_output_tokens"}
    return scene.ask({**scene.body(), field_of[scene.wire.name]: 5000})


def _is_stopped(scene: Scene) -> Answer:
    """The run is killed while its answer is on the way."""
    scene.headers["x_guardrail_run_id"] = scene.name
    client = scene.begin(scene.of_kind("slow") if scene.stream else "late")
    wait_until(lambda: scene.provider.journal.active, what="dispatch")
    if scene.stream:
        wait_until(lambda: client.received.count(b"word") > 2, what="the stream")
    began = time.monotonic()
    with scene.killed(f"run:{scene.name}"):
        answer = client.answer()
    assert time.monotonic() - began < AT_ONCE_S
    return answer


def _leaves(scene: Scene) -> Answer:
    """The client closes its connection before the answer is complete."""
    scene.headers["x_guardrail_run_id"] = scene.name
    client = scene.begin(scene.of_kind("slow") if scene.stream else "late")
    wait_until(lambda: scene.provider.journal.active, what="dispatch")
    if scene.stream:
        wait_until(lambda: client.received.count(b"word") > 2, what="the stream")
    client.leave()
    scene.provider.wait_idle_blocking(timeout_s=AT_ONCE_S)
    wait_until(lambda: scene.gateway.worker.data_plane.active == 0, what="settlement")
    row: Json = scene.gateway.run(lambda: _run_named(scene))
    return Answer(200, {"x-guardrail-run-id": row["id"]}, b"", Said())


async def _run_named(scene: Scene) -> Json:
    await scene.gateway.worker.drain.flush()
    found = await scene.gateway.worker.ledger.run(scene.name)
    assert found is not None
    return dict(found)


def _asks_for_the_forbidden(scene: Scene) -> Answer:
    tools = scene.wire.tools([FORBIDDEN, "lookup", "read"])
    return scene.ask(scene.body("forbidden", tools=tools))


def _offers_the_forbidden(scene: Scene) -> Answer:
    tools = scene.wire.tools([FORBIDDEN, "lookup", "read"])
    return scene.ask(scene.body(tools=tools))


# -- what else has to hold ----------------------------------------------------------------------------


def _was_withheld(scene: Scene, answer: Answer) -> None:
    tools = json.loads(scene.provider.journal.last.body)["tools"]
    assert FORBIDDEN not in json.dumps(tools)
    assert "lookup" in json.dumps(tools)
    assert FORBIDDEN not in [name for _, name, _ in answer.said.calls]


def _limit_was_lowered(scene: Scene, answer: Answer) -> None:
    assert 256 <= scene.limit_sent() < 1200
    assert answer.said.error is None
    assert answer.said.clean
    (attempt,) = scene.recorded(answer.run)
    assert attempt["reserved"] <= CLAMPED_USD * 1e9


def _is_on_record(scene: Scene, answer: Answer) -> None:
    (attempt,) = scene.recorded(answer.run)
    assert attempt["decisions"] == [{"rule": scene.key, "mode": "shadow", "decision": "refuse"}]


def _limit_was_set(scene: Scene, answer: Answer) -> None:
    assert scene.limit_sent() == scene.body().get("max_tokens", 8192)


def _was_stopped_upstream(scene: Scene, answer: Answer) -> None:
    scene.provider.wait_idle_blocking(timeout_s=AT_ONCE_S)
    assert scene.provider.journal.last.client_left
    _nothing_is_whole(scene, answer)


def _nothing_is_whole(scene: Scene, answer: Answer) -> None:
    """No half of a call may pass for a whole one."""
    for _, _, arguments in answer.said.calls:
        try:
            json.loads(arguments)
        except ValueError:
            continue
        raise AssertionError(f"a call was delivered: {arguments[:80]}")


def _says_nothing_secret(scene: Scene, answer: Answer) -> None:
    told = answer.raw + repr(answer.headers).encode()
    assert SECRET.encode() not in told
    assert b"Incorrect API key" not in told


def _in_45_seconds(scene: Scene, answer: Answer) -> None:
    """Two a minute: it is 15 seconds to the next minute, of which the first half counts the last one's in."""
    assert answer.headers["retry-after"] == "45"
    assert answer.headers["retry-after-ms"] == "45000"


def _keeps_the_providers_words(scene: Scene, answer: Answer) -> None:
    assert b"Slow down, please." in answer.raw
    assert answer.headers["retry-after"] == "60"
    error = json.loads(answer.raw)
    assert (error.get("type") == "error") == (scene.wire.name == "messages")
    assert error_code(error) is not None


def _cost_what_was_served(scene: Scene, answer: Answer) -> None:
    (attempt,) = scene.recorded(answer.run)
    served = scene.cost_served()
    assert served <= attempt["cost"]
    if scene.stream:
        assert 0 < attempt["cost"] <= served * 2 + 600 * 10_000
    else:
        assert attempt["cost"] == attempt["reserved"]


# -- the rows -----------------------------------------------------------------------------------------

SCOPES = ("run", "session", "user", "key", "team", "model", "global")
_HINTED = {"session": _in_a_session, "tag": _tagged}
_OVERLOADED = {"messages": (529, "upstream_unavailable")}

KILLS = tuple(
    Control(
        f"kill-{scope}",
        f"kill of the {scope}" if scope != "global" else "kill of everything",
        "before",
        f"{scope}_killed",
        arrange=_killed(scope),
        check=_says_why,
        run_status="killed",
    )
    for scope in SCOPES
)
BUDGETS = tuple(
    Control(
        f"budget-{scope}",
        f"budget per {scope}" if scope != "global" else "budget for all",
        "before",
        f"{scope}_budget_exceeded",
        budgets=f"per: {'tag:project' if scope == 'tag' else scope}, {TINY}",
        arrange=_HINTED.get(scope, _nothing),
        run_status="stopped_budget",
    )
    for scope in (*SCOPES, "tag")
)
RUN_LIMITS = tuple(
    Control(name, title, "before", code, gateway=name, arrange=arrange, run_status=status)
    for name, title, code, arrange, status in (
        ("steps", "most steps of a run", "step_limit_exceeded", _after_a_step, "stopped_steps"),
        ("time", "most time of a run", "run_timeout", _after_its_time, "stopped_time"),
        ("tokens", "most tokens of a run", "token_limit_exceeded", _after_a_step, "stopped_tokens"),
        ("calls", "most tool calls of a run", "tool_limit_exceeded", _after_a_call, "stopped_tools"),
    )
)
RATES = (
    *(
        Control(
            name,
            title,
            "before",
            "rate_limit_exceeded",
            429,
            "rates",
            rates=f"per: session, {limit}",
            arrange=_after_others(2),
            check=_in_45_seconds,
            run_status="running",
            retry="soon",
        )
        for name, title, limit in (
            ("rate-requests", "requests per minute", "requests_per_minute: 2"),
            ("rate-runs", "new runs per minute", "new_runs_per_minute: 2"),
        )
    ),
    Control(
        "rate-later",
        "requests per minute, free in more than 60 s",
        "before",
        "rate_limit_exceeded",
        gateway="rates",
        rates="per: session, requests_per_minute: 1",
        arrange=_after_others(1),
        run_status="running",
    ),
    Control(
        "rate-tokens",
        "tokens per minute, by a step that never fits",
        "before",
        "rate_limit_exceeded",
        gateway="rates",
        rates="per: session, tokens_per_minute: 10",
        arrange=_in_a_session,
        run_status="running",
    ),
    Control(
        "concurrency",
        "calls at the same time",
        "before",
        "concurrency_limit_exceeded",
        429,
        rates="per: session, max_concurrency: 1",
        arrange=_beside_another,
        run_status="running",
        retry="soon",
    ),
)
WRONG = (
    Control("unknown-model", "unknown model", "before", "unknown_model", act=_asks_nobody),
    Control("not-allowed", "model that the key may not reach", "before", "model_not_allowed", models="['other/*']"),
    Control("unknown-price", "model without a price", "before", "unknown_price", act=_asks_unpriced),
    Control("wrong-key", "wrong gateway key", "before", "invalid_api_key", 401, act=_asks_with_a_wrong_key),
    Control("too-large", "body over the limit", "before", "request_too_large", 413, act=_asks_too_much),
    Control("twice", "a key twice in one object", "before", "invalid_json", act=_asks_twice_in_one),
)  # fmt: skip
PROVIDER = (
    Control(
        "provider-401",
        "provider rejects the gateway's credentials",
        "upstream",
        "upstream_credentials_rejected",
        502,
        act=_asks("fault-401"),
        check=_says_nothing_secret,
        run_status="running",
        outcome="failed",
    ),
    Control(
        "provider-429",
        "provider is over its own rate",
        "upstream",
        "rate_limit_exceeded",
        429,
        providers_code={"messages": "rate_limit_error"},
        act=_asks("fault-429"),
        check=_keeps_the_providers_words,
        run_status="running",
        outcome="failed",
        retry="silent",
        note="the provider's words; `Retry-After` at most 60 s",
    ),
    Control(
        "provider-500",
        "provider fails",
        "upstream",
        "upstream_unavailable",
        503,
        on_surface=_OVERLOADED,
        act=_asks("fault-500"),
        run_status="running",
        outcome="failed",
        retry="soon",
        note="`overloaded_error` on messages",
    ),
    Control(
        "provider-late",
        "provider does not answer in time",
        "upstream",
        "upstream_timeout",
        504,
        gateway="hasty",
        act=_asks("late"),
        run_status="running",
        outcome="failed",
        retry="silent",
    ),
    Control(
        "provider-cut",
        "provider breaks off",
        "in stream",
        "upstream_stream_interrupted",
        502,
        act=_asks_kind("cut"),
        check=_nothing_is_whole,
        forms=(True,),
        run_status="running",
        outcome="cut",
        retry="silent",
    ),
)
RUNNING = (
    Control(
        "clamp",
        "output limit lowered to what a budget can pay",
        "admitted",
        budgets=f"per: run, limit_usd: {CLAMPED_USD}",
        act=_asks_for_5000,
        check=_limit_was_lowered,
        run_status="completed",
        outcome="ok",
    ),
    Control(
        "limit-set",
        "output limit set for a caller that gives none",
        "admitted",
        check=_limit_was_set,
        run_status="completed",
        outcome="ok",
        note="on messages the caller's own passes",
    ),
    Control(
        "shadow",
        "budget in shadow mode",
        "admitted",
        budgets=f"per: key, {TINY}, mode: shadow",
        check=_is_on_record,
        run_status="completed",
        outcome="ok",
        note="on record as refused",
    ),
    Control(
        "budget-midway",
        "budget used up in the middle of an answer",
        "in stream",
        "run_budget_exceeded",
        budgets=f"per: run, limit_usd: {FLOODED_USD}",
        act=_asks_kind("flood"),
        check=_was_stopped_upstream,
        run_status="stopped_budget",
        outcome="stopped",
        forms=(True,),
        retry="silent",
    ),
    Control(
        "kill-midway",
        "kill in the middle of an answer",
        "in stream",
        "run_killed",
        act=_is_stopped,
        check=_was_stopped_upstream,
        run_status="killed",
        outcome="killed",
    ),
    Control(
        "disconnect",
        "client leaves",
        "admitted",
        act=_leaves,
        check=_cost_what_was_served,
        run_status="running",
        outcome="disconnected",
        note="the provider's call is ended, and billed for what it served",
    ),
    Control(
        "tool-withheld",
        "killed tool is withheld from the model",
        "admitted",
        act=_offers_the_forbidden,
        check=_was_withheld,
        run_status="completed",
        outcome="ok",
    ),
    Control(
        "tool-killed",
        "call of a killed tool",
        "in stream",
        "tool_killed",
        act=_asks_for_the_forbidden,
        check=_was_withheld,
        run_status="running",
        outcome="stopped",
    ),
)
SECTIONS: dict[str, tuple[Control, ...]] = {
    "Kills": KILLS,
    "Budgets": BUDGETS,
    "Limits of a run": RUN_LIMITS,
    "Rates": RATES,
    "Requests that are wrong": WRONG,
    "Providers that fail": PROVIDER,
    "While a step is under way": RUNNING,
}
CONTROLS = tuple(control for section in SECTIONS.values() for control in section)

GATEWAYS: dict[str, tuple[str, str]] = {
    "shared": ("", ""),
    "steps": ("runs: {max_steps: 1}", ""),
    "time": ("runs: {max_wall_clock_s: 0.05}", ""),
    "tokens": ("runs: {max_tokens: 1}", ""),
    "calls": ("runs: {max_tool_calls: 1}", ""),
    "rates": ("", ""),
    "hasty": ("", ", timeouts: {first_byte_s: 0.1, total_s: 0.1}"),
}
"""What else the policies of the gateways say that rows name: (at the end of the file, of each provider)."""


def policy_of(gateway: str) -> str:
    """The rules of all rows of a gateway, as the end of its policy."""
    rows = [control for control in CONTROLS if control.gateway == gateway]
    lines = [GATEWAYS[gateway][0]]
    for section in ("budgets", "rates"):
        rules = [(row.name, getattr(row, section)) for row in rows if getattr(row, section)]
        if rules:
            lines.append(f"{section}:")
            lines += [f"  - {{name: {name}, {rule}, match: {{key: {name}}}}}" for name, rule in rules]
    return "\n".join([*lines, ""])
