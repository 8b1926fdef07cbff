"""`/metrics` of several processes: the same sum whoever answers, and after a kill nothing goes back."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from gateway.telemetry.exposition import SAVE_S
from gateway.testing import ProviderServer, Reply
from tests.support.gateway import ADMIN_TOKEN, ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.redis_server import RedisServer

pytestmark = [pytest.mark.redis, pytest.mark.timeout(240)]

Figures = dict[str, float]


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.slow)])
def count(request: pytest.FixtureRequest) -> int:
    """How many workers there are."""
    number: int = request.param
    return number


@pytest.fixture
def gateway(provider: ProviderServer, tmp_path: Path, count: int) -> Iterator[ProcessGateway]:
    provider.script("good", Reply("Hello."))
    with (
        RedisServer() as server,
        process_gateway(
            base_policy(provider.base_url), tmp_path / "gw", store_url=server.patient_url, workers=str(count)
        ) as running,
    ):
        yield running


def scrape(gateway: ProcessGateway) -> Figures:
    """One scrape over a connection of its own, so that any worker may answer."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=10)
    connection.request("GET", "/metrics", headers={"authorization": f"Bearer {ADMIN_TOKEN}"})
    answer = connection.getresponse()
    assert answer.status == 200
    text = answer.read().decode()
    connection.close()
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in lines}


def is_counter(name: str) -> bool:
    return bool(re.match(r"gateway_\w+_(total|bucket|count|sum)(\{|$)", name))


def went_back(before: Figures, after: Figures) -> dict[str, tuple[float, float | None]]:
    return {
        name: (value, after.get(name))
        for name, value in before.items()
        if is_counter(name) and after.get(name, -1.0) < value
    }


def served(found: Figures) -> float:
    return sum(v for name, v in found.items() if name.startswith("gateway_requests_total{"))


def workers(gateway: ProcessGateway) -> list[psutil.Process]:
    assert gateway.process is not None
    children = psutil.Process(gateway.process.pid).children()
    found = []
    for child in children:
        with contextlib.suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if any("spawn_main" in part for part in child.cmdline()):
                found.append(child)
    return found


def ask(gateway: ProcessGateway, times: int) -> None:
    body = {"model": "sim/good", "messages": [{"role": "user", "content": "hello"}]}
    with ThreadPoolExecutor(8) as pool:
        assert [s for s, _, _ in pool.map(lambda _: gateway.post(body), range(times))] == [200] * times


def test_one_sum_and_no_way_back(gateway: ProcessGateway, count: int) -> None:
    wait_until(lambda: len(workers(gateway)) == count, what="the workers")
    ask(gateway, 60)
    wait_until(lambda: served(scrape(gateway)) == 60, what="all sixty")
    wait_until(lambda: scrape(gateway)["gateway_workers"] == count, what="all in the metrics")
    before = scrape(gateway)
    for _ in range(12):
        after = scrape(gateway)
        assert not went_back(before, after)
        assert served(after) == 60
        before = after

    victim = workers(gateway)[0]
    os.kill(victim.pid, signal.SIGKILL)
    seen_again = 0
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and seen_again < 5:
        try:
            after = scrape(gateway)
        except (OSError, http.client.HTTPException):
            continue  # the connection was the victim's
        assert not went_back(before, after)
        assert served(after) == 60
        before = after
        alive = [w for w in workers(gateway) if w.pid != victim.pid]
        seen_again += len(alive) == count and after["gateway_workers"] == count
    assert seen_again == 5, "another worker took its place and is counted"
    ask(gateway, 20)
    wait_until(lambda: served(scrape(gateway)) == 80, timeout=SAVE_S + 10, what="eighty, the dead's included")
    folder = next((gateway.data_dir / "metrics").iterdir())
    assert len(list(folder.glob("*.json"))) == count + 1  # the workers, and what the dead had counted


@pytest.mark.slow
def test_kills_in_the_middle_of_traffic(gateway: ProcessGateway) -> None:
    body = {"model": "sim/good", "messages": [{"role": "user", "content": "hello"}]}
    before: Figures = {}
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            calls = [pool.submit(_try, gateway, body) for _ in range(80)]
            time.sleep(0.3)
            found = workers(gateway)
            if found:
                os.kill(found[len(found) // 2].pid, signal.SIGKILL)
            for call in calls:
                call.result()
            for _ in range(5):
                try:
                    after = scrape(gateway)
                except (OSError, http.client.HTTPException):
                    continue
                assert not went_back(before, after)
                before = after
    assert served(before) > 0


def _try(gateway: ProcessGateway, body: object) -> None:
    try:
        gateway.post(body)
    except (OSError, http.client.HTTPException):
        pass


@pytest.mark.slow
def test_a_restart_begins_anew(provider: ProviderServer, tmp_path: Path) -> None:
    provider.script("good", Reply("Hello."))
    policy = base_policy(provider.base_url)
    with RedisServer() as server:
        for times in (10, 5):
            with process_gateway(
                policy, tmp_path / "gw", store_url=server.patient_url, workers="2"
            ) as gateway:
                ask(gateway, times)
                wait_until(lambda g=gateway, n=times: served(scrape(g)) == n, what="this start's own")  # type: ignore[misc]
                assert len(list((gateway.data_dir / "metrics").iterdir())) == 1
