"""Recording rules, alerts and dashboards: what they read exists, promtool takes them, and alerts fire when they should."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from gateway.telemetry.metrics import Metrics
from tests.deployment.promql import Expression, read
from tests.unit.test_docs import anchors

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "docker" / "prometheus"
DASHBOARDS = sorted((ROOT / "docker" / "grafana" / "dashboards").glob("*.json"))
ALWAYS = {"job", "instance", "le", "quantile"}
"""Labels that Prometheus or a histogram adds."""
FOREIGN = {"up": {"job", "instance"}, "ALERTS": {"alertname", "alertstate", "severity"}}
UNITS = {"short", "percentunit", "s", "currencyUSD", "reqps", "ops", "bytes"}

Json = dict[str, Any]

promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed: sh .ci/bootstrap.sh promtool"
)


@cache
def rules() -> tuple[Json, ...]:
    loaded = yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())
    return tuple(rule for group in loaded["groups"] for rule in group["rules"])


@cache
def recorded() -> dict[str, str]:
    return {rule["record"]: rule["expr"] for rule in rules() if "record" in rule}


@cache
def alerts() -> dict[str, Json]:
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


@cache
def metrics() -> dict[str, set[str]]:
    """Every series name of the registry, with the labels it has."""
    found: dict[str, set[str]] = {}
    for collector in list(Metrics().registry._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for family in getattr(collector, "describe", collector.collect)():
            suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
            for suffix in suffixes.get(family.type, [""]):
                found[family.name + suffix] = labels
    return found


def dashboard(path: Path) -> Json:
    loaded: Json = json.loads(path.read_text())
    return loaded


def panels(path: Path) -> list[Json]:
    return [panel for panel in dashboard(path)["panels"] if panel["type"] != "row"]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of everything that is asked."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"{path.stem}: {panel['title']}", target["expr"]
        for annotation in dashboard(path)["annotations"]["list"]:
            yield f"{path.stem}: {annotation['name']}", annotation["expr"]


ALL = list(expressions())


def labels_of(metric: str) -> set[str]:
    """Labels that a metric or recorded series has."""
    if metric in FOREIGN:
        return FOREIGN[metric]
    if metric in recorded():
        return labels_left(read(recorded()[metric]))
    return metrics()[metric] | ALWAYS


def labels_left(expression: Expression) -> set[str]:
    return expression.grouped_by - {"le"}


@pytest.mark.parametrize(("where", "expr"), ALL, ids=[where for where, _ in ALL])
def test_what_is_read_exists_with_the_labels_used(where: str, expr: str) -> None:
    expression = read(expr)
    assert expression.selectors, where
    for used in expression.selectors:
        known = metrics().keys() | recorded().keys() | FOREIGN.keys()
        assert used.metric in known, f"{where}: there is no {used.metric}"
        assert set(used.labels) <= labels_of(used.metric), f"{where}: {used}"
    available: set[str] = set().union(*(labels_of(used.metric) for used in expression.selectors))
    assert expression.grouped_by <= available | ALWAYS, f"{where}: groups by what nobody has"


def test_values_of_labels_are_words_that_exist() -> None:
    """A status, outcome, code or event that is spelt wrong would be a panel or an alert that says nothing."""
    from gateway.domain import RunStatus
    from gateway.errors import CODES
    from gateway.policy.sections.operations import AlertEvent

    words: dict[tuple[str, str], set[str]] = {
        ("gateway_runs_ended_total", "status"): {status.value for status in RunStatus},
        ("gateway_refusals_total", "code"): set(CODES),
        ("gateway_events_total", "event"): set(AlertEvent.__args__),  # type: ignore[attr-defined]  # a Literal
        ("gateway_requests_total", "outcome"): {"ok", "failed", "disconnected", "cut", "killed", "stopped"},
        ("gateway_breaker_state", "kind"): {"provider", "model", "tool"},
        ("gateway_tool_results_total", "outcome"): {"ok", "error"},
        ("gateway_cache_total", "outcome"): {"hit", "miss", "would_hit"},
        ("gateway_findings_total", "detector"): {"injection"},
        ("gateway_alerts_total", "outcome"): {"sent", "failed", "dropped", "duplicate", "shadow"},
        ("gateway_routed_total", "rule"): {"fallback"},
        ("gateway_store_seconds_count", "operation"): {"resolve", "admit", "settle", "extend"},
    }
    for where, expr in ALL:
        for used in read(expr).selectors:
            for label, value in used.labels.items():
                if value.startswith("$") or label in ALWAYS or used.metric not in metrics():
                    continue
                if (used.metric, label) in words:
                    assert set(value.split("|")) <= words[used.metric, label], f"{where}: {used}"


def test_every_recording_rule_is_used() -> None:
    read_somewhere = {used.metric for _, expr in ALL for used in read(expr).selectors}
    assert recorded().keys() <= read_somewhere


def test_every_metric_of_the_gateway_is_in_a_dashboard_a_rule_or_left_out_on_purpose() -> None:
    left_out = {
        # In the gateway's own dashboard, and of use for a look by hand.
        "gateway_tool_calls_total",
        "gateway_alert_queue_length",
        "gateway_trace_spans_total",
        "gateway_forgotten_rows_total",
    }
    shown = {used.metric for _, expr in ALL for used in read(expr).selectors}
    families = {
        re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics() if name.startswith("gateway_")
    }
    unseen = {f for f in families if not {f, f"{f}_bucket", f"{f}_sum", f"{f}_count"} & shown}
    assert unseen <= left_out, "show it in docker/grafana/make_dashboards.py, or leave it out here"


# -- promtool ----------------------------------------------------------------------------------------


def run_promtool(*arguments: str | Path) -> str:
    done = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@promtool
def test_promtool_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in run_promtool("check", "rules", "alerts.yaml")


@promtool
def test_promtool_takes_every_query_of_the_dashboards(tmp_path: Path) -> None:
    queries = [expr for path in DASHBOARDS for panel in panels(path) for expr in _exprs(panel)]
    made = [
        {"record": f"dashboard:query{n}:test", "expr": as_prometheus_gets_it(expr)}
        for n, expr in enumerate(queries)
    ]
    (tmp_path / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "d", "rules": made}]}))
    assert f"{len(queries)} rules found" in run_promtool("check", "rules", tmp_path / "queries.yaml")


def as_prometheus_gets_it(expr: str) -> str:
    """A query with Grafana's variables filled in."""
    expr = expr.replace("$__rate_interval", "1m").replace("$__range", "6h")
    return re.sub(r'"\$(job|model|team|provider)"', '".*"', expr)


def _exprs(panel: Json) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


@promtool
@pytest.mark.slow
@pytest.mark.parametrize("name", ["alerts.test.yaml", "baselines.test.yaml"])
def test_alerts_fire_and_stay_silent(name: str) -> None:
    assert "SUCCESS" in run_promtool("test", "rules", name)


def test_every_alert_has_a_test_that_fires_and_one_that_does_not() -> None:
    fired: set[str] = set()
    silent: set[str] = set()
    for name in ("alerts.test.yaml", "baselines.test.yaml"):
        for case in yaml.safe_load((PROMETHEUS / name).read_text())["tests"]:
            for asked in case["alert_rule_test"]:
                (fired if asked["exp_alerts"] else silent).add(asked["alertname"])
    assert fired == silent == set(alerts())


@promtool
def test_promtool_takes_the_configuration(tmp_path: Path) -> None:
    config = (PROMETHEUS / "prometheus.yaml").read_text()
    token = tmp_path / "token"
    token.write_text("x")
    config = config.replace("/etc/prometheus", str(PROMETHEUS)).replace(
        "/run/secrets/metrics_token", str(token)
    )
    (tmp_path / "prometheus.yaml").write_text(config)
    assert "SUCCESS" in run_promtool("check", "config", tmp_path / "prometheus.yaml")


@promtool
def test_promtool_takes_the_exposition() -> None:
    metrics = Metrics()
    metrics.store_seconds.observe("admit", 0.1)
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=metrics.render(), capture_output=True, timeout=60
    )
    problems = [line for line in done.stderr.decode().splitlines() if "gateway_" in line]
    # Names that the contract fixes; `usd` is no base unit to promtool, and needs to be none.
    assert not [line for line in problems if "usd" not in line], problems


# -- alerts ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(alerts()))
def test_an_alert_says_what_to_do(name: str) -> None:
    rule = alerts()[name]
    assert name.startswith("Gateway")
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert set(rule["annotations"]) == {"summary", "description", "runbook_url"}
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{name.lower()}"
    assert name.lower() in anchors(ROOT / "docs" / "runbook.md")
    # The placeholder of a label that the expression does not keep would be empty in the text.
    told = set(re.findall(r"\$labels\.(\w+)", json.dumps(rule["annotations"])))
    kept = read(rule["expr"])
    available = set(kept.grouped_by).union(*(labels_of(used.metric) for used in kept.selectors))
    assert told <= available


def test_the_runbook_has_no_alert_that_does_not_exist() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    assert set(re.findall(r"^### (Gateway\w+)$", text, re.M)) == set(alerts())


# -- dashboards --------------------------------------------------------------------------------------


@cache
def generator() -> ModuleType:
    import sys

    path = ROOT / "docker" / "grafana" / "make_dashboards.py"
    spec = importlib.util.spec_from_file_location("make_dashboards", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up by its name.
    sys.modules["make_dashboards"] = module
    spec.loader.exec_module(module)
    return module


def test_the_files_are_what_the_script_writes() -> None:
    wanted = generator().written()
    assert set(wanted) == set(DASHBOARDS)
    for path, text in wanted.items():
        assert path.read_text() == text, "run docker/grafana/make_dashboards.py"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_a_dashboard_is_whole(path: Path) -> None:
    board = dashboard(path)
    assert board["schemaVersion"] >= 39
    assert board["uid"].startswith("gw-")
    assert board["description"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    variables = {variable["name"] for variable in board["templating"]["list"]}
    assert {"datasource", "gateway_url"} <= variables
    used = set(re.findall(r"\$\{?([a-z]\w*)\}?", json.dumps(board))) - {"__rate_interval"}
    assert used <= variables
    # What can be chosen has an effect.
    assert variables - used <= {"gateway_url"}, "a variable that nothing reads"
    assert any(link.get("url") == "${gateway_url}/dashboard" for link in board["links"])


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_say_what_they_show_and_in_which_unit(path: Path) -> None:
    titles = [panel["title"] for panel in panels(path)]
    assert len(titles) == len(set(titles))
    for panel in panels(path):
        assert panel["description"].endswith("."), panel["title"]
        defaults = panel["fieldConfig"]["defaults"]
        assert defaults["unit"] in UNITS, panel["title"]
        steps = defaults["thresholds"]["steps"]
        assert steps[0]["value"] is None
        assert [s["value"] for s in steps[1:]] == sorted(s["value"] for s in steps[1:])
        refs = [target["refId"] for target in panel["targets"]]
        assert len(refs) == len(set(refs)) > 0
        for target in panel["targets"]:
            told = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            expression = read(target["expr"])
            labels = set(expression.grouped_by).union(*(labels_of(u.metric) for u in expression.selectors))
            assert told <= labels, f"{panel['title']}: {target['legendFormat']}"


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_panels_fill_rows_and_do_not_overlap(path: Path) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard(path)["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
    for y in {y for _, y in taken}:
        width = sum(1 for _, other in taken if other == y)
        assert width == 24, f"row {y} has a gap"


def test_uids_and_titles_are_unique() -> None:
    for what in ("uid", "title"):
        found = [dashboard(path)[what] for path in DASHBOARDS]
        assert len(found) == len(set(found))


def test_provisioning_points_at_what_compose_mounts() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
    mounts = dict(v.split(":")[:2] for v in compose["services"]["grafana"]["volumes"])
    provider = yaml.safe_load((ROOT / "docker/grafana/provisioning/dashboards/gateway.yaml").read_text())[
        "providers"
    ][0]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ][0]
    assert source["url"] == "http://prometheus:9090"
