"""With the guards quiet, what the client sends arrives and what the provider answers comes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ThreadedGateway, base_policy

SENTINEL = "sk-client-secret-sentinel-000000"


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "sim/echo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 64, **more}


def test_every_field_arrives_known_or_not(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    body = chat(
        temperature=0.1, seed=2**63, unknown_field={"a": [1, 2.5, None, "ü"]}, explicit=None, stop=["x"],
        metadata={"k": "v"}, logit_bias={"50256": -100}, top_p=1e-7,
    )  # fmt: skip
    raw = json.dumps(body, indent=3).encode()
    assert gateway.post(raw)[0] == 200
    assert provider.journal.last.body == raw


def test_an_injected_limit_leaves_every_other_byte_alone(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    body = chat()
    del body["max_tokens"]
    raw = json.dumps(body, separators=(" , ", " : ")).encode()
    assert gateway.post(raw)[0] == 200
    sent = provider.journal.last.body
    assert sent.startswith(raw[:-1])
    assert json.loads(sent) == {**body, "max_tokens": 8192}


def test_a_streams_usage_is_asked_for_and_taken_out_again(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    gateway.post(chat(stream=True))
    assert json.loads(provider.journal.last.body)["stream_options"] == {"include_usage": True}
    _, _, through = gateway.post(chat(stream=True))
    _, _, asked = gateway.post(chat(stream=True, stream_options={"include_usage": True}))
    assert b"usage" not in through
    assert asked.count(b'"usage":null') > 2
    assert asked.count(b'"prompt_tokens"') == 1
    assert through.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 7, 64, 1000])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_stream_split_anywhere_reaches_the_client_byte_by_byte(
    gateway: ThreadedGateway, provider: ProviderServer, chunk_bytes: int, newline: str
) -> None:
    events = [
        ": keep-alive comment",
        'data: {"id":"x","choices":[{"index":0,"delta":{"role":"assistant","content":"Grüße \\u00fc 🎉"}}],"odd":{"usage":null}}',
        "event: message"
        + newline
        + 'data: {"id":"x","choices":[{"index":0,"delta":{"content":",\\"usage\\":null"}}]}',
        'data: {"id":"x","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
        "data: [DONE]",
    ]
    raw = "".join(event + newline + newline for event in events).encode()
    provider.script(
        "raw",
        Reply(body=raw, content_type="text/event-stream", chunk_bytes=chunk_bytes, flush_each=True,
              prompt_tokens=3, completion_tokens=2),
    )  # fmt: skip
    status, _, body = gateway.post(chat(model="sim/raw", stream=True))
    assert (status, body) == (200, raw)


def test_credentials_and_hop_headers_stay_here(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    gateway.post(
        chat(), x_api_key="gk-alice-0123456789", cookie=f"a={SENTINEL}", proxy_authorization=SENTINEL,
        x_forwarded_for="10.0.0.1", x_forwarded_host="evil", forwarded="for=x", x_guardrail_tags="a=b",
        openai_organization="org-1", openai_beta="assistants=v2", x_stainless_lang="python", traceparent="00-1",
        x_custom="kept",
    )  # fmt: skip
    sent = dict(provider.journal.last.headers)
    flat = repr(sent)
    assert SENTINEL not in flat
    assert "gk-alice" not in flat
    assert not [name for name in sent if name.startswith("x-guardrail-") and name != "x-guardrail-attempt-id"]
    for name in ("openai-organization", "openai-beta", "x-stainless-lang", "traceparent", "x-custom"):
        assert name in sent, name
    assert sent["authorization"] == "Bearer sk-upstream-secret-000000000000"
    for name in ("cookie", "x-forwarded-for", "forwarded"):
        assert name not in sent


def test_the_providers_headers_come_back_without_its_cookies_and_retry_advice(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script(
        "headers",
        Reply("hi", headers=[
            ("openai-processing-ms", "12"), ("x-ratelimit-remaining-tokens", "9"), ("set-cookie", "a=b"),
            ("x-should-retry", "true"), ("retry-after", "600"), ("x-guardrail-verdict", "forged"),
        ]),
    )  # fmt: skip
    _, headers, _ = gateway.post(chat(model="sim/headers"))
    assert headers["openai-processing-ms"] == "12"
    assert headers["x-ratelimit-remaining-tokens"] == "9"
    assert headers["x-guardrail-verdict"] == "allow"
    for name in ("set-cookie", "x-should-retry", "retry-after"):
        assert name not in headers


def test_a_429_passes_with_a_retry_after_of_at_most_a_minute(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("limit", Reply(status=429, error={"error": {"message": "slow down"}},
                                   headers=[("retry-after", "21600"), ("x-should-retry", "true")]))  # fmt: skip
    status, headers, body = gateway.post(chat(model="sim/limit"))
    assert (status, json.loads(body)) == (429, {"error": {"message": "slow down"}})
    assert headers["retry-after"] == "60"
    assert "x-should-retry" not in headers


def test_the_gateways_own_rejected_credentials_are_told_without_their_words(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script(
        "denied", Reply(status=401, error={"error": {"message": "Incorrect API key sk-up***0000"}})
    )
    status, headers, body = gateway.post(chat(model="sim/denied"))
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_credentials_rejected")
    assert headers["x-should-retry"] == "false"
    assert b"sk-up" not in body


@pytest.mark.parametrize("where", ["body", "query", "header", "host", "absolute"])
def test_no_request_chooses_its_upstream(
    gateway: ThreadedGateway, provider: ProviderServer, where: str
) -> None:
    evil = "http://127.0.0.1:9/v1"
    if where == "body":
        status, _, _ = gateway.post(chat(api_base=evil, base_url=evil, metadata={"api_base": evil}))
    elif where == "query":
        status, _, _ = gateway.post(chat(), path=f"/v1/chat/completions?base_url={evil}&api-version=x")
    elif where == "header":
        status, _, _ = gateway.post(chat(), x_forwarded_host="evil", x_target_url=evil, x_base_url=evil)
    elif where == "host":
        status, _, _ = gateway.post(chat(), host="evil.example:9")
    else:
        import socket

        raw = json.dumps(chat()).encode()
        with socket.create_connection(("127.0.0.1", gateway.port)) as sock:
            sock.sendall(
                b"POST http://evil.example/v1/chat/completions HTTP/1.1\r\nHost: evil.example\r\n"
                b"Authorization: Bearer gk-alice-0123456789\r\nContent-Length: %d\r\n\r\n%b" % (len(raw), raw)
            )
            status = int(sock.recv(4096).split(b" ")[1])
    assert status in (200, 404)
    assert len(provider.journal) == (1 if status == 200 else 0)


def test_a_redirect_is_not_followed(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    provider.script("moved", Reply(status=307, error={}, headers=[("location", "http://127.0.0.1:9/")]))
    status, headers, body = gateway.post(chat(model="sim/moved"))
    assert (status, json.loads(body)["error"]["code"]) == (502, "upstream_unavailable")
    assert "location" not in headers


def test_passthrough_sends_the_callers_own_credential_to_one_provider(
    make_gateway: MakeGateway, provider: ProviderServer
) -> None:
    policy = base_policy(provider.base_url).replace(
        "auth: {mode: keys}", "auth: {mode: passthrough, provider: upstream}"
    )
    gateway = make_gateway(policy=policy)
    assert gateway.post(chat(), key="sk-my-own-key-000000")[0] == 200
    assert provider.journal.last.header("authorization") == "Bearer sk-my-own-key-000000"
    attempt = gateway.attempts()[0]
    assert "sk-my-own" not in json.dumps(attempt, default=str)
    assert gateway.post(chat(), key=None)[0] == 401
    provider.script("denied", Reply(status=401, error={"error": {"message": "bad key"}}))
    status, _, body = gateway.post(chat(model="sim/denied"), key="sk-other-000000")
    assert (status, json.loads(body)) == (401, {"error": {"message": "bad key"}})
