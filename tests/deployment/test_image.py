"""The image, built from the Dockerfile and started for real: without a network, without a daemon, on a base that
is at hand. `make image` sets up what it needs."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
BASE = ROOT / ".venv" / "image-base.tar"
"""A root file system with Python, as `.ci/bootstrap.sh image` makes it."""
NEEDED = ("requirements/image.txt", "pyproject.toml", "README.md")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def program(storage: Path) -> list[str]:
    """With a storage of its own."""
    return ["buildah", "--root", f"{storage}/root", "--runroot", f"{storage}/run", "--storage-driver", "vfs"]


def buildah(*command: str | Path, storage: Path, check: bool = True) -> str:
    """Run it on a storage of its own. Its output."""
    done = subprocess.run([*program(storage), *command], capture_output=True, text=True, timeout=800)
    assert not check or done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout).strip()


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if shutil.which("buildah") is None:
        pytest.skip("buildah is not installed; `make image` sets it up")
    if not BASE.exists():
        pytest.skip("there is no base image; `make image` makes one")
    if os.getuid() != 0:
        pytest.skip("building in a chroot needs root")
    folder = tmp_path_factory.mktemp("storage")
    yield folder
    buildah("rm", "--all", storage=folder, check=False)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def image(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image's name."""
    context = tmp_path_factory.mktemp("context")
    for folder in ("gateway", "policies", "docker"):
        shutil.copytree(
            ROOT / folder, context / folder, ignore=shutil.ignore_patterns("__pycache__", "secrets")
        )
    for name in NEEDED:
        (context / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, context / name)
    shutil.copy(ROOT / ".dockerignore", context)
    wheels = context / "docker" / "wheels"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--require-hashes", "-r", str(ROOT / "requirements" / "image.txt"), "-d", str(wheels)]
    subprocess.run(command, check=True, timeout=600)
    # What only an older patch version of Python asks for, which the base may have.
    pinned = (ROOT / "requirements" / "image.txt").read_text()
    for name in re.findall(r"^(\S+==\S+) ; python_full_version < '3\.11\.", pinned, re.M):
        subprocess.run([*command[:6], "--no-deps", name, "-d", str(wheels)], check=True, timeout=600)
    container = buildah("from", "scratch", storage=storage)
    buildah("add", "--quiet", container, BASE, "/", storage=storage)
    buildah("commit", "--quiet", container, "localhost/base", storage=storage)
    buildah("rm", container, storage=storage)
    buildah(
        *("build", "--isolation", "chroot", "--format", "docker", "--pull-never"),
        *("--build-arg", "BASE_IMAGE=localhost/base", "--build-arg", "REVISION=test"),
        *("-f", context / "docker" / "Dockerfile", "-t", "localhost/guardrail-gateway", context),
        storage=storage,
    )
    return "localhost/guardrail-gateway"


def ask(port: int, path: str) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    except OSError:
        return 0, None
    finally:
        connection.close()


def test_the_image_answers_as_the_user_and_with_the_command_that_it_names(
    image: str, storage: Path, tmp_path: Path
) -> None:
    config = json.loads(buildah("inspect", "--type", "image", image, storage=storage))["Docker"]["config"]
    assert config["User"] == "10001:10001"
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.revision"] == "test"
    policy = tmp_path / "policy"
    policy.mkdir()
    (policy / "gateway.yaml").write_text(
        "version: 1\nauth: {mode: keys}\nkeys: [{name: app, key: gk-0123456789abcdef0123}]\n"
    )
    tmp_path.chmod(0o755)
    port, admin = free_port(), free_port()
    container = buildah("from", "--pull-never", image, storage=storage)
    given = {
        **dict(pair.split("=", 1) for pair in config["Env"]),
        "GATEWAY_PORT": str(port),
        "GATEWAY_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        "GATEWAY_ADMIN_TOKEN": "t" * 24,
    }
    variables = [part for pair in given.items() for part in ("--env", "=".join(pair))]
    command = [
        *program(storage),
        *("run", "--isolation", "chroot", "--user", config["User"], "--volume", f"{policy}:/etc/gateway:ro"),
        *(*variables, container, "--", *config["Entrypoint"], *config["Cmd"]),
    ]
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 90
        while ask(port, "/readyz")[0] != 200 and running.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
        assert ask(port, "/readyz") == (200, ask(port, "/readyz")[1]), (tmp_path / "log").read_text()[-4000:]
        assert ask(admin, "/healthz")[0] == 200
        health = config["Healthcheck"]["Test"][1:]
        buildah("run", "--isolation", "chroot", *variables, container, "--", *health, storage=storage)
        who = buildah(
            "run", "--isolation", "chroot", container, "--", "stat", "-c", "%u", "/data", storage=storage
        )
        assert who == "10001"
    finally:
        os.killpg(running.pid, signal.SIGTERM)
        try:
            running.wait(40)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGKILL)
    # What builds it stays out of it.
    there = buildah(
        "run",
        "--isolation",
        "chroot",
        container,
        "--",
        "sh",
        "-c",
        "ls /opt/gateway/lib/python3*/site-packages",
        storage=storage,
    )
    names = there.split()
    assert {"gateway", "uvicorn", "psycopg"} <= set(names)
    assert not {"hatchling", "pytest", "openai"} & set(names)
