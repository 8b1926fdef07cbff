"""A run is governed alike on every surface and through every translation: landed, told, or stopped; its tool
calls are delivered or never seen by the agent; and whatever happens the client holds a valid conversation."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, error_reply
from gateway.testing.script import Ask
from tests.integration.conftest import AT_ONCE_S
from tests.integration.data_plane.test_surfaces import (
    journal_cost,
    lanes,
    ledger_cost,
    policy_for,
    post,
    streams,
)
from tests.support.gateway import BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.wire import WIRES, Said, Wire

Json = dict[str, Any]
Start = Callable[[str], ThreadedGateway]


@pytest.fixture
def governed(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    """Start a gateway with more policy."""
    with ExitStack() as stack:

        def start(extra: str) -> ThreadedGateway:
            return stack.enter_context(threaded_gateway(policy_for(provider, extra), tmp_path / "gw"))

        yield start


@dataclass
class Agent:
    """A plain agent: calls what the model asks for until the model says something or the gateway stops it."""

    gateway: ThreadedGateway
    wire: Wire
    model: str
    tools: list[str]
    stream: bool = False
    history: list[Json] = field(default_factory=list)
    executed: list[tuple[str, str]] = field(default_factory=list)
    """(tool, arguments) of every call that it was asked to make."""
    headers: list[dict[str, str]] = field(default_factory=list)
    error: str | None = None
    said: Said | None = None

    def step(self) -> bool:
        """One model call; false when the agent is done."""
        body = {**self.wire.body(self.model, self.history), "stream": self.stream}
        if self.tools:
            body["tools"] = self.wire.tools(self.tools)
        status, headers, raw = post(self.gateway, self.wire, body)
        self.headers.append(headers)
        self.said = self.wire.read(raw)
        if status != 200 or self.said.error:
            self.error = self.said.error or str(status)
            return False
        assert self.said.clean, raw
        self.history += self.wire.answered(self.said)
        self.executed += [(name, arguments) for _, name, arguments in self.said.calls]
        return bool(self.said.calls)

    def run(self, task: str = "find the printer", most: int = 40) -> str:
        """The final answer, or an empty text when it was stopped."""
        self.history.append(self.wire.user(task))
        self.error = None
        for _ in range(most):
            if not self.step():
                break
        return self.said.text if self.said is not None and self.error is None else ""

    @property
    def run_id(self) -> str:
        return self.headers[-1]["x-guardrail-run-id"]

    def record(self) -> Json:
        """The run as operators see it."""

        def ended() -> Json:
            found: Json = self.gateway.admin("GET", f"/runs/{self.run_id}")
            return found if found["status"] != "running" else {}

        return wait_until(ended, what="the run's end")


def looks_up(ask: Ask) -> Reply:
    """Looks up the same again and again as long as it has a tool to do it with."""
    if ask.tools:
        return Reply("Let me look.", tool_calls=[("lookup", {"q": "printer"})])
    return Reply("The printer is on the second floor, as far as I know.")


def goes_on(ask: Ask) -> Reply:
    """Makes a new call at every step."""
    if ask.tools:
        turns = sum(turn.role == "assistant" for turn in ask.turns)
        return Reply(
            tool_calls=[("lookup", {"q": f"page number {turns} of the report on {'xyz'[turns % 3]}"})]
        )
    return Reply("So far I have read some pages.")


@lanes
@streams
def test_a_loop_is_landed(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("loops: {same_call: 3, on_detect: wrap_up}")
    provider.script("loop", looks_up)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/loop", ["lookup"], stream)
    assert agent.run() == "The printer is on the second floor, as far as I know."
    assert len(agent.executed) == 3
    assert agent.headers[-1]["x-guardrail-verdict"] == "wrap_up"
    run = agent.record()
    assert (run["status"], run["status_reason"], run["steps"]) == ("stopped_loop", "loop_detected", 4)
    assert ledger_cost(gateway) == journal_cost(provider)
    # It is over: whoever goes on with this very run is refused, and the provider is not asked.
    served = len(provider.journal)
    again = [*agent.history, agent.wire.user("go on")]
    body = {**agent.wire.body(agent.model, again), "tools": agent.wire.tools(["lookup"])}
    status, headers, raw = post(gateway, agent.wire, body, x_guardrail_run_id=agent.run_id)
    assert (status, agent.wire.read(raw).error) == (400, "loop_detected")
    assert headers["x-should-retry"] == "false"
    assert len(provider.journal) == served
    # The next task of the same conversation is a run of its own.
    agent.history.append(agent.wire.user("thanks, and the scanner?"))
    agent.step()
    assert agent.error is None
    assert agent.headers[-1]["x-guardrail-run-id"] != agent.headers[0]["x-guardrail-run-id"]


@lanes
@streams
def test_a_run_lands_inside_its_budget(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(
        "budgets: [{name: run, per: run, limit_usd: 0.06, on_exceed: wrap_up}]\n"
        "runs: {landing: {output_tokens: 200}}\ndefault_max_output_tokens: 300"
    )
    provider.script("on", goes_on)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/on", ["lookup"], stream)
    answer = agent.run(most=60)
    assert answer == "So far I have read some pages."
    run = agent.record()
    assert run["status"] == "stopped_budget"
    assert 0 < float(run["cost_usd"]) <= 0.06
    assert run["reserved_usd"] == "0.000000000"
    assert ledger_cost(gateway) == journal_cost(provider)
    assert agent.headers[-1]["x-guardrail-verdict"] == "wrap_up"


@lanes
@streams
def test_a_run_lands_within_its_steps(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("runs: {max_steps: 4, on_exceed: wrap_up}")
    provider.script("on", goes_on)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/on", ["lookup"], stream)
    assert agent.run() == "So far I have read some pages."
    run = agent.record()
    assert (run["status"], run["steps"], run["tool_calls"]) == ("stopped_steps", 4, 3)


@lanes
@streams
def test_a_final_message_is_a_whole_answer_that_costs_nothing(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("runs: {max_steps: 3, on_exceed: final_message}")
    provider.script("on", goes_on)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/on", ["lookup"], stream)
    answer = agent.run()
    assert "stopped before it was finished" in answer
    assert "runs.max_steps" in answer
    assert agent.run_id in answer
    assert len(provider.journal) == 3
    run = agent.record()
    assert (run["status"], run["steps"]) == ("stopped_steps", 3)
    body = agent.wire.body(agent.model, [*agent.history, agent.wire.user("go on")])
    status, _, raw = post(gateway, agent.wire, body, x_guardrail_run_id=agent.run_id)
    assert (status, agent.wire.read(raw).error) == (400, "step_limit_exceeded")


@lanes
@streams
def test_a_model_that_will_not_stop_calling_is_answered_for(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    """Some providers do not honour `tool_choice: none`."""
    gateway = governed("runs: {max_steps: 3, on_exceed: wrap_up}")
    provider.script("mad", Reply(tool_calls=[("lookup", {"q": "printer"})]))
    agent = Agent(gateway, WIRES[surface], f"{prefix}/mad", ["lookup"], stream)
    answer = agent.run()
    assert "stopped before it was finished" in answer
    assert len(agent.executed) == 2
    assert agent.record()["status"] == "stopped_steps"
    assert ledger_cost(gateway) == journal_cost(provider)


@lanes
@streams
def test_a_nudge_is_one_line_at_the_end(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("loops: {same_call: {nudge: 2, stop: 4}}")
    seen: list[str] = []

    def listens(ask: Ask) -> Reply:
        seen.append(json.dumps(ask.body))
        if "lookup" in seen[-1] and "Note:" in seen[-1]:
            return Reply("Then I say what I know.")
        return Reply(tool_calls=[("lookup", {"q": "printer"})])

    provider.script("listens", listens)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/listens", ["lookup"], stream)
    assert agent.run() == "Then I say what I know."
    assert len(agent.executed) == 2
    assert agent.headers[-1]["x-guardrail-verdict"] == "flag"
    assert agent.record()["status"] == "completed"
    assert "Note:" not in json.dumps(agent.history)


TOOLS = "tools: {defaults: {}, delete_records: {allow: false}}"


@lanes
@streams
def test_a_forbidden_call_never_reaches_the_agent(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    """A model that calls a tool which was withheld is told so, and goes on with another."""
    gateway = governed(TOOLS)
    bodies: list[Json] = []

    def tries(ask: Ask) -> Reply:
        bodies.append(ask.body)
        told = json.dumps(ask.body)
        if "tool_not_allowed" in told:
            if '"result of lookup"' in told or "result of lookup" in told:
                return Reply("Looked it up instead.")
            return Reply(tool_calls=[("lookup", {"q": "records"})])
        if "result of lookup" in told:
            return Reply("Looked it up instead.")
        return Reply("I will delete them.", tool_calls=[("delete_records", {"q": "all"})])

    provider.script("tries", tries)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/tries", ["lookup", "delete_records"], stream)
    answer = agent.run()
    assert answer.endswith("Looked it up instead.")
    assert [name for name, _ in agent.executed] == ["lookup"]
    assert "delete_records" not in json.dumps(agent.history)
    assert "delete_records" not in json.dumps(bodies[0].get("tools"))
    assert ledger_cost(gateway) == journal_cost(provider)
    run = agent.record()
    assert (run["status"], run["steps"], run["tools"]) == (
        "completed",
        2,
        {"lookup": {"calls": 1, "errors": 0}},
    )


@lanes
@streams
def test_invalid_arguments_are_repaired_out_of_sight(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(TOOLS)

    def learns(ask: Ask) -> Reply:
        told = json.dumps(ask.body)
        if "result of lookup" in told:
            return Reply("Done.")
        if "invalid_arguments" in told:
            return Reply(tool_calls=[("lookup", {"q": "right"})])
        return Reply(tool_calls=[("lookup", {"query": 7})])

    provider.script("learns", learns)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/learns", ["lookup"], stream)
    assert agent.run() == "Done."
    assert [(name, json.loads(arguments)) for name, arguments in agent.executed] == [
        ("lookup", {"q": "right"})
    ]
    assert len(provider.journal) == 3
    assert ledger_cost(gateway) == journal_cost(provider)
    assert agent.record()["steps"] == 2


@lanes
@streams
def test_a_model_that_insists_has_to_answer_in_text(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(TOOLS)

    def insists(ask: Ask) -> Reply:
        if ask.tools:
            return Reply(tool_calls=[("hallucinated", {"x": 1})])
        return Reply("I have no such tool.")

    provider.script("insists", insists)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/insists", ["lookup"], stream)
    assert agent.run() == "I have no such tool."
    assert agent.executed == []
    assert len(provider.journal) == 3
    assert ledger_cost(gateway) == journal_cost(provider)
    run = agent.record()
    assert (run["status"], run["steps"], run["tool_calls"]) == ("completed", 1, 0)


@lanes
@streams
def test_a_quota_is_kept(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("tools: {lookup: {max_calls_per_run: 2}}")
    provider.script("on", goes_on)
    agent = Agent(gateway, WIRES[surface], f"{prefix}/on", ["lookup"], stream)
    assert agent.run()
    assert len(agent.executed) == 2
    assert agent.record()["tool_calls"] == 2


@lanes
@streams
def test_quiet_guards_leave_a_stream_as_it_is(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    """Held back and released, a tool call is the same bytes."""
    reply = Reply("Let me see.", tool_calls=[("lookup", {"q": "täst"}), ("lookup", {"q": "b"})])
    wire = WIRES[surface]
    answers = []
    for extra in ("", TOOLS):
        provider.script("calls", reply)
        gateway = governed(extra)
        body = {**wire.request(f"{prefix}/calls", tools=["lookup"]), "stream": stream}
        _, _, raw = post(gateway, wire, body)
        said = wire.read(raw)
        answers.append((said.text, [(n, json.loads(a)) for _, n, a in said.calls], said.finish, said.clean))
        if extra:
            assert raw.count(b"lookup")
            break
    assert answers[0] == answers[1]


@streams
def test_a_stop_refuses_in_the_error_grammar(governed: Start, provider: ProviderServer, stream: bool) -> None:
    gateway = governed("tools: {delete_records: {allow: false, on_violation: stop}}")
    provider.script("tries", Reply("Now.", tool_calls=[("delete_records", {"q": "all"})]))
    agent = Agent(gateway, WIRES["chat"], "sim/tries", ["lookup", "delete_records"], stream)
    assert agent.run() == ""
    assert agent.error == "tool_not_allowed"
    assert agent.executed == []
    assert agent.record()["status"] == "blocked"


def test_shadow_records_and_never_acts(governed: Start, provider: ProviderServer) -> None:
    gateway = governed(
        "loops: {same_call: 3, on_detect: stop, mode: shadow}\n"
        "tools: {lookup: {max_calls_per_run: 1, mode: shadow}}"
    )
    provider.script("loop", looks_up)
    agent = Agent(gateway, WIRES["chat"], "sim/loop", ["lookup"])
    agent.run(most=5)
    assert agent.error is None
    assert len(agent.executed) == 5
    steps = gateway.admin("GET", f"/runs/{agent.run_id}/steps")["data"]
    found = {(d["rule"], d["mode"]) for step in steps for d in step["decisions"]}
    assert ("loops.same_call", "shadow") in found
    assert any(rule.startswith("tools.lookup") and mode == "shadow" for rule, mode in found)


def test_a_call_cut_by_the_gateways_own_limit_is_not_run(governed: Start, provider: ProviderServer) -> None:
    """LangChain makes a call of arguments that broke off."""
    gateway = governed("budgets: [{name: run, per: run, limit_usd: 0.01}]")
    provider.script("long", Reply(tool_calls=[("lookup", {"q": "word " * 4000})]))
    for stream in (False, True):
        agent = Agent(gateway, WIRES["chat"], "sim/long", ["lookup"], stream)
        agent.run(f"go {stream} {time.time()}")
        assert agent.executed == []
        assert agent.error == "run_budget_exceeded"


# -- what can go wrong while the model is asked again ------------------------------------------------


def first_wrong(then: Callable[[Ask], Reply]) -> Callable[[Ask], Reply]:
    """A forbidden call behind some text; what comes when the model has been told so."""

    def script(ask: Ask) -> Reply:
        if "tool_not_allowed" in json.dumps(ask.body):
            return then(ask)
        return Reply("One moment.", tool_calls=[("delete_records", {"q": "all"})])

    return script


@lanes
@streams
def test_a_provider_that_fails_in_the_second_round_is_told_in_the_grammar(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(TOOLS)
    provider.script("fails", first_wrong(lambda _: error_reply(503)))
    agent = Agent(gateway, WIRES[surface], f"{prefix}/fails", ["lookup", "delete_records"], stream)
    assert agent.run() == ""
    assert agent.executed == []
    assert agent.said is not None
    assert agent.error in ("upstream_unavailable", "server_is_overloaded", "overloaded_error")
    if stream:
        assert agent.said.text in ("One moment.", "")
    assert ledger_cost(gateway) == journal_cost(provider)


@lanes
@streams
def test_a_kill_in_the_second_round_ends_it(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(TOOLS)
    provider.script("slow", first_wrong(lambda _: Reply("late", head_delay_s=20)))
    agent = Agent(gateway, WIRES[surface], f"{prefix}/slow", ["lookup", "delete_records"], stream)
    thread = threading.Thread(target=agent.run)
    thread.start()
    wait_until(lambda: len(provider.journal) == 2, what="the second round")
    gateway.admin("POST", "/kills", {"scope": "user", "id": "alice", "reason": "enough"})
    thread.join(AT_ONCE_S)
    assert not thread.is_alive()
    assert agent.error == "user_killed"
    wait_until(lambda: provider.journal.last.client_left, what="the abort upstream")


@lanes
@streams
def test_a_budget_without_room_for_the_second_round_ends_the_run(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed(f"{TOOLS}\nbudgets: [{{name: run, per: run, limit_usd: 0.007}}]")
    provider.script(
        "dear", Reply("Wait.", tool_calls=[("delete_records", {"q": "all"})], completion_tokens=240)
    )
    agent = Agent(gateway, WIRES[surface], f"{prefix}/dear", ["lookup", "delete_records"], stream)
    agent.run()
    assert agent.executed == []
    run = agent.record()
    assert run["status"] == "stopped_budget"
    assert float(run["cost_usd"]) <= 0.007
    assert ledger_cost(gateway) == journal_cost(provider)


def test_a_kept_response_goes_on_from_the_answer_that_was_delivered(
    governed: Start, provider: ProviderServer
) -> None:
    """The stream began with one id and was finished by another answer: the client knows the first id."""
    gateway = governed(TOOLS)
    provider.script("kept", first_wrong(lambda _: Reply("Done without.")))
    wire = WIRES["responses"]
    body = wire.request("sim/kept", tools=["lookup", "delete_records"], stream=True, store=True)
    _, _, raw = post(gateway, wire, body)
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b"data: {")]
    told = events[0]["response"]["id"]
    assert events[-1]["response"]["id"] == told
    assert wire.read(raw).text.endswith("Done without.")
    status, _, shown = gateway.request("GET", f"/v1/responses/{told}")
    assert status == 200, shown
    assert b"delete_records" not in json.dumps(json.loads(shown)["output"]).encode()
    again = {"model": "sim/kept", "previous_response_id": told, "input": "thanks", "store": True}
    status, headers, raw = post(gateway, wire, again)
    assert status == 200, raw
    assert headers["x-guardrail-session-id"]
    assert provider.journal.last.status == 200


# -- what is usual -----------------------------------------------------------------------------------


def test_an_agent_that_takes_far_more_steps_than_usual_raises_an_alert(
    governed: Start, provider: ProviderServer
) -> None:
    """Long before any limit, once, and not for an agent that is always like that."""
    gateway = governed("runs: {anomaly: {factor: 1.75, min_runs: 5}}")
    told: list[Json] = []
    gateway.worker.notices.append(lambda kind, facts: told.append(facts) if kind == "spend_anomaly" else None)

    def steps(count: int) -> Callable[[Ask], Reply]:
        def script(ask: Ask) -> Reply:
            done = sum(turn.role == "assistant" for turn in ask.turns)
            if done < count - 1:
                return Reply(tool_calls=[("lookup", {"q": f"number {done}"})])
            return Reply("Done.")

        return script

    provider.script("short", steps(4))
    for i in range(8):
        assert Agent(gateway, WIRES["chat"], "sim/short", ["lookup"]).run(f"task {i}") == "Done."
    assert told == []
    known = gateway.worker.baselines._known
    wait_until(lambda: any(k.baseline and k.baseline.runs > 5 for k in known.values()), what="what is usual")
    provider.script("short", steps(12))
    agent = Agent(gateway, WIRES["chat"], "sim/short", ["lookup"])
    assert agent.run("a hard one") == "Done."
    (fact,) = told
    assert (fact["figure"], fact["value"], fact["run"]) == ("steps", 7.0, agent.run_id)
    usual = agent.record()["usual"]
    assert 4.0 <= usual["mean"]["steps"] < 7.0
    # Another caller's agent with the same tools is not measured by this one's habits.
    provider.script("short", steps(12))
    other = Agent(gateway, WIRES["chat"], "sim/short", ["lookup"])
    other.history.append(other.wire.user("x"))
    body = {**other.wire.body(other.model, other.history), "tools": other.wire.tools(["lookup"])}
    post(gateway, other.wire, body, key=BOB)
    assert len(told) == 1


def test_a_claim_without_a_call_is_a_finding(governed: Start, provider: ProviderServer) -> None:
    gateway = governed("claims: {mode: shadow}")
    provider.script("liar", Reply("I have sent the e-mail to the customer."))
    agent = Agent(gateway, WIRES["chat"], "sim/liar", ["lookup", "send_email"])
    assert agent.run()
    run = agent.record()
    (found,) = run["findings"]
    assert (found["detector"], found["kind"], found["mode"]) == ("claims", "unsupported_action", "shadow")
    assert "customer" not in json.dumps(run["findings"])
    assert agent.headers[-1]["x-guardrail-verdict"] == "allow"


# -- trees -------------------------------------------------------------------------------------------


@lanes
@streams
def test_who_passed_a_task_on_is_shown_and_neither_charged_nor_killed(
    governed: Start, provider: ProviderServer, surface: str, prefix: str, stream: bool
) -> None:
    gateway = governed("budgets: [{name: run, per: run, limit_usd: 5}]")
    task = "Find out which printers\nare on the second floor."
    provider.script("boss", [Reply(tool_calls=[("ask_helper", {"q": f" {task}  "})]), Reply("Done.")])
    provider.script("helper", Reply("Two of them."))
    wire = WIRES[surface]
    boss = Agent(gateway, wire, f"{prefix}/boss", ["ask_helper"], stream)
    boss.history.append(wire.user("Plan the move of all printers."))
    assert boss.step()
    helper = Agent(gateway, wire, f"{prefix}/helper", [], stream)
    helper.run(task)
    other = Agent(gateway, wire, f"{prefix}/helper", [], stream)
    other.run("Find out which scanners are on the third floor.")
    shown = helper.record()
    assert (shown["inferred_parent"], shown["parent"]) == (boss.run_id, None)
    assert other.record()["inferred_parent"] is None
    boss_run = gateway.admin("GET", f"/runs/{boss.run_id}")
    assert (boss_run["inferred_parent"], boss_run["children"], boss_run["steps"]) == (None, [], 1)
    gateway.admin("POST", "/kills", {"scope": "run", "id": boss.run_id, "reason": "stop"})
    again = Agent(gateway, wire, f"{prefix}/helper", [], stream)
    assert again.run(task) == "Two of them."


def test_a_tree_has_one_budget_and_one_kill(governed: Start, provider: ProviderServer) -> None:
    gateway = governed("budgets: [{name: run, per: run, limit_usd: 0.02}]")
    wire = WIRES["chat"]
    provider.script("works", Reply("ok", completion_tokens=100))
    body = wire.request("sim/works", max_tokens=300)
    _, headers, _ = post(gateway, wire, body, x_guardrail_run_id="planner")
    root = headers["x-guardrail-run-id"]
    spent = 0
    for i in range(60):
        named = {"x_guardrail_run_id": f"worker-{i}", "x_guardrail_parent_run_id": "planner"}
        status, headers, raw = post(gateway, wire, body, **named)
        if status != 200:
            break
        spent += 1
    assert (status, wire.read(raw).error) == (400, "run_budget_exceeded")
    assert 3 < spent < 60
    assert ledger_cost(gateway) <= 20_000_000
    shown = gateway.admin("GET", f"/runs/{root}")
    assert len(shown["children"]) == spent + 1
    child = gateway.admin("GET", "/runs/worker-0")
    assert child["parent"] == root
    # A grandchild that knows its parent's id alone falls with the root that is killed by its name.
    named = {"x_guardrail_run_id": "deep", "x_guardrail_parent_run_id": child["id"]}
    gateway.admin("POST", "/kills", {"scope": "run", "id": "planner", "reason": "stop all"})
    status, _, raw = post(gateway, wire, body, **named)
    assert (status, wire.read(raw).error) == (400, "run_killed")
    status, _, raw = post(gateway, wire, body, x_guardrail_run_id="worker-1")
    assert (status, wire.read(raw).error) == (400, "run_killed")
    # Somebody else's run of that name is nobody's parent here, and nobody here can name it.
    status, headers, _ = post(
        gateway, wire, body, key=BOB, x_guardrail_parent_run_id=root, x_guardrail_run_id="mine"
    )
    assert status == 200
    assert gateway.admin("GET", f"/runs/{headers['x-guardrail-run-id']}")["parent"] is None


def test_tools_that_the_request_does_not_show_are_judged_too(
    governed: Start, provider: ProviderServer
) -> None:
    """A model may call what nobody offered it in this request, and a stored prompt brings tools along."""
    gateway = governed(TOOLS)
    provider.script("hidden", Reply(tool_calls=[("delete_records", {"q": "all"})], strict=False))
    wire = WIRES["chat"]
    _, _, raw = post(gateway, wire, wire.request("sim/hidden"))
    assert wire.read(raw).calls == []
    assert b"delete_records" not in raw or wire.read(raw).text


@streams
def test_notify_tells_and_does_nothing_else(governed: Start, provider: ProviderServer, stream: bool) -> None:
    gateway = governed(
        "runs: {max_steps: 2, on_exceed: notify}\n"
        "budgets: [{name: small, per: run, limit_usd: 0.000001, on_exceed: notify}]"
    )
    told: list[str] = []
    gateway.worker.notices.append(lambda kind, facts: told.append(kind))
    provider.script("on", goes_on)
    agent = Agent(gateway, WIRES["chat"], "sim/on", ["lookup"], stream)
    agent.run(most=4)
    assert agent.error is None
    assert len(agent.executed) == 4
    assert told.count("limit_exceeded") == 2
    assert told.count("budget_exceeded") == 4
