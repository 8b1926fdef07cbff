"""Which run a request belongs to, told by nothing but the conversation."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, Scenario, error_reply
from tests.integration.conftest import MakeGateway, let_time_pass
from tests.support.gateway import ALICE, BOB, ThreadedGateway, wait_until

TOOLS = [{"type": "function", "function": {"name": "look_up", "parameters": {
    "type": "object", "properties": {"query": {"type": "string"}}}}}]  # fmt: skip


class Agent:
    """A plain tool loop: sends the whole conversation each time, no header, no id of its own."""

    def __init__(self, gateway: ThreadedGateway, model: str, prompt: str = "find it", *, tools: bool = True,
                 key: str = ALICE, **headers: str) -> None:  # fmt: skip
        self.gateway, self.model, self.key, self.headers = gateway, model, key, headers
        self.tools = tools
        self.messages: list[dict[str, Any]] = [
            {"role": "system", "content": "You are an agent."},
            {"role": "user", "content": prompt},
        ]
        self.runs: list[str] = []
        self.steps: list[str] = []
        self.sources: list[str] = []
        self.sessions: list[str] = []

    def step(self, **headers: str) -> dict[str, Any]:
        body: dict[str, Any] = {"model": self.model, "messages": self.messages, "max_tokens": 500}
        if self.tools:
            body["tools"] = TOOLS
        status, told, raw = self.gateway.post(body, key=self.key, **{**self.headers, **headers})
        assert status == 200, raw
        self.runs.append(told["x-guardrail-run-id"])
        self.steps.append(told["x-guardrail-step"])
        self.sources.append(told["x-guardrail-run-source"])
        self.sessions.append(told["x-guardrail-session-id"])
        message: dict[str, Any] = json.loads(raw)["choices"][0]["message"]
        return message

    def follow(self, message: dict[str, Any], result: str = "nothing found") -> None:
        self.messages.append(message)
        for call in message.get("tool_calls") or []:
            self.messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})

    def loop(self, limit: int = 20) -> str:
        for _ in range(limit):
            message = self.step()
            self.follow(message)
            if not message.get("tool_calls"):
                return str(message["content"])
        raise AssertionError("the agent did not end")


def run_row(gateway: ThreadedGateway, run: str) -> dict[str, Any]:
    async def read() -> Any:
        await gateway.worker.drain.flush()
        return await gateway.worker.ledger.run(run)

    row: dict[str, Any] = gateway.run(read)
    return row


def test_a_tool_loop_is_one_run_and_ends_completed(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    agent = Agent(gateway, "sim/steps-5")
    agent.loop()
    assert len(set(agent.runs)) == 1
    assert agent.steps == ["1", "2", "3", "4", "5"]
    assert agent.sources == ["new", *["emitted_id"] * 4]
    row = run_row(gateway, agent.runs[0])
    assert (row["status"], row["steps"], row["tool_calls"]) == ("completed", 5, 4)


def test_ids_that_every_server_reuses_do_not_merge_runs(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("ollama", Scenario(
        [Reply(tool_calls=[("look_up", {"query": "a long enough query text, number one"})], tool_call_ids="colliding"),
         Reply("done")]))  # fmt: skip
    first, second = Agent(gateway, "sim/ollama", "task one"), Agent(gateway, "sim/ollama", "task two")
    a, b = first.step(), second.step()
    first.follow(a)
    second.follow(b)
    first.step()
    second.step()
    assert first.sources == second.sources == ["new", "lineage"]
    assert first.runs[0] == first.runs[1] != second.runs[0] == second.runs[1]


def test_twins_with_equal_prompts_and_replies_stay_apart(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script(
        "react", Scenario([Reply("Action: search"), Reply("Action: read"), Reply("Final Answer: 42")])
    )
    twins = [Agent(gateway, "sim/react", tools=False) for _ in range(4)]
    for turn in range(3):
        for twin in twins:
            message = twin.step()
            twin.messages += [message, {"role": "user", "content": f"Observation {turn}: nothing"}]
    assert len({run for twin in twins for run in twin.runs}) == 4
    assert all(len(set(twin.runs)) == 1 for twin in twins)


def test_fifty_parallel_agents_with_one_prompt_are_fifty_runs(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    def work(_: int) -> Agent:
        agent = Agent(gateway, "sim/steps-4")
        agent.loop()
        return agent

    with ThreadPoolExecutor(16) as pool:
        agents = list(pool.map(work, range(50)))
    assert len({run for agent in agents for run in agent.runs}) == 50
    assert all(agent.steps == ["1", "2", "3", "4"] for agent in agents)


def test_the_next_user_message_opens_a_successor_of_the_same_session(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    agent = Agent(gateway, "sim/steps-3")
    agent.loop()
    first = agent.runs[-1]
    provider.script("chatty", Reply("You are welcome, it was nothing at all."))
    agent.model = "sim/chatty"
    agent.messages.append({"role": "user", "content": "thank you"})
    agent.follow(agent.step())
    second = agent.runs[-1]
    agent.messages.append({"role": "user", "content": "one more thing"})
    agent.step()
    assert len({first, second, agent.runs[-1]}) == 3
    assert len(set(agent.sessions)) == 1
    assert run_row(gateway, second)["continues"] == first
    assert run_row(gateway, agent.runs[-1])["continues"] == second


def test_an_agent_that_speaks_text_stays_in_its_run_while_it_is_quick(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    gateway = make_gateway("runs: {text_agent_gap_s: 60}\n")
    provider.script(
        "react", Scenario([Reply("Action: search"), Reply("Action: read"), Reply("Final Answer: 42")])
    )
    agent = Agent(gateway, "sim/react", tools=False)
    for pause in (0, 0, 61):
        message = agent.step()
        let_time_pass(gateway, pause)
        agent.messages += [message, {"role": "user", "content": "Observation: something"}]
    agent.step()
    assert agent.runs[0] == agent.runs[1] == agent.runs[2] != agent.runs[3]


def test_a_truncated_history_is_found_by_its_tail(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    provider.script("nine", Scenario([
        Reply(tool_calls=[("look_up", {"query": f"question number {i} about the printer"})], tool_call_ids="colliding")
        for i in range(6)] + [Reply("done")], by="sequence"))  # fmt: skip
    agent = Agent(gateway, "sim/nine")
    for _ in range(4):
        agent.follow(agent.step(), result="the printer has a manual with many pages")
    agent.messages = [
        agent.messages[0],
        {"role": "user", "content": "Summary of what was before."},
        *agent.messages[-4:],
    ]
    agent.step()
    assert len(set(agent.runs)) == 1
    assert agent.sources[-1] == "tail"


def test_an_edited_last_message_is_a_branch_of_the_same_run(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    agent = Agent(gateway, "sim/steps-5")
    agent.follow(agent.step())
    agent.follow(agent.step())
    agent.messages[-1]["content"] = "an edited tool result"
    agent.step()
    assert len(set(agent.runs)) == 1


@pytest.mark.parametrize("change", ["null_to_empty", "parts", "reserialised", "refusal_dropped", "newlines"])
def test_what_frameworks_change_does_not_break_the_chain(
    gateway: ThreadedGateway, provider: ProviderServer, change: str
) -> None:
    provider.script("colliding", Scenario([
        Reply(tool_calls=[("look_up", {"query": "Paris", "n": 1})], tool_call_ids="colliding"), Reply("done")]))  # fmt: skip
    agent = Agent(gateway, "sim/colliding", "a line\nand another one ")
    message = agent.step()
    if change == "null_to_empty":
        message["content"] = ""
    elif change == "parts":
        agent.messages[1]["content"] = [{"type": "text", "text": "a line\nand another one"}]
    elif change == "reserialised":
        call = message["tool_calls"][0]["function"]
        call["arguments"] = json.dumps(
            dict(reversed(json.loads(call["arguments"]).items())), separators=(",", ":")
        )
    elif change == "refusal_dropped":
        message.pop("refusal", None)
    else:
        agent.messages[1]["content"] = "a line\r\nand another one"
    agent.follow(message)
    agent.step()
    assert len(set(agent.runs)) == 1
    assert agent.sources[-1] == "lineage"


@pytest.fixture
def patient(make_gateway: MakeGateway) -> ThreadedGateway:
    """A gateway that leaves trying again to its clients."""
    return make_gateway("routing: {retries: null}")


def test_an_sdks_retry_is_the_same_step_and_an_attempt_of_its_own(
    patient: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("flaky", Scenario([error_reply(500), error_reply(500), Reply("ok")], by="sequence"))
    body = {"model": "sim/flaky", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    told = [patient.post(body, x_stainless_retry_count=str(i))[1] for i in range(3)]
    assert len({h["x-guardrail-run-id"] for h in told}) == 1
    assert [h["x-guardrail-step"] for h in told] == ["1", "1", "1"]
    assert len(patient.attempts()) == 3


def test_a_repetition_after_a_failure_is_a_retry_even_when_nobody_says_so(
    patient: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("flaky", Scenario([error_reply(503), Reply("ok"), Reply("ok")], by="sequence"))
    body = {"model": "sim/flaky", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    first, second, third = (patient.post(body)[1] for _ in range(3))
    assert first["x-guardrail-run-id"] == second["x-guardrail-run-id"]
    assert second["x-guardrail-run-source"] == "retry"
    assert third["x-guardrail-run-id"] != first["x-guardrail-run-id"]


ASKED: dict[str, Any] = {
    "model": "sim/flaky",
    "messages": [{"role": "user", "content": "Count the herons."}],
    "max_tokens": 50,
}


@pytest.mark.parametrize("broken", [error_reply(503), Reply("One heron, two", chunks=4, cut_at_byte=400)])
@pytest.mark.parametrize("streamed_first", [True, False])
def test_the_same_conversation_after_a_failure_is_the_same_step_however_it_is_asked(
    patient: ThreadedGateway, provider: ProviderServer, broken: Reply, streamed_first: bool
) -> None:
    provider.script("flaky", Scenario([broken, Reply("Three")], by="sequence"))
    first = patient.post({**ASKED, "stream": streamed_first})[1]
    again = dict(reversed({**ASKED, "stream": not streamed_first, "temperature": 1}.items()))
    status, second, raw = patient.post(again)
    assert (status, b"Three" in raw) == (200, True)
    assert first["x-guardrail-run-id"] == second["x-guardrail-run-id"]
    assert (first["x-guardrail-step"], second["x-guardrail-step"]) == ("1", "1")
    assert second["x-guardrail-run-source"] == "retry"
    attempts = patient.attempts()
    assert len({attempt["id"] for attempt in attempts}) == len(attempts) == 2
    assert [attempt["ordinal"] for attempt in attempts] == [1, 1]
    row = run_row(patient, first["x-guardrail-run-id"])
    assert (row["status"], row["steps"]) == ("completed", 1)


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "Count the geese."}]},
        {"messages": [*ASKED["messages"], {"role": "user", "content": "All of them."}]},
        {"prompt_cache_key": "another-thread"},
        {"user": "somebody-else"},
        {"prompt_cache_key": "one-for-all", "user": "somebody-else"},
    ],
    ids=lambda change: "+".join(change),
)
def test_another_conversation_or_asker_after_a_failure_is_a_new_run(
    gateway: ThreadedGateway, provider: ProviderServer, change: dict[str, Any]
) -> None:
    provider.script("flaky", Scenario([error_reply(503), Reply("Three.")], by="sequence"))
    same_group = {name: change[name] for name in ("prompt_cache_key",) if len(change) > 1}
    first = gateway.post({**ASKED, **same_group})[1]
    second = gateway.post({**ASKED, **change})[1]
    assert first["x-guardrail-run-id"] != second["x-guardrail-run-id"]
    assert second["x-guardrail-step"] == "1"


@pytest.mark.parametrize(
    ("key", "headers"),
    [
        (BOB, {}),
        (ALICE, {"x_session_id": "conversation-12345"}),
        (ALICE, {"x_guardrail_run_id": "nightly"}),
        (ALICE, {"x_guardrail_user_id": "carol"}),
    ],
    ids=["key", "session", "run", "user"],
)
def test_a_failure_is_repeated_by_nobody_else(
    gateway: ThreadedGateway, provider: ProviderServer, key: str, headers: dict[str, str]
) -> None:
    provider.script("flaky", Scenario([error_reply(503), Reply("Three.")], by="sequence"))
    first = gateway.post(ASKED)[1]
    second = gateway.post(ASKED, key=key, x_stainless_retry_count="1", **headers)[1]
    assert first["x-guardrail-run-id"] != second["x-guardrail-run-id"]


def test_what_succeeded_is_repeated_only_by_who_says_so(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("flaky", Reply("Three."))
    first = gateway.post(ASKED)[1]
    streamed = gateway.post({**ASKED, "stream": True})[1]
    declared = gateway.post({**ASKED, "stream": True}, x_stainless_retry_count="1")[1]
    assert first["x-guardrail-run-id"] != streamed["x-guardrail-run-id"]
    assert declared["x-guardrail-run-id"] == streamed["x-guardrail-run-id"]
    assert declared["x-guardrail-run-source"] == "retry"


def test_a_twin_does_not_take_up_the_failed_step_of_the_other(
    patient: ThreadedGateway, provider: ProviderServer
) -> None:
    call = Reply(tool_calls=[("look_up", {"query": "herons"})])
    provider.script("twin", Scenario([call, call, error_reply(503), Reply("Three."), Reply("Three.")], by="sequence"))  # fmt: skip
    one, other = Agent(patient, "sim/twin"), Agent(patient, "sim/twin")
    one.follow(one.step())
    other.follow(other.step())
    assert one.messages[:2] == other.messages[:2]
    body = {"model": one.model, "messages": one.messages, "tools": TOOLS, "max_tokens": 500}
    assert patient.post(body)[0] == 503
    other.step()
    one.step()
    assert (one.sources, other.sources) == (["new", "retry"], ["new", "emitted_id"])
    assert one.runs[0] == one.runs[1] != other.runs[0] == other.runs[1]
    assert one.steps == other.steps == ["1", "2"]


def test_going_on_from_what_came_of_a_broken_answer_is_the_next_step_of_its_run(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("flaky", Scenario([Reply("One heron, two herons", chunks=4, cut_at_byte=700), Reply("Three.")],
                                      by="sequence"))  # fmt: skip
    _, first, raw = gateway.post({**ASKED, "stream": True})
    events = [json.loads(line[6:]) for line in raw.split(b"\n") if line.startswith(b'data: {"id"')]
    heard = "".join([event["choices"][0]["delta"].get("content") or "" for event in events])
    assert heard
    assert "One heron, two herons".startswith(heard)
    went_on = [
        *ASKED["messages"],
        {"role": "assistant", "content": heard},
        {"role": "user", "content": "Go on."},
    ]
    second = gateway.post({**ASKED, "messages": went_on})[1]
    assert first["x-guardrail-run-id"] == second["x-guardrail-run-id"]
    assert (second["x-guardrail-step"], second["x-guardrail-run-source"]) == ("2", "lineage")


def test_asking_again_without_a_stream_does_not_undo_a_kill_of_the_run(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("flaky", Scenario([Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01, ignore_limits=True),
                                       Reply("I went on.")], by="sequence"))  # fmt: skip
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(gateway.post, {**ASKED, "stream": True})
        wait_until(lambda: any(attempt.chunks > 5 for attempt in provider.journal), 10, "the stream")
        (run,) = gateway.admin("GET", "/runs")["data"]
        gateway.admin("POST", "/kills", {"scope": "run", "id": run["id"], "reason": "enough"})
        assert b"run_killed" in stream.result(20)[2]
    for _ in range(4):
        status, told, raw = gateway.post(ASKED)
        assert (status, json.loads(raw)["error"]["code"]) == (400, "run_killed")
        assert told["x-guardrail-run-id"] == run["id"]
    assert len(provider.journal) == 1


def test_two_hundred_equal_requests_at_once_are_two_hundred_runs(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    with ThreadPoolExecutor(32) as pool:
        runs = list(pool.map(lambda _: gateway.post(body)[1]["x-guardrail-run-id"], range(200)))
    assert len(set(runs)) == 200


def test_a_named_run_lives_until_it_is_idle(make_gateway: MakeGateway, provider: ProviderServer) -> None:
    gateway = make_gateway("runs: {idle_ttl_s: 60}\n")
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    a = gateway.post(body, x_guardrail_run_id="nightly")[1]
    b = gateway.post(body, path="/r/nightly/v1/chat/completions")[1]
    c = gateway.post(body, x_guardrail_run_id=a["x-guardrail-run-id"])[1]
    assert a["x-guardrail-run-id"] == b["x-guardrail-run-id"] == c["x-guardrail-run-id"]
    assert [h["x-guardrail-run-source"] for h in (a, b, c)] == ["header", "url", "header"]
    assert [h["x-guardrail-step"] for h in (a, b, c)] == ["1", "2", "3"]
    let_time_pass(gateway, 61)
    d = gateway.post(body, x_guardrail_run_id="nightly")[1]
    assert d["x-guardrail-run-id"] != a["x-guardrail-run-id"]
    assert run_row(gateway, d["x-guardrail-run-id"])["continues"] == a["x-guardrail-run-id"]


def test_nothing_of_one_caller_reaches_anothers_run(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    alice = Agent(gateway, "sim/steps-5", x_guardrail_session_id="shared-session")
    alice.follow(alice.step())
    thief = Agent(gateway, "sim/steps-5", key=BOB, x_guardrail_session_id="shared-session")
    thief.messages = [dict(m) for m in alice.messages]
    thief.step()
    assert thief.runs[0] != alice.runs[0]
    thief.step(x_guardrail_run_id=alice.runs[0])
    assert alice.runs[0] not in thief.runs
    alice.follow(alice.step())
    assert len(set(alice.runs)) == 1
    assert run_row(gateway, alice.runs[0])["steps"] == 2


def test_session_hints_of_vendors_group_runs(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "x"}], "max_tokens": 50}
    for header in ("x-session-id", "x-litellm-session-id", "helicone-session-id", "x-acme-session-id"):
        told = [gateway.post(body, **{header: "conversation-12345"})[1] for _ in range(2)]
        assert {h["x-guardrail-session-id"] for h in told} == {"conversation-12345"}, header
    told = [gateway.post({**body, "prompt_cache_key": "group-1"})[1] for _ in range(2)]
    assert told[0]["x-guardrail-session-id"] == told[1]["x-guardrail-session-id"] != "group-1"
    assert told[0]["x-guardrail-run-id"] != told[1]["x-guardrail-run-id"]


def test_run_limits_stop_with_their_own_codes(make_gateway: MakeGateway, provider: ProviderServer) -> None:
    for limit, code, status in (
        ("max_steps: 3", "step_limit_exceeded", "stopped_steps"),
        ("max_tool_calls: 2", "tool_limit_exceeded", "stopped_tools"),
        ("max_tokens: 100", "token_limit_exceeded", "stopped_tokens"),
        ("max_wall_clock_s: 0.3", "run_timeout", "stopped_time"),
    ):
        gateway = make_gateway(f"runs: {{{limit}}}\n", name=code)
        agent = Agent(gateway, "sim/printer")
        refused = None
        for _ in range(40):
            time.sleep(0.01)
            body = {"model": agent.model, "messages": agent.messages, "tools": TOOLS}
            answered, told, raw = gateway.post(body)
            if answered != 200:
                refused = (answered, json.loads(raw)["error"])
                break
            agent.follow(json.loads(raw)["choices"][0]["message"])
        assert refused is not None, (limit, told)
        assert (refused[0], refused[1]["code"]) == (400, code)
        assert told["x-should-retry"] == "false"
        assert told["x-guardrail-run-id"] in refused[1]["message"]
        row = run_row(gateway, told["x-guardrail-run-id"])
        assert row["status"] == status
        assert row["steps"] == len(provider.journal)
        provider.journal.clear()


def test_a_call_of_a_final_tool_ends_the_run(make_gateway: MakeGateway, provider: ProviderServer) -> None:
    gateway = make_gateway("runs: {final_tools: [final_answer]}\n")
    provider.script("smol", Scenario([Reply(tool_calls=[("look_up", {"query": "x"})]), Reply(tool_calls=[("final_answer", {"answer": "42"})])]))  # fmt: skip
    agent = Agent(gateway, "sim/smol")
    agent.follow(agent.step())
    assert run_row(gateway, agent.runs[0])["status"] == "running"
    agent.step()
    assert run_row(gateway, agent.runs[0])["status"] == "completed"
    assert len(set(agent.runs)) == 1
