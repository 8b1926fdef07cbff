"""Steps that need no strong model go to a cheap one: what is saved, what is not, and what happens when the cheap
answer is no good."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import Ask, ProviderServer, Reply, error_reply
from tests.integration.incidents.scene import SHIPPED
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.wire import CHAT, WIRES, Wire

Start = Callable[..., ThreadedGateway]
REPORT = "Of the three, Northwind is the cheapest and the slowest."
TOOLS = ["look_up", "read_page"]
KEYS = f"""auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
  - {{name: bob, key: {BOB}, user: bob, team: blue, models: [gpt-4o, claude-sonnet-4-5]}}
"""
RULE = "{name: cheap, when: {model: gpt-4o, step: [tool_selection, extraction, digest]}, use: gpt-4o-mini}"


def saver(provider: ProviderServer, rules: str | None = None, extra: str = "") -> str:
    """The shipped policy that saves, before the simulated provider; or with other rules."""
    text = (SHIPPED.parent / "cost-saver.yaml").read_text()
    for theirs, ours in (
        ("auth: {mode: open}\n", KEYS),
        ("base_url: https://api.openai.com/v1,", f'price_table: openai, base_url: "{provider.base_url}",'),
        ("base_url: https://api.anthropic.com,", f'price_table: anthropic, base_url: "{provider.origin}",'),
        ("${OPENAI_API_KEY}", "sk-upstream-secret-000000000000"),
        ("${ANTHROPIC_API_KEY}", "sk-upstream-secret-000000000000"),
        ("      hold_out: 0.05\n", ""),
    ):
        assert theirs in text, theirs
        text = text.replace(theirs, ours)
    if rules is not None:
        before, rest = text.split("\n  rules:\n")
        text = f"{before}\n  rules: [{rules}]\n\nbudgets:{rest.split('budgets:')[1]}"
    return f"{text}\n{extra}"


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(rules: str | None = None, extra: str = "") -> ThreadedGateway:
            return stack.enter_context(threaded_gateway(saver(provider, rules, extra), tmp_path / "gateway"))

        yield begin


def turn_of(ask: Ask) -> int:
    """How many answers the request shows."""
    return sum(turn.role == "assistant" for turn in ask.turns)


def worker(steps: int) -> Callable[[Ask], Reply]:
    """A model that looks things up, one thing a step, and then reports. Cheap and dear ones do the same."""

    def play(ask: Ask) -> Reply:
        done = turn_of(ask)
        if done < steps - 1:
            name = TOOLS[done % 2]
            return Reply(tool_calls=[(name, {"q": f"supplier {done}"})], completion_tokens=120)
        return Reply(REPORT, completion_tokens=400)

    return play


def run_agent(
    gateway: ThreadedGateway, wire: Wire, model: str, *, stream: bool = False, steps: int = 8, page: int = 900
) -> tuple[str, list[dict[str, str]]]:
    """An agent's whole task: its final answer, and the headers of each step."""
    history = [wire.user("Compare our three suppliers, then write a short report.")]
    headers = []
    for _ in range(steps + 2):
        body = {**wire.body(model, history), "tools": wire.tools(TOOLS), "stream": stream}
        if wire.name == "messages":
            body["max_tokens"] = 1000
        status, head, raw = gateway.post(body, path=wire.path, **wire.headers)
        assert status == 200, raw
        headers.append(head)
        said = wire.read(raw)
        assert (said.error, said.clean) == (None, True), raw
        if not said.calls:
            return said.text, headers
        added = wire.answered(said)
        # Pages are long: that is what makes an agent's input grow.
        history += json.loads(
            json.dumps(added).replace("result of ", "Prices and terms. " * page + "result of ")
        )
    raise AssertionError("the agent did not come to an end")


def run_of(gateway: ThreadedGateway) -> dict[str, Any]:
    (run,) = gateway.admin("GET", "/runs")["data"]
    found: dict[str, Any] = gateway.admin("GET", f"/runs/{run['id']}")
    return found


def attempts_of(gateway: ThreadedGateway, run: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = gateway.admin("GET", f"/runs/{run['id']}/steps")["data"]
    return found


def served(provider: ProviderServer) -> list[str]:
    provider.wait_idle_blocking()
    return [a.model or "" for a in provider.journal]


@pytest.mark.parametrize(
    ("surface", "dear", "cheap", "stream"),
    [
        ("chat", "gpt-4o", "gpt-4o-mini", False),
        ("chat", "gpt-4o", "gpt-4o-mini", True),
        ("responses", "gpt-4o", "gpt-4o-mini", True),
        ("messages", "claude-sonnet-4-5", "claude-haiku-4-5", True),
        ("messages", "gpt-4o", "gpt-4o-mini", False),
    ],
)
def test_most_of_an_agents_run_is_cheap_work(
    start: Start, provider: ProviderServer, surface: str, dear: str, cheap: str, stream: bool
) -> None:
    """Eight steps: the plan and the report by the model that was asked for, the rest by the cheap one."""
    provider.script("worker", worker(8), models=[dear, cheap])
    gateway, wire = start(), WIRES[surface]
    report, headers = run_agent(gateway, wire, dear, stream=stream)
    assert report == REPORT
    assert len(headers) == 8
    by = [head["x-guardrail-model"] for head in headers]
    assert by == [dear, *[cheap] * 6, dear]
    assert [head["x-guardrail-verdict"] for head in headers[1:7]] == ["reroute"] * 6
    run = run_of(gateway)
    assert (run["steps"], run["status"]) == (8, "completed")
    cost, saved = float(run["cost_usd"]), float(run["saved_usd"])
    share = saved / (saved + cost)
    print(f"{surface} {dear}: ${cost:.6f} instead of ${saved + cost:.6f}, {share:.1%} saved")
    assert share >= (0.55 if dear == "gpt-4o" else 0.4)
    for step in attempts_of(gateway, run)[1:7]:
        (decision,) = [d for d in step["decisions"] if d["rule"].startswith("routing.")][:1]
        assert decision["decision"] == "reroute"
        assert decision["step"] == "digest"
        assert decision["why"]
        assert (decision["from"], decision["to"]) == (dear, cheap)


def test_the_same_run_without_the_rules_costs_what_was_counted(
    start: Start, provider: ProviderServer
) -> None:
    provider.script("worker", worker(8), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start("")
    run_agent(gateway, CHAT, "gpt-4o")
    run = run_of(gateway)
    assert set(served(provider)) == {"gpt-4o"}
    assert float(run["saved_usd"]) == 0


def test_a_cached_prefix_is_not_left_for_a_cheaper_list_price(
    provider: ProviderServer, tmp_path: Path
) -> None:
    """Late in a long run almost everything is read from the strong model's cache, at a tenth of the price:
    a model at half the price would read it all anew."""
    prices = (
        "{input_usd_per_mtok: 3, cached_input_usd_per_mtok: 0.3, output_usd_per_mtok: 15}",
        "{input_usd_per_mtok: 1.5, cached_input_usd_per_mtok: 0.75, output_usd_per_mtok: 7.5}",
    )

    def play(ask: Ask) -> Reply:
        cached = 0 if turn_of(ask) == 0 else 20_000
        if turn_of(ask) < 4:
            return Reply(
                tool_calls=[("look_up", {"q": str(turn_of(ask))})],
                cached_tokens=cached,
                prompt_tokens=20_500 + turn_of(ask) * 200,
            )
        return Reply(REPORT)

    provider.script("worker", play, models=["strong", "half"])
    rule = "{name: half, when: {model: strong, step: [tool_selection]}, use: half}"
    text = saver(provider, rule).replace(
        "models:\n",
        f"models:\n  strong: {{provider: openai, price: {prices[0]}}}\n  half: {{provider: openai, price: {prices[1]}}}\n",
        1,
    )
    with threaded_gateway(text, tmp_path / "gateway") as gateway:
        history = [CHAT.user("Long instructions. " * 4000)]
        for _ in range(5):
            body = {**CHAT.body("strong", history), "tools": CHAT.tools(TOOLS)}
            status, _, raw = gateway.post(body)
            assert status == 200, raw
            said = CHAT.read(raw)
            history += CHAT.answered(said)
        assert set(served(provider)) == {"strong"}
        run = run_of(gateway)
        kept = [d for s in attempts_of(gateway, run) for d in s["decisions"] if d["rule"] == "routing.half"]
        assert kept
        assert {d["decision"] for d in kept} == {"keep"}
        assert all(float(d["instead_usd"]) > float(d["expected_usd"]) for d in kept)


BAD = {
    "empty": Reply(""),
    "refusal": Reply("I'm sorry, but I can't help with that."),
    "unknown tool": Reply(tool_calls=[("no_such_tool", {"q": "x"})]),
    "arguments": Reply(tool_calls=[("look_up", {"wrong": 1})]),
    "no JSON": Reply(tool_calls=[("look_up", '{"q": ')]),
    "final": Reply("It is all done."),
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize(
    ("surface", "stream"), [("chat", False), ("chat", True), ("responses", True), ("messages", True)]
)
def test_a_bad_answer_is_given_by_the_strong_model_instead(
    start: Start, provider: ProviderServer, surface: str, stream: bool, bad: str
) -> None:
    provider.script("strong", worker(4), models=["gpt-4o"])
    provider.script("weak", BAD[bad], models=["gpt-4o-mini"])
    gateway, wire = start(RULE), WIRES[surface]
    report, headers = run_agent(gateway, wire, "gpt-4o", stream=stream, steps=4, page=10)
    assert report == REPORT
    assert served(provider) == ["gpt-4o", *["gpt-4o-mini", "gpt-4o"] * 3]
    assert {head["x-guardrail-model"] for head in headers} == {"gpt-4o"}
    run = run_of(gateway)
    assert (run["steps"], run["status"]) == (4, "completed")
    # What was thrown away is paid for, and counted as a loss.
    assert float(run["saved_usd"]) < 0
    second = [s for s in attempts_of(gateway, run) if s["ordinal"] == 2]
    decisions = [d["decision"] for d in second[-1]["decisions"] if d["rule"] == "routing.cheap"]
    assert decisions == ["reroute", "escalate"]
    provider.wait_idle_blocking()
    assert len(gateway.attempts()) == len(list(provider.journal))


def test_an_escalation_stays_inside_the_budget(start: Start, provider: ProviderServer) -> None:
    """There is room for the cheap model, and after its bad answer none for the strong one."""
    provider.script("strong", worker(4), models=["gpt-4o"])
    provider.script("weak", Reply(""), models=["gpt-4o-mini"])
    gateway = start(RULE)
    body = {**CHAT.body("gpt-4o", [CHAT.user("go")]), "tools": CHAT.tools(TOOLS), "max_tokens": 400}
    said = CHAT.read(gateway.post(body)[2])
    history = [CHAT.user("go"), *CHAT.answered(said)]
    history[-1]["content"] = "words " * 250_000  # 0.4 tokens per byte at $2.50 a million is over the budget
    status, _, raw = gateway.post({**body, "messages": history})
    assert (status, CHAT.read(raw).error) == (400, "run_budget_exceeded")
    assert served(provider).count("gpt-4o") == 1
    assert float(run_of(gateway)["cost_usd"]) <= 0.5


def test_the_cheap_provider_fails_and_the_one_asked_for_serves(
    start: Start, provider: ProviderServer
) -> None:
    provider.script("strong", worker(3), models=["gpt-4o"])
    provider.script("weak", error_reply(503), models=["gpt-4o-mini"])
    gateway = start(RULE)
    report, headers = run_agent(gateway, CHAT, "gpt-4o", steps=3, page=10)
    assert report == REPORT
    assert {head["x-guardrail-model"] for head in headers} == {"gpt-4o"}


def test_a_killed_model_is_no_target(start: Start, provider: ProviderServer) -> None:
    provider.script("worker", worker(3), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE)
    gateway.admin("POST", "/kills", {"scope": "model", "id": "gpt-4o-mini", "reason": "a test"})
    report, headers = run_agent(gateway, CHAT, "gpt-4o", steps=3, page=10)
    assert report == REPORT
    assert {head["x-guardrail-model"] for head in headers} == {"gpt-4o"}
    assert run_of(gateway)["status"] == "completed"


def test_a_key_is_not_routed_to_a_model_it_may_not_use(start: Start, provider: ProviderServer) -> None:
    provider.script("strong", worker(2), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE)
    body = {**CHAT.body("gpt-4o", [CHAT.user("go")]), "tools": CHAT.tools(TOOLS)}
    said = CHAT.read(gateway.post(body, key=BOB)[2])
    body["messages"] += CHAT.answered(said)
    assert gateway.post(body, key=BOB)[0] == 200
    assert set(served(provider)) == {"gpt-4o"}


def test_a_shadow_rule_records_and_changes_nothing(start: Start, provider: ProviderServer) -> None:
    provider.script("worker", worker(3), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE.replace("use:", "mode: shadow, use:"))
    run_agent(gateway, CHAT, "gpt-4o", steps=3)
    assert set(served(provider)) == {"gpt-4o"}
    decided = [d for s in attempts_of(gateway, run_of(gateway)) for d in s["decisions"]]
    assert [(d["rule"], d["mode"], d["decision"]) for d in decided] == [
        ("routing.cheap", "shadow", "reroute")
    ] * 2


def test_a_rule_that_is_not_about_money(start: Start, provider: ProviderServer) -> None:
    """Away from a cheap model, for what it is not good at."""
    rule = "{name: better, when: {model: gpt-4o-mini, step: planning}, use: gpt-4o%s}"
    provider.script("worker", worker(1), models=["gpt-4o", "gpt-4o-mini"])
    body = {**CHAT.body("gpt-4o-mini", [CHAT.user("go")]), "tools": CHAT.tools(TOOLS)}
    gateway = start(rule % ", only_if_cheaper: false, on_bad_answer: deliver")
    status, headers, raw = gateway.post(body)
    assert (status, headers["x-guardrail-model"], CHAT.read(raw).text) == (200, "gpt-4o", REPORT)
    run = run_of(gateway)
    assert float(run["saved_usd"]) < 0


def test_a_run_that_is_held_out_stays(start: Start, provider: ProviderServer) -> None:
    provider.script("worker", worker(3), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE.replace("use:", "hold_out: 1, use:"))
    run_agent(gateway, CHAT, "gpt-4o", steps=3)
    assert set(served(provider)) == {"gpt-4o"}
    decided = [d for s in attempts_of(gateway, run_of(gateway)) for d in s["decisions"]]
    assert [(d["decision"], d["held_out"]) for d in decided] == [("keep", True)] * 2


def test_a_rule_with_too_many_bad_answers_is_switched_off(start: Start, provider: ProviderServer) -> None:
    provider.script("strong", worker(2), models=["gpt-4o"])
    provider.script("weak", Reply(""), models=["gpt-4o-mini"])
    gateway = start(RULE)
    told: list[dict[str, Any]] = []
    gateway.worker.notices.append(
        lambda kind, facts: told.append(facts) if kind == "routing_rule_off" else None
    )
    for number in range(14):
        body = {**CHAT.body("gpt-4o", [CHAT.user(f"task {number}")]), "tools": CHAT.tools(TOOLS)}
        said = CHAT.read(gateway.post(body)[2])
        body["messages"] += CHAT.answered(said)
        assert gateway.post(body)[0] == 200
    assert served(provider).count("gpt-4o-mini") == 10
    wait_until(lambda: told, what="the alert")
    assert (told[0]["rule"], told[0]["bad"], told[0]["answers"]) == ("cheap", 10, 10)
    assert len(told) == 1


def test_a_tool_that_the_model_is_not_offered_is_not_its_fault_alone(
    start: Start, provider: ProviderServer
) -> None:
    """The strong model's own mistakes go through the tool contracts as ever."""
    provider.script("strong", Reply(tool_calls=[("no_such_tool", {"q": "x"})]), models=["gpt-4o"])
    gateway = start(RULE)
    body = {**CHAT.body("gpt-4o", [CHAT.user("go")]), "tools": CHAT.tools(TOOLS)}
    status, _, raw = gateway.post(body)
    assert status == 200
    assert [call[1] for call in CHAT.read(raw).calls] == ["no_such_tool"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_of_the_cheap_model_that_a_contract_forbids_is_repaired_there(
    start: Start, provider: ProviderServer, stream: bool
) -> None:
    """What it says then is delivered: it is no final answer of its own accord."""

    def weak(ask: Ask) -> Reply:
        told = ask.turns[-1].role == "tool" and "argument_not_allowed" in ask.turns[-1].text
        return Reply("I may not.") if told else Reply(tool_calls=[("look_up", {"q": "forbidden"})])

    provider.script("strong", worker(4), models=["gpt-4o"])
    provider.script("weak", weak, models=["gpt-4o-mini"])
    gateway = start(RULE, "tools: {look_up: {arguments: {q: {pattern: 'supplier.*'}}}}")
    history = [CHAT.user("go")]
    body = {**CHAT.body("gpt-4o", history), "tools": CHAT.tools(TOOLS)}
    said = CHAT.read(gateway.post(body)[2])
    history += CHAT.answered(said)
    status, _, raw = gateway.post({**body, "messages": history, "stream": stream})
    assert (status, CHAT.read(raw).text, CHAT.read(raw).calls) == (200, "I may not.", [])
    assert served(provider) == ["gpt-4o", "gpt-4o-mini", "gpt-4o-mini"]


def test_steered_answers_are_told_as_streams_of_their_surface(start: Start, provider: ProviderServer) -> None:
    provider.script("worker", worker(3), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE)
    for wire in WIRES.values():
        if wire.name not in ("chat", "responses", "messages"):
            continue
        report, headers = run_agent(gateway, wire, "gpt-4o", stream=True, steps=3, page=5)
        assert report == REPORT
        assert all(head["content-type"].startswith("text/event-stream") for head in headers)


def test_the_metrics_count_what_is_routed(start: Start, provider: ProviderServer) -> None:
    provider.script("worker", worker(4), models=["gpt-4o", "gpt-4o-mini"])
    gateway = start(RULE)
    run_agent(gateway, CHAT, "gpt-4o", steps=4)
    metrics = gateway.worker.metrics.render().decode()
    assert 'gateway_routed_total{from="gpt-4o",rule="cheap",to="gpt-4o-mini"} 3.0' in metrics
    (saved,) = [line for line in metrics.splitlines() if line.startswith("gateway_saved_usd_total ")]
    # A counter cannot fall: a loss is made up for by what is saved next.
    owed = gateway.worker.counts._saved / 1e9
    assert owed <= 0
    assert float(saved.split()[1]) + owed == pytest.approx(float(run_of(gateway)["saved_usd"]))
