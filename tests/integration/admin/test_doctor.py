"""`gateway doctor` before real gateways, healthy and ill, and before none."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.testing import ProviderServer
from tests.integration.admin.calls import Admin, Roles
from tests.integration.admin.test_cli import run
from tests.support.gateway import (
    ADMIN_TOKEN,
    SECRET_KEY,
    ThreadedGateway,
    base_policy,
    process_gateway,
    threaded_gateway,
    wait_until,
)
from tests.support.ports import free_port
from tests.support.redis_server import REDIS_SERVER, RedisServer

needs_redis = pytest.mark.skipif(REDIS_SERVER is None, reason="redis-server is not installed")
HEALTHY = """
budgets:
  - {name: run, per: run, limit_usd: 0.50}
  - {name: everyone, per: global, window: 1d, limit_usd: 100}
loops: {}
screening: {injection: {}, pii: {action: redact}, secrets: {action: redact}}
"""


def looked_at(told: str) -> dict[str, dict[str, Any]]:
    """The findings of `--json` by id."""
    return {row["id"]: row for row in json.loads(told)["data"]}


def status(found: dict[str, dict[str, Any]], *ids: str) -> list[str]:
    return [found[item_id]["status"] for item_id in ids]


def test_a_healthy_gateway_fails_nowhere(provider: ProviderServer, tmp_path: Path) -> None:
    alert = f'alerts: [{{name: pager, url: "{provider.origin}/nowhere", on: run_stopped}}]\n'
    with threaded_gateway(base_policy(provider.base_url, HEALTHY + alert), tmp_path) as gateway:
        told_of: list[str] = []
        gateway.worker.notices.append(lambda kind, _facts: told_of.append(kind))
        told = run(gateway, "doctor", check=1)
        assert "FAIL  security.token          GATEWAY_ADMIN_TOKEN is made of common words\n" in told
        assert told.endswith(" 0 warnings, 2 FAILED\n")
        found = looked_at(run(gateway, "doctor", "--json", "--providers", check=1))
        # What the tests themselves give it is neither random nor long.
        unwell = {item_id: row for item_id, row in found.items() if row["status"] in ("warn", "fail")}
        assert set(unwell) == {"security.token", "security.secret"}
        assert "upstream" in found["providers.reachable"]["seen"]
        assert found["alerts.delivery"]["status"] == "skip"
        assert found["guards.kill"]["seen"].startswith("1 obeyed within ")
        assert found["guards.loops"]["seen"] == "found by same_call after 3 equal calls"
        assert found["guards.screening"]["seen"] == "injection, pii, secrets"
        assert found["store.eviction"]["seen"] == "the store is embedded"
        assert found["manual.egress"]["status"] == "manual"
        # Nothing of it stays: no run, no spending, no kill; and nobody was told of a kill.
        assert gateway.admin("GET", "/runs")["data"] == []
        assert gateway.admin("GET", "/kills?all=true")["data"] == []
        assert gateway.run(lambda: gateway.worker.ledger.verify()) == []
        assert "kill" not in told_of
        assert {row["action"] for row in gateway.admin("GET", "/audit")["data"]} & {
            "doctor.run",
            "kill.set",
        } == {"doctor.run"}


def test_an_alert_that_cannot_be_delivered_and_a_provider_that_is_dead_fail(
    provider: ProviderServer, tmp_path: Path
) -> None:
    dead = f"http://127.0.0.1:{free_port()}"
    policy = base_policy(f"{dead}/v1", f'alerts: [{{name: pager, url: "{dead}/hook", on: run_stopped}}]\n')
    with threaded_gateway(policy, tmp_path) as gateway:
        found = looked_at(run(gateway, "doctor", "--json", "--providers", "--alerts", check=1))
        assert status(found, "providers.reachable", "alerts.delivery") == ["fail", "fail"]
        assert found["providers.reachable"]["seen"] == "upstream: connect: refused"
        assert found["alerts.delivery"]["seen"] == "pager: connect: refused"
        # What nobody limits and nothing screens is told as well.
        assert status(found, "policy.limits", "guards.loops", "guards.screening") == ["fail", "warn", "warn"]


def test_a_policy_that_was_broken_by_an_edit_is_told(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url, HEALTHY), tmp_path) as gateway:
        gateway.policy_path.write_text("version: 1\nbudgets: [{name: b, per: rum}]\n")
        wait_until(lambda: not gateway.worker.source.status().healthy)
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["policy.healthy"]["status"] == "fail"
        assert "policy.yaml:2: budgets[0]" in found["policy.healthy"]["seen"]


def test_rules_without_effect_are_told(provider: ProviderServer, tmp_path: Path) -> None:
    extra = HEALTHY + "approvals: {hold_s: 5}\n"
    with threaded_gateway(base_policy(provider.base_url, extra), tmp_path) as gateway:
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["policy.warnings"]["status"] == "warn"
        assert "approvals: not used" in found["policy.warnings"]["seen"]
        sent = "version: 1\nbudgets: [{name: a, per: run, limit_usd: 1}, {name: b, per: run, limit_usd: 2}]\n"
        answer = gateway.admin("POST", "/policy/validate", {"policy": sent})
        assert answer["valid"]
        assert answer["warnings"] == [
            'policy:2: budgets[1].limit_usd: is never reached: budget "a" (policy:2) counts the same calls and '
            "ends at $1"
        ]


def test_a_data_directory_that_others_can_read_is_told(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url, HEALTHY), tmp_path) as gateway:
        (gateway.data_dir / "admin.token").write_text("x")
        (gateway.data_dir / "admin.token").chmod(0o644)
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["security.files"]["status"] == "fail"
        assert found["security.files"]["seen"] == "admin.token has mode 0644"
        (gateway.data_dir / "admin.token").chmod(0o600)
        gateway.data_dir.chmod(0o755)
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["security.files"]["status"] == "warn"
        assert stat.S_IMODE(os.stat(gateway.data_dir).st_mode) == 0o755


@pytest.mark.slow
def test_a_ledger_that_is_locked_fails(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url, HEALTHY), tmp_path) as gateway:
        with contextlib.closing(sqlite3.connect(gateway.data_dir / "ledger.db")) as other:
            other.execute("BEGIN IMMEDIATE")
            for _ in range(3):
                # On a busy machine the look may take too long, and says so.
                found = looked_at(run(gateway, "doctor", "--json", check=1))
                if found["ledger.writable"]["status"] == "fail":
                    break
            other.rollback()
        assert found["ledger.writable"]["status"] == "fail"
        assert status(found, "guards.kill", "guards.budget", "policy.healthy") == ["ok"] * 3
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["ledger.writable"]["status"] == "ok"


def test_only_operators_may_look(gateway: ThreadedGateway, admin: Admin, roles: Roles) -> None:
    assert admin.call("GET", "/doctor", token=roles.viewer).status == 403
    assert admin.call("GET", "/doctor", token=roles.operator).status == 200
    assert admin.call("GET", "/doctor/worker", token=roles.viewer).body["ahead_ms"] is None
    told = run(gateway, "doctor", "--json", check=1, GATEWAY_ADMIN_TOKEN=roles.viewer)
    assert "role operator" in looked_at(told)["gateway.reachable"]["seen"]
    told = run(gateway, "doctor", "--json", check=1, GATEWAY_ADMIN_TOKEN="wrong")
    assert "missing or wrong" in looked_at(told)["gateway.reachable"]["seen"]


# -- Redis -------------------------------------------------------------------------------------------------


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def environment(redis: RedisServer, tmp_path: Path, **more: str) -> dict[str, str]:
    """What a gateway on this Redis, which is not running, would be started with."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(base_policy("http://127.0.0.1:9/v1", HEALTHY))
    return {
        "GATEWAY_URL": f"http://127.0.0.1:{free_port()}",
        "GATEWAY_ADMIN_TOKEN": ADMIN_TOKEN,
        "GATEWAY_SECRET_KEY": SECRET_KEY,
        "GATEWAY_STORE_URL": redis.url,
        "GATEWAY_POLICY": str(policy),
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        **more,
    }


@needs_redis
def test_a_redis_with_bad_settings_is_told_without_a_gateway(redis: RedisServer, tmp_path: Path) -> None:
    client = redis.client()
    client.config_set("maxmemory-policy", "allkeys-lru")
    client.config_set("maxmemory", "2mb")
    found = looked_at(run(None, "doctor", "--json", check=1, **environment(redis, tmp_path)))
    assert found["gateway.reachable"]["status"] == "fail"
    assert status(found, "store.eviction", "store.persistence") == ["fail", "fail"]
    assert "(maxmemory)" in found["store.memory"]["seen"]
    assert found["store.eviction"]["seen"] == "maxmemory-policy allkeys-lru"
    assert found["store.persistence"]["seen"] == "nothing is written to disk"
    assert status(found, "store.answers", "store.version", "store.rights", "store.role") == ["ok"] * 4
    assert status(found, "clock.store", "policy.healthy", "policy.limits") == ["ok"] * 3
    assert found["store.keys"]["status"] == "warn"
    assert found["guards.kill"]["status"] == "skip"
    assert found["ledger.hosts"]["status"] == "warn"

    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "0")
    client.config_set("appendonly", "yes")
    found = looked_at(run(None, "doctor", "--json", check=1, **environment(redis, tmp_path)))
    assert status(found, "store.eviction", "store.persistence", "store.memory") == ["ok"] * 3
    client.config_set("appendonly", "no")
    client.config_set("save", "900 1")
    found = looked_at(run(None, "doctor", "--json", check=1, **environment(redis, tmp_path)))
    assert found["store.persistence"] | {"docs": ""} == {
        "id": "store.persistence",
        "status": "warn",
        "seen": "snapshots alone (save 900 1)",
        "todo": "Set appendonly yes: what was spent since the last snapshot is lost with the process.",
        "docs": "",
    }
    assert not [key for key in client.scan_iter() if b"doctor" in key]


@needs_redis
def test_missing_rights_a_replica_and_a_dead_redis_are_told(redis: RedisServer, tmp_path: Path) -> None:
    client = redis.client()
    rights = ["+@all", "-eval", "-evalsha", "-publish"]
    client.acl_setuser(
        "gw", enabled=True, passwords=["+pw"], keys=["{gw}:*"], channels=["*"], commands=rights
    )
    url = f"redis://gw:pw@127.0.0.1:{redis.port}/0"
    found = looked_at(
        run(None, "doctor", "--json", check=1, **environment(redis, tmp_path, GATEWAY_STORE_URL=url))
    )
    assert found["store.rights"]["status"] == "fail"
    assert found["store.rights"]["seen"] == "refused: EVAL, EVALSHA, PUBLISH, GET kill:…, DEL kill:…"
    assert "pw" not in json.dumps(found)
    client.replicaof("127.0.0.1", free_port())
    found = looked_at(run(None, "doctor", "--json", check=1, **environment(redis, tmp_path)))
    assert found["store.role"]["status"] == "fail"
    redis.kill()
    found = looked_at(
        run(None, "doctor", "--json", check=1, **environment(redis, tmp_path, GATEWAY_STORE_URL=url))
    )
    assert found["store.answers"]["status"] == "fail"
    assert "pw@" not in json.dumps(found)
    assert found["store.eviction"]["status"] == "skip"


@needs_redis
def test_a_redis_that_turns_bad_is_seen_through_its_gateway(
    provider: ProviderServer, redis: RedisServer, tmp_path: Path
) -> None:
    redis.client().config_set("appendonly", "yes")
    with threaded_gateway(
        base_policy(provider.base_url, HEALTHY), tmp_path, store_url=redis.patient_url
    ) as gateway:
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert status(found, "clock.store", "store.keys", "guards.budget", "guards.kill") == ["ok"] * 4
        assert status(found, "store.eviction", "store.persistence") == ["ok", "ok"]
        assert found["store.latency"]["seen"].endswith(" ms for a round trip")
        redis.client().config_set("maxmemory-policy", "volatile-lru")
        redis.client().config_set("appendonly", "no")
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert status(found, "store.eviction", "store.persistence") == ["fail", "fail"]
        assert gateway.admin("GET", "/runs")["data"] == []
        # What is left of its drills ends by itself.
        left = [key for key in redis.client().scan_iter() if b"doctor" in key]
        assert all(0 < redis.client().pttl(key) <= 3 * 86_400_000 for key in left)


@needs_redis
@pytest.mark.slow
def test_two_workers_on_one_redis_agree(provider: ProviderServer, redis: RedisServer, tmp_path: Path) -> None:
    redis.client().config_set("appendonly", "yes")
    with process_gateway(
        base_policy(provider.base_url, HEALTHY), tmp_path, store_url=redis.patient_url, workers="2"
    ) as gateway:

        def agreed() -> dict[str, Any] | None:
            found = looked_at(run(gateway, "doctor", "--json", check=1))
            return found if found["guards.kill"]["seen"].startswith("2 obeyed within ") else None

        # A worker that has just begun, on a busy machine, may obey late.
        found = wait_until(agreed, 60, what="both workers' obedience") or {}
        assert found["policy.workers"]["status"] == "ok"
        assert found["policy.workers"]["seen"].endswith(" in 2 workers")
        assert status(found, "clock.store", "store.keys", "guards.budget", "store.kind") == ["ok"] * 4
        assert found["store.kind"]["seen"] == "Redis, 2 workers here"
        # A Redis that turns bad under a gateway is seen through it.
        redis.client().config_set("maxmemory-policy", "volatile-lru")
        found = looked_at(run(gateway, "doctor", "--json", check=1))
        assert found["store.eviction"]["status"] == "fail"
        redis.stall()
        try:
            found = looked_at(run(gateway, "doctor", "--json", check=1))
        finally:
            redis.resume()
        assert found["store.answers"]["status"] == "fail"
        assert status(found, "guards.kill", "guards.budget") == ["skip", "skip"]


# -- without a gateway ---------------------------------------------------------------------------------------


def test_without_a_gateway_settings_policy_and_files_are_looked_at(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\nbudgets: [{name: b, per: rum, limit_usd: ten}]\n")
    (tmp_path / "data").write_text("this is no directory")
    common = {
        "GATEWAY_URL": url,
        "GATEWAY_POLICY": str(policy),
        "GATEWAY_DATA_DIR": str(tmp_path / "data"),
        "GATEWAY_ADMIN_TOKEN": "changeme",
        "GATEWAY_SECRET_KEY": "password123",
    }
    told = run(None, "doctor", check=1, **common)
    assert f"FAIL  gateway.reachable       No gateway answers at {url}" in told
    found = looked_at(run(None, "doctor", "--json", check=1, **common))
    assert found["policy.healthy"]["seen"].startswith('policy.yaml:2: budgets[0].per: got "rum"')
    assert found["policy.healthy"]["seen"].endswith("(and 1 more)")
    assert status(found, "ledger.writable", "security.token", "security.secret") == ["fail"] * 3
    assert "changeme" not in told
    assert "password123" not in told
    assert found["guards.kill"]["seen"] == "no gateway answers"

    found = looked_at(run(None, "doctor", "--json", check=1, **common, GATEWAY_WORKERS="2"))
    assert found["gateway.settings"]["status"] == "fail"
    assert "needs a shared store" in found["gateway.settings"]["seen"]
    url = "redis+sentinel://user:s3cret@host:1/0"
    told = run(None, "doctor", check=1, **common, GATEWAY_STORE_URL=url)
    assert "the master's name is missing" in told
    assert "s3cret" not in told


def test_providers_without_a_key_are_told(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text(
        "version: 1\nproviders: {openai: {dialect: openai, base_url: https://api.openai.com/v1, api_key: '${K}'}}\n"
        "models: {gpt-4o: {provider: openai}}\n"
    )
    common = {"GATEWAY_URL": f"http://127.0.0.1:{free_port()}", "GATEWAY_POLICY": str(policy)}
    common |= {"GATEWAY_DATA_DIR": str(tmp_path), "OPENAI_API_KEY": "x" * 20}
    found = looked_at(run(None, "doctor", "--json", check=1, **common))
    assert found["providers.keys"]["status"] == "fail"
    assert found["providers.keys"]["seen"] == "none can be used (openai: K is unset)"
    found = looked_at(run(None, "doctor", "--json", check=1, **common, K="k" * 20))
    assert found["providers.keys"]["status"] == "ok"
