"""Traces of real gateways, as a receiver of OTLP gets them."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Kill
from gateway.settings import SettingsError
from gateway.telemetry.spans import run_context
from gateway.testing import ProviderServer, Reply, error_reply
from tests.integration.conftest import AT_ONCE_S, MakeGateway, let_time_pass
from tests.integration.data_plane.test_kill import Stream
from tests.integration.data_plane.test_surfaces import policy_for, ways
from tests.support.gateway import ThreadedGateway, base_policy, process_gateway, threaded_gateway, wait_until
from tests.support.otlp_receiver import OtlpReceiver, Received, otlp_receiver
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.wire import CHAT, WIRES, Said, Wire

QUICK = "runs: {text_agent_gap_s: 0.1}\n"
"""A run that ends with a text is known to have ended at once."""
CLIENT, INTERNAL = 3, 1


@pytest.fixture
def receiver() -> Iterator[OtlpReceiver]:
    with otlp_receiver() as one:
        yield one


Start = Callable[..., ThreadedGateway]


@pytest.fixture
def start(make_gateway: MakeGateway, receiver: OtlpReceiver) -> Start:
    """A gateway that exports to the receiver."""

    def begin(extra: str = QUICK, **options: Any) -> ThreadedGateway:
        more = options.pop("environment", {})
        return make_gateway(extra, environment=receiver.environment(**more), **options)

    return begin


def play(
    gateways: list[ThreadedGateway],
    wire: Wire,
    model: str,
    *,
    stream: bool = False,
    most: int = 30,
    **more: Any,
) -> list[Said]:
    """An agent with one tool that is served by each gateway in turn, until it has its answer or an error."""
    history = [wire.user("do it")]
    heard: list[Said] = []
    for number in range(most):
        body = {**wire.body(model, history), "tools": wire.tools(["look"]), "stream": stream, **more}
        gateway = gateways[number % len(gateways)]
        _, _, raw = gateway.post(body, path=wire.path, **wire.headers)
        heard.append(wire.read(raw))
        if heard[-1].error or not heard[-1].calls:
            break
        history += wire.answered(heard[-1])
    return heard


def costs(gateway: ThreadedGateway) -> int:
    return sum(attempt["cost"] for attempt in gateway.attempts())


def is_whole(receiver: OtlpReceiver, root: Received) -> None:
    """One trace, every span below the root, none twice, each child inside of what it belongs to."""
    ids = [span.id for span in receiver.spans]
    assert len(ids) == len(set(ids))
    assert {span.trace for span in receiver.spans} == {root.trace}
    assert root.parent == ""
    for span in receiver.spans:
        assert span.start <= span.end
        assert span is root or span.parent in ids


# -- one trace for a run ------------------------------------------------------------------------------


@pytest.mark.redis
def test_a_run_over_two_replicas_is_one_trace(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    with RedisServer() as redis, ExitStack() as stack:
        policy = base_policy(provider.base_url, QUICK)
        replicas = [
            stack.enter_context(
                threaded_gateway(
                    policy,
                    tmp_path / name,
                    store_url=redis.patient_url,
                    ledger_url=f"sqlite:///{tmp_path / 'ledger.db'}",
                    environment=receiver.environment(),
                )
            )
            for name in ("one", "two")
        ]
        heard = play(replicas, CHAT, "sim/steps-8")
        assert len(heard) == 8
        assert not heard[-1].calls
        (root,) = receiver.wait("invoke_agent")
        steps, tools = receiver.wait("chat sim/steps-8", 8), receiver.wait("execute_tool", 7)
        time.sleep(2.5)
        attempts = replicas[0].attempts()
    is_whole(receiver, root)
    assert (len(receiver.spans), len(steps), len(tools)) == (16, 8, 7)
    assert {span.resource["service.instance.id"] for span in steps} == {g.worker.id for g in replicas}
    assert [span["guardrail.step"] for span in steps] == list(range(1, 9))
    assert all(span.parent == root.id and span.kind == CLIENT for span in steps)
    assert all(span.parent == root.id and span.kind == INTERNAL for span in tools)
    assert [span["gen_ai.tool.call.id"] for span in tools] == [said.calls[0][0] for said in heard[:-1]]
    for step, tool, after in zip(steps, tools, steps[1:], strict=False):
        # From the answer that calls to the request that brings the result, as exactly as the store counts.
        assert step.start < tool.start <= tool.end <= after.start
        assert abs(tool.start - step.end) < 2_000_000_000
        assert tool.links[0][1] == after.id
    assert sum(span["guardrail.cost_nanousd"] for span in steps) == sum(a["cost"] for a in attempts)
    assert root["guardrail.run.cost_nanousd"] == sum(a["cost"] for a in attempts) > 0
    assert sum(span["gen_ai.usage.input_tokens"] for span in steps) == root["guardrail.run.input_tokens"]
    assert sum(span["gen_ai.usage.output_tokens"] for span in steps) == root["guardrail.run.output_tokens"]
    assert root["guardrail.run.tool_calls"] == 7
    assert root["guardrail.run.status"] == "completed"
    assert not root.failed
    assert root.trace == f"{run_context(root['guardrail.run.id']).trace:032x}"
    assert root.start <= steps[0].start + 1_000_000
    assert root.end >= steps[-1].start


@ways
def test_every_surface_is_told_alike(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver, surface: str, prefix: str, stream: bool
) -> None:
    with threaded_gateway(
        policy_for(provider, QUICK), tmp_path / "gw", environment=receiver.environment()
    ) as gateway:
        heard = play([gateway], WIRES[surface], f"{prefix}/steps-3", stream=stream)
        assert [len(said.calls) for said in heard] == [1, 1, 0]
        (root,) = receiver.wait("invoke_agent")
        assert gateway.worker.traces is not None
        cost = costs(gateway)
    is_whole(receiver, root)
    steps, tools = receiver.named("chat "), receiver.named("execute_tool look")
    assert (len(steps), len(tools), len(receiver.spans)) == (3, 2, 6)
    assert [tool["gen_ai.tool.call.id"] for tool in tools] == [said.calls[0][0] for said in heard[:2]]
    assert sum(step["guardrail.cost_nanousd"] for step in steps) == cost > 0
    for step in steps:
        assert step.name == f"chat {prefix}/steps-3"
        assert step["gen_ai.operation.name"] == "chat"
        assert step["guardrail.surface"] == surface
        assert step["gen_ai.response.model"] == "sim/steps-3"
        assert step["gen_ai.provider.name"] == {"sim": "upstream"}.get(prefix, prefix)
        assert step["server.address"] == "127.0.0.1"
        assert step["gen_ai.response.id"]
        assert len(step["gen_ai.response.finish_reasons"]) == 1
        assert ("guardrail.ttft_ms" in step.attributes) is stream
        assert ("gen_ai.request.stream" in step.attributes) is stream
        assert 0 <= step["guardrail.overhead_ms"] <= (step.end - step.start) / 1e6 + 1


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v1/embeddings", {"model": "sim/echo", "input": "a text"}, "embeddings sim/echo"),
        ("/v1/completions", {"model": "sim/echo", "prompt": "a text"}, "text_completion sim/echo"),
        ("/v1/moderations", {"model": "sim/echo", "input": "a text"}, "moderation sim/echo"),
    ],
)
def test_steps_that_are_no_conversation_have_their_own_names(
    start: Start, receiver: OtlpReceiver, path: str, body: dict[str, Any], name: str
) -> None:
    gateway = start(environment={"GATEWAY_TRACE_CONVENTIONS": "both"})
    assert gateway.post(body, path=path)[0] == 200
    (span,) = receiver.wait(name)
    kinds = {"embeddings": "EMBEDDING", "text_completion": "LLM", "moderation": "GUARDRAIL"}
    assert span["openinference.span.kind"] == kinds[name.split()[0]]


def test_two_answers_that_a_client_asks_for_at_once_are_two_steps(
    start: Start, receiver: OtlpReceiver
) -> None:
    gateway = start()
    body = CHAT.request("sim/echo")
    threads = [threading.Thread(target=gateway.post, args=(body,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    spans = receiver.wait("chat", 8)
    assert len({span.id for span in spans}) == 8


# -- how runs and steps end ---------------------------------------------------------------------------


def test_a_refused_step_is_a_span_and_so_is_the_tool_whose_result_it_brought(
    start: Start, receiver: OtlpReceiver
) -> None:
    gateway = start("runs: {max_steps: 2, on_exceed: stop}\n")
    heard = play([gateway], CHAT, "sim/printer")
    assert [said.error for said in heard] == [None, None, "step_limit_exceeded"]
    (root,) = receiver.wait("invoke_agent")
    is_whole(receiver, root)
    steps = receiver.named("chat")
    assert [step.error for step in steps] == ["", "", "step_limit_exceeded"]
    refused = steps[-1]
    assert refused.failed
    assert refused["error.type"] == "step_limit_exceeded"
    assert refused["guardrail.refusal.rule"] == "runs.max_steps"
    assert (refused["guardrail.refusal.limit"], refused["guardrail.refusal.used"]) == (2, 2)
    assert refused["guardrail.verdict"] == "refuse"
    assert refused["guardrail.attempts"] == 0
    assert "gen_ai.usage.input_tokens" not in refused.attributes
    assert len(receiver.named("execute_tool")) == 2
    assert (root.failed, root.error) == (True, "stopped_steps")
    assert root["guardrail.run.status"] == "stopped_steps"


def test_a_landing_is_the_last_step_of_its_run(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start("runs: {max_steps: 3, on_exceed: wrap_up}\n")
    heard = play([gateway], CHAT, "sim/printer")
    assert [said.error for said in heard] == [None] * len(heard)
    (root,) = receiver.wait("invoke_agent")
    steps = receiver.named("chat")
    assert [step["guardrail.verdict"] for step in steps] == ["allow", "allow", "wrap_up"]
    assert "runs.max_steps" in steps[-1]["guardrail.rules"]
    assert root["guardrail.run.status"] == "stopped_steps"
    is_whole(receiver, root)


def test_an_answer_in_the_models_place_is_a_step_without_attempts(
    start: Start, receiver: OtlpReceiver
) -> None:
    gateway = start("runs: {max_steps: 1, on_exceed: final_message}\n")
    heard = play([gateway], CHAT, "sim/printer")
    assert "stopped before it was finished" in heard[-1].text
    (root,) = receiver.wait("invoke_agent")
    last = receiver.named("chat")[-1]
    assert last["guardrail.attempts"] == 0
    assert not last.failed
    assert root["guardrail.run.status"] == "stopped_steps"


def test_a_killed_stream_ends_its_step_and_its_run(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    provider.script("slow", Reply("word " * 2000, chunks=2000, chunk_delay_s=0.01))
    gateway = start()
    stream = Stream(gateway, CHAT.request("sim/slow", stream=True, max_tokens=4000))
    wait_until(lambda: stream.received.count(b"data:") > 3, what="stream")

    async def kill() -> None:
        await gateway.worker.store.set_kill(Kill("team:red", "too dear"), None)

    gateway.run(kill)
    stream.join(10)
    (root,) = receiver.wait("invoke_agent")
    (step,) = receiver.named("chat")
    assert step["guardrail.outcome"] == "killed"
    assert step.failed
    assert step["guardrail.cost_nanousd"] == costs(gateway) > 0
    assert root["guardrail.run.status"] == "killed"
    assert root["guardrail.run.status_reason"] == "too dear"
    is_whole(receiver, root)


def test_a_client_that_leaves_is_told_of(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    provider.script("slow", Reply("word " * 2000, chunks=2000, chunk_delay_s=0.01))
    gateway = start()
    import http.client

    from tests.support.gateway import ALICE

    connection = http.client.HTTPConnection("127.0.0.1", gateway.port)
    body = json.dumps(CHAT.request("sim/slow", stream=True, max_tokens=4000))
    headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", body, headers)
    connection.getresponse().read1(100)
    assert connection.sock is not None
    connection.sock.close()
    connection.close()
    (step,) = receiver.wait("chat")
    assert step["guardrail.outcome"] == "disconnected"
    assert step.failed


def test_retries_and_fallbacks_are_attempts_below_their_step(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    policy = f"""
version: 1
providers:
  first: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}
  second: {{dialect: anthropic, base_url: "{provider.origin}", api_key: none}}
models:
  sim/bad: {{provider: first, price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}, fallbacks: [good]}}
  good: {{provider: second, upstream_model: sim/echo, price: {{input_usd_per_mtok: 3, output_usd_per_mtok: 3}}}}
auth: {{mode: keys}}
keys: [{{name: alice, key: gk-alice-0123456789, user: alice, team: red}}]
routing: {{retries: {{attempts: 1, first_delay_s: 0.01}}}}
{QUICK}"""
    provider.script("bad", error_reply(500))
    with threaded_gateway(policy, tmp_path / "gw", environment=receiver.environment()) as gateway:
        assert gateway.post(CHAT.request("sim/bad"))[0] == 200
        (root,) = receiver.wait("invoke_agent")
        attempts_known = gateway.attempts()
    is_whole(receiver, root)
    (step,) = receiver.named("chat sim/bad")
    attempts = receiver.named("attempt ")
    assert [one.name for one in attempts] == ["attempt 1 sim/bad", "attempt 2 sim/bad", "attempt 3 sim/echo"]
    assert all(one.parent == step.id and one.kind == CLIENT for one in attempts)
    assert [one.failed for one in attempts] == [True, True, False]
    assert [one["http.response.status_code"] for one in attempts] == [500, 500, 200]
    assert [one["gen_ai.provider.name"] for one in attempts] == ["first", "first", "second"]
    assert [one["guardrail.attempt.id"] for one in attempts] == [a["id"] for a in attempts_known]
    assert sum(one["guardrail.attempt.cost_nanousd"] for one in attempts) == step["guardrail.cost_nanousd"]
    assert (step["guardrail.attempts"], step.failed) == (3, False)
    assert step["gen_ai.provider.name"] == "second"
    assert step["guardrail.verdict"] == "reroute"
    assert step["gen_ai.usage.output_tokens"] == attempts[-1]["guardrail.attempt.output_tokens"] > 0
    assert all("gen_ai.usage.output_tokens" not in one.attributes for one in attempts)
    assert all(step.start <= one.start <= one.end <= step.end for one in attempts)


def test_a_provider_that_fails_is_told_of_by_its_error(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start()
    assert gateway.post(CHAT.request("sim/error-500"))[0] == 503
    assert gateway.post(CHAT.request("sim/error-400"))[0] == 400
    failed = {step.name: step for step in receiver.wait("chat", 2)}
    assert failed["chat sim/error-500"].error == "upstream_500"
    assert failed["chat sim/error-400"].error == "upstream_400"
    assert "guardrail.refusal.code" not in failed["chat sim/error-500"].attributes


def test_a_step_that_no_run_was_found_for_has_no_trace(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start()
    assert gateway.post(b"{")[0] == 400
    assert gateway.post(CHAT.request("sim/echo"), key="gk-nobody")[0] == 401
    assert gateway.request("GET", "/v1/models")[0] == 200
    assert gateway.post(CHAT.request("sim/echo"))[0] == 200
    receiver.wait("chat")
    time.sleep(0.3)
    assert [span.name for span in receiver.spans if not span.name.startswith("invoke")] == ["chat sim/echo"]


def test_a_tool_that_failed_is_a_failed_span_and_is_told_of_once(
    start: Start, receiver: OtlpReceiver
) -> None:
    gateway = start()
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    body = {
        "model": "sim/echo",
        "messages": [
            {"role": "user", "content": "go"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": '{"error": "connection timeout"}'},
        ],
        "tools": CHAT.tools(["look"]),
    }
    assert gateway.post(body)[0] == 200
    body["messages"] = [*body["messages"], {"role": "assistant", "content": "Hm."}, CHAT.user("again")]
    assert gateway.post(body)[0] == 200
    receiver.wait("chat", 2)
    (tool,) = receiver.wait("execute_tool look")
    assert tool.failed
    assert tool["guardrail.tool.outcome"] == "error"
    assert tool["error.type"] == tool.error
    time.sleep(0.3)
    assert len(receiver.named("execute_tool")) == 1


def test_a_step_sent_again_tells_of_its_tools_once(
    start: Start, provider: ProviderServer, receiver: OtlpReceiver
) -> None:
    gateway = start()
    provider.script("shaky", [Reply(tool_calls=[("look", {"q": "a"})]), error_reply(500), Reply("done")])
    first = CHAT.read(gateway.post(CHAT.request("sim/shaky", tools=["look"]))[2])
    body = {
        **CHAT.body("sim/shaky", [CHAT.user("go"), *CHAT.answered(first)]),
        "tools": CHAT.tools(["look"]),
    }
    assert gateway.post(body)[0] == 503
    gateway.post(body, x_stainless_retry_count="1")
    receiver.wait("chat", 3)
    time.sleep(0.3)
    assert len(receiver.named("execute_tool")) == 1


# -- links -------------------------------------------------------------------------------------------


def test_a_successor_and_a_child_are_linked(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start()
    history = [CHAT.user("one")]
    said = CHAT.read(gateway.post(CHAT.body("sim/echo", history))[2])
    time.sleep(0.3)
    history += [*CHAT.answered(said), CHAT.user("two")]
    _, headers, _ = gateway.post(CHAT.body("sim/echo", history), x_guardrail_run_id="boss")
    _, child, _ = gateway.post(
        CHAT.request("sim/echo", "other"), x_guardrail_parent_run_id=headers["x-guardrail-run-id"]
    )
    roots = {r["guardrail.run.id"]: r for r in receiver.wait("invoke_agent", 2)}
    own = roots[child["x-guardrail-run-id"]]
    assert [why for _, _, why in own.links] == ["parent"]
    parent = run_context(headers["x-guardrail-run-id"])
    assert own.links[0][:2] == (f"{parent.trace:032x}", f"{parent.span:016x}")


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_a_clients_own_span_is_linked(start: Start, receiver: OtlpReceiver, provider: ProviderServer) -> None:
    gateway = start()
    assert gateway.post(CHAT.request("sim/echo"), traceparent=TRACEPARENT)[0] == 200
    (step,) = receiver.wait("chat")
    assert ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", "client") in step.links
    assert step.trace != "4bf92f3577b34da6a3ce929d0e0e4736"
    # The client's own header passes as any does, and the gateway adds none.
    assert gateway.post(CHAT.request("sim/echo", "b"))[0] == 200
    sent = [dict(attempt.headers).get("traceparent") for attempt in provider.journal]
    assert sent == [TRACEPARENT, None]


def test_a_clients_own_span_is_the_parent_where_that_is_wanted(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start(environment={"GATEWAY_TRACE_PARENT": "client"})
    assert gateway.post(CHAT.request("sim/echo"), traceparent=TRACEPARENT)[0] == 200
    unsampled = TRACEPARENT[:-1] + "0"
    assert gateway.post(CHAT.request("sim/echo", "b"), traceparent=unsampled)[0] == 200
    assert gateway.post(CHAT.request("sim/echo", "c"))[0] == 200
    steps = receiver.wait("chat", 2)
    adopted, own = steps
    assert (adopted.trace, adopted.parent) == (TRACEPARENT[3:35], TRACEPARENT[36:52])
    assert [why for _, _, why in adopted.links] == ["run"]
    assert own.trace != adopted.trace
    time.sleep(0.3)
    assert len(receiver.named("chat")) == 2


# -- conventions and the standard variables ----------------------------------------------------------


def test_openinference_names(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start(environment={"GATEWAY_TRACE_CONVENTIONS": "openinference"})
    play([gateway], CHAT, "sim/steps-2", temperature=0.25)
    (root,) = receiver.wait("invoke_agent")
    steps, (tool,) = receiver.named("chat"), receiver.named("execute_tool")
    assert [s["openinference.span.kind"] for s in (root, *steps, tool)] == ["AGENT", "LLM", "LLM", "TOOL"]
    for step in steps:
        assert step["llm.model_name"] == "sim/steps-2"
        assert step["llm.token_count.total"] == (
            step["llm.token_count.prompt"] + step["llm.token_count.completion"]
        )
        assert json.loads(step["llm.invocation_parameters"]) == {"temperature": 0.25}
        assert step["llm.cost.total"] == pytest.approx(step["guardrail.cost_nanousd"] / 1e9)
        assert step["session.id"] == root["session.id"]
        assert step["user.id"] == "alice"
    assert tool["tool.name"] == "look"
    assert not [name for span in receiver.spans for name in span.attributes if name.startswith("gen_ai.")]


def test_the_standard_variables_are_heeded(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start(
        environment={
            "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/custom/path",
            "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20abc,x-tenant=one",
            "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
            "OTEL_SERVICE_NAME": "guard",
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=prod,service.name=other",
        }
    )
    assert gateway.post(CHAT.request("sim/echo"))[0] == 200
    (step,) = receiver.wait("chat")
    assert receiver.paths[0] == "/custom/path"
    assert receiver.headers[0]["authorization"] == "Basic abc"
    assert receiver.headers[0]["x-tenant"] == "one"
    assert receiver.headers[0]["content-encoding"] == "gzip"
    assert step.resource["service.name"] == "guard"
    assert step.resource["deployment.environment.name"] == "prod"
    assert step.resource["service.instance.id"] == gateway.worker.id


@pytest.mark.parametrize("switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"},
    {"OTEL_TRACES_SAMPLER": "always_off"}])  # fmt: skip
def test_traces_can_be_switched_off(start: Start, receiver: OtlpReceiver, switch: dict[str, str]) -> None:
    gateway = start(environment=switch)
    assert gateway.worker.traces is None
    assert gateway.post(CHAT.request("sim/echo"))[0] == 200
    time.sleep(0.3)
    assert receiver.paths == []


# -- sampling ----------------------------------------------------------------------------------------


def test_a_sample_holds_whole_runs_and_every_run_that_was_stopped(
    start: Start, receiver: OtlpReceiver
) -> None:
    gateway = start("runs: {max_steps: 4, text_agent_gap_s: 0.1, on_exceed: stop}\ntracing: {sample: 0}\n")
    assert [s.error for s in play([gateway], CHAT, "sim/steps-3")] == [None] * 3
    play([gateway], CHAT, "sim/printer")
    (root,) = receiver.wait("invoke_agent")
    assert root["guardrail.run.status"] == "stopped_steps"
    is_whole(receiver, root)
    steps, tools = receiver.named("chat"), receiver.named("execute_tool")
    assert [step.error for step in steps] == ["", "", "", "", "step_limit_exceeded"]
    # What the refused request brought is not in the ledger.
    assert len(tools) == 3
    assert sum(step["guardrail.cost_nanousd"] for step in steps) == root["guardrail.run.cost_nanousd"] > 0
    read = sum(step.attributes.get("gen_ai.usage.input_tokens", 0) for step in steps)
    assert read == root["guardrail.run.input_tokens"]
    time.sleep(2.5)
    assert len(receiver.named("invoke_agent")) == 1


def test_half_of_the_runs_are_told_of_whole(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start(
        f"{QUICK}",
        environment={"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"},
    )
    runs = [gateway.post(CHAT.request("sim/echo", f"task {n}"))[1]["x-guardrail-run-id"] for n in range(40)]
    expected = {run for run in runs if run_context(run).trace & (2**64 - 1) < 2**63}
    assert 5 < len(expected) < 35
    receiver.wait("invoke_agent", len(expected))
    assert {s["guardrail.run.id"] for s in receiver.named("chat")} == expected
    assert {s["guardrail.run.id"] for s in receiver.named("invoke_agent")} == expected


# -- receivers that misbehave -------------------------------------------------------------------------


def test_a_receiver_that_is_gone_disturbs_nobody_and_gets_what_waited(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    port = free_port()
    environment = OtlpReceiver(f"http://127.0.0.1:{port}").environment(OTEL_EXPORTER_OTLP_TIMEOUT="20")
    gateway = make_gateway(QUICK, environment=environment)
    for number in range(5):
        assert gateway.post(CHAT.request("sim/echo", str(number)))[0] == 200
    with otlp_receiver(port) as receiver:
        assert len(receiver.wait("chat", 5)) == 5


@pytest.mark.parametrize("how", ["gone", "500", "hangs"])
def test_a_receiver_that_fails_delays_no_shut_down(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver, how: str
) -> None:
    environment = receiver.environment()
    if how == "gone":
        environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = f"http://127.0.0.1:{free_port()}"
    receiver.status, receiver.delay_s = (500, 0) if how == "500" else (200, 30 if how == "hangs" else 0)
    with threaded_gateway(
        base_policy(provider.base_url, QUICK), tmp_path, environment=environment
    ) as gateway:
        for number in range(3):
            assert gateway.post(CHAT.request("sim/echo", str(number)))[0] == 200
        time.sleep(0.3)
        assert gateway.post(CHAT.request("sim/echo", "last"))[0] == 200
        traces = gateway.worker.traces
        assert traces is not None
        began = time.monotonic()
        gateway.run(traces.close)
        assert time.monotonic() - began < AT_ONCE_S


def test_what_is_left_is_told_at_the_end(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    environment = receiver.environment(OTEL_BSP_SCHEDULE_DELAY="60000")
    with threaded_gateway(
        base_policy(provider.base_url, QUICK), tmp_path, environment=environment
    ) as gateway:
        for number in range(20):
            assert gateway.post(CHAT.request("sim/echo", str(number)))[0] == 200
        assert receiver.spans == []
    assert len(receiver.named("chat")) == 20


def test_the_span_of_a_run_that_ended_just_before_a_restart_is_told_after_it(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    policy, environment = base_policy(provider.base_url, QUICK), receiver.environment()
    with threaded_gateway(policy, tmp_path, environment=environment) as gateway:
        assert gateway.post(CHAT.request("sim/echo"))[0] == 200
    assert receiver.named("invoke_agent") == []
    with threaded_gateway(policy, tmp_path, environment=environment):
        (root,) = receiver.wait("invoke_agent")
    with threaded_gateway(policy, tmp_path, environment=environment):
        time.sleep(2.5)
    assert len(receiver.named("invoke_agent")) == 1
    is_whole(receiver, root)


def test_a_full_queue_drops_counts_and_says_so_once(
    start: Start, receiver: OtlpReceiver, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = start(
        environment={"OTEL_BSP_MAX_QUEUE_SIZE": "10", "OTEL_BSP_SCHEDULE_DELAY": "60000",
                     "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "10"}
    )  # fmt: skip
    receiver.delay_s = 1.0
    for number in range(60):
        assert gateway.post(CHAT.request("sim/echo", str(number)))[0] == 200
    sample = gateway.worker.metrics.registry.get_sample_value
    dropped = wait_until(lambda: sample("gateway_trace_spans_total", {"outcome": "dropped"}), what="drops")
    assert dropped
    said = [
        r.getMessage() for r in caplog.records if r.name == "gateway.traces" and "dropped" in r.getMessage()
    ]
    assert len(said) <= 3


def test_tracing_that_is_configured_and_not_installed_is_a_clear_error(
    monkeypatch: pytest.MonkeyPatch, receiver: OtlpReceiver
) -> None:
    import sys

    from gateway.telemetry.otlp import OtlpExporter, configured

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    config = configured(receiver.environment())
    assert config is not None
    with pytest.raises(SettingsError, match=r"guardrail-gateway\[otel\]"):
        OtlpExporter(config, "worker", lambda _outcome, _count: None)


# -- runs that nobody ends, and processes that are killed ---------------------------------------------


def test_a_named_run_is_told_of_when_it_is_abandoned(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start("runs: {idle_ttl_s: 600}\n")
    for text in ("one", "two"):
        assert gateway.post(CHAT.request("sim/echo", text), x_guardrail_run_id="night")[0] == 200
    receiver.wait("chat", 2)
    time.sleep(2)
    assert receiver.named("invoke_agent") == []
    let_time_pass(gateway, 3600)
    (root,) = receiver.wait("invoke_agent night")
    assert root["guardrail.run.status"] == "abandoned"
    assert not root.failed
    # What it rested for before it was given up is no part of it.
    assert root.end - root.start < 60e9
    is_whole(receiver, root)


def test_a_run_that_is_killed_while_it_rests_is_told_of(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start()
    _, headers, _ = gateway.post(CHAT.request("sim/echo"), x_guardrail_run_id="night")
    gateway.admin("POST", f"/runs/{headers['x-guardrail-run-id']}/kill", {"reason": "enough"})
    status, _, _ = gateway.post(CHAT.request("sim/echo", "more"), x_guardrail_run_id="night")
    assert status == 403 or status == 400
    (root,) = receiver.wait("invoke_agent night")
    assert root["guardrail.run.status"] == "killed"
    assert root["guardrail.run.status_reason"] == "enough"
    refused = receiver.named("chat")[-1]
    assert refused.error == "run_killed"
    is_whole(receiver, root)


def test_a_providers_background_work_is_one_step(start: Start, receiver: OtlpReceiver) -> None:
    gateway = start()
    body = {"model": "sim/echo", "input": "take your time", "background": True}
    status, _, raw = gateway.post(body, path="/v1/responses")
    assert status == 200, raw
    (step,) = receiver.wait("chat")
    assert step["guardrail.outcome"] == "ok"
    assert step["gen_ai.usage.output_tokens"] > 0
    assert step["guardrail.cost_nanousd"] == costs(gateway) > 0
    time.sleep(0.3)
    assert len(receiver.named("chat")) == 1


@pytest.mark.redis
def test_the_survivor_tells_of_a_run_whose_worker_was_killed(
    provider: ProviderServer, tmp_path: Path, receiver: OtlpReceiver
) -> None:
    ledger = f"sqlite:///{tmp_path / 'ledger.db'}"
    with RedisServer() as redis, ExitStack() as stack:
        one, two = (
            stack.enter_context(
                process_gateway(
                    base_policy(provider.base_url, QUICK),
                    tmp_path / name,
                    store_url=redis.patient_url,
                    ledger_url=ledger,
                    environment=receiver.environment(),
                )
            )
            for name in ("one", "two")
        )
        status, headers, _ = one.post(CHAT.request("sim/echo"))
        assert status == 200
        receiver.wait("chat")
        one.kill()
        (root,) = receiver.wait("invoke_agent")
        assert root["guardrail.run.id"] == headers["x-guardrail-run-id"]
        assert two.process is not None
        assert root.resource["service.instance.id"].split("-")[-2] == str(two.process.pid)
        time.sleep(2.5)
    assert len(receiver.named("invoke_agent")) == 1
