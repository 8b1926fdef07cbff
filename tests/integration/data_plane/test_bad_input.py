"""Requests that are wrong: a clear error in the surface's shape, nothing charged, the worker alive."""

from __future__ import annotations

import gzip
import json
import socket
import zlib
from typing import Any

import brotli
import pytest
import zstandard

from gateway.testing import ProviderServer
from tests.integration.conftest import MakeGateway
from tests.support.gateway import ALICE, ThreadedGateway

GOOD = {"model": "sim/echo", "messages": [{"role": "user", "content": "hello"}]}


def error_of(raw: bytes) -> dict[str, Any]:
    error: dict[str, Any] = json.loads(raw)["error"]
    assert set(error) == {"message", "type", "code", "param", "guardrail"}
    assert error["type"] == "guardrail_error"
    return error


def deep(levels: int) -> bytes:
    return b'{"model":"sim/echo","messages":[{"role":"user","content":"x"}],"metadata":' + (
        b'{"a":' * levels + b"1" + b"}" * levels + b"}"
    )


BAD: list[tuple[str, bytes, str, int]] = [
    ("empty", b"", "invalid_json", 400),
    ("not json", b"hello", "invalid_json", 400),
    ("cut short", json.dumps(GOOD).encode()[:-3], "invalid_json", 400),
    ("a list", b"[]", "invalid_json", 400),
    ("a number", b"1", "invalid_json", 400),
    ("utf-16", json.dumps(GOOD).encode("utf-16"), "invalid_json", 400),
    ("a byte order mark", b"\xef\xbb\xbf" + json.dumps(GOOD).encode(), "invalid_json", 400),
    ("latin-1", b'{"model":"sim/echo","messages":[{"role":"user","content":"\xe9"}]}', "invalid_json", 400),
    ("NaN", b'{"model":"sim/echo","temperature":NaN,"messages":[{"role":"user","content":"x"}]}', "invalid_json", 400),
    ("a lone surrogate", b'{"model":"sim/echo","messages":[{"role":"user","content":"\\ud800"}]}', "invalid_json", 400),
    ("a key twice", b'{"model":"sim/echo","model":"sim/long","messages":[{"role":"user","content":"x"}]}', "invalid_json", 400),
    ("a key twice, escaped", b'{"model":"sim/echo","mod\\u0065l":"sim/long","messages":[{"role":"user","content":"x"}]}', "invalid_json", 400),
    ("a deep key twice", b'{"model":"sim/echo","messages":[{"role":"user","content":"x","content":"y"}]}', "invalid_json", 400),
    ("a huge integer", b'{"model":"sim/echo","seed":1' + b"0" * 30 + b',"messages":[{"role":"user","content":"x"}]}', "invalid_json", 400),
    ("4300 digits", b'{"model":"sim/echo","seed":' + b"1" * 5000 + b',"messages":[{"role":"user","content":"x"}]}', "invalid_json", 400),
    ("200 levels", deep(200), "invalid_json", 400),
    ("a million levels", deep(1_000_000), "invalid_json", 400),
    ("no model", b'{"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("model null", b'{"model":null,"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("no messages", b'{"model":"sim/echo"}', "invalid_request", 400),
    ("messages empty", b'{"model":"sim/echo","messages":[]}', "invalid_request", 400),
    ("messages a string", b'{"model":"sim/echo","messages":"hi"}', "invalid_request", 400),
    ("message a string", b'{"model":"sim/echo","messages":["hi"]}', "invalid_request", 400),
    ("no role", b'{"model":"sim/echo","messages":[{"content":"x"}]}', "invalid_request", 400),
    ("content a number", b'{"model":"sim/echo","messages":[{"role":"user","content":5}]}', "invalid_request", 400),
    ("part without text", b'{"model":"sim/echo","messages":[{"role":"user","content":[{"type":"text"}]}]}', "invalid_request", 400),
    ("n a string", b'{"model":"sim/echo","n":"2","messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("n huge", b'{"model":"sim/echo","n":100000,"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("n negative", b'{"model":"sim/echo","n":-1,"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("max_tokens zero", b'{"model":"sim/echo","max_tokens":0,"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("max_tokens true", b'{"model":"sim/echo","max_tokens":true,"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("stream a string", b'{"model":"sim/echo","stream":"yes","messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("tools an object", b'{"model":"sim/echo","tools":{},"messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("unknown model", b'{"model":"nope","messages":[{"role":"user","content":"x"}]}', "unknown_model", 400),
    ("a model name as long as a book", b'{"model":"' + b"a" * 300 + b'","messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("a model name with a header in it", b'{"model":"gpt-4o\\r\\nx-evil: 1","messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
    ("model with control characters", b'{"model":"a\\r\\nx-evil: 1","messages":[{"role":"user","content":"x"}]}', "invalid_request", 400),
]  # fmt: skip


@pytest.mark.parametrize(("raw", "code", "status"), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_a_wrong_body_is_refused_and_charged_nothing(
    refusing: ThreadedGateway, provider: ProviderServer, raw: bytes, code: str, status: int
) -> None:
    answered, headers, body = refusing.post(raw)
    assert (answered, error_of(body)["code"]) == (status, code)
    assert headers["x-should-retry"] == "false"
    assert headers["x-guardrail-verdict"] == "refuse"
    assert headers["x-request-id"]
    assert headers["x-guardrail-decision-id"]
    assert len(provider.journal) == 0
    assert refusing.post(GOOD)[0] == 200
    assert len(refusing.attempts()) == 1 + REFUSING_SERVED.get(id(refusing), 0)
    REFUSING_SERVED[id(refusing)] = len(refusing.attempts())


REFUSING_SERVED: dict[int, int] = {}


@pytest.fixture(scope="module")
def refusing(shared_provider: ProviderServer, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One gateway for all wrong requests: it has to stay alive through them."""
    from tests.support.gateway import base_policy, threaded_gateway

    with threaded_gateway(base_policy(shared_provider.base_url), tmp_path_factory.mktemp("refusing")) as made:
        yield made


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": "Bearer "},
        {"authorization": "Bearer wrong"},
        {"authorization": "Basic !!!"},
        {"authorization": "Digest x"},
        {"x-api-key": "wrong"},
        {"authorization": f"Bearer {ALICE}", "x-api-key": "another"},
        {"authorization": "Bearer " + "a" * 20_000},
        {"authorization": "Bearer \x7f\x80\xff"},
    ],
    ids=str,
)
def test_every_failed_authentication_gets_the_same_answer(
    refusing: ThreadedGateway, headers: dict[str, str]
) -> None:
    status, _, body = refusing.post(GOOD, key=None, **headers)
    assert status in (401, 431, 400)
    if status == 401:
        error = error_of(body)
        assert error["code"] == "invalid_api_key"
        assert error["message"] == "The API key is missing or not valid for this gateway."


@pytest.mark.parametrize("header", ["x-api-key", "api-key", "x-goog-api-key"])
def test_a_key_is_taken_from_every_header_that_sdks_use(refusing: ThreadedGateway, header: str) -> None:
    assert refusing.post(GOOD, key=None, **{header: ALICE})[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/v1/chat/completions/", "/v1//chat/completions", "/v1/chat/completions/../models", "/v2/models",
        "/v1/files", "/v1/batches", "/v1/chat%2fcompletions", "//v1/chat/completions", "/V1/chat/completions",
        "/v1/chat/completions;x", "/r//v1/chat/completions", "/r/a/b/v1/chat/completions", "/r/x/admin/v1/runs",
        "/v1/%2e%2e/admin", "/r/run/v1/files",
    ],
)  # fmt: skip
def test_every_other_path_is_unknown(refusing: ThreadedGateway, path: str) -> None:
    status, _, body = refusing.post(GOOD, path=path)
    assert (status, error_of(body)["code"]) == (404, "unknown_route")


@pytest.mark.parametrize("name", ["run", "GLOBAL", "a b", "a/b", "a:b", "-x", "x" * 129, "ünï", "a\tb"])
def test_hostile_run_names_are_refused(refusing: ThreadedGateway, name: str) -> None:
    status, _, body = refusing.post(GOOD, x_guardrail_run_id=name.encode().decode("latin-1"))
    assert (status, error_of(body)["code"]) == (400, "invalid_request")


def test_compressed_bodies_are_read(refusing: ThreadedGateway, provider: ProviderServer) -> None:
    raw = json.dumps(GOOD).encode()
    for encoding, body in (
        ("gzip", gzip.compress(raw)),
        ("deflate", zlib.compress(raw)),
        ("zstd", zstandard.compress(raw)),
        ("br", brotli.compress(raw)),
        ("identity", raw),
        ("gzip, zstd", zstandard.compress(gzip.compress(raw))),
    ):
        assert refusing.post(body, content_encoding=encoding)[0] == 200, encoding
        assert json.loads(provider.journal.last.body)["messages"] == GOOD["messages"]
        assert provider.journal.last.header("content-encoding") is None


def test_bombs_and_unknown_encodings_are_refused(make_gateway: MakeGateway) -> None:
    gateway = make_gateway("server: {max_body_bytes: 1000000, max_decompressed_bytes: 2000000}\n")
    zeros = bytes(64_000_000)
    for encoding, body in (
        ("gzip", gzip.compress(zeros)),
        ("zstd", zstandard.compress(zeros)),
        ("br", brotli.compress(zeros, quality=5)),
        ("deflate", zlib.compress(zeros)),
        ("gzip, gzip", gzip.compress(gzip.compress(zeros))),
    ):
        status, _, answer = gateway.post(body, content_encoding=encoding)
        assert (status, error_of(answer)["code"]) == (413, "request_too_large"), encoding
    for encoding in ("compress", "gzip, gzip, gzip", "snappy"):
        status, _, answer = gateway.post(b"x", content_encoding=encoding)
        assert (status, error_of(answer)["code"]) == (415, "unsupported_encoding")
    status, _, answer = gateway.post(b"x" * 1_000_001)
    assert (status, error_of(answer)["code"]) == (413, "request_too_large")


def test_a_chunked_body_without_end_is_cut_at_the_cap(make_gateway: MakeGateway) -> None:
    gateway = make_gateway("server: {max_body_bytes: 100000}\n")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
            + f"Authorization: Bearer {ALICE}\r\n\r\n".encode()
        )
        for _ in range(12):
            sock.sendall(b"2710\r\n" + b"x" * 10_000 + b"\r\n")
        # What comes after the cap is taken for a moment, so that the answer can be read; then it is given.
        assert b" 413 " in sock.recv(4096)


def test_upgrades_are_answered_426(refusing: ThreadedGateway) -> None:
    with socket.create_connection(("127.0.0.1", refusing.port), timeout=10) as sock:
        sock.sendall(
            b"GET /v1/responses HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        answer = sock.recv(4096)
    assert answer.startswith(b"HTTP/1.1 426 ")
    assert b"connection: close" in answer.lower()


def test_headers_that_differ_only_in_an_underscore_are_refused(refusing: ThreadedGateway) -> None:
    raw = json.dumps(GOOD).encode()
    with socket.create_connection(("127.0.0.1", refusing.port), timeout=10) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX_Api_Key: a\r\nX-Api-Key: b\r\n"
            b"Content-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(raw), raw)
        )
        assert b" 400 " in sock.recv(4096)


def test_open_mode_serves_this_machine_alone(make_gateway: MakeGateway, provider: ProviderServer) -> None:
    policy = f"""
version: 1
providers: {{up: {{dialect: openai, base_url: "{provider.base_url}", api_key: none}}}}
models: {{"sim/*": {{provider: up, price: free}}}}
auth: {{mode: open}}
"""
    gateway = make_gateway(policy=policy)
    assert gateway.post(GOOD, key=None)[0] == 200
    assert gateway.post(GOOD, key="anything")[0] == 200
    assert gateway.post(GOOD, key=None, host="evil.example")[0] == 401
    assert gateway.post(GOOD, key=None, host="127.0.0.1#@evil.example")[0] in (400, 401)
    assert gateway.post(GOOD, key=None, origin="https://evil.example")[0] == 401
    assert gateway.post(GOOD, key=None, content_type="text/plain")[0] == 415


def test_models_are_listed_by_policy_and_key(refusing: ThreadedGateway) -> None:
    import urllib.request

    def get(path: str) -> tuple[int, Any]:
        request = urllib.request.Request(refusing.url + path, headers={"authorization": f"Bearer {ALICE}"})
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    assert get("/v1/models")[1]["object"] == "list"
    assert get("/v1/models/gpt-4o")[1]["id"] == "gpt-4o"
    assert get("/v1/models/nope")[0] == 404
