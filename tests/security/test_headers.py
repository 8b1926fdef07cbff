"""Which headers cross the gateway, as the bytes on both sides tell."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from gateway.testing import ProviderServer, Reply
from tests.security.raw import Answer, Connection, chat, post
from tests.security.smuggling import BOB, MALLORY
from tests.security.upstream import raw_upstream
from tests.support.gateway import ALICE, ThreadedGateway, base_policy, threaded_gateway

KEY = "sk-upstream-secret-000000000000"
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "model": "sim/echo",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "{}"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
)


def ask(gateway: ThreadedGateway, *lines: bytes, key: str | None = MALLORY, **target: bytes) -> Answer:
    """One request with these header lines besides."""
    with Connection(gateway.port) as line:
        speech = target.get("target") == b"/v1/audio/speech"
        line.send(post(key, SPEECH if speech else chat("sim/echo", "hello"), *lines, **target))
        return line.read()


# -- to the provider ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lines",
    [
        (b"Authorization: Bearer " + BOB.encode(),),
        (b"authorization: Bearer " + MALLORY.encode(),),
        (b"X-Api-Key: " + MALLORY.encode(), b"x-api-key: " + BOB.encode()),
        (b"X-Guardrail-User-Id: a", b"X-Guardrail-User-Id: b"),
        (b"Content-Type: application/json", b"Content-Type: text/plain"),
        (b"Content-Encoding: gzip", b"Content-Encoding: identity"),
        (b"Host: provider.example",),
        (b"Origin: http://a", b"Origin: http://b"),
        (b"X_Api_Key: a",),
        (b"X_Forwarded_For: 10.0.0.1",),
        (b"X_Guardrail_User_Id: bob",),
        (b"Proxy_Authorization: a",),
        (b"Via_: a", b"Via-: a"),
    ],
    ids=lambda lines: lines[0].decode(),
)
def test_a_header_that_two_servers_would_read_differently_is_refused(
    gateway: ThreadedGateway, provider: ProviderServer, lines: tuple[bytes, ...]
) -> None:
    answer = ask(gateway, *lines)
    assert (answer.status, answer.code) == (400, "invalid_request")
    assert len(provider.journal) == 0


@pytest.mark.parametrize(
    "lines",
    [
        (b"X-Api-Key: " + BOB.encode(),),
        (b"Api-Key: " + BOB.encode(),),
        (b"X-Goog-Api-Key: wrong",),
        (b"X-Api-Key: ",),
    ],
    ids=lambda lines: lines[0].decode(),
)
def test_two_credentials_that_differ_are_none(
    gateway: ThreadedGateway, provider: ProviderServer, lines: tuple[bytes, ...]
) -> None:
    assert ask(gateway, *lines).code == "invalid_api_key"
    assert len(provider.journal) == 0


@pytest.mark.parametrize("name", ["key", "api_key", "api-key", "access_token", "x-api-key", "authorization"])
def test_a_key_in_the_query_opens_nothing_and_goes_nowhere(
    gateway: ThreadedGateway, provider: ProviderServer, name: str
) -> None:
    target = b"/v1/chat/completions?%b=%b" % (name.encode(), BOB.encode())
    assert ask(gateway, key=None, target=target).code == "invalid_api_key"
    answer = ask(gateway, target=target.replace(BOB.encode(), MALLORY.encode()))
    assert answer.status == 200
    if name in ("key", "api_key", "api-key", "access_token"):
        assert MALLORY not in provider.journal.last.path


def test_what_is_for_one_hop_stays_there_in_however_many_lines(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    answer = ask(
        gateway,
        b"Connection: x-one, Authorization, Host, content-length",
        b"connection: X-Two",
        b"X-One: 1", b"X-Two: 2", b"Keep-Alive: timeout=5", b"TE: trailers", b"Trailer: X-Late",
        b"Proxy-Connection: keep-alive", b"Proxy-Authorization: Basic x", b"Proxy-Authenticate: x",
        b"X-Forwarded-Host: evil.example", b"X-Forwarded-Anything: 1", b"Forwarded: for=x", b"Via: 1.1 x",
        b"X-Real-IP: 10.0.0.1", b"Cookie: session=" + BOB.encode(), b"Origin: http://gateway.example",
        b"Referer: http://gateway.example/secret", b"X-Guardrail-Tags: a=b", b"X-Kept: 3",
        b"X-Portkey-Api-Key: " + BOB.encode(), b"X-Litellm-Api-Key: k", b"Helicone-Auth: Bearer h",
    )  # fmt: skip
    assert answer.status == 200
    sent = {name.lower(): value for name, value in provider.journal.last.headers}
    assert sent["x-kept"] == "3"
    assert sent["host"] == f"127.0.0.1:{provider.port}"
    assert sent["authorization"] == f"Bearer {KEY}"
    assert set(sent) <= {
        "host", "authorization", "x-kept", "content-type", "content-length", "accept-encoding",
        "x-guardrail-attempt-id",
    }  # fmt: skip
    assert MALLORY not in repr(sent)
    assert BOB not in repr(sent)


@pytest.mark.parametrize("place", ["authorization", "x-api-key", "api-key", "x-goog-api-key", "basic"])
def test_a_gateway_key_never_leaves(gateway: ThreadedGateway, provider: ProviderServer, place: str) -> None:
    import base64

    lines = {
        "authorization": b"Authorization: bearer  " + ALICE.encode(),
        "basic": b"Authorization: Basic " + base64.b64encode(f"x:{ALICE}".encode()),
    }
    line = lines.get(place, f"{place}: {ALICE}".encode())
    for target in (b"/v1/chat/completions", b"/v1/audio/speech"):
        assert ask(gateway, line, key=None, target=target).status == 200
        sent = provider.journal.last
        assert ALICE not in repr(sent.raw_headers)
        assert sent.header("authorization") == f"Bearer {KEY}"
        for name in ("x-api-key", "api-key", "x-goog-api-key"):
            assert sent.header(name) is None


# -- from the provider -------------------------------------------------------------------------------

FORBIDDEN = {
    "set-cookie": "session=stolen", "set-cookie2": "a=b", "access-control-allow-origin": "*",
    "access-control-allow-credentials": "true", "access-control-expose-headers": "*",
    "x-accel-redirect": "/internal/secret", "x-accel-buffering": "yes", "x-sendfile": "/etc/passwd",
    "x-lighttpd-send-file": "/etc/passwd", "x-litespeed-location": "/secret", "x-reproxy-url": "http://10.0.0.1/",
    "clear-site-data": '"*"', "refresh": "0; url=http://evil.example", "service-worker-allowed": "/",
    "strict-transport-security": "max-age=1", "alt-svc": 'h3="evil.example:443"', "public-key-pins": "x",
    "nel": "{}", "report-to": "{}", "reporting-endpoints": "x", "keep-alive": "timeout=99",
    "proxy-authenticate": "Basic", "upgrade": "h2c", "trailer": "x", "te": "x", "x-guardrail-verdict": "forged",
    "x-guardrail-anything": "forged", "server": "evil", "via": "1.1 evil",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["plain", "stream", "refusal", "handed on"])
def test_a_providers_orders_to_others_than_the_client_stop_here(
    gateway: ThreadedGateway, provider: ProviderServer, kind: str
) -> None:
    given = [*FORBIDDEN.items(), ("x-kept", "1"), ("openai-processing-ms", "5")]
    provider.script("orders", Reply("hi", headers=given, status=400 if kind == "refusal" else 200))
    body = json.dumps(
        {"model": "sim/orders", "stream": kind == "stream", "messages": [{"role": "user", "content": "x"}]}
    ).encode()
    target = b"/v1/chat/completions"
    if kind == "handed on":
        target, body = b"/v1/audio/speech", SPEECH
    with Connection(gateway.port) as line:
        line.send(post(MALLORY, body, b"X-Sim-Scenario: orders", target=target))
        answer = line.read()
    assert answer.status == (400 if kind == "refusal" else 200)
    assert answer.header("x-kept") == "1"
    found = {name: value for name, value in answer.headers if FORBIDDEN.get(name) == value}
    assert found == {}


STATUS = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
LENGTH = b"content-length: %d\r\n" % len(ANSWER)
RAW = ANSWER.encode()
SECOND = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 18\r\n\r\n" + b'{"stolen":"words"}'
)

TWISTED = {
    "two lengths": STATUS + LENGTH + b"content-length: 5\r\n\r\n" + RAW,
    "length and chunks": STATUS + LENGTH + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n" + RAW,
    "chunks and length": STATUS + b"transfer-encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n",
    "a header after a bare carriage return": STATUS
    + b"x: y\rset-cookie: evil=1\r\n"
    + LENGTH
    + b"\r\n"
    + RAW,
    "a header after a bare line feed": STATUS + b"x: y\nset-cookie: evil=1\r\n" + LENGTH + b"\r\n" + RAW,
    "a NUL": STATUS + b"x: y\0z\r\n" + LENGTH + b"\r\n" + RAW,
    "a folded line": STATUS + b"x: y\r\n set-cookie: evil=1\r\n" + LENGTH + b"\r\n" + RAW,
    "a header without end": STATUS + b"x: " + b"y" * 70_000,
    "headers without end": STATUS + b"x: y\r\n" * 5000,
    "a chunk that lies": STATUS + b"transfer-encoding: chunked\r\n\r\n5\r\nabc\r\n0\r\n\r\n",
    "a size that lies": STATUS + b"transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\nabc",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n",
    "no HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
}


BEHIND = {
    "a second answer": STATUS + LENGTH + b"\r\n" + RAW + SECOND,
    "garbage": STATUS + LENGTH + b"\r\n" + RAW + b"garbage",
    "interim answers": b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + STATUS + LENGTH + b"\r\n" + RAW + SECOND,
    "a body where there is none": b"HTTP/1.1 204 No Content\r\n" + LENGTH + b"\r\n" + RAW + SECOND,
}  # fmt: skip
SPEECH = json.dumps({"model": "tts", "input": "say", "voice": "alloy"}).encode()


def impatient(policy: str) -> str:
    """Without a second try and without a breaker."""
    return policy.replace("000000000000}", "000000000000, breaker: null}") + "routing: {retries: null}\n"


@pytest.fixture(scope="module")
def twisted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedGateway]:
    """A gateway whose provider answers by the name in a request, honestly where there is none."""

    def answers(number: int, request: bytes) -> bytes:
        asked = json.loads(request.partition(b"\r\n\r\n")[2])["messages"][0]["content"]
        return {**TWISTED, **BEHIND}.get(asked, STATUS + LENGTH + b"\r\n" + RAW)

    with (
        raw_upstream(answers) as upstream,
        threaded_gateway(
            impatient(base_policy(upstream.base_url)), tmp_path_factory.mktemp("twisted")
        ) as running,
    ):
        yield running


@pytest.mark.parametrize("name", TWISTED)
def test_a_twisted_answer_is_an_outage_and_spoils_no_other(twisted: ThreadedGateway, name: str) -> None:
    with Connection(twisted.port) as line:
        line.send(post(ALICE, chat("sim/echo", name)))
        answer = line.read()
        assert answer.status in (502, 503), answer
        assert str(answer.code).startswith("upstream_")
        assert "evil" not in repr(answer)
        line.send(post(BOB, chat("sim/echo", "honest")))
        assert line.read().body == RAW


@pytest.mark.parametrize("name", BEHIND)
def test_what_comes_behind_an_answer_reaches_nobody(twisted: ThreadedGateway, name: str) -> None:
    with Connection(twisted.port) as line:
        for words in (name, "honest", "honest too"):
            line.send(post(BOB, chat("sim/echo", words)))
            answer = line.read()
            assert b"stolen" not in answer.body
            if words != name:
                assert answer.body == RAW
