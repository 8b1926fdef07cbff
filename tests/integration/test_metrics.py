"""Every metric that dashboards rely on moves when what it counts happens, and callers cannot make endless series."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gateway.admission import Charge, Hold
from gateway.domain import Json
from gateway.screening.pool import ScanFailed
from gateway.stores.ledger import LedgerUnavailable
from gateway.telemetry.metrics import MAX_SERIES, OTHER, Metrics, rule_label
from gateway.testing import ProviderServer, Reply, error_reply
from tests.integration.conftest import let_time_pass
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer

Start = Callable[..., ThreadedGateway]
PRICE = "price: {input_usd_per_mtok: 2.5, output_usd_per_mtok: 10}"


def policy_for(provider: ProviderServer, extra: str = "") -> str:
    breaker = "breaker: {min_calls: 2, window_s: 60, open_s: 60}"
    return f"""
version: 1
providers:
  upstream: {{dialect: openai, base_url: "{provider.base_url}", api_key: sk-upstream-secret-000000000000}}
  gone: {{dialect: openai, base_url: "http://127.0.0.1:{free_port()}/v1", api_key: none, {breaker}}}
models:
  "sim/*": {{provider: upstream, {PRICE}}}
  "gone/*": {{provider: gone, upstream_model: "sim/*", {PRICE}, fallbacks: [sim/good]}}
  mystery: {{provider: upstream}}
auth: {{mode: keys}}
keys:
  - {{name: alice, key: {ALICE}, user: alice, team: red}}
  - {{name: bob, key: {BOB}, user: bob, team: blue}}
{extra}"""


@pytest.fixture
def start(provider: ProviderServer, tmp_path: Path) -> Iterator[Start]:
    with ExitStack() as stack:

        def begin(extra: str = "", **options: Any) -> ThreadedGateway:
            name = options.pop("name", "gateway")
            policy = policy_for(provider, extra)
            return stack.enter_context(threaded_gateway(policy, tmp_path / name, **options))

        yield begin


Figures = dict[str, float]


def figures(gateway: ThreadedGateway) -> Figures:
    """Every series of `/metrics`, by its text."""
    status, _, raw = gateway.request("GET", "/metrics", key=None)
    assert status == 200
    lines = (line.rpartition(" ") for line in raw.decode().splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def say(model: str = "sim/good", text: str = "hello", **more: Any) -> Json:
    return {"model": model, "messages": [{"role": "user", "content": text}], **more}


def total(found: Figures, name: str, **labels: str) -> float:
    """The sum of all series with these labels."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    return sum(
        value
        for series, value in found.items()
        if series.partition("{")[0] == name and all(label in series for label in wanted)
    )


def flushed(gateway: ThreadedGateway) -> Figures:
    """The figures after everything that was settled is in the ledger."""
    gateway.run(gateway.worker.drain.flush)
    return figures(gateway)


def test_steps_money_time_and_runs(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello there."))
    gateway = start("budgets: [{name: day, per: user, window: 1d, limit_usd: 1}]\n")
    assert gateway.post(say())[0] == 200
    assert gateway.post(say(stream=True))[0] == 200
    found = flushed(gateway)
    served = {"surface": "chat", "model": "sim/*", "provider": "upstream", "outcome": "ok"}
    assert total(found, "gateway_requests_total", **served) == 2
    assert total(found, "gateway_tokens_total", model="sim/*", kind="output_text") > 0
    cost = total(found, "gateway_cost_usd_total", model="sim/*", team="red")
    assert cost == pytest.approx(sum(a["cost"] for a in gateway.attempts()) / 1e9)
    assert found["gateway_overhead_seconds_count"] == 2
    assert total(found, "gateway_upstream_seconds_count", provider="upstream") == 2
    assert total(found, "gateway_time_to_first_token_seconds_count", provider="upstream") == 1
    assert total(found, "gateway_runs_ended_total", status="completed") == 2
    assert found["gateway_run_cost_usd_sum"] == pytest.approx(cost)
    assert found["gateway_run_steps_sum"] == 2
    assert found["gateway_run_seconds_count"] == found["gateway_session_seconds_count"] == 2
    assert found["gateway_session_cost_usd_sum"] == pytest.approx(cost)
    assert found["gateway_policy_generation"] >= 1
    assert found["gateway_policy_healthy"] == 1
    assert found["gateway_workers"] == 1
    assert found["gateway_in_flight_requests"] == 0
    assert found["process_resident_memory_bytes"] > 1e7

    gateway.run(gateway.worker.gauges.look)
    used = figures(gateway)['gateway_budget_used_ratio{budget="day",per="user"}']
    assert used == pytest.approx(cost)


def test_a_session_is_the_sum_of_its_runs(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start()
    for _ in range(3):
        assert gateway.post(say(), x_guardrail_session_id="thread-1")[0] == 200
        found = flushed(gateway)
    each = found["gateway_run_cost_usd_sum"] / 3
    # One run, then two, then three.
    assert found["gateway_session_cost_usd_sum"] == pytest.approx(6 * each)
    assert found["gateway_session_cost_usd_count"] == 3


def test_runs_end_by_idleness_and_by_kills_too(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply(tool_calls=[("look", {"q": "x"})]))
    gateway = start("runs: {idle_ttl_s: 60}\n")
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    assert gateway.post(say(tools=tools))[0] == 200
    status, headers, _ = gateway.post(say(text="another", tools=tools))
    assert status == 200
    gateway.admin("POST", "/kills", {"scope": "run", "id": headers["x-guardrail-run-id"], "reason": "test"})
    assert total(flushed(gateway), "gateway_runs_ended_total", status="killed") == 1
    let_time_pass(gateway, 120)
    gateway.run(gateway.worker.store.reap)
    found = flushed(gateway)
    assert total(found, "gateway_runs_ended_total", status="abandoned") == 1
    assert found["gateway_run_steps_count"] == 2
    assert found["gateway_kill_propagation_seconds_count"] == 1
    assert total(found, "gateway_events_total", event="kill") == 1
    gateway.run(gateway.worker.drain.flush)
    assert total(flushed(gateway), "gateway_runs_ended_total") == 2


def test_refusals_and_models_without_a_price(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start("rates: [{name: slow, per: key, requests_per_minute: 1}]\n")
    assert gateway.post(say("mystery"))[0] == 400
    assert gateway.post(say("nobody-knows-it"))[0] == 400
    assert gateway.post(say(), key="wrong")[0] == 401
    assert gateway.post(say())[0] == 200
    assert b"rate_limit_exceeded" in gateway.post(say())[2]
    found = figures(gateway)
    assert total(found, "gateway_refusals_total", code="unknown_price") == 1
    assert found["gateway_unpriced_total"] == 1
    assert total(found, "gateway_refusals_total", code="unknown_model") == 1
    assert total(found, "gateway_refusals_total", code="invalid_api_key") == 1
    assert total(found, "gateway_refusals_total", code="rate_limit_exceeded", rule="slow") == 1


def test_findings_and_checks_that_could_not_run(
    start: Start, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start("screening: {secrets: {mode: enforce, action: block, on_failure: allow}}\n")
    assert gateway.post(say(text="my key is AKIAIOSFODNN7EXAMPLF, keep it"))[0] == 400
    found = figures(gateway)
    assert total(found, "gateway_findings_total", detector="secrets", channel="user", action="block") == 1
    assert total(found, "gateway_events_total", event="secret") == 1

    async def fail(*_: object) -> None:
        raise ScanFailed("timeout")

    monkeypatch.setattr(gateway.worker.pool, "scan", fail)
    assert gateway.post(say(text="word " * 20_000))[0] == 200
    assert total(figures(gateway), "gateway_bypassed_total", check="screening.secrets") == 1


def test_fallbacks_savings_breakers_and_the_cache(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start("cache: {exact: {ttl_s: 300}}\n")
    for n in range(3):
        assert gateway.post(say("gone/good", f"hello {n}"))[0] == 200
    found = figures(gateway)
    assert total(found, "gateway_routed_total", to="sim/*", rule="fallback") >= 1
    state = 'gateway_breaker_state{id="gone",kind="provider"}'
    wait_until(lambda: figures(gateway).get(state) == 2, what="breaker of the provider")
    for _ in range(2):
        assert gateway.post(say(temperature=0))[0] == 200
    found = figures(gateway)
    assert total(found, "gateway_cache_total", tier="exact", outcome="hit") == 1
    assert total(found, "gateway_cache_total", tier="exact", outcome="miss") >= 1
    assert found["gateway_saved_usd_total"] > 0
    assert found['gateway_breaker_state{id="gone/*",kind="model"}'] == 2


def test_tool_calls_and_their_results(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply(tool_calls=[("look", {"q": "x"}), ("unlisted", {})]))
    gateway = start("tools: {look: {side_effects: none}}\n")
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
        for name in ("look", "unlisted")
    ]
    body = say(tools=tools)
    status, _, raw = gateway.post(body)
    assert status == 200
    answer = json.loads(raw)["choices"][0]["message"]
    results = [
        {"role": "tool", "tool_call_id": answer["tool_calls"][0]["id"], "content": "Error: no such order"},
        {"role": "tool", "tool_call_id": answer["tool_calls"][1]["id"], "content": "42"},
    ]
    provider.script("good", Reply("Done."))
    assert gateway.post({**body, "messages": [*body["messages"], answer, *results]})[0] == 200
    found = figures(gateway)
    assert total(found, "gateway_tool_calls_total", tool="look", outcome="ok") == 1
    assert total(found, "gateway_tool_calls_total", tool="other", outcome="ok") == 1
    assert total(found, "gateway_tool_results_total", tool="look", outcome="error") == 1
    assert total(found, "gateway_tool_results_total", tool="other", outcome="ok") == 1


def test_a_policy_that_is_refused(start: Start) -> None:
    gateway = start()
    good = gateway.policy_path.read_text()
    gateway.policy_path.write_text(good + "\nbudgetz: []\n")
    wait_until(lambda: figures(gateway)["gateway_policy_healthy"] == 0, what="the refusal")
    wait_until(lambda: figures(gateway)["gateway_policy_reload_failures_total"] == 1, what="the count")
    gateway.policy_path.write_text(good + "\n# better\n")
    wait_until(lambda: figures(gateway)["gateway_policy_healthy"] == 1, what="the recovery")


@pytest.mark.redis
def test_the_store_is_timed_and_its_failures_counted(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    with RedisServer() as server:
        gateway = start("budgets: [{name: all, per: global, limit_usd: 1}]\n", store_url=server.url)
        assert gateway.post(say())[0] == 200
        found = figures(gateway)
        for operation in ("resolve", "admit", "settle", "xrange"):
            assert total(found, "gateway_store_seconds_count", operation=operation) >= 1, operation
        assert 0 < total(found, "gateway_store_seconds_sum", operation="admit") < 10
        assert found["gateway_store_errors_total"] == 0
        server.kill()
        assert gateway.post(say())[0] == 503
        found = figures(gateway)
        assert found["gateway_store_errors_total"] >= 1
        wait_until(lambda: figures(gateway)["gateway_drain_lag_seconds"] > 1, what="the lag of the drain")


def test_the_embedded_store_times_its_writing(start: Start) -> None:
    gateway = start()
    wait_until(lambda: total(figures(gateway), "gateway_store_seconds_count", operation="save") > 0)


# -- drift -------------------------------------------------------------------------------------------


def drift(gateway: ThreadedGateway, between: str) -> float:
    return total(figures(gateway), "gateway_ledger_drift_usd", between=between)


def test_a_counter_that_lost_money_is_seen_and_told_once(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start("budgets: [{name: all, per: global, limit_usd: 1}]\n")
    assert gateway.post(say())[0] == 200
    flushed(gateway)
    gauges, store = gateway.worker.gauges, gateway.worker.store
    for _ in range(2):
        gateway.run(gauges.look)
    assert drift(gateway, "store_and_ledger") == 0
    (counter,) = store._counters.values()  # type: ignore[attr-defined]
    cost, counter.used = counter.used, 0
    gateway.run(gauges.look)
    assert drift(gateway, "store_and_ledger") == 0  # it may be on its way
    for _ in range(2):
        gateway.run(gauges.look)
    assert drift(gateway, "store_and_ledger") == pytest.approx(cost / 1e9)
    assert total(figures(gateway), "gateway_events_total", event="ledger_drift") == 1
    counter.used = cost
    gateway.run(gauges.look)
    assert drift(gateway, "store_and_ledger") == 0


def test_runs_that_cost_other_than_their_steps_are_seen(start: Start, provider: ProviderServer) -> None:
    provider.script("good", Reply("Hello."))
    gateway = start()
    assert gateway.post(say())[0] == 200
    flushed(gateway)
    gateway.run(gateway.worker.gauges.verify)
    assert drift(gateway, "runs_and_steps") == 0

    async def tamper() -> None:
        await gateway.worker.ledger._write(
            lambda conn: conn.exec_driver_sql("UPDATE gw_runs SET cost = cost + 5000000")
        )

    gateway.run(tamper)
    gateway.run(gateway.worker.gauges.verify)
    assert drift(gateway, "runs_and_steps") == pytest.approx(0.005)


def test_a_ledger_or_store_that_is_away_does_not_end_the_looking(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start()
    gauges = gateway.worker.gauges
    gauges.look_s = 0.02
    looks = []

    async def fails(*_: object) -> dict[str, int]:
        looks.append(1)
        raise LedgerUnavailable("away")

    monkeypatch.setattr(gauges.ledger, "counters_used", fails)
    gauges._tasks.append(gateway.run(lambda: _task(gauges._look_forever)))
    wait_until(lambda: len(looks) > 3)


async def _task(work: Any) -> Any:
    return asyncio.create_task(work())


# -- hostile names -----------------------------------------------------------------------------------


def test_hostile_names_make_no_series(start: Start, provider: ProviderServer) -> None:
    """Models, tools, users, sessions, tags: whatever a caller invents, hardly a series is added by it."""
    provider.script("good", Reply(tool_calls=[("made_up", {})]))
    gateway = start(
        "budgets: [{name: user, per: user, limit_usd: 5}, {name: run, per: run, limit_usd: 1}]\n"
        "tools: {defaults: {max_calls_per_run: 1}, look: {allow: false}}\n"
    )

    def ask(n: int) -> None:
        name = f"evil_{n}"
        provider.map_model(f"sim/{name}", "good")
        tools = [{"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}]
        provider.script("good", Reply(tool_calls=[(name, {}), (name, {"again": 1})]))
        gateway.post(
            say(f"sim/{name}", f"text {n}", tools=tools, user=name),
            x_guardrail_user_id=name,
            x_guardrail_session_id=name,
            x_guardrail_run_id=name,
            x_guardrail_tags=f"agent={name},{name}=1",
        )
        gateway.post(say(f"unknown-{n}"))
        gateway.post(say(), key=f"wrong-{n}")
        gateway.post(say(), path=f"/v1/{name}")

    ask(0)
    # Housekeeping has figures of its own, the first of them after a moment.
    wait_until(lambda: any('operation="save"' in name for name in figures(gateway)), what="a save")
    before = figures(gateway)
    for n in range(1, 12):
        ask(n)
    gateway.run(gateway.worker.gauges.look)
    after = figures(gateway)
    new = {
        series for series in set(after) - set(before) if not series.startswith("gateway_budget_used_ratio")
    }
    # Words of our own may be new; eleven more callers are not.
    assert len(new) < 8, new
    assert not [series for series in after if "evil" in series or "unknown-" in series]


@pytest.mark.parametrize(
    ("rule", "label"),
    [
        ("loops", "loops"),
        ("runs.max_steps", "runs.max_steps"),
        ("tools.look.max_calls_per_run", "tools.look.max_calls_per_run"),
        ("tools.look", "tools.look"),
        ("tools.a.b.max_calls_per_run", "tools.a.b.max_calls_per_run"),
        ("tools.evil.max_calls_per_run", "tools.other"),
        ("tools.evil.look", "tools.other"),
        ("tools.evil", "tools.other"),
    ],
)
def test_a_rule_about_an_unlisted_tool_is_other(rule: str, label: str) -> None:
    assert rule_label(rule, {"look": 1, "a.b": 1}) == label


def test_a_metric_has_so_many_series_and_no_more() -> None:
    metrics = Metrics()
    for n in range(MAX_SERIES + 500):
        metrics.child(metrics.tokens, f"model-{n}", "output_text").inc()
    metrics.child(metrics.tokens, "model-1", "output_text").inc()
    text = metrics.render().decode()
    assert len(re.findall(r"^gateway_tokens_total\{", text, re.M)) == MAX_SERIES + 1
    assert f'gateway_tokens_total{{kind="{OTHER}",model="{OTHER}"}} 500.0' in text
    assert 'gateway_tokens_total{kind="output_text",model="model-1"} 2.0' in text


def test_remembering_counters_has_a_bound(start: Start) -> None:
    gateway = start()
    gauges = gateway.worker.gauges
    charge = Charge("run", "run", "c", 1, True, (), 0, 0)

    async def flood() -> None:
        for _ in range(3):
            for n in range(20_000):
                gauges.held((charge, charge), (Hold(f"run:{n}", 0), Hold(f"again:{n}", 0)))
            await gauges.look()

    gateway.run(flood)
    assert len(gauges._watched) == 500
    assert not gauges._held


def test_the_error_of_a_provider_is_an_outcome(start: Start, provider: ProviderServer) -> None:
    provider.script("down", error_reply(400))
    gateway = start()
    assert gateway.post(say("sim/down"))[0] == 400
    assert total(figures(gateway), "gateway_requests_total", outcome="failed") == 1


def test_a_token_for_metrics_opens_them_and_nothing_else(
    provider: ProviderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    token.write_text("scrape-me-0123456789\n")
    port = free_port()
    environment = {"GATEWAY_METRICS_TOKEN": f"file:{token}", "OPENAI_API_KEY": "x"}
    with threaded_gateway(
        policy_for(provider), tmp_path / "gw", environment=environment, admin_listen=f"0.0.0.0:{port}"
    ) as gateway:
        gateway.port = port
        assert gateway.request("GET", "/metrics", key=None)[0] == 401
        assert gateway.request("GET", "/metrics", key="scrape-me-012345678")[0] == 401
        status, _, raw = gateway.request("GET", "/metrics", key="scrape-me-0123456789")
        assert (status, b"gateway_workers 1.0" in raw) == (200, True)
        assert gateway.request("GET", "/admin/v1/runs", key="scrape-me-0123456789")[0] == 401
