"""Two workers on one Redis: one budget, one kill switch, one ledger."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from gateway.testing import ProviderServer, Reply
from tests.integration.conftest import AT_ONCE_S
from tests.integration.processes.test_crashes import ledger_holds_the_journal, nano, steps
from tests.support.gateway import ALICE, ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis
OUT = 10_000


@pytest.fixture
def redis_url() -> Iterator[str]:
    with RedisServer() as server:
        yield server.patient_url


def chat(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "go on"}], "max_tokens": 300, **more}


def test_two_hundred_at_once_on_two_workers_never_pass_a_budget_for_ten(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    provider.script("full", Reply("word " * 400, first_chunk_delay_s=0.3))
    body = chat("sim/full")
    with process_gateway(base_policy(provider.base_url), tmp_path / "probe", store_url=redis_url) as gateway:
        gateway.post(body)
        (probe,) = steps(gateway)
    each = 300 * OUT + 10_000_000
    assert nano(probe["cost_usd"]) <= each
    provider.journal.clear()
    limit = each * 10
    policy = base_policy(
        provider.base_url, f"budgets: [{{name: team, per: team, limit_usd: {limit / 1e9:.9f}}}]\n"
    )
    with process_gateway(policy, tmp_path / "limited", store_url=redis_url, workers="2") as gateway:
        with ThreadPoolExecutor(50) as pool:
            results = list(pool.map(lambda _: gateway.post(body), range(200)))
        codes = [json.loads(r[2])["error"]["code"] for r in results if r[0] != 200]
        assert set(codes) <= {"team_budget_exceeded"}
        served = sum(1 for r in results if r[0] == 200)
        assert served == len(provider.journal)
        assert served + len(codes) == 200
        total = sum(nano(s["cost_usd"]) for s in steps(gateway))
        assert total <= limit
        ledger_holds_the_journal(gateway, provider)
        (budget,) = gateway.admin("GET", "/budgets?per=team&id=red")["data"]
        assert nano(budget["used_usd"]) == total
        assert budget["reserved_usd"] == "0.000000000"


class Reader(threading.Thread):
    def __init__(self, gateway: ProcessGateway, body: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.gateway, self.body = gateway, body
        self.received = b""
        self.last_at = 0.0
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.gateway.port, timeout=60)
        headers = {"authorization": f"Bearer {ALICE}", "content-type": "application/json"}
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/chat/completions", json.dumps(self.body), headers)
            answer = connection.getresponse()
            while piece := answer.read1(65536):
                self.received += piece
                self.last_at = time.monotonic()
        connection.close()


@pytest.mark.parametrize("how", ["admin", "by hand"])
def test_a_kill_reaches_the_streams_of_every_worker_within_a_second(
    provider: ProviderServer, tmp_path: Path, redis_url: str, how: str
) -> None:
    provider.script("slow", Reply("word " * 3000, chunks=3000, chunk_delay_s=0.01))
    with process_gateway(
        base_policy(provider.base_url), tmp_path / "gw", store_url=redis_url, workers="2"
    ) as gateway:
        readers = [Reader(gateway, chat("sim/slow", stream=True, max_tokens=4000)) for _ in range(12)]
        wait_until(lambda: all(r.received.count(b"data:") > 3 for r in readers), what="streams")
        killed_at = time.monotonic()
        if how == "admin":
            wait_until(lambda: gateway.log_path.read_text().count(" serves policy ") == 2, what="workers")
            killed_at = time.monotonic()
            answer = gateway.admin("POST", "/kills", {"scope": "team", "id": "red", "reason": "enough"})
            assert answer["streams"] == 12
            assert 1 <= len(answer["workers"]) <= 2
        else:
            redis.Redis.from_url(redis_url).set("kill:team:red", "enough")
        for reader in readers:
            reader.join(10)
            assert not reader.is_alive()
        assert max(r.last_at for r in readers) - killed_at < AT_ONCE_S
        for reader in readers:
            assert b'"team_killed"' in reader.received[-1500:]
            assert b'"finish_reason":"stop"' not in reader.received
        for _ in range(6):
            status, _, raw = gateway.post(chat("sim/echo"))
            assert (status, json.loads(raw)["error"]["code"]) == (400, "team_killed")


def test_a_killed_worker_leaves_nothing_unsettled(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    provider.script("talk", Reply("some words of an answer " * 5, chunks=10, chunk_delay_s=0.01))
    policy = base_policy(provider.base_url, "budgets: [{name: key, per: key, limit_usd: 100, window: 1d}]\n")
    data = tmp_path / "data"

    def start(name: str) -> AbstractContextManager[ProcessGateway]:
        return process_gateway(
            policy, tmp_path / name, store_url=redis_url, workers="2", lease_s="3", data_dir=data
        )

    with start("one") as gateway:
        received = provider.journal.received
        for i in range(30):
            Reader(gateway, chat("sim/talk", stream=i % 2 == 0, user=f"u{i}"))
        wait_until(lambda: provider.journal.received > received + 12, what="dispatch")
        gateway.kill()
        gateway.wait()
    provider.wait_idle_blocking()
    assert len(provider.journal) > 5
    with start("two") as gateway:

        def budget() -> dict[str, str]:
            (row,) = gateway.admin("GET", "/budgets?per=key&id=alice")["data"]
            return dict(row)

        # What was reserved and is not in the journal yet ends with its lease.
        wait_until(lambda: budget()["reserved_usd"] == "0.000000000", timeout=30, what="end of the leases")
        ledger_holds_the_journal(gateway, provider)
        assert nano(budget()["used_usd"]) == sum(nano(s["cost_usd"]) for s in steps(gateway))


def test_a_run_goes_on_on_whichever_worker_it_meets(
    provider: ProviderServer, tmp_path: Path, redis_url: str
) -> None:
    from tests.integration.data_plane.test_runs import Agent

    with process_gateway(
        base_policy(provider.base_url), tmp_path / "gw", store_url=redis_url, workers="2"
    ) as gateway:

        def work(_: int) -> Agent:
            agent = Agent(gateway, "sim/steps-5")  # type: ignore[arg-type]  # only posts
            agent.loop()
            return agent

        with ThreadPoolExecutor(8) as pool:
            agents = list(pool.map(work, range(24)))
        assert all(len(set(agent.runs)) == 1 and agent.steps == list("12345") for agent in agents)
        assert len({agent.runs[0] for agent in agents}) == 24
