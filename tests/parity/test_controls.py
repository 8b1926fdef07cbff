"""Every control on every conversational surface, plain and streamed, for texts and tool calls, natively and
through translation."""

from __future__ import annotations

import json
from itertools import count
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.parity.conftest import Gateways
from tests.parity.controls import CONTROLS, Control
from tests.parity.scene import LANES, WIRES, Answer, Scene, lane_name

CELLS = [
    pytest.param(control, surface, prefix, stream, id=f"{control.name}-{lane_name(surface, prefix)}-{form}")
    for control in CONTROLS
    for surface, prefix in LANES
    for stream, form in ((False, "plain"), (True, "stream"))
    if stream in control.forms
]
_numbers = count()


@pytest.mark.parametrize("tool", [False, True], ids=["text", "tool"])
@pytest.mark.parametrize(("control", "surface", "prefix", "stream"), CELLS)
def test_a_control_holds(
    provider: ProviderServer,
    gateways: Gateways,
    control: Control,
    surface: str,
    prefix: str,
    stream: bool,
    tool: bool,
) -> None:
    name = f"{control.name}-{next(_numbers)}"
    scene = Scene(
        gateways[control.gateway], provider, WIRES[surface], prefix, stream, tool, name, control.name
    )
    provider.wait_idle_blocking()
    with control.arrange(scene):
        provider.journal.clear()
        answer = control.act(scene)
        sent = len(provider.journal)
    status, code = control.expected(surface, prefix, stream)
    assert (answer.status, answer.said.error) == (status, code), answer.raw
    assert sent == (0 if control.when == "before" else 1)
    if answer.raw:
        check_shape(control, scene, answer)
    if control.check is not None:
        control.check(scene, answer)
    check_ledger(control, scene, answer)


def check_shape(control: Control, scene: Scene, answer: Answer) -> None:
    """The grammar of the surface, and what the headers tell."""
    ended_in_stream = answer.status == 200 and answer.said.error is not None
    if ended_in_stream:
        check_ending(scene.wire.name, answer.raw)
    elif answer.said.error is not None:
        messages = scene.wire.name == "messages"
        assert (b'"type":"error"' in answer.raw) == messages, answer.raw
        assert answer.headers["content-type"].startswith("application/json")
    else:
        assert answer.said.clean, answer.raw[-300:]
    if control.run_status is not None and answer.said.error is not None and control.retry != "silent":
        check_facts(control, answer)
    assert answer.headers["x-request-id"]
    assert scene.wire.name != "messages" or answer.headers["request-id"]
    if answer.said.error is None or ended_in_stream:
        return
    advice = {
        name: answer.headers[name] for name in ("x-should-retry", "retry-after") if name in answer.headers
    }
    if control.retry == "never":
        assert advice == {"x-should-retry": "false"}
    elif control.retry == "soon":
        assert set(advice) == {"retry-after"}
        assert 1 <= int(advice["retry-after"]) <= 60
    if control.when == "before":
        assert answer.headers["x-guardrail-verdict"] == "refuse"


def check_facts(control: Control, answer: Answer) -> None:
    """The error names its run; a refusal says which rule it was, in figures and in words."""
    facts, message = told(answer.raw)
    assert (facts["run_id"], facts["decision_id"]) == (
        answer.run,
        answer.headers["x-guardrail-decision-id"],
    )
    if control.when != "upstream":
        assert {"rule", "scope", "limit", "used"} <= facts.keys()
        assert answer.run in message


def told(raw: bytes) -> tuple[dict[str, Any], str]:
    """The facts and the words of an error, in a body or at the end of a stream."""
    last = [line for line in raw.split(b"\n") if line.startswith((b"{", b"data: {"))][-1]
    error = json.loads(last.removeprefix(b"data: "))["error"]
    return (error.get("details") or error)["guardrail"], error["message"]


def check_ending(surface: str, raw: bytes) -> None:
    """A stream that ends with an error: in the one way that every client of the surface notices, and with
    nothing by which it could pass for complete."""
    events = raw.removesuffix(b"\n\n").split(b"\n\n")
    if surface == "chat":
        assert events[-1] == b"data: [DONE]"
        assert events[-2].startswith(b'data: {"error":')
        assert b'"finish_reason":"' not in raw
    elif surface == "responses":
        assert events[-2].startswith(b"event: response.failed\ndata: ")
        assert events[-1].startswith(b'data: {"error":')
        assert b"response.completed" not in raw
        assert b"response.incomplete" not in raw
    else:
        assert events[-1].startswith(b"event: error\ndata: ")
        assert b"message_stop" not in raw
        assert b'"stop_reason":"' not in raw


def check_ledger(control: Control, scene: Scene, answer: Answer) -> None:
    """The refusal is on record, or the attempt with its outcome; a request that is no step is neither."""
    if "x-guardrail-run-id" not in answer.headers:
        assert control.run_status is None
        return
    recorded = scene.recorded(answer.run)
    refusals = [step for step in recorded if step["kind"] == "refusal"]
    attempts = [step for step in recorded if step["kind"] == "attempt"]
    if control.run_status is None:
        assert recorded == []
        return
    goes_on = control.run_status == "completed" and scene.tool
    assert scene.run_status(answer.run) == ("running" if goes_on else control.run_status)
    if control.when == "before":
        (refusal,) = refusals
        assert refusal["code"] == control.code
        assert refusal["surface"] == scene.wire.name
        assert refusal["rule"]
    else:
        assert refusals == []
        (attempt,) = attempts
        assert (attempt["outcome"], attempt["surface"]) == (control.outcome, scene.wire.name)
        if answer.status == 200 and answer.said.error is not None:
            assert attempt["error"] == control.code
        if control.outcome == "failed" and control.status != 504:
            assert attempt["cost"] == 0
        elif control.when != "upstream":
            assert attempt["cost"] >= scene.cost_served() > 0
