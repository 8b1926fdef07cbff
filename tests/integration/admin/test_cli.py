"""The `gateway` command against a real gateway, and its serving processes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from gateway.cli import main
from gateway.testing import ProviderServer
from tests.integration.admin.calls import Admin, Stream, chat
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import (
    ADMIN_TOKEN,
    ALICE,
    Gateway,
    ThreadedGateway,
    base_policy,
    process_gateway,
    wait_until,
)
from tests.support.ports import free_port

ROOT = Path(__file__).parents[3]


def run(gateway: Gateway | None, *arguments: str, check: int = 0, **environment: str) -> str:
    """The command's output; its errors too where it is expected to fail. It runs in this process: a new one
    takes a second to start."""
    out, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    status: str | int | None = 0
    with (
        mock.patch.dict(os.environ, environment_of(gateway, environment), clear=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(errors),
    ):
        try:
            main(list(arguments))
        except SystemExit as ended:
            status = ended.code or 0
    said, failed = (text.buffer.getvalue().decode() for text in (out, errors))
    assert status == check, said + failed
    return said + (failed if check else "")


def run_process(gateway: Gateway | None, *arguments: str, check: int = 0, **environment: str) -> str:
    """As `run`, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=environment_of(gateway, environment),
    )
    assert done.returncode == check, done.stdout + done.stderr
    return done.stdout + (done.stderr if check else "")


def environment_of(gateway: Gateway | None, more: dict[str, str]) -> dict[str, str]:
    """What an operator's shell has set."""
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        **({"GATEWAY_URL": gateway.url} if gateway is not None else {}),
        **more,
    }


def test_an_operator_looks_and_acts(gateway: ThreadedGateway, tmp_path: Path) -> None:
    _, headers, _ = chat(gateway, x_guardrail_run_id="cli-run")
    run_id = headers["x-guardrail-run-id"]

    assert run_id in run_process(gateway, "runs")
    assert json.loads(run(gateway, "runs", "--json"))["data"][0]["id"] == run_id
    assert run_id in run(gateway, "top", "--once")
    told = run(gateway, "show", "cli-run")
    assert told.startswith(f"Run {run_id} (cli-run)\n")
    assert re.search(r"1  sim/echo: \d+ tokens in, \d+ out, \$0\.\d+, \d\.\d\d s", told)
    assert json.loads(run(gateway, "show", run_id, "--json"))["steps"][0]["ordinal"] == 1
    assert "alice" in run(gateway, "spend", "--by", "user", "--since", "7d")
    assert "user-day" in run(gateway, "budgets", "--per", "user")

    killed = run(gateway, "kill", "run", "cli-run", "--reason", "enough")
    assert killed.startswith("Killed run cli-run: 0 streams cut.\n")
    assert "enough" in run(gateway, "kills")
    assert chat(gateway, x_guardrail_run_id="cli-run")[2]["error"]["code"] == "run_killed"
    assert "It was killed (enough).  [killed]" in run(gateway, "show", "cli-run")
    assert "refused: run_killed" in run(gateway, "show", "cli-run")
    assert run(gateway, "revive", "run", "cli-run") == "run cli-run may go on.\n"
    assert "$1.5000 added" in run(gateway, "topup", "run", "cli-run", "1.5", "--reason", "worth it")

    secret, sentence = run(
        gateway, "keys", "create", "cli-key", "--user", "u", "--model", "sim/*"
    ).splitlines()
    assert secret.startswith("gk_")
    key_id = re.search(r"key_[0-9a-f]+", sentence)
    assert key_id is not None
    assert "cli-key" in run(gateway, "keys", "list")
    assert run(gateway, "keys", "revoke", key_id[0]) == f"Key {key_id[0]} is revoked.\n"
    token = json.loads(run(gateway, "tokens", "create", "cli-token", "--json"))
    assert token["role"] == "viewer"
    assert "cli-token" in run(gateway, "tokens", "list", GATEWAY_ADMIN_TOKEN=ADMIN_TOKEN)
    refused = run(gateway, "tokens", "list", check=1, GATEWAY_ADMIN_TOKEN=token["token"])
    assert refused == "This needs the role admin; the token has viewer.\n"


def test_an_export_of_the_audit_log_shows_every_tampering(
    gateway: ThreadedGateway, admin: Admin, tmp_path: Path
) -> None:
    for number in range(6):
        admin.post("/kills", {"scope": "user", "id": f"audit-{number}", "reason": "drill"})
    whole = tmp_path / "audit.jsonl"
    run(gateway, "audit", "export", "--output", str(whole))
    lines = whole.read_text().splitlines()
    # The gateway itself may have something to say meanwhile.
    again = [{**json.loads(line), "chain": None} for line in run(gateway, "audit", "export").splitlines()]
    assert again[: len(lines)] == [{**json.loads(line), "chain": None} for line in lines]
    head = json.loads(lines[-1])["hash"]
    assert f"{len(lines)} records, unbroken, head {head}" in run(None, "audit", "verify", str(whole))
    run(None, "audit", "verify", str(whole), "--head", head)
    run(None, "audit", "verify", str(whole), "--head", "0" * 64, check=1)


def test_errors_are_one_sentence(gateway: ThreadedGateway, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    out = run(None, "runs", check=2, GATEWAY_URL=url)
    assert out.startswith(f"No gateway answers at {url} (")
    assert out.count("\n") == 1
    assert "admin token is missing or wrong" in run(gateway, "runs", check=1, GATEWAY_ADMIN_TOKEN="wrong")
    out = run(gateway, "runs", check=2, GATEWAY_ADMIN_TOKEN="", GATEWAY_DATA_DIR=str(tmp_path))
    assert out.startswith("There is no admin token")
    assert run(gateway, "show", "nothing", check=1) == "There is no run 'nothing'.\n"
    assert "scope" in run(gateway, "kill", "planet", "x", "--reason", "x", check=1)
    assert "--reason" in run(gateway, "kill", "user", "x", check=2)


def test_serve_refuses_what_cannot_work(gateway: ThreadedGateway, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nbudgets:\n  - {name: b, per: rum, limit_usd: 1}\n")
    common = {"GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_ADMIN_TOKEN": "x" * 20}
    out = run_process(None, "serve", "--policy", str(policy), check=1, **common)
    assert out.startswith("policy.yaml:3: budgets[0].per: got ") or ":3: budgets[0].per: got " in out
    policy.write_text("version: 1\nauth: {mode: open}\n")
    assert "--workers 2 needs a shared store" in run_process(
        None, "serve", "--workers", "2", check=2, **common
    )
    out = run_process(None, "serve", "--policy", str(policy), "--host", "0.0.0.0", check=2, **common)
    assert out.startswith("auth.mode 'open' is served on loopback alone")
    out = run_process(None, "serve", "--policy", str(policy), "--port", str(gateway.port), check=2, **common)
    assert out.startswith(f"cannot listen on 127.0.0.1:{gateway.port}")
    assert "Traceback" not in out


@pytest.mark.parametrize("own_listener", [False, True])
def test_a_stop_lets_streams_finish_and_then_ends_them_with_an_error_event(
    provider: ProviderServer, tmp_path: Path, own_listener: bool
) -> None:
    options: dict[str, Any] = {"drain_s": "1.5"}
    admin_port = free_port()
    if own_listener:
        options["admin_listen"] = f"127.0.0.1:{admin_port}"
    with process_gateway(base_policy(provider.base_url), tmp_path, **options) as gateway:
        long = Stream(gateway).open("sim/long")
        wait_until(lambda: len(long.lines) > 4)
        events = subprocess.Popen(
            [
                "curl",
                "-sN",
                "-H",
                f"authorization: Bearer {ADMIN_TOKEN}",
                f"http://127.0.0.1:{admin_port if own_listener else gateway.port}/admin/v1/events",
            ],
            stdout=subprocess.PIPE,
        )
        assert events.stdout is not None
        assert events.stdout.readline() == b": connected\n"
        assert gateway.process is not None
        began = time.monotonic()
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait(10) == 0
        took = time.monotonic() - began
        assert 1.4 < took < 1.5 + AT_ONCE_S, gateway.log_path.read_text()
        assert long.ended.wait(AT_ONCE_S)
        assert long.failure is None
        assert long.last()["error"]["code"] == "guardrail_unavailable"
        assert events.wait(AT_ONCE_S) == 0
        assert "Traceback" not in gateway.log_path.read_text()


def test_a_stop_without_streams_is_quick(provider: ProviderServer, tmp_path: Path) -> None:
    with process_gateway(base_policy(provider.base_url), tmp_path) as gateway:
        assert (
            gateway.post({"model": "sim/echo", "messages": [{"role": "user", "content": "x"}]}, key=ALICE)[0]
            == 200
        )
        began = time.monotonic()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait(10) == 0
        assert time.monotonic() - began < AT_ONCE_S
        text = gateway.log_path.read_text()
        assert f"gateway listens on {gateway.url}\n" in text
        assert "admin token       as given in GATEWAY_ADMIN_TOKEN\n" in text
        assert ADMIN_TOKEN not in text
