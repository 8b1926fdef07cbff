"""What happens on the connection itself: pipelining, old clients, ends, and answers without a body."""

from __future__ import annotations

import json
import socket
import threading
import time

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ALICE, ThreadedGateway, wait_until

HEAD = (
    "POST /v1/chat/completions HTTP/{version}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
    "Content-Type: application/json\r\nContent-Length: {length}\r\n{extra}\r\n"
)


def request(model: str, *, version: str = "1.1", extra: str = "", stream: bool = False) -> bytes:
    body = json.dumps(
        {"model": model, "stream": stream, "messages": [{"role": "user", "content": f"say {model}"}]}
    ).encode()
    return HEAD.format(version=version, key=ALICE, length=len(body), extra=extra).encode() + body


def read_all(sock: socket.socket) -> bytes:
    received = b""
    while piece := sock.recv(65536):
        received += piece
    return received


def connect(gateway: ThreadedGateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=10)


def test_pipelined_requests_are_answered_in_order(gateway: ThreadedGateway, provider: ProviderServer) -> None:
    provider.script("first", Reply("the first answer", head_delay_s=0.3))
    provider.script("second", Reply("the second answer"))
    with connect(gateway) as sock:
        sock.sendall(request("sim/first") + request("sim/second", extra="Connection: close\r\n"))
        received = read_all(sock)
    assert received.count(b"HTTP/1.1 200") == 2
    assert received.index(b"the first answer") < received.index(b"the second answer")
    assert received.lower().count(b"connection: close") == 1


def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_its_connection(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("talk", Reply("some words", chunks=4))
    with connect(gateway) as sock:
        sock.sendall(request("sim/talk", version="1.0", stream=True))
        received = read_all(sock)
    head, _, body = received.partition(b"\r\n\r\n")
    assert b"chunked" not in head.lower()
    assert body.startswith(b"data: ")
    assert body.endswith(b"data: [DONE]\n\n")


def test_a_head_request_has_no_body(gateway: ThreadedGateway) -> None:
    with connect(gateway) as sock:
        sock.sendall(
            f"HEAD /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n"
            "Connection: close\r\n\r\n".encode()
        )
        head, _, body = read_all(sock).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"content-length: " in head
    assert body == b""


def test_a_connection_is_used_again_after_a_stream_and_after_a_refusal(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    with connect(gateway) as sock:
        for model, ending in (
            ("sim/echo", b"0\r\n\r\n"),
            ("nobody/knows", b'"guardrail":'),
            ("sim/echo", b"0\r\n\r\n"),
        ):
            sock.sendall(request(model, stream=True))
            received = b""
            while ending not in received:
                piece = sock.recv(65536)
                assert piece, received
                received += piece
            time.sleep(0.05)


def test_a_client_that_leaves_before_its_answer_is_noticed_at_once(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    provider.script("late", Reply("word", head_delay_s=30))
    sock = connect(gateway)
    sock.sendall(request("sim/late"))
    wait_until(lambda: provider.journal.active, what="dispatch")
    left_at = time.monotonic()
    sock.close()
    (attempt,) = wait_until(gateway.attempts, what="settlement")
    assert time.monotonic() - left_at < AT_ONCE_S
    assert attempt["outcome"] == "disconnected"
    provider.wait_idle_blocking(timeout_s=AT_ONCE_S)


def test_a_client_that_sends_and_closes_at_once_spends_nothing_or_what_was_served(
    gateway: ThreadedGateway, provider: ProviderServer
) -> None:
    def shoot() -> None:
        sock = connect(gateway)
        sock.sendall(request("sim/echo"))
        sock.close()

    threads = [threading.Thread(target=shoot) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker = gateway.worker

    def books_agree() -> bool:
        # Some may arrive only now, when the first are over.
        provider.wait_idle_blocking()
        served = {attempt.guardrail_attempt_id for attempt in provider.journal}
        idle = worker.data_plane.active == 0 == len(worker.live)
        return idle and served <= {a["id"] for a in gateway.attempts()} and worker.journal.is_empty

    wait_until(books_agree, what="the end of the requests, each on the books")
