"""What is recorded of real steps, for how long, and how quickly it is played again."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.replay.recorder import DAY_MS
from gateway.stores.ledger_recordings import Recording
from gateway.testing import ProviderServer
from tests.integration.backtest.scene import play, policy_of, try_out
from tests.support.gateway import ThreadedGateway, base_policy, threaded_gateway

KEPT = "recording: {content: true, match: {key: alice}}\n"
HANDED_ON = "passthrough: [{path: /v1/audio/speech, provider: upstream, price: {request_usd: 0.015}}]\n"


def records(gateway: ThreadedGateway) -> list[Recording]:
    """Everything that is kept."""

    async def read() -> list[Recording]:
        await gateway.worker.drain.flush()
        await gateway.worker.recorder.flush()
        ledger = gateway.worker.ledger
        runs, _ = await ledger.recorded_runs(0, limit=1000)
        return [record for run in runs for record in await ledger.recordings(run, gateway.worker.clock())]

    found: list[Recording] = gateway.run(read)
    return found


def test_what_is_recorded_of_each_surface(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url, KEPT + HANDED_ON), tmp_path) as gateway:
        for surface in ("chat", "responses", "messages"):
            play(gateway, surface, model="sim/looker", steps=2)
            play(gateway, surface, model="sim/looker", steps=1, stream=True)
        gateway.post({"model": "sim/looker", "input": "some text"}, path="/v1/embeddings")
        status, _, _ = gateway.post(
            {"model": "tts", "input": "Hello", "voice": "alloy"}, path="/v1/audio/speech"
        )
        play(gateway, model="sim/looker", steps=1, key="gk-bob-0123456789")
        kept = records(gateway)
        same = try_out(gateway, policy_of(gateway))
        dearer = try_out(gateway, policy_of(gateway).replace("request_usd: 0.015", "request_usd: 0.025"))
        without = try_out(gateway, policy_of(gateway).replace(HANDED_ON, ""))
    assert status == 200
    assert [record.kind for record in kept].count("request") == 10
    assert [record.kind for record in kept].count("answer") == 10
    assert same["changed"] == []
    assert (dearer["changed"], dearer["saved_usd"]) == ([], "-0.010000000")
    assert [(each["rule"], each["now"]) for each in without["changed"]] == [("unknown_route", "refuse")]


def test_what_has_expired_is_deleted_and_read_no_more(provider: ProviderServer, tmp_path: Path) -> None:
    with threaded_gateway(base_policy(provider.base_url, KEPT), tmp_path) as gateway:
        play(gateway, model="sim/looker", steps=2)
        kept = records(gateway)
        ledger, later = gateway.worker.ledger, kept[0].at + 30 * DAY_MS
        assert len(kept) == 4
        assert len(gateway.run(lambda: ledger.recordings(kept[0].run, later - DAY_MS))) == 4
        assert gateway.run(lambda: ledger.recordings(kept[0].run, later + DAY_MS)) == []
        assert gateway.run(lambda: ledger.forget_recordings(before=later - DAY_MS)) == 0
        assert gateway.run(lambda: ledger.forget_recordings(before=later + DAY_MS)) == 4
        play(gateway, model="sim/looker", steps=2)
        assert gateway.run(lambda: ledger.forget_recordings(runs=[records(gateway)[0].run, "run_other"])) == 4


def test_a_ledger_that_fails_costs_recordings_and_no_step(
    provider: ProviderServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with threaded_gateway(base_policy(provider.base_url, KEPT), tmp_path) as gateway:

        async def broken(_records: object) -> None:
            raise ValueError("a value that no database takes")

        monkeypatch.setattr(gateway.worker.ledger, "add_recordings", broken)
        assert [said.status for said in play(gateway, model="sim/looker", steps=3)] == [200] * 3
        assert records(gateway) == []
        assert len(gateway.attempts()) == 3


@pytest.mark.slow
@pytest.mark.parametrize("kept", [True, False], ids=["content", "facts"])
def test_two_thousand_steps_are_played_in_seconds(
    kept: bool, provider: ProviderServer, tmp_path: Path
) -> None:
    recording = "recording: {content: true}\n" if kept else ""
    limits = (
        "budgets: [{name: run, per: run, limit_usd: 1}, {name: day, per: user, window: 1d, limit_usd: 99}]\n"
    )
    with threaded_gateway(base_policy(provider.base_url, recording + limits), tmp_path) as gateway:
        for _ in range(200):
            play(gateway, model="sim/looker", steps=10, after_end=0)
        result = try_out(gateway, policy_of(gateway))
    assert (result["steps"], result["runs"], result["changed"]) == (2000, 200, [])
    # A machine that does nothing else takes a tenth of it.
    assert result["seconds"] < 30
