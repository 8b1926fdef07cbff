"""Clients that take their time, or the gateway's."""

from __future__ import annotations

import http.client
import json
import socket
import time

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
