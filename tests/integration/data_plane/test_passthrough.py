"""Provider paths that the policy lets pass: streamed both ways, at the price it declares, and nothing else."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.testing import ProviderServer
from tests.integration.data_plane.test_surfaces import policy_for
from tests.support.gateway import ALICE, BOB, ThreadedGateway, threaded_gateway, wait_until

PATHS = """
passthrough:
  - {path: /v1/audio/speech, provider: upstream, price: {request_usd: 0.015}}
  - {path: /v1/audio/transcriptions, provider: upstream, price: {request_usd: 0.006}}
  - {path: "/v1/files/{file_id}/content", provider: upstream, methods: GET, price: free}
  - {path: /v1/responses/compact, provider: upstream, price: {request_usd: 0.015}}
budgets: [{name: run, per: run, limit_usd: 0.01}]
"""


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path) -> Iterator[ThreadedGateway]:
    extra = PATHS.replace("limit_usd: 0.01", "limit_usd: 1")
    with threaded_gateway(policy_for(provider, extra), tmp_path / "gw") as gateway:
        yield gateway


SPEECH = {"model": "tts", "input": "say this", "voice": "alloy"}


def multipart(size: int) -> tuple[str, bytes]:
    head = b'--bound\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    model = b'\r\n--bound\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--bound--\r\n'
    return "multipart/form-data; boundary=bound", head + bytes(range(256)) * (size // 256) + model


def test_a_binary_answer_passes_byte_for_byte_at_its_price(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    status, headers, raw = gateway.post(SPEECH, path="/v1/audio/speech?x=1&key=sk-stolen")
    assert status == 200
    assert len(raw) > 100
    assert headers["content-type"].startswith("audio/")
    assert headers["x-guardrail-run-id"]
    sent = provider.journal.last
    assert sent.path == "/v1/audio/speech?x=1"
    assert json.loads(sent.body) == SPEECH
    (attempt,) = gateway.attempts()
    assert (attempt["surface"], attempt["cost"], attempt["outcome"]) == ("passthrough", 15_000_000, "ok")
    spend = gateway.admin("GET", "/spend?group_by=surface")["data"]
    assert {row["surface"]: row["cost_usd"] for row in spend} == {"passthrough": "0.015000000"}


@pytest.mark.parametrize("chunked", [False, True])
def test_a_large_multipart_body_is_streamed_as_it_is(
    gateway: ThreadedGateway, provider: ProviderServer, chunked: bool
) -> None:
    kind, body = multipart(40 * 1024 * 1024)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    pieces = (body[i : i + 65536] for i in range(0, len(body), 65536))
    connection.request(
        "POST",
        "/v1/audio/transcriptions",
        pieces if chunked else body,
        {"authorization": f"Bearer {ALICE}", "content-type": kind},
        encode_chunked=chunked,
    )
    answer = connection.getresponse()
    raw = answer.read()
    assert answer.status == 200, raw
    sent = provider.journal.last
    assert len(sent.body) in (len(body), 0) or sent.body == body[: len(sent.body)]
    assert dict(sent.raw_headers)[b"content-type"] == kind.encode()
    (attempt,) = gateway.attempts()
    assert attempt["cost"] == 6_000_000


def test_a_client_that_breaks_off_its_upload_leaves_no_whole_request(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    kind, body = multipart(4 * 1024 * 1024)
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    connection.putrequest("POST", "/v1/audio/transcriptions")
    connection.putheader("authorization", f"Bearer {ALICE}")
    connection.putheader("content-type", kind)
    connection.putheader("content-length", str(len(body)))
    connection.endheaders()
    connection.send(body[: len(body) // 2])
    wait_until(lambda: gateway.worker.journal._open, what="dispatch")
    connection.close()
    wait_until(lambda: gateway.attempts(), what="settlement")
    (attempt,) = gateway.attempts()
    assert attempt["outcome"] != "ok"
    wait_until(lambda: gateway.worker.data_plane.active == 0, what="end of the request")


def test_a_declared_path_below_responses_is_handed_on(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    gateway.post({"model": "m", "input": "x"}, path="/v1/responses/compact")
    assert provider.journal.last.path == "/v1/responses/compact"
    (attempt,) = gateway.attempts()
    assert attempt["surface"] == "passthrough"
    status, _, raw = gateway.request("GET", "/v1/responses/compact")
    assert (status, json.loads(raw)["error"]["code"]) == (404, "unknown_route")


def test_what_is_not_declared_is_not_found(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    for method, path in (
        ("POST", "/v1/images/generations"),
        ("GET", "/v1/audio/speech"),
        ("POST", "/v1/audio/speech/"),
        ("POST", "/v1/audio//speech"),
        ("POST", "/v1/audio%2Fspeech"),
        ("POST", "/v1/audio/speech/../../files"),
        ("GET", "/v1/files/../content"),
        ("GET", "/v1/files/..%2f..%2fmodels/content"),
        ("GET", "/v1/files/a/b/content"),
        ("POST", "/v1/batches"),
    ):
        status, _, raw = gateway.request(method, path)
        assert (status, json.loads(raw)["error"]["code"]) == (404, "unknown_route"), path
    assert len(provider.journal) == 0


def test_a_file_of_nobody_s_is_not_found(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    for key in (ALICE, BOB):
        status, _, raw = gateway.request("GET", "/v1/files/file-0123456789abcdef/content", key=key)
        assert (status, json.loads(raw)["error"]["code"]) == (404, "unknown_reference")
    assert len(provider.journal) == 0


def test_a_budget_and_a_kill_hold_for_them_too(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(policy_for(provider, PATHS), tmp_path / "gw") as gateway:
        status, _, raw = gateway.post(SPEECH, path="/v1/audio/speech")
        assert (status, json.loads(raw)["error"]["code"]) == (400, "run_budget_exceeded")
        gateway.admin("POST", "/kills", {"scope": "team", "id": "red", "reason": "no"})
        status, _, raw = gateway.post(SPEECH, path="/v1/audio/transcriptions")
        assert (status, json.loads(raw)["error"]["code"]) == (400, "team_killed")
        assert len(provider.journal) == 0
        assert gateway.post(SPEECH, path="/v1/audio/speech", key="wrong")[0] == 401


def test_a_run_named_by_url_holds_its_passthrough_calls(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    status, headers, _ = gateway.post(SPEECH, path="/r/podcast/v1/audio/speech")
    assert status == 200
    again = gateway.post(SPEECH, path="/r/podcast/v1/audio/speech")[1]
    assert headers["x-guardrail-run-id"] == again["x-guardrail-run-id"]
    assert again["x-guardrail-step"] == "2"
    assert provider.journal.last.path == "/v1/audio/speech"
