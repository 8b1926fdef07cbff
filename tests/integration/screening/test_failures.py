"""Screening that cannot run, policies that change under it, and long texts beside short ones, on a real gateway."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from typing import Any

import pytest

from gateway.screening.pool import ScanFailed, ScanPool
from gateway.testing import ProviderServer, Reply
from tests.integration.data_plane.test_surfaces import policy_for, post
from tests.support.gateway import ThreadedGateway, threaded_gateway, wait_until
from tests.support.wire import CHAT, WIRES

Json = dict[str, Any]
KEY = "ghp_a8Kd03mZqP5vT7yBnX2cR9wLfH4jS6uE1gQo"
LONG = "plain words " * 500
RULES = {
    "refuse": "secrets: {on_failure: refuse}",
    "allow": "secrets: {on_failure: allow}",
    "shadow": "secrets: {mode: shadow}",
}
SPEECH = {"model": "tts", "input": "say this", "voice": "alloy"}
BODIES: dict[str, tuple[str, Json]] = {
    "embeddings": ("/v1/embeddings", {"model": "sim/hello", "input": LONG}),
    "completions": ("/v1/completions", {"model": "sim/hello", "prompt": LONG}),
    "moderations": ("/v1/moderations", {"model": "sim/hello", "input": LONG}),
    "count_tokens": (
        "/v1/messages/count_tokens",
        {"model": "claude/hello", "messages": [{"role": "user", "content": LONG}]},
    ),
}


@pytest.fixture(scope="module")
def start(shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A gateway with more policy, one for all tests that want the same."""
    with ExitStack() as stack:

        @cache
        def begin(extra: str) -> ThreadedGateway:
            place = tmp_path_factory.mktemp("gateway")
            return stack.enter_context(threaded_gateway(policy_for(shared_provider, extra), place))

        yield begin


def breaks(gateway: ThreadedGateway, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on no text of this gateway is scanned outside of its loop."""

    async def fail(*_: object) -> None:
        raise ScanFailed(reason)

    monkeypatch.setattr(gateway.worker.pool, "scan", fail)


def bypassed(gateway: ThreadedGateway) -> float:
    _, _, raw = gateway.request("GET", "/metrics", key=None)
    lines = [
        line
        for line in raw.decode().splitlines()
        if line.startswith('gateway_bypassed_total{check="screening.secrets"')
    ]
    return float(lines[0].split()[-1]) if lines else 0.0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("surface", [*WIRES, *BODIES])
def test_without_a_verdict_the_policy_decides(
    start: Any, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch, rule: str, surface: str
) -> None:
    gateway = start(f"screening: {{{RULES[rule]}}}")
    provider.script("hello", Reply("Hello."))
    reason = {"refuse": "timeout", "allow": "crashed", "shadow": "overloaded"}[rule]
    breaks(gateway, reason, monkeypatch)
    before = bypassed(gateway)
    if surface in WIRES:
        wire = WIRES[surface]
        model = "claude/hello" if surface == "messages" else "sim/hello"
        status, headers, raw = post(gateway, wire, wire.request(model, f"{LONG} {surface}"))
    else:
        path, body = BODIES[surface]
        status, headers, raw = gateway.post(body, path=path, anthropic_version="2023-06-01")
    if rule == "refuse":
        assert status == 503, raw
        assert b"guardrail_unavailable" in raw
        assert headers["retry-after"] == "1"
        assert not provider.journal
        assert bypassed(gateway) == before
        return
    assert status == 200, raw
    assert bypassed(gateway) == before + 1
    assert provider.journal
    if surface != "count_tokens":
        run = headers["x-guardrail-run-id"]
        (found,) = wait_until(lambda: gateway.admin("GET", f"/runs/{run}")["findings"], what="findings")
        assert (found["detector"], found["type"]) == ("secrets", f"unscreened_{reason}")
        assert found["mode"] == ("shadow" if rule == "shadow" else "enforce")


def test_a_pool_of_processes_that_hang_is_a_refusal_in_time(
    provider: ProviderServer, start: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = start("screening: {injection: {}}")
    monkeypatch.setattr("gateway.steps.screens.DEADLINE_S", 0.3)
    hung = ScanPool(1, ("/bin/sleep", "60"))
    monkeypatch.setattr(gateway.worker.screens, "pool", hung)
    began = time.monotonic()
    status, _, raw = post(gateway, CHAT, CHAT.request("sim/hello", LONG))
    assert (status, CHAT.read(raw).error) == (503, "guardrail_unavailable")
    assert time.monotonic() - began < 8
    gateway.run(hung.close)


def test_a_changed_policy_looks_anew(provider: ProviderServer, start: Any) -> None:
    """A text that was let pass is found as soon as the policy looks for what is in it."""
    gateway: ThreadedGateway = start("screening: {injection: {}}  # changes")
    provider.script("hello", Reply("Hello."))
    body = CHAT.request("sim/hello", f"the token is {KEY}, {LONG}")
    assert post(gateway, CHAT, body)[0] == 200
    assert post(gateway, CHAT, body)[0] == 200
    text = gateway.policy_path.read_text()
    gateway.policy_path.write_text(
        text.replace("{injection: {}}", "{injection: {}, secrets: {action: block}}")
    )
    wait_until(lambda: post(gateway, CHAT, body)[0] == 400, what="the new policy")
    gateway.policy_path.write_text(text)
    wait_until(lambda: post(gateway, CHAT, body)[0] == 200, what="the old policy")


@pytest.mark.parametrize("unscannable", ["allow", "flag", "block"])
def test_paths_that_are_only_handed_on(start: Any, provider: ProviderServer, unscannable: str) -> None:
    gateway = start(
        f"screening: {{secrets: {{}}, unscannable: {unscannable}}}\n"
        "passthrough: [{path: /v1/audio/speech, provider: upstream, price: free}]"
    )
    status, headers, raw = gateway.post(SPEECH, path="/v1/audio/speech")
    if unscannable == "block":
        assert (status, b"prompt_injection_blocked" in raw) == (400, True)
        assert not provider.journal
        return
    assert len(provider.journal) == 1
    run = headers["x-guardrail-run-id"]
    if unscannable == "flag":
        (found,) = wait_until(lambda: gateway.admin("GET", f"/runs/{run}")["findings"], what="findings")
        assert (found["detector"], found["type"]) == ("unscannable", "passthrough")


# -- what is forwarded is what was read ---------------------------------------------------------------------


ESCAPED = '{"model":"sim/hello","messages":[{"role":"user","content":"%s"}]}'.replace(
    "%s", "".join(f"\\u{ord(c):04x}" for c in KEY)
)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (ESCAPED, 400),
        (
            '{"model":"sim/hello","messages":[{"role":"user","content":"a","content":"%s"}]}'.replace(
                "%s", KEY
            ),
            400,
        ),
        ('{"model":"sim/hello","messages":[{"role":"user","\\u0063ontent":"%s"}]}'.replace("%s", KEY), 400),
        ('{"model":"sim/hello","messages":[{"role":"user","content":"\\ud800 x"}]}', 400),
        ('{"model":"sim/hello","messages":[{"role":"user","content":"\\ud83d\\ude00 nul \\u0000"}]}', 200),
        ('{"model":"sim/hello","messages":[{"role":"user","content":"a\\u0308 \\u202e x \\u200f y"}]}', 200),
    ],
    ids=["escapes", "twice", "escaped key", "half a pair", "nul", "marks"],
)
def test_odd_json(start: Any, provider: ProviderServer, body: str, status: int) -> None:
    gateway = start("screening: {secrets: {}, injection: {user: {action: flag}}}")
    provider.script("hello", Reply("Hello."))
    got, _, raw = gateway.post(body.encode())
    assert got == status, raw
    assert len(provider.journal) == (status == 200)
    if status == 200:
        assert json.loads(provider.journal.last.body)["messages"] == json.loads(body)["messages"]


# -- the loop -----------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_long_texts_do_not_hold_up_short_ones(
    start: Any, provider: ProviderServer, record_property: Any
) -> None:
    """A megabyte ten times a second, for three seconds."""
    gateway: ThreadedGateway = start(
        "screening: {injection: {on_failure: allow}, pii: {action: pseudonymise, on_failure: allow}, secrets: {on_failure: allow}}"
    )
    provider.script("hello", Reply("Hello."))
    line = (
        "The quick brown fox, order no. 12345678, jumps over 17 lazy dogs; see section 4.2 of the manual.\n"
    )
    lags: list[float] = []
    took: list[float] = []
    done = threading.Event()

    async def heart() -> None:
        while not done.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.005)
            lags.append(time.perf_counter() - began - 0.005)

    def big(number: int) -> None:
        post(gateway, CHAT, CHAT.request("sim/hello", f"{number} " + line * (1_000_000 // len(line))))

    def small() -> None:
        while not done.is_set():
            began = time.perf_counter()
            status, _, _ = post(gateway, CHAT, CHAT.request("sim/hello", f"hello {began}"))
            took.append(time.perf_counter() - began)
            assert status == 200
            time.sleep(0.02)

    assert gateway.loop is not None
    small_ones = threading.Thread(target=small)
    post(gateway, CHAT, CHAT.request("sim/hello", line * 100))
    pulse = asyncio.run_coroutine_threadsafe(heart(), gateway.loop)
    small_ones.start()
    big_ones = [threading.Thread(target=big, args=(i,)) for i in range(30)]
    began = time.monotonic()
    for i, thread in enumerate(big_ones):
        time.sleep(max(0.0, began + i * 0.1 - time.monotonic()))
        thread.start()
    for thread in big_ones:
        thread.join(60)
    done.set()
    small_ones.join(30)
    pulse.result(30)
    figures = {
        name: {
            "p50": values[len(values) // 2],
            "p99": values[int(len(values) * 0.99)],
            "max": values[-1],
            "n": len(values),
        }
        for name, values in (("lag", sorted(lags)), ("small", sorted(took)))
    }
    record_property("figures", json.dumps(figures))
    print(figures)
    assert figures["lag"]["p50"] < 0.1, figures
    assert figures["lag"]["p99"] < 0.5, figures
    assert figures["small"]["p50"] < 1.0, figures
