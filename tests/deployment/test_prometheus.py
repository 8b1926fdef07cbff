"""A real Prometheus beside a running gateway: it is scraped, every rule evaluates, every panel's query answers."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, running_provider
from tests.deployment.test_rules_and_dashboards import DASHBOARDS, PROMETHEUS, as_prometheus_gets_it, panels
from tests.support.gateway import ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        shutil.which("prometheus") is None, reason="prometheus is not installed: sh .ci/bootstrap.sh promtool"
    ),
]
TOKEN = "scrape-me-0123456789"
POLICY = """
budgets: [{name: everyone-hour, per: global, window: 1h, limit_usd: 1}]
rates: [{name: new-runs, per: team, new_runs_per_minute: 1000}]
screening: {secrets: {mode: enforce, action: block}}
cache: {exact: {ttl_s: 300}}
tools: {look: {side_effects: none}}
"""
Json = dict[str, Any]


class Prometheus:
    """A server on a free port, with our rules and a quick scrape."""

    def __init__(self, directory: Path, target: int) -> None:
        self.port = free_port()
        (directory / "token").write_text(TOKEN)
        config = (PROMETHEUS / "prometheus.yaml").read_text()
        config = config.replace("15s", "1s").replace("/etc/prometheus", str(PROMETHEUS))
        config = config.replace("/run/secrets/metrics_token", str(directory / "token"))
        start = config.index("    dns_sd_configs:")
        config = config[:start] + f'    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]\n'
        config = config[: config.rindex("    # Every replica")] + config[start:]
        (directory / "prometheus.yaml").write_text(config)
        self.log = (directory / "prometheus.log").open("wb")
        self.process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={directory / 'prometheus.yaml'}",
                f"--storage.tsdb.path={directory / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            stdout=self.log,
            stderr=self.log,
        )

    def get(self, path: str, **query: str) -> Any:
        """The data of an answer of the API; an error is raised with its text."""
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=20) as answer:
                return json.loads(answer.read())["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{query}: {error.read().decode()}") from None

    def value(self, expr: str) -> float | None:
        found = self.get("query", query=expr)["result"]
        return float(found[0]["value"][1]) if found else None

    def ready(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/-/ready"):
            return True
        return False

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)
        self.log.close()


@pytest.fixture(scope="module")
def provider() -> Iterator[ProviderServer]:
    with running_provider(seed=1) as server:
        yield server


@pytest.fixture(scope="module")
def admin_port() -> int:
    """Where the gateway is scraped."""
    return free_port()


@pytest.fixture(scope="module")
def gateway(
    provider: ProviderServer, admin_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ProcessGateway]:
    provider.script("good", Reply("Hello there."))
    policy = base_policy(provider.base_url, POLICY)
    place = tmp_path_factory.mktemp("gw")
    listen = f"0.0.0.0:{admin_port}"
    with process_gateway(policy, place, admin_listen=listen, metrics_token=TOKEN) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    gateway: ProcessGateway, admin_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Prometheus]:
    running = Prometheus(tmp_path_factory.mktemp("prometheus"), admin_port)
    try:
        wait_until(running.ready, 30, "Prometheus")
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def traffic(gateway: ProcessGateway, prometheus: Prometheus) -> None:
    """A little of everything, while Prometheus looks on."""
    wait_until(lambda: prometheus.value("gateway_workers") == 1, 30, "the first scrape")
    until = time.monotonic() + 12
    n = 0
    while time.monotonic() < until:
        n += 1
        body: Json = {"model": "sim/good", "messages": [{"role": "user", "content": f"hello {n % 3}"}]}
        assert gateway.post({**body, "temperature": 0})[0] == 200
        gateway.post({**body, "stream": True})
        gateway.post({"model": "no-such-model", "messages": body["messages"]})
        secret = [{"role": "user", "content": f"my key is AKIAIOSFODNN7EXAMPLF {n}"}]
        assert gateway.post({**body, "messages": secret})[0] == 400
        time.sleep(0.2)
    time.sleep(3)


@pytest.mark.usefixtures("traffic")
class TestPrometheus:
    def test_the_gateway_is_up(self, prometheus: Prometheus) -> None:
        (target,) = prometheus.get("targets")["activeTargets"]
        assert (target["health"], target["lastError"]) == ("up", "")
        assert float(target["lastScrapeDuration"]) < 1

    def test_every_rule_evaluates(self, prometheus: Prometheus) -> None:
        groups = prometheus.get("rules")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert len(rules) > 40
        assert {rule["health"] for rule in rules} == {"ok"}, [r for r in rules if r["health"] != "ok"]
        firing = {rule["name"] for rule in rules if rule.get("state") == "firing"}
        assert firing <= {"GatewayRefusalsAboveBaseline"}

    @pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
    def test_every_panel_asks_what_is_answered(self, prometheus: Prometheus, path: Path) -> None:
        now = time.time()
        for panel in panels(path):
            for target in panel["targets"]:
                query = as_prometheus_gets_it(target["expr"])
                prometheus.get("query", query=query)
                span = {"start": str(now - 60), "end": str(now), "step": "5"}
                prometheus.get("query_range", query=query, **span)

    @pytest.mark.parametrize(
        "expr",
        [
            "sum(rate(gateway_cost_usd_total[1m]))",
            'sum(rate(gateway_refusals_total{code="secret_blocked"}[1m]))',
            'sum(rate(gateway_findings_total{detector="secrets"}[1m]))',
            'sum(rate(gateway_requests_total{outcome="ok"}[1m]))',
            'gateway_budget_used_ratio{budget="everyone-hour",per="global"}',
            "sum(gateway_run_steps_count)",
            "sum(gateway_session_cost_usd_sum)",
            'sum(rate(gateway_cache_total{outcome="hit"}[1m]))',
            "histogram_quantile(0.99, sum by (le) (rate(gateway_overhead_seconds_bucket[1m])))",
            "sum(process_resident_memory_bytes)",
            "gateway:asked:rate15m",
            "gateway:refusals:ratio15m",
            "gateway:budget_used:ratio",
            "gateway:runs_ended:success_ratio1h",
        ],
    )
    def test_figures_have_arrived(self, prometheus: Prometheus, expr: str) -> None:
        value = prometheus.value(expr)
        assert value is not None, expr
        assert value > 0, expr

    def test_variables_have_values(self, prometheus: Prometheus) -> None:
        for label, expected in (
            ("model", "sim/*"),
            ("provider", "upstream"),
            ("team", "red"),
            ("job", "gateway"),
        ):
            assert expected in prometheus.get(f"label/{label}/values")
