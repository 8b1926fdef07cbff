"""Real gateways that are stopped, renewed, and whose workers hang: nobody is cut off without a word, and what was
under way is settled."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import re
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer, Reply
from tests.integration.processes.test_crashes import BUDGET, ledger_holds_the_journal, steps, used
from tests.integration.processes.test_metrics_of_workers import workers
from tests.support.gateway import ALICE, ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]
HEADERS = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}


@pytest.fixture
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.patient_url


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": "go on"}],
        "max_tokens": 4000,
        **more,
    }


def serving(gateway: ProcessGateway) -> int:
    """How many workers have ever served, as their supervisor saw it."""
    return len(re.findall(r"worker \d+ serves\b(?! policy)", gateway.log_path.read_text()))


def readiness(gateway: ProcessGateway) -> tuple[int, str]:
    """What a load balancer sees; (0, …) where nobody listens."""
    try:
        status, _, raw = gateway.request("GET", "/readyz", key=None)
    except (OSError, http.client.HTTPException) as error:
        return 0, str(error)
    return status, json.loads(raw)["status"]


# -- renewal -----------------------------------------------------------------------------------------


class Caller(threading.Thread):
    """An agent with one kept-alive connection, plain calls and streams in turn. A lost request is one that found
    nobody, broke off, or was refused; not one that a busy machine's Redis put off, with a word."""

    def __init__(self, gateway: ProcessGateway, number: int) -> None:
        super().__init__(daemon=True)
        self.gateway, self.number = gateway, number
        self.answered, self.put_off, self.connections = 0, 0, 0
        self.lost: list[str] = []
        self.over = threading.Event()
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        while not self.over.is_set():
            self.connections += connection.sock is None
            stream = (self.answered + self.number) % 3 == 0
            body = chat("sim/stream" if stream else "sim/plain", stream=stream, user=f"u{self.number}")
            try:
                connection.request("POST", "/v1/chat/completions", json.dumps(body), HEADERS)
                answer = connection.getresponse()
                raw = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(repr(error))
                connection.close()
                continue
            if b'"budget_store_unavailable"' in raw:
                self.put_off += 1
                time.sleep(0.5)
                continue
            whole = (
                raw.endswith(b"data: [DONE]\n\n") and b'"error"' not in raw if stream else b'"usage"' in raw
            )
            if answer.status != 200 or not whole:
                self.lost.append(f"{answer.status} {raw[-300:]!r}")
            self.answered += 1
            time.sleep(0.02 * (self.answered % 7))
        connection.close()


def renewed(gateway: ProcessGateway, before: set[int]) -> bool:
    now = {worker.pid for worker in workers(gateway)}
    return len(now) == len(before) and not now & before


@pytest.mark.slow
def test_workers_are_renewed_under_load_and_no_request_is_lost(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    provider.script("plain", Reply("Hello.", first_chunk_delay_s=0.02))
    provider.script("stream", Reply("word " * 40, chunks=40, chunk_delay_s=0.01))
    policy = base_policy(provider.base_url, BUDGET)
    with process_gateway(policy, tmp_path / "gw", store_url=redis_url, workers="2") as gateway:
        wait_until(lambda: serving(gateway) == 2, 60, "workers")
        before = {worker.pid for worker in workers(gateway)}
        callers = [Caller(gateway, number) for number in range(6)]
        wait_until(lambda: all(caller.answered > 2 for caller in callers), 30, "calls")
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGHUP)
        deadline, ready = time.monotonic() + 150, set[int | str]()
        while not renewed(gateway, before):
            ready.add(readiness(gateway)[1])
            assert time.monotonic() < deadline, gateway.log_path.read_text()[-3000:]
            time.sleep(0.1)
        enough = [caller.answered + 3 for caller in callers]
        wait_until(
            lambda: all(c.answered > n for c, n in zip(callers, enough, strict=True)), 30, "more calls"
        )
        for caller in callers:
            caller.over.set()
        for caller in callers:
            caller.join(30)
        assert [caller.lost for caller in callers] == [[]] * 6
        assert any(caller.connections > 1 for caller in callers), "the old workers asked for it"
        assert "stopping" not in ready, "others serve: nobody has to look elsewhere"
        provider.wait_idle_blocking()
        answered, put_off = (sum(getattr(c, name) for c in callers) for name in ("answered", "put_off"))
        assert answered <= len(provider.journal) <= answered + put_off
        ledger_holds_the_journal(gateway, provider)
        wait_until(lambda: used(gateway)["reserved_usd"] == "0.000000000", 30, "settlements")
        assert "Traceback" not in gateway.log_path.read_text()


@pytest.mark.chaos
def test_new_workers_that_cannot_start_leave_the_old_ones_in_service(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    policy = base_policy(provider.base_url)
    with process_gateway(policy, tmp_path / "gw", store_url=redis_url, workers="2") as gateway:
        wait_until(lambda: serving(gateway) == 2, 60, "workers")
        before = {worker.pid for worker in workers(gateway)}
        gateway.policy_path.write_text("version: nonsense\n")
        assert gateway.process is not None
        os.kill(gateway.process.pid, signal.SIGHUP)
        wait_until(lambda: "renewal ends here" in gateway.log_path.read_text(), 60, "the failure")
        assert {worker.pid for worker in workers(gateway)} == before
        assert gateway.post(chat("sim/echo"))[0] == 200


# -- stops -------------------------------------------------------------------------------------------


def test_a_stop_is_announced_while_everything_is_served_and_a_second_one_hurries(
    provider: ProviderServer, tmp_path: Path
) -> None:
    provider.script("slow", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01))
    policy = base_policy(provider.base_url, BUDGET)
    with process_gateway(policy, tmp_path / "one", drain_delay_s="60", drain_s="60") as gateway:
        received = list[bytes]()

        def read() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
            body = json.dumps(chat("sim/slow", stream=True))
            connection.request("POST", "/v1/chat/completions", body, HEADERS)
            received.append(connection.getresponse().read())

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        wait_until(lambda: provider.journal.active == 1, what="the stream")
        assert readiness(gateway) == (200, "ready")
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(gateway) == (503, "stopping"), what="the announcement")
        assert gateway.request("GET", "/healthz", key=None)[0] == 200
        assert gateway.post(chat("sim/echo"))[0] == 200
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.wait(20) == 0
        reader.join(10)
        assert b'"guardrail_unavailable"' in received[0][-1500:]
    provider.wait_idle_blocking()
    with process_gateway(policy, tmp_path / "two", data_dir=gateway.data_dir) as gateway:
        ledger_holds_the_journal(gateway, provider)
        assert {step["outcome"] for step in steps(gateway)} == {"ok", "cut"}
        assert used(gateway)["reserved_usd"] == "0.000000000"


def ensure_served_once_more(connection: http.client.HTTPConnection) -> None:
    connection.request("POST", "/v1/chat/completions", json.dumps(chat("sim/echo")), HEADERS)
    answer = connection.getresponse()
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    answer.read()


@pytest.mark.slow
def test_an_idle_connection_is_served_once_more_and_told_to_close(
    provider: ProviderServer, tmp_path: Path
) -> None:
    """Closing it at once would race with a request that is on its way, and no client repeats a POST."""
    provider.script("slow", Reply("word " * 20, chunks=20, chunk_delay_s=0.05))
    with process_gateway(base_policy(provider.base_url), tmp_path / "gw", drain_s="20") as gateway:
        idle = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        idle.request("GET", "/healthz")
        idle.getresponse().read()
        fresh = socket.create_connection(("127.0.0.1", gateway.port), 30)
        # A stream that began before promised to keep its connection; the next call on it must find somebody.
        streams = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        streams.request("POST", "/v1/chat/completions", json.dumps(chat("sim/slow", stream=True)), HEADERS)
        streaming = streams.getresponse()
        assert gateway.process is not None
        gateway.process.send_signal(signal.SIGTERM)
        wait_until(lambda: readiness(gateway)[0] == 0, what="a closed door")
        fresh.sendall(b"GET /readyz HTTP/1.1\r\nhost: x\r\n\r\n")
        said = fresh.recv(65536)
        assert said.startswith(b"HTTP/1.1 503")
        assert b"connection: close" in said.lower()
        ensure_served_once_more(idle)
        assert streaming.read().endswith(b"data: [DONE]\n\n")
        ensure_served_once_more(streams)
        fresh.close()
        assert gateway.wait(20) == 0


async def stream(port: int, model: str) -> bytes:
    """One streamed answer, whole, as it came over the wire. A busy machine's Redis may ask to come again."""
    while True:
        raw = await _once(port, model)
        if not raw.startswith(b"HTTP/1.1 503"):
            return raw
        await asyncio.sleep(1)


async def _once(port: int, model: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(chat(model, stream=True)).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS.items())
    writer.write(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n{head}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    raw = await reader.read()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return raw


@pytest.mark.parametrize(
    "count", [pytest.param("1", marks=pytest.mark.chaos), pytest.param("2", marks=pytest.mark.slow)]
)
def test_two_hundred_streams_end_whole_or_with_a_word_and_each_is_settled(
    provider: ProviderServer, tmp_path: Path, redis_url: str, count: str
) -> None:
    provider.script("long", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.1))
    provider.script("short", Reply("word " * 40, chunks=40, chunk_delay_s=0.1))
    policy = base_policy(provider.base_url, BUDGET)
    data, drain_s = tmp_path / "data", 8.0

    def start(name: str, number: str) -> contextlib.AbstractContextManager[ProcessGateway]:
        return process_gateway(
            policy,
            tmp_path / name,
            store_url=redis_url,
            workers=number,
            data_dir=data,
            drain_s=f"{drain_s}",
        )

    with start("one", count) as gateway, ThreadPoolExecutor(1) as pool:
        if int(count) > 1:
            wait_until(lambda: serving(gateway) == int(count), 60, "workers")

        async def late(number: int, model: str) -> bytes:
            await asyncio.sleep(number * 0.01)
            return await stream(gateway.port, model)

        async def read_all() -> list[bytes]:
            models = ["sim/long", "sim/short"] * 100
            return await asyncio.gather(*(late(number, model) for number, model in enumerate(models)))

        before = provider.journal.received
        reading = pool.submit(lambda: asyncio.run(read_all()))
        wait_until(lambda: provider.journal.received == before + 200, 60, "streams")
        asked = time.monotonic()
        gateway.kill(signal.SIGTERM)  # to all processes, as an init does
        assert gateway.wait(60) == 0
        took = time.monotonic() - asked
        answers = reading.result(30)
    assert took < drain_s + 10
    assert all(raw.endswith(b"0\r\n\r\n") for raw in answers), "every stream ended as one"
    told = [b'"guardrail_unavailable"' in raw[-1500:] for raw in answers]
    whole = [b"data: [DONE]" in raw and b'"error"' not in raw for raw in answers]
    assert all(a != b for a, b in zip(told, whole, strict=True))
    assert all(told[::2]), "the long ones"
    assert any(whole), "the short ones, as far as the machine is not too slow for them"
    provider.wait_idle_blocking()
    assert len(provider.journal) == 200
    with start("two", "1") as gateway:
        ledger_holds_the_journal(gateway, provider)
        served = {attempt.guardrail_attempt_id for attempt in provider.journal}
        outcomes = Counter(step["outcome"] for step in steps(gateway) if step["id"] in served)
        assert outcomes == {"cut": sum(told), "ok": sum(whole)}
        assert used(gateway)["reserved_usd"] == "0.000000000"


# -- what dies and hangs -----------------------------------------------------------------------------


def answered(gateway: ProcessGateway) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return gateway.post(chat("sim/echo"))[0] == 200
    return False


@pytest.mark.parametrize(
    "how", [pytest.param("dies", marks=pytest.mark.chaos), pytest.param("hangs", marks=pytest.mark.slow)]
)
def test_what_a_worker_had_under_way_is_settled_by_who_takes_its_place(
    provider: ProviderServer, tmp_path: Path, redis_url: str, how: str
) -> None:
    """From the dead one's journal, at once, and not when its leases end."""
    provider.script("slow", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.02))
    policy = base_policy(provider.base_url, BUDGET)
    with process_gateway(
        policy,
        tmp_path / "gw",
        store_url=redis_url,
        workers="2",
        worker_timeout_s="3",
        lease_s="600",
    ) as gateway:
        wait_until(lambda: serving(gateway) == 2, 60, "workers")
        pool = ThreadPoolExecutor(12)
        for _ in range(12):
            pool.submit(lambda: asyncio.run(stream(gateway.port, "sim/slow")))
        wait_until(lambda: provider.journal.active == 12, 30, "streams")
        before = workers(gateway)
        os.kill(before[0].pid, signal.SIGKILL if how == "dies" else signal.SIGSTOP)
        wait_until(lambda: serving(gateway) == 3, 60, "another")
        assert ("has not been heard of" in gateway.log_path.read_text()) is (how == "hangs")
        assert all(answered(gateway) for _ in range(10))
        os.kill(before[1].pid, signal.SIGKILL)
        wait_until(lambda: serving(gateway) == 4, 60, "yet another")
        pool.shutdown(wait=True)
        provider.wait_idle_blocking()
        wait_until(lambda: used(gateway)["reserved_usd"] == "0.000000000", 30, "settlements")
        ledger_holds_the_journal(gateway, provider)
        assert len(steps(gateway)) >= 12


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_workers_along_and_the_port_is_free(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    provider.script("slow", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.02))
    policy = base_policy(provider.base_url, BUDGET)
    options: dict[str, Any] = {"store_url": redis_url, "workers": "2", "drain_s": "1", "lease_s": "600"}
    with process_gateway(policy, tmp_path / "one", **options) as gateway:
        wait_until(lambda: serving(gateway) == 2, 60, "workers")
        with ThreadPoolExecutor(6) as pool:
            reading = [pool.submit(lambda: asyncio.run(stream(gateway.port, "sim/slow"))) for _ in range(6)]
            wait_until(lambda: provider.journal.active == 6, 30, "streams")
            before = workers(gateway)
            assert gateway.process is not None
            os.kill(gateway.process.pid, signal.SIGKILL)
            wait_until(lambda: not any(worker.is_running() for worker in before), 30, "their end")
            assert all(b'"guardrail_unavailable"' in each.result(30)[-1500:] for each in reading)
    provider.wait_idle_blocking()
    with process_gateway(
        policy, tmp_path / "two", port=gateway.port, data_dir=gateway.data_dir, **options
    ) as gateway:
        ledger_holds_the_journal(gateway, provider)
        assert used(gateway)["reserved_usd"] == "0.000000000"


@pytest.mark.chaos
def test_a_worker_that_dies_while_redis_is_away_comes_back_with_it(
    provider: ProviderServer, tmp_path: Path
) -> None:
    with (
        RedisServer() as server,
        process_gateway(
            base_policy(provider.base_url), tmp_path / "gw", store_url=server.url, workers="2"
        ) as gateway,
    ):
        wait_until(lambda: serving(gateway) == 2, 60, "workers")
        server.kill()
        os.kill(workers(gateway)[0].pid, signal.SIGKILL)
        wait_until(lambda: "ended with status 3" in gateway.log_path.read_text(), 60, "a start that fails")
        assert gateway.process is not None
        assert gateway.process.poll() is None
        server.start()
        wait_until(lambda: serving(gateway) == 3, 60, "another")
        wait_until(lambda: answered(gateway), 20, "an answer")
