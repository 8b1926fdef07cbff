"""The Helm chart: rendered by Helm's own engine, and every manifest valid by Kubernetes' schemas."""

from __future__ import annotations

import json
import re
import runpy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.policy.loading import load
from gateway.serving import CLOSING_S, GRACE_S
from gateway.settings import from_environment

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "guardrail-gateway"
OUR_KINDS = {"ServiceMonitor", "PrometheusRule"}
"""Of the Prometheus operator; Kubernetes itself has no schema of them."""

Json = dict[str, Any]


def values(name: str = "values.yaml") -> Json:
    loaded: Json = yaml.safe_load((CHART / name).read_text())
    return loaded


def rendered(changes: Json | None = None, release: str = "gw") -> dict[tuple[str, str], Json]:
    """Manifests by kind and name."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    chart = helm.Chart.load(str(CHART))
    found: dict[tuple[str, str], Json] = {}
    for path, text in chart.render(changes or {}, name=release, namespace="llm").items():
        if path.endswith("NOTES.txt"):
            continue
        for manifest in yaml.safe_load_all(text):
            if manifest:
                key = (manifest["kind"], manifest["metadata"]["name"])
                assert key not in found, f"two of {key}"
                found[key] = manifest
    return found


EVERYTHING: Json = {
    "migration": {"enabled": True},
    "ingress": {"enabled": True, "host": "llm.example.com", "tlsSecretName": "tls", "className": "nginx"},
    "autoscaling": {"enabled": True},
    "metrics": {"enabled": True, "dashboards": {"enabled": True}, "labels": {"release": "p"}},
    "redis": {"bundled": True},
    "secrets": {"environment": ["providers"], "files": ["callers"]},
    "settings": {"publicUrl": "https://gw.example.com", "extraEnv": [{"name": "X", "value": "1"}]},
    "podLabels": {"a": "b"},
    "podAnnotations": {"c": "d"},
    "priorityClassName": "high",
    "nodeSelector": {"disk": "ssd"},
    "tolerations": [{"key": "llm", "operator": "Exists"}],
    "imagePullSecrets": [{"name": "registry"}],
    "networkPolicy": {
        "callers": [{"namespaceSelector": {}}],
        "operators": [{"podSelector": {}}],
        "stores": [{"ports": [{"protocol": "TCP", "port": 6379}]}],
    },
}
CASES: dict[str, Json] = {
    "default": {},
    "ha": values("values-ha.yaml"),
    "air-gapped": values("values-airgapped.yaml"),
    "everything": EVERYTHING,
    "nothing": {
        "settings": {"preStopSeconds": 0},
        "data": {"persistence": {"enabled": False}},
        "networkPolicy": {"enabled": False},
        "podDisruptionBudget": {"enabled": False},
        "spread": {"enabled": False},
        "serviceAccount": {"create": False},
        "policy": {"existingConfigMap": "mine"},
        "replicas": 1,
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", ["1.27", "1.30", "1.33"])
def test_every_manifest_is_valid(case: str, version: str) -> None:
    validator = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    manifests = rendered(CASES[case])
    assert ("StatefulSet", "gw-guardrail-gateway") in manifests
    for (kind, name), manifest in manifests.items():
        assert manifest["metadata"]["namespace"] == "llm", name
        assert len(name) <= 63
        if kind not in OUR_KINDS:
            validator.validate(manifest, version, strict=True)


def test_helm_lints_it() -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    for case in CASES.values():
        found = helm.lint(str(CHART), case, strict=True)
        assert not [m for m in found.get("messages", []) if m.get("severity", 0) >= 2], found


@pytest.mark.parametrize(
    "wrong",
    [
        {"replica": 2},
        {"replicas": 0},
        {"image": {"repository": ""}},
        {"image": {"repository": "x", "digest": "sha256:12"}},
        {"adminService": {"type": "LoadBalancer"}},
        {"settings": {"publicUrl": "gw.example.com"}},
        {"secrets": {"existing": ""}},
        {"policy": {"files": {"../x.yaml": "version: 1"}}},
        {"data": {"persistence": {"accessModes": ["ReadWriteMany"]}}},
        {"ingress": {"enabled": True}},
        {"settings": {"drainDelaySeconds": -1}},
        {"settings": {"workerTimeoutSeconds": 0}},
        {"migration": {"enabled": True, "urlSecret": {"name": ""}}},
    ],
    ids=json.dumps,
)
def test_wrong_values_are_refused(wrong: Json) -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with pytest.raises(helm.HelmError):
        rendered(wrong)


@pytest.mark.parametrize("name", ["values.yaml", "values-ha.yaml", "values-airgapped.yaml"])
def test_the_values_fit_their_schema(name: str) -> None:
    validator = pytest.importorskip("jsonschema_rs")
    schema = json.loads((CHART / "values.schema.json").read_text())
    validator.validator_for(schema).validate(values(name))


def test_every_value_is_in_the_schema_and_in_a_template() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())

    def walk(here: Json, known: Json, path: str) -> None:
        for name, value in here.items():
            assert name in known["properties"], f"{path}{name} is not in the schema"
            # Tables that a template takes whole are named; their entries are not.
            if isinstance(value, dict) and known["properties"][name].get("additionalProperties") is False:
                if f".Values.{path}{name} " not in templates and f".Values.{path}{name} |" not in templates:
                    walk(value, known["properties"][name], f"{path}{name}.")
            else:
                assert f".Values.{path}{name}" in templates, f"{path}{name} is used nowhere"

    walk(values(), schema, "")


def test_every_value_is_described_and_in_the_documentation() -> None:
    def walk(known: Json, path: str) -> None:
        for name, value in known.items():
            assert value.get("description", "").endswith("."), f"{path}{name} is not described"
            walk(value.get("properties", {}), f"{path}{name}.")

    walk(json.loads((CHART / "values.schema.json").read_text())["properties"], "")
    script = runpy.run_path(str(ROOT / "helm" / "values_table.py"))
    assert script["page"]() == (ROOT / "docs" / "deployment.md").read_text(), "run helm/values_table.py"


def pod(manifests: dict[tuple[str, str], Json]) -> Json:
    spec: Json = manifests["StatefulSet", "gw-guardrail-gateway"]["spec"]["template"]["spec"]
    return spec


def environment(manifests: dict[tuple[str, str], Json]) -> dict[str, Json]:
    (container,) = pod(manifests)["containers"]
    return {entry["name"]: entry for entry in container["env"]}


@pytest.mark.parametrize("case", CASES)
def test_pods_are_restricted(case: str) -> None:
    """As the Pod Security Standard `restricted` demands, and with a root that nobody can write to."""
    for (kind, _), manifest in rendered(CASES[case]).items():
        if kind not in ("StatefulSet", "Job"):
            continue
        spec = manifest["spec"]["template"]["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "limits" in container["resources"]
            assert "privileged" not in context
        assert not [v for v in spec.get("volumes", []) if "hostPath" in v]


def test_no_secret_is_in_a_manifest() -> None:
    for case in CASES.values():
        manifests = rendered(case)
        assert not [kind for kind, _ in manifests if kind == "Secret"]
        variables = environment(manifests)
        for name in (
            "GATEWAY_SECRET_KEY",
            "GATEWAY_ADMIN_TOKEN",
            "GATEWAY_METRICS_TOKEN",
            "GATEWAY_LEDGER_URL",
        ):
            assert "secretKeyRef" in variables[name]["valueFrom"]


def test_the_ledger_must_be_shared_as_soon_as_there_are_two() -> None:
    def optional(changes: Json) -> bool:
        entry: Json = environment(rendered(changes))["GATEWAY_LEDGER_URL"]["valueFrom"]["secretKeyRef"]
        return bool(entry["optional"])

    assert optional({"replicas": 1})
    assert not optional({"replicas": 2})
    assert not optional({"replicas": 1, "autoscaling": {"enabled": True}})


def test_the_settings_are_the_gateways_own() -> None:
    """Every GATEWAY_ variable exists, and the gateway takes what the chart says."""
    manifests = rendered(EVERYTHING)
    given = {
        name: entry.get(
            "value", {"GATEWAY_SECRET_KEY": "s" * 24, "GATEWAY_LEDGER_URL": ""}.get(name, "t" * 24)
        )
        for name, entry in environment(manifests).items()
    }
    settings_source = (ROOT / "gateway" / "settings.py").read_text()
    for name in given:
        if name.startswith("GATEWAY_") and name != "GATEWAY_URL":
            assert f'"{name}"' in settings_source, name
    settings = from_environment(given)
    assert settings.admin_address == ("0.0.0.0", 8081)
    assert settings.data_dir == Path("/data")
    assert not settings.embedded


@pytest.mark.parametrize(
    "waits",
    [
        {"drainSeconds": 5},
        {"drainSeconds": 120},
        {"preStopSeconds": 0, "drainDelaySeconds": 15},
        {"preStopSeconds": 30, "drainDelaySeconds": 7, "drainSeconds": 60},
    ],
    ids=json.dumps,
)
def test_a_pod_that_stops_gets_the_time_that_its_drain_needs(waits: dict[str, int]) -> None:
    manifests = rendered({"settings": waits})
    spec, variables = pod(manifests), environment(manifests)
    (container,) = spec["containers"]
    before = 0
    if waits.get("preStopSeconds") == 0:
        assert "lifecycle" not in container
    else:
        command = container["lifecycle"]["preStop"]["exec"]["command"]
        before = int(re.search(r"sleep\((\d+)\)", command[-1])[1])  # type: ignore[index]  # it is there or the test fails
        assert before == waits.get("preStopSeconds", 5)
        assert command[0] == "/opt/gateway/bin/python"  # what the image has, see docker/Dockerfile
    settings = from_environment(
        {name: variables[name]["value"] for name in ("GATEWAY_DRAIN_S", "GATEWAY_DRAIN_DELAY_S")}
    )
    assert settings.drain_delay_s == waits.get("drainDelaySeconds", 0)
    needed = before + settings.drain_delay_s + settings.drain_s + GRACE_S + CLOSING_S
    assert spec["terminationGracePeriodSeconds"] > needed, "or a supervisor is killed before its workers"


def test_probes_ask_for_what_they_act_on() -> None:
    (container,) = pod(rendered())["containers"]
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    assert container["startupProbe"]["httpGet"]["path"] == "/healthz"
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_planes_are_apart() -> None:
    manifests = rendered(EVERYTHING)
    services = {name: m for (kind, name), m in manifests.items() if kind == "Service"}
    data = services["gw-guardrail-gateway"]["spec"]
    assert [port["targetPort"] for port in data["ports"]] == ["http"]
    assert [p["targetPort"] for p in services["gw-guardrail-gateway-admin"]["spec"]["ports"]] == ["admin"]
    ingress = manifests["Ingress", "gw-guardrail-gateway"]["spec"]["rules"][0]["http"]["paths"]
    assert {path["path"] for path in ingress} == {"/v1", "/r"}
    assert {path["backend"]["service"]["name"] for path in ingress} == {"gw-guardrail-gateway"}
    rules = manifests["NetworkPolicy", "gw-guardrail-gateway"]["spec"]["ingress"]
    (admin,) = [rule for rule in rules if rule["ports"][0]["port"] == "admin"]
    assert admin["from"] == [{"podSelector": {}}]
    # Nobody reaches the admin plane unless it is said who.
    rules = rendered()["NetworkPolicy", "gw-guardrail-gateway"]["spec"]["ingress"]
    assert [rule["ports"][0]["port"] for rule in rules] == ["http"]


def test_the_monitor_finds_the_admin_service_alone() -> None:
    manifests = rendered(EVERYTHING)
    monitor = manifests["ServiceMonitor", "gw-guardrail-gateway"]
    wanted = monitor["spec"]["selector"]["matchLabels"]
    matching = [
        name
        for (kind, name), m in manifests.items()
        if kind == "Service" and wanted.items() <= m["metadata"]["labels"].items()
    ]
    assert matching == ["gw-guardrail-gateway-admin"]
    (endpoint,) = monitor["spec"]["endpoints"]
    assert endpoint["port"] == "admin"
    assert endpoint["authorization"]["credentials"]["key"] == "metrics-token"
    assert monitor["metadata"]["labels"]["release"] == "p"


def test_the_rules_and_dashboards_are_those_of_docker() -> None:
    source = (ROOT / "docker" / "prometheus" / "alerts.yaml").read_text()
    assert (CHART / "files" / "alerts.yaml").read_text() == source, "copy docker/prometheus/alerts.yaml again"
    ours = {p.name: p.read_text() for p in (ROOT / "docker" / "grafana" / "dashboards").glob("*.json")}
    assert {p.name: p.read_text() for p in (CHART / "files" / "dashboards").iterdir()} == ours
    manifests = rendered({**EVERYTHING, "metrics": {"enabled": True, "dashboards": {"enabled": True}}})
    assert manifests["PrometheusRule", "gw-guardrail-gateway"]["spec"] == yaml.safe_load(source)
    for name, text in ours.items():
        held = manifests["ConfigMap", f"gw-guardrail-gateway-{name.removesuffix('.json')}"]["data"]
        assert json.loads(held[name]) == json.loads(text)


def test_the_runbook_may_be_elsewhere() -> None:
    changed = rendered({"metrics": {"enabled": True, "rules": {"runbookUrl": "https://wiki/runbook"}}})
    groups = changed["PrometheusRule", "gw-guardrail-gateway"]["spec"]["groups"]
    links = [rule["annotations"]["runbook_url"] for g in groups for rule in g["rules"] if "alert" in rule]
    assert all(link.startswith("https://wiki/runbook#") for link in links)


@pytest.mark.parametrize("case", ["default", "air-gapped"])
def test_the_shipped_policies_are_policies(case: str, tmp_path: Path) -> None:
    (config,) = [m for (kind, name), m in rendered(CASES[case]).items() if name.endswith("-policy")]
    for name, text in config["data"].items():
        (tmp_path / name).write_text(text)
    policy = load(tmp_path, {"OPENAI_API_KEY": "sk-0123456789abcdef"})
    assert policy.budgets


def test_the_bundled_redis_keeps_what_it_holds() -> None:
    manifests = rendered({"redis": {"bundled": True}})
    (container,) = manifests["StatefulSet", "gw-guardrail-gateway-redis"]["spec"]["template"]["spec"][
        "containers"
    ]
    args = " ".join(container["args"])
    assert "--appendonly yes" in args
    assert "--maxmemory-policy noeviction" in args
    assert "requirepass $(REDIS_PASSWORD)" in args
    (rule,) = manifests["NetworkPolicy", "gw-guardrail-gateway-redis"]["spec"]["ingress"]
    assert rule["from"][0]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "gateway"
    url = environment(manifests)["GATEWAY_STORE_URL"]["value"]
    assert url == "redis://:$(REDIS_PASSWORD)@gw-guardrail-gateway-redis:6379/0"
    names = [entry["name"] for entry in pod(manifests)["containers"][0]["env"]]
    # Kubernetes expands only what stands before.
    assert names.index("REDIS_PASSWORD") < names.index("GATEWAY_STORE_URL")


def test_the_migration_needs_nothing_that_is_not_there_before_the_chart() -> None:
    manifests = rendered(EVERYTHING)
    job = manifests["Job", "gw-guardrail-gateway-migrate"]
    assert set(job["metadata"]["annotations"]["helm.sh/hook"].split(",")) == {"pre-install", "pre-upgrade"}
    spec = job["spec"]["template"]["spec"]
    assert "serviceAccountName" not in spec
    assert [volume["name"] for volume in spec["volumes"]] == ["tmp"]
    (container,) = spec["containers"]
    assert container["args"] == ["migrate"]
    assert container["image"] == pod(manifests)["containers"][0]["image"]
    (url,) = container["env"]
    assert url["valueFrom"]["secretKeyRef"]["key"] == "ledger-admin-url"
    # No service and no budget takes it for a gateway.
    labels = job["spec"]["template"]["metadata"]["labels"]
    for (kind, name), manifest in manifests.items():
        chosen = manifest["spec"].get("selector", {}) if kind in ("Service", "PodDisruptionBudget") else {}
        wanted = chosen.get("matchLabels", chosen)
        assert not wanted or not wanted.items() <= labels.items(), name
    assert not [kind for kind, _ in rendered() if kind == "Job"]


def test_the_disruption_budget_and_spreading_mean_the_gateways_pods() -> None:
    for case in ("default", "ha"):
        manifests = rendered(CASES[case])
        labels = manifests["StatefulSet", "gw-guardrail-gateway"]["spec"]["template"]["metadata"]["labels"]
        budget = manifests["PodDisruptionBudget", "gw-guardrail-gateway"]["spec"]
        assert budget["maxUnavailable"] == 1
        assert budget["selector"]["matchLabels"].items() <= labels.items()
        spec = pod(manifests)
        (apart,) = spec["affinity"]["podAntiAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
        assert apart["podAffinityTerm"]["topologyKey"] == "kubernetes.io/hostname"
        assert apart["podAffinityTerm"]["labelSelector"]["matchLabels"].items() <= labels.items()
        spread = {
            each["topologyKey"]: each["whenUnsatisfiable"] for each in spec["topologySpreadConstraints"]
        }
        wanted = "DoNotSchedule" if case == "ha" else "ScheduleAnyway"
        assert spread == {"topology.kubernetes.io/zone": wanted, "kubernetes.io/hostname": wanted}


def test_egress_leads_to_what_is_named_and_nowhere_else() -> None:
    def egress(changes: Json) -> list[Json]:
        found: list[Json] = rendered(changes)["NetworkPolicy", "gw-guardrail-gateway"]["spec"]["egress"]
        return found

    names, providers = egress({})
    assert {port["port"] for port in names["ports"]} == {53}
    (outside,) = providers["to"]
    assert outside["ipBlock"]["cidr"] == "0.0.0.0/0"
    assert "10.0.0.0/8" in outside["ipBlock"]["except"]
    assert "169.254.0.0/16" in outside["ipBlock"]["except"], "or the cloud's metadata could be asked"
    assert providers["ports"] == [{"protocol": "TCP", "port": 443}]
    stores = egress(CASES["ha"])[-1]
    assert {port["port"] for port in stores["ports"]} == {6379, 26379, 5432}
    # Nothing of the world outside where there is none.
    blocks = [to for rule in egress(CASES["air-gapped"]) for to in rule.get("to", ()) if "ipBlock" in to]
    assert blocks == []


def test_scaling_is_by_what_is_in_flight() -> None:
    manifests = rendered({"autoscaling": {"enabled": True, "inFlight": 50}})
    scaler = manifests["HorizontalPodAutoscaler", "gw-guardrail-gateway"]["spec"]
    assert scaler["scaleTargetRef"]["kind"] == "StatefulSet"
    first = scaler["metrics"][0]["pods"]
    assert first["metric"]["name"] == "gateway_in_flight_requests"
    assert first["target"]["averageValue"] == "50"
    assert "replicas" not in manifests["StatefulSet", "gw-guardrail-gateway"]["spec"]


def test_long_names_fit() -> None:
    helm_names = rendered(EVERYTHING, release="r" * 53)
    assert all(len(name) <= 63 for _, name in helm_names)


@cache
def _templates() -> str:
    return "".join(path.read_text() for path in sorted((CHART / "templates").iterdir()))


def test_without_helm_the_templates_at_least_close_what_they_open() -> None:
    opened = len(re.findall(r"{{-?\s*(?:if|range|with|define)\b", _templates()))
    assert opened == len(re.findall(r"{{-?\s*end\b", _templates()))
    called = set(re.findall(r'include "([\w.]+)"', _templates()))
    assert called == set(re.findall(r'define "([\w.]+)"', _templates()))
