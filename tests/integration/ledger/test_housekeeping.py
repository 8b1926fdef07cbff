"""What a worker tidies up in its ledger."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from gateway import app
from tests.integration.conftest import MakeGateway
from tests.support.gateway import wait_until


def test_counters_of_windows_long_past_are_dropped(
    make_gateway: MakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "FORGET_EVERY_S", 0.0)
    budgets = (
        "budgets: [{name: hour, per: user, window: 1h, limit_usd: 5}, {name: ever, per: user, limit_usd: 5}]"
    )
    gateway = make_gateway(budgets)
    body = {"model": "sim/echo", "messages": [{"role": "user", "content": "Hello."}]}
    assert gateway.post(body, path="/v1/chat/completions")[0] == 200

    def counters() -> list[int]:
        with closing(sqlite3.connect(gateway.worker.settings.data_dir / "ledger.db")) as db:
            return [expires_at for (expires_at,) in db.execute("SELECT expires_at FROM gw_counters")]

    wait_until(lambda: len(counters()) == 2, what="the ledger")
    now = gateway.worker.clock
    gateway.worker.clock = lambda: now() + 6 * 86_400_000
    assert len(counters()) == 2
    gateway.worker.clock = lambda: now() + 9 * 86_400_000
    wait_until(lambda: len(counters()) == 1, what="the counter of the hour to be dropped")
    assert counters()[0] > now()
    assert gateway.run(gateway.worker.ledger.verify) == []
