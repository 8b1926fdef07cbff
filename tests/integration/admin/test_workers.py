"""Several worker processes behind one port: a kill reaches all of them, and so does a stop."""

from __future__ import annotations

import signal
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.integration.admin.calls import Stream, timed
from tests.integration.conftest import AT_ONCE_S
from tests.support.gateway import ProcessGateway, base_policy, process_gateway, wait_until
from tests.support.redis_server import RedisServer

pytestmark = pytest.mark.redis


def kill_nobody(gateway: ProcessGateway) -> Any:
    """Whoever obeys a kill is at work."""
    return gateway.admin("POST", "/kills", {"scope": "user", "id": "nobody", "reason": "roll call"})


def slowest(killed: Any) -> float:
    """Seconds until the last worker obeyed."""
    obeyed = [datetime.fromisoformat(worker["obeyed_at"]) for worker in killed["workers"]]
    return (max(obeyed) - datetime.fromisoformat(killed["at"])).total_seconds()


def test_a_kill_and_a_stop_reach_every_worker(provider: ProviderServer, tmp_path: Path) -> None:
    redis = RedisServer().start()
    options: dict[str, Any] = {"store_url": redis.url, "workers": "2", "drain_s": "1"}
    try:
        with process_gateway(base_policy(provider.base_url), tmp_path, **options) as gateway:
            # The port is open from the first worker on: the second may still be starting.
            wait_until(lambda: len(kill_nobody(gateway)["workers"]) == 2, 60, "two workers at work")
            # Within a second, as promised; a busy machine may be late now and then.
            assert min(slowest(kill_nobody(gateway)) for _ in range(5)) < 1
            # Connections are spread by the kernel: so many that each worker has some.
            streams = [Stream(gateway).open("sim/slow") for _ in range(12)]
            killed, took = timed(
                lambda: gateway.admin("POST", "/kills", {"scope": "user", "id": "alice", "reason": "drill"})
            )
            assert took < AT_ONCE_S
            assert killed["streams"] == 12
            assert len(killed["workers"]) == 2
            assert all(worker["obeyed_at"] >= killed["at"] for worker in killed["workers"])
            for stream in streams:
                assert stream.ended.wait(AT_ONCE_S)
                assert stream.failure is None
                assert stream.last()["error"]["code"] == "user_killed"
            assert {k["id"]: k["streams"] for k in gateway.admin("GET", "/kills")["data"]} == {
                "alice": 12,
                "nobody": 0,
            }

            # A key made by one worker is soon known to all, and a revoked one to none.
            gateway.admin("DELETE", "/kills/user/alice")
            made = gateway.admin("POST", "/keys", {"name": "fresh"})
            body = {"model": "sim/echo", "messages": [{"role": "user", "content": "Hello"}]}

            def answers() -> set[int]:
                """Of so many calls that each worker has had some."""
                return {gateway.post(body, key=made["key"])[0] for _ in range(10)}

            wait_until(lambda: answers() == {200}, AT_ONCE_S, "the key to be known")
            gateway.admin("DELETE", f"/keys/{made['id']}")
            wait_until(lambda: answers() == {401}, AT_ONCE_S, "the key to be revoked")
            assert answers() == {401}

            streams = [Stream(gateway).open("sim/long") for _ in range(6)]
            wait_until(lambda: all(len(stream.lines) > 4 for stream in streams))
            assert gateway.process is not None
            gateway.process.send_signal(signal.SIGTERM)
            for stream in streams:
                assert stream.ended.wait(AT_ONCE_S)
                assert stream.failure is None
                assert stream.last()["error"]["code"] == "guardrail_unavailable"
            assert gateway.wait(10) == 0
            assert "Traceback" not in gateway.log_path.read_text()
    finally:
        redis.close()
