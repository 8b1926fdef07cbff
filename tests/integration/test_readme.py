"""The README's Python runs as it stands, and its output is true."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import ThreadedGateway, threaded_gateway

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
HERE = "http://127.0.0.1:8080"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[ThreadedGateway]:
    """What `make run` serves on a machine without a provider key."""
    policy = (ROOT / "policies" / "default.yaml").read_text()
    with threaded_gateway(policy, tmp_path, environment={}) as made:
        yield made


def test_the_agent_is_landed_with_the_output_shown(gateway: ThreadedGateway) -> None:
    (source,) = blocks("python")
    assert HERE in source
    done = subprocess.run(
        [sys.executable, "-c", source.replace(HERE, gateway.url)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=90,
    )
    assert done.returncode == 0, done.stdout
    (shown,) = blocks("text")
    said, more = done.stdout.splitlines(), shown.splitlines()
    assert re.match(r"… (\d+) more", more[1])
    assert said[:-1] == [more[0]] * (1 + int(more[1].split()[1]))
    assert said[-1] == more[-1]
    (run,) = gateway.admin("GET", "/runs")["data"]
    assert run["status"] == "stopped_budget"
    assert f"at ${run['cost_usd'][:9]}" in README


def without_id(text: str) -> str:
    return re.sub(r"run_[0-9a-f]{24}", "run_…", text)


def test_a_named_run_is_killed_and_revived_as_shown(gateway: ThreadedGateway) -> None:
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}
    path = "/r/nightly/v1/chat/completions"
    assert gateway.post(body, key=None, path=path)[0] == 200
    gateway.admin("POST", "/kills", {"scope": "run", "id": "nightly", "reason": "wrong customer"})
    status, headers, raw = gateway.post(body, key=None, path=path)
    assert (status, headers["x-should-retry"]) == (400, "false")
    shown = re.search(r'"error":\{"message":"([^"]+)"', " ".join(blocks("console")))
    assert shown is not None
    assert without_id(shown[1]) in without_id(raw.decode())
    gateway.admin("DELETE", "/kills/run/nightly")
    assert gateway.post(body, key=None, path=path)[0] == 200
