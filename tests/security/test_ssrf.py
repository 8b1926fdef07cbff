"""Nobody but the operator says where the gateway connects to, and each provider's key goes to that provider."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply, running_provider
from tests.security.raw import Connection, chat, post
from tests.security.smuggling import MALLORY
from tests.security.upstream import Trap
from tests.support.gateway import ALICE, ThreadedGateway, threaded_gateway
from tests.support.wire import WIRES

KEYS = {"first": "sk-first-provider-0123456789abcdef", "second": "0f1e2d3c4b5a69788796a5b4c3d2e1f0"}
POLICY = """
version: 1
providers:
  first:  {{dialect: openai, base_url: "{first}", api_key: {keys[first]}}}
  second: {{dialect: anthropic, base_url: "{second}", api_key: {keys[second]}}}
models:
  one:   {{provider: first, upstream_model: sim/echo, fallbacks: [two], price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
  two:   {{provider: second, upstream_model: sim/echo, price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
  fails: {{provider: first, upstream_model: sim/error-500, fallbacks: [two], price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
  moved: {{provider: first, upstream_model: sim/moved, fallbacks: [two], price: {{input_usd_per_mtok: 1, output_usd_per_mtok: 1}}}}
passthrough:
  - {{path: /v1/audio/speech, provider: first, price: free}}
  - {{path: "/v1/files/{{file_id}}/content", provider: first, methods: GET, price: free}}
keys:
  - {{name: alice, key: {alice}}}
"""


@pytest.fixture
def trap() -> Iterator[Trap]:
    made = Trap()
    yield made
    made.close()


@pytest.fixture(scope="module")
def second() -> Iterator[ProviderServer]:
    with running_provider(seed=2) as running:
        yield running


@pytest.fixture(scope="module")
def two(
    shared_provider: ProviderServer, second: ProviderServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ThreadedGateway]:
    """A gateway in front of two providers."""
    policy = POLICY.format(
        first=shared_provider.base_url,
        second=second.base_url.removesuffix("/v1"),
        keys=KEYS,
        alice=ALICE,
    )
    with threaded_gateway(policy, tmp_path_factory.mktemp("two")) as running:
        yield running


def nested(url: str) -> dict[str, Any]:
    """A URL under every name by which libraries let a caller choose a host."""
    names = (
        "api_base", "base_url", "api_url", "url", "host", "endpoint", "proxy", "webhook", "webhook_url", "callback_url",
        "azure_endpoint", "vertex_location", "litellm_params", "model_info", "provider", "custom_llm_provider",
    )  # fmt: skip
    return {name: url for name in names}


def test_no_field_of_a_body_is_a_way_out(two: ThreadedGateway, provider: ProviderServer, trap: Trap) -> None:
    url = f"http://127.0.0.1:{trap.port}/steal"
    for name, wire in WIRES.items():
        body = wire.request("one", "hello")
        for more in (
            nested(url),
            {"metadata": nested(url)},
            {"extra_body": nested(url), "extra_headers": nested(url)},
        ):
            status, _, raw = two.post({**body, **more}, path=wire.path, **wire.headers)
            assert status in (200, 400), (name, raw)
    assert not trap.visited


def test_urls_of_content_are_the_providers_business(
    two: ThreadedGateway, provider: ProviderServer, trap: Trap
) -> None:
    """The gateway fetches no image, file or tool server that a message names, translated or not."""
    url = f"http://127.0.0.1:{trap.port}/image.png"
    chats: list[dict[str, Any]] = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "filename": url}},
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
    ]
    for model in ("one", "two"):
        for part in chats:
            content = [{"type": "text", "text": "see"}, part]
            two.post({"model": model, "messages": [{"role": "user", "content": content}]})
        inputs = (
            {"type": "input_image", "image_url": url, "detail": "auto"},
            {"type": "input_file", "file_url": url},
        )
        for given in inputs:
            two.post(
                {"model": model, "input": [{"role": "user", "content": [given]}],
                 "tools": [{"type": "mcp", "server_label": "x", "server_url": url}]},
                path="/v1/responses",
            )  # fmt: skip
        for kind in ("image", "document"):
            two.post(
                {"model": model, "max_tokens": 9,
                 "messages": [{"role": "user", "content": [{"type": kind, "source": {"type": "url", "url": url}}]}],
                 "mcp_servers": [{"type": "url", "url": url, "name": "x"}]},
                path="/v1/messages", anthropic_version="2023-06-01",
            )  # fmt: skip
    schema = {"$schema": url, "$ref": url, "type": "object", "properties": {"a": {"$ref": f"{url}#/x"}}}
    two.post(
        {"model": "one", "messages": [{"role": "user", "content": "x"}],
         "tools": [{"type": "function", "function": {"name": "f", "parameters": schema}}],
         "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}
    )  # fmt: skip
    assert not trap.visited


@pytest.mark.parametrize(
    "target",
    [
        "http://127.0.0.1:{port}/v1/chat/completions",
        "//127.0.0.1:{port}/v1/chat/completions",
        "/v1/chat/completions@127.0.0.1:{port}/",
        "/v1/chat/completions#@127.0.0.1:{port}/",
        "/v1/chat/completions?base_url=http://127.0.0.1:{port}/",
        "/v1/chat/completions?host=127.0.0.1:{port}&api-version=http://127.0.0.1:{port}",
        "/v1/chat/completions\\@127.0.0.1:{port}",
        "@127.0.0.1:{port}/v1/chat/completions",
        "/v1/audio/speech/..%2f..%2f@127.0.0.1:{port}",
        "/v1/files/%2f%2f127.0.0.1:{port}/content",
        "/v1/files/@127.0.0.1:{port}/content",
        "/r/http:%2f%2f127.0.0.1:{port}/v1/chat/completions",
        "/v1/responses/@127.0.0.1:{port}",
        "/v1/responses/..%2f..%2f..%2fmodels",
        "/v1/models/http:%2f%2f127.0.0.1:{port}",
    ],
)
def test_no_target_and_no_header_is_a_way_out(
    two: ThreadedGateway, provider: ProviderServer, trap: Trap, target: str
) -> None:
    there = f"127.0.0.1:{trap.port}".encode()
    lines = [
        b"%b: %b%b" % (name, scheme, there)
        for name, scheme in (
            (b"X-Forwarded-Host", b""), (b"X-Forwarded-Server", b""), (b"X-Host", b""), (b"X-Original-URL", b"http://"),
            (b"X-Rewrite-URL", b"http://"), (b"X-Target-URL", b"http://"), (b"X-Base-URL", b"http://"),
            (b"Forwarded", b"host="), (b"X-HTTP-Host-Override", b""), (b"Destination", b"http://"),
            (b"Helicone-Target-Url", b"http://"), (b"X-Portkey-Custom-Host", b"http://"),
        )
    ]  # fmt: skip
    for method in (b"POST", b"GET"):
        with Connection(two.port) as line:
            raw = post(
                ALICE,
                chat("one", "x"),
                *lines,
                b"Connection: close",
                target=target.format(port=trap.port).encode(),
            )
            line.send(raw.replace(b"POST ", method + b" ", 1))
            line.left_over()
    assert not trap.visited


def test_each_provider_is_given_its_own_key_and_no_other(
    two: ThreadedGateway, provider: ProviderServer, second: ProviderServer
) -> None:
    second.journal.clear()
    for wire in WIRES.values():
        for model in ("one", "two", "fails", "moved"):
            for stream in (False, True):
                two.post(wire.request(model, "x", stream=stream), path=wire.path, **wire.headers)
    two.post({"model": "x", "input": "x", "voice": "alloy"}, path="/v1/audio/speech")
    assert len(provider.journal) > 10
    assert len(second.journal) > 10
    for own, server in (("first", provider), ("second", second)):
        (other,) = KEYS.keys() - {own}
        for attempt in server.journal:
            told = repr(attempt.raw_headers) + attempt.path + attempt.body.decode()
            assert KEYS[own] in told
            assert KEYS[other] not in told
            assert ALICE not in told


@pytest.mark.parametrize("status", [300, 301, 302, 303, 305, 307, 308])
def test_no_redirect_is_followed_nor_handed_on(
    two: ThreadedGateway, provider: ProviderServer, trap: Trap, status: int
) -> None:
    provider.script(
        "moved",
        Reply(status=status, error={}, headers=[("location", f"http://127.0.0.1:{trap.port}/steal")]),
    )
    asked = [
        {"model": "moved", "stream": stream, "messages": [{"role": "user", "content": "x"}]}
        for stream in (False, True)
    ]
    answers = [two.post(body) for body in asked]
    speech = {"model": "tts", "input": "say", "voice": "alloy"}
    answers.append(two.post(speech, path="/v1/audio/speech", x_sim_scenario="moved"))
    for answered, headers, raw in answers:
        # A fallback may serve a request; the redirect itself is an outage.
        assert answered == 200 or (answered, json.loads(raw)["error"]["code"]) == (
            502,
            "upstream_unavailable",
        )
        assert "location" not in headers
    assert answers[-1][0] == 502
    assert not trap.visited


def test_an_operator_of_the_api_cannot_point_the_gateway_elsewhere(
    gateway: ThreadedGateway, trap: Trap
) -> None:
    """Providers, receivers of alerts and logins are set by files and the environment alone."""
    url = f"http://127.0.0.1:{trap.port}/x"
    policy = gateway.admin("GET", "/policy")["policy"]
    moved = json.loads(json.dumps(policy).replace(policy["providers"]["upstream"]["base_url"], url))
    assert moved != policy
    for changed in (
        moved,
        {
            **policy,
            "providers": {
                **policy["providers"],
                "evil": {"dialect": "openai", "base_url": url, "api_key": "none"},
            },
        },
        {**policy, "alerts": [{"name": "evil", "url": url, "on": ["run_stopped"]}]},
        {**policy, "auth": {"mode": "passthrough", "provider": "upstream"}},
        {**policy, "keys": [*policy["keys"], {"name": "evil", "key": "gk-evil-0123456789"}]},
    ):
        sent = {"policy": json.dumps(changed)}
        assert gateway.admin("POST", "/policy/validate", sent)["valid"] is False, changed
        with pytest.raises(urllib.error.HTTPError) as refused:
            gateway.admin("POST", "/policy", sent)
        assert refused.value.code in (400, 409, 422)
    assert not trap.visited


def test_sizes_of_a_run_url_are_bounded(
    gateway: ThreadedGateway, provider: ProviderServer, tmp_path: Path
) -> None:
    for name in (
        b"x" * 129,
        b"%2e%2e",
        b"..",
        b"%00",
        b"%0d%0aX-Evil:%201",
        b"a%2fb",
        b"\xc3\xa9".hex().encode() * 200,
    ):
        with Connection(gateway.port) as line:
            line.send(post(MALLORY, chat("sim/echo", "x"), target=b"/r/" + name + b"/v1/chat/completions"))
            answer = line.read()
        assert answer.status in (400, 404), name
        assert answer.header("x-evil") is None
    assert len(provider.journal) == 0
