"""What real processes write."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.telemetry.test_content import CARD, EMAIL, KEY, SENTINELS, converse
from tests.support.gateway import (
    ALICE,
    BOB,
    SECRET_KEY,
    ProcessGateway,
    base_policy,
    process_gateway,
    wait_until,
)
from tests.support.otlp_receiver import otlp_receiver
from tests.support.wire import CHAT, WIRES

LIMITS = "runs: {max_steps: 2, on_exceed: stop}\n"


def lines(gateway: ProcessGateway) -> list[dict[str, Any]]:
    """Standard output, which says where the gateway listens, goes to the same file."""
    return [json.loads(line) for line in written(gateway).splitlines()]


def written(gateway: ProcessGateway) -> str:
    found = gateway.log_path.read_text().splitlines(keepends=True)
    return "".join(line for line in found if not re.match(r"gateway listens on |  \S|$", line))


def abuse(gateway: ProcessGateway, provider: ProviderServer) -> None:
    """Everything that may tempt somebody to write something down."""
    for surface in WIRES:
        for stream in (False, True):
            converse(gateway, provider, surface, stream=stream)  # type: ignore[arg-type]  # all that it needs
    zebra = f"zebra {KEY} {EMAIL}"
    gateway.post(f'{{"model": "sim/echo", "messages": "{zebra}"'.encode())
    gateway.post({"model": zebra, "messages": zebra})
    gateway.post(CHAT.request("sim/echo"), key=KEY)
    gateway.post(CHAT.request("sim/echo", zebra), x_guardrail_run_id="zebra\\nforged")
    gateway.request("GET", "/v1/zebra%0aforged%1b%5b31m")
    gateway.post(CHAT.request("sim/error-500", zebra))
    provider.script("garbled", Reply(body=zebra.encode(), content_type="application/json"))
    provider.script("dies", Reply(zebra, cut_at_byte=40, cut_how="rst"))
    for model in ("sim/garbled", "sim/dies"):
        for stream in (False, True):
            gateway.post(CHAT.request(model, zebra, stream=stream))


@pytest.mark.parametrize("form", ["json", "text"])
def test_nothing_that_was_said_is_ever_written(provider: ProviderServer, tmp_path: Path, form: str) -> None:
    with otlp_receiver() as receiver:
        policy = base_policy(provider.base_url, "tracing: {content: redacted}\n")
        with process_gateway(
            policy, tmp_path, log_level="debug", log_format=form, environment=receiver.environment()
        ) as gateway:
            abuse(gateway, provider)
            wait_until(lambda: "sim/dies" in gateway.log_path.read_text(), what="the last step's line")
        text = written(gateway)
        assert receiver.named("chat")
    for secret in (*SENTINELS.values(), "zebra-", KEY, KEY[:14], EMAIL, "jane.roe", CARD, ALICE, BOB,
                   "sk-upstream-secret", SECRET_KEY, "test-admin-token"):  # fmt: skip
        assert secret not in text, secret
    assert "\x1b" not in text
    if form == "json":
        assert all(json.loads(line)["worker"] for line in text.splitlines() if '"gateway' in line)
    else:
        assert all(
            re.match(r"\d{4}-\d\d-\d\dT[\d:.]+Z [A-Z]+ [\w.]+: |    ", line) for line in text.splitlines()
        )


def test_steps_and_refusals_have_a_line_each(provider: ProviderServer, tmp_path: Path) -> None:
    with process_gateway(base_policy(provider.base_url, LIMITS), tmp_path, log_level="debug") as gateway:
        answers = [gateway.post(CHAT.request("sim/echo"), x_guardrail_run_id="night") for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 400]
        found = wait_until(
            lambda: [line for line in lines(gateway) if line["message"] == "refused"], what="a refusal"
        )
        steps = [line for line in lines(gateway) if line["message"] == "step"]
    head = answers[0][1]
    assert [line["step"] for line in steps] == [1, 2]
    first = steps[0]
    assert first["run"] == head["x-guardrail-run-id"]
    assert first["decision"] == head["x-guardrail-decision-id"]
    assert first["session"] == head["x-guardrail-session-id"]
    assert first["cost_usd"] == head["x-guardrail-cost-usd"]
    names = ("level", "logger", "surface", "key", "model", "outcome", "verdict", "attempts")
    assert [first[name] for name in names] == [
        "debug", "gateway.steps", "chat", "alice", "sim/echo", "ok", "allow", 1,
    ]  # fmt: skip
    assert 0 < first["ms"] < 60_000
    (refused,) = found
    assert (refused["level"], refused["code"], refused["rule"], refused["limit"], refused["used"]) == (
        "info", "step_limit_exceeded", "runs.max_steps", 2, 2,
    )  # fmt: skip


def test_a_line_leads_to_its_trace(provider: ProviderServer, tmp_path: Path) -> None:
    with (
        otlp_receiver() as receiver,
        process_gateway(
            base_policy(provider.base_url), tmp_path, log_level="debug", environment=receiver.environment()
        ) as gateway,
    ):
        assert gateway.post(CHAT.request("sim/echo"))[0] == 200
        (span,) = receiver.wait("chat")
        (line,) = [line for line in lines(gateway) if line["message"] == "step"]
    assert (line["trace_id"], line["span_id"]) == (span.trace, span.id)
    assert line["run"] == span["guardrail.run.id"]
