"""Clients that take their time, or the gateway's."""

from __future__ import annotations

import http.client
import json
import socket
import time
from collections.abc import Callable

import pytest

from gateway.testing import ProviderServer, Reply
from gateway.web import bodies, exchange
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ALICE, ThreadedGateway, wait_until


def test_a_client_that_takes_nothing_is_given_up(
    gateway: ThreadedGateway, provider: ProviderServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "WRITE_TIMEOUT_S", 1.0)
    provider.script("flood", Reply("word " * 1_600_000, chunks=4000, ignore_limits=True))
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    body = {"model": "sim/flood", "stream": True, "messages": [{"role": "user", "content": "x"}]}
    headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    connection.getresponse()
    (attempt,) = wait_until(gateway.attempts, timeout=15, what="settlement")
    assert attempt["outcome"] == "disconnected"
    provider.wait_idle_blocking()
    wait_until(lambda: gateway.worker.data_plane.active == 0, what="end of the request")
    connection.close()


@pytest.mark.parametrize("chunks", [20_000, 200_000], ids=["large", "small"])
def test_a_client_that_reads_nothing_and_leaves_pays_for_what_lies_on_the_way(
    gateway: ThreadedGateway, provider: ProviderServer, chunks: int
) -> None:
    # Megabytes of it: the provider writes until every buffer between it and the reader is full.
    provider.script("flood", Reply("word " * 200_000, chunks=chunks))
    body = {"model": "sim/flood", "stream": True, "max_tokens": 200_000}
    body["messages"] = [{"role": "user", "content": "x"}]
    raw = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode()
            + raw
        )
        assert sock.recv(16)
        stands_still(lambda: provider.journal.last.bytes_written)
    (attempt,) = wait_until(gateway.attempts, timeout=15, what="settlement")
    provider.wait_idle_blocking()
    assert attempt["outcome"] == "disconnected"
    served = provider.journal.last
    assert served.served.output_total * 10_000 <= attempt["cost"] <= attempt["reserved"]


def stands_still(figure: Callable[[], int]) -> None:
    """Wait until a figure has not changed for a while."""
    before = -1
    while (now := figure()) != before or not now:
        before = now
        time.sleep(0.5)


def test_a_body_that_trickles_is_cut_by_a_deadline(
    gateway: ThreadedGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.5)
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=10) as sock:
        sock.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {ALICE}\r\n"
            "Content-Length: 1000\r\n\r\n{".encode()
        )
        began = time.monotonic()
        assert b" 408 " in sock.recv(4096)
        assert time.monotonic() - began < AT_ONCE_S
